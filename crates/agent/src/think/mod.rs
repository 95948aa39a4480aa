//! Thinking as a port: a context in, a list of actions out.
//!
//! Contract:
//! 1. `think` changes nothing by itself; what it wants done it returns.
//! 2. Dropping the future ends all that it started, at once.
//! 3. It sees the [`Context`] and nothing else of the agent; the credential is no part of it.
//! 4. It returns a JSON list as it came. Whether its entries are actions is checked by the caller, the same way
//!    for every adapter.

pub mod command;
mod placeholders;
pub mod rules;

use crate::profile::Profile;
use aito_api::Timestamp;
use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// Something that decides what to do next.
#[async_trait]
pub trait Think: Send + Sync {
    /// What it is, for the log: one line that makes no claim of intelligence where there is none.
    fn describe(&self) -> String;

    /// Decides once.
    ///
    /// # Errors
    /// [`ThinkError`]; the loop goes on with the next turn.
    async fn think(&self, context: &Context) -> Result<Vec<Value>, ThinkError>;
}

/// All that thinking is told, in its JSON form.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Context {
    /// Who thinks.
    pub agent: AgentContext,
    /// Its profile, read for this loop.
    pub profile: Profile,
    /// Where it stands.
    #[serde(rename = "loop")]
    pub turn: LoopContext,
    /// What it works on; null when nothing is set.
    pub focus: Option<String>,
    /// What became of the last loop's actions, in order; then what failed in this loop before thinking.
    pub last_results: Vec<ActionResult>,
    /// What waits in its mailbox and it was not told yet, at most 50: the most urgent first, then the oldest.
    pub messages: Vec<Message>,
    /// What it works on: the tasks in progress under this incarnation, at most 50.
    pub tasks: Vec<Task>,
}

/// A message that waits in the agent's mailbox.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its id.
    pub id: uuid::Uuid,
    /// `message`, `broadcast`, `task` or `notice`.
    pub kind: String,
    /// Who sent it: `agent:<type>`, `token:<name>`, `system` or `unauthenticated`.
    pub from: String,
    /// `low`, `normal`, `high`, `urgent` or `critical`.
    pub priority: String,
    /// The particulars, by kind: see [`aito_api::Mail::payload`].
    pub payload: Value,
    /// When it was sent.
    pub created_at: Timestamp,
}

/// A task that the agent works on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id.
    pub id: uuid::Uuid,
    /// What is to be done, in one line.
    pub title: String,
    /// What is to be done, in detail; null when nothing more was said.
    pub description: Option<String>,
    /// `low`, `normal`, `high`, `urgent` or `critical`.
    pub priority: String,
    /// When it should be done; null: no matter when.
    pub due_date: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Who thinks.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentContext {
    /// The agent's id.
    pub id: uuid::Uuid,
    /// Its type.
    #[serde(rename = "type")]
    pub agent_type: String,
    /// Its incarnation.
    pub incarnation: u64,
}

/// Where the loop stands.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoopContext {
    /// The number of this loop in this incarnation, from 1.
    pub count: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When the one before began; null in the first.
    pub last_loop_at: Option<Timestamp>,
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionResult {
    /// Its name; `think` for thinking itself, `actions` for what could not be read as actions, `tasks` for looking the
    /// tasks in progress up.
    pub action: String,
    /// Whether it was done.
    pub ok: bool,
    /// Why not; left out when it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it made or found, such as `{"taskId": …}`; left out when there is nothing to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ThinkError {
    /// The program can't be started.
    #[error("cannot start the thinking command: {0}")]
    Start(std::io::Error),
    /// The program can't be talked to.
    #[error("cannot talk to the thinking command: {0}")]
    Talk(std::io::Error),
    /// It took too long and was killed.
    #[error("thinking took longer than {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// It wrote too much and was killed.
    #[error("thinking wrote more than {0} bytes")]
    TooMuchOutput(usize),
    /// It ended without success.
    #[error("the thinking command ended with {0}")]
    Failed(String),
    /// The answer is no JSON list.
    #[error("thinking answered with no JSON list: {0}")]
    NotAList(String),
    /// It panicked.
    #[error("thinking panicked")]
    Panicked,
}
