//! Mailboxes: what waits for an agent, and the messages that others send it.
//!
//! Invariants:
//! - A mail is delivered until it is acknowledged, so it may come more than once.
//! - `kind` and `priority` are words of closed lists; they are text here so that the server can report a wrong one
//!   together with all other faults.

use crate::{Timestamp, task::PriorityName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The words of a mail's `kind`, for the description of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MailKindName {
    /// Somebody wrote to this agent.
    Message,
    /// Somebody wrote to all agents.
    Broadcast,
    /// A task waits for the agent.
    Task,
    /// Something that the agent asked for was decided.
    Notice,
}

/// One mail in an agent's mailbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mail {
    /// Its id.
    #[schema(value_type = String, format = "uuid", examples("019ab1c2-7d3e-7f40-8a51-62c3d4e5f607"))]
    pub id: Uuid,
    /// `message`, `broadcast`, `task` or `notice`.
    #[schema(value_type = MailKindName)]
    pub kind: String,
    /// Who sent it: `agent:<type>`, `token:<name>`, `system` or `unauthenticated`.
    #[schema(examples("agent:ceo"))]
    pub from: String,
    /// The agent that sent it; null when it was none.
    #[schema(value_type = Option<String>, format = "uuid", required)]
    pub from_agent: Option<Uuid>,
    /// `low`, `normal`, `high`, `urgent` or `critical`.
    #[schema(value_type = PriorityName)]
    pub priority: String,
    /// The particulars, by kind: a message and a broadcast have `message`; a task has `taskId`, `title` and
    /// `priority`; a notice has `notice` (`domain_approved` or `domain_rejected`), `domain`, `requestId` and `reason`.
    pub payload: serde_json::Value,
    /// When it was sent.
    pub created_at: Timestamp,
    /// When it wakes the agent: by its priority, at once or some time after it was sent.
    pub due_at: Timestamp,
    /// When it goes away unread.
    pub expires_at: Timestamp,
    /// When the agent acknowledged it; null: it did not yet.
    #[schema(required)]
    pub acknowledged_at: Option<Timestamp>,
}

/// `GET /agents/{type}/mailbox`: the most urgent first, then the oldest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MailList {
    /// What is not acknowledged yet.
    pub messages: Vec<Mail>,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Answer of `POST /agents/{type}/message` (201) and `POST /agents/{type}/mailbox/{id}/ack` (200).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MailAnswer {
    /// Always `true`.
    pub success: bool,
    /// The mail.
    pub message: Mail,
}

/// Body of `POST /agents/{type}/message`, and of `POST /broadcast` ([`NewBroadcast`]), where the priority may be left
/// out.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(
    description = "Body of `POST /agents/{type}/message`.\n\nValues are checked by the server, all at once."
)]
// Both fields are required; they are optional here so that a missing one is a value fault with a pointer, reported
// together with the others.
pub struct NewMessage {
    /// The text: 1 to 10,000 characters, not only spaces, no NUL.
    #[serde(default)]
    #[schema(
        value_type = String,
        required,
        min_length = 1,
        max_length = 10_000,
        pattern = r"^[^\u0000]*[^\u0000\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\u0000]*$",
        examples("Please look at the figures.")
    )]
    pub message: Option<String>,
    /// `low`, `normal`, `high`, `urgent` or `critical`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = PriorityName, required)]
    pub priority: Option<String>,
}

impl NewMessage {
    /// A message of a priority.
    pub fn new(message: impl Into<String>, priority: impl Into<String>) -> Self {
        Self { message: Some(message.into()), priority: Some(priority.into()) }
    }
}

/// Body of `POST /broadcast`, for the description of the interface: a [`NewMessage`] that need not have a priority.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(description = "Body of `POST /broadcast`.\n\nValues are checked by the server, all at once.")]
pub struct NewBroadcast {
    /// The text: 1 to 10,000 characters, not only spaces, no NUL.
    #[schema(
        min_length = 1,
        max_length = 10_000,
        pattern = r"^[^\u0000]*[^\u0000\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\u0000]*$",
        examples("The company is closed on Friday.")
    )]
    pub message: String,
    /// `low`, `normal`, `high`, `urgent` or `critical`; `normal` if null or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PriorityName>)]
    pub priority: Option<String>,
}

/// Answer (201) of `POST /broadcast`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastSent {
    /// Always `true`.
    pub success: bool,
    /// Whom it reached.
    pub broadcast: Broadcast,
}

/// Whom a broadcast reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Broadcast {
    /// One mail for each agent that it reached.
    pub messages: Vec<BroadcastMail>,
    /// The types of the agents that it did not reach, because their mailboxes are full.
    #[schema(example = json!([]))]
    pub skipped: Vec<String>,
}

/// The mail that one agent got of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BroadcastMail {
    /// The agent's type.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("ceo"))]
    pub agent_type: String,
    /// The mail's id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    fn schema<T: PartialSchema>() -> Value {
        serde_json::to_value(T::schema()).unwrap()
    }

    #[test]
    fn shape_of_a_list() {
        let at: Timestamp = "2025-12-20T09:00:00Z".parse().unwrap();
        let mail = Mail {
            id: Uuid::nil(),
            kind: "message".to_owned(),
            from: "token:ops".to_owned(),
            from_agent: None,
            priority: "urgent".to_owned(),
            payload: json!({"message": "hi"}),
            created_at: at,
            due_at: "2025-12-20T09:00:05Z".parse().unwrap(),
            expires_at: "2025-12-27T09:00:00Z".parse().unwrap(),
            acknowledged_at: None,
        };
        let list = MailList { messages: vec![mail], next_cursor: Some("a".to_owned()) };
        assert_eq!(
            serde_json::to_value(list).unwrap(),
            json!({
                "messages": [{
                    "id": "00000000-0000-0000-0000-000000000000",
                    "kind": "message",
                    "from": "token:ops",
                    "fromAgent": null,
                    "priority": "urgent",
                    "payload": {"message": "hi"},
                    "createdAt": "2025-12-20T09:00:00.000Z",
                    "dueAt": "2025-12-20T09:00:05.000Z",
                    "expiresAt": "2025-12-27T09:00:00.000Z",
                    "acknowledgedAt": null,
                }],
                "nextCursor": "a",
            })
        );
    }

    #[test]
    fn shape_of_a_sent_broadcast() {
        let broadcast = Broadcast {
            messages: vec![BroadcastMail { agent_type: "ceo".to_owned(), id: Uuid::nil() }],
            skipped: vec!["dao".to_owned()],
        };
        assert_eq!(
            serde_json::to_value(BroadcastSent { success: true, broadcast }).unwrap(),
            json!({
                "success": true,
                "broadcast": {
                    "messages": [{"agentType": "ceo", "id": "00000000-0000-0000-0000-000000000000"}],
                    "skipped": ["dao"],
                },
            })
        );
    }

    #[test]
    fn a_new_message_is_read_tolerantly() {
        let odd: NewMessage = serde_json::from_value(json!({"priority": "soon", "x": 1})).unwrap();
        assert_eq!(odd, NewMessage { message: None, priority: Some("soon".to_owned()) });
        assert!(serde_json::from_value::<NewMessage>(json!({"message": ["a"]})).is_err());
        assert_eq!(
            serde_json::to_value(NewMessage::new("hi", "low")).unwrap(),
            json!({"message": "hi", "priority": "low"})
        );
    }

    #[test]
    fn a_broadcast_needs_no_priority_and_is_read_as_a_message() {
        assert_eq!(schema::<NewMessage>()["required"], json!(["message", "priority"]));
        let (message, broadcast) = (schema::<NewMessage>(), schema::<NewBroadcast>());
        assert_eq!(broadcast["required"], json!(["message"]));
        for rule in ["type", "minLength", "maxLength", "pattern"] {
            let (one, other) =
                (&message["properties"]["message"][rule], &broadcast["properties"]["message"][rule]);
            assert_eq!(one, other, "{rule}");
            assert_ne!(one, &Value::Null, "{rule}");
        }
        let sent = NewBroadcast { message: "hi".to_owned(), priority: None };
        let read: NewMessage = serde_json::from_value(serde_json::to_value(sent).unwrap()).unwrap();
        assert_eq!(read, NewMessage { message: Some("hi".to_owned()), priority: None });
    }

    #[test]
    fn the_schema_says_the_kinds() {
        assert_eq!(schema::<MailKindName>()["enum"], json!(["message", "broadcast", "task", "notice"]));
        assert!(schema::<Mail>()["required"].as_array().unwrap().contains(&json!("acknowledgedAt")));
    }
}
