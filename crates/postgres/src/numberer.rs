//! Gives events their positions, after the commits that wrote them.
//!
//! Invariants: positions are given under one lock, to what is visible then, in the order in which writers took
//! their numbers, without holes; so who has read up to a position never finds a new event before it, and a writer
//! whose transaction is open holds up nobody. What is numbered is on the disk before anybody reads it. A pass that
//! was begun after a moment has numbered, when it succeeds, everything that was committed before that moment. While
//! passes follow one another, those that only writers ask for wait a little for more of them; nobody waits for that. No
//! wait is unbounded, and a pass that fails is told to those who wait for it and to nobody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aito_domain::Cause;
use diesel::{QueryDsl as _, QueryResult, dsl::exists, result::Error as DieselError, sql_types::BigInt};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::future;
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};

use super::{
    connect::{ConnectError, Connector, Role},
    schema::event_pending,
    sql::Sql,
    translate::{Meaning, meaning},
};

/// The advisory lock under which events are numbered.
pub(super) const LOCK: i64 = 0x6169_746f_0002;
/// How often one looks for events that nobody has numbered, because the server that wrote them died just then.
const LOOK: Duration = Duration::from_millis(500);
/// How long after a pass the next one waits for company, unless a reader waits for it. Passes cost the database as much
/// as commits do, and their events are read together.
const GATHER: Duration = Duration::from_millis(3);
/// Events that one transaction numbers at most.
const BATCH: i64 = 5000;

/// What readers and writers see of the numberer, whose task is [`run`].
pub(super) struct Numberer {
    asked: AtomicU64,
    wake: Notify,
    /// A reader waits.
    urgent: Notify,
    passes: watch::Sender<Pass>,
}

/// How the last pass ended.
#[derive(Debug, Clone, Default)]
struct Pass {
    /// Every request up to this one was made before the pass began.
    covers: u64,
    failure: Option<Arc<NumberError>>,
}

/// Why events could not be numbered.
#[derive(Debug, thiserror::Error)]
enum NumberError {
    #[error("no connection for numbering events")]
    Connect(#[from] ConnectError),
    #[error("the server did not number events")]
    Query(#[from] DieselError),
    #[error("the server did not number events in time")]
    Late(#[from] tokio::time::error::Elapsed),
}

/// What a reader is told.
#[derive(Debug, thiserror::Error)]
#[error("new events cannot be numbered")]
struct NotNumbered(#[source] Arc<NumberError>);

impl Numberer {
    pub(super) fn new() -> Self {
        Self {
            asked: AtomicU64::new(0),
            wake: Notify::new(),
            urgent: Notify::new(),
            passes: watch::Sender::new(Pass::default()),
        }
    }

    /// There is something to number; waits for nothing.
    pub(super) fn wake(&self) {
        self.asked.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Waits until everything that was committed before this call has its position. Callers that come together
    /// wait for one pass. The caller bounds the wait.
    pub(super) async fn caught_up(&self) -> Result<(), Cause> {
        let mut passes = self.passes.subscribe();
        let mine = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.urgent.notify_one();
        let pass = passes.wait_for(|pass| pass.covers >= mine).await?;
        match &pass.failure {
            None => Ok(()),
            Some(failure) => Err(Box::new(NotNumbered(Arc::clone(failure)))),
        }
    }
}

/// Numbers events as long as the store lives. `numbered` is called after each pass that gave positions.
pub(super) async fn run(
    numberer: Arc<Numberer>,
    connector: Arc<Connector>,
    timeout: Duration,
    numbered: impl Fn() + Send,
) {
    let mut connection = None;
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        let is_asked = tokio::select! {
            () = numberer.urgent.notified() => true,
            () = numberer.wake.notified() => true,
            _ = tick.tick() => false,
        };
        let covers = AtomicU64::load(&numberer.asked, Ordering::Acquire);
        let result = match attempt(&mut connection, &connector, timeout, is_asked).await {
            // The connection that is kept for this may have been lost long ago.
            Err(NumberError::Query(error))
                if matches!(meaning(&error), Meaning::Lost | Meaning::ReadOnly) =>
            {
                attempt(&mut connection, &connector, timeout, is_asked).await
            }
            result => result,
        };
        let mut is_busy = false;
        let failure = match result {
            Ok(count) => {
                is_busy = count > 0;
                if is_busy {
                    numbered();
                }
                None
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "events wait for their positions"
                    );
                }
                Some(Arc::new(error))
            }
        };
        if is_failing && failure.is_none() {
            tracing::info!("events get their positions again");
        }
        is_failing = failure.is_some();
        numberer.passes.send_replace(Pass { covers, failure });
        if is_busy && tokio::time::timeout(GATHER, numberer.urgent.notified()).await.is_ok() {
            // For the wait above.
            numberer.urgent.notify_one();
        }
    }
}

/// One pass, on the connection at hand or a new one; a connection that failed is not kept.
async fn attempt(
    kept: &mut Option<AsyncPgConnection>,
    connector: &Connector,
    timeout: Duration,
    is_asked: bool,
) -> Result<u64, NumberError> {
    let connection = match kept.take() {
        Some(connection) => connection,
        None => connector.open(Role::Number).await?,
    };
    let count = tokio::time::timeout(timeout, async {
        if is_asked || is_pending(&connection).await? { number_all(&connection).await } else { Ok(0) }
    })
    .await??;
    *kept = Some(connection);
    Ok(count)
}

/// Whether events without a position are visible. What was committed before this is asked, and is not pending,
/// whoever asks later finds with its position.
pub(super) async fn is_pending(mut connection: &AsyncPgConnection) -> QueryResult<bool> {
    diesel::select(exists(event_pending::table.select(event_pending::seq))).get_result(&mut connection).await
}

async fn number_all(connection: &AsyncPgConnection) -> QueryResult<u64> {
    let mut all = 0;
    loop {
        let count = number(connection).await?;
        all += count;
        if count < BATCH.unsigned_abs() {
            return Ok(all);
        }
    }
}

/// Numbers one batch. The statements are sent together and run one after the other: that which numbers takes its
/// snapshot (READ COMMITTED) when the lock is held, and so sees all that earlier holders did. The end is among them, so
/// that a server that stands still or dies holds the lock no longer than the database takes. After a failure COMMIT
/// rolls back.
async fn number(mut connection: &AsyncPgConnection) -> QueryResult<u64> {
    let (mut begin, mut lock, mut end) = (connection, connection, connection);
    let (begun, locked, numbered, ended) = future::join4(
        begin.batch_execute("BEGIN"),
        Sql::<()>::new("SELECT pg_advisory_xact_lock(?)").bind::<BigInt, _>(LOCK).execute(&mut lock),
        Sql::<()>::new(NUMBER).bind::<BigInt, _>(BATCH).execute(&mut connection),
        end.batch_execute("COMMIT"),
    )
    .await;
    begun?;
    locked?;
    let count = numbered?;
    ended?;
    Ok(count as u64)
}

/// Of more than a batch the first are taken. An event is fetched by its key, whatever the planner thinks of a table
/// whose size changes all the time: hence the sub-query that it cannot flatten.
const NUMBER: &str = "
    WITH taken AS (
        DELETE FROM event_pending
        WHERE seq <= (SELECT max(seq) FROM (SELECT seq FROM event_pending ORDER BY seq LIMIT ?) AS first)
        RETURNING seq
    ), head AS (
        UPDATE event_head SET position = position + (SELECT count(*) FROM taken)
        WHERE one = 1 AND EXISTS (SELECT FROM taken)
        RETURNING position - (SELECT count(*) FROM taken) AS position
    )
    INSERT INTO event_order (position, seq, event_type, source_agent)
    SELECT head.position + row_number() OVER (ORDER BY taken.seq), taken.seq, event.event_type, event.source_agent
    FROM head CROSS JOIN taken CROSS JOIN LATERAL
        (SELECT event_type, source_agent FROM events WHERE events.seq = taken.seq OFFSET 0) AS event";
