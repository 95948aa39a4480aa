//! Servers that die, lines that go dead, a primary that becomes a standby.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aito_contracts::{clock::ManualClock, wait};
use aito_domain::{
    id::EventId,
    ports::{
        ReadError,
        agent_store::AgentStore as _,
        event_log::EventLog as _,
        heartbeats::Heartbeats as _,
        installation_store::InstallationStore as _,
        ledger::{Commit, CommitError, Ledger as _, Settled},
    },
};
use aito_harness::servers::Postgres;
use diesel_async::SimpleAsyncConnection as _;
use tokio::task::JoinHandle;

use crate::{
    OpenError, Options, PgStore,
    tests::{
        bench::{Bench, SOON, connect, fresh_database},
        proxy::{Line, behind_a_proxy},
    },
};

/// Tasks of a store beside those that drive connections: the numberer, signals, forgetting.
const TASKS: usize = 3;

fn short(options: &mut Options) {
    options.connect_timeout = Duration::from_millis(500);
    options.wait_timeout = Duration::from_millis(500);
    options.statement_timeout = Duration::from_secs(1);
    options.numbering_timeout = Duration::from_millis(500);
    options.timeout = Duration::from_secs(1);
}

/// A commit, and what its writer was told.
type Told = (Commit, Result<Option<serde_json::Value>, CommitError>);

/// Writers that go on whatever happens, and what they were told.
struct Load {
    done: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Vec<Told>>>,
}

impl Load {
    fn start(bench: &Arc<Bench>, count: usize) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let writers = (0..count)
            .map(|_| {
                let (bench, done) = (Arc::clone(bench), Arc::clone(&done));
                tokio::spawn(async move {
                    let mut told = Vec::new();
                    while !AtomicBool::load(&done, Ordering::SeqCst) {
                        let commit = bench.telling();
                        let answer = bench.store.commit(&commit).await;
                        told.push((commit, answer));
                        tokio::task::yield_now().await;
                    }
                    told
                })
            })
            .collect();
        Self { done, writers }
    }

    /// Ends the writers, settles what is not known, and compares with the log: each acknowledged commit is there
    /// once, and nothing that was refused.
    async fn check(self, bench: &Bench) -> (usize, usize, usize) {
        self.done.store(true, Ordering::SeqCst);
        let (mut acknowledged, mut refused, mut unknown) = (0, 0, 0);
        let mut expected: HashMap<EventId, bool> = HashMap::new();
        for writer in self.writers {
            for (commit, answer) in writer.await.unwrap() {
                let is_there = match answer {
                    Ok(_) => {
                        acknowledged += 1;
                        true
                    }
                    Err(CommitError::Unavailable(_)) => {
                        refused += 1;
                        false
                    }
                    Err(CommitError::Unknown(_)) => {
                        unknown += 1;
                        matches!(settled(bench, &commit).await, Settled::Applied(_))
                    }
                    other => panic!("{other:?}"),
                };
                expected.insert(commit.events[0].id, is_there);
            }
        }
        let mut logged = wait::until("the log to be read", SOON, async || {
            let events = bench.log().after(0, 1_000_000).await.ok()?;
            Some(events.into_iter().map(|event| event.id).collect::<Vec<_>>())
        })
        .await;
        let mut is_there: Vec<EventId> =
            expected.into_iter().filter(|(_, is_there)| *is_there).map(|(id, _)| id).collect();
        logged.sort();
        is_there.sort();
        assert_eq!(logged, is_there);
        (acknowledged, refused, unknown)
    }
}

async fn settled(bench: &Bench, commit: &Commit) -> Settled {
    wait::until("the id to be settled", SOON, async || bench.store.settle(commit.id).await.ok()).await
}

/// Waits until no connection is lost to the pool and no task too many runs.
async fn is_as_before(bench: &Bench) {
    wait::until("every connection to be idle, and no task left over", SOON, async || {
        let (size, idle, waiting) = bench.store.pool.status();
        let tasks = bench.store.runtime.as_ref().unwrap().metrics().num_alive_tasks();
        // Those of the numberer and of signals come back when they are used.
        (size == idle && waiting == 0 && tasks <= TASKS + size + 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_that_was_acknowledged_and_is_found_again() {
    let mut server = tokio::task::block_in_place(|| Postgres::start(false));
    let url = server.database("killed");
    let mut bench = Arc::new(Bench::on(url.clone(), short).await);
    let load = Load::start(&bench, 8);
    for round in 0..2_u32 {
        let goal = 50 * (i64::from(round) + 1);
        let outside = connect(&url).await;
        wait::until("some commits", SOON, async || {
            let row = outside.query_one("SELECT count(*) FROM events", &[]).await.unwrap();
            (row.get::<_, i64>(0) > goal).then_some(())
        })
        .await;
        tokio::task::block_in_place(|| server.kill());
        let answer = bench.store.list().await;
        assert!(matches!(answer, Err(ReadError::Unavailable(_))), "{answer:?}");
        tokio::task::block_in_place(|| server.start_again());
    }
    wait::until("the store to answer", SOON, async || bench.store.list().await.ok()).await;
    bench.store.commit(&Commit { events: Vec::new(), ..bench.telling() }).await.unwrap();
    let (acknowledged, refused, unknown) = load.check(&bench).await;
    println!("{acknowledged} acknowledged, {refused} refused, {unknown} unknown");
    assert!(acknowledged > 100 && refused + unknown > 0);
    is_as_before(&bench).await;
    Arc::get_mut(&mut bench).expect("no writer is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_under_load_cost_no_acknowledged_commit() {
    let bench = Arc::new(Bench::with(|options| options.connections = 6).await);
    let load = Load::start(&bench, 8);
    for round in 1..=6 {
        let goal = round * 20;
        wait::until("some commits", SOON, async || (bench.count("events").await >= goal).then_some(())).await;
        bench.cut().await;
    }
    let (acknowledged, refused, unknown) = load.check(&bench).await;
    println!("{acknowledged} acknowledged, {refused} refused, {unknown} unknown");
    assert!(refused + unknown > 0, "nobody noticed");
    bench.logged().await;
    is_as_before(&bench).await;
}

/// Every call ends within the limits, wherever it waits.
async fn in_time<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), call).await.expect("an answer within the limits")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_line_is_told_in_time_and_later_calls_work() {
    let (bench, proxy) = behind_a_proxy(short).await;
    bench.store.commit(&bench.telling()).await.unwrap();
    bench.logged().await;
    for _ in 0..2 {
        proxy.set(Line::Dead);
        let commit = bench.telling();
        let answer = in_time(bench.store.commit(&commit)).await;
        assert!(matches!(answer, Err(CommitError::Unavailable(_))), "nothing was sent: {answer:?}");
        assert!(in_time(bench.store.settle(commit.id)).await.is_err());
        assert!(matches!(in_time(bench.store.list()).await, Err(ReadError::Unavailable(_))));
        assert!(matches!(in_time(bench.log().bounds()).await, Err(ReadError::Unavailable(_))));
        assert!(in_time(bench.store.load()).await.is_err());
        assert!(in_time(bench.store.all()).await.is_err());
        proxy.set(Line::Good);
        wait::until("the store to answer", SOON, async || bench.store.list().await.ok()).await;
        bench.store.commit(&commit).await.expect("it was not applied");
        wait::until("the log to be read", SOON, async || bench.log().bounds().await.ok()).await;
    }
    assert_eq!(bench.logged().await.len(), 3);
    is_as_before(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_dies_at_the_commit_leaves_it_unknown_until_it_is_settled() {
    let (bench, proxy) = behind_a_proxy(short).await;
    let lines = [(Line::LosesCommit, false), (Line::LosesAnswer, true), (Line::CutsAtCommit, true)];
    for (line, is_applied) in lines {
        let commit = bench.telling();
        proxy.set(line);
        let answer = in_time(bench.store.commit(&commit)).await;
        assert!(matches!(answer, Err(CommitError::Unknown(_))), "{line:?}: {answer:?}");
        proxy.set(Line::Good);
        let outcome = settled(&bench, &commit).await;
        assert_eq!(matches!(outcome, Settled::Applied(_)), is_applied, "{line:?}");
    }
    let log = wait::until("the log to be read", SOON, async || bench.log().after(0, 10).await.ok()).await;
    assert_eq!(log.len(), 2);
    is_as_before(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_is_slow_and_nothing_worse() {
    let (bench, proxy) = behind_a_proxy(short).await;
    bench.store.commit(&bench.telling()).await.unwrap();
    bench.logged().await;
    proxy.set(Line::Slow);
    for _ in 0..3 {
        in_time(bench.store.commit(&bench.telling())).await.unwrap();
        in_time(bench.log().bounds()).await.unwrap();
    }
    proxy.set(Line::Good);
    assert_eq!(bench.logged().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_changes_is_left_for_the_one_that_does() {
    let bench = Bench::with(|options| options.connections = 1).await;
    bench.store.commit(&bench.telling()).await.unwrap();
    assert_eq!(bench.logged().await.len(), 1);

    // The server at the other end of a connection that is open has become a standby.
    let mut lease = bench.store.pool.lease().await.unwrap();
    lease.batch_execute("SET default_transaction_read_only = on").await.unwrap();
    lease.give_back();
    let commit = bench.telling();
    let answer = bench.store.commit(&commit).await;
    assert!(matches!(answer, Err(CommitError::Unavailable(_))), "{answer:?}");
    assert_eq!(bench.store.pool.status().1, 0, "no connection to it is kept");
    bench.store.commit(&commit).await.unwrap();

    // There is no other server: nothing is read from this one, whose answers may be old.
    let database = bench.database().to_owned();
    let setting = |value: &str| format!("ALTER DATABASE {database} {value}");
    bench.run(&[&setting("SET default_transaction_read_only = on")]).await;
    bench.cut().await;
    let refused = async || {
        let read = bench.store.list().await;
        matches!(read, Err(ReadError::Unavailable(_))).then_some(())
    };
    wait::until("reads to be refused", SOON, refused).await;
    let commit = bench.telling();
    assert!(matches!(bench.store.commit(&commit).await, Err(CommitError::Unavailable(_))));
    assert!(bench.store.settle(commit.id).await.is_err());
    assert!(bench.store.set_engine("", "x").await.is_err());
    let answer = in_time(bench.log().after(0, 10)).await;
    assert!(matches!(answer, Err(ReadError::Unavailable(_))), "{answer:?}");
    let opened = PgStore::open(Options::new(bench.url.clone(), bench.clock.clone())).await;
    assert!(matches!(opened.err(), Some(OpenError::Unreachable { .. })), "a start waits for it");

    bench.run(&[&setting("RESET default_transaction_read_only")]).await;
    wait::until("changes to be taken", SOON, async || bench.store.commit(&commit).await.ok()).await;
    assert_eq!(wait::until("the log", SOON, async || bench.log().after(0, 10).await.ok()).await.len(), 3);
}

/// The second server of the URL is found though the first one is gone without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_first_server_leaves_time_for_the_second() {
    let url = fresh_database().await;
    // Nobody accepts here, and what waits in its queue is full.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = silent.local_addr().unwrap();
    socket2::SockRef::from(&silent).listen(0).unwrap();
    let queued = |_| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // It is under way for ever.
        let _ = socket.connect(&place.into());
        socket
    };
    let _queue: Vec<_> = (0..4).map(queued).collect();
    let (user, rest) = url.split_once('@').unwrap();
    let clock = Arc::new(ManualClock::new());
    let opening = PgStore::open(Options::new(format!("{user}@{place},{rest}"), clock));
    let store = in_time(opening).await.unwrap();
    assert_eq!(in_time(store.list()).await.unwrap(), []);
}
