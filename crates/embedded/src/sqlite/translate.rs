//! Between the domain and the rows, errors included; nothing here does I/O. Tokens and audit are in `guard`, tasks and
//! mailboxes in `work`, domains, settings, notes and what was used up in `policy`.
//!
//! Invariants: what goes in comes out equal; what cannot be stored exactly (a number above `i64::MAX`) is
//! refused on the way in, what cannot be understood is an error on the way out, never a guess.

mod guard;
mod policy;
mod work;

use aito_domain::{
    agent::{Agent, Desired},
    event::{Event, NewEvent, Position},
    history::HistoryEntry,
    id::{AgentId, EventId, HistoryId, Incarnation, InstallationId, Version},
    installation::{Epoch, InstallationRecord, RuntimeKind},
    ports::{
        ReadError,
        heartbeats::{Activity, Heartbeat},
        ledger::{Change, Commit, Speaker},
    },
    task::TaskPick,
    time::{Timestamp, millis},
};
use diesel::{
    AsChangeset, Insertable, Queryable, Selectable,
    result::{DatabaseErrorKind, Error as DieselError},
    sqlite::Sqlite,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use super::schema;
pub(super) use guard::{AuditRow, CheckpointRow, PlaceColumns, TokenRow, head};
pub(super) use policy::{DomainRequestRow, DomainRow, SettingRow, SpentRow, StateRow};
pub(super) use work::{MailRow, TaskRow};

/// A value that the store cannot hold, or holds in a form that this version does not understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Untranslatable {
    /// SQLite's integers end at `i64::MAX`.
    #[error("{0} is too large to be stored")]
    TooLarge(&'static str),
    /// A domain value has no JSON form.
    #[error("{0} has no JSON form: {1}")]
    NoJson(&'static str, String),
    /// A stored value is not one of the domain's.
    #[error("the stored {0} cannot be understood: {1}")]
    Strange(&'static str, String),
}

/// An agent's row, as it is read and written.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::agents, check_for_backend(Sqlite), treat_none_as_null = true)]
pub(super) struct AgentRow {
    pub id: Vec<u8>,
    pub agent_type: String,
    pub version: i64,
    pub desired: String,
    pub incarnation: i64,
    pub lifecycle: String,
    pub reach: String,
    pub focus: Option<String>,
    pub failures: i64,
    pub restarts: i64,
    pub last_exit: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
}

/// An event's row before it has a position.
#[derive(Debug, Clone, PartialEq, Insertable)]
#[diesel(table_name = schema::events, check_for_backend(Sqlite))]
pub(super) struct NewEventRow {
    pub id: Vec<u8>,
    pub event_type: String,
    pub source_agent: Option<Vec<u8>>,
    pub actor: String,
    pub body: String,
    pub created_at: i64,
}

/// An event's row.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable)]
#[diesel(table_name = schema::events, check_for_backend(Sqlite))]
pub(super) struct EventRow {
    pub position: i64,
    pub id: Vec<u8>,
    pub event_type: String,
    pub source_agent: Option<Vec<u8>>,
    pub actor: String,
    pub body: String,
    pub created_at: i64,
}

/// A row of history.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::history, check_for_backend(Sqlite))]
pub(super) struct HistoryRow {
    pub id: Vec<u8>,
    pub agent_id: Vec<u8>,
    pub incarnation: i64,
    pub action_type: String,
    pub summary: String,
    pub details: Option<String>,
    pub created_at: i64,
}

/// A heartbeat's row.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable)]
#[diesel(table_name = schema::heartbeats, check_for_backend(Sqlite))]
pub(super) struct HeartbeatRow {
    pub agent_id: Vec<u8>,
    pub incarnation: i64,
    pub at: i64,
    pub loop_count: i64,
    pub last_loop_at: Option<i64>,
    pub activity: Option<String>,
}

/// The installation's row.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::installation, check_for_backend(Sqlite))]
pub(super) struct InstallationRow {
    pub id: Vec<u8>,
    pub epoch: String,
    pub key_fingerprint: String,
    pub runtime: String,
    pub engine_id: String,
}

/// A whole commit in rows, made before the writer is asked so that it only writes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CommitRows {
    pub id: Vec<u8>,
    pub answer: Option<String>,
    /// Each change with the version that must be stored; its row carries the next one. Agents come first, because what
    /// is theirs needs them.
    pub changes: Vec<(i64, ChangeRow)>,
    pub events: Vec<NewEventRow>,
    pub history: Vec<HistoryRow>,
    pub audit: Vec<AuditRow>,
    /// The agent that speaks, and its incarnation.
    pub speaker: Option<(Vec<u8>, i64)>,
    pub pick: Option<TaskPick>,
    pub spent: Vec<SpentRow>,
}

/// A changed aggregate's row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ChangeRow {
    Agent(AgentRow),
    Token(TokenRow),
    Task(TaskRow),
    Mail(MailRow),
    Domain(DomainRow),
    DomainRequest(DomainRequestRow),
    Setting(SettingRow),
    State(StateRow),
}

impl CommitRows {
    pub(super) fn of(commit: &Commit) -> Result<Self, Untranslatable> {
        let changes = commit.changes.iter().map(|change| {
            let read_at = number("a version", change.read_at().0)?;
            Ok((read_at, ChangeRow::next_of(change)?))
        });
        let mut changes: Vec<_> = changes.collect::<Result<_, _>>()?;
        changes.sort_by_key(|(_, row)| !matches!(row, ChangeRow::Agent(_)));
        let speaker = commit.speaker.map(|Speaker { agent, incarnation }| {
            Ok((blob(agent.0), number("an incarnation", incarnation.0)?))
        });
        Ok(Self {
            id: blob(commit.id.0),
            answer: commit.answer.as_ref().map(Value::to_string),
            changes,
            events: commit.events.iter().map(NewEventRow::of).collect(),
            history: commit.history.iter().map(HistoryRow::of).collect::<Result<_, _>>()?,
            audit: commit.audit.iter().map(AuditRow::of).collect::<Result<_, _>>()?,
            speaker: speaker.transpose()?,
            pick: commit.pick.clone(),
            spent: commit.spent.iter().map(SpentRow::of).collect::<Result<_, _>>()?,
        })
    }
}

impl ChangeRow {
    fn next_of(change: &Change) -> Result<Self, Untranslatable> {
        Ok(match change {
            Change::Agent(agent) => Self::Agent(AgentRow::next_of(agent)?),
            Change::Token(token) => Self::Token(TokenRow::next_of(token)?),
            Change::Task(task) => Self::Task(TaskRow::next_of(task)?),
            Change::Mail(mail) => Self::Mail(MailRow::next_of(mail)?),
            Change::Domain(entry) => Self::Domain(DomainRow::next_of(entry)?),
            Change::DomainRequest(request) => Self::DomainRequest(DomainRequestRow::next_of(request)?),
            Change::Setting(setting) => Self::Setting(SettingRow::next_of(setting)?),
            Change::State(entry) => Self::State(StateRow::next_of(entry)?),
        })
    }
}

impl AgentRow {
    /// The row that a commit of this agent writes: with the version after the one that was read.
    pub(super) fn next_of(agent: &Agent) -> Result<Self, Untranslatable> {
        Ok(Self {
            id: blob(agent.id.0),
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
            created_at: agent.created_at.timestamp_millis(),
            updated_at: agent.updated_at.timestamp_millis(),
        })
    }

    pub(super) fn into_domain(self) -> Result<Agent, Untranslatable> {
        let desired = match self.desired.as_str() {
            word if word == Desired::Running.as_str() => Desired::Running,
            word if word == Desired::Stopped.as_str() => Desired::Stopped,
            other => return Err(Untranslatable::Strange("wish", other.to_owned())),
        };
        Ok(Agent {
            id: AgentId(uuid("agent id", &self.id)?),
            agent_type: self
                .agent_type
                .parse()
                .map_err(|error| Untranslatable::Strange("agent type", format!("{error}")))?,
            version: Version(natural("version", self.version)?),
            desired,
            incarnation: Incarnation(natural("incarnation", self.incarnation)?),
            lifecycle: value("lifecycle", &self.lifecycle)?,
            reach: value("reach", &self.reach)?,
            focus: self.focus,
            failures: u32::try_from(self.failures)
                .map_err(|_| Untranslatable::Strange("count of failures", self.failures.to_string()))?,
            restarts: natural("count of restarts", self.restarts)?,
            last_exit: self.last_exit.map(|text| value("last exit", &text)).transpose()?,
            created_at: millis(self.created_at),
            updated_at: millis(self.updated_at),
        })
    }
}

impl NewEventRow {
    pub(super) fn of(event: &NewEvent) -> Self {
        Self {
            id: blob(event.id.0),
            event_type: event.payload.event_type().to_owned(),
            source_agent: event.source_agent.map(|agent| blob(agent.0)),
            actor: event.actor.to_string(),
            body: event.payload.body().to_string(),
            created_at: event.created_at.timestamp_millis(),
        }
    }
}

impl EventRow {
    pub(super) fn into_domain(self, epoch: &Epoch) -> Result<Event, Untranslatable> {
        let Ok(actor) = self.actor.parse();
        Ok(Event {
            id: EventId(uuid("event id", &self.id)?),
            position: Position { epoch: epoch.clone(), n: natural("position", self.position)? },
            event_type: self.event_type,
            source_agent: self.source_agent.map(|id| uuid("agent id", &id).map(AgentId)).transpose()?,
            actor,
            body: value("event body", &self.body)?,
            created_at: millis(self.created_at),
        })
    }
}

impl HistoryRow {
    fn of(entry: &HistoryEntry) -> Result<Self, Untranslatable> {
        Ok(Self {
            id: blob(entry.id.0),
            agent_id: blob(entry.agent_id.0),
            incarnation: number("an incarnation", entry.incarnation.0)?,
            action_type: entry.action_type.as_str().to_owned(),
            summary: entry.summary.clone(),
            details: entry.details.as_ref().map(Value::to_string),
            created_at: entry.created_at.timestamp_millis(),
        })
    }

    pub(super) fn into_domain(self) -> Result<HistoryEntry, Untranslatable> {
        Ok(HistoryEntry {
            id: HistoryId(uuid("history id", &self.id)?),
            agent_id: AgentId(uuid("agent id", &self.agent_id)?),
            incarnation: Incarnation(natural("incarnation", self.incarnation)?),
            action_type: self
                .action_type
                .parse()
                .map_err(|_| Untranslatable::Strange("action type", self.action_type.clone()))?,
            summary: self.summary,
            details: self.details.map(|text| value("details", &text)).transpose()?,
            created_at: millis(self.created_at),
        })
    }
}

impl HeartbeatRow {
    pub(super) fn of(heartbeat: &Heartbeat) -> Result<Self, Untranslatable> {
        Ok(Self {
            agent_id: blob(heartbeat.agent_id.0),
            incarnation: number("an incarnation", heartbeat.incarnation.0)?,
            at: heartbeat.at.timestamp_millis(),
            loop_count: number("a loop count", heartbeat.loop_count)?,
            last_loop_at: heartbeat.last_loop_at.as_ref().map(Timestamp::timestamp_millis),
            activity: heartbeat.activity.map(|activity| activity.as_str().to_owned()),
        })
    }

    pub(super) fn into_domain(self) -> Result<Heartbeat, Untranslatable> {
        let activity = match self.activity {
            None => None,
            Some(word) => Some(
                Activity::parse(&word).ok_or_else(|| Untranslatable::Strange("activity", word.clone()))?,
            ),
        };
        Ok(Heartbeat {
            agent_id: AgentId(uuid("agent id", &self.agent_id)?),
            incarnation: Incarnation(natural("incarnation", self.incarnation)?),
            at: millis(self.at),
            loop_count: natural("loop count", self.loop_count)?,
            last_loop_at: self.last_loop_at.map(millis),
            activity,
        })
    }
}

impl InstallationRow {
    pub(super) fn of(record: &InstallationRecord) -> Self {
        Self {
            id: blob(record.id.0),
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
            id: InstallationId(uuid("installation id", &self.id)?),
            epoch: self.epoch.parse().map_err(|_| Untranslatable::Strange("epoch", self.epoch.clone()))?,
            key_fingerprint: self.key_fingerprint,
            runtime,
            engine_id: self.engine_id,
        })
    }
}

/// What SQLite meant. Diesel keeps of its codes only the message, so the message is what is read here; each
/// text is that of `sqlite3_errstr` for the code named beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A row clashes with what is stored: a unique key, a foreign key, a check.
    Clash,
    /// `SQLITE_BUSY`, `SQLITE_LOCKED`: somebody else holds the lock.
    Busy,
    /// `SQLITE_FULL`: no room.
    Full,
    /// `SQLITE_CORRUPT`.
    Corrupt,
    /// `SQLITE_NOTADB`.
    NotADatabase,
    /// Anything else, `SQLITE_IOERR` above all.
    Other,
}

pub(super) fn meaning(error: &DieselError) -> Meaning {
    let DieselError::DatabaseError(kind, information) = error else {
        return Meaning::Other;
    };
    match kind {
        DatabaseErrorKind::UniqueViolation
        | DatabaseErrorKind::ForeignKeyViolation
        | DatabaseErrorKind::NotNullViolation
        | DatabaseErrorKind::CheckViolation => Meaning::Clash,
        _ => meaning_of(information.message()),
    }
}

pub(super) fn meaning_of(message: &str) -> Meaning {
    const TEXTS: [(&str, Meaning); 6] = [
        ("database is locked", Meaning::Busy),
        ("database table is locked", Meaning::Busy),
        ("database schema is locked", Meaning::Busy),
        ("database or disk is full", Meaning::Full),
        ("database disk image is malformed", Meaning::Corrupt),
        ("file is not a database", Meaning::NotADatabase),
    ];
    TEXTS
        .into_iter()
        .find(|(text, _)| message.starts_with(text))
        .map_or(Meaning::Other, |(_, meaning)| meaning)
}

/// Whether a failed COMMIT was certainly not applied.
///
/// A full disk fails while frames are written to the log, of which the one that commits is the last: it is not
/// there. A lock that was not granted, or a constraint that is checked at the end, wrote nothing. Any other error may come from the fsync after that last
/// frame: this process sees the old state, but a crash before the frames are overwritten would bring the new
/// one back.
pub(super) fn commit_certainly_failed(error: &DieselError) -> bool {
    matches!(meaning(error), Meaning::Full | Meaning::Busy | Meaning::Clash)
}

/// A failed query as the ports tell it.
pub(super) fn read_error(error: DieselError) -> ReadError {
    let unreadable = matches!(error, DieselError::DeserializationError(_))
        || matches!(meaning(&error), Meaning::Corrupt | Meaning::NotADatabase);
    if unreadable { ReadError::Corrupt(Box::new(error)) } else { ReadError::Unavailable(Box::new(error)) }
}

impl From<Untranslatable> for ReadError {
    fn from(error: Untranslatable) -> Self {
        Self::Corrupt(Box::new(error))
    }
}

/// An id as it is stored: its 16 bytes, which memcmp orders as the domain does.
pub(super) fn blob(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// A `u64` that SQLite can hold.
pub(super) fn number(what: &'static str, value: u64) -> Result<i64, Untranslatable> {
    i64::try_from(value).map_err(|_| Untranslatable::TooLarge(what))
}

/// Any stored JSON.
pub(super) fn value<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, Untranslatable> {
    serde_json::from_str(text).map_err(|error| Untranslatable::Strange(what, error.to_string()))
}

/// A stored number that cannot be below zero.
pub(super) fn natural(what: &'static str, value: i64) -> Result<u64, Untranslatable> {
    u64::try_from(value).map_err(|_| Untranslatable::Strange(what, value.to_string()))
}

/// A stored id.
pub(super) fn uuid(what: &'static str, bytes: &[u8]) -> Result<Uuid, Untranslatable> {
    Uuid::from_slice(bytes).map_err(|error| Untranslatable::Strange(what, error.to_string()))
}

fn json<T: Serialize>(what: &'static str, value: &T) -> Result<String, Untranslatable> {
    serde_json::to_string(value).map_err(|error| Untranslatable::NoJson(what, error.to_string()))
}

#[cfg(test)]
mod tests {
    use aito_domain::{
        agent::{Exit, LastExit, Lifecycle, Reach},
        event::{Actor, Payload},
        history::ActionType,
    };
    use serde_json::json;

    use super::*;

    fn agent() -> Agent {
        Agent {
            id: AgentId(Uuid::from_u128(1)),
            agent_type: "risk-officer".parse().unwrap(),
            version: Version(6),
            desired: Desired::Running,
            incarnation: Incarnation(8),
            lifecycle: Lifecycle::Error {
                since: millis(1_700_000_000_123),
                reason: "\"quoted\" and ünïcode".into(),
                retry_at: millis(1_700_000_001_000),
            },
            reach: Reach::Unreachable { since: millis(1) },
            focus: Some(String::new()),
            failures: u32::MAX,
            restarts: i64::MAX as u64,
            last_exit: Some(LastExit {
                incarnation: Incarnation(7),
                exit: Exit::Lost("its container is gone".into()),
                at: millis(-1),
            }),
            created_at: millis(0),
            updated_at: millis(1_700_000_000_124),
        }
    }

    #[test]
    fn an_agent_reads_back_with_the_next_version() {
        let read = AgentRow::next_of(&agent()).unwrap().into_domain().unwrap();
        assert_eq!(read, Agent { version: Version(7), ..agent() });
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused_not_bent() {
        let large = Agent { restarts: u64::MAX, ..agent() };
        assert_eq!(AgentRow::next_of(&large), Err(Untranslatable::TooLarge("the restarts")));
        let last = Agent { version: Version(i64::MAX as u64), ..agent() };
        assert!(AgentRow::next_of(&last).is_err());
    }

    #[test]
    fn what_a_later_version_wrote_is_an_error_not_a_guess() {
        let row = AgentRow::next_of(&agent()).unwrap();
        for strange in [
            AgentRow { desired: "paused".into(), ..row.clone() },
            AgentRow { lifecycle: r#"{"state":"hibernating"}"#.into(), ..row.clone() },
            AgentRow { reach: "not json".into(), ..row.clone() },
            AgentRow { incarnation: -1, ..row.clone() },
            AgentRow { id: vec![1, 2], ..row.clone() },
            AgentRow { agent_type: "CEO".into(), ..row.clone() },
            AgentRow { failures: -1, ..row },
        ] {
            assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
        }
    }

    #[test]
    fn an_event_keeps_its_body_whatever_its_type() {
        let body = json!({"deep": [0.1, 1e300, -0.0, u64::MAX, null, {"ä": "\u{0}\n"}]});
        let event = NewEvent {
            id: EventId(Uuid::from_u128(2)),
            source_agent: Some(AgentId(Uuid::from_u128(1))),
            actor: Actor::Token("ops".into()),
            payload: Payload::Unknown { event_type: "agent_sang".into(), body: body.clone() },
            created_at: millis(5),
        };
        let row = NewEventRow::of(&event);
        let epoch: Epoch = "abcd".parse().unwrap();
        let read = EventRow {
            position: 9,
            id: row.id,
            event_type: row.event_type,
            source_agent: row.source_agent,
            actor: row.actor,
            body: row.body,
            created_at: row.created_at,
        }
        .into_domain(&epoch)
        .unwrap();
        assert_eq!((read.id, read.body, read.created_at), (event.id, body, event.created_at));
        assert_eq!((read.event_type.as_str(), read.position.to_string().as_str()), ("agent_sang", "abcd-9"));
        assert_eq!((read.source_agent, read.actor), (event.source_agent, event.actor));
    }

    #[test]
    fn history_heartbeats_and_the_installation_read_back() {
        let entry = HistoryEntry {
            id: HistoryId(Uuid::from_u128(3)),
            agent_id: AgentId(Uuid::from_u128(1)),
            incarnation: Incarnation(8),
            action_type: ActionType::Idea,
            summary: "a thought".into(),
            details: Some(json!(null)),
            created_at: millis(77),
        };
        assert_eq!(HistoryRow::of(&entry).unwrap().into_domain().unwrap(), entry);

        let heartbeat = Heartbeat {
            agent_id: AgentId(Uuid::from_u128(1)),
            incarnation: Incarnation(8),
            at: millis(99),
            loop_count: 3,
            last_loop_at: Some(millis(98)),
            activity: Some(Activity::Blocked),
        };
        assert_eq!(HeartbeatRow::of(&heartbeat).unwrap().into_domain().unwrap(), heartbeat);
        assert!(HeartbeatRow::of(&Heartbeat { loop_count: u64::MAX, ..heartbeat }).is_err());

        let record = InstallationRecord {
            id: InstallationId(Uuid::from_u128(4)),
            epoch: "abcd".parse().unwrap(),
            key_fingerprint: "0123456789abcdef".into(),
            runtime: RuntimeKind::Docker,
            engine_id: "engine".into(),
        };
        assert_eq!(InstallationRow::of(&record).into_domain().unwrap(), record);
    }

    #[test]
    fn sqlite_messages_have_their_meaning() {
        let error =
            |text: &str| DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned()));
        assert_eq!(meaning(&error("database or disk is full")), Meaning::Full);
        assert_eq!(meaning(&error("database is locked")), Meaning::Busy);
        assert_eq!(meaning(&error("disk I/O error")), Meaning::Other);
        assert!(commit_certainly_failed(&error("database or disk is full")));
        assert!(!commit_certainly_failed(&error("disk I/O error")), "it may come from the fsync");
        assert!(matches!(read_error(error("database disk image is malformed")), ReadError::Corrupt(_)));
        assert!(matches!(read_error(error("disk I/O error")), ReadError::Unavailable(_)));
        let clash = DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, Box::new(String::new()));
        assert_eq!(meaning(&clash), Meaning::Clash);
    }
}
