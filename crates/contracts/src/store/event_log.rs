//! The rules of `EventLog`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use aito_domain::{
    agent::Agent,
    event::{Actor, Event},
    id::{AgentId, EventId},
    ports::{
        event_log::{Bounds, EventLog, EventQuery},
        ledger::{Commit, CommitError, Ledger},
    },
};
use futures_util::{StreamExt as _, future::join_all};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::{Handles, Maker, StoreFixture, change, epoch, logged_ids, must, whole_log, within};
use crate::faults::{Settlements, SettlingLedger};

/// Rule 1.
pub async fn event_log_01_one_total_order<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let commits: Vec<_> = (0..30)
        .map(|n| Commit {
            events: (0..3).map(|m| make.event(&format!("{n}: {m}"))).collect(),
            ..make.commit()
        })
        .collect();
    let writing = commits.iter().enumerate().map(|(n, commit)| {
        let ledger = if n % 2 == 0 { &handles.ledger } else { &other.ledger };
        persistent(ledger, commit)
    });
    for answer in within(join_all(writing)).await {
        answer.unwrap();
    }
    let log = whole_log(&handles.log).await;
    assert_eq!(log, whole_log(&other.log).await, "the same for everybody");
    assert!(log.windows(2).all(|pair| pair[0].position.n < pair[1].position.n));
    assert!(log.iter().all(|event| event.position.epoch == epoch()));
    let place: HashMap<EventId, usize> = log.iter().enumerate().map(|(at, event)| (event.id, at)).collect();
    for commit in &commits {
        let places: Vec<_> = commit.events.iter().map(|event| place[&event.id]).collect();
        assert!(places.is_sorted(), "{places:?}");
    }
    assert_eq!((handles.log.epoch(), log.len()), (&epoch(), 90));
}

/// Rule 2, with rules 1, 3, 4, 5 and 9 under load: 16 writers, some of which are refused; readers that page in
/// steps of any size all the time; open writers that come and go. Each reader ends with exactly the log.
pub async fn event_log_02_readers_get_every_event_once_whatever_writers_do<F: StoreFixture>() {
    const WRITERS: u64 = 16;
    const COMMITS: u32 = 20;
    const READERS: u64 = 3;
    const OPEN_WRITERS: u32 = 5;

    let fixture = F::fresh().await;
    let (handles, other) = (fixture.handles(), fixture.second_handle().await);
    let make = Arc::new(Maker::new());
    let shared = make.stored_agent(&handles, "shared").await.id;
    let written: Arc<Mutex<BTreeSet<EventId>>> = Arc::default();
    let done = Arc::new(AtomicBool::new(false));

    let writers: Vec<_> = (0..WRITERS)
        .map(|seed| {
            let (handles, make, written) = (
                if seed % 4 == 0 { &other } else { &handles }.clone(),
                Arc::clone(&make),
                Arc::clone(&written),
            );
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..COMMITS {
                    let count = random.random_range(1..=3);
                    let mut commit = Commit {
                        events: (0..count).map(|n| make.event(&format!("{seed}: {n}"))).collect(),
                        ..make.commit()
                    };
                    if random.random_bool(0.25) {
                        let mut agent = handles.agents.by_id(shared).await.unwrap().unwrap();
                        for _ in 0..random.random_range(0..5) {
                            tokio::task::yield_now().await;
                        }
                        agent.restarts += 1;
                        commit.changes.push(change(&agent));
                    }
                    match persistent(&handles.ledger, &commit).await {
                        Ok(_) => written.lock().unwrap().extend(commit.events.iter().map(|event| event.id)),
                        Err(CommitError::Conflict(_)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..READERS)
        .map(|seed| {
            let (log, done) =
                (Arc::clone(if seed == 0 { &other.log } else { &handles.log }), Arc::clone(&done));
            tokio::spawn(async move { follow(&log, &done, seed).await })
        })
        .collect();

    let mut random = StdRng::seed_from_u64(99);
    for n in 0..OPEN_WRITERS {
        let seen = handles.log.bounds().await.unwrap().map_or(0, |bounds| bounds.newest);
        let event = make.event(&format!("from outside {n}"));
        let id = event.id;
        let open = within(fixture.open_writer(event)).await;
        // Whoever reads now must neither wait nor see what is not committed.
        let mut at = seen;
        for _ in 0..3 {
            let page = within(handles.log.after(at, random.random_range(1..5))).await.unwrap();
            assert!(page.iter().all(|event| event.id != id), "an event was seen before its commit");
            at = page.last().map_or(at, |event| event.position.n);
        }
        if random.random_bool(0.5) {
            written.lock().unwrap().insert(id);
            open.commit().await;
        } else {
            open.roll_back().await;
        }
        tokio::task::yield_now().await;
    }
    for writer in within(join_all(writers)).await {
        writer.unwrap();
    }
    done.store(true, Ordering::SeqCst);

    let log = whole_log(&handles.log).await;
    let stored: BTreeSet<EventId> = log.iter().map(|event| event.id).collect();
    assert_eq!(stored, *written.lock().unwrap(), "exactly what was acknowledged is stored");
    for reader in within(join_all(readers)).await {
        assert_eq!(reader.unwrap(), log, "a reader has something else than the log");
    }
}

/// Reads on from what it has until nothing comes any more after the writers are done.
async fn follow(log: &Arc<dyn EventLog>, done: &AtomicBool, seed: u64) -> Vec<Event> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut all: Vec<Event> = Vec::new();
    loop {
        let last_round = done.load(Ordering::SeqCst);
        let seen = all.last().map_or(0, |event| event.position.n);
        let page = within(log.after(seen, random.random_range(1..=7))).await.unwrap();
        for (event, expected) in page.iter().zip(seen + 1..) {
            assert_eq!(event.position.n, expected, "reader {seed} has read up to {seen}");
        }
        if page.is_empty() {
            if last_round {
                return all;
            }
            tokio::task::yield_now().await;
        }
        all.extend(page);
    }
}

/// Rule 3.
pub async fn event_log_03_positions_have_no_holes<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let agent = make.stored_agent(&handles, "ceo").await;
    let mut expected = Vec::new();
    for round in 0..10_u32 {
        // Refused before its events are written, and after some of them were.
        let events: Vec<_> = (0..3).map(|_| make.event("never")).collect();
        let stale = Agent { version: aito_domain::id::Version(7), ..agent.clone() };
        let mut refused =
            vec![Commit { changes: vec![change(&stale)], events: events.clone(), ..make.commit() }];
        if let Some(used) = expected.last().cloned() {
            refused.push(Commit { events: [events, vec![used]].concat(), ..make.commit() });
        }
        let good = make.telling("good");
        let (good_answer, answers) = within(async {
            tokio::join!(
                persistent(&handles.ledger, &good),
                join_all(refused.iter().map(|commit| persistent(&handles.ledger, commit)))
            )
        })
        .await;
        good_answer.unwrap();
        for answer in answers {
            assert!(matches!(answer, Err(CommitError::Conflict(_))), "{answer:?}");
        }
        let again = within(handles.ledger.commit(&good)).await;
        assert!(matches!(again, Err(CommitError::Duplicate(_))), "{again:?}");
        let barred = make.telling("barred");
        within(persistent_settle(&handles, &barred)).await;
        assert!(matches!(within(handles.ledger.commit(&barred)).await, Err(CommitError::Barred)));
        if round.is_multiple_of(3) {
            within(fixture.open_writer(make.event("rolled back"))).await.roll_back().await;
        }
        expected.push(good.events[0].clone());
    }
    let log = whole_log(&handles.log).await;
    let numbers: Vec<_> = log.iter().map(|event| event.position.n).collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
    assert_eq!(logged_ids(&handles.log).await, expected.iter().map(|event| event.id).collect::<Vec<_>>());
}

/// Rule 4.
pub async fn event_log_04_an_open_writer_neither_stalls_nor_hides<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let mut expected = Vec::new();
    for commits in [true, false] {
        let before = make.telling("before");
        must(&handles.ledger, &before).await;
        expected.push(before.events[0].id);
        let from_outside = make.event("from outside");
        let id = from_outside.id;
        let open = within(fixture.open_writer(from_outside)).await;
        assert_eq!(within(logged_ids(&handles.log)).await, expected, "what was committed is read at once");

        // Where the store lets others commit meanwhile, that is seen too; where it does not, they are told so.
        let meanwhile = make.telling("meanwhile");
        let undecided = match within(handles.ledger.commit(&meanwhile)).await {
            Ok(_) => {
                expected.push(meanwhile.events[0].id);
                false
            }
            Err(CommitError::Unavailable(_)) => false,
            Err(CommitError::Unknown(_)) => true,
            Err(other) => panic!("{other:?}"),
        };
        let is_decided = |id: &EventId| !undecided || *id != meanwhile.events[0].id;
        let log: Vec<_> = within(logged_ids(&handles.log)).await.into_iter().filter(is_decided).collect();
        assert_eq!(log, expected);
        let seen = handles.log.bounds().await.unwrap().unwrap().newest;
        if commits {
            open.commit().await;
        } else {
            open.roll_back().await;
        }
        if undecided {
            within(persistent_settle(&handles, &meanwhile)).await;
        }
        let fresh: Vec<_> =
            within(handles.log.after(seen, 10)).await.unwrap().iter().map(|event| event.id).collect();
        let decided: Vec<_> = fresh.iter().copied().filter(is_decided).collect();
        assert_eq!(
            decided,
            if commits { vec![id] } else { Vec::new() },
            "it comes after what was seen, or never"
        );
        let log = logged_ids(&handles.log).await;
        assert!(log.starts_with(&expected), "what was seen stays where it was");
        expected = log;
    }
    let after = make.telling("after");
    must(&handles.ledger, &after).await;
    expected.push(after.events[0].id);
    assert_eq!(logged_ids(&handles.log).await, expected);
}

/// Rule 5.
pub async fn event_log_05_after_gives_up_to_limit_in_order<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    assert_eq!(handles.log.after(0, 10).await.unwrap(), []);
    tell(&handles, &make, 10).await;
    let numbers = async |after, limit| -> Vec<u64> {
        handles.log.after(after, limit).await.unwrap().iter().map(|event| event.position.n).collect()
    };
    assert_eq!(numbers(0, 3).await, [1, 2, 3]);
    assert_eq!(numbers(3, 3).await, [4, 5, 6]);
    assert_eq!(numbers(8, 3).await, [9, 10]);
    assert_eq!(numbers(0, 10).await.len(), 10);
    assert!(numbers(0, 0).await.is_empty());
    for beyond in [10, 11, i64::MAX as u64, u64::MAX] {
        assert!(numbers(beyond, 3).await.is_empty());
    }
}

/// Rule 6.
pub async fn event_log_06_latest_gives_the_newest_first_filtered<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let agents = [make.uuid(), make.uuid()].map(AgentId);
    let sources = [None, Some(agents[0]), Some(agents[1])];
    // Position n: type "a" when n is odd, else "b"; source n modulo 3.
    let events = (1..=30_usize)
        .map(|n| make.event_of(if n % 2 == 1 { "a" } else { "b" }, sources[n % 3], json!({ "n": n })))
        .collect();
    must(&handles.ledger, &Commit { events, ..make.commit() }).await;
    let type_of = |n: u64| if n % 2 == 1 { "a" } else { "b" };
    let expect = |query: &EventQuery, source: Option<usize>, limit: usize| -> Vec<u64> {
        (1..=30)
            .rev()
            .filter(|n| query.event_type.as_ref().is_none_or(|wanted| wanted == type_of(*n)))
            .filter(|n| query.hidden.iter().all(|hidden| hidden != type_of(*n)))
            .filter(|n| source.is_none_or(|source| n % 3 == source as u64))
            .filter(|n| query.before.is_none_or(|before| *n < before))
            .take(limit)
            .collect()
    };
    let hidden: [&[&str]; 5] = [&[], &["a"], &["b", "c"], &["c"], &["b", "'); --", "a"]];
    for event_type in [None, Some("a"), Some("b")] {
        for hidden in hidden {
            for source in [None, Some(1), Some(2)] {
                for before in [None, Some(1), Some(17), Some(31), Some(u64::MAX)] {
                    for limit in [1, 4, 100] {
                        let query = EventQuery {
                            event_type: event_type.map(str::to_owned),
                            hidden: hidden.iter().copied().map(str::to_owned).collect(),
                            agent: source.map(|source| agents[source - 1]),
                            before,
                        };
                        let found = handles.log.latest(&query, limit).await.unwrap();
                        let found: Vec<_> = found.iter().map(|event| event.position.n).collect();
                        let expected = expect(&query, source, limit as usize);
                        assert_eq!(found, expected, "{query:?}, {limit}");
                    }
                }
            }
        }
    }
    let nothing = EventQuery { event_type: Some("c".into()), ..EventQuery::default() };
    assert_eq!(handles.log.latest(&nothing, 5).await.unwrap(), []);
    let nobody = EventQuery { agent: Some(AgentId(make.uuid())), ..EventQuery::default() };
    assert_eq!(handles.log.latest(&nobody, 5).await.unwrap(), []);
}

/// Rule 7.
pub async fn event_log_07_bounds_name_oldest_and_newest<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    assert_eq!(handles.log.bounds().await.unwrap(), None);
    for newest in 1..=5 {
        tell(&handles, &make, 1).await;
        assert_eq!(handles.log.bounds().await.unwrap(), Some(Bounds { oldest: 1, newest }));
    }
}

/// Rule 8.
pub async fn event_log_08_a_body_is_read_as_it_was_written<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let mut random = StdRng::seed_from_u64(8);
    let floats: Vec<Value> =
        (0..200).map(|_| json!(random.random::<f64>() * 10_f64.powi(random.random_range(-30..30)))).collect();
    let bodies = [
        ("later_type", json!({"nested": {"list": [1, "two", null, true, {"three": 3}]}})),
        (
            "agent_started",
            json!({"agentType": "ceo", "status": "active", "incarnation": 3, "fromLater": {"x": [1]}}),
        ),
        ("agent_started", json!({"of": "a form of a known type that nobody knows"})),
        ("numbers", json!([0.1, -0.0, 1e300, 5e-324, u64::MAX, i64::MIN, 9_007_199_254_740_993_u64])),
        ("floats", json!(floats)),
        ("texts", json!({"ünï": "日本 🦀 \\ \" ' \n\r\t", "empty": "", "sql": "'); DROP TABLE events; --"})),
        ("long", json!({"text": "x".repeat(300_000)})),
        ("scalar", json!(null)),
        ("empty", json!({})),
    ];
    let mut events: Vec<_> = bodies
        .iter()
        .map(|(event_type, body)| make.event_of(event_type, Some(AgentId(make.uuid())), body.clone()))
        .collect();
    let actors = [
        Actor::System,
        Actor::Unauthenticated,
        Actor::Token("ops: x".into()),
        Actor::Agent("cmo".parse().unwrap()),
    ];
    for (event, actor) in events.iter_mut().zip(actors) {
        event.actor = actor;
    }
    must(&handles.ledger, &Commit { events: events.clone(), ..make.commit() }).await;
    let log = whole_log(&handles.log).await;
    assert_eq!(log.len(), events.len());
    for ((read, written), (event_type, body)) in log.iter().zip(&events).zip(&bodies) {
        assert_eq!(&read.body, body, "{event_type}");
        assert_eq!(read.event_type, *event_type);
        assert_eq!(
            (read.id, read.source_agent, &read.actor, read.created_at),
            (written.id, written.source_agent, &written.actor, written.created_at)
        );
    }
}

/// Rule 9.
pub async fn event_log_09_what_returned_is_read_by_every_handle<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    for n in 1..=40 {
        let (writes, reads) = if n % 2 == 0 { (&handles, &other) } else { (&other, &handles) };
        let commit = make.telling("now");
        within(persistent(&writes.ledger, &commit)).await.unwrap();
        for log in [&reads.log, &writes.log] {
            let newest = log.latest(&EventQuery::default(), 1).await.unwrap();
            assert_eq!((newest[0].id, newest[0].position.n), (commit.events[0].id, n));
            assert_eq!(log.after(n - 1, 10).await.unwrap(), newest);
            assert_eq!(log.bounds().await.unwrap().unwrap().newest, n);
        }
    }
    let log = logged_ids(&other.log).await;
    assert_eq!(log.iter().collect::<HashSet<_>>().len(), 40);
}

/// Rule 10: who looks only when told finds every event, whoever wrote it.
pub async fn event_log_10_hints_say_when_to_look<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let mut hints = handles.log.hints();
    for n in 1..=6 {
        let writes = if n % 2 == 0 { &handles } else { &other };
        let commit = make.telling("look");
        within(persistent(&writes.ledger, &commit)).await.unwrap();
        within(async {
            while handles.log.after(n - 1, 1).await.unwrap().is_empty() {
                hints.next().await.expect("hints go on");
            }
            hints.next().await.expect("a hint of what was written");
        })
        .await;
    }
}

/// Rule 11: who follows gets everything, in order, once.
pub async fn event_log_11_tail_follows_without_holes<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let mut hints = handles.log.hints();
    let (mut written, mut read) = (Vec::new(), Vec::new());
    for n in 1..=20_usize {
        let writes = if n % 2 == 0 { &handles } else { &other };
        let events: Vec<_> = (0..n % 3 + 1).map(|i| make.event(&format!("{n}.{i}"))).collect();
        written.extend(events.iter().map(|event| event.id));
        within(persistent(&writes.ledger, &Commit { events, ..make.commit() })).await.unwrap();
        read.extend(handles.log.tail(read.len() as u64, 2).await.unwrap());
    }
    within(async {
        while read.len() < written.len() {
            let more = handles.log.tail(read.len() as u64, 2).await.unwrap();
            assert!(more.len() <= 2);
            if more.is_empty() {
                hints.next().await.expect("hints go on");
            }
            read.extend(more);
        }
    })
    .await;
    assert_eq!(
        read.iter().map(|event| event.position.n).collect::<Vec<_>>(),
        (1..=written.len() as u64).collect::<Vec<_>>()
    );
    assert_eq!(read.iter().map(|event| event.id).collect::<Vec<_>>(), written);
    assert_eq!(handles.log.tail(u64::MAX, 2).await.unwrap(), []);
}

async fn tell(handles: &Handles, make: &Maker, count: usize) {
    let events = (0..count).map(|n| make.event(&n.to_string())).collect();
    must(&handles.ledger, &Commit { events, ..make.commit() }).await;
}

/// Commits as long as it is certain that nothing happened: somebody may hold the lock for some time.
pub(super) async fn persistent(
    ledger: &Arc<dyn Ledger>,
    commit: &Commit,
) -> Result<Option<Value>, CommitError> {
    let coping = SettlingLedger::new(Arc::clone(ledger), Settlements::default());
    loop {
        match coping.commit(commit).await {
            Err(CommitError::Unavailable(_)) => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

async fn persistent_settle(handles: &Handles, commit: &Commit) {
    let coping = SettlingLedger::new(Arc::clone(&handles.ledger), Settlements::default());
    while coping.settle(commit.id).await.is_err() {
        tokio::task::yield_now().await;
    }
}
