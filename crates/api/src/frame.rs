//! WebSocket frames, server to client.
//!
//! Invariants:
//! - One event may give a specific frame and an `event` frame; they share `id` and `position`, and the last one
//!   that passes the filter carries `last: true`. A reader has the whole event only then, so it resumes from
//!   positions of `last` frames.
//! - Frames that tell a state and no event (the `agent_status` on connect, `reset`) have neither id nor position.

use crate::{AgentStatus, HealthState, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The values of [`Frame::frame_type`] that this version sends; readers ignore others.
pub mod frame_type {
    /// Payload [`crate::AgentStatusPayload`].
    pub const AGENT_STATUS: &str = "agent_status";
    /// Payload `{decisionId, vote, voterType, status}`.
    pub const DECISION_VOTE: &str = "decision_vote";
    /// Payload `{agentId, toolCalls}`.
    pub const WORKER_LOG: &str = "worker_log";
    /// Payload [`crate::Event`].
    pub const EVENT: &str = "event";
    /// Payload [`crate::ResetPayload`].
    pub const RESET: &str = "reset";
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Frame {
    /// One of [`frame_type`]; the list is open.
    #[serde(rename = "type")]
    #[schema(examples("event"))]
    pub frame_type: String,
    /// By type.
    pub payload: serde_json::Value,
    /// The event's id; left out when the frame tells a state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub id: Option<Uuid>,
    /// The event's position, to be handed back as `since`; left out when the frame tells a state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// When the event was stored, or when the frame was made.
    pub timestamp: Timestamp,
    /// Set on the last frame of its position that this connection gets; left out otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

/// One message of `GET /events/stream`, for the description of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamMessage {
    /// The position up to which everything was told with this message, for `Last-Event-ID` or `since`; left out when the
    /// frame tells a state, or another frame of the same event follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(examples("k3v9x2ab-41"))]
    pub id: Option<String>,
    /// The frame's type.
    #[schema(examples("event"))]
    pub event: String,
    /// A `Frame` as JSON.
    #[schema(content_media_type = "application/json")]
    pub data: String,
}

/// Payload of an `agent_status` frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatusPayload {
    /// The agent's type.
    #[schema(examples("ceo"))]
    pub agent_type: String,
    /// Its lifecycle.
    pub status: AgentStatus,
    /// Its health; left out when the frame is about the lifecycle alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthState>,
}

/// Payload of a `reset` frame: the asked position cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResetPayload {
    /// Why: pruned, ahead of the log, of another epoch, or not a position at all.
    #[schema(examples("pruned"))]
    pub reason: String,
    /// The oldest position that exists; null when the log is empty.
    #[schema(required)]
    pub oldest: Option<String>,
    /// The newest position that exists; null when the log is empty.
    #[schema(required)]
    pub newest: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn frame() -> Frame {
        Frame {
            frame_type: frame_type::AGENT_STATUS.to_owned(),
            payload: serde_json::to_value(AgentStatusPayload {
                agent_type: "ceo".to_owned(),
                status: AgentStatus::Active,
                health: None,
            })
            .unwrap(),
            id: None,
            position: None,
            timestamp: "2025-12-20T10:00:00Z".parse().unwrap(),
            last: false,
        }
    }

    #[test]
    fn shape_of_a_state_frame() {
        assert_eq!(
            serde_json::to_value(frame()).unwrap(),
            json!({
                "type": "agent_status",
                "payload": {"agentType": "ceo", "status": "active"},
                "timestamp": "2025-12-20T10:00:00.000Z",
            })
        );
    }

    #[test]
    fn shape_of_an_event_frame() {
        let frame = Frame { id: Some(Uuid::nil()), position: Some("1-42".to_owned()), last: true, ..frame() };
        let value = serde_json::to_value(&frame).unwrap();
        assert_eq!(value["id"], "00000000-0000-0000-0000-000000000000");
        assert_eq!(value["position"], "1-42");
        assert_eq!(value["last"], true);
        assert_eq!(serde_json::from_value::<Frame>(value).unwrap(), frame);
    }

    #[test]
    fn shape_of_a_reset() {
        let reset =
            ResetPayload { reason: "pruned".to_owned(), oldest: Some("1-10".to_owned()), newest: None };
        assert_eq!(
            serde_json::to_value(reset).unwrap(),
            json!({"reason": "pruned", "oldest": "1-10", "newest": null})
        );
    }
}
