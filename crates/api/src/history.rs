//! An agent's history: what it says it did.
//!
//! Invariant: `actionType` is one of `decision`, `task`, `communication`, `error`, `idea`; it is text here so
//! that the server can report a wrong one together with all other faults.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The words of `actionType`, for the description of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActionName {
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

/// One row of history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// `decision`, `task`, `communication`, `error` or `idea`.
    #[schema(value_type = ActionName)]
    pub action_type: String,
    /// What was done, in one line.
    #[schema(min_length = 1, max_length = 10_000, examples("Approved marketing campaign"))]
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
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
// Both fields are required; they are optional here so that a missing one is a value fault with a pointer, reported
// together with the others.
pub struct NewHistory {
    /// `decision`, `task`, `communication`, `error` or `idea`.
    #[serde(default)]
    #[schema(value_type = ActionName, required)]
    pub action_type: Option<String>,
    /// What was done, in one line: 1 to 10,000 characters, not only spaces, no NUL.
    #[serde(default)]
    #[schema(
        value_type = String,
        required,
        min_length = 1,
        max_length = 10_000,
        pattern = r"^[^\u0000]*[^\u0000\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\u0000]*$",
        examples("Approved marketing campaign")
    )]
    pub summary: Option<String>,
    /// Anything else worth keeping, as any JSON: at most 65,536 bytes, no NUL in its texts.
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
