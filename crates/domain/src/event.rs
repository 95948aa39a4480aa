//! Events: what happened, in one total order. The log of them is the truth that everything else follows.
//!
//! Invariants: a payload is stored as the JSON of its type here, so renaming a field is a change of format;
//! what is read keeps its stored body whole, so a type or field that this version does not know survives.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    access::Role,
    agent::{Exit, Status},
    domain_name::DomainName,
    id::{
        AgentId, AgentType, DomainId, DomainRequestId, EventId, HistoryId, Incarnation, MailId, TaskId,
        TokenId,
    },
    installation::Epoch,
    mailbox::MailKind,
    task::{Priority, TaskStatus},
    time::Timestamp,
};

/// A place in the log: who has seen it never finds a new event at or before it. Its text `<epoch>-<n>` is
/// opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which life of the log.
    pub epoch: Epoch,
    /// The number within it; the first event has 1, and 0 is the place before it.
    pub n: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.n)
    }
}

/// A text that is no [`Position`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a position as an event or frame carries it")]
pub struct BadPosition;

impl FromStr for Position {
    type Err = BadPosition;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, n) = text.split_once('-').ok_or(BadPosition)?;
        let plain = !n.is_empty() && n.len() <= 19 && n.bytes().all(|b| b.is_ascii_digit());
        if !plain {
            return Err(BadPosition);
        }
        Ok(Self { epoch: epoch.parse().map_err(|_| BadPosition)?, n: n.parse().map_err(|_| BadPosition)? })
    }
}

/// Who caused a change. Its text is `agent:cmo`, `token:<name>`, `system` or `unauthenticated`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// An agent, by its own credential.
    Agent(AgentType),
    /// A holder of a token.
    Token(String),
    /// The control plane itself.
    System,
    /// A caller on a listener that asks for no credential.
    Unauthenticated,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(agent_type) => write!(f, "agent:{agent_type}"),
            Self::Token(name) => write!(f, "token:{name}"),
            Self::System => f.write_str("system"),
            Self::Unauthenticated => f.write_str("unauthenticated"),
        }
    }
}

impl FromStr for Actor {
    type Err = std::convert::Infallible;
    /// What no kind is recognised in was written by a later version; it is kept as a token's name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once(':') {
            Some(("agent", name)) => match name.parse() {
                Ok(agent_type) => Self::Agent(agent_type),
                Err(_) => Self::Token(text.to_owned()),
            },
            Some(("token", name)) => Self::Token(name.to_owned()),
            _ if text == "system" => Self::System,
            _ if text == "unauthenticated" => Self::Unauthenticated,
            _ => Self::Token(text.to_owned()),
        })
    }
}

/// An event as a commit hands it in; the store gives it its position.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Its id; v7.
    pub id: EventId,
    /// Whom it is about or from, when that is an agent.
    pub source_agent: Option<AgentId>,
    /// Who caused it.
    pub actor: Actor,
    /// What happened.
    pub payload: Payload,
    /// When.
    pub created_at: Timestamp,
}

/// An event as the log holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// Its place.
    pub position: Position,
    /// The type's name as stored, known here or not.
    pub event_type: String,
    /// Whom it is about or from, when that is an agent.
    pub source_agent: Option<AgentId>,
    /// Who caused it.
    pub actor: Actor,
    /// The payload as stored, with every field that this version does not know.
    pub body: Value,
    /// When.
    pub created_at: Timestamp,
}

impl Event {
    /// The payload as a value that rules can work with.
    #[must_use]
    pub fn payload(&self) -> Payload {
        Payload::parse(&self.event_type, self.body.clone())
    }
}

macro_rules! payloads {
    ($( $(#[$doc:meta])* $variant:ident($body:ty) = $name:literal, )*) => {
        /// What happened. The list is open: a reader keeps what it does not know.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Payload {
            $( $(#[$doc])* $variant($body), )*
            /// A type, or a form of a known type, that this version does not know.
            Unknown {
                /// The type's name.
                event_type: String,
                /// The payload as stored.
                body: Value,
            },
        }

        impl Payload {
            /// Every type that this version writes.
            pub const TYPES: &[&str] = &[$($name),*];

            /// The type's name, stored and shown.
            #[must_use]
            pub fn event_type(&self) -> &str {
                match self {
                    $( Self::$variant(_) => $name, )*
                    Self::Unknown { event_type, .. } => event_type,
                }
            }

            /// The stored form.
            #[must_use]
            pub fn body(&self) -> Value {
                match self {
                    // These structs hold strings, numbers and options only: turning them into JSON cannot fail.
                    $( Self::$variant(body) => serde_json::to_value(body).unwrap_or(Value::Null), )*
                    Self::Unknown { body, .. } => body.clone(),
                }
            }

            /// Reads a stored payload; never fails.
            #[must_use]
            pub fn parse(event_type: &str, body: Value) -> Self {
                match event_type {
                    $( $name => match <$body>::deserialize(&body) {
                        Ok(known) => Self::$variant(known),
                        Err(_) => Self::Unknown { event_type: event_type.to_owned(), body },
                    }, )*
                    _ => Self::Unknown { event_type: event_type.to_owned(), body },
                }
            }
        }
    };
}

payloads! {
    /// An agent exists from now on.
    AgentRegistered(AgentRegistered) = "agent_registered",
    /// A container was asked for.
    AgentStarting(AgentStarting) = "agent_starting",
    /// The first heartbeat of an incarnation came.
    AgentStarted(AgentMoved) = "agent_started",
    /// An agent was asked to end.
    AgentStopping(AgentStopping) = "agent_stopping",
    /// An agent that should end has ended.
    AgentStopped(AgentEnded) = "agent_stopped",
    /// An agent that should run could not be started, or died.
    AgentError(AgentFailed) = "agent_error",
    /// An agent that should run is not heard any more.
    AgentUnreachable(AgentMoved) = "agent_unreachable",
    /// An agent that was not heard, or died before, is heard again.
    AgentRecovered(AgentMoved) = "agent_recovered",
    /// An agent turned to something else.
    AgentFocusChanged(AgentFocusChanged) = "agent_focus_changed",
    /// An agent told what it did.
    HistoryRecorded(HistoryRecorded) = "history_recorded",
    /// A token was made.
    TokenCreated(TokenCreated) = "token_created",
    /// A token took another secret.
    TokenRotated(TokenRotated) = "token_rotated",
    /// A token was ended.
    TokenRevoked(TokenEnded) = "token_revoked",
    /// A task was created.
    TaskCreated(TaskCreated) = "task_created",
    /// Something about a task changed, other than that it is done.
    TaskUpdated(TaskUpdated) = "task_updated",
    /// A task is done.
    TaskCompleted(TaskCompleted) = "task_completed",
    /// A message was put into a mailbox.
    MessageSent(MessageSent) = "message_sent",
    /// A message was put into every mailbox.
    Broadcast(BroadcastSent) = "broadcast",
    /// An agent has heard a message.
    MessageAcknowledged(MessageAcknowledged) = "message_acknowledged",
    /// A domain was asked for.
    DomainRequested(DomainRequested) = "domain_requested",
    /// A domain that was asked for may be reached.
    DomainApproved(DomainDecided) = "domain_approved",
    /// A domain that was asked for may not.
    DomainRejected(DomainDecided) = "domain_rejected",
    /// A domain was put on the list.
    DomainAdded(DomainListed) = "domain_added",
    /// A domain was taken off the list.
    DomainRemoved(DomainListed) = "domain_removed",
    /// A setting was set; its value is not told.
    SettingsUpdated(SettingsUpdated) = "settings_updated",
    /// An agent changed one of its notes; the value is not told.
    StateUpdated(StateUpdated) = "state_updated",
}

/// Types whose events only who may administer tokens sees.
pub const OF_TOKENS: [&str; 3] = ["token_created", "token_rotated", "token_revoked"];

/// Payload of `agent_registered`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentRegistered {
    /// The agent.
    pub agent_type: AgentType,
    /// What people call it.
    pub name: String,
}

/// Why an incarnation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartReason {
    /// Somebody asked for it.
    Requested,
    /// Somebody asked for a restart.
    Restart,
    /// The one before died or could not be started.
    Recovery,
    /// The store had fallen behind what runs, or a derived name was taken.
    Renumbered,
}

/// Payload of `agent_starting`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStarting {
    /// The agent.
    pub agent_type: AgentType,
    /// [`Status::Starting`].
    pub status: Status,
    /// The incarnation that begins.
    pub incarnation: Incarnation,
    /// Why.
    pub reason: StartReason,
}

/// Payload of the events that say no more than which incarnation they are about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentMoved {
    /// The agent.
    pub agent_type: AgentType,
    /// The status that it has now.
    pub status: Status,
    /// The incarnation.
    pub incarnation: Incarnation,
}

/// Why an agent is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Somebody asked for it.
    Requested,
    /// Another incarnation takes over.
    Restart,
}

/// Payload of `agent_stopping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStopping {
    /// The agent.
    pub agent_type: AgentType,
    /// [`Status::Stopping`].
    pub status: Status,
    /// The incarnation that ends.
    pub incarnation: Incarnation,
    /// Why.
    pub reason: StopReason,
}

/// Payload of `agent_stopped`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentEnded {
    /// The agent.
    pub agent_type: AgentType,
    /// [`Status::Inactive`].
    pub status: Status,
    /// The incarnation that ended.
    pub incarnation: Incarnation,
    /// How it ended, when that is known.
    pub exit: Option<Exit>,
}

/// Payload of `agent_error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentFailed {
    /// The agent.
    pub agent_type: AgentType,
    /// [`Status::Error`].
    pub status: Status,
    /// The incarnation that failed.
    pub incarnation: Incarnation,
    /// One line for people.
    pub reason: String,
    /// How it ended, if it ran.
    pub exit: Option<Exit>,
    /// How many failures in a row this is; 1 is the first.
    pub failures: u32,
    /// When the next try begins.
    pub retry_at: Timestamp,
}

/// Payload of `agent_focus_changed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentFocusChanged {
    /// The agent.
    pub agent_type: AgentType,
    /// The incarnation that said so.
    pub incarnation: Incarnation,
    /// What it turned to; null when it named nothing any more.
    pub focus: Option<String>,
}

/// Payload of `history_recorded`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRecorded {
    /// The agent.
    pub agent_type: AgentType,
    /// The row.
    pub history_id: HistoryId,
    /// Its kind.
    pub action_type: String,
}

/// Payload of `token_created`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenCreated {
    /// The token.
    pub token_id: TokenId,
    /// What it is called.
    pub name: String,
    /// What it may.
    pub roles: Vec<Role>,
    /// Whose seat it holds, if any.
    pub seat: Option<AgentType>,
    /// When it ends by itself, if ever.
    pub expires_at: Option<Timestamp>,
}

/// Payload of `token_rotated`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRotated {
    /// The token.
    pub token_id: TokenId,
    /// What it is called.
    pub name: String,
    /// Until when the secret before is good.
    pub old_until: Timestamp,
}

/// Payload of `token_revoked`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenEnded {
    /// The token.
    pub token_id: TokenId,
    /// What it was called.
    pub name: String,
}

/// Payload of `task_created`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskCreated {
    /// The task.
    pub task_id: TaskId,
    /// What it is called.
    pub title: String,
    /// How much it presses.
    pub priority: Priority,
    /// Whose it is.
    pub assigned_to: AgentType,
}

/// What changed about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskChange {
    /// What it says, or whose it is.
    Edited,
    /// An incarnation works on it.
    Claimed,
    /// The incarnation that worked on it has ended: it waits again.
    Released,
    /// Who worked on it gave up.
    Failed,
    /// It is not wanted any more.
    Cancelled,
    /// It should have ended by now.
    Overdue,
}

/// Payload of `task_updated`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskUpdated {
    /// The task.
    pub task_id: TaskId,
    /// What changed.
    pub change: TaskChange,
    /// Where it is now.
    pub status: TaskStatus,
    /// How much it presses.
    pub priority: Priority,
    /// Whose it is.
    pub assigned_to: AgentType,
    /// The incarnation that works or worked on it, if one does or did.
    pub incarnation: Option<Incarnation>,
}

/// Payload of `task_completed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskCompleted {
    /// The task.
    pub task_id: TaskId,
    /// What it is called.
    pub title: String,
    /// Whose it was.
    pub assigned_to: AgentType,
    /// The incarnation that worked on it, if one did.
    pub incarnation: Option<Incarnation>,
}

/// Payload of `message_sent`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageSent {
    /// The message.
    pub message_id: MailId,
    /// For whom it is.
    pub to: AgentType,
    /// What it is about.
    pub kind: MailKind,
    /// How much it presses.
    pub priority: Priority,
}

/// Payload of `broadcast`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastSent {
    /// For whom it is.
    pub to: Vec<AgentType>,
    /// How much it presses.
    pub priority: Priority,
}

/// Payload of `message_acknowledged`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageAcknowledged {
    /// The message.
    pub message_id: MailId,
    /// Who has heard it.
    pub agent_type: AgentType,
    /// Which incarnation.
    pub incarnation: Incarnation,
}

/// Payload of `domain_requested`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainRequested {
    /// The request.
    pub request_id: DomainRequestId,
    /// What is asked for.
    pub domain: DomainName,
}

/// Payload of `domain_approved` and `domain_rejected`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainDecided {
    /// The request.
    pub request_id: DomainRequestId,
    /// What was asked for.
    pub domain: DomainName,
}

/// Payload of `domain_added` and `domain_removed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainListed {
    /// The entry.
    pub domain_id: DomainId,
    /// What it covers.
    pub domain: DomainName,
    /// What it is for.
    pub category: String,
}

/// Payload of `settings_updated`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingsUpdated {
    /// What it belongs to.
    pub category: String,
    /// Its name there.
    pub key: String,
}

/// Payload of `state_updated`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateUpdated {
    /// Whose note.
    pub agent_type: AgentType,
    /// Under which key.
    pub key: String,
    /// Whether it is gone.
    pub removed: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn positions_read_back_what_they_print() {
        let position: Position = "abcd-42".parse().unwrap();
        assert_eq!((position.n, position.to_string().as_str()), (42, "abcd-42"));
        for bad in [
            "",
            "abcd",
            "abcd-",
            "-1",
            "abcd--1",
            "abcd-+1",
            "ABCD-1",
            "abcd-1x",
            "abcd-99999999999999999999",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(BadPosition), "{bad}");
        }
    }

    #[test]
    fn unknown_types_and_forms_are_kept() {
        let body = json!({"agentType": "ceo", "later": [1, 2]});
        assert_eq!(
            Payload::parse("agent_sang", body.clone()),
            Payload::Unknown { event_type: "agent_sang".into(), body: body.clone() }
        );
        assert!(matches!(Payload::parse("agent_started", body), Payload::Unknown { .. }));
    }

    #[test]
    fn known_payloads_read_back() {
        let payload = Payload::AgentStopped(AgentEnded {
            agent_type: "ceo".parse().unwrap(),
            status: Status::Inactive,
            incarnation: Incarnation(3),
            exit: Some(Exit::Signal(9)),
        });
        let body = payload.body();
        assert_eq!(
            body,
            json!({"agentType": "ceo", "status": "inactive", "incarnation": 3, "exit": {"signal": 9}})
        );
        assert_eq!(Payload::parse("agent_stopped", body), payload);
    }

    #[test]
    fn actors_read_back() {
        for actor in [
            Actor::System,
            Actor::Unauthenticated,
            Actor::Token("ops: x".into()),
            Actor::Agent("cmo".parse().unwrap()),
        ] {
            assert_eq!(actor.to_string().parse::<Actor>().unwrap(), actor);
        }
    }
}
