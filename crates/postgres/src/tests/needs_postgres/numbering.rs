//! How events get their positions.

use std::{future::poll_fn, sync::Arc, time::Duration};

use aito_contracts::{clock::ManualClock, wait};
use aito_domain::ports::{
    ReadError,
    event_log::{EventLog as _, EventQuery},
    ledger::Ledger as _,
};
use futures_util::{FutureExt as _, StreamExt as _, future::join_all};
use tokio::{sync::mpsc, time::timeout};
use tokio_postgres::{AsyncMessage, Client, NoTls};

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
async fn readers_that_come_together_find_what_was_written_before() {
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
async fn readers_that_come_together_share_a_pass() {
    let bench = Bench::new().await;
    // Every pass that is asked for deletes once, be it nothing.
    bench
        .run(&[
            "CREATE SEQUENCE passes",
            "CREATE FUNCTION count_pass() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM nextval('passes'); RETURN NULL; END $$",
            "CREATE TRIGGER count_pass AFTER DELETE ON event_pending FOR EACH STATEMENT
                 EXECUTE FUNCTION count_pass()",
        ])
        .await;
    let count =
        async || -> i64 { bench.outside.query_one("SELECT nextval('passes')", &[]).await.unwrap().get(0) };
    let holder = connect(&bench.url).await;
    for _ in 0..5 {
        let before = count().await;
        holder.batch_execute("BEGIN").await.unwrap();
        holder.query_one("SELECT pg_advisory_xact_lock($1)", &[&crate::numberer::LOCK]).await.unwrap();
        bench.store.commit(&bench.telling()).await.unwrap();
        let waits = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait::until("a pass to be under way", SOON, async || (bench.count(waits).await == 1).then_some(()))
            .await;
        // Each has asked, too late for that one.
        let mut readers: Vec<_> = (0..8).map(|_| Box::pin(bench.store.numberer.caught_up())).collect();
        for reader in &mut readers {
            assert!(reader.now_or_never().is_none());
        }
        holder.batch_execute("COMMIT").await.unwrap();
        assert!(join_all(readers).await.iter().all(Result::is_ok));
        let passes = count().await - before - 1;
        // That one and theirs, and perhaps one more when the regular look was first to see the event.
        assert!((2..=3).contains(&passes), "{passes} passes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_tell_each_other_of_new_events() {
    let bench = Bench::new().await;
    let other = PgStore::open(Options::new(&*bench.url, Arc::new(ManualClock::new()))).await.unwrap();
    let stores = [&bench.store, &other];
    let listening = "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'aito' AND query = 'LISTEN aito_log'";
    let servers = wait::until("both to listen", SOON, async || {
        let rows = bench.outside.query(listening, &[]).await.unwrap();
        // Each has told its readers so by a change; where nothing is new there is no other one.
        let told = stores.iter().all(|store| *store.changes.borrow() == 1);
        (told && rows.len() == 2).then(|| rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>())
    })
    .await;

    let (outside, mut signals) = listen(&bench.url).await;
    for seen in 1..=10 {
        outside.batch_execute("NOTIFY aito_log").await.unwrap();
        signals.recv().await.unwrap();
        for store in stores {
            let mut changes = store.changes.subscribe();
            timeout(SOON, changes.wait_for(|count| *count > seen)).await.expect("it hears").unwrap();
        }
    }

    for _ in 0..20 {
        bench.store.commit(&bench.telling()).await.unwrap();
        bench.logged().await;
        let sender = timeout(SOON, signals.recv()).await.expect("they tell").unwrap();
        assert!(servers.contains(&sender), "{sender} is none of {servers:?}");
    }
}

/// A connection of somebody else that listens, and the sender of each signal that it hears.
async fn listen(url: &str) -> (Client, mpsc::UnboundedReceiver<i32>) {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(signal) = message {
                let _ = tell.send(signal.process_id());
            }
        }
    });
    client.batch_execute("LISTEN aito_log").await.unwrap();
    (client, heard)
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
