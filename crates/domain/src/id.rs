//! Identifiers: one type per kind of thing, so that none is passed for another.
//!
//! Invariant: a value of these types is well formed; parsing is the only way in from text.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id!(
    /// An agent, for as long as its installation exists.
    AgentId
);
uuid_id!(
    /// One event of the log.
    EventId
);
uuid_id!(
    /// One attempt to change the store; see [`crate::ports::ledger`].
    CommitId
);
uuid_id!(
    /// One row of an agent's history.
    HistoryId
);
uuid_id!(
    /// An operator's token.
    TokenId
);
uuid_id!(
    /// One entry of the audit.
    AuditId
);
uuid_id!(
    /// An installation: everything that one key and one store belong to.
    InstallationId
);
uuid_id!(
    /// A task.
    TaskId
);
uuid_id!(
    /// A message in an agent's mailbox.
    MailId
);
uuid_id!(
    /// An entry of the list of domains.
    DomainId
);
uuid_id!(
    /// A wish to have a domain on the list.
    DomainRequestId
);

impl CommitId {
    /// The id of a commit that may be asked for again: the same parts give the same id, so that it counts once.
    /// A version 8 UUID (RFC 9562) of SHA-256 over the parts, each with its length.
    #[must_use]
    pub fn derived(parts: &[&[u8]]) -> Self {
        use sha2::{Digest as _, Sha256};
        let mut hash = Sha256::new();
        hash.update(b"aito commit v1");
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        Self(Uuid::new_v8(bytes))
    }
}

/// The number of an agent's container start. 0 means never started; only the present (highest) one speaks
/// for the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The incarnation that the next start takes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often an aggregate was written: 1 after the commit that created it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// The version that the next commit writes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// An agent's type: a slug such as `ceo`, the name by which everybody calls the agent.
///
/// 1 to 32 characters of `a-z`, `0-9` and `-`, beginning with a letter and not ending with `-`; not one of the
/// words by which messages address groups ([`AgentType::RESERVED`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentType(String);

impl AgentType {
    /// Names that address groups or others than agents (HTTP contract, Conventions; wire facts, section a).
    pub const RESERVED: [&str; 7] = ["all", "head", "clevel", "orchestrator", "human", "system", "worker"];

    /// The types that exist from the first start of an installation (HTTP contract, Agents).
    pub const BUILT_IN: [&str; 7] = ["ceo", "cmo", "cto", "cfo", "coo", "cco", "dao"];

    /// The slug itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no [`AgentType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAgentType {
    /// Wrong length or characters.
    #[error("\"{0}\" is not an agent type: 1 to 32 of a-z, 0-9 and -, first a letter, last no -")]
    Form(String),
    /// A word of [`AgentType::RESERVED`].
    #[error("\"{0}\" cannot be an agent type: the word addresses a group")]
    Reserved(String),
}

impl FromStr for AgentType {
    type Err = BadAgentType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !form {
            return Err(BadAgentType::Form(text.chars().take(64).collect()));
        }
        if Self::RESERVED.contains(&text) {
            return Err(BadAgentType::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for AgentType {
    type Error = BadAgentType;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AgentType> for String {
    fn from(value: AgentType) -> Self {
        value.0
    }
}

impl fmt::Display for AgentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_commit_ids_depend_on_every_part_and_its_place() {
        let id = CommitId::derived(&[b"ab", b"c"]);
        assert_eq!(id, CommitId::derived(&[b"ab", b"c"]));
        for other in [
            CommitId::derived(&[b"a", b"bc"]),
            CommitId::derived(&[b"abc"]),
            CommitId::derived(&[b"c", b"ab"]),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn agent_types_are_slugs() {
        for good in AgentType::BUILT_IN.iter().copied().chain(["a", "risk-officer", "x9"]) {
            assert_eq!(good.parse::<AgentType>().map(String::from), Ok(good.to_owned()));
        }
        let long = "a".repeat(33);
        for bad in ["", "CEO", "9a", "a_b", "a-", "-a", "ä", "a b", "../x", long.as_str()] {
            assert!(matches!(bad.parse::<AgentType>(), Err(BadAgentType::Form(_))), "{bad}");
        }
        for word in AgentType::RESERVED {
            assert_eq!(word.parse::<AgentType>(), Err(BadAgentType::Reserved(word.to_owned())));
        }
    }
}
