//! Events: what happened, in one total order.
//!
//! Invariant: the list of event types is open, so the type is text and the payload any JSON; a reader passes on
//! what it does not know.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// What happened, for example `agent_started`.
    #[schema(examples("agent_started"))]
    pub event_type: String,
    /// The agent that caused it; null when it was none.
    #[schema(value_type = Option<String>, format = "uuid", required)]
    pub source_agent: Option<Uuid>,
    /// Who caused it: `agent:<type>`, `token:<name>` or `system`.
    #[serde(default)]
    #[schema(examples("agent:cmo"))]
    pub actor: String,
    /// The particulars, by type.
    pub payload: serde_json::Value,
    /// When it was stored.
    pub created_at: Timestamp,
    /// Its place in the order, `<epoch>-<n>`; opaque, only to be handed back as `since`.
    #[serde(default)]
    #[schema(examples("1-42"))]
    pub position: String,
}

/// `GET /events` and `GET /agents/{type}/events`: newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventList {
    /// The events.
    pub events: Vec<Event>,
    /// The cursor of the next page; null on the last.
    #[serde(default)]
    #[schema(required)]
    pub next_cursor: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shape_of_a_list() {
        let event = Event {
            id: Uuid::nil(),
            event_type: "agent_started".to_owned(),
            source_agent: None,
            actor: "system".to_owned(),
            payload: json!({"agentType": "ceo"}),
            created_at: "2025-12-20T10:00:00Z".parse().unwrap(),
            position: "1-42".to_owned(),
        };
        let list = EventList { events: vec![event], next_cursor: Some("abc".to_owned()) };
        assert_eq!(
            serde_json::to_value(list).unwrap(),
            json!({
                "events": [{
                    "id": "00000000-0000-0000-0000-000000000000",
                    "eventType": "agent_started",
                    "sourceAgent": null,
                    "actor": "system",
                    "payload": {"agentType": "ceo"},
                    "createdAt": "2025-12-20T10:00:00.000Z",
                    "position": "1-42",
                }],
                "nextCursor": "abc",
            })
        );
    }

    #[test]
    fn the_documented_fields_alone_are_read() {
        let event: Event = serde_json::from_value(json!({
            "id": "00000000-0000-0000-0000-000000000000",
            "eventType": "something_new",
            "sourceAgent": "00000000-0000-0000-0000-000000000001",
            "payload": {},
            "createdAt": "2025-12-20T10:00:00.000Z",
        }))
        .unwrap();
        assert_eq!(event.source_agent, Some(Uuid::from_u128(1)));
        assert_eq!(event.event_type, "something_new");
    }
}
