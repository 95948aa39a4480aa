//! An agent's history: what it says that it did. Rows are appended, never changed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    id::{AgentId, HistoryId, Incarnation},
    time::Timestamp,
};

/// The longest summary, in characters.
pub const MAX_SUMMARY: usize = 10_000;
/// The most that the details of one row may take as JSON text, in bytes.
pub const MAX_DETAILS: usize = 65_536;

/// What kind of thing an agent did (HTTP contract, Agents).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionType {
    /// It decided or proposed.
    Decision,
    /// It worked.
    Task,
    /// It told somebody.
    Communication,
    /// Something went wrong.
    Error,
    /// It thought of something.
    Idea,
}

impl ActionType {
    /// Every kind, in the order of the contract.
    pub const ALL: [Self; 5] = [Self::Decision, Self::Task, Self::Communication, Self::Error, Self::Idea];

    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Task => "task",
            Self::Communication => "communication",
            Self::Error => "error",
            Self::Idea => "idea",
        }
    }
}

/// A word that is no [`ActionType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of decision, task, communication, error, idea")]
pub struct BadActionType;

impl FromStr for ActionType {
    type Err = BadActionType;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(BadActionType)
    }
}

impl fmt::Display for ActionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One row of history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    /// Its id; v7, so it sorts by time.
    pub id: HistoryId,
    /// Whose history.
    pub agent_id: AgentId,
    /// The incarnation that wrote it.
    pub incarnation: Incarnation,
    /// What kind of thing it was.
    pub action_type: ActionType,
    /// What happened, at most [`MAX_SUMMARY`] characters.
    pub summary: String,
    /// More of it, at most [`MAX_DETAILS`] bytes as JSON text.
    pub details: Option<serde_json::Value>,
    /// When the server took it.
    pub created_at: Timestamp,
}
