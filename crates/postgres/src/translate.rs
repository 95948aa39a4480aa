//! Between the domain and the rows, errors included; nothing here does I/O.
//!
//! Invariants: what goes in comes out equal; what cannot be stored exactly (a number above `i64::MAX`) is
//! refused on the way in, what cannot be understood is an error on the way out, never a guess.

use aito_domain::{
    agent::{Agent, Desired},
    event::{Event, NewEvent, Position},
    history::HistoryEntry,
    id::{AgentId, EventId, HistoryId, Incarnation, InstallationId, Version},
    installation::{Epoch, InstallationRecord, RuntimeKind},
    ports::{
        ReadError,
        heartbeats::{Activity, Heartbeat},
        ledger::{Change, Commit},
    },
    task::Picked,
    time::Timestamp,
};
use diesel::{
    AsChangeset, Insertable, Queryable, Selectable,
    pg::Pg,
    result::{DatabaseErrorKind, Error as DieselError},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use super::schema;

mod guard;
#[cfg(test)]
mod tests;
mod work;

pub(super) use guard::{AuditRow, CheckpointRow, HeadRow, NewAudit, NewPlaces, NewUses, TokenRow};
pub(super) use work::{
    Changed, DomainRequestRow, DomainRow, MailRow, NewMail, NewSpent, SettingRow, StateRow, TaskRow, WorkRows,
};

/// A value that the store cannot hold, or holds in a form that this version does not understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Untranslatable {
    /// PostgreSQL's `bigint` ends at `i64::MAX`.
    #[error("{0} is too large to be stored")]
    TooLarge(&'static str),
    /// A domain value has no JSON form.
    #[error("{0} has no JSON form: {1}")]
    NoJson(&'static str, String),
    /// A stored value is not one of the domain's.
    #[error("the stored {0} cannot be understood: {1}")]
    Strange(&'static str, String),
}

/// An agent's row, as it is read and written. What is not there is written as NULL, not as DEFAULT: a statement with
/// that word is prepared anew every time, which costs a round trip.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::agents, check_for_backend(Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub(super) struct AgentRow {
    pub id: Uuid,
    pub agent_type: String,
    pub version: i64,
    pub desired: String,
    pub incarnation: i64,
    pub lifecycle: Value,
    pub reach: Value,
    pub focus: Option<String>,
    pub failures: i64,
    pub restarts: i64,
    pub last_exit: Option<Value>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// New events, column by column.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct NewEvents {
    pub ids: Vec<Uuid>,
    pub event_types: Vec<String>,
    pub source_agents: Vec<Option<Uuid>>,
    pub actors: Vec<String>,
    pub bodies: Vec<Value>,
    pub created_at: Vec<Timestamp>,
}

/// An event's row with its position.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable)]
#[diesel(table_name = schema::events, check_for_backend(Pg))]
pub(super) struct EventRow {
    #[diesel(select_expression = schema::event_order::position)]
    pub position: i64,
    pub id: Uuid,
    pub event_type: String,
    pub source_agent: Option<Uuid>,
    pub actor: String,
    pub body: Value,
    pub created_at: Timestamp,
}

/// New rows of history, column by column.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct NewHistory {
    pub ids: Vec<Uuid>,
    pub agent_ids: Vec<Uuid>,
    pub incarnations: Vec<i64>,
    pub action_types: Vec<String>,
    pub summaries: Vec<String>,
    pub details: Vec<Option<Value>>,
    pub created_at: Vec<Timestamp>,
}

/// A row of history.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable)]
#[diesel(table_name = schema::history, check_for_backend(Pg))]
pub(super) struct HistoryRow {
    pub id: Uuid,
    pub agent_id: Uuid,
    pub incarnation: i64,
    pub action_type: String,
    pub summary: String,
    pub details: Option<Value>,
    pub created_at: Timestamp,
}

/// Heartbeats to be stored, column by column, ordered by agent: two servers that store the same agents' rows then
/// lock them in the same order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct NewHeartbeats {
    pub agent_ids: Vec<Uuid>,
    pub incarnations: Vec<i64>,
    pub at: Vec<Timestamp>,
    pub loop_counts: Vec<i64>,
    pub last_loops_at: Vec<Option<Timestamp>>,
    pub activities: Vec<Option<String>>,
}

/// A heartbeat's row.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable)]
#[diesel(table_name = schema::heartbeats, check_for_backend(Pg))]
pub(super) struct HeartbeatRow {
    pub agent_id: Uuid,
    pub incarnation: i64,
    pub at: Timestamp,
    pub loop_count: i64,
    pub last_loop_at: Option<Timestamp>,
    pub activity: Option<String>,
}

/// The installation's row.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::installation, check_for_backend(Pg))]
pub(super) struct InstallationRow {
    pub id: Uuid,
    pub epoch: String,
    pub key_fingerprint: String,
    pub runtime: String,
    pub engine_id: String,
}

/// A whole commit in rows, made before a connection is taken.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CommitRows {
    pub id: Uuid,
    pub answer: Option<Value>,
    /// Each agent with the version that must be stored; its row carries the next one. Ordered by id, so that two
    /// commits that change the same agents lock them in the same order.
    pub agents: Vec<(i64, AgentRow)>,
    /// Tokens that exist, likewise; what ends one frees its name for the new ones.
    pub tokens: Vec<(i64, TokenRow)>,
    /// Tokens that do not exist yet, ordered by name, for which two commits may wait for each other.
    pub new_tokens: Vec<TokenRow>,
    pub work: WorkRows,
    /// The agent that speaks and its incarnation.
    pub speaker: Option<(Uuid, i64)>,
    pub events: NewEvents,
    pub history: NewHistory,
    pub audit: NewAudit,
}

impl CommitRows {
    pub(super) fn of(commit: &Commit) -> Result<Self, Untranslatable> {
        let (mut agents, mut tokens, mut new_tokens) = (Vec::new(), Vec::new(), Vec::new());
        for change in &commit.changes {
            let read_at = number("a version", change.read_at().0)?;
            match change {
                Change::Agent(agent) => agents.push((read_at, AgentRow::next_of(agent)?)),
                Change::Token(token) if read_at == 0 => new_tokens.push(TokenRow::next_of(token)?),
                Change::Token(token) => tokens.push((read_at, TokenRow::next_of(token)?)),
                // Those that are left are work.
                _ => {}
            }
        }
        agents.sort_by_key(|(_, row)| row.id);
        tokens.sort_by_key(|(_, row)| row.id);
        new_tokens.sort_by(|a, b| a.name.cmp(&b.name));
        let speaker = commit
            .speaker
            .map(|speaker| Ok((speaker.agent.0, number("an incarnation", speaker.incarnation.0)?)));
        Ok(Self {
            id: commit.id.0,
            answer: commit.answer.clone().filter(|_| commit.pick.is_none()),
            agents,
            tokens,
            new_tokens,
            work: WorkRows::of(&commit.changes, &commit.spent)?,
            speaker: speaker.transpose()?,
            events: NewEvents::of(&commit.events),
            history: NewHistory::of(&commit.history)?,
            audit: NewAudit::of(&commit.audit)?,
        })
    }

    /// Adds what a pick came to, its events after the others.
    pub(super) fn add(&mut self, picked: &Picked) -> Result<(), Untranslatable> {
        self.work.add(&picked.tasks, &picked.mails)?;
        self.events.add(&picked.events);
        self.answer = Some(json("the outcome of a pick", &picked.outcome)?);
        Ok(())
    }
}

impl AgentRow {
    /// The row that a commit of this agent writes: with the version after the one that was read.
    pub(super) fn next_of(agent: &Agent) -> Result<Self, Untranslatable> {
        Ok(Self {
            id: agent.id.0,
            agent_type: agent.agent_type.as_str().to_owned(),
            version: number("a version", agent.version.0.saturating_add(1))?,
            desired: agent.desired.as_str().to_owned(),
            incarnation: number("an incarnation", agent.incarnation.0)?,
            lifecycle: json("the lifecycle", &agent.lifecycle)?,
            reach: json("the reach", &agent.reach)?,
            focus: agent.focus.clone(),
            failures: i64::from(agent.failures),
            restarts: number("the restarts", agent.restarts)?,
            last_exit: agent.last_exit.as_ref().map(|exit| json("the last exit", exit)).transpose()?,
            created_at: agent.created_at,
            updated_at: agent.updated_at,
        })
    }

    pub(super) fn into_domain(self) -> Result<Agent, Untranslatable> {
        let desired = match self.desired.as_str() {
            word if word == Desired::Running.as_str() => Desired::Running,
            word if word == Desired::Stopped.as_str() => Desired::Stopped,
            other => return Err(Untranslatable::Strange("wish", other.to_owned())),
        };
        Ok(Agent {
            id: AgentId(self.id),
            agent_type: self
                .agent_type
                .parse()
                .map_err(|error| Untranslatable::Strange("agent type", format!("{error}")))?,
            version: Version(natural("version", self.version)?),
            desired,
            incarnation: Incarnation(natural("incarnation", self.incarnation)?),
            lifecycle: value("lifecycle", self.lifecycle)?,
            reach: value("reach", self.reach)?,
            focus: self.focus,
            failures: u32::try_from(self.failures)
                .map_err(|_| Untranslatable::Strange("count of failures", self.failures.to_string()))?,
            restarts: natural("count of restarts", self.restarts)?,
            last_exit: self.last_exit.map(|exit| value("last exit", exit)).transpose()?,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

impl NewEvents {
    fn of(events: &[NewEvent]) -> Self {
        let mut rows = Self::default();
        rows.add(events);
        rows
    }

    fn add(&mut self, events: &[NewEvent]) {
        for event in events {
            self.ids.push(event.id.0);
            self.event_types.push(event.payload.event_type().to_owned());
            self.source_agents.push(event.source_agent.map(|agent| agent.0));
            self.actors.push(event.actor.to_string());
            self.bodies.push(event.payload.body());
            self.created_at.push(event.created_at);
        }
    }
}

impl EventRow {
    pub(super) fn into_domain(self, epoch: &Epoch) -> Result<Event, Untranslatable> {
        let Ok(actor) = self.actor.parse();
        Ok(Event {
            id: EventId(self.id),
            position: Position { epoch: epoch.clone(), n: natural("position", self.position)? },
            event_type: self.event_type,
            source_agent: self.source_agent.map(AgentId),
            actor,
            body: self.body,
            created_at: self.created_at,
        })
    }
}

impl NewHistory {
    fn of(entries: &[HistoryEntry]) -> Result<Self, Untranslatable> {
        let mut rows = Self::default();
        for entry in entries {
            rows.ids.push(entry.id.0);
            rows.agent_ids.push(entry.agent_id.0);
            rows.incarnations.push(number("an incarnation", entry.incarnation.0)?);
            rows.action_types.push(entry.action_type.as_str().to_owned());
            rows.summaries.push(entry.summary.clone());
            rows.details.push(entry.details.clone());
            rows.created_at.push(entry.created_at);
        }
        Ok(rows)
    }
}

impl HistoryRow {
    pub(super) fn into_domain(self) -> Result<HistoryEntry, Untranslatable> {
        Ok(HistoryEntry {
            id: HistoryId(self.id),
            agent_id: AgentId(self.agent_id),
            incarnation: Incarnation(natural("incarnation", self.incarnation)?),
            action_type: self
                .action_type
                .parse()
                .map_err(|_| Untranslatable::Strange("action type", self.action_type.clone()))?,
            summary: self.summary,
            details: self.details,
            created_at: self.created_at,
        })
    }
}

impl NewHeartbeats {
    pub(super) fn of(heartbeats: &[Heartbeat]) -> Result<Self, Untranslatable> {
        let mut ordered: Vec<&Heartbeat> = heartbeats.iter().collect();
        ordered.sort_by_key(|heartbeat| heartbeat.agent_id);
        let mut rows = Self::default();
        for heartbeat in ordered {
            rows.agent_ids.push(heartbeat.agent_id.0);
            rows.incarnations.push(number("an incarnation", heartbeat.incarnation.0)?);
            rows.at.push(heartbeat.at);
            rows.loop_counts.push(number("a loop count", heartbeat.loop_count)?);
            rows.last_loops_at.push(heartbeat.last_loop_at);
            rows.activities.push(heartbeat.activity.map(|activity| activity.as_str().to_owned()));
        }
        Ok(rows)
    }
}

impl HeartbeatRow {
    pub(super) fn into_domain(self) -> Result<Heartbeat, Untranslatable> {
        let activity = match self.activity {
            None => None,
            Some(word) => Some(
                Activity::parse(&word).ok_or_else(|| Untranslatable::Strange("activity", word.clone()))?,
            ),
        };
        Ok(Heartbeat {
            agent_id: AgentId(self.agent_id),
            incarnation: Incarnation(natural("incarnation", self.incarnation)?),
            at: self.at,
            loop_count: natural("loop count", self.loop_count)?,
            last_loop_at: self.last_loop_at,
            activity,
        })
    }
}

impl InstallationRow {
    pub(super) fn of(record: &InstallationRecord) -> Self {
        Self {
            id: record.id.0,
            epoch: record.epoch.as_str().to_owned(),
            key_fingerprint: record.key_fingerprint.clone(),
            runtime: record.runtime.to_string(),
            engine_id: record.engine_id.clone(),
        }
    }

    pub(super) fn into_domain(self) -> Result<InstallationRecord, Untranslatable> {
        let runtime = [RuntimeKind::Process, RuntimeKind::Docker]
            .into_iter()
            .find(|kind| kind.to_string() == self.runtime)
            .ok_or_else(|| Untranslatable::Strange("runtime", self.runtime.clone()))?;
        Ok(InstallationRecord {
            id: InstallationId(self.id),
            epoch: self.epoch.parse().map_err(|_| Untranslatable::Strange("epoch", self.epoch.clone()))?,
            key_fingerprint: self.key_fingerprint,
            runtime,
            engine_id: self.engine_id,
        })
    }
}

/// What PostgreSQL meant.
///
/// Diesel keeps of the SQLSTATE no more than the kinds named here; the rest is `Unknown` with a message, whose
/// language is the server's and not ours to choose (only a superuser may set `lc_messages`). No decision needs
/// more: before COMMIT is sent every failure is certain, at COMMIT whatever is not among these kinds is
/// uncertain, and a connection on which anything but a clash happened is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A row clashes with what is stored (class 23), or with what another transaction does at the same time
    /// (40001, and 40P01 where the server speaks English).
    Clash,
    /// The server takes no changes (25006): a standby, or a primary that has become one.
    ReadOnly,
    /// The connection is lost.
    Lost,
    /// Anything else: a time-out, no room, a server that goes down.
    Other,
}

pub(super) fn meaning(error: &DieselError) -> Meaning {
    let DieselError::DatabaseError(kind, information) = error else {
        return Meaning::Other;
    };
    match kind {
        DatabaseErrorKind::UniqueViolation
        | DatabaseErrorKind::ForeignKeyViolation
        | DatabaseErrorKind::RestrictViolation
        | DatabaseErrorKind::NotNullViolation
        | DatabaseErrorKind::CheckViolation
        | DatabaseErrorKind::ExclusionViolation
        | DatabaseErrorKind::SerializationFailure => Meaning::Clash,
        DatabaseErrorKind::ReadOnlyTransaction => Meaning::ReadOnly,
        DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection => Meaning::Lost,
        _ if information.message() == "deadlock detected" => Meaning::Clash,
        _ => Meaning::Other,
    }
}

/// Whether a failed COMMIT was certainly not applied.
///
/// A clash is found, and a server that takes no changes says so, before the commit is written. Anything else may
/// have come after: a server that is told to stop (57P01) ends connections whose commit is on its disk already and
/// waits for a standby.
pub(super) fn commit_certainly_failed(error: &DieselError) -> bool {
    matches!(meaning(error), Meaning::Clash | Meaning::ReadOnly)
}

/// A failed query as the ports tell it.
pub(super) fn read_error(error: DieselError) -> ReadError {
    if matches!(error, DieselError::DeserializationError(_)) {
        ReadError::Corrupt(Box::new(error))
    } else {
        ReadError::Unavailable(Box::new(error))
    }
}

impl From<Untranslatable> for ReadError {
    fn from(error: Untranslatable) -> Self {
        Self::Corrupt(Box::new(error))
    }
}

/// A stored number that cannot be below zero.
pub(super) fn natural(what: &'static str, value: i64) -> Result<u64, Untranslatable> {
    u64::try_from(value).map_err(|_| Untranslatable::Strange(what, value.to_string()))
}

/// A `u64` that PostgreSQL can hold.
fn number(what: &'static str, value: u64) -> Result<i64, Untranslatable> {
    i64::try_from(value).map_err(|_| Untranslatable::TooLarge(what))
}

fn value<T: DeserializeOwned>(what: &'static str, value: Value) -> Result<T, Untranslatable> {
    serde_json::from_value(value).map_err(|error| Untranslatable::Strange(what, error.to_string()))
}

fn json<T: Serialize>(what: &'static str, value: &T) -> Result<Value, Untranslatable> {
    serde_json::to_value(value).map_err(|error| Untranslatable::NoJson(what, error.to_string()))
}
