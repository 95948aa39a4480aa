//! An agent's history: what it says it did.
//!
//! Invariant: `actionType` is one of `decision`, `task`, `communication`, `error`, `idea`; it is text here so
//! that the server can report a wrong one together with all other faults.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// One row of history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// `decision`, `task`, `communication`, `error` or `idea`.
    #[schema(examples("decision"))]
    pub action_type: String,
    /// What was done, in one line.
    pub summary: String,
    /// When the server stored it.
    pub created_at: Timestamp,
    /// Whatever else the agent gave; left out when it gave nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

/// `GET /agents/{type}/history`: newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryList {
    /// The rows.
    pub history: Vec<HistoryEntry>,
    /// The cursor of the next page; null on the last.
    #[serde(default)]
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Body of `POST /agents/{type}/history`.
///
/// Both documented fields are required; they are optional here so that a missing one is a value fault with a
/// pointer, reported together with the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewHistory {
    /// `decision`, `task`, `communication`, `error` or `idea`.
    #[serde(default)]
    #[schema(value_type = String, required)]
    pub action_type: Option<String>,
    /// What was done, in one line.
    #[serde(default)]
    #[schema(value_type = String, required)]
    pub summary: Option<String>,
    /// Anything else worth keeping, as any JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

impl NewHistory {
    /// A row without details.
    pub fn new(action_type: impl Into<String>, summary: impl Into<String>) -> Self {
        Self { action_type: Some(action_type.into()), summary: Some(summary.into()), details: None }
    }
}

/// Answer (201) of `POST /agents/{type}/history`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryCreated {
    /// Always `true`.
    pub success: bool,
    /// The stored row.
    pub history: HistoryEntry,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(details: Option<serde_json::Value>) -> HistoryEntry {
        HistoryEntry {
            id: Uuid::nil(),
            action_type: "decision".to_owned(),
            summary: "Approved marketing campaign".to_owned(),
            created_at: "2025-12-20T09:00:00Z".parse().unwrap(),
            details,
        }
    }

    #[test]
    fn shape_of_a_list() {
        let list = HistoryList { history: vec![entry(None)], next_cursor: None };
        assert_eq!(
            serde_json::to_value(list).unwrap(),
            json!({
                "history": [{
                    "id": "00000000-0000-0000-0000-000000000000",
                    "actionType": "decision",
                    "summary": "Approved marketing campaign",
                    "createdAt": "2025-12-20T09:00:00.000Z",
                }],
                "nextCursor": null,
            })
        );
    }

    #[test]
    fn shape_of_a_created_row() {
        let created = HistoryCreated { success: true, history: entry(Some(json!({"cost": 3}))) };
        let value = serde_json::to_value(created).unwrap();
        assert_eq!(value["success"], true);
        assert_eq!(value["history"]["details"], json!({"cost": 3}));
    }

    #[test]
    fn a_new_row_is_read_tolerantly() {
        let missing: NewHistory = serde_json::from_value(json!({"actionType": "nonsense", "x": 1})).unwrap();
        assert_eq!(missing.action_type.as_deref(), Some("nonsense"));
        assert_eq!(missing.summary, None);
        assert!(
            serde_json::from_value::<NewHistory>(json!({"summary": 3})).is_err(),
            "a wrong type is refused"
        );
        assert_eq!(
            serde_json::to_value(NewHistory::new("task", "done")).unwrap(),
            json!({"actionType": "task", "summary": "done"})
        );
    }
}
