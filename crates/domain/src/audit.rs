//! The audit: who did what to which object, from where, with which outcome; sealed into a chain of hashes.
//!
//! Invariants: an entry's seal covers all its fields, each with its length, its number and the seal before; so
//! a sealed entry that is changed, removed or put in shows, unless everything after it is made anew as well,
//! against which seals that were kept elsewhere help. A checkpoint is a seal signed by the installation.

use std::{borrow::Cow, fmt};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    display::{Sink, display_safe},
    id::AuditId,
    installation::InstallationKey,
    time::Timestamp,
};

/// The most bytes of a field of an entry; longer ones are cut when the entry is made, before characters that act
/// are written out.
pub const MAX_FIELD: usize = 512;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; the entry is part of the same commit.
    Done,
    /// It was a success that changed nothing.
    Unchanged,
    /// The caller may not, or asked for something that cannot be.
    Refused,
    /// It could not be done, or not to its end.
    Failed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Done, Self::Unchanged, Self::Refused, Self::Failed];

    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its id; v7.
    pub id: AuditId,
    /// When.
    pub at: Timestamp,
    /// Who: an actor's text, or `nobody`.
    pub actor: String,
    /// By which credential: `token/<id>`, `agent/<id>/<incarnation>`, `jwt/<subject>`, `none`.
    pub credential: String,
    /// What: [`crate::access::Operation::as_str`], or the name of a command on the machine itself.
    pub operation: String,
    /// On what, such as `/agents/ceo/start`.
    pub object: String,
    /// From where: an address, `unix`, or `local` for a command.
    pub source: String,
    /// The request's id; empty where there was none.
    pub request_id: String,
    /// What became of it.
    pub outcome: Outcome,
    /// More of it in a few words, such as `403: it lacks the role operator`; may be empty.
    pub detail: String,
    /// How many like it this entry stands for; refused attempts that come in numbers are told once.
    pub times: u64,
}

impl AuditEntry {
    /// With every text of a bounded length and without characters that act instead of being seen.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        for field in [
            &mut self.actor,
            &mut self.credential,
            &mut self.operation,
            &mut self.object,
            &mut self.source,
            &mut self.request_id,
            &mut self.detail,
        ] {
            if field.len() > MAX_FIELD {
                field.truncate(field.floor_char_boundary(MAX_FIELD));
            }
            if let Cow::Owned(safe) = display_safe(field, Sink::Log) {
                *field = safe;
            }
        }
        self
    }
}

/// SHA-256 over an entry and everything before it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seal(pub [u8; 32]);

impl Seal {
    /// Before the first entry.
    pub const NONE: Self = Self([0; 32]);

    /// Of the entry with the number `n` after this seal.
    #[must_use]
    pub fn then(self, n: u64, entry: &AuditEntry) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"aito audit v1");
        hash.update(self.0);
        hash.update(n.to_be_bytes());
        hash.update(entry.id.0.as_bytes());
        hash.update(entry.at.timestamp_millis().to_be_bytes());
        hash.update(entry.times.to_be_bytes());
        for field in [
            entry.actor.as_str(),
            &entry.credential,
            &entry.operation,
            &entry.object,
            &entry.source,
            &entry.request_id,
            entry.outcome.as_str(),
            &entry.detail,
        ] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field.as_bytes());
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({self})")
    }
}

/// A text that is no [`Seal`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a seal is 64 hexadecimal digits")]
pub struct BadSeal;

impl std::str::FromStr for Seal {
    type Err = BadSeal;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(unhex(text).ok_or(BadSeal)?))
    }
}

/// The end of the chain: the last number given and its seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// 0: nothing is sealed yet.
    pub n: u64,
    /// [`Seal::NONE`] then.
    pub seal: Seal,
}

impl Head {
    /// Of an empty chain.
    pub const NONE: Self = Self { n: 0, seal: Seal::NONE };

    /// The head after one more entry.
    #[must_use]
    pub fn then(self, entry: &AuditEntry) -> Self {
        let n = self.n + 1;
        Self { n, seal: self.seal.then(n, entry) }
    }
}

/// An entry with its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its number; the first has 1, without holes.
    pub n: u64,
    /// Its seal.
    pub seal: Seal,
    /// What it covers.
    pub entry: AuditEntry,
}

/// A head that the installation has signed (Ed25519, RFC 8032).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// What is signed.
    pub head: Head,
    /// When it was.
    pub at: Timestamp,
    /// Over number, seal and time.
    pub signature: [u8; 64],
}

/// Signs heads, with a key of its own derived from the installation's.
pub struct AuditKey(SigningKey);

impl AuditKey {
    /// Of an installation.
    #[must_use]
    pub fn new(key: &InstallationKey) -> Self {
        Self(SigningKey::from_bytes(&key.subkey("aito audit checkpoint v1")))
    }

    /// What a signature is checked with, as 64 hexadecimal digits; may be shown.
    #[must_use]
    pub fn public(&self) -> String {
        Seal(self.0.verifying_key().to_bytes()).to_string()
    }

    /// Signs a head, as what the chain's end was at a time.
    #[must_use]
    pub fn sign(&self, head: Head, at: Timestamp) -> Checkpoint {
        Checkpoint { head, at, signature: self.0.sign(&signed(HEAD, head, at)).to_bytes() }
    }

    /// Signs a head, as what the chain begins after since a time. A head that was exported is none: who has one
    /// cannot make anything be forgotten with it.
    #[must_use]
    pub fn sign_start(&self, head: Head, at: Timestamp) -> Checkpoint {
        Checkpoint { head, at, signature: self.0.sign(&signed(START, head, at)).to_bytes() }
    }
}

impl Checkpoint {
    /// Whether the holder of the key to `public` ([`AuditKey::public`]) signed it as an end ([`AuditKey::sign`]).
    #[must_use]
    pub fn is_signed_by(&self, public: &str) -> bool {
        self.is_signed_as(HEAD, public)
    }

    /// Whether the holder of that key signed it as a beginning ([`AuditKey::sign_start`]).
    #[must_use]
    pub fn is_start_signed_by(&self, public: &str) -> bool {
        self.is_signed_as(START, public)
    }

    fn is_signed_as(&self, what: &[u8], public: &str) -> bool {
        let key = unhex(public).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        let signature = Signature::from_bytes(&self.signature);
        key.is_some_and(|key| key.verify_strict(&signed(what, self.head, self.at), &signature).is_ok())
    }

    /// The signature as 128 hexadecimal digits.
    #[must_use]
    pub fn signature_text(&self) -> String {
        self.signature.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

const HEAD: &[u8] = b"aito audit head v1";
const START: &[u8] = b"aito audit start v1";

fn signed(what: &[u8], head: Head, at: Timestamp) -> Vec<u8> {
    let mut bytes = what.to_vec();
    bytes.extend(head.n.to_be_bytes());
    bytes.extend(head.seal.0);
    bytes.extend(at.timestamp_millis().to_be_bytes());
    bytes
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads `2 * N` hexadecimal digits.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::time::millis;

    fn entry() -> AuditEntry {
        AuditEntry {
            id: AuditId(Uuid::from_u128(5)),
            at: millis(77),
            actor: "token:ops".into(),
            credential: "token/1".into(),
            operation: "agents.start".into(),
            object: "/agents/ceo/start".into(),
            source: "127.0.0.1".into(),
            request_id: "r".into(),
            outcome: Outcome::Done,
            detail: String::new(),
            times: 1,
        }
    }

    #[test]
    fn a_seal_covers_every_field_its_number_and_what_came_before() {
        let seal = Head::NONE.then(&entry()).seal;
        let same = |changed: AuditEntry| Head::NONE.then(&changed).seal == seal;
        assert!(same(entry()));
        let e = entry;
        for changed in [
            AuditEntry { id: AuditId(Uuid::from_u128(6)), ..e() },
            AuditEntry { at: millis(78), ..e() },
            AuditEntry { actor: "token:op".into(), credential: "stoken/1".into(), ..e() },
            AuditEntry { credential: "token/2".into(), ..e() },
            AuditEntry { operation: "agents.stop".into(), ..e() },
            AuditEntry { object: "/agents/cmo/start".into(), ..e() },
            AuditEntry { source: "127.0.0.2".into(), ..e() },
            AuditEntry { request_id: String::new(), ..e() },
            AuditEntry { outcome: Outcome::Failed, ..e() },
            AuditEntry { detail: "x".into(), ..e() },
            AuditEntry { times: 2, ..e() },
        ] {
            assert!(!same(changed.clone()), "{changed:?}");
        }
        assert_ne!(Seal::NONE.then(2, &entry()), seal);
        assert_ne!(Seal([1; 32]).then(1, &entry()), seal);
        assert_eq!(seal.to_string().parse(), Ok(seal));
    }

    #[test]
    fn only_the_installation_signs_and_only_what_it_signed_counts() {
        let (key, other) =
            (AuditKey::new(&InstallationKey::new([1; 32])), AuditKey::new(&InstallationKey::new([2; 32])));
        let head = Head::NONE.then(&entry());
        let signed = key.sign(head, millis(9));
        assert!(signed.is_signed_by(&key.public()));
        assert!(!signed.is_signed_by(&other.public()) && !signed.is_signed_by("x"));
        for forged in [
            Checkpoint { head: Head { n: 2, ..head }, ..signed },
            Checkpoint { head: Head { seal: Seal::NONE, ..head }, ..signed },
            Checkpoint { at: millis(10), ..signed },
        ] {
            assert!(!forged.is_signed_by(&key.public()));
        }
        let start = key.sign_start(head, millis(9));
        assert!(start.is_start_signed_by(&key.public()) && !start.is_start_signed_by(&other.public()));
        assert!(!signed.is_start_signed_by(&key.public()) && !start.is_signed_by(&key.public()));
        assert_eq!(unhex::<64>(&signed.signature_text()), Some(signed.signature));
    }

    #[test]
    fn fields_are_cut_at_whole_characters() {
        let long = AuditEntry { object: "ä".repeat(400), ..entry() }.bounded();
        assert!(long.object.len() <= MAX_FIELD && long.object.chars().all(|c| c == 'ä'));
        let acting = AuditEntry { object: "a\0b\u{1b}[2J".into(), ..entry() }.bounded();
        assert_eq!(acting.object, "a\\u{0}b\\u{1b}[2J");
    }
}
