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
    agent::Agent,
    id::{AgentId, AgentType},
    ports::{
        clock::Clock,
        history_store::{HistoryStore, Written},
        quota_store::QuotaStore,
    },
    quota::{Spent, SpentKind, day_after, day_of},
    time::{Timestamp, between},
};

use serde::de::DeserializeOwned;

use crate::{
    error::Error,
    once::{Once, Outcome},
    writer::Writer,
};

/// How long a count is used before it is made anew.
const COUNTED: Duration = Duration::from_secs(5);

/// What one agent may store a day of one kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What one agent may store a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Rows of history.
    pub history: Quota,
    /// Notes written.
    pub state: Quota,
    /// Tasks created.
    pub tasks: Quota,
    /// Messages sent.
    pub messages: Quota,
    /// Domains asked for.
    pub domain_requests: Quota,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            history: Quota { rows: 10_000, bytes: 64 << 20 },
            state: Quota { rows: 20_000, bytes: 64 << 20 },
            tasks: Quota { rows: 2000, bytes: 16 << 20 },
            messages: Quota { rows: 5000, bytes: 16 << 20 },
            domain_requests: Quota { rows: 200, bytes: 1 << 20 },
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// Rows of history, by looking at them.
    History,
    /// What commits add up.
    Spent(SpentKind),
}

impl Counted {
    fn as_str(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Spent(SpentKind::State) => "state",
            Self::Spent(SpentKind::Tasks) => "tasks",
            Self::Spent(SpentKind::Messages) => "messages",
            Self::Spent(SpentKind::DomainRequests) => "domain requests",
        }
    }
}

/// Counts what agents store and refuses what is too much.
pub struct Quotas {
    history: Arc<dyn HistoryStore>,
    spent: Arc<dyn QuotaStore>,
    clock: Arc<dyn Clock>,
    allowance: Allowance,
    counted: Mutex<HashMap<(AgentId, Counted), Count>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    day: Timestamp,
    written: Written,
    /// By the clock that never goes back.
    at: Duration,
}

/// What a call costs: one row with so many bytes, from what an agent may store today.
pub(crate) struct Cost<'q> {
    pub(crate) quotas: &'q Quotas,
    pub(crate) what: Counted,
    pub(crate) agent: &'q Agent,
    pub(crate) bytes: u64,
}

/// A call that was paid for, or needs not be.
pub(crate) enum Paid<'q, T> {
    /// With this, if it costs anything.
    Now(Option<Taken<'q>>),
    /// It was made before, and this was the answer.
    Before(T),
}

impl Writer {
    /// Pays for a call. One that was made before costs nothing, and is told so also when nothing is left.
    ///
    /// # Errors
    /// As [`Quotas::take`] and [`Self::was_done`].
    pub(crate) async fn pay<'q, T>(
        &self,
        cost: Option<Cost<'q>>,
        once: Option<&Once>,
        content: &[&[u8]],
    ) -> Result<Paid<'q, T>, Error>
    where
        T: DeserializeOwned,
    {
        let Some(Cost { quotas, what, agent, bytes }) = cost else { return Ok(Paid::Now(None)) };
        match (quotas.take(what, agent.id, &agent.agent_type, bytes).await, once) {
            (Ok(taken), _) => Ok(Paid::Now(Some(taken))),
            (Err(spent @ Error::TooMany { .. }), Some(once)) => {
                self.was_done(once, content, Some(agent.id)).await?.map(Paid::Before).ok_or(spent)
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// Gives back what was taken for a call that stored nothing.
pub(crate) fn settle_up<T>(taken: Option<Taken<'_>>, done: &Result<Outcome<T>, Error>) {
    if let (Some(taken), Ok(Outcome::Before(_) | Outcome::Conflict) | Err(_)) = (taken, done) {
        taken.give_back();
    }
}

/// What was taken, to be told to the store with what it was taken for, or given back when that was not stored.
#[must_use]
pub struct Taken<'a> {
    quotas: &'a Quotas,
    agent: AgentId,
    what: Counted,
    day: Timestamp,
    bytes: u64,
}

impl Quotas {
    /// With these bounds.
    pub fn new(
        history: Arc<dyn HistoryStore>,
        spent: Arc<dyn QuotaStore>,
        clock: Arc<dyn Clock>,
        allowance: Allowance,
    ) -> Self {
        Self { history, spent, clock, allowance, counted: Mutex::default() }
    }

    /// Takes one row with so many bytes from what an agent may store today.
    ///
    /// # Errors
    /// [`Error::TooMany`] when it is too much, until the day ends; [`Error::Unavailable`] when it cannot be counted.
    pub async fn take(
        &self,
        what: Counted,
        id: AgentId,
        agent: &AgentType,
        bytes: u64,
    ) -> Result<Taken<'_>, Error> {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let (day, key) = (day_of(now), (id, what));
        let fresh = |count: &Count| count.day == day && monotonic.saturating_sub(count.at) < COUNTED;
        let known = self.lock().get(&key).copied().filter(fresh);
        if known.is_none() {
            let written = match what {
                Counted::History => self.history.written(id, day).await?,
                Counted::Spent(kind) => self.spent.spent(id, kind, day).await?,
            };
            let mut counted = self.lock();
            // Who counted at the same time may have let something in since, which a second count must not undo.
            if !counted.get(&key).is_some_and(fresh) {
                counted.insert(key, Count { day, written, at: monotonic });
            }
        }
        let mut counted = self.lock();
        let Some(count) = counted.get_mut(&key) else {
            return Err(Error::Internal("a count is gone".into()));
        };
        let Quota { rows: most_rows, bytes: most_bytes } = self.most(what);
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
                detail: format!("agent {agent} has written its {most} of {} for today (UTC)", what.as_str()),
                retry_after: between(now, day_after(day)),
            });
        }
        count.written = after;
        Ok(Taken { quotas: self, agent: id, what, day, bytes })
    }

    fn most(&self, what: Counted) -> Quota {
        match what {
            Counted::History => self.allowance.history,
            Counted::Spent(SpentKind::State) => self.allowance.state,
            Counted::Spent(SpentKind::Tasks) => self.allowance.tasks,
            Counted::Spent(SpentKind::Messages) => self.allowance.messages,
            Counted::Spent(SpentKind::DomainRequests) => self.allowance.domain_requests,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(AgentId, Counted), Count>> {
        // Every state of it is a good one.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken<'_> {
    /// What goes into the commit; history is counted from its rows.
    pub fn spent(&self) -> Option<Spent> {
        match self.what {
            Counted::History => None,
            Counted::Spent(kind) => {
                Some(Spent { agent: self.agent, kind, day: self.day, rows: 1, bytes: self.bytes })
            }
        }
    }

    /// It was not stored; a count that was made anew never had it.
    pub fn give_back(self) {
        if let Some(count) = self.quotas.lock().get_mut(&(self.agent, self.what)) {
            count.written.rows = count.written.rows.saturating_sub(1);
            count.written.bytes = count.written.bytes.saturating_sub(self.bytes);
        }
    }
}
