//! The stores on SQLite: one file, one connection that writes, a few that read.
//!
//! Invariants: what is acknowledged is on the disk (write-ahead log with `synchronous=FULL`); all writing goes
//! through one thread, which commits what waits together, so positions follow the order of commits and have no
//! holes; reading never waits for writing; no transaction is open outside of this module.
//!
//! [`SqliteStore::open`] comes first and knows no epoch yet, because the installation's record, which names it,
//! lies in the store itself; [`SqliteStore::log`] then gives the event log of that epoch.

mod audit;
mod changes;
mod domains;
mod ledger;
mod mailbox;
mod open;
mod readers;
mod schema;
mod settings;
mod state;
mod tasks;
mod tokens;
mod translate;
mod writer;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use aito_domain::{
    agent::Agent,
    event::Event,
    history::HistoryEntry,
    id::{AgentId, AgentType},
    installation::{Epoch, InstallationRecord},
    ports::{
        ReadError,
        agent_store::AgentStore,
        clock::Clock,
        event_log::{Bounds, EventLog, EventQuery},
        heartbeats::{FlushError, Heartbeat, Heartbeats},
        history_store::{HistoryCursor, HistoryStore, Written},
        installation_store::InstallationStore,
    },
    time::Timestamp,
};
use async_trait::async_trait;
use diesel::{
    dsl::{max, min},
    prelude::*,
    sql_types::{BigInt, Binary, Nullable, Text},
    sqlite::SqliteConnection,
};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::watch;

pub use open::{OpenError, SCHEMA_VERSION};
use readers::Readers;
use translate::{
    AgentRow, EventRow, HeartbeatRow, HistoryRow, InstallationRow, Untranslatable, blob, natural,
};
use writer::{Stop, WriteError, Writer};

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// The file; it is made when it is missing, its directory is not.
    pub path: PathBuf,
    /// The time that is written beside commit ids.
    pub clock: Arc<dyn Clock>,
    /// How many queries run at the same time, at least 1.
    pub readers: usize,
    /// How long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
    /// How long a caller waits for an answer: this long for a query, and for a change once for its turn and
    /// once for its commit.
    pub timeout: Duration,
}

impl Options {
    /// A file with the usual settings: four readers, 5 s for locks, 10 s for answers.
    pub fn new(path: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        Self {
            path: path.into(),
            clock,
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

/// The store on one SQLite file; see the module. It keeps what became of a commit id for 24 hours: the writer
/// forgets older ones by itself, once an hour.
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
    clock: Arc<dyn Clock>,
    /// Counts commits, for those who wait for the next.
    commits: watch::Sender<u64>,
}

impl SqliteStore {
    /// Opens the file, made and migrated as needed. Blocks until that is done.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the file; a foreign one and one of a later version are left alone.
    pub fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        let Options { path, clock, readers, busy_timeout, timeout } = options;
        let connection = open::prepare(&path, busy_timeout)?;
        let unopenable = |source| OpenError::Unopenable { path: path.clone(), source };
        let readers = Readers::open(path.clone(), readers, busy_timeout, timeout).map_err(unopenable)?;
        let writer = Writer::start(connection, path.clone(), busy_timeout, timeout, Arc::clone(&clock))
            .map_err(|source| OpenError::Unopenable { path: path.clone(), source: Box::new(source) })?;
        Ok(Arc::new(Self { writer, readers, clock, commits: watch::Sender::new(0) }))
    }

    /// The event log, whose positions carry `epoch`: the one of the installation's record.
    #[must_use]
    pub fn log(self: &Arc<Self>, epoch: Epoch) -> Arc<SqliteEventLog> {
        Arc::new(SqliteEventLog { store: Arc::clone(self), epoch })
    }
}

/// The event log of one epoch, from [`SqliteStore::log`].
pub struct SqliteEventLog {
    store: Arc<SqliteStore>,
    epoch: Epoch,
}

#[async_trait]
impl EventLog for SqliteEventLog {
    fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    async fn after(&self, n: u64, limit: u32) -> Result<Vec<Event>, ReadError> {
        use schema::events;
        // What SQLite cannot count to is beyond the end.
        let Ok(n) = i64::try_from(n) else { return Ok(Vec::new()) };
        let epoch = self.epoch.clone();
        let query = move |connection: &mut SqliteConnection| {
            let rows: Vec<EventRow> = events::table
                .filter(events::position.gt(n))
                .order(events::position)
                .limit(i64::from(limit))
                .select(EventRow::as_select())
                .load(connection)?;
            Ok(rows.into_iter().map(|row| row.into_domain(&epoch)).collect::<Result<_, _>>()?)
        };
        self.store.readers.run(query).await
    }

    async fn tail(&self, n: u64, limit: u32) -> Result<Vec<Event>, ReadError> {
        self.after(n, limit).await
    }

    async fn latest(&self, query: &EventQuery, limit: u32) -> Result<Vec<Event>, ReadError> {
        use schema::events;
        let EventQuery { event_type, hidden, agent, before } = query.clone();
        let epoch = self.epoch.clone();
        let query = move |connection: &mut SqliteConnection| {
            let mut rows = events::table.select(EventRow::as_select()).into_boxed();
            if let Some(event_type) = event_type {
                rows = rows.filter(events::event_type.eq(event_type));
            }
            if !hidden.is_empty() {
                rows = rows.filter(events::event_type.ne_all(hidden));
            }
            if let Some(agent) = agent {
                rows = rows.filter(events::source_agent.eq(blob(agent.0)));
            }
            if let Some(before) = before.and_then(|n| i64::try_from(n).ok()) {
                rows = rows.filter(events::position.lt(before));
            }
            let rows: Vec<EventRow> =
                rows.order(events::position.desc()).limit(i64::from(limit)).load(connection)?;
            Ok(rows.into_iter().map(|row| row.into_domain(&epoch)).collect::<Result<_, _>>()?)
        };
        self.store.readers.run(query).await
    }

    async fn bounds(&self) -> Result<Option<Bounds>, ReadError> {
        use schema::events;
        let query = |connection: &mut SqliteConnection| {
            // Two sub-queries of one statement: each is one step in the table's tree, and they see one state.
            let (oldest, newest): (Option<i64>, Option<i64>) = diesel::select((
                events::table.select(min(events::position)).single_value(),
                events::table.select(max(events::position)).single_value(),
            ))
            .get_result(connection)?;
            let (Some(oldest), Some(newest)) = (oldest, newest) else { return Ok(None) };
            Ok(Some(Bounds { oldest: natural("position", oldest)?, newest: natural("position", newest)? }))
        };
        self.store.readers.run(query).await
    }

    /// At once for what this process commits, at the next tick for what anybody else does.
    fn hints(&self) -> BoxStream<'static, ()> {
        let state = (self.store.commits.subscribe(), tokio::time::interval(LOOK_FOR_OTHERS));
        stream::unfold(state, |(mut commits, mut tick)| async move {
            tokio::select! {
                Ok(()) = commits.changed() => {}
                _ = tick.tick() => {}
            }
            Some(((), (commits, tick)))
        })
        .boxed()
    }
}

/// How often a listener is told to look for what another process may have written.
const LOOK_FOR_OTHERS: Duration = Duration::from_millis(500);

#[async_trait]
impl AgentStore for SqliteStore {
    async fn list(&self) -> Result<Vec<Agent>, ReadError> {
        use schema::agents;
        let query = |connection: &mut SqliteConnection| {
            let rows: Vec<AgentRow> =
                agents::table.order(agents::agent_type).select(AgentRow::as_select()).load(connection)?;
            Ok(rows.into_iter().map(AgentRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn by_type(&self, agent_type: &AgentType) -> Result<Option<Agent>, ReadError> {
        use schema::agents;
        let agent_type = agent_type.clone();
        let query = move |connection: &mut SqliteConnection| {
            let row: Option<AgentRow> = agents::table
                .filter(agents::agent_type.eq(agent_type.as_str()))
                .select(AgentRow::as_select())
                .first(connection)
                .optional()?;
            Ok(row.map(AgentRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }

    async fn by_id(&self, id: AgentId) -> Result<Option<Agent>, ReadError> {
        use schema::agents;
        let query = move |connection: &mut SqliteConnection| {
            let row: Option<AgentRow> =
                agents::table.find(blob(id.0)).select(AgentRow::as_select()).first(connection).optional()?;
            Ok(row.map(AgentRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }
}

#[async_trait]
impl HistoryStore for SqliteStore {
    async fn page(
        &self,
        agent: AgentId,
        before: Option<HistoryCursor>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, ReadError> {
        use schema::history::dsl::{agent_id, created_at, history, id};
        let query = move |connection: &mut SqliteConnection| {
            let mut rows =
                history.filter(agent_id.eq(blob(agent.0))).select(HistoryRow::as_select()).into_boxed();
            if let Some(before) = before {
                let at = before.at.timestamp_millis();
                // The first condition alone bounds the walk through the index; the second is exact.
                rows = rows.filter(created_at.le(at)).filter(created_at.lt(at).or(id.lt(blob(before.id.0))));
            }
            let rows: Vec<HistoryRow> =
                rows.order((created_at.desc(), id.desc())).limit(i64::from(limit)).load(connection)?;
            Ok(rows.into_iter().map(HistoryRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }

    async fn written(&self, agent: AgentId, from: Timestamp) -> Result<Written, ReadError> {
        let query = move |connection: &mut SqliteConnection| {
            let Sums { rows, bytes } = diesel::sql_query(
                "SELECT count(*) AS rows,
                     coalesce(sum(octet_length(summary) + coalesce(octet_length(details), 0)), 0) AS bytes
                 FROM history WHERE agent_id = ? AND created_at >= ?",
            )
            .bind::<Binary, _>(blob(agent.0))
            .bind::<BigInt, _>(from.timestamp_millis())
            .get_result(connection)?;
            Ok(Written { rows: natural("count of rows", rows)?, bytes: natural("count of bytes", bytes)? })
        };
        self.readers.run(query).await
    }
}

/// What [`HistoryStore::written`] asks for.
#[derive(QueryableByName)]
struct Sums {
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}

#[async_trait]
impl Heartbeats for SqliteStore {
    async fn flush(&self, rows: &[Heartbeat]) -> Result<(), FlushError> {
        let rows = rows
            .iter()
            .map(HeartbeatRow::of)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| FlushError(Box::new(error)))?;
        if rows.is_empty() {
            return Ok(());
        }
        let work = move |connection: &mut SqliteConnection| {
            rows.iter()
                .try_for_each(|row| keep_if_newer(connection, row))
                .map_err(Stop::<Untranslatable>::from)
        };
        self.writer.run(work).await.map_err(|error| match error {
            WriteError::Refused(error) => FlushError(Box::new(error)),
            // A row that is stored again changes nothing, so an unknown end needs no question.
            WriteError::Unavailable(cause) | WriteError::Unknown(cause) => FlushError(cause),
        })
    }

    async fn all(&self) -> Result<Vec<Heartbeat>, ReadError> {
        use schema::heartbeats;
        let query = |connection: &mut SqliteConnection| {
            let rows: Vec<HeartbeatRow> = heartbeats::table
                .order(heartbeats::agent_id)
                .select(HeartbeatRow::as_select())
                .load(connection)?;
            Ok(rows.into_iter().map(HeartbeatRow::into_domain).collect::<Result<_, _>>()?)
        };
        self.readers.run(query).await
    }
}

fn keep_if_newer(connection: &mut SqliteConnection, row: &HeartbeatRow) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO heartbeats (agent_id, incarnation, at, loop_count, last_loop_at, activity)
         VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (agent_id) DO UPDATE SET
             incarnation = excluded.incarnation, at = excluded.at, loop_count = excluded.loop_count,
             last_loop_at = excluded.last_loop_at, activity = excluded.activity
         WHERE (excluded.incarnation, excluded.at) > (heartbeats.incarnation, heartbeats.at)",
    )
    .bind::<Binary, _>(&row.agent_id)
    .bind::<BigInt, _>(row.incarnation)
    .bind::<BigInt, _>(row.at)
    .bind::<BigInt, _>(row.loop_count)
    .bind::<Nullable<BigInt>, _>(row.last_loop_at)
    .bind::<Nullable<Text>, _>(row.activity.as_deref())
    .execute(connection)
    .map(drop)
}

#[async_trait]
impl InstallationStore for SqliteStore {
    async fn load(&self) -> Result<Option<InstallationRecord>, ReadError> {
        let query = |connection: &mut SqliteConnection| {
            Ok(stored_installation(connection)?.map(InstallationRow::into_domain).transpose()?)
        };
        self.readers.run(query).await
    }

    async fn create(&self, record: &InstallationRecord) -> Result<InstallationRecord, ReadError> {
        use schema::installation;
        let row = InstallationRow::of(record);
        let work = move |connection: &mut SqliteConnection| -> Result<InstallationRow, Stop<Untranslatable>> {
            if let Some(stands) = stored_installation(connection)? {
                return Ok(stands);
            }
            diesel::insert_into(installation::table)
                .values((installation::one.eq(1), &row))
                .execute(connection)?;
            Ok(row)
        };
        match self.writer.run(work).await {
            Ok(row) => Ok(row.into_domain()?),
            Err(WriteError::Refused(error)) => Err(error.into()),
            // Asking again finds the record if it was written.
            Err(WriteError::Unavailable(cause) | WriteError::Unknown(cause)) => {
                Err(ReadError::Unavailable(cause))
            }
        }
    }

    async fn set_engine(&self, from: &str, to: &str) -> Result<Option<InstallationRecord>, ReadError> {
        use schema::installation;
        let (from, to) = (from.to_owned(), to.to_owned());
        let work = move |connection: &mut SqliteConnection| -> Result<Option<InstallationRow>, Stop<Untranslatable>> {
            diesel::update(installation::table.filter(installation::engine_id.eq(from)))
                .set(installation::engine_id.eq(to))
                .execute(connection)?;
            Ok(stored_installation(connection)?)
        };
        match self.writer.run(work).await {
            Ok(row) => Ok(row.map(InstallationRow::into_domain).transpose()?),
            Err(WriteError::Refused(error)) => Err(error.into()),
            Err(WriteError::Unavailable(cause) | WriteError::Unknown(cause)) => {
                Err(ReadError::Unavailable(cause))
            }
        }
    }
}

fn stored_installation(connection: &mut SqliteConnection) -> QueryResult<Option<InstallationRow>> {
    use schema::installation;
    installation::table.select(InstallationRow::as_select()).first(connection).optional()
}
