//! Agents' notes: what they keep beyond their incarnations.
//!
//! Invariant: an agent writes its own only; what it may keep and write a day is bounded.

use std::sync::Arc;

use aito_domain::{
    agent::Agent,
    event::{Payload, StateUpdated},
    id::{AgentId, Version},
    ports::{ledger::Change, state_store::StateStore},
    quota::{Spent, SpentKind},
    state::{MAX_KEY, MAX_KEYS, MAX_VALUE, StateEntry, is_key},
};
use serde_json::Value;

use crate::{
    by::By,
    checks::{Faults, Seen, busy, expect},
    error::Error,
    once::Outcome,
    quota::{Counted, Quotas},
    writer::Writer,
};

/// How often a change is tried when somebody else was faster.
const TRIES: u32 = 12;

/// Reads and writes notes.
pub struct StateService {
    store: Arc<dyn StateStore>,
    writer: Arc<Writer>,
}

impl StateService {
    /// Over these ports.
    pub fn new(store: Arc<dyn StateStore>, writer: Arc<Writer>) -> Self {
        Self { store, writer }
    }

    /// Up to `limit` notes of an agent, by key, above `after`.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list(
        &self,
        agent: AgentId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StateEntry>, Error> {
        Ok(self.store.page(agent, after, limit).await?)
    }

    /// Writes a note; `Some(Null)` removes it, `None` is a fault. With `quotas`, it is taken from what the agent may write
    /// today.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::Precondition`] when it is not in the states that `seen` names (one
    /// that was never written has version 0); [`Error::Conflict`] when the agent has too many; [`Error::TooMany`];
    /// [`Error::PastIncarnation`]; [`Error::Unavailable`].
    pub async fn put(
        &self,
        agent: &Agent,
        key: &str,
        value: Option<Value>,
        seen: Option<&Seen>,
        by: &By,
        quotas: Option<&Quotas>,
    ) -> Result<StateEntry, Error> {
        let mut faults = Faults::default();
        if !is_key(key) {
            faults.add("?key", format!("must be 1 to {MAX_KEY} of A-Z, a-z, 0-9, ., _, : and -"));
        }
        faults.json("/value", value.as_ref(), MAX_VALUE);
        if value.is_none() {
            faults.add("/value", "must be given; null removes the key");
        }
        faults.done()?;
        let value = value.filter(|value| !value.is_null());
        let bytes = value.as_ref().map_or(0, |value| value.to_string().len()) + key.len();
        let taken = match quotas {
            Some(quotas) => {
                let what = Counted::Spent(SpentKind::State);
                Some(quotas.take(what, agent.id, &agent.agent_type, bytes as u64).await?)
            }
            None => None,
        };
        let spent = taken.as_ref().and_then(|taken| taken.spent());
        let written = self.write(agent, key, value, seen, by, spent).await;
        match (written, taken) {
            (Ok((entry, true)), _) => Ok(entry),
            (written, taken) => {
                if let Some(taken) = taken {
                    taken.give_back();
                }
                written.map(|(entry, _)| entry)
            }
        }
    }

    /// The note as it is then, and whether anything was stored for it.
    async fn write(
        &self,
        agent: &Agent,
        key: &str,
        value: Option<Value>,
        seen: Option<&Seen>,
        by: &By,
        spent: Option<Spent>,
    ) -> Result<(StateEntry, bool), Error> {
        for attempt in 0..TRIES {
            let before = self.store.by_key(agent.id, key).await?;
            let version = before.as_ref().map(|one| one.version).unwrap_or_default();
            let had = before.as_ref().and_then(|one| one.value.as_ref());
            // What was removed has a version, and is not there.
            let is = if seen == Some(&Seen::Any) && had.is_none() { Version::default() } else { version };
            expect("the note", seen, is)?;
            let now = self.writer.clock().now();
            let entry = StateEntry {
                agent_id: agent.id,
                key: key.to_owned(),
                version,
                value: value.clone(),
                updated_at: now,
            };
            // What is not there is removed already.
            if had.is_none() && value.is_none() {
                return Ok((before.unwrap_or(entry), false));
            }
            if had.is_none() && self.store.count(agent.id).await? >= MAX_KEYS {
                return Err(Error::Conflict(format!(
                    "{} has {MAX_KEYS} notes already: remove one",
                    agent.agent_type
                )));
            }
            let told = Payload::StateUpdated(StateUpdated {
                agent_type: agent.agent_type.clone(),
                key: key.to_owned(),
                removed: value.is_none(),
            });
            let mut commit = self.writer.begin();
            commit.changes.push(Change::State(Box::new(entry.clone())));
            commit.spent.extend(spent);
            self.writer.tell(&mut commit, Some(agent.id), by.actor(), vec![told], now);
            self.writer.account(&mut commit, by, now, "");
            match self.writer.apply_once(&mut commit, None, &[], &()).await? {
                Outcome::Now | Outcome::Before(()) => {
                    by.told();
                    return Ok((StateEntry { version: version.next(), ..entry }, true));
                }
                Outcome::Conflict => {
                    self.writer.still_speaks(by).await?;
                    self.writer.pause(attempt).await;
                }
            }
        }
        Err(busy("the note"))
    }
}
