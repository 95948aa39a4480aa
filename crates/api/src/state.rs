//! An agent's state: what it keeps from one loop to the next, by key.
//!
//! Invariant: a value is any JSON but null; writing null removes the key.

use crate::{Timestamp, given::given};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// One key of an agent's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateEntry {
    /// The key: 1 to 128 of letters, digits and `._:-`.
    #[schema(pattern = "^[A-Za-z0-9._:-]{1,128}$", examples("last_report"))]
    pub key: String,
    /// What the agent keeps there, as any JSON; null only in the answer that says that it was removed.
    pub value: Value,
    /// When it was last written.
    pub updated_at: Timestamp,
    /// Names this state of it, for `If-Match`.
    #[schema(examples("\"3\""))]
    pub etag: String,
}

/// `GET /agents/{type}/state`: by key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateList {
    /// The keys and their values.
    pub state: Vec<StateEntry>,
    /// The cursor of the next page; null on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Body of `PUT /agents/{type}/state/{key}`.
///
/// Values are checked by the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
// `value` is required; it is optional here so that a missing one is a value fault with a pointer, which null is not.
pub struct PutState {
    /// What shall stand there, as any JSON: at most 65,536 bytes, no NUL in its texts; null removes
    /// the key.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required)]
    pub value: Option<Value>,
}

impl PutState {
    /// This value; null removes the key.
    pub fn new(value: impl Into<Value>) -> Self {
        Self { value: Some(value.into()) }
    }
}

/// Answer of `PUT /agents/{type}/state/{key}`; its value is null when the key was removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateAnswer {
    /// Always `true`.
    pub success: bool,
    /// The key as it is now.
    pub state: StateEntry,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use utoipa::PartialSchema;

    fn entry(value: Value) -> StateEntry {
        StateEntry {
            key: "last_report".to_owned(),
            value,
            updated_at: "2025-12-20T09:00:00Z".parse().unwrap(),
            etag: "\"3\"".to_owned(),
        }
    }

    #[test]
    fn shape_of_a_list() {
        let list = StateList { state: vec![entry(json!({"page": 3}))], next_cursor: Some("k".to_owned()) };
        assert_eq!(
            serde_json::to_value(list).unwrap(),
            json!({
                "state": [{
                    "key": "last_report",
                    "value": {"page": 3},
                    "updatedAt": "2025-12-20T09:00:00.000Z",
                    "etag": "\"3\"",
                }],
                "nextCursor": "k",
            })
        );
    }

    #[test]
    fn a_removed_key_has_the_value_null() {
        let answer = StateAnswer { success: true, state: entry(Value::Null) };
        let value = serde_json::to_value(&answer).unwrap();
        assert_eq!(value["state"].get("value"), Some(&Value::Null));
        assert_eq!(serde_json::from_value::<StateAnswer>(value).unwrap(), answer);
    }

    #[test]
    fn a_value_that_is_absent_is_not_null() {
        let read = |value| serde_json::from_value::<PutState>(value).unwrap();
        assert_eq!(read(json!({"x": 1})), PutState::default());
        assert_eq!(read(json!({"value": null})), PutState::new(Value::Null));
        assert_eq!(read(json!({"value": 3})), PutState::new(3));
        assert_eq!(serde_json::to_value(PutState::new(Value::Null)).unwrap(), json!({"value": null}));
    }

    #[test]
    fn the_schema_says_that_a_value_is_required_and_may_be_null() {
        let schema = serde_json::to_value(PutState::schema()).unwrap();
        assert_eq!(schema["required"], json!(["value"]));
        assert_eq!(schema["properties"]["value"].get("type"), None);
    }
}
