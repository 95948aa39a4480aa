//! Reads the event log for callers, newest first.

use std::sync::Arc;

use aito_domain::{
    event::{Event, OF_TOKENS, Position},
    id::AgentId,
    ports::event_log::{Bounds, EventLog, EventQuery},
};

use crate::error::{Error, Fault};

/// Reads events.
pub struct EventService {
    log: Arc<dyn EventLog>,
}

/// Whether a reader can go on from a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Everything above this number is there.
    From(u64),
    /// It cannot: pruned, ahead of the log, or of another life of it.
    Reset {
        /// Why, one line.
        reason: String,
        /// What can be read.
        bounds: Option<Bounds>,
        /// The number to go on from instead: the newest.
        newest: u64,
    },
}

impl EventService {
    /// Over this log.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self { log }
    }

    /// Up to `limit` events, newest first; `cursor` is the position of the last one seen. What is told of tokens is
    /// there only for who may see it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cursor of another epoch; [`Error::Unavailable`].
    pub async fn list(
        &self,
        event_type: Option<String>,
        agent: Option<AgentId>,
        sees_tokens: bool,
        cursor: Option<Position>,
        limit: u32,
    ) -> Result<Vec<Event>, Error> {
        if cursor.as_ref().is_some_and(|position| position.epoch != *self.log.epoch()) {
            let detail = "must be a nextCursor of this log; it was made before a restore";
            return Err(Error::Invalid(vec![Fault::new("?cursor", detail)]));
        }
        let hidden = if sees_tokens { Vec::new() } else { OF_TOKENS.map(str::to_owned).into() };
        let query = EventQuery { event_type, hidden, agent, before: cursor.map(|position| position.n) };
        Ok(self.log.latest(&query, limit).await?)
    }

    /// The position with a number in the present life of the log.
    pub fn position(&self, n: u64) -> Position {
        Position { epoch: self.log.epoch().clone(), n }
    }

    /// Whether a reader that has seen `since` can go on from there.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn resume(&self, since: &Position) -> Result<Resume, Error> {
        let bounds = self.log.bounds().await?;
        let newest = bounds.map_or(0, |bounds| bounds.newest);
        let oldest = bounds.map_or(1, |bounds| bounds.oldest);
        let reason = if since.epoch != *self.log.epoch() {
            "the position is of another epoch"
        } else if since.n > newest {
            "the position is ahead of the log"
        } else if since.n + 1 < oldest {
            "the events after the position are pruned"
        } else {
            return Ok(Resume::From(since.n));
        };
        Ok(Resume::Reset { reason: reason.to_owned(), bounds, newest })
    }
}
