//! What an agent may store a day: rows and bytes, counted from what is stored.
//!
//! Invariants: a count is never older than [`COUNTED`] plus what this server has let in since, so several servers
//! together let in at most what they take in that time too much; a day is a day of UTC; nothing is kept that a
//! restart would lose.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aito_domain::{
    id::{AgentId, AgentType},
    ports::{
        clock::Clock,
        history_store::{HistoryStore, Written},
    },
    time::{Timestamp, between, millis},
};

use crate::error::Error;

/// How long a count is used before it is made anew.
const COUNTED: Duration = Duration::from_secs(5);
/// Milliseconds of a day.
const DAY: i64 = 24 * 3600 * 1000;

/// What one agent may store a day of one kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Counts what agents store and refuses what is too much.
pub struct Quotas {
    history: Arc<dyn HistoryStore>,
    clock: Arc<dyn Clock>,
    of_history: Quota,
    counted: Mutex<HashMap<AgentId, Count>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    day: Timestamp,
    written: Written,
    /// By the clock that never goes back.
    at: Duration,
}

impl Quotas {
    /// With these bounds.
    pub fn new(history: Arc<dyn HistoryStore>, clock: Arc<dyn Clock>, of_history: Quota) -> Self {
        Self { history, clock, of_history, counted: Mutex::default() }
    }

    /// Takes one row of history with so many bytes from what an agent may store today.
    ///
    /// # Errors
    /// [`Error::TooMany`] when it is too much, until the day ends; [`Error::Unavailable`] when it cannot be counted.
    pub async fn take_history(&self, id: AgentId, agent: &AgentType, bytes: u64) -> Result<(), Error> {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let day = millis(now.timestamp_millis() - now.timestamp_millis().rem_euclid(DAY));
        let fresh = |count: &Count| count.day == day && monotonic.saturating_sub(count.at) < COUNTED;
        let known = self.lock().get(&id).copied().filter(fresh);
        if known.is_none() {
            let written = self.history.written(id, day).await?;
            let mut counted = self.lock();
            // Who counted at the same time may have let something in since, which a second count must not undo.
            if !counted.get(&id).is_some_and(fresh) {
                counted.insert(id, Count { day, written, at: monotonic });
            }
        }
        let mut counted = self.lock();
        let Some(count) = counted.get_mut(&id) else {
            return Err(Error::Internal("a count is gone".into()));
        };
        let Quota { rows: most_rows, bytes: most_bytes } = self.of_history;
        let after =
            Written { rows: count.written.rows + 1, bytes: count.written.bytes.saturating_add(bytes) };
        let too_much = if after.rows > most_rows {
            Some(format!("{most_rows} rows"))
        } else if after.bytes > most_bytes {
            Some(format!("{most_bytes} bytes"))
        } else {
            None
        };
        if let Some(most) = too_much {
            return Err(Error::TooMany {
                detail: format!("agent {agent} has written its {most} of history for today (UTC)"),
                retry_after: between(now, millis(day.timestamp_millis() + DAY)),
            });
        }
        count.written = after;
        Ok(())
    }

    /// Gives back what was taken for a row that was not stored; a count that was made anew never had it.
    pub fn give_back_history(&self, id: AgentId, bytes: u64) {
        if let Some(count) = self.lock().get_mut(&id) {
            count.written.rows = count.written.rows.saturating_sub(1);
            count.written.bytes = count.written.bytes.saturating_sub(bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Count>> {
        // Every state of it is a good one.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
