//! The one that writes: a thread that owns the only writing connection and commits what waits together.
//!
//! Invariants: every unit of work runs inside a savepoint of its own, so one that is refused leaves no trace
//! and the others go on; nobody is answered before the whole batch is committed, or known not to be, because a
//! refusal may rest on what another unit of the batch wrote; a caller that stops waiting changes nothing for
//! its unit once the writer has taken it. After any failure the connection is rolled back, or replaced when it
//! does not answer, so a disk that has room again, or is back, is used again without anybody's help.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use aito_domain::{Cause, ports::clock::Clock};
use diesel::{
    connection::SimpleConnection as _, prelude::*, result::Error as DieselError, sqlite::SqliteConnection,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    open, schema,
    translate::{Meaning, commit_certainly_failed, meaning},
};

/// Units that may wait; who comes later waits for a place.
const QUEUE: usize = 1024;
/// Units that one transaction takes at most, so that the first of them does not wait for all.
const BATCH: usize = 256;
/// How long it is remembered what became of a commit. A caller that is told `Unknown` settles within seconds.
const COMMITS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often the writer looks for commit ids that need not be remembered any more.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// How many of them one batch removes at most; the next batch goes on.
const PRUNE_AT_ONCE: i64 = 1000;

/// Why a unit was not done, or that it is not known. `E` is what the unit itself refuses with.
#[derive(Debug)]
pub(super) enum WriteError<E> {
    /// The unit refused; nothing of it was stored.
    Refused(E),
    /// Certainly not stored.
    Unavailable(Cause),
    /// Perhaps stored.
    Unknown(Cause),
}

/// How a unit ends early.
#[derive(Debug)]
pub(super) enum Stop<E> {
    /// By its own decision.
    Refused(E),
    /// By the database.
    Failed(DieselError),
}

impl<E> From<DieselError> for Stop<E> {
    fn from(error: DieselError) -> Self {
        Self::Failed(error)
    }
}

/// What went wrong with a whole batch, told to each of its units.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
struct Trouble {
    what: &'static str,
    certainly_not_applied: bool,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Trouble {
    fn not_applied(what: &'static str, source: impl Into<Cause>) -> Self {
        Self { what, certainly_not_applied: true, source: Some(Arc::from(source.into())) }
    }
}

/// Hands work to the thread that writes. The thread ends, after what waits, when this is dropped.
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Unit>>,
    timeout: Duration,
}

impl Writer {
    /// Starts the thread on a connection of [`open::prepare`].
    pub(super) fn start(
        connection: SqliteConnection,
        path: PathBuf,
        busy_timeout: Duration,
        timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let thread =
            Thread { waiting, connection: Some(connection), path, busy_timeout, clock, pruned: None };
        std::thread::Builder::new().name("aito-sqlite-writer".to_owned()).spawn(move || thread.run())?;
        Ok(Self { queue, timeout })
    }

    /// Runs `work` in the next transaction and answers when that is durable.
    ///
    /// Waits at most twice the configured time: once for a place in the queue, once for the answer. A unit
    /// that the writer has not begun by then is withdrawn, which is certain; one that it has begun is unknown.
    pub(super) async fn run<T, E>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, Stop<E>> + Send + 'static,
    ) -> Result<T, WriteError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let place = match tokio::time::timeout(self.timeout, self.queue.reserve()).await {
            Ok(Ok(place)) => place,
            Ok(Err(closed)) => return Err(WriteError::Unavailable(Box::new(closed))),
            Err(elapsed) => return Err(WriteError::Unavailable(Box::new(elapsed))),
        };
        let claim = Arc::new(Claim::default());
        let (reply, answer) = oneshot::channel();
        place.send(Box::new(Task { claim: Arc::clone(&claim), work: Some(work), result: None, reply }));
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => answer,
            // The thread is gone, and with it the knowledge how far it came.
            Ok(Err(gone)) if claim.withdraw() => Err(WriteError::Unavailable(Box::new(gone))),
            Ok(Err(gone)) => Err(WriteError::Unknown(Box::new(gone))),
            Err(elapsed) if claim.withdraw() => Err(WriteError::Unavailable(Box::new(elapsed))),
            Err(elapsed) => Err(WriteError::Unknown(Box::new(elapsed))),
        }
    }
}

#[cfg(test)]
impl Writer {
    /// How many units wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

/// Decides between the writer, which takes a unit, and its caller, which withdraws it.
#[derive(Debug, Default)]
struct Claim(AtomicU8);

impl Claim {
    const TAKEN: u8 = 1;
    const WITHDRAWN: u8 = 2;

    fn take(&self) -> bool {
        self.0.compare_exchange(0, Self::TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn withdraw(&self) -> bool {
        self.0.compare_exchange(0, Self::WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// One piece of work as the thread sees it.
trait Unit: Send {
    /// Whether it is still wanted; from then on the caller cannot withdraw it.
    fn take(&self) -> bool;
    /// Does it, inside a savepoint; `false`: what it wrote is to be undone.
    fn run(&mut self, connection: &mut SqliteConnection) -> bool;
    /// Tells its caller: its own result if the batch was committed, else the trouble.
    fn answer(self: Box<Self>, trouble: Option<&Trouble>);
}

struct Task<T, E, F> {
    claim: Arc<Claim>,
    work: Option<F>,
    result: Option<Result<T, Stop<E>>>,
    reply: oneshot::Sender<Result<T, WriteError<E>>>,
}

impl<T, E, F> Unit for Task<T, E, F>
where
    T: Send,
    E: Send,
    F: FnOnce(&mut SqliteConnection) -> Result<T, Stop<E>> + Send,
{
    fn take(&self) -> bool {
        self.claim.take()
    }

    fn run(&mut self, connection: &mut SqliteConnection) -> bool {
        self.result = self.work.take().map(|work| work(connection));
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, trouble: Option<&Trouble>) {
        let answer = match (trouble, self.result) {
            (Some(trouble), result) if trouble.certainly_not_applied => {
                // Its own failure, where it had one, is what the trouble came from.
                Err(WriteError::Unavailable(match result {
                    Some(Err(Stop::Failed(error))) => Box::new(error),
                    _ => Box::new(trouble.clone()),
                }))
            }
            (Some(trouble), _) => Err(WriteError::Unknown(Box::new(trouble.clone()))),
            (None, Some(Ok(value))) => Ok(value),
            (None, Some(Err(Stop::Refused(refusal)))) => Err(WriteError::Refused(refusal)),
            // Its savepoint was rolled back before the batch was committed.
            (None, Some(Err(Stop::Failed(error)))) => Err(WriteError::Unavailable(Box::new(error))),
            (None, None) => Err(WriteError::Unavailable("the work was not begun".into())),
        };
        // Nobody may be waiting any more; what was done stays done.
        let _ = self.reply.send(answer);
    }
}

struct Thread {
    waiting: mpsc::Receiver<Box<dyn Unit>>,
    connection: Option<SqliteConnection>,
    path: PathBuf,
    busy_timeout: Duration,
    clock: Arc<dyn Clock>,
    /// When the commit ids were last looked through to the end, on the monotonic clock.
    pruned: Option<Duration>,
}

impl Thread {
    fn run(mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = self.waiting.try_recv()
            {
                batch.push(next);
            }
            batch.retain(|unit| unit.take());
            if batch.is_empty() {
                continue;
            }
            let trouble = self.transact(&mut batch).err();
            if let Some(trouble) = &trouble {
                let source = trouble.source.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(
                    units = batch.len(),
                    certainly_not_applied = trouble.certainly_not_applied,
                    source,
                    "the store did not take a batch: {trouble}"
                );
            }
            for unit in batch {
                unit.answer(trouble.as_ref());
            }
        }
    }

    /// One transaction around the batch.
    fn transact(&mut self, batch: &mut [Box<dyn Unit>]) -> Result<(), Trouble> {
        self.begin()?;
        let Some(mut connection) = self.connection.take() else {
            return Err(Trouble::not_applied("there is no connection", "it was closed"));
        };
        let prune_before =
            self.prune_is_due().then(|| self.clock.now().timestamp_millis() - as_millis(COMMITS_KEPT));
        // From here the connection is put back only when it is known to be clean.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            for unit in batch {
                run_unit(unit.as_mut(), &mut connection)?;
            }
            prune_before.map(|before| prune(&mut connection, before)).transpose()
        }));
        let pruned_all = match ran {
            Ok(Ok(pruned)) => pruned.is_some_and(|removed| removed < PRUNE_AT_ONCE),
            Ok(Err(error)) => {
                // SQLite has rolled back by itself where this says that there is nothing to roll back, which is
                // how a full disk ends; if the connection is truly broken, the next BEGIN finds out.
                let _ = connection.batch_execute("ROLLBACK");
                self.put_back(connection, true);
                return Err(Trouble::not_applied("the transaction broke off", error));
            }
            Err(panic) => {
                self.put_back(connection, false);
                return Err(Trouble::not_applied("the writer stumbled", panic_text(panic.as_ref())));
            }
        };
        match connection.batch_execute("COMMIT") {
            Ok(()) => {
                self.put_back(connection, true);
                if pruned_all {
                    self.pruned = Some(self.clock.monotonic());
                }
                Ok(())
            }
            Err(error) => {
                let certain = commit_certainly_failed(&error);
                let _ = connection.batch_execute("ROLLBACK");
                self.put_back(connection, certain);
                Err(Trouble {
                    what: "the transaction could not be committed",
                    certainly_not_applied: certain,
                    source: Some(Arc::new(error)),
                })
            }
        }
    }

    /// Takes the write lock, on a new connection if the one at hand does not answer.
    fn begin(&mut self) -> Result<(), Trouble> {
        for attempt in 0..2 {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                none => {
                    let opened = open::writer(&self.path, self.busy_timeout)
                        .map_err(|error| Trouble::not_applied("the file cannot be opened", error))?;
                    none.insert(opened)
                }
            };
            match connection.batch_execute("BEGIN IMMEDIATE") {
                Ok(()) => return Ok(()),
                Err(error) if meaning(&error) == Meaning::Busy => {
                    return Err(Trouble::not_applied("somebody else holds the write lock", error));
                }
                Err(error) => {
                    if let Some(connection) = self.connection.take() {
                        self.put_back(connection, false);
                    }
                    if attempt == 1 {
                        return Err(Trouble::not_applied("no transaction can be begun", error));
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps a clean connection; closes another one, so that the next batch opens a new one.
    fn put_back(&mut self, connection: SqliteConnection, clean: bool) {
        if clean {
            self.connection = Some(connection);
        } else if catch_unwind(AssertUnwindSafe(|| drop(connection))).is_err() {
            // Diesel panics when SQLite refuses to close; the thread must outlive that.
            tracing::warn!("a connection to the store did not close");
        }
    }

    fn prune_is_due(&self) -> bool {
        self.pruned.is_none_or(|at| self.clock.monotonic().saturating_sub(at) >= PRUNE_EVERY)
    }
}

/// Runs one unit in its savepoint. An error means that the whole transaction is lost.
fn run_unit(unit: &mut dyn Unit, connection: &mut SqliteConnection) -> QueryResult<()> {
    connection.batch_execute("SAVEPOINT unit")?;
    if !unit.run(connection) {
        // Fails when SQLite has rolled the whole transaction back by itself, which it may do on a full disk.
        connection.batch_execute("ROLLBACK TO unit")?;
    }
    connection.batch_execute("RELEASE unit")
}

/// Forgets commits of before `before` (milliseconds), at most [`PRUNE_AT_ONCE`]; gives how many.
fn prune(connection: &mut SqliteConnection, before: i64) -> QueryResult<i64> {
    use schema::commits::dsl::{at, commits, id};
    let old: Vec<Vec<u8>> =
        commits.filter(at.lt(before)).order(at).limit(PRUNE_AT_ONCE).select(id).load(connection)?;
    for old in &old {
        diesel::delete(commits.find(old)).execute(connection)?;
    }
    Ok(i64::try_from(old.len()).unwrap_or(i64::MAX))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

fn as_millis(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}
