//! Whole numbers as JSON has them: `3.0` is one (JSON Schema, section 4.2.1), and some writers know no other form.
//!
//! Invariant: a number is taken only if nothing of it is lost.

use std::fmt;

use serde::{Deserializer, de};

/// A whole number, or nothing where there is none or null.
///
/// # Errors
/// What is no number, has a fraction, or does not fit.
pub(crate) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    deserializer.deserialize_any(Whole)
}

struct Whole;

impl<'de> de::Visitor<'de> for Whole {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        let fits = i64::try_from(number);
        fits.map(Some).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        // Both bounds are powers of two, which this type has exactly.
        let fits = number.fract() == 0.0 && (-TWO_TO_63..TWO_TO_63).contains(&number);
        let whole = fits.then_some(number as i64);
        whole.map(Some).ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }
}

const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<i64>, serde_json::Error> {
        whole(&mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn a_whole_number_is_one_in_whatever_form_it_is_written() {
        for (text, number) in [
            ("0", 0),
            ("-0.0", 0),
            ("3.0", 3),
            ("1e3", 1000),
            ("-7", -7),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("-9223372036854775808.0", i64::MIN),
        ] {
            assert_eq!(read(text).unwrap(), Some(number), "{text}");
        }
        assert_eq!(read("null").unwrap(), None);
    }

    #[test]
    fn what_would_lose_something_is_refused() {
        for text in ["0.5", "9223372036854775808", "9223372036854775808.0", "1e300", "\"3\"", "true", "[]"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read("0.5").unwrap_err().to_string().contains("expected a whole number"));
    }
}
