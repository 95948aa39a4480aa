//! How events get their positions.

use std::{sync::Arc, time::Duration};

use aito_contracts::{clock::ManualClock, wait};
use aito_domain::ports::{
    ReadError,
    event_log::{EventLog as _, EventQuery},
    ledger::Ledger as _,
};
use futures_util::StreamExt as _;

use crate::{
    Options, PgStore,
    tests::bench::{Bench, SOON, connect},
};

/// So many events of somebody who dies before they are numbered.
fn written_outside(count: u32) -> String {
    format!(
        "WITH written AS (
             INSERT INTO events (id, event_type, actor, body, created_at)
             SELECT gen_random_uuid(), 'bulk', 'system', to_json(n), now() FROM generate_series(1, {count}) AS n
             RETURNING seq
         )
         INSERT INTO event_pending SELECT seq FROM written"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_server_wrote_is_numbered_without_being_asked_for() {
    let bench = Bench::new().await;
    bench.run(&[&written_outside(3)]).await;
    wait::until("their positions", SOON, async || (bench.count("event_order").await == 3).then_some(()))
        .await;
    assert_eq!(bench.count("event_pending").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_is_numbered_in_order_and_read_at_once() {
    let bench = Bench::new().await;
    let count = 12_345;
    bench.run(&[&written_outside(count)]).await;
    let newest = bench.log().bounds().await.unwrap().unwrap().newest;
    assert_eq!(newest, u64::from(count));
    let log = bench.log().after(0, count).await.unwrap();
    assert!(log.iter().zip(1_u64..).all(|(event, n)| event.position.n == n && event.body == n));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_position_is_given_twice_though_the_newest_events_were_pruned() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        bench.store.commit(&bench.telling()).await.unwrap();
    }
    assert_eq!(bench.logged().await.len(), 3);
    bench.run(&["DELETE FROM event_order", "DELETE FROM events"]).await;
    assert_eq!(bench.log().bounds().await.unwrap(), None);
    bench.store.commit(&bench.telling()).await.unwrap();
    let newest = bench.log().latest(&EventQuery::default(), 5).await.unwrap();
    assert_eq!(newest.iter().map(|event| event.position.n).collect::<Vec<_>>(), [4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_released_fails_readers_in_time_and_only_while_it_lasts() {
    let bench = Bench::with(|options| options.numbering_timeout = Duration::from_millis(300)).await;
    bench.store.commit(&bench.telling()).await.unwrap();
    assert_eq!(bench.logged().await.len(), 1);
    let holder = connect(&bench.url).await;
    holder.batch_execute("BEGIN").await.unwrap();
    holder.query_one("SELECT pg_advisory_xact_lock($1)", &[&crate::numberer::LOCK]).await.unwrap();

    let reads = bench.log().after(0, 10).await.unwrap().len();
    assert_eq!(reads, 1, "nothing waits for a position");
    bench.store.commit(&bench.telling()).await.expect("writers do not wait for positions");
    let answer = bench.log().after(0, 10).await;
    assert!(matches!(answer, Err(ReadError::Unavailable(_))), "{answer:?}");
    let mut hints = bench.log().hints();
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(bench.logged().await.len(), 2);
    hints.next().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_come_together_share_a_pass() {
    let bench = Bench::new().await;
    for _ in 0..20 {
        bench.store.commit(&bench.telling()).await.unwrap();
        let log = bench.log();
        let reads: Vec<_> = (0..8)
            .map(|_| {
                let log = Arc::clone(&log);
                tokio::spawn(async move { log.bounds().await.unwrap().unwrap().newest })
            })
            .collect();
        let newest = bench.count("events").await;
        for read in reads {
            assert_eq!(i64::try_from(read.await.unwrap()).unwrap(), newest);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_hears_of_new_events_long_before_it_would_look() {
    let bench = Bench::new().await;
    let other = PgStore::open(Options::new(&*bench.url, Arc::new(ManualClock::new()))).await.unwrap();
    // Both listen from some moment on; that the other one hears is seen by the count of its changes.
    wait::until("a signal from the first server", SOON, async || {
        let seen = *other.changes.borrow();
        bench.store.commit(&bench.telling()).await.unwrap();
        bench.logged().await;
        let mut changes = other.changes.subscribe();
        let heard = changes.wait_for(|count| *count > seen);
        tokio::time::timeout(Duration::from_millis(200), heard).await.is_ok().then_some(())
    })
    .await;
    let listening = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND query IN ('LISTEN aito_log', 'NOTIFY aito_log')";
    assert_eq!(bench.outside.query_one(listening, &[]).await.unwrap().get::<_, i64>(0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn filtered_pages_walk_an_index() {
    let bench = Bench::new().await;
    bench.run(&[&written_outside(20_000)]).await;
    bench.log().bounds().await.unwrap();
    bench.run(&["ANALYZE event_order", "ANALYZE events"]).await;
    for (filter, index) in [
        ("event_type = 'rare'", "event_order_by_type"),
        ("source_agent = '00000000-0000-0000-0000-000000000001'", "event_order_by_agent"),
        ("position > 19000", "event_order_pkey"),
    ] {
        let plan = format!(
            "EXPLAIN SELECT * FROM event_order o JOIN events e ON e.seq = o.seq
             WHERE o.{filter} ORDER BY position DESC LIMIT 10"
        );
        let rows = bench.outside.query(&plan, &[]).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index) && !plan.contains("Seq Scan"), "{filter}:\n{plan}");
    }
}
