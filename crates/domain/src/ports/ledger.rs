//! The one port that writes: a whole change in one commit.
//!
//! 1. All or nothing: a commit of which one part is refused leaves no trace of the others.
//! 2. A change names the version that it was read at ([`Version`] 0: it must not exist yet); when another is
//!    stored, the commit is refused as `Conflict`. Of changes made from one version exactly one succeeds.
//! 3. What is stored afterwards carries the next version.
//! 4. A commit id counts once: the same id again is `Duplicate` with the first answer, and nothing is applied.
//! 5. A commit that returned is durable: it outlives a crash of the process, and every handle sees it.
//! 6. `Unavailable` means certainly not applied.
//! 7. `Unknown` means perhaps applied; `settle` of that id tells, waiting for a commit still in flight.
//! 8. An id that `settle` found not applied is barred: a late commit of it is `Barred`.
//! 9. `settle` of an applied id gives its answer, as often as it is asked.
//! 10. The order of events within a commit is kept.
//! 11. Of tokens that are not revoked no two have one name: a commit that would make a second is `Conflict`.

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    Cause,
    agent::Agent,
    audit::AuditEntry,
    event::NewEvent,
    history::HistoryEntry,
    id::{CommitId, Version},
    token::Token,
};

/// A whole change.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Commit {
    /// Names this attempt; a retry after `Unknown` settles it first.
    pub id: CommitId,
    /// The aggregates that change.
    pub changes: Vec<Change>,
    /// What to tell of it.
    pub events: Vec<NewEvent>,
    /// Rows of agents' histories.
    pub history: Vec<HistoryEntry>,
    /// Who did it, for the audit.
    pub audit: Vec<AuditEntry>,
    /// What a repetition of this commit is answered.
    pub answer: Option<Value>,
}

impl Commit {
    /// An empty commit.
    pub fn new(id: CommitId) -> Self {
        Self {
            id,
            changes: Vec::new(),
            events: Vec::new(),
            history: Vec::new(),
            audit: Vec::new(),
            answer: None,
        }
    }
}

/// One aggregate with the version that it was read at.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An agent; its `version` field is the one that was read.
    Agent(Box<Agent>),
    /// A token; as with an agent.
    Token(Box<Token>),
}

impl Change {
    /// The version that must be stored for this change to be accepted; 0: none.
    #[must_use]
    pub fn read_at(&self) -> Version {
        match self {
            Self::Agent(agent) => agent.version,
            Self::Token(token) => token.version,
        }
    }
}

/// Why a commit was not applied, or that it is not known.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// An aggregate was changed by somebody else since it was read: read again, decide again.
    #[error("{0} was changed by somebody else")]
    Conflict(String),
    /// This commit was applied before.
    #[error("the commit was applied before")]
    Duplicate(Option<Value>),
    /// This id was settled as not applied; use another.
    #[error("the commit was settled as not applied")]
    Barred,
    /// Certainly not applied; trying later may help.
    #[error("the store is unavailable")]
    Unavailable(#[source] Cause),
    /// Perhaps applied; [`Ledger::settle`] tells.
    #[error("whether the store took the commit is not known")]
    Unknown(#[source] Cause),
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Settled {
    /// It was applied; its answer.
    Applied(Option<Value>),
    /// It was not and never will be.
    NotApplied,
}

/// Writes; see the module for the contract.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Applies the whole commit.
    async fn commit(&self, commit: &Commit) -> Result<(), CommitError>;
    /// Decides what became of a commit; an error leaves it undecided.
    async fn settle(&self, id: CommitId) -> Result<Settled, CommitError>;
}
