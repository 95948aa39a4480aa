//! What agents use up a day, counted where it is stored.

use crate::{id::AgentId, time::Timestamp};

/// A kind of thing that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpentKind {
    /// Notes written.
    State,
    /// Tasks created.
    Tasks,
    /// Messages sent.
    Messages,
    /// Domains asked for.
    DomainRequests,
}

impl SpentKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::State, Self::Tasks, Self::Messages, Self::DomainRequests];

    /// The word of the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Tasks => "tasks",
            Self::Messages => "messages",
            Self::DomainRequests => "domain_requests",
        }
    }
}

/// What an agent has used up by one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Who.
    pub agent: AgentId,
    /// Of what.
    pub kind: SpentKind,
    /// The beginning of the day (UTC) that it counts for.
    pub day: Timestamp,
    /// How many.
    pub rows: u64,
    /// How many bytes of text.
    pub bytes: u64,
}

/// Milliseconds of a day.
const DAY: i64 = 24 * 3600 * 1000;

/// The beginning of a time's day, UTC.
#[must_use]
pub fn day_of(at: Timestamp) -> Timestamp {
    crate::time::millis(at.timestamp_millis() - at.timestamp_millis().rem_euclid(DAY))
}

/// The beginning of the day after.
#[must_use]
pub fn day_after(day: Timestamp) -> Timestamp {
    crate::time::millis(day.timestamp_millis().saturating_add(DAY))
}
