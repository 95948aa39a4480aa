//! Agents' histories: rows that they add, lists that people read.

use std::sync::Arc;

use aito_domain::{
    agent::Agent,
    event::{HistoryRecorded, Payload},
    history::{ActionType, HistoryEntry, MAX_DETAILS, MAX_SUMMARY},
    id::{AgentId, HistoryId, Incarnation},
    ports::history_store::{HistoryCursor, HistoryStore},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    by::By,
    checks::Faults,
    error::Error,
    once::{Once, Outcome},
    quota::{Cost, Counted, Paid, Quotas, settle_up},
    writer::Writer,
};

/// Reads and adds history.
pub struct HistoryService {
    store: Arc<dyn HistoryStore>,
    writer: Arc<Writer>,
}

/// A row as an agent hands it in, not yet checked.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// Must be a word of [`ActionType`].
    pub action_type: String,
    /// Must have 1 to [`MAX_SUMMARY`] characters.
    pub summary: String,
    /// At most [`MAX_DETAILS`] bytes of JSON.
    pub details: Option<Value>,
}

impl HistoryService {
    /// Over these ports.
    pub fn new(store: Arc<dyn HistoryStore>, writer: Arc<Writer>) -> Self {
        Self { store, writer }
    }

    /// Up to `limit` rows of an agent, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list(
        &self,
        agent: AgentId,
        before: Option<HistoryCursor>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, Error> {
        Ok(self.store.page(agent, before, limit).await?)
    }

    /// Adds a row, in one commit with its event. The agent's row is not changed, so that histories of one
    /// agent never collide; the incarnation is checked against `agent`, which the caller has just read.
    ///
    /// With `once`, a repetition within 24 h stores nothing and gives the first row. With `quotas`, the row is taken
    /// from what the agent may store today; a repetition takes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::PastIncarnation`]; [`Error::TooMany`]; [`Error::Conflict`] when the
    /// key was used for another row; [`Error::Unavailable`].
    pub async fn record(
        &self,
        agent: &Agent,
        incarnation: Incarnation,
        new: NewEntry,
        by: &By,
        once: Option<&Once>,
        quotas: Option<&Quotas>,
    ) -> Result<HistoryEntry, Error> {
        agent
            .present(incarnation)
            .map_err(|_| Error::PastIncarnation { said: incarnation, present: agent.incarnation })?;
        let action_type = checked(&new)?;
        let now = self.writer.clock().now();
        let entry = HistoryEntry {
            id: HistoryId(self.writer.ids().uuid()),
            agent_id: agent.id,
            incarnation,
            action_type,
            summary: new.summary,
            details: new.details,
            created_at: now,
        };
        let told = Payload::HistoryRecorded(HistoryRecorded {
            agent_type: agent.agent_type.clone(),
            history_id: entry.id,
            action_type: action_type.as_str().to_owned(),
        });
        let mut commit = self.writer.begin();
        commit.history.push(entry.clone());
        self.writer.tell(&mut commit, Some(agent.id), by.actor(), vec![told], now);
        self.writer.account(&mut commit, by, now, "");
        let details = entry.details.as_ref().map(ToString::to_string).unwrap_or_default();
        let content = [entry.action_type.as_str().as_bytes(), entry.summary.as_bytes(), details.as_bytes()];
        let bytes = (entry.summary.len() + details.len()) as u64;
        let cost = quotas.map(|quotas| Cost { quotas, what: Counted::History, agent, bytes });
        let taken = match self.writer.pay::<First>(cost, once, &content).await? {
            Paid::Now(taken) => taken,
            Paid::Before(first) => return Ok(first.of(entry)),
        };
        let first = First { id: entry.id, created_at: now };
        let done = self.writer.apply_once(&mut commit, once, &content, &first).await;
        settle_up(taken, &done);
        match done? {
            Outcome::Now => {
                by.told();
                Ok(entry)
            }
            Outcome::Before(first) => Ok(first.of(entry)),
            // Nothing that it changes was there before, so nobody can have been first but the next incarnation.
            Outcome::Conflict => {
                self.writer.still_speaks(by).await?;
                Err(Error::unavailable("the database does not take changes; nothing was done", None))
            }
        }
    }
}

/// What a repetition is answered: the row as it was first stored.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct First {
    id: HistoryId,
    created_at: Timestamp,
}

impl First {
    /// The row that was stored, of the same content.
    fn of(self, entry: HistoryEntry) -> HistoryEntry {
        HistoryEntry { id: self.id, created_at: self.created_at, ..entry }
    }
}

fn checked(new: &NewEntry) -> Result<ActionType, Error> {
    let mut faults = Faults::default();
    let action_type = faults.read("/actionType", &new.action_type, str::parse::<ActionType>);
    faults.text("/summary", &new.summary, MAX_SUMMARY);
    faults.json("/details", new.details.as_ref(), MAX_DETAILS);
    faults.done()?;
    // Without a fault it was read.
    action_type.ok_or_else(|| Error::Internal("a row without an action type".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_of_a_row_are_named_at_once() {
        let new = NewEntry {
            action_type: "dance".into(),
            summary: " ".into(),
            details: Some(Value::String("x".repeat(MAX_DETAILS))),
        };
        let Err(Error::Invalid(faults)) = checked(&new) else { panic!("it must be refused") };
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/actionType", "/summary", "/details"]);
    }
}
