//! What the agent makes on the server: rows of history, tasks, messages.
//!
//! Invariants:
//! - Entries leave in the order in which they were made, each under a key of its own, so that a repetition makes no
//!   second.
//! - An entry that the server could not take stays, in a queue of at most 100, for the next turn; what is lost is said
//!   in the log.

use crate::{
    log::{Log, one_line},
    looping::Refused,
    server::Server,
    tasks::{self, Failure},
    think::AgentContext,
};
use aito_api::{NewHistory, NewMessage, NewTask};
use aito_client::Error;
use serde_json::{Value, json};
use std::collections::VecDeque;

const MAX_QUEUE: usize = 100;
const MAX_SHOWN: usize = 1000;

/// Something to make.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A row of history.
    Row(NewHistory),
    /// A task.
    Task(NewTask),
    /// A message to an agent.
    Message { to: String, message: NewMessage },
}

impl Entry {
    /// The action that asks for it.
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Self::Row(_) => "record_history",
            Self::Task(_) => "create_task",
            Self::Message { .. } => "send_message",
        }
    }

    fn is_row(&self) -> bool {
        matches!(self, Self::Row(_))
    }

    fn what(&self) -> &'static str {
        match self {
            Self::Row(_) => "history row",
            Self::Task(_) => "task",
            Self::Message { .. } => "message",
        }
    }

    /// One line that tells which.
    fn text(&self) -> String {
        let text = match self {
            Self::Row(row) => row.summary.as_deref(),
            Self::Task(task) => task.title.as_deref(),
            Self::Message { message, .. } => message.message.as_deref(),
        };
        one_line(text.unwrap_or_default(), MAX_SHOWN)
    }

    async fn send(&self, server: &Server, key: &str) -> Result<Value, Error> {
        match self {
            Self::Row(row) => server.record(row, key).await.map(|()| Value::Null),
            Self::Task(task) => server.create_task(task, key).await.map(|task| json!({"taskId": task.id})),
            Self::Message { to, message } => {
                server.send_message(to, message, key).await.map(|mail| json!({"messageId": mail.id}))
            }
        }
    }
}

#[derive(Debug)]
struct Pending {
    number: u64,
    entry: Entry,
}

/// An entry that left the queue.
#[derive(Debug)]
pub(crate) struct Left {
    /// Its number.
    pub(crate) number: u64,
    /// The action that asked for it.
    pub(crate) action: &'static str,
    /// Whether it is a row of history.
    pub(crate) is_row: bool,
    /// What there is to tell of it, null for nothing; or why it was dropped.
    pub(crate) outcome: Result<Value, String>,
}

/// What one sending came to.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// What left the queue, in order.
    pub(crate) left: Vec<Left>,
    /// Whether the server was found away, so that the rest stays.
    pub(crate) away: bool,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Outbox {
    prefix: String,
    made: u64,
    queue: VecDeque<Pending>,
    log: Log,
}

impl Outbox {
    pub(crate) fn new(agent: &AgentContext, log: Log) -> Self {
        let prefix = format!("{}-{}", agent.id, agent.incarnation);
        Self { prefix, made: 0, queue: VecDeque::new(), log }
    }

    /// How many entries no server has taken yet.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Queues an entry; its number, and what was dropped to make room for it.
    pub(crate) fn push(&mut self, entry: Entry) -> (u64, Option<Left>) {
        self.made += 1;
        let full = if self.queue.len() >= MAX_QUEUE { self.queue.pop_front() } else { None };
        let dropped = full.map(|Pending { number, entry }| {
            self.log.line(format!("too many entries wait for the server; dropped: {}", entry.text()));
            let outcome = Err("dropped: too many entries wait for the server".to_owned());
            Left { number, action: entry.action(), is_row: entry.is_row(), outcome }
        });
        self.queue.push_back(Pending { number: self.made, entry });
        (self.made, dropped)
    }

    /// Sends what is queued, up to the first that the server cannot take now.
    ///
    /// # Errors
    /// The credential was refused.
    pub(crate) async fn send(&mut self, server: &Server) -> Result<Sent, Refused> {
        let mut sent = Sent::default();
        while let Some(Pending { number, entry }) = self.queue.front() {
            let (number, action, is_row) = (*number, entry.action(), entry.is_row());
            let key = format!("{}-{number}", self.prefix);
            let outcome = match entry.send(server, &key).await {
                Ok(told) => Ok(told),
                Err(error) if is_row && error.is_refused_credential() => {
                    return Err(Refused(error.to_string()));
                }
                Err(error) => match tasks::sorted(&error)? {
                    Failure::Away(reason) => {
                        let waiting = self.queue.len();
                        self.log.line(format!("kept for the next loop ({waiting} entries): {reason}"));
                        sent.away = true;
                        return Ok(sent);
                    }
                    Failure::No(reason) => {
                        self.log.line(format!("{} dropped: {reason}: {}", entry.what(), entry.text()));
                        Err(reason)
                    }
                },
            };
            self.queue.pop_front();
            sent.left.push(Left { number, action, is_row, outcome });
        }
        Ok(sent)
    }
}
