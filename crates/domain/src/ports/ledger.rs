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
//! 12. Of domain entries that stand no two have one domain, and of open requests no two one domain and one asker: a
//!     commit that would make a second is `Conflict`.
//! 13. A commit that an incarnation speaks is `Conflict` unless that incarnation is its agent's present one when it is
//!     applied: of it and a commit that begins the next incarnation, one is wholly before the other.
//! 14. Picks of one agent are decided one after another, each on all that those before it wrote; with a pick the
//!     commit's answer is its [`PickOutcome`](crate::task::PickOutcome), whatever `answer` says. A task that somebody
//!     else changed between reading and writing makes it `Conflict`.
//! 15. What is spent is added to what the same agent has spent of that kind on that day, and nothing of it is lost.
//! 16. `commit` gives the answer that is kept: what a repetition, or `settle`, is answered.

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    Cause,
    agent::Agent,
    allowlist::{DomainEntry, DomainRequest},
    audit::AuditEntry,
    event::NewEvent,
    history::HistoryEntry,
    id::{AgentId, CommitId, Incarnation, Version},
    mailbox::Mail,
    quota::Spent,
    setting::Setting,
    state::StateEntry,
    task::{Task, TaskPick},
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
    /// The incarnation that speaks it, if one does.
    pub speaker: Option<Speaker>,
    /// What only the transaction can choose.
    pub pick: Option<TaskPick>,
    /// What agents have used up by it.
    pub spent: Vec<Spent>,
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
            speaker: None,
            pick: None,
            spent: Vec::new(),
            answer: None,
        }
    }
}

/// The incarnation that a change comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaker {
    /// The agent.
    pub agent: AgentId,
    /// Its incarnation, which must be the present one.
    pub incarnation: Incarnation,
}

/// One aggregate with the version that it was read at.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An agent; its `version` field is the one that was read.
    Agent(Box<Agent>),
    /// A token; as with an agent.
    Token(Box<Token>),
    /// A task; as with an agent.
    Task(Box<Task>),
    /// A message; as with an agent.
    Mail(Box<Mail>),
    /// An entry of the list of domains; as with an agent.
    Domain(Box<DomainEntry>),
    /// A request for a domain; as with an agent.
    DomainRequest(Box<DomainRequest>),
    /// A setting, known by category and key; as with an agent.
    Setting(Box<Setting>),
    /// A note of an agent's, known by agent and key; as with an agent.
    State(Box<StateEntry>),
}

impl Change {
    /// The version that must be stored for this change to be accepted; 0: none.
    #[must_use]
    pub fn read_at(&self) -> Version {
        match self {
            Self::Agent(agent) => agent.version,
            Self::Token(token) => token.version,
            Self::Task(task) => task.version,
            Self::Mail(mail) => mail.version,
            Self::Domain(entry) => entry.version,
            Self::DomainRequest(request) => request.version,
            Self::Setting(setting) => setting.version,
            Self::State(entry) => entry.version,
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
    /// Applies the whole commit; gives its answer.
    async fn commit(&self, commit: &Commit) -> Result<Option<Value>, CommitError>;
    /// Decides what became of a commit; an error leaves it undecided.
    async fn settle(&self, id: CommitId) -> Result<Settled, CommitError>;
}
