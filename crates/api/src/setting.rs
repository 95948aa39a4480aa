//! Settings: what can be changed while the server runs, by category and key.
//!
//! Invariant: a secret is written and never shown; `"***"` stands in its place. What is written is not in `Debug`
//! output, since it may be one.

use crate::{Timestamp, given::given};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::{
    ToSchema,
    openapi::schema::{Object, ObjectBuilder, SchemaType, Type},
};

/// `GET /settings`: all of them, the known ones with their defaults too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingList {
    /// By category and key, as any JSON; `"***"` for a secret.
    #[schema(example = json!({"queue": {"delay_critical": 0}, "llm": {"routing_strategy": "claude-only"}}))]
    pub settings: BTreeMap<String, BTreeMap<String, Value>>,
    /// The state of each of them, for `If-Match`, by category and key; `"0"` of one that was never set.
    #[schema(example = json!({"queue": {"delay_critical": "\"0\""}, "llm": {"routing_strategy": "\"3\""}}))]
    pub etags: BTreeMap<String, BTreeMap<String, String>>,
    /// Grows with every change of a setting; the `settingsVersion` of a heartbeat's answer.
    pub version: u64,
}

/// Body of `POST /settings/{category}/{key}`.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
// `value` is required; it is optional here so that a missing one is a value fault with a pointer, and it is told apart
// from null because each is another fault.
pub struct WriteSetting {
    /// What it shall be, as any JSON but null: at most 65,536 bytes, no NUL in its texts; a known setting has a type
    /// and a range (`GET /settings/schema`).
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = any_but_null, required)]
    pub value: Option<Value>,
    /// What it is for: at most 1,000 characters, no NUL; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000, pattern = r"^[^\u0000]*$", examples("How long an agent may batch wake-ups"))]
    pub description: Option<String>,
    /// Whether the value is never shown again; null like absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<bool>,
}

impl WriteSetting {
    /// A value that is no secret, without a description.
    pub fn new(value: impl Into<Value>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }
}

impl std::fmt::Debug for WriteSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteSetting")
            .field("description", &self.description)
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// What it belongs to: 1 to 64 of `a-z`, `0-9`, `_` and `-`.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$", examples("queue"))]
    pub category: String,
    /// Its name within the category: 1 to 128 of letters, digits and `._-`.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,128}$", examples("delay_urgent"))]
    pub key: String,
    /// What it is, as any JSON; `"***"` for a secret.
    pub value: Value,
    /// What it is for; null when nothing was said.
    #[schema(required, max_length = 1000)]
    pub description: Option<String>,
    /// When it was last written; null: never, it is as it was at first.
    #[schema(required)]
    pub updated_at: Option<Timestamp>,
    /// Who wrote it last: `token:<name>`, `system` or `unauthenticated`; null: nobody.
    #[schema(required, examples("token:ops"))]
    pub updated_by: Option<String>,
    /// Whether its value is never shown.
    pub secret: bool,
    /// Whether it has an effect; one that this version does not know is stored and has none.
    pub effective: bool,
    /// Names this state of it, for `If-Match`.
    #[schema(examples("\"3\""))]
    pub etag: String,
}

/// Answer of `POST /settings/{category}/{key}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingAnswer {
    /// Always `true`.
    pub success: bool,
    /// The setting.
    pub setting: Setting,
}

fn any_but_null() -> Object {
    let types = [Type::String, Type::Number, Type::Boolean, Type::Object, Type::Array];
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter(types))
        .description(Some(
            "What it shall be, as any JSON but null: at most 65,536 bytes, no NUL in its texts; a known setting has a \
             type and a range (`GET /settings/schema`).",
        ))
        .examples([Value::from(5000)])
        .build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use utoipa::PartialSchema;

    #[test]
    fn shape_of_a_list() {
        let queue = BTreeMap::from([("delay_critical".to_owned(), json!(0))]);
        let tags = BTreeMap::from([("delay_critical".to_owned(), "\"1\"".to_owned())]);
        let list = SettingList {
            settings: BTreeMap::from([("queue".to_owned(), queue)]),
            etags: BTreeMap::from([("queue".to_owned(), tags)]),
            version: 3,
        };
        assert_eq!(
            serde_json::to_value(list).unwrap(),
            json!({
                "settings": {"queue": {"delay_critical": 0}},
                "etags": {"queue": {"delay_critical": "\"1\""}},
                "version": 3,
            })
        );
    }

    #[test]
    fn shape_of_a_written_setting() {
        let setting = Setting {
            category: "queue".to_owned(),
            key: "delay_low".to_owned(),
            value: json!("***"),
            description: None,
            updated_at: None,
            updated_by: None,
            secret: true,
            effective: false,
            etag: "\"0\"".to_owned(),
        };
        assert_eq!(
            serde_json::to_value(SettingAnswer { success: true, setting }).unwrap(),
            json!({
                "success": true,
                "setting": {
                    "category": "queue",
                    "key": "delay_low",
                    "value": "***",
                    "description": null,
                    "updatedAt": null,
                    "updatedBy": null,
                    "secret": true,
                    "effective": false,
                    "etag": "\"0\"",
                },
            })
        );
    }

    #[test]
    fn a_value_that_is_absent_is_not_null() {
        let read = |value| serde_json::from_value::<WriteSetting>(value).unwrap();
        assert_eq!(read(json!({"x": 1, "secret": null})), WriteSetting::default());
        assert_eq!(read(json!({"value": null})), WriteSetting::new(Value::Null));
        assert_eq!(read(json!({"value": [1]})), WriteSetting::new(json!([1])));
        assert!(serde_json::from_value::<WriteSetting>(json!({"secret": "yes"})).is_err());
        assert_eq!(serde_json::to_value(WriteSetting::new(5000)).unwrap(), json!({"value": 5000}));
        assert_eq!(serde_json::to_value(WriteSetting::new(Value::Null)).unwrap(), json!({"value": null}));
    }

    #[test]
    fn what_is_written_is_not_in_debug_output() {
        let write = WriteSetting { secret: Some(true), ..WriteSetting::new("s3cret") };
        assert_eq!(format!("{write:?}"), "WriteSetting { description: None, secret: Some(true), .. }");
    }

    #[test]
    fn the_schema_says_that_a_value_is_required_and_not_null() {
        let schema = serde_json::to_value(WriteSetting::schema()).unwrap();
        assert_eq!(schema["required"], json!(["value"]));
        let types = &schema["properties"]["value"]["type"];
        assert_eq!(types, &json!(["string", "number", "boolean", "object", "array"]));
        assert_eq!(schema["properties"]["secret"]["type"], json!(["boolean", "null"]));
    }
}
