//! Operators' tokens: `aito_<id>_<secret>`, shown once, known afterwards by a hash only.
//!
//! Invariants: the secret has 256 random bits and is compared in constant time; a revoked or expired token is
//! nobody's; after a rotation the secret before stays good for the overlap and no longer; a principal holds at
//! most one seat.

use std::{fmt, str::FromStr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{
    access::Grants,
    event::{Payload, TokenCreated, TokenEnded, TokenRotated},
    id::{TokenId, Version},
    time::{Timestamp, after},
};

/// How every token begins.
pub const PREFIX: &str = "aito_";
/// The most characters of a token's name.
pub const MAX_NAME: usize = 64;
/// The longest that the secret before may stay good after a rotation.
pub const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);

/// SHA-256 of a token's secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// Of 256 random bits.
    #[must_use]
    pub fn of(secret: &[u8; 32]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// What tells it from others of its token, without being of use for anything else.
    #[must_use]
    pub fn tag(&self) -> SecretTag {
        let mut tag = [0; 8];
        tag.copy_from_slice(
            &Sha256::new_with_prefix(b"aito secret tag v1").chain_update(self.0).finalize()[..8],
        );
        SecretTag(u64::from_be_bytes(tag))
    }

    /// In constant time.
    fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// Says which of its secrets a token was shown with, long after that; proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretTag(u64);

/// A token as its holder sends it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenText {
    /// Which token.
    pub id: TokenId,
    /// 256 random bits.
    secret: [u8; 32],
}

impl TokenText {
    /// A token's text from its id and 256 random bits.
    #[must_use]
    pub fn new(id: TokenId, secret: [u8; 32]) -> Self {
        Self { id, secret }
    }

    /// What is stored of the secret.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }

    /// The whole text, to be shown once.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}_{}", self.id.0.simple(), URL_SAFE_NO_PAD.encode(self.secret))
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenText({})", self.id)
    }
}

/// A text that is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a token")]
pub struct BadToken;

impl FromStr for TokenText {
    type Err = BadToken;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Exactly: prefix, 32 hexadecimal digits, 43 characters of base 64 for 32 bytes.
        let rest = text.strip_prefix(PREFIX).filter(|rest| rest.len() == 32 + 1 + 43).ok_or(BadToken)?;
        let (id, secret) = rest.split_at_checked(32).ok_or(BadToken)?;
        let secret =
            URL_SAFE_NO_PAD.decode(secret.strip_prefix('_').ok_or(BadToken)?).map_err(|_| BadToken)?;
        Ok(Self { id: id.parse().map_err(|_| BadToken)?, secret: secret.try_into().map_err(|_| BadToken)? })
    }
}

/// A secret that a rotation replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retiring {
    /// Its hash.
    pub hash: SecretHash,
    /// Until when it is good.
    pub until: Timestamp,
}

/// A token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Which.
    pub id: TokenId,
    /// How often it was written.
    pub version: Version,
    /// What people call it; no two that are not revoked have one name.
    pub name: String,
    /// What it may.
    pub grants: Grants,
    /// Of the present secret.
    pub hash: SecretHash,
    /// The secret before, while the overlap of the last rotation lasts.
    pub retiring: Option<Retiring>,
    /// Who made it, as an actor's text.
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the present secret was made.
    pub rotated_at: Option<Timestamp>,
    /// From when on it is nobody's; `None`: never by itself.
    pub expires_at: Option<Timestamp>,
    /// Since when it is nobody's, when somebody said so.
    pub revoked_at: Option<Timestamp>,
}

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another secret.
    #[error("the secret is another")]
    Secret,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Somebody ended it.
    #[error("the token was revoked")]
    Revoked,
}

/// A token after a change, with what to tell of it.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Transition {
    /// The state after.
    pub token: Token,
    /// In order; empty when nothing changed.
    pub events: Vec<Payload>,
}

impl Token {
    /// A new token.
    pub fn issue(
        text: &TokenText,
        name: String,
        grants: Grants,
        created_by: String,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Transition {
        let token = Self {
            id: text.id,
            version: Version(0),
            name,
            grants,
            hash: text.hash(),
            retiring: None,
            created_by,
            created_at: now,
            rotated_at: None,
            expires_at,
            revoked_at: None,
        };
        let told = Payload::TokenCreated(TokenCreated {
            token_id: token.id,
            name: token.name.clone(),
            roles: token.grants.roles.iter().copied().collect(),
            seat: token.grants.seat.clone(),
            expires_at: token.expires_at,
        });
        Transition { token, events: vec![told] }
    }

    /// Whether the token counts at all at `now`.
    ///
    /// # Errors
    /// [`Refused::Revoked`] or [`Refused::Expired`].
    pub fn stands(&self, now: Timestamp) -> Result<(), Refused> {
        if self.revoked_at.is_some() {
            return Err(Refused::Revoked);
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(Refused::Expired);
        }
        Ok(())
    }

    /// Whether a text with this id is this token.
    ///
    /// # Errors
    /// [`Refused`]; the secret is compared first, so that who does not know it learns nothing of the rest.
    pub fn accepts(&self, text: &TokenText, now: Timestamp) -> Result<(), Refused> {
        let given = text.hash();
        let present = self.hash.matches(&given);
        let before = self.retiring.as_ref().is_some_and(|old| now < old.until && old.hash.matches(&given));
        if !(present || before) {
            return Err(Refused::Secret);
        }
        self.stands(now)
    }

    /// Until when the secret with this tag, which was accepted before, is good without a change; `None`: for good.
    ///
    /// # Errors
    /// [`Refused`]: it is not good any more.
    pub fn good_until(&self, secret: SecretTag, now: Timestamp) -> Result<Option<Timestamp>, Refused> {
        self.stands(now)?;
        if self.hash.tag() == secret {
            return Ok(self.expires_at);
        }
        let retiring = self.retiring.as_ref().filter(|old| now < old.until && old.hash.tag() == secret);
        let until = retiring.ok_or(Refused::Secret)?.until;
        Ok(Some(self.expires_at.map_or(until, |expires_at| expires_at.min(until))))
    }

    /// Takes a new secret; the present one stays good for `overlap` (at most [`MAX_OVERLAP`]).
    ///
    /// # Errors
    /// [`Refused::Revoked`] or [`Refused::Expired`]: there is nothing to go on with.
    pub fn rotate(self, hash: SecretHash, overlap: Duration, now: Timestamp) -> Result<Transition, Refused> {
        self.stands(now)?;
        let until = after(now, overlap.min(MAX_OVERLAP));
        let retiring = (!overlap.is_zero()).then_some(Retiring { hash: self.hash, until });
        let told = Payload::TokenRotated(TokenRotated {
            token_id: self.id,
            name: self.name.clone(),
            old_until: retiring.as_ref().map_or(now, |old| old.until),
        });
        let token = Self { hash, retiring, rotated_at: Some(now), ..self };
        Ok(Transition { token, events: vec![told] })
    }

    /// Ends it; ended already is a success that changes nothing.
    pub fn revoke(self, now: Timestamp) -> Transition {
        if self.revoked_at.is_some() {
            return Transition { token: self, events: Vec::new() };
        }
        let told = Payload::TokenRevoked(TokenEnded { token_id: self.id, name: self.name.clone() });
        Transition { token: Self { revoked_at: Some(now), retiring: None, ..self }, events: vec![told] }
    }
}

/// Whether a text may name a token: 1 to [`MAX_NAME`] of letters, digits, space and `._-`, no space at the ends.
/// A name stands in events and audit as `token:<name>`, so it has nothing in it that could be taken for more.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.trim() == text
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b" ._-".contains(&b))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use proptest::{prelude::*, proptest};
    use uuid::Uuid;

    use super::*;
    use crate::{access::Role, tests::cases, time::millis};

    fn text(secret: u8) -> TokenText {
        TokenText::new(TokenId(Uuid::from_u128(7)), [secret; 32])
    }

    fn token() -> Token {
        let grants = Grants::of([Role::Viewer]);
        Token::issue(&text(1), "ops".into(), grants, "system".into(), Some(millis(1000)), millis(0)).token
    }

    #[test]
    fn a_text_is_read_back_and_nothing_else_is() {
        let whole = text(1).expose();
        assert_eq!(whole.parse(), Ok(text(1)));
        assert!(!format!("{:?}", text(1)).contains(&whole[40..]));
        let bad =
            ["", "aito_", "Bearer x", "aito__", &whole[1..], &whole[..whole.len() - 1], &format!("{whole}A")];
        for bad in bad {
            assert_eq!(bad.parse::<TokenText>(), Err(BadToken), "{bad}");
        }
        assert_eq!(format!("aito_{}ä", "a".repeat(74)).parse::<TokenText>(), Err(BadToken));
    }

    proptest! {
        #![proptest_config(cases(200))]
        #[test]
        fn any_secret_survives_its_text(id in any::<u128>(), secret in any::<[u8; 32]>()) {
            let text = TokenText::new(TokenId(Uuid::from_u128(id)), secret);
            prop_assert_eq!(text.expose().parse::<TokenText>(), Ok(text));
        }

        #[test]
        fn no_text_panics(text in ".{0,100}") {
            let _ = text.parse::<TokenText>();
        }
    }

    #[test]
    fn only_the_secret_opens_and_only_in_time() {
        let token = token();
        assert_eq!(token.accepts(&text(1), millis(999)), Ok(()));
        assert_eq!(token.accepts(&text(1), millis(1000)), Err(Refused::Expired));
        assert_eq!(token.accepts(&text(2), millis(1000)), Err(Refused::Secret));
        let revoked = token.revoke(millis(5)).token;
        assert_eq!(revoked.accepts(&text(1), millis(6)), Err(Refused::Revoked));
        assert!(revoked.revoke(millis(7)).events.is_empty());
    }

    #[test]
    fn a_rotation_overlaps_as_long_as_it_says() {
        let token = token().rotate(text(2).hash(), Duration::from_millis(100), millis(10)).unwrap().token;
        assert_eq!(token.accepts(&text(1), millis(109)), Ok(()));
        assert_eq!(token.good_until(text(1).hash().tag(), millis(109)), Ok(Some(millis(110))));
        assert_eq!(token.good_until(text(1).hash().tag(), millis(110)), Err(Refused::Secret));
        assert_eq!(token.accepts(&text(1), millis(110)), Err(Refused::Secret));
        assert_eq!(token.accepts(&text(2), millis(110)), Ok(()));
        assert_eq!(token.good_until(text(2).hash().tag(), millis(110)), Ok(Some(millis(1000))));
        assert_eq!(token.good_until(text(2).hash().tag(), millis(1000)), Err(Refused::Expired));
        let twice = token.rotate(text(3).hash(), Duration::ZERO, millis(20)).unwrap().token;
        for old in [1, 2] {
            assert_eq!(twice.accepts(&text(old), millis(20)), Err(Refused::Secret));
        }
        assert!(twice.revoke(millis(21)).token.rotate(text(4).hash(), Duration::ZERO, millis(22)).is_err());
    }

    #[test]
    fn names_are_plain() {
        for good in ["a", "ops laptop", "ci.2026-11_x"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(65);
        for bad in ["", " a", "a ", "a\n", "a/b", "a:b", "ä", "\u{202e}a", long.as_str()] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
