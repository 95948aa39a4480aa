//! Mailboxes: what agents are told, at least once, until they say that they have heard it.
//!
//! Invariants: a message is for one agent; it waits until the agent's present incarnation acknowledges it, or until it
//! expires; when it wakes the agent is apart from whether it can be read.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    event::{Actor, MessageAcknowledged, Payload},
    id::{AgentId, AgentType, Incarnation, MailId, Version},
    task::{Priority, Task},
    time::{Timestamp, after},
};

/// The longest text of a message, in characters.
pub const MAX_MESSAGE: usize = 10_000;
/// How many messages of people and agents may wait for one agent: what people may fill.
pub const MAX_WAITING: u64 = 1000;
/// How many of them may wait when an agent sends one more.
pub const MAX_WAITING_OF_AGENTS: u64 = 500;
/// How many of them may be of one and the same agent.
pub const MAX_WAITING_OF_ONE: u64 = 100;
/// How long a message waits before it is forgotten: 7 days.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailKind {
    /// Somebody says something to this agent.
    Message,
    /// Somebody says something to every agent.
    Broadcast,
    /// A task waits for it.
    Task,
    /// Something that it asked for was decided, or has ended.
    Notice,
}

impl MailKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Message, Self::Broadcast, Self::Task, Self::Notice];

    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Broadcast => "broadcast",
            Self::Task => "task",
            Self::Notice => "notice",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// After which time a message wakes its agent, by priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delays([Duration; Priority::ALL.len()]);

impl Delays {
    /// Those that `of` gives.
    #[must_use]
    pub fn new(of: impl Fn(Priority) -> Duration) -> Self {
        Self(Priority::ALL.map(of))
    }

    /// That of a priority.
    #[must_use]
    pub fn of(&self, priority: Priority) -> Duration {
        self.0.get(usize::from(priority.rank())).copied().unwrap_or_default()
    }
}

/// By whom and when a message was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// When.
    pub at: Timestamp,
}

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Mail {
    /// Its id; v7.
    pub id: MailId,
    /// The version that was read; a commit writes the next.
    pub version: Version,
    /// For whom it is.
    pub agent_id: AgentId,
    /// What it is about.
    pub kind: MailKind,
    /// From whom.
    pub sender: Actor,
    /// The agent that sent it, if one did.
    pub from_agent: Option<AgentId>,
    /// How much it presses.
    pub priority: Priority,
    /// Its content, of a shape that its kind fixes.
    pub body: Value,
    /// When it was sent.
    pub created_at: Timestamp,
    /// When it wakes the agent.
    pub wake_at: Timestamp,
    /// When it is of no use any more.
    pub expires_at: Timestamp,
    /// Whether the agent has heard it.
    pub acknowledged: Option<Acknowledged>,
}

/// What a new message says, and to whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// See [`Mail::agent_id`]; likewise the others.
    pub agent_id: AgentId,
    /// What it is about.
    pub kind: MailKind,
    /// From whom.
    pub sender: Actor,
    /// The agent that sends it, if one does.
    pub from_agent: Option<AgentId>,
    /// How much it presses.
    pub priority: Priority,
    /// Its content.
    pub body: Value,
}

impl Letter {
    /// Tells an agent of a task that waits for it.
    #[must_use]
    pub fn of_task(task: &Task, sender: &Actor) -> Self {
        Self {
            agent_id: task.assigned_to,
            kind: MailKind::Task,
            sender: sender.clone(),
            from_agent: None,
            priority: task.priority,
            body: json!({ "taskId": task.id, "title": task.title, "priority": task.priority }),
        }
    }

    /// The message, not stored yet.
    #[must_use]
    pub fn sent(self, id: MailId, delays: &Delays, now: Timestamp) -> Mail {
        let Self { agent_id, kind, sender, from_agent, priority, body } = self;
        Mail {
            id,
            version: Version::default(),
            agent_id,
            kind,
            sender,
            from_agent,
            priority,
            body,
            created_at: now,
            wake_at: after(now, delays.of(priority)),
            expires_at: after(now, KEPT),
            acknowledged: None,
        }
    }
}

impl Mail {
    /// The agent, whose type this is, has heard it; what to tell of that. Heard already: nothing changes.
    #[must_use]
    pub fn acknowledge(
        mut self,
        agent_type: &AgentType,
        incarnation: Incarnation,
        now: Timestamp,
    ) -> (Self, Option<Payload>) {
        if self.acknowledged.is_some() {
            return (self, None);
        }
        self.acknowledged = Some(Acknowledged { incarnation, at: now });
        let told = Payload::MessageAcknowledged(MessageAcknowledged {
            message_id: self.id,
            agent_type: agent_type.clone(),
            incarnation,
        });
        (self, Some(told))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::time::millis;

    #[test]
    fn the_first_acknowledgement_stands() {
        let ceo: AgentType = "ceo".parse().unwrap();
        let mail = Mail {
            id: MailId(Uuid::from_u128(1)),
            version: Version(1),
            agent_id: AgentId(Uuid::from_u128(2)),
            kind: MailKind::Message,
            sender: Actor::System,
            from_agent: None,
            priority: Priority::Normal,
            body: Value::Null,
            created_at: millis(0),
            wake_at: millis(0),
            expires_at: millis(10),
            acknowledged: None,
        };
        let (mail, told) = mail.acknowledge(&ceo, Incarnation(3), millis(5));
        assert!(told.is_some());
        let (again, told) = mail.clone().acknowledge(&ceo, Incarnation(4), millis(6));
        assert_eq!((again, told), (mail, None));
    }

    #[test]
    fn kinds_read_back() {
        for kind in MailKind::ALL {
            assert_eq!(MailKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(MailKind::parse("letter"), None);
    }
}
