//! What the ports' contracts cannot reach: batches, a full disk, a writer that breaks, time-outs, forgetting.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use aito_contracts::{
    clock::{ManualClock, SeqIds},
    wait,
};
use aito_domain::{
    audit::{AuditEntry, Checkpoint, Head, Outcome, Seal, Sealed},
    event::{Actor, NewEvent, Payload},
    history::{ActionType, HistoryEntry},
    id::{AuditId, CommitId, EventId, HistoryId, Incarnation, TaskId, TokenId, Version},
    ports::{
        audit_store::{AuditStore as _, SealError},
        clock::IdSource as _,
        ledger::{Change, Commit, CommitError, Ledger as _, Settled},
        token_store,
    },
    task::{NewTask, Priority, Task},
};
use diesel::{connection::SimpleConnection as _, dsl::sql, query_builder::QueryFragment, sqlite::Sqlite};
use serde_json::json;
use tempfile::TempDir;

use super::{ledger::apply, translate::CommitRows, writer::WriteError, *};

const SOON: Duration = Duration::from_secs(20);

struct Bench {
    dir: TempDir,
    clock: Arc<ManualClock>,
    ids: SeqIds,
    store: Arc<SqliteStore>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(adjust: impl FnOnce(&mut Options)) -> Self {
        Self::on(tempfile::tempdir().unwrap(), adjust)
    }

    fn on(dir: TempDir, adjust: impl FnOnce(&mut Options)) -> Self {
        let clock = Arc::new(ManualClock::new());
        let mut options = Options::new(dir.path().join("db"), clock.clone());
        adjust(&mut options);
        let store = SqliteStore::open(options).unwrap();
        Self { dir, ids: SeqIds::new(clock.clone(), 1), clock, store }
    }

    fn event(&self, size: usize) -> NewEvent {
        NewEvent {
            id: EventId(self.ids.uuid()),
            source_agent: None,
            actor: Actor::System,
            payload: Payload::Unknown { event_type: "test".into(), body: json!("x".repeat(size)) },
            created_at: self.clock.now(),
        }
    }

    fn telling(&self, size: usize) -> Commit {
        Commit { events: vec![self.event(size)], ..Commit::new(CommitId(self.ids.uuid())) }
    }

    async fn numbers(&self) -> Vec<u64> {
        let log = self.store.log("abcd".parse().unwrap());
        log.after(0, 10_000).await.unwrap().iter().map(|event| event.position.n).collect()
    }

    async fn count(&self, table: &'static str) -> i64 {
        let query = move |connection: &mut SqliteConnection| {
            Ok(sql::<BigInt>(&format!("SELECT count(*) FROM {table}")).get_result(connection)?)
        };
        self.store.readers.run(query).await.unwrap()
    }

    /// Runs SQL on the writing connection, inside a batch.
    async fn write(&self, text: &'static str) -> Result<(), WriteError<()>> {
        self.store.writer.run(move |connection| Ok(connection.batch_execute(text)?)).await
    }

    /// Keeps the writer busy, so that what is written until `release` waits and becomes one batch.
    async fn hold(&self) -> Hold {
        let (release, released) = mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let store = Arc::clone(&self.store);
        let running = tokio::spawn(async move {
            let work = move |_: &mut SqliteConnection| -> Result<(), Stop<()>> {
                let _ = begun.send(());
                let _ = released.recv();
                Ok(())
            };
            store.writer.run(work).await
        });
        has_begun.await.unwrap();
        Hold { release, running }
    }
}

/// Asks SQLite how it would go about a query.
pub(super) struct Planner {
    connection: SqliteConnection,
    _dir: TempDir,
}

impl Planner {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let connection = open::prepare(&dir.path().join("db"), SOON).unwrap();
        Self { connection, _dir: dir }
    }

    /// The steps, one after another.
    pub(super) fn plan(&mut self, query: &str) -> String {
        #[derive(QueryableByName)]
        struct Step {
            #[diesel(sql_type = Text)]
            detail: String,
        }
        let text = format!("EXPLAIN QUERY PLAN {query}");
        let steps: Vec<Step> = diesel::sql_query(text).load(&mut self.connection).unwrap();
        steps.into_iter().map(|step| step.detail).collect::<Vec<_>>().join("; ")
    }

    /// It is one step, without sorting, whose plan has all of these parts.
    pub(super) fn expect_steps(&mut self, query: &impl QueryFragment<Sqlite>, parts: &[&str]) {
        let text = diesel::debug_query::<Sqlite, _>(query).to_string();
        let plan = self.plan(&text);
        assert!(!plan.contains("TEMP B-TREE") && !plan.contains(';'), "{text}: {plan}");
        for part in parts {
            assert!(plan.contains(part), "{part} of {text}: {plan}");
        }
    }

    /// [`Self::expect_steps`], and it reads no more than what is between the bounds of its conditions.
    pub(super) fn expect_walk(&mut self, query: &impl QueryFragment<Sqlite>, parts: &[&str]) {
        self.expect_steps(query, parts);
        self.expect_steps(query, &["SEARCH"]);
    }
}

struct Hold {
    release: mpsc::Sender<()>,
    running: tokio::task::JoinHandle<Result<(), WriteError<()>>>,
}

impl Hold {
    async fn release(self) -> Result<(), WriteError<()>> {
        self.release.send(()).unwrap();
        self.running.await.unwrap()
    }
}

/// Spawns a commit and waits until it is in the queue.
async fn queued(
    bench: &Bench,
    commit: &Commit,
    place: usize,
) -> tokio::task::JoinHandle<Result<Option<serde_json::Value>, CommitError>> {
    let (store, commit) = (Arc::clone(&bench.store), commit.clone());
    let running = tokio::spawn(async move { store.commit(&commit).await });
    wait::until("the commit to be queued", SOON, async || {
        (bench.store.writer.waiting() == place).then_some(())
    })
    .await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_unit_leaves_its_batch_whole_and_no_hole() {
    let bench = Bench::new();
    let first = bench.telling(10);
    let (good, late) = (bench.telling(10), bench.telling(10));
    let mut refused = bench.telling(10);
    refused.events.push(first.events[0].clone());
    let hold = bench.hold().await;
    let mut running = Vec::new();
    for commit in [&first, &refused, &good, &first, &late] {
        running.push(queued(&bench, commit, running.len() + 1).await);
    }
    hold.release().await.unwrap();
    let mut answers = Vec::new();
    for running in running {
        answers.push(running.await.unwrap());
    }
    assert!(
        matches!(
            answers.as_slice(),
            [Ok(None), Err(CommitError::Conflict(_)), Ok(None), Err(CommitError::Duplicate(None)), Ok(None)]
        ),
        "{answers:?}"
    );
    assert_eq!(bench.numbers().await, [1, 2, 3]);
    assert_eq!(bench.count("commits").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_be_committed_is_told_to_all_of_it() {
    let bench = Bench::new();
    let (good, again) = (bench.telling(10), bench.telling(10));
    let hold = bench.hold().await;
    let mut running = vec![queued(&bench, &good, 1).await];
    running.push(queued(&bench, &good, 2).await);
    // A foreign key that is checked at the end: COMMIT itself fails.
    let store = Arc::clone(&bench.store);
    let poison = tokio::spawn(async move {
        let text = "PRAGMA defer_foreign_keys = ON;
            INSERT INTO history (id, agent_id, incarnation, action_type, summary, created_at)
            VALUES (zeroblob(16), zeroblob(16), 1, 'task', '', 0);";
        store.writer.run::<_, ()>(move |connection| Ok(connection.batch_execute(text)?)).await
    });
    wait::until("the poison to be queued", SOON, async || (bench.store.writer.waiting() == 3).then_some(()))
        .await;
    hold.release().await.unwrap();
    for running in running {
        let answer = running.await.unwrap();
        assert!(
            matches!(answer, Err(CommitError::Unavailable(_))),
            "also what would have been `Duplicate`: {answer:?}"
        );
    }
    assert!(matches!(poison.await.unwrap(), Err(WriteError::Unavailable(_))));
    assert_eq!(bench.count("commits").await, 0);
    bench.store.commit(&again).await.unwrap();
    bench.store.commit(&good).await.unwrap();
    assert_eq!(bench.numbers().await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_writes_serves_reads_and_recovers_alone() {
    let bench = Bench::new();
    let mut acknowledged = 0;
    for _ in 0..5 {
        bench.store.commit(&bench.telling(10)).await.unwrap();
        acknowledged += 1;
    }
    bench.write("PRAGMA max_page_count = 60").await.unwrap();
    let mut refused = Vec::new();
    while refused.len() < 5 {
        let commit = bench.telling(9_000);
        match bench.store.commit(&commit).await {
            Ok(_) => acknowledged += 1,
            Err(CommitError::Unavailable(_)) => refused.push(commit),
            other => panic!("{other:?}"),
        }
        assert!(acknowledged < 100, "it never was full");
    }
    assert_eq!(bench.numbers().await, (1..=acknowledged).collect::<Vec<_>>(), "reads are live");
    assert!(
        bench
            .store
            .settle(CommitId(bench.ids.uuid()))
            .await
            .is_ok_and(|settled| settled == Settled::NotApplied)
    );

    bench.write("PRAGMA max_page_count = 100000").await.unwrap();
    for commit in &refused {
        bench.store.commit(commit).await.unwrap();
    }
    let all = acknowledged + u64::try_from(refused.len()).unwrap();
    assert_eq!(bench.numbers().await, (1..=all).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_panics_harms_nobody_for_long() {
    let bench = Bench::new();
    let hold = bench.hold().await;
    let companion = bench.telling(10);
    let running = queued(&bench, &companion, 1).await;
    let store = Arc::clone(&bench.store);
    let panicking = tokio::spawn(async move {
        let work = |_: &mut SqliteConnection| -> Result<(), Stop<()>> { panic!("a unit went wrong") };
        store.writer.run(work).await
    });
    wait::until("the unit to be queued", SOON, async || (bench.store.writer.waiting() == 2).then_some(()))
        .await;
    hold.release().await.unwrap();
    assert!(matches!(panicking.await.unwrap(), Err(WriteError::Unavailable(_))));
    assert!(matches!(running.await.unwrap(), Err(CommitError::Unavailable(_))), "nothing was committed");
    bench.store.commit(&companion).await.unwrap();
    assert_eq!(bench.numbers().await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_lost_its_transaction_is_used_or_replaced() {
    let bench = Bench::new();
    for text in ["ROLLBACK", "COMMIT", "RELEASE unit"] {
        assert!(
            matches!(bench.write(text).await, Err(WriteError::Unavailable(_) | WriteError::Unknown(_))),
            "{text}"
        );
        bench.store.commit(&bench.telling(10)).await.unwrap();
    }
    assert_eq!(bench.numbers().await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_is_told_whether_that_is_certain() {
    let bench = Bench::with(|options| options.timeout = Duration::from_millis(100));
    let (waiting, taken) = (bench.telling(10), bench.telling(10));

    let hold = bench.hold().await;
    let answer = bench.store.commit(&waiting).await;
    assert!(matches!(answer, Err(CommitError::Unavailable(_))), "not begun, so it is withdrawn: {answer:?}");
    let held = hold.running.await.unwrap();
    assert!(matches!(held, Err(WriteError::Unknown(_))), "begun, so it may end well: {held:?}");
    hold.release.send(()).unwrap();

    // A unit that the writer has begun ends, whether or not somebody waits.
    let (release, released) = mpsc::channel::<()>();
    let rows = CommitRows::of(&taken).unwrap();
    let work = move |connection: &mut SqliteConnection| {
        let _ = released.recv();
        apply(connection, &rows, 0)
    };
    let answer = bench.store.writer.run(work).await;
    assert!(matches!(answer, Err(WriteError::Unknown(_))), "{answer:?}");
    release.send(()).unwrap();
    let settled = wait::until("an answer", SOON, async || bench.store.settle(taken.id).await.ok()).await;
    assert_eq!(settled, Settled::Applied(None));
    assert_eq!(bench.store.settle(waiting.id).await.unwrap(), Settled::NotApplied);
    assert_eq!(bench.numbers().await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_ids_are_forgotten_after_a_day() {
    let bench = Bench::new();
    let old = bench.telling(10);
    bench.store.commit(&old).await.unwrap();
    bench.clock.advance_at_once(Duration::from_secs(24 * 3600));
    bench.store.commit(&bench.telling(10)).await.unwrap();
    let again = bench.store.commit(&old).await;
    assert!(
        matches!(again, Err(CommitError::Duplicate(None))),
        "a day to the millisecond is kept: {again:?}"
    );

    bench.clock.advance_at_once(Duration::from_secs(3600));
    bench.store.commit(&bench.telling(10)).await.unwrap();
    assert_eq!(bench.count("commits").await, 2);
    assert_eq!(bench.numbers().await, [1, 2, 3], "what they did stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_goes_on_until_nothing_old_is_left() {
    let bench = Bench::new();
    bench
        .write(
            "INSERT INTO commits (id, outcome, at)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
             SELECT CAST(printf('%016d', i) AS BLOB), 'applied', i FROM n",
        )
        .await
        .unwrap();
    assert_eq!(bench.count("commits").await, 1500, "the batch that wrote them looked already");
    for left in [500, 0, 0] {
        bench.store.flush(&[heartbeat(&bench)]).await.unwrap();
        assert_eq!(bench.count("commits").await, left, "a bounded number at a time");
    }
}

fn heartbeat(bench: &Bench) -> Heartbeat {
    Heartbeat {
        agent_id: AgentId(bench.ids.uuid()),
        incarnation: Incarnation(1),
        at: bench.clock.now(),
        loop_count: 0,
        last_loop_at: None,
        activity: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_history_needs_its_agent() {
    let bench = Bench::new();
    let entry = HistoryEntry {
        id: HistoryId(bench.ids.uuid()),
        agent_id: AgentId(bench.ids.uuid()),
        incarnation: Incarnation(1),
        action_type: ActionType::Task,
        summary: "of nobody".into(),
        details: None,
        created_at: bench.clock.now(),
    };
    let commit = Commit { history: vec![entry], ..bench.telling(10) };
    assert!(matches!(bench.store.commit(&commit).await, Err(CommitError::Conflict(_))));
    assert_eq!(bench.count("events").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_needs_its_agent_which_may_come_with_it() {
    let bench = Bench::new();
    let name = "CEO Agent".to_owned();
    let agent =
        Agent::register(AgentId(bench.ids.uuid()), "ceo".parse().unwrap(), name, bench.clock.now()).agent;
    let new = NewTask {
        title: "of nobody".to_owned(),
        description: None,
        priority: Priority::Normal,
        assigned_to: agent.id,
        created_by: None,
        actor: Actor::System,
        due_at: None,
    };
    let task = Task::create(TaskId(bench.ids.uuid()), new, &agent.agent_type, bench.clock.now()).task;
    let task = Change::Task(Box::new(task));
    let alone = Commit { changes: vec![task.clone()], ..bench.telling(10) };
    assert!(matches!(bench.store.commit(&alone).await, Err(CommitError::Conflict(_))));
    assert_eq!(bench.count("events").await, 0);
    let both = Commit { changes: vec![task, Change::Agent(Box::new(agent))], ..bench.telling(10) };
    bench.store.commit(&both).await.unwrap();
    assert_eq!(bench.count("tasks").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_somebody_holds_the_lock_nothing_is_sealed_pruned_or_noted_and_that_is_said() {
    let bench = Bench::with(|options| options.busy_timeout = Duration::from_millis(50));
    let (token, now) = (TokenId(bench.ids.uuid()), bench.clock.now());
    let head = Head { n: 1, seal: Seal([1; 32]) };
    let entry = AuditEntry {
        id: AuditId(bench.ids.uuid()),
        at: now,
        actor: "system".into(),
        credential: "none".into(),
        operation: "agents.start".into(),
        object: String::new(),
        source: "local".into(),
        request_id: String::new(),
        outcome: Outcome::Done,
        detail: String::new(),
        times: 1,
    };
    bench.store.commit(&Commit { audit: vec![entry.clone()], ..bench.telling(10) }).await.unwrap();
    let places = [Sealed { n: head.n, seal: head.seal, entry }];
    let checkpoint = Checkpoint { head, at: now, signature: [2; 64] };

    let mut holder = open::writer(&bench.dir.path().join("db"), SOON).unwrap();
    holder.batch_execute("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(bench.store.seal(Head::NONE, &places).await, Err(SealError::Unavailable(_))));
    assert!(matches!(bench.store.prune(&checkpoint).await, Err(SealError::Unavailable(_))));
    assert!(matches!(
        token_store::TokenStore::used(&*bench.store, &[(token, now)]).await,
        Err(ReadError::Unavailable(_))
    ));
    holder.batch_execute("ROLLBACK").unwrap();
    assert_eq!(bench.store.head().await.unwrap(), Head::NONE);
    assert_eq!(bench.store.checkpoint().await.unwrap(), None);
    assert_eq!(token_store::TokenStore::last_uses(&*bench.store).await.unwrap(), []);

    bench.store.seal(Head::NONE, &places).await.unwrap();
    assert_eq!(bench.store.head().await.unwrap(), head);
    assert!(matches!(bench.store.seal(Head::NONE, &[]).await, Err(SealError::Conflict)), "also of nothing");
    bench.store.seal(head, &[]).await.unwrap();
    let beyond = Head { n: u64::MAX, ..head };
    assert!(matches!(bench.store.seal(beyond, &places).await, Err(SealError::Conflict)));
    assert_eq!(bench.store.prune(&checkpoint).await.unwrap(), 1);
    token_store::TokenStore::used(&*bench.store, &[(token, now)]).await.unwrap();
    assert_eq!(token_store::TokenStore::last_uses(&*bench.store).await.unwrap(), [(token, now)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_beyond_sqlite_are_refused() {
    let bench = Bench::new();
    let name = "CEO Agent".to_owned();
    let mut agent =
        Agent::register(AgentId(bench.ids.uuid()), "ceo".parse().unwrap(), name, bench.clock.now()).agent;
    agent.restarts = u64::MAX;
    let commit = Commit { changes: vec![Change::Agent(Box::new(agent.clone()))], ..bench.telling(10) };
    assert!(matches!(bench.store.commit(&commit).await, Err(CommitError::Unavailable(_))));
    agent.restarts = 0;
    let commit = Commit { changes: vec![Change::Agent(Box::new(agent.clone()))], ..commit };
    bench.store.commit(&commit).await.unwrap();
    assert_eq!(bench.store.list().await.unwrap()[0].version, Version(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_bounded_and_their_callers_wait_no_longer_than_told() {
    let bench = Bench::with(|options| {
        options.readers = 1;
        options.timeout = Duration::from_millis(100);
    });
    let (release, released) = mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let store = Arc::clone(&bench.store);
    let slow = tokio::spawn(async move {
        let query = move |_: &mut SqliteConnection| {
            let _ = begun.send(());
            let _ = released.recv();
            Ok(())
        };
        store.readers.run(query).await
    });
    has_begun.await.unwrap();
    assert!(
        matches!(bench.store.list().await, Err(ReadError::Unavailable(_))),
        "the one connection is in use"
    );
    assert!(matches!(slow.await.unwrap(), Err(ReadError::Unavailable(_))));
    release.send(()).unwrap();
    wait::until("the connection to be back", SOON, async || bench.store.list().await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_failed_is_replaced_and_a_strange_row_is_named() {
    let bench = Bench::with(|options| options.readers = 1);
    let failed = bench.store.readers.run(|connection| Ok(connection.batch_execute("SELECT nonsense")?)).await;
    assert!(matches!(failed, Err(ReadError::Unavailable(_))));
    let panicked =
        bench.store.readers.run(|_| -> Result<(), readers::Failed> { panic!("a query went wrong") }).await;
    assert!(matches!(panicked, Err(ReadError::Unavailable(_))));

    bench
        .write(
            "INSERT INTO agents (id, agent_type, version, desired, incarnation, lifecycle, reach, failures,
                 restarts, created_at, updated_at)
             VALUES (zeroblob(16), 'ceo', 1, 'dreaming', 0, '{}', '{}', 0, 0, 0, 0)",
        )
        .await
        .unwrap();
    let error = bench.store.list().await.unwrap_err();
    assert!(
        matches!(&error, ReadError::Corrupt(cause) if cause.to_string().contains("dreaming")),
        "{error:?}"
    );
    assert_eq!(bench.store.by_type(&"cto".parse().unwrap()).await.unwrap(), None);
}

/// The directory on a small file system that the test below gives itself.
const SMALL: &str = "AITO_TEST_SMALL_FS";

/// The real thing: a file system without room. The test runs itself once more where one of 4 MB is mounted that nothing
/// else uses.
#[tokio::test(flavor = "multi_thread")]
async fn needs_tmpfs_a_full_file_system_refuses_writes_serves_reads_and_recovers_alone() {
    let Some(place) = std::env::var_os(SMALL) else {
        let dir = TempDir::new().unwrap();
        let script = "mount -t tmpfs -o size=4m,mode=700 tmpfs \"$0\" && exec \"$@\"";
        let name =
            "sqlite::tests::needs_tmpfs_a_full_file_system_refuses_writes_serves_reads_and_recovers_alone";
        let mut again = std::process::Command::new("unshare");
        again.args(["-rm", "sh", "-c", script]).arg(dir.path()).arg(std::env::current_exe().unwrap());
        let done = again.args(["--exact", name]).env(SMALL, dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        return;
    };
    let bench = Bench::on(TempDir::new_in(&place).unwrap(), |_| {});
    let ballast = Path::new(&place).join("ballast");
    let mut acknowledged = 0;
    for round in 0..3 {
        let _ = std::fs::write(&ballast, vec![1; 64 << 20]);
        let mut refused = Vec::new();
        while refused.len() < 20 {
            let commits: Vec<_> = (0..4).map(|_| bench.telling(20_000)).collect();
            let answers =
                futures_util::future::join_all(commits.iter().map(|commit| bench.store.commit(commit))).await;
            for (commit, answer) in commits.into_iter().zip(answers) {
                match answer {
                    Ok(_) => acknowledged += 1,
                    Err(CommitError::Unavailable(_)) => refused.push(commit),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(
                bench.numbers().await,
                (1..=acknowledged).collect::<Vec<_>>(),
                "reads are live, round {round}"
            );
        }
        std::fs::remove_file(&ballast).unwrap();
        for commit in refused.iter().take(5) {
            bench.store.commit(commit).await.unwrap();
            acknowledged += 1;
        }
        assert_eq!(bench.numbers().await, (1..=acknowledged).collect::<Vec<_>>());
    }
    drop(bench.dir);
}
