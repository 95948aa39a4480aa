//! Reads mailboxes; messages are written and acknowledged through the ledger.
//!
//! 1. A commit that returned is visible to every handle at once, and what is read is what was committed.
//! 2. `waiting` gives what its agent has not acknowledged and what has not expired by the store's clock: the most urgent
//!    first, then by id; `after` goes on exactly after the message that it names.
//! 3. `due` counts of the same those that wake the agent by now, those that wait at all, and tells when the next of the
//!    others does; both counts stop at [`MAX_COUNTED`]. One that was to wake it at once (its `wake_at` is not after its
//!    `created_at`) does so whatever the clocks say. `first` are the ids of those that wake it, the longest due first, at
//!    most [`MAX_FIRST`].
//! 4. `room` counts of the same those that people or agents sent (of kind message and broadcast), and those of them that
//!    one agent did; both counts stop at [`MAX_WAITING`](crate::mailbox::MAX_WAITING).
//! 5. `forget` removes up to `limit` messages that have expired by the store's clock, acknowledged or not, and gives how
//!    many; none is forgotten before, and with no more than that, none is left.

use async_trait::async_trait;

use super::ReadError;
use crate::{
    id::{AgentId, MailId},
    mailbox::Mail,
    task::Priority,
    time::Timestamp,
};

/// How far is counted.
pub const MAX_COUNTED: u64 = 10_000;
/// How many ids of due messages are given.
pub const MAX_FIRST: usize = 65;

/// Where a page begins: after this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailCursor {
    /// The last message's priority.
    pub priority: Priority,
    /// The last message's id.
    pub id: MailId,
}

/// What waits for an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// How many messages wake it by now.
    pub due: u64,
    /// How many there are with those that do not yet.
    pub waiting: u64,
    /// When the next of those does.
    pub next: Option<Timestamp>,
    /// Which wake it by now, as many as are given.
    pub first: Vec<MailId>,
}

/// How much of what was sent waits for an agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// By anybody.
    pub by_all: u64,
    /// By the one who was asked for.
    pub by_one: u64,
}

/// Reads mailboxes; see the module for the contract.
#[async_trait]
pub trait MailboxStore: Send + Sync {
    /// The message with an id, acknowledged or expired or not.
    async fn by_id(&self, id: MailId) -> Result<Option<Mail>, ReadError>;
    /// Up to `limit` messages that wait for an agent.
    async fn waiting(
        &self,
        agent: AgentId,
        after: Option<MailCursor>,
        limit: u32,
    ) -> Result<Vec<Mail>, ReadError>;
    /// How much waits for an agent.
    async fn due(&self, agent: AgentId) -> Result<Due, ReadError>;
    /// How much of what was sent waits for an agent, and how much of it one sender sent.
    async fn room(&self, agent: AgentId, sender: Option<AgentId>) -> Result<Sent, ReadError>;
    /// Removes what has expired.
    async fn forget(&self, limit: u32) -> Result<u64, ReadError>;
}
