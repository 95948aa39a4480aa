//! Tells a field that is absent from one that is null, where both mean something.
//!
//! Invariant: with `#[serde(default, deserialize_with = "given")]` a field that is absent is `None`; one that is there
//! is `Some` of what stands there, null too.

use serde::{Deserialize, Deserializer};

/// What stands there, be it null.
///
/// # Errors
/// It is no `T`.
pub(crate) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[derive(Deserialize)]
    struct Edit {
        #[serde(default, deserialize_with = "given")]
        text: Option<Option<String>>,
        #[serde(default, deserialize_with = "given")]
        value: Option<Value>,
    }

    fn read(value: Value) -> Edit {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn absent_null_and_a_value_are_three_things() {
        let absent = read(json!({}));
        assert_eq!((absent.text, absent.value), (None, None));
        let null = read(json!({"text": null, "value": null}));
        assert_eq!((null.text, null.value), (Some(None), Some(Value::Null)));
        let value = read(json!({"text": "a", "value": [1]}));
        assert_eq!((value.text, value.value), (Some(Some("a".to_owned())), Some(json!([1]))));
    }

    #[test]
    fn a_wrong_type_is_refused() {
        assert!(serde_json::from_value::<Edit>(json!({"text": 3})).is_err());
    }
}
