//! Calls one by one: what they leave behind, what is refused, what is forgotten.

use std::{sync::Arc, time::Duration};

use aito_contracts::wait;
use aito_domain::{
    agent::Agent,
    history::{ActionType, HistoryEntry},
    id::{AgentId, CommitId, HistoryId, Incarnation, Version},
    ports::{
        ReadError,
        agent_store::AgentStore as _,
        clock::Clock as _,
        event_log::EventLog as _,
        heartbeats::Heartbeats as _,
        ledger::{Change, Commit, CommitError, Ledger as _, Settled},
    },
};
use diesel::sql_types::{Integer, Text};
use diesel_async::RunQueryDsl as _;
use futures_util::future::join_all;

use crate::{
    ledger::forget,
    sql::Sql,
    tests::bench::{Bench, SOON, connect},
};

/// What a session could keep of an earlier call.
const SESSION: &str = "SELECT concat_ws(' ', current_setting('statement_timeout'), current_setting('lock_timeout'),
        current_setting('idle_in_transaction_session_timeout'), current_setting('default_transaction_isolation'),
        current_setting('synchronous_commit'), current_setting('search_path'), current_setting('application_name'),
        (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'))";

#[tokio::test(flavor = "multi_thread")]
async fn connections_have_their_settings_and_keep_nothing_of_a_call() {
    let bench = Bench::with(|options| options.connections = 3).await;
    let store = &bench.store;
    let commit = bench.changing(&bench.agent("ceo"));
    store.commit(&commit).await.unwrap();
    assert!(matches!(store.commit(&commit).await, Err(CommitError::Duplicate(None))));
    let conflict = bench.changing(&Agent { version: Version(9), ..bench.agent("cto") });
    assert!(matches!(store.commit(&conflict).await, Err(CommitError::Conflict(_))));
    store.settle(CommitId(bench.new_id())).await.unwrap();
    bench.logged().await;

    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(store.pool.lease().await.unwrap());
    }
    for mut lease in leases {
        let session: String = Sql::<Text>::new(SESSION).get_result(&mut *lease).await.unwrap();
        assert_eq!(session, "10s 0 15s read committed on \"$user\", public aito 0");
        lease.give_back();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_its_connection_and_its_transaction_is_over() {
    let bench = Bench::with(|options| options.connections = 1).await;
    let store = &bench.store;
    let backend = async || -> i32 {
        let mut lease = store.pool.lease().await.unwrap();
        let pid = Sql::<Integer>::new("SELECT pg_backend_pid()").get_result(&mut *lease).await.unwrap();
        lease.give_back();
        pid
    };
    let commit = bench.telling();
    store.commit(&commit).await.unwrap();
    let first = backend().await;
    for _ in 0..5 {
        assert!(matches!(store.commit(&commit).await, Err(CommitError::Duplicate(None))));
        let again = Commit { events: commit.events.clone(), ..bench.telling() };
        assert!(matches!(store.commit(&again).await, Err(CommitError::Conflict(_))));
        let open = format!("pg_stat_activity WHERE pid = {first} AND xact_start IS NOT NULL");
        assert_eq!(bench.count(&open).await, 0);
    }
    store.commit(&bench.telling()).await.unwrap();
    assert_eq!(backend().await, first);
    assert_eq!(bench.logged().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_waiting_takes_the_connection_and_the_transaction_along() {
    let bench = Bench::with(|options| {
        options.connections = 2;
        options.statement_timeout = Duration::from_millis(500);
    })
    .await;
    let agent = bench.agent("ceo");
    bench.store.commit(&bench.changing(&agent)).await.unwrap();
    let agent = bench.store.by_id(agent.id).await.unwrap().unwrap();
    let holder = connect(&bench.url).await;
    holder.batch_execute("BEGIN; SELECT * FROM agents FOR UPDATE").await.unwrap();
    let commit = bench.changing(&agent);
    for _ in 0..6 {
        give_up_half_way(&bench, &commit).await;
    }
    assert_eq!(bench.store.list().await.unwrap().len(), 1, "there are connections for others");
    // The server ends what it was left with, by itself.
    let open = "pg_stat_activity WHERE datname = current_database() AND application_name = 'aito'
         AND xact_start IS NOT NULL";
    wait::until("no transaction to be open", SOON, async || (bench.count(open).await == 0).then_some(()))
        .await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(bench.store.settle(commit.id).await.unwrap(), Settled::NotApplied);
    assert_eq!(bench.store.by_id(agent.id).await.unwrap(), Some(agent));
    let (size, idle, waiting) = bench.store.pool.status();
    assert!(size <= 2 && idle == size && waiting == 0, "{size}, {idle}, {waiting}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_for_which_nobody_waits_do_not_hold_the_servers_connections() {
    let bench = Bench::with(|options| {
        options.connections = 2;
        // What ends here, ends before this.
        options.statement_timeout = 4 * SOON;
    })
    .await;
    let agent = bench.agent("ceo");
    bench.store.commit(&bench.changing(&agent)).await.unwrap();
    let agent = bench.store.by_id(agent.id).await.unwrap().unwrap();
    let holder = connect(&bench.url).await;
    holder.batch_execute("BEGIN; SELECT * FROM agents FOR UPDATE").await.unwrap();
    for _ in 0..6 {
        give_up_half_way(&bench, &bench.changing(&agent)).await;
    }
    wait::until("the server to notice that they are gone", SOON, async || {
        waiting(&bench).await.is_empty().then_some(())
    })
    .await;
    // Those of the pool, the one that numbers and the one that carries signals.
    let count = bench
        .count("pg_stat_activity WHERE datname = current_database() AND application_name = 'aito'")
        .await;
    assert!(count <= 2 + 2, "{count} connections");
    holder.batch_execute("ROLLBACK").await.unwrap();
}

/// Begins a commit and stops waiting for it when it waits for a row.
async fn give_up_half_way(bench: &Bench, commit: &Commit) {
    let before = waiting(bench).await;
    let (store, commit) = (Arc::clone(&bench.store), commit.clone());
    let running = tokio::spawn(async move { store.commit(&commit).await });
    wait::until("the commit to wait for the row", SOON, async || {
        // Those before it, for which nobody waits any more, may end meanwhile.
        waiting(bench).await.iter().any(|backend| !before.contains(backend)).then_some(())
    })
    .await;
    running.abort();
    assert!(running.await.is_err());
}

/// The processes of the server that wait for a lock in this database.
async fn waiting(bench: &Bench) -> Vec<i32> {
    let waiting = "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'";
    bench.outside.query(waiting, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_before_the_end_is_told_that_nothing_happened() {
    let bench = Bench::with(|options| options.timeout = Duration::from_millis(300)).await;
    let agent = bench.agent("ceo");
    bench.store.commit(&bench.changing(&agent)).await.unwrap();
    let agent = bench.store.by_id(agent.id).await.unwrap().unwrap();
    let holder = connect(&bench.url).await;
    holder.batch_execute("BEGIN; SELECT * FROM agents FOR UPDATE").await.unwrap();
    let commit = bench.changing(&agent);
    let answer = bench.store.commit(&commit).await;
    assert!(matches!(answer, Err(CommitError::Unavailable(_))), "{answer:?}");
    holder.batch_execute("COMMIT").await.unwrap();
    let settled =
        wait::until("the id to be settled", SOON, async || bench.store.settle(commit.id).await.ok()).await;
    assert_eq!(settled, Settled::NotApplied);
    assert_eq!(bench.store.by_id(agent.id).await.unwrap(), Some(agent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settle_waits_for_a_commit_under_way_and_is_told_how_it_ended() {
    let bench = Bench::new().await;
    for end in ["COMMIT", "ROLLBACK"] {
        let id = CommitId(bench.new_id());
        let under_way = connect(&bench.url).await;
        under_way.batch_execute("BEGIN").await.unwrap();
        let written =
            format!("INSERT INTO commits (id, outcome, answer, at) VALUES ('{id}', 'applied', '7', now())");
        under_way.batch_execute(&written).await.unwrap();
        let store = Arc::clone(&bench.store);
        let settling = tokio::spawn(async move { store.settle(id).await });
        let waits = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait::until("the settle to wait", SOON, async || (bench.count(waits).await > 0).then_some(())).await;
        under_way.batch_execute(end).await.unwrap();
        let settled = settling.await.unwrap().unwrap();
        let expected = if end == "COMMIT" { Settled::Applied(Some(7.into())) } else { Settled::NotApplied };
        assert_eq!(settled, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_change_the_same_agents_crosswise_do_not_lock_each_other_up() {
    let bench = Bench::new().await;
    let (first, second) = (bench.agent("ceo"), bench.agent("cto"));
    for agent in [&first, &second] {
        bench.store.commit(&bench.changing(agent)).await.unwrap();
    }
    let change = |agent: &Agent| Change::Agent(Box::new(agent.clone()));
    for _ in 0..10 {
        let first = bench.store.by_id(first.id).await.unwrap().unwrap();
        let second = bench.store.by_id(second.id).await.unwrap().unwrap();
        let racers = (0..8).map(|n| {
            let changes = if n % 2 == 0 {
                vec![change(&first), change(&second)]
            } else {
                vec![change(&second), change(&first)]
            };
            let (store, commit) = (Arc::clone(&bench.store), Commit { changes, ..bench.telling() });
            tokio::spawn(async move { store.commit(&commit).await })
        });
        let mut won = 0;
        for racer in join_all(racers.collect::<Vec<_>>()).await {
            match racer.unwrap() {
                Ok(_) => won += 1,
                Err(CommitError::Conflict(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(won, 1);
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(bench.outside.query_one(deadlocks, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_history_needs_its_agent() {
    let bench = Bench::new().await;
    let entry = HistoryEntry {
        id: HistoryId(bench.new_id()),
        agent_id: AgentId(bench.new_id()),
        incarnation: Incarnation(1),
        action_type: ActionType::Task,
        summary: "of nobody".into(),
        details: None,
        created_at: bench.clock.now(),
    };
    let commit = Commit { history: vec![entry], ..bench.telling() };
    assert!(matches!(bench.store.commit(&commit).await, Err(CommitError::Conflict(_))));
    assert_eq!(bench.count("events").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_beyond_bigint_are_refused() {
    let bench = Bench::new().await;
    let agent = Agent { restarts: u64::MAX, ..bench.agent("ceo") };
    let commit = bench.changing(&agent);
    assert!(matches!(bench.store.commit(&commit).await, Err(CommitError::Unavailable(_))));
    let agent = Agent { restarts: 0, ..agent };
    bench.store.commit(&Commit { id: commit.id, ..bench.changing(&agent) }).await.unwrap();
    assert_eq!(bench.store.list().await.unwrap()[0].version, Version(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_told_as_such() {
    let bench = Bench::new().await;
    bench.store.commit(&bench.changing(&bench.agent("ceo"))).await.unwrap();
    bench.run(&[r#"UPDATE agents SET lifecycle = '{"state": "hibernating"}'"#]).await;
    assert!(matches!(bench.store.list().await, Err(ReadError::Corrupt(_))));
    // Valid for the server, not for JSON as it is read here: a half of a surrogate pair.
    bench.run(&[r#"UPDATE events SET body = '"\ud800"'"#]).await;
    let answer = bench.log().after(0, 10).await;
    assert!(matches!(answer, Err(ReadError::Corrupt(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_find_no_connection_are_told_in_time() {
    let bench = Bench::with(|options| {
        options.connections = 1;
        options.wait_timeout = Duration::from_millis(100);
    })
    .await;
    let lease = bench.store.pool.lease().await.unwrap();
    assert!(matches!(bench.store.list().await, Err(ReadError::Unavailable(_))));
    let answer = bench.store.commit(&bench.telling()).await;
    assert!(matches!(answer, Err(CommitError::Unavailable(_))), "{answer:?}");
    assert!(bench.store.flush(&[]).await.is_ok(), "nothing needs no connection");
    lease.give_back();
    bench.store.commit(&bench.telling()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_ends_when_nothing_old_is_left_and_takes_nothing_else() {
    let bench = Bench::new().await;
    let kept = bench.telling();
    bench.store.commit(&kept).await.unwrap();
    let before = bench.clock.now();
    let many = "INSERT INTO commits (id, outcome, at)
         SELECT gen_random_uuid(), 'applied', (SELECT min(at) FROM commits) - interval '1 ms'
         FROM generate_series(1, 2500)";
    bench.run(&[many]).await;
    forget(&bench.store.pool, before).await.unwrap();
    assert_eq!(bench.count("commits").await, 1);
    assert!(matches!(bench.store.commit(&kept).await, Err(CommitError::Duplicate(None))));
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_ids_are_forgotten_after_a_day_and_not_before() {
    let bench = Bench::new().await;
    let old = bench.telling();
    bench.store.commit(&old).await.unwrap();
    for _ in 0..24 {
        bench.clock.advance(Duration::from_secs(3600)).await;
    }
    let again = bench.store.commit(&old).await;
    assert!(
        matches!(again, Err(CommitError::Duplicate(None))),
        "a day to the millisecond is kept: {again:?}"
    );
    wait::until("the id to be gone", SOON, async || {
        bench.clock.advance(Duration::from_secs(600)).await;
        (bench.count("commits").await == 0).then_some(())
    })
    .await;
    assert_eq!(bench.logged().await.len(), 1, "what it did stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_thread_of_somebody_else_stalls_no_query() {
    let bench = Bench::with(|options| options.connections = 1).await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let store = Arc::clone(&bench.store);
    // What the sweep has opened at the start is closed.
    wait::until("no connection to be there", SOON, async || {
        drop(store.pool.lease().await.unwrap());
        (store.pool.status() == (0, 0, 0)).then_some(())
    })
    .await;
    let blocked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            // The only connection was opened by this thread's call.
            store.list().await.unwrap();
            begun.send(()).unwrap();
            let _ = released.recv();
        });
    });
    has_begun.await.unwrap();
    for _ in 0..10 {
        let answer = tokio::time::timeout(Duration::from_secs(5), bench.store.list()).await;
        assert!(answer.expect("an answer while the other thread is blocked").unwrap().is_empty());
    }
    assert_eq!(bench.store.pool.status().0, 1);
    release.send(()).unwrap();
    tokio::task::spawn_blocking(|| blocked.join().unwrap()).await.unwrap();
}
