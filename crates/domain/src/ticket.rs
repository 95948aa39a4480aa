//! Tickets: a credential for one WebSocket, put into its address by browsers, which can set no header there.
//!
//! Invariants: any server of the installation can make and check one, none is stored; it says who asked for it
//! and ends soon; that it counts once is the ledger's to see (its number makes a commit id).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::{
    access::Grants,
    id::{AgentId, CommitId, Incarnation, InstallationId, TokenId},
    installation::{Epoch, InstallationKey},
    time::{Timestamp, millis},
    token::SecretTag,
};

/// How every ticket begins.
pub const PREFIX: &str = "aito-ticket";
/// How long a ticket is good.
pub const LIFE: Duration = Duration::from_secs(30);

/// Who asked for a ticket. Grants of a token and the present incarnation are looked up again when it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// Somebody on a listener that asks for no credential; good on such a one only.
    Anonymous,
    /// The holder of a token, by the secret that was shown.
    Token(TokenId, SecretTag),
    /// Somebody of an identity provider.
    External {
        /// Whom.
        subject: String,
        /// What they may.
        grants: Grants,
        /// When the provider's word ends, in milliseconds since 1970.
        until: i64,
    },
    /// An incarnation of an agent.
    Agent(AgentId, Incarnation),
}

/// A ticket's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Tells it from every other one.
    pub number: Uuid,
    /// Until when it can be used, in milliseconds since 1970.
    pub until: i64,
    /// For whom.
    pub holder: Holder,
}

impl Ticket {
    /// Names the commit by which it counts once.
    #[must_use]
    pub fn commit_id(&self) -> CommitId {
        CommitId::derived(&[b"ticket", self.number.as_bytes()])
    }
}

/// Makes and checks tickets.
#[derive(Clone)]
pub struct Tickets {
    mac: Hmac<Sha256>,
}

impl Tickets {
    /// For one installation in one epoch.
    #[must_use]
    pub fn new(key: &InstallationKey, installation: InstallationId, epoch: &Epoch) -> Self {
        let subkey = key.subkey("aito ticket v1");
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&subkey) else {
            unreachable!("HMAC takes keys of any length");
        };
        for part in [installation.0.as_bytes().as_slice(), epoch.as_str().as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Self { mac }
    }

    /// The text `aito-ticket.<content>.<code>`.
    #[must_use]
    pub fn mint(&self, ticket: &Ticket) -> String {
        // Strings, numbers and sets of words: turning them into JSON cannot fail.
        let content = serde_json::to_vec(ticket).unwrap_or_default();
        let code = self.code(&content).finalize().into_bytes();
        format!("{PREFIX}.{}.{}", URL_SAFE_NO_PAD.encode(content), URL_SAFE_NO_PAD.encode(code))
    }

    /// The ticket, if this installation made it in this epoch and its time is not over.
    #[must_use]
    pub fn verify(&self, text: &str, now: Timestamp) -> Option<Ticket> {
        if text.len() > 4096 {
            return None;
        }
        let mut parts = text.split('.');
        let (prefix, content, code) = (parts.next()?, parts.next()?, parts.next()?);
        if prefix != PREFIX || parts.next().is_some() {
            return None;
        }
        let content = URL_SAFE_NO_PAD.decode(content).ok()?;
        self.code(&content).verify_slice(&URL_SAFE_NO_PAD.decode(code).ok()?).ok()?;
        let ticket: Ticket = serde_json::from_slice(&content).ok()?;
        (now < millis(ticket.until)).then_some(ticket)
    }

    fn code(&self, content: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(content);
        mac
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use crate::{access::Role, token::SecretHash};

    fn tickets(key: u8) -> Tickets {
        let epoch = "abcd".parse().unwrap();
        Tickets::new(&InstallationKey::new([key; 32]), InstallationId(Uuid::from_u128(1)), &epoch)
    }

    #[test]
    fn a_ticket_is_good_for_a_while_and_nobody_else_makes_one() {
        let grants = Grants::of([Role::Viewer]);
        for holder in [
            Holder::Anonymous,
            Holder::Token(TokenId(Uuid::from_u128(3)), SecretHash([9; 32]).tag()),
            Holder::External { subject: "a".into(), grants, until: 7 },
            Holder::Agent(AgentId(Uuid::from_u128(4)), Incarnation(2)),
        ] {
            let ticket = Ticket { number: Uuid::from_u128(9), until: 1000, holder };
            let text = tickets(1).mint(&ticket);
            assert_eq!(tickets(1).verify(&text, millis(999)), Some(ticket));
            assert_eq!(tickets(1).verify(&text, millis(1000)), None);
            assert_eq!(tickets(2).verify(&text, millis(0)), None);
            assert_eq!(tickets(1).verify(&format!("{text}.x"), millis(0)), None);
            let changed = text.replacen("aito-ticket.e", "aito-ticket.f", 1);
            assert_eq!(tickets(1).verify(&changed, millis(0)), None);
        }
    }
}
