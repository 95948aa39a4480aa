//! Opening and dropping stores, migrations, refusals.

use std::{sync::Arc, time::Duration};

use aito_contracts::{clock::ManualClock, wait};
use aito_domain::{
    audit::Head,
    ports::{
        agent_store::AgentStore as _, audit_store::AuditStore as _, ledger::Ledger as _,
        task_store::TaskStore as _,
    },
};
use aito_harness::servers::{POSTGRES, address, free_port};
use futures_util::future::join_all;

use crate::{
    OpenError, Options, PgStore, SCHEMA_VERSION,
    tests::bench::{Bench, SOON, connect, fresh_database},
};

async fn open(url: &str) -> Result<Arc<PgStore>, OpenError> {
    PgStore::open(Options::new(url, Arc::new(ManualClock::new()))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_meet_a_new_database_at_once_migrate_it_once() {
    let url = fresh_database().await;
    let opened = join_all((0..4).map(|_| open(&url))).await;
    for store in &opened {
        assert!(store.is_ok(), "{:?}", store.as_ref().err());
    }
    let outside = connect(&url).await;
    let rows = outside.query("SELECT version FROM __diesel_schema_migrations", &[]).await.unwrap();
    assert_eq!(rows.len(), 5);
    let written_by: String =
        outside.query_one("SELECT written_by FROM schema_info", &[]).await.unwrap().get(0);
    assert_eq!(written_by, env!("CARGO_PKG_VERSION"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_something_else_is_refused_and_left_alone() {
    let url = fresh_database().await;
    let outside = connect(&url).await;
    outside.batch_execute("CREATE TABLE songs (title text); CREATE VIEW users AS SELECT 1").await.unwrap();
    let error = open(&url).await.err().unwrap();
    assert!(matches!(&error, OpenError::Foreign { what, .. } if what.contains("songs, users")), "{error:?}");
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(outside.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 2);

    outside.batch_execute("CREATE TABLE schema_info (colour text)").await.unwrap();
    let error = open(&url).await.err().unwrap();
    assert!(matches!(&error, OpenError::Foreign { what, .. } if what.contains("schema_info")), "{error:?}");
    assert_eq!(outside.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_may_lose_what_it_acknowledged_is_refused() {
    let url = fresh_database().await;
    let outside = connect(&url).await;
    let database = url.rsplit_once('/').unwrap().1;
    outside.batch_execute(&format!("ALTER DATABASE {database} SET synchronous_commit = off")).await.unwrap();
    let error = open(&url).await.err().unwrap();
    assert!(matches!(error, OpenError::NotDurable { .. }), "{error:?}");
    let schema = outside.query_one("SELECT to_regclass('schema_info') IS NULL", &[]).await.unwrap();
    assert!(schema.get::<_, bool>(0), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_needs_a_later_binary_is_refused_with_both_versions() {
    let bench = Bench::new().await;
    bench.run(&["UPDATE schema_info SET min_reader_version = 7, written_by = '9.8.7'"]).await;
    bench.run(&["DELETE FROM __diesel_schema_migrations WHERE version = '0310'"]).await;
    let error = open(&bench.url).await.err().unwrap();
    assert!(matches!(error, OpenError::TooNew { needs: 7, knows: SCHEMA_VERSION, .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("schema 7")
            && text.contains(&format!("knows {SCHEMA_VERSION}"))
            && text.contains("9.8.7"),
        "{text}"
    );
    assert_eq!(bench.count("__diesel_schema_migrations").await, 4, "nothing was migrated");
    assert_eq!(bench.count("schema_info WHERE written_by = '9.8.7'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_migrations_are_no_reason_to_refuse() {
    let bench = Bench::new().await;
    bench
        .run(&[
            "INSERT INTO __diesel_schema_migrations (version) VALUES ('9999')",
            "ALTER TABLE agents ADD COLUMN mood text",
            "CREATE TABLE moods (name text)",
        ])
        .await;
    let store = open(&bench.url).await.unwrap();
    store.commit(&bench.changing(&bench.agent("ceo"))).await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_guard_and_work_gets_them_and_keeps_what_it_has() {
    let bench = Bench::new().await;
    bench.store.commit(&bench.changing(&bench.agent("ceo"))).await.unwrap();
    let undone = [
        include_str!("../../../../../migrations/postgres/0310_mailbox/down.sql"),
        include_str!("../../../../../migrations/postgres/0300_work/down.sql"),
        include_str!("../../../../../migrations/postgres/0200_guard/down.sql"),
        "DELETE FROM __diesel_schema_migrations WHERE version IN ('0200', '0300', '0310')",
    ];
    bench.run(&undone).await;
    let store = open(&bench.url).await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1);
    assert_eq!(store.head().await.unwrap(), Head::NONE);
    assert_eq!(store.leases().await.unwrap(), []);
    assert_eq!(bench.count("schema_info WHERE min_reader_version = 1").await, 1, "it was an expansion");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_or_refuses_is_named_without_the_password() {
    let nobody = format!("postgres://aito:secret@127.0.0.1:{}/books", free_port());
    let error = open(&nobody).await.err().unwrap();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("\"books\" at 127.0.0.1"), "{error}");
    assert!(!format!("{error:?}").contains("secret"));

    let (server, _) = address(POSTGRES).rsplit_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let error = open(&format!("{server}/there_is_no_such_database")).await.err().unwrap();
    assert!(matches!(error, OpenError::Denied { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_store_leaves_no_connection_behind() {
    let bench = Bench::new().await;
    bench.store.commit(&bench.telling()).await.unwrap();
    bench.logged().await;
    let ours = "pg_stat_activity WHERE datname = current_database() AND application_name = 'aito'";
    assert!(bench.count(ours).await >= 3, "a call, the numberer, signals");
    // In async code, where a runtime must not be dropped in the usual way.
    let Bench { store, outside, .. } = bench;
    assert_eq!(Arc::strong_count(&store), 1, "no task keeps the store");
    drop(store);
    wait::until("the connections to be gone", SOON, async || {
        let row = outside.query_one(&format!("SELECT count(*) FROM {ours}"), &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_store_opens_on_a_runtime_of_one_thread() {
    let url = fresh_database().await;
    let store = tokio::time::timeout(Duration::from_secs(30), open(&url)).await.unwrap().unwrap();
    assert!(store.list().await.unwrap().is_empty());
}
