//! Points in time: UTC with millisecond resolution, which is what every store and wire shape keeps.
//!
//! Invariant: a [`Timestamp`] made by [`millis`] or a `Clock` has no part below one millisecond, so that what
//! is written and what is read back compare equal.

use chrono::{DateTime, Utc};

/// A point in time, UTC.
pub type Timestamp = DateTime<Utc>;

/// The point `ms` milliseconds after 1970-01-01T00:00:00Z; clamped to what the calendar can show.
#[must_use]
pub fn millis(ms: i64) -> Timestamp {
    DateTime::from_timestamp_millis(ms).unwrap_or(if ms < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

/// Whether every store and wire shape can hold a time that somebody gives: from 1970 to the end of 9999.
#[must_use]
pub fn is_storable(at: Timestamp) -> bool {
    (0..253_402_300_800_000).contains(&at.timestamp_millis())
}

/// The same point without its part below one millisecond.
#[must_use]
pub fn truncate(at: Timestamp) -> Timestamp {
    millis(at.timestamp_millis())
}

/// `at` moved by `by`, which is a length of time from configuration (clamped, never panicking).
#[must_use]
pub fn after(at: Timestamp, by: std::time::Duration) -> Timestamp {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    millis(at.timestamp_millis().saturating_add(by))
}

/// How long it is from `earlier` to `later`; zero when it is the other way round.
#[must_use]
pub fn between(earlier: Timestamp, later: Timestamp) -> std::time::Duration {
    (later - earlier).to_std().unwrap_or_default()
}
