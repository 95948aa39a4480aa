//! The contracts of the store and the bus on the embedded set, plain and behind the fault injector.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use aito_contracts::{
    bus::BusFixture,
    clock::ManualClock,
    store::{Handles, OpenWriter, StoreFixture, epoch},
};
use aito_domain::{event::NewEvent, ports::bus::EventBus};
use aito_embedded::{
    bus::LocalBus,
    sqlite::{Options, SqliteStore},
};
use async_trait::async_trait;
use diesel::{
    Connection as _, RunQueryDsl as _, SqliteConnection,
    connection::SimpleConnection as _,
    sql_types::{BigInt, Binary, Text},
};
use tempfile::TempDir;

/// How long the store under test waits for a lock of somebody else: short, so that it tells so soon.
const BUSY: Duration = Duration::from_millis(60);

/// A store in a directory of its own.
struct Sqlite {
    dir: TempDir,
    store: Arc<SqliteStore>,
    /// Somebody else who keeps the write lock.
    holder: Mutex<Option<SqliteConnection>>,
}

impl Sqlite {
    fn path(&self) -> PathBuf {
        self.dir.path().join("aito.sqlite3")
    }
}

#[async_trait]
impl StoreFixture for Sqlite {
    async fn fresh() -> Self {
        let dir = directory();
        let store = open(&dir.path().join("aito.sqlite3"));
        Self { dir, store, holder: Mutex::new(None) }
    }

    fn handles(&self) -> Handles {
        handles(&self.store)
    }

    async fn second_handle(&self) -> Handles {
        handles(&open(&self.path()))
    }

    /// Goes on from a copy of what a killed process leaves: the file and its log as they are at this moment,
    /// while the old store is still open and has tidied nothing.
    async fn reopen(&mut self) {
        let dir = directory();
        for name in ["aito.sqlite3", "aito.sqlite3-wal"] {
            std::fs::copy(self.dir.path().join(name), dir.path().join(name)).unwrap();
        }
        *self = Self { store: open(&dir.path().join("aito.sqlite3")), dir, holder: Mutex::new(None) };
    }

    async fn open_writer(&self, event: NewEvent) -> Box<dyn OpenWriter> {
        let path = self.path();
        let connection = blocking(move || {
            let mut connection = outsider(&path);
            diesel::sql_query(
                "INSERT INTO events (id, event_type, actor, body, created_at) VALUES (?, ?, ?, ?, ?)",
            )
            .bind::<Binary, _>(event.id.0.as_bytes().to_vec())
            .bind::<Text, _>(event.payload.event_type().to_owned())
            .bind::<Text, _>(event.actor.to_string())
            .bind::<Text, _>(event.payload.body().to_string())
            .bind::<BigInt, _>(event.created_at.timestamp_millis())
            .execute(&mut connection)
            .unwrap();
            connection
        })
        .await;
        Box::new(Outsider(connection))
    }

    async fn break_store(&self) {
        let path = self.path();
        let holder = blocking(move || outsider(&path)).await;
        *self.holder.lock().unwrap() = Some(holder);
    }

    async fn heal(&self) {
        let holder = self.holder.lock().unwrap().take();
        blocking(move || drop(holder)).await;
    }
}

/// Another program's open transaction.
struct Outsider(SqliteConnection);

impl Outsider {
    async fn end(mut self, how: &'static str) {
        blocking(move || self.0.batch_execute(how).unwrap()).await;
    }
}

#[async_trait]
impl OpenWriter for Outsider {
    async fn commit(self: Box<Self>) {
        self.end("COMMIT").await;
    }

    async fn roll_back(self: Box<Self>) {
        self.end("ROLLBACK").await;
    }
}

/// A connection of somebody else that holds the write lock.
fn outsider(path: &Path) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    connection.batch_execute("PRAGMA busy_timeout = 30000; BEGIN IMMEDIATE").unwrap();
    connection
}

fn open(path: &Path) -> Arc<SqliteStore> {
    let clock = Arc::new(ManualClock::new());
    SqliteStore::open(Options { busy_timeout: BUSY, ..Options::new(path, clock) }).unwrap()
}

fn handles(store: &Arc<SqliteStore>) -> Handles {
    Handles {
        ledger: store.clone(),
        log: store.log(epoch()),
        agents: store.clone(),
        history: store.clone(),
        heartbeats: store.clone(),
        installation: store.clone(),
        tokens: store.clone(),
        audit: store.clone(),
        tasks: store.clone(),
        mailbox: store.clone(),
        domains: store.clone(),
        settings: store.clone(),
        state: store.clone(),
        quotas: store.clone(),
    }
}

/// In memory where the system has such a place: every commit is one fsync.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    TempDir::new_in(memory).or_else(|_| TempDir::new()).unwrap()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// The bus of one process.
struct Local(LocalBus);

#[async_trait]
impl BusFixture for Local {
    async fn fresh() -> Self {
        Self(LocalBus::new())
    }

    fn bus(&self) -> Arc<dyn EventBus> {
        Arc::new(self.0.clone())
    }

    async fn second_handle(&self) -> Arc<dyn EventBus> {
        self.bus()
    }

    fn overflow(&self) -> usize {
        2 * self.0.capacity()
    }

    async fn held(&self) -> usize {
        self.0.subscriptions()
    }
}

mod sqlite {
    aito_contracts::store_suite!(super::Sqlite);
}

mod sqlite_behind_faults_1 {
    aito_contracts::store_suite!(aito_contracts::store::Injected<super::Sqlite, 1>);
}

mod sqlite_behind_faults_2 {
    aito_contracts::store_suite!(aito_contracts::store::Injected<super::Sqlite, 2>);
}

mod bus {
    aito_contracts::bus_suite!(super::Local);
}
