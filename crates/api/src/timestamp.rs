//! The one form of time on the wire: RFC 3339, UTC, exactly three decimals (`2025-12-20T10:00:00.000Z`).
//!
//! Invariants:
//! - A [`Timestamp`] holds whole milliseconds, so that writing and reading it again gives an equal value.
//! - Any RFC 3339 offset is accepted on reading and turned into UTC.

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, ops::Deref, str::FromStr};
use utoipa::ToSchema;

/// A moment in UTC with millisecond precision; anything finer is cut off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, format = "date-time", examples("2025-12-20T10:00:00.000Z"))]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// Keeps the whole milliseconds of `at`.
    pub fn new(at: DateTime<Utc>) -> Self {
        Self(at.trunc_subsecs(3))
    }

    /// The moment as chrono's type.
    pub fn into_inner(self) -> DateTime<Utc> {
        self.0
    }
}

/// Writes `at` in the wire form, for places that need the text alone.
pub fn to_string(at: &DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Reads a time in any RFC 3339 form.
///
/// # Errors
/// The text is not RFC 3339.
pub fn parse(text: &str) -> Result<DateTime<Utc>, chrono::ParseError> {
    DateTime::parse_from_rfc3339(text).map(|at| at.with_timezone(&Utc))
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self::new(at)
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(at: Timestamp) -> Self {
        at.0
    }
}

impl Deref for Timestamp {
    type Target = DateTime<Utc>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromStr for Timestamp {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self::new)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_string(&self.0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_exactly_three_decimals() {
        for (given, written) in [
            ("2025-12-20T10:00:00Z", "2025-12-20T10:00:00.000Z"),
            ("2025-12-20T10:00:00.1Z", "2025-12-20T10:00:00.100Z"),
            ("2025-12-20T10:00:00.123999Z", "2025-12-20T10:00:00.123Z"),
            ("2025-12-20T12:30:00.5+02:30", "2025-12-20T10:00:00.500Z"),
        ] {
            let at: Timestamp = serde_json::from_value(json!(given)).unwrap();
            assert_eq!(serde_json::to_value(at).unwrap(), json!(written), "{given}");
            assert_eq!(at.to_string(), written);
        }
    }

    #[test]
    fn round_trip_is_equal() {
        let at = Timestamp::new(parse("2025-12-20T10:00:00.123456789Z").unwrap());
        let back: Timestamp = serde_json::from_value(serde_json::to_value(at).unwrap()).unwrap();
        assert_eq!(at, back);
    }

    #[test]
    fn refuses_what_is_not_a_time() {
        for bad in [json!("yesterday"), json!("2025-12-20"), json!(1766224800), json!(null)] {
            assert!(serde_json::from_value::<Timestamp>(bad.clone()).is_err(), "{bad}");
        }
    }
}
