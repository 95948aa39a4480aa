//! Keeps the last heartbeat of every agent: an unversioned row each, no events.
//!
//! 1. `flush` takes many rows at once, each agent's at most once, all or none.
//! 2. An older row never replaces a newer one: incarnation decides, then time.
//! 3. `all` gives the last row of every agent that was ever heard.
//! 4. The same row again changes nothing.

use async_trait::async_trait;

use super::ReadError;
use crate::{
    id::{AgentId, Incarnation},
    time::Timestamp,
};

/// The last that was heard of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The agent.
    pub agent_id: AgentId,
    /// The incarnation that was heard.
    pub incarnation: Incarnation,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// Loops that it has finished, over all incarnations as it counts them.
    pub loop_count: u64,
    /// When its last loop ended, by its own clock.
    pub last_loop_at: Option<Timestamp>,
    /// What it says that it does.
    pub activity: Option<Activity>,
}

/// What an agent says that it does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Waiting for its next loop.
    Idle,
    /// In a loop.
    Working,
    /// Unable to go on.
    Blocked,
}

impl Activity {
    /// Every activity.
    pub const ALL: [Self; 3] = [Self::Idle, Self::Working, Self::Blocked];

    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Working => "working",
            Self::Blocked => "blocked",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|activity| activity.as_str() == text)
    }
}

/// Why rows were not kept; the caller keeps them and tries again with what has come since.
#[derive(Debug, thiserror::Error)]
#[error("heartbeats cannot be stored")]
pub struct FlushError(#[source] pub crate::Cause);

/// Keeps heartbeats; see the module for the contract.
#[async_trait]
pub trait Heartbeats: Send + Sync {
    /// Stores the rows.
    async fn flush(&self, rows: &[Heartbeat]) -> Result<(), FlushError>;
    /// Every agent's last row.
    async fn all(&self) -> Result<Vec<Heartbeat>, ReadError>;
}
