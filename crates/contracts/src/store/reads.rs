//! The rules of `AgentStore`, `HistoryStore`, `Heartbeats` and `InstallationStore`.

use std::{sync::Arc, time::Duration};

use aito_domain::{
    agent::{Desired, Exit, LastExit, Lifecycle, Reach},
    history::{ActionType, HistoryEntry},
    id::{AgentId, HistoryId, Incarnation, InstallationId, Version},
    installation::{InstallationRecord, RuntimeKind},
    ports::{
        clock::Clock as _,
        heartbeats::{Activity, Heartbeat},
        history_store::{HistoryCursor, Written},
        installation_store::InstallationStore,
        ledger::Commit,
    },
    time::{after, millis},
};
use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::{Handles, Maker, StoreFixture, must, within};

/// Rule 1 of `AgentStore`.
pub async fn agent_store_01_what_returned_is_seen_by_every_handle<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let mut agent = make.agent("ceo");
    for version in 1..=20 {
        agent.restarts += 1;
        must(&handles.ledger, &make.changing(&agent)).await;
        agent.version = Version(version);
        for store in [&other.agents, &handles.agents] {
            assert_eq!(store.by_id(agent.id).await.unwrap().as_ref(), Some(&agent));
            assert_eq!(store.by_type(&agent.agent_type).await.unwrap().as_ref(), Some(&agent));
            assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&agent));
        }
    }
}

/// Rule 2 of `AgentStore`.
pub async fn agent_store_02_what_is_read_is_what_was_committed<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let since = millis(1_766_224_800_123);
    let lifecycles = [
        Lifecycle::Inactive,
        Lifecycle::Starting { since },
        Lifecycle::Active { since },
        Lifecycle::Stopping { since },
        Lifecycle::Error {
            since,
            reason: "\"ünüsual\"\n'); --".into(),
            retry_at: millis(253_402_300_799_999),
        },
    ];
    let reaches = [Reach::Unknown, Reach::Ok, Reach::Unreachable { since: millis(0) }];
    let exits = [None, Some(Exit::Code(-1)), Some(Exit::Signal(9)), Some(Exit::Lost("gone".into()))];
    let focuses = [None, Some(String::new()), Some("f".repeat(500)), Some("日本 🦀".into())];
    let large = i64::MAX as u64;
    let mut agent = make.agent("risk-officer-2");
    for n in 0..60_usize {
        agent.desired = if n % 2 == 0 { Desired::Running } else { Desired::Stopped };
        agent.lifecycle = lifecycles[n % 5].clone();
        agent.reach = reaches[n % 3];
        agent.focus = focuses[n % 4].clone();
        agent.last_exit = exits[(n / 2) % 4].clone().map(|exit| LastExit {
            incarnation: Incarnation(n as u64),
            exit,
            at: since,
        });
        agent.incarnation = Incarnation([0, 1, large][n % 3]);
        agent.failures = [0, 7, u32::MAX][n % 3];
        agent.restarts = [large, 0][n % 2];
        agent.updated_at = after(agent.created_at, Duration::from_millis(n as u64));
        must(&handles.ledger, &make.changing(&agent)).await;
        agent.version = agent.version.next();
        assert_eq!(handles.agents.by_id(agent.id).await.unwrap().as_ref(), Some(&agent));
    }
}

/// Rule 3 of `AgentStore`.
pub async fn agent_store_03_list_is_ordered_and_absence_is_none<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    assert_eq!(handles.agents.list().await.unwrap(), []);
    let types = ["dao", "a-b", "ceo", "cto", "a", "ab", "a1", "zz", "cmo"];
    for agent_type in types {
        make.stored_agent(&handles, agent_type).await;
    }
    let listed: Vec<String> =
        handles.agents.list().await.unwrap().into_iter().map(|agent| agent.agent_type.into()).collect();
    let mut expected = types.to_vec();
    expected.sort_unstable();
    assert_eq!(listed, expected, "byte order, whatever the database's collation");
    assert_eq!(handles.agents.by_type(&"nobody".parse().unwrap()).await.unwrap(), None);
    assert_eq!(handles.agents.by_id(AgentId(make.uuid())).await.unwrap(), None);
}

/// Rule 1 of `HistoryStore`.
pub async fn history_store_01_newest_first_by_time_then_id<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let agent = make.stored_agent(&handles, "ceo").await;
    let start = make.clock().now();
    let mut rows = Vec::new();
    for n in 0..30_u64 {
        rows.push(HistoryEntry {
            // Three rows of each time, whose ids do not follow the order of writing.
            id: HistoryId(Uuid::from_u128(u128::from((n * 7 + 3) % 30) << 64 | 1)),
            created_at: after(start, Duration::from_millis(n / 3)),
            action_type: ActionType::ALL[n as usize % 5],
            details: [None, Some(json!({"n": n, "x": 0.1})), Some(json!(null))][n as usize % 3].clone(),
            incarnation: Incarnation(n),
            ..make.entry(agent.id, &format!("row {n} – \"ü\""))
        });
    }
    for chunk in rows.chunks(4) {
        must(&handles.ledger, &Commit { history: chunk.to_vec(), ..make.commit() }).await;
    }
    rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));
    assert_eq!(handles.history.page(agent.id, None, 100).await.unwrap(), rows);
}

/// Rule 2 of `HistoryStore`.
pub async fn history_store_02_before_goes_on_exactly_after_its_row<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let agent = make.stored_agent(&handles, "ceo").await;
    let mut rows = Vec::new();
    for n in 0..20 {
        if n % 4 == 0 {
            make.clock().advance(Duration::from_millis(1)).await;
        }
        rows.push(make.entry(agent.id, &n.to_string()));
    }
    must(&handles.ledger, &Commit { history: rows.clone(), ..make.commit() }).await;
    rows.reverse();
    for limit in [1, 3, 7] {
        let (mut read, mut before) = (Vec::new(), None);
        loop {
            let page = within(handles.history.page(agent.id, before, limit)).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(HistoryCursor { at: last.created_at, id: last.id });
            assert!(page.len() <= limit as usize);
            read.extend(page);
            assert!(read.len() <= 1000, "the pages do not come to an end");
            // What is added meanwhile is newer, also within the same millisecond, and disturbs nobody.
            let newer = make.entry(agent.id, "newer");
            must(&handles.ledger, &Commit { history: vec![newer], ..make.commit() }).await;
        }
        // The first page has begun below what earlier rounds added.
        let read: Vec<_> = read.into_iter().filter(|row| row.summary != "newer").collect();
        assert_eq!(read, rows, "limit {limit}");
    }
    let middle = &rows[9];
    let cursor = HistoryCursor { at: middle.created_at, id: middle.id };
    assert_eq!(handles.history.page(agent.id, Some(cursor), 100).await.unwrap(), rows[10..]);
    let gone = HistoryCursor { at: middle.created_at, id: HistoryId(Uuid::max()) };
    let rest = handles.history.page(agent.id, Some(gone), 100).await.unwrap();
    let expected: Vec<_> = rows.iter().filter(|row| row.created_at <= middle.created_at).cloned().collect();
    assert_eq!(rest, expected, "a cursor need not name a row that is still there");
}

/// Rule 3 of `HistoryStore`.
pub async fn history_store_03_only_the_agents_rows_up_to_limit<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let first = make.stored_agent(&handles, "ceo").await;
    let second = make.stored_agent(&handles, "cto").await;
    let rows: Vec<_> =
        (0..20).map(|n| make.entry(if n % 2 == 0 { first.id } else { second.id }, &n.to_string())).collect();
    must(&handles.ledger, &Commit { history: rows.clone(), ..make.commit() }).await;
    for agent in [&first, &second] {
        for limit in [0, 1, 9, 10, 50] {
            let page = handles.history.page(agent.id, None, limit).await.unwrap();
            let expected: Vec<_> = rows
                .iter()
                .rev()
                .filter(|row| row.agent_id == agent.id)
                .take(limit as usize)
                .cloned()
                .collect();
            assert_eq!(page, expected);
        }
    }
    assert_eq!(handles.history.page(AgentId(make.uuid()), None, 10).await.unwrap(), []);
}

/// Rule 4 of `HistoryStore`.
pub async fn history_store_04_written_counts_rows_and_bytes_from_a_time_on<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agents = [make.stored_agent(&handles, "ceo").await, make.stored_agent(&handles, "cto").await];
    let start = make.clock().now();
    for agent in &agents {
        assert_eq!(handles.history.written(agent.id, start).await.unwrap(), Written::default());
    }
    let details =
        [None, Some(json!(null)), Some(json!({"ä": "日本 🦀", "list": [1, true, null]})), Some(json!("x"))];
    let summaries = ["", "plain", "ünï 日本 🦀"];
    let rows: Vec<_> = (0..24_usize)
        .map(|n| HistoryEntry {
            created_at: after(start, Duration::from_millis(n as u64 / 4)),
            details: details[n % 4].clone(),
            ..make.entry(agents[n % 2].id, summaries[n % 3])
        })
        .collect();
    for chunk in rows.chunks(5) {
        must(&handles.ledger, &Commit { history: chunk.to_vec(), ..make.commit() }).await;
    }
    for agent in &agents {
        for from in [millis(0), start, after(start, Duration::from_millis(1))]
            .into_iter()
            .chain([3, 5, 6].map(|n| after(start, Duration::from_millis(n))))
        {
            let bytes = |row: &HistoryEntry| {
                row.summary.len() + row.details.as_ref().map_or(0, |details| details.to_string().len())
            };
            let counted = rows.iter().filter(|row| row.agent_id == agent.id && row.created_at >= from);
            let expected = Written {
                rows: counted.clone().count() as u64,
                bytes: counted.map(bytes).sum::<usize>() as u64,
            };
            for store in [&handles.history, &other.history] {
                assert_eq!(store.written(agent.id, from).await.unwrap(), expected, "since {from}");
            }
        }
    }
    assert_eq!(handles.history.written(AgentId(make.uuid()), start).await.unwrap(), Written::default());
}

/// Rule 1 of `Heartbeats`: a row that the store may be unable to hold takes the others with it, or is held.
pub async fn heartbeats_01_a_flush_is_all_or_none<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let good: Vec<_> = (0..50).map(|_| heartbeat(&make, AgentId(make.uuid()), 1)).collect();
    flush(&handles, &good).await;
    assert_eq!(all(&handles).await, sorted(good.clone()));
    handles.heartbeats.flush(&[]).await.unwrap();

    make.clock().advance(Duration::from_secs(1)).await;
    let mut next: Vec<_> =
        good.iter().map(|row| Heartbeat { at: make.clock().now(), ..row.clone() }).collect();
    next[49].loop_count = u64::MAX;
    match within(handles.heartbeats.flush(&next)).await {
        Ok(()) => assert_eq!(all(&handles).await, sorted(next)),
        Err(_) => assert_eq!(all(&handles).await, sorted(good), "a part of it was stored"),
    }
}

/// Rule 2 of `Heartbeats`.
pub async fn heartbeats_02_older_never_replaces_newer<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agent = AgentId(make.uuid());
    let row = |incarnation, ms: i64| Heartbeat {
        at: millis(1_766_224_800_000 + ms),
        loop_count: u64::try_from(ms).unwrap(),
        ..heartbeat(&make, agent, incarnation)
    };
    let mut stands = row(2, 500);
    flush(&handles, std::slice::from_ref(&stands)).await;
    for (next, is_newer) in [
        (row(2, 499), false),
        (row(1, 900), false),
        (row(2, 501), true),
        (row(1, 9_000), false),
        (row(3, 100), true),
        (row(2, 9_999), false),
        (row(3, 101), true),
        (row(3, 0), false),
    ] {
        flush(&other, std::slice::from_ref(&next)).await;
        if is_newer {
            stands = next;
        }
        assert_eq!(all(&handles).await, std::slice::from_ref(&stands));
    }
    // Two servers at the same time: the newest stands, whoever comes last.
    let racing = (0..40).map(|n| {
        let store = Arc::clone(if n % 2 == 0 { &handles.heartbeats } else { &other.heartbeats });
        let row = row(4, n * 13 % 40);
        async move {
            while store.flush(std::slice::from_ref(&row)).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    });
    within(join_all(racing)).await;
    assert_eq!(all(&handles).await, [row(4, 39)]);
}

/// Rule 3 of `Heartbeats`.
pub async fn heartbeats_03_all_gives_the_last_row_of_everyone<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    assert_eq!(all(&fixture.handles()).await, []);
    let mut expected = Vec::new();
    for n in 0..12_usize {
        expected.push(Heartbeat {
            last_loop_at: (n % 2 == 0).then(|| millis(-5)),
            activity: Activity::ALL.get(n % (Activity::ALL.len() + 1)).copied(),
            loop_count: [0, i64::MAX as u64][n % 2],
            ..heartbeat(&make, AgentId(make.uuid()), 1)
        });
        // Some come alone, some with others who were heard before.
        flush(&fixture.handles(), &expected[n / 2..]).await;
    }
    assert_eq!(all(&fixture.handles()).await, sorted(expected.clone()));
    fixture.reopen().await;
    assert_eq!(all(&fixture.handles()).await, sorted(expected.clone()));
    assert_eq!(all(&fixture.second_handle().await).await, sorted(expected));
}

/// Rule 4 of `Heartbeats`.
pub async fn heartbeats_04_the_same_row_again_changes_nothing<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let rows = [heartbeat(&make, AgentId(make.uuid()), 1), heartbeat(&make, AgentId(make.uuid()), 5)];
    for _ in 0..3 {
        flush(&handles, &rows).await;
        flush(&other, &rows).await;
        assert_eq!(all(&handles).await, sorted(rows.to_vec()));
    }
}

/// Rule 1 of `InstallationStore`.
pub async fn installation_store_01_nothing_before_the_first_create<F: StoreFixture>() {
    let fixture = F::fresh().await;
    for handles in [fixture.handles(), fixture.second_handle().await] {
        assert_eq!(handles.installation.load().await.unwrap(), None);
    }
}

/// Rule 2 of `InstallationStore`.
pub async fn installation_store_02_the_first_create_wins<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let records: Vec<_> = (0..8_u32)
        .map(|n| InstallationRecord {
            id: InstallationId(make.uuid()),
            epoch: format!("epoch{n}").parse().unwrap(),
            key_fingerprint: format!("{n:016x}"),
            runtime: if n % 2 == 0 { RuntimeKind::Process } else { RuntimeKind::Docker },
            engine_id: format!("engine {n}"),
        })
        .collect();
    let racing = records.iter().enumerate().map(|(n, record)| {
        let store = if n % 2 == 0 { &handles.installation } else { &other.installation };
        async move {
            loop {
                match store.create(record).await {
                    Ok(stands) => return stands,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        }
    });
    let answers = within(join_all(racing)).await;
    assert!(records.contains(&answers[0]));
    assert!(answers.iter().all(|stands| *stands == answers[0]), "everybody is told the same: {answers:?}");
    assert_eq!(other.installation.load().await.unwrap(), Some(answers[0].clone()));
    drop((handles, other));
    fixture.reopen().await;
    assert_eq!(fixture.handles().installation.load().await.unwrap(), Some(answers[0].clone()));
    let late = fixture.handles().installation.create(&records[7]).await.unwrap();
    assert_eq!(late, answers[0]);
}

/// Rule 3 of `InstallationStore`.
pub async fn installation_store_03_set_engine_compares_and_sets<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let set = async |store: &Arc<dyn InstallationStore>, from: &str, to: &str| {
        within(async {
            loop {
                match store.set_engine(from, to).await {
                    Ok(stands) => return stands,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
        .await
    };
    assert_eq!(set(&handles.installation, "", "one").await, None, "there is no record yet");
    let record = InstallationRecord {
        id: InstallationId(make.uuid()),
        epoch: "epoch1".parse().unwrap(),
        key_fingerprint: "0123456789abcdef".to_owned(),
        runtime: RuntimeKind::Docker,
        engine_id: String::new(),
    };
    handles.installation.create(&record).await.unwrap();
    let names: Vec<String> = (0..8).map(|n| format!("engine {n}")).collect();
    let racing = names
        .iter()
        .enumerate()
        .map(|(n, name)| set(if n % 2 == 0 { &handles.installation } else { &other.installation }, "", name));
    let answers = join_all(racing).await;
    let first = answers[0].clone().unwrap();
    assert!(names.contains(&first.engine_id), "{first:?}");
    assert_eq!(first, InstallationRecord { engine_id: first.engine_id.clone(), ..record });
    assert!(answers.iter().all(|stands| stands.as_ref() == Some(&first)), "{answers:?}");
    assert_eq!(set(&other.installation, "", "late").await.as_ref(), Some(&first));
    let moved = set(&other.installation, &first.engine_id, "another").await.unwrap();
    assert_eq!(moved.engine_id, "another");
    assert_eq!(handles.installation.load().await.unwrap(), Some(moved));
}

fn heartbeat(make: &Maker, agent_id: AgentId, incarnation: u64) -> Heartbeat {
    Heartbeat {
        agent_id,
        incarnation: Incarnation(incarnation),
        at: make.clock().now(),
        loop_count: 1,
        last_loop_at: None,
        activity: Some(Activity::Idle),
    }
}

async fn flush(handles: &Handles, rows: &[Heartbeat]) {
    within(async {
        while handles.heartbeats.flush(rows).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn all(handles: &Handles) -> Vec<Heartbeat> {
    sorted(handles.heartbeats.all().await.unwrap())
}

fn sorted(mut rows: Vec<Heartbeat>) -> Vec<Heartbeat> {
    rows.sort_by_key(|row| row.agent_id);
    rows
}
