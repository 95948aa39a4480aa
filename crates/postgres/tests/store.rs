//! The contracts of the store on PostgreSQL, plain and behind the fault injector.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::{
    mem::take,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aito_contracts::{
    clock::ManualClock,
    store::{Handles, OpenWriter, StoreFixture, epoch},
};
use aito_domain::event::NewEvent;
use aito_harness::servers::{POSTGRES, address, create_database};
use aito_postgres::{Options, PgStore};
use async_trait::async_trait;
use tokio_postgres::{Client, NoTls};

/// A store in a database of its own.
struct Pg {
    database: Database,
    store: Arc<PgStore>,
}

#[async_trait]
impl StoreFixture for Pg {
    async fn fresh() -> Self {
        let database = Database::new().await;
        Self { store: open(&database.url).await, database }
    }

    fn handles(&self) -> Handles {
        handles(&self.store)
    }

    async fn second_handle(&self) -> Handles {
        handles(&open(&self.database.url).await)
    }

    /// The old store's threads and connections end without a word, as those of a killed process.
    async fn reopen(&mut self) {
        self.store = open(&self.database.url).await;
    }

    /// Writes as the store does: the event, and its row for the numberer.
    async fn open_writer(&self, event: NewEvent) -> Box<dyn OpenWriter> {
        let client = connect(&self.database.url).await;
        client.batch_execute("BEGIN").await.unwrap();
        let body = event.payload.body().to_string();
        let created_at = event.created_at.to_rfc3339();
        let event_type = event.payload.event_type();
        let written = format!(
            "WITH written AS (
                 INSERT INTO events (id, event_type, actor, body, created_at)
                 VALUES ('{}', '{event_type}', '{}', '{body}', '{created_at}') RETURNING seq
             )
             INSERT INTO event_pending (seq) SELECT seq FROM written",
            event.id, event.actor
        );
        client.batch_execute(&written).await.unwrap();
        Box::new(Outsider(client))
    }

    /// Nobody is let in any more, and who is in is put out.
    async fn break_store(&self) {
        let name = &self.database.name;
        let admin = connect(&address(POSTGRES)).await;
        let closed = format!(
            "ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        for statement in closed.split(';') {
            admin.batch_execute(statement).await.unwrap();
        }
    }

    async fn heal(&self) {
        let admin = connect(&address(POSTGRES)).await;
        let name = &self.database.name;
        admin.batch_execute(&format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")).await.unwrap();
    }
}

/// Another program's open transaction.
struct Outsider(Client);

#[async_trait]
impl OpenWriter for Outsider {
    async fn commit(self: Box<Self>) {
        self.0.batch_execute("COMMIT").await.unwrap();
    }

    async fn roll_back(self: Box<Self>) {
        self.0.batch_execute("ROLLBACK").await.unwrap();
    }
}

/// A database of this test alone. Making one and dropping one takes a second where the disk is slow, so those of
/// finished tests are emptied and used again, and what a process leaves is dropped by the next one.
struct Database {
    name: String,
    url: String,
}

static FREE: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
static COUNT: AtomicU32 = AtomicU32::new(0);

impl Database {
    async fn new() -> Self {
        let free = FREE.lock().unwrap().pop();
        if let Some((name, url)) = free {
            empty(&name, &url).await;
            return Self { name, url };
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if count == 0 {
            drop_what_others_left().await;
        }
        let name = format!("aito_store_{}_{count}", std::process::id());
        let url = {
            let name = name.clone();
            tokio::task::spawn_blocking(move || create_database(&address(POSTGRES), &name)).await.unwrap()
        };
        Self { name, url }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            FREE.lock().unwrap().push((take(&mut self.name), take(&mut self.url)));
        }
    }
}

/// Waits until nobody is in any more, so that nothing late is written, and makes it as new.
async fn empty(name: &str, url: &str) {
    let admin = connect(&address(POSTGRES)).await;
    admin.batch_execute(&format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")).await.unwrap();
    // Waits for the end of each; one that has ended meanwhile is as well.
    let ended =
        format!("SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE datname = '{name}'");
    admin.batch_execute(&ended).await.unwrap();
    let database = connect(url).await;
    database.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
}

async fn drop_what_others_left() {
    let admin = connect(&address(POSTGRES)).await;
    let all = "SELECT datname FROM pg_database WHERE datname LIKE 'aito\\_store\\_%'";
    for row in admin.query(all, &[]).await.unwrap() {
        let name: String = row.get(0);
        let pid = name.split('_').nth(2).unwrap_or_default();
        if !Path::new("/proc").join(pid).exists() {
            // Another process may be doing the same.
            let _ = admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        }
    }
}

async fn open(url: &str) -> Arc<PgStore> {
    let clock = Arc::new(ManualClock::new());
    let options = Options { connections: 8, timeout: Duration::from_secs(20), ..Options::new(url, clock) };
    PgStore::open(options).await.unwrap()
}

fn handles(store: &Arc<PgStore>) -> Handles {
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

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

mod needs_postgres {
    mod plain {
        aito_contracts::store_suite!(crate::Pg);
    }

    mod behind_faults_1 {
        aito_contracts::store_suite!(aito_contracts::store::Injected<crate::Pg, 1>);
    }

    mod behind_faults_2 {
        aito_contracts::store_suite!(aito_contracts::store::Injected<crate::Pg, 2>);
    }
}
