//! What is written down of an incarnation, and what server and supervisor say to each other.
//!
//! Invariant: these shapes outlive the program that wrote them, so fields are only added; nothing secret is in
//! a record, and what holds secrets ([`Order`]) cannot be shown.

use std::path::PathBuf;

use aito_domain::{
    agent::Exit,
    id::{AgentId, AgentType, Incarnation},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::os::ProcessId;

/// `state.json`: an incarnation is being started, or was. Durable before the agent's first instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub agent_id: AgentId,
    pub incarnation: Incarnation,
    /// The boot that the process ids are of.
    pub boot_id: String,
    /// The supervisor.
    pub shim: ProcessId,
    /// The agent; its pid is also its session's and its process group's id.
    pub agent: ProcessId,
    pub started_at: Timestamp,
}

/// `exit.json`: an incarnation has ended, and nothing of it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub exit: Exit,
    pub at: Timestamp,
}

/// What the supervisor is to do: one JSON document on its standard input, up to its end.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub agent_id: AgentId,
    pub agent_type: AgentType,
    pub incarnation: Incarnation,
    /// Where the agent's incarnations lie.
    pub place: PathBuf,
    pub program: PathBuf,
    /// The name that the program is called by, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    pub credential: String,
    /// Milliseconds between request and force when nobody says otherwise.
    pub grace_ms: u64,
    /// Bytes of data of one process.
    pub memory_bytes: Option<u64>,
    /// Open files of one process.
    pub open_files: Option<u64>,
    pub log: LogLimits,
}

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LogLimits {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Files, the one being written included; at least 1.
    pub files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { file_bytes: 4 << 20, files: 4 }
    }
}

/// What the supervisor answers: one line of JSON on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub(crate) enum Reply {
    /// The agent runs.
    Started,
    /// A supervisor of this agent lives already.
    Held {
        /// Which incarnation it keeps, if it has said so yet.
        incarnation: Option<Incarnation>,
    },
    /// The incarnation was started before: look at its records.
    Exists,
    /// Nothing was started and nothing is left of the attempt.
    Failed {
        /// Whether trying again is in vain.
        for_good: bool,
        /// What went wrong, for people.
        reason: String,
    },
}
