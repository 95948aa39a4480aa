//! The stores on PostgreSQL, for any number of servers at the same time.
//!
//! Invariants: what is acknowledged is committed; a commit is one transaction, and no transaction is open outside
//! of one call; events are numbered after their commits, in one order that everybody reads; every
//! call ends in a bounded time and closes the connection that it cannot vouch for; a lost server is found again
//! without help. Connections are opened and driven by threads of the store's own.
//!
//! [`PgStore::open`] comes first and knows no epoch yet, because the installation's record, which names it,
//! lies in the store itself; [`PgStore::log`] then gives the event log of that epoch.

mod audit;
mod connect;
mod domains;
mod keyed;
mod ledger;
mod log;
mod mailbox;
mod numberer;
mod open;
mod pool;
mod rows;
mod schema;
mod signals;
mod sql;
mod tasks;
mod tokens;
mod translate;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use aito_domain::{installation::Epoch, ports::clock::Clock};
use connect::Connector;
use numberer::Numberer;
use pool::Pool;
use tokio::{
    runtime::Runtime,
    sync::{Notify, watch},
};

pub use log::PgEventLog;
pub use open::{OpenError, SCHEMA_VERSION};

/// Threads that drive connections. They hardly compute: the server does the work.
const THREADS: usize = 2;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Where the database is: `postgres://user:password@host:port/database?option=value`. Unless the server is on
    /// this machine, the connection is encrypted and the server's certificate verified; `sslrootcert` names the
    /// authorities (a PEM file, without it the usual ones), `sslmode=disable` switches it off. Several hosts with
    /// `target_session_attrs=read-write` find the one that takes changes.
    pub url: String,
    /// The time that is written beside commit ids.
    pub clock: Arc<dyn Clock>,
    /// How many calls run at the same time, at least 1. Two more connections number events and carry signals.
    pub connections: usize,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How long a call waits for a connection while all are in use.
    pub wait_timeout: Duration,
    /// After how long the server gives up a statement.
    pub statement_timeout: Duration,
    /// After how long the server gives up a transaction in which it is asked nothing.
    pub idle_in_transaction_timeout: Duration,
    /// How long numbering may take before the readers that wait for it are told; the wait for the lock, which other
    /// servers hold for moments, is bounded by it as well.
    pub numbering_timeout: Duration,
    /// How long a caller waits for an answer, everything included.
    pub timeout: Duration,
}

impl Options {
    /// A database with the usual settings: 16 connections; 5 s to open one, to wait for one and to number events;
    /// 10 s for a statement and for an answer; 15 s for an idle transaction.
    pub fn new(url: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self {
            url: url.into(),
            clock,
            connections: 16,
            connect_timeout: Duration::from_secs(5),
            wait_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            idle_in_transaction_timeout: Duration::from_secs(15),
            numbering_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

/// The store on one PostgreSQL database; see the module. It keeps what became of a commit id for 24 hours and forgets
/// older ones by itself.
pub struct PgStore {
    pool: Arc<Pool>,
    numberer: Arc<Numberer>,
    clock: Arc<dyn Clock>,
    /// Counts what may be new in the log, for those who wait for it.
    changes: watch::Sender<u64>,
    /// Drives the connections and runs the tasks; taken when the store is dropped.
    runtime: Option<Runtime>,
}

impl PgStore {
    /// Opens the database, migrated as needed, and starts what runs beside: the numberer, signals, forgetting.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong; a foreign database and one of a later version are left alone.
    pub async fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        let connector = Arc::new(Connector::new(&options)?);
        let mut starting = Starting(Some(runtime().map_err(OpenError::NoThreads)?));
        let Some(runtime) = &starting.0 else { unreachable!("it was just put there") };
        let handle = runtime.handle().clone();
        let unprepared = |source| OpenError::Unprepared { server: connector.server(), source };

        let preparing = Arc::clone(&connector);
        let prepared = handle.spawn(async move { open::prepare(&preparing).await });
        prepared.await.map_err(|gone| unprepared(Box::new(gone)))??;

        let pool = Arc::new(Pool::new(Arc::clone(&connector), &options, handle.clone()).map_err(unprepared)?);
        let numberer = Arc::new(Numberer::new());
        let changes = watch::Sender::new(0_u64);
        let signal = Arc::new(Notify::new());
        let numbered = {
            let (changes, signal) = (changes.clone(), Arc::clone(&signal));
            move || {
                changes.send_modify(|count| *count += 1);
                signal.notify_one();
            }
        };
        let heard = {
            let changes = changes.clone();
            move || changes.send_modify(|count| *count += 1)
        };
        let numbering =
            numberer::run(Arc::clone(&numberer), Arc::clone(&connector), options.numbering_timeout, numbered);
        handle.spawn(numbering);
        handle.spawn(signals::run(connector, signal, options.timeout, heard));
        handle.spawn(ledger::forget_old(Arc::clone(&pool), Arc::clone(&options.clock)));
        Ok(Arc::new(Self { pool, numberer, clock: options.clock, changes, runtime: starting.0.take() }))
    }

    /// The event log, whose positions carry `epoch`: the one of the installation's record.
    #[must_use]
    pub fn log(self: &Arc<Self>, epoch: Epoch) -> Arc<PgEventLog> {
        Arc::new(PgEventLog::new(Arc::clone(self), epoch))
    }
}

impl Drop for PgStore {
    fn drop(&mut self) {
        drop(Starting(self.runtime.take()));
    }
}

/// A runtime that may be dropped anywhere: it does not wait for its tasks, which async code must not.
struct Starting(Option<Runtime>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("aito-postgres")
        .enable_all()
        .build()
}
