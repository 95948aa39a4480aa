//! Who speaks in a commit, and who changes an agent: who waits for whom, in which order, and that nobody waits in a circle.

use std::sync::Arc;

use aito_contracts::wait;
use aito_domain::{
    agent::Agent,
    id::Incarnation,
    ports::{
        agent_store,
        ledger::{Change, Commit, CommitError, Ledger as _, Speaker},
    },
};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::work::{active, changes, claiming, new_task, task, tasks, waiting, waits_for_a_lock};
use crate::{
    ledger::{AGENT_LOCKS, agent_key},
    tests::bench::{Bench, SOON, connect},
};

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_waits_for_the_next_incarnation_and_it_waits_for_who_speaks() {
    let bench = Bench::new().await;
    let agent = active(&bench, "ceo").await;
    let speaker = Some(Speaker { agent: agent.id, incarnation: Incarnation(1) });
    // The next incarnation is under way.
    let other = connect(&bench.url).await;
    for (end, counts) in [("ROLLBACK", true), ("COMMIT", false)] {
        let lock = format!("SELECT pg_advisory_xact_lock({AGENT_LOCKS}, {})", agent_key(agent.id.0));
        let next = "UPDATE agents SET incarnation = incarnation + 1";
        other.batch_execute(&format!("BEGIN; {lock}; {next}")).await.unwrap();
        let (store, commit) = (Arc::clone(&bench.store), Commit { speaker, ..bench.telling() });
        let speaking = tokio::spawn(async move { store.commit(&commit).await });
        waits_for_a_lock(&bench, 1).await;
        other.batch_execute(end).await.unwrap();
        let told = speaking.await.unwrap();
        assert_eq!(told.is_ok(), counts, "{told:?}");
        assert!(counts || matches!(told, Err(CommitError::Conflict(_))), "{told:?}");
    }
    // Who speaks is under way, and waits for something else.
    bench.run(&["UPDATE agents SET incarnation = 1"]).await;
    let one = new_task(&bench, &agent);
    bench.store.commit(&changes(&bench, [task(&one)])).await.unwrap();
    let one = tasks(&bench).by_id(one.id).await.unwrap().unwrap();
    other.batch_execute("BEGIN; SELECT FROM tasks FOR UPDATE").await.unwrap();
    let spoken = Commit { speaker, ..changes(&bench, [task(&one)]) };
    let next = bench.changing(&Agent { incarnation: Incarnation(2), ..agent.clone() });
    let (said, began) = (spoken.events[0].id, next.events[0].id);
    let mut under_way = Vec::new();
    for (count, commit) in [(1, spoken), (2, next)] {
        let store = Arc::clone(&bench.store);
        under_way.push(tokio::spawn(async move { store.commit(&commit).await }));
        waits_for_a_lock(&bench, count).await;
    }
    other.batch_execute("COMMIT").await.unwrap();
    for commit in under_way {
        commit.await.unwrap().unwrap();
    }
    let logged = bench.logged().await;
    assert!(logged.ends_with(&[said, began]), "what was said comes first");
    // Who changes its own agent speaks for the incarnation that stood before.
    let agent = agent_store::AgentStore::by_id(&*bench.store, agent.id).await.unwrap().unwrap();
    let commit = Commit { speaker, ..bench.changing(&agent) };
    assert!(matches!(bench.store.commit(&commit).await, Err(CommitError::Conflict(_))));
    let speaker = Some(Speaker { agent: agent.id, incarnation: Incarnation(2) });
    let third = Agent { incarnation: Incarnation(3), ..agent };
    bench.store.commit(&Commit { speaker, ..bench.changing(&third) }).await.unwrap();
}

type Committing = JoinHandle<Result<Option<Value>, CommitError>>;

fn committing(bench: &Bench, commit: Commit) -> Committing {
    let store = Arc::clone(&bench.store);
    tokio::spawn(async move { store.commit(&commit).await })
}

/// Those who speak do not disturb each other, so that there may always be one under way.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_speaks_passes_the_next_incarnation_that_waits_for_its_turn() {
    let bench = Bench::with(|options| options.connections = 16).await;
    let agent = active(&bench, "ceo").await;
    let speaker = Some(Speaker { agent: agent.id, incarnation: Incarnation(1) });
    let one = new_task(&bench, &agent);
    bench.store.commit(&changes(&bench, [task(&one)])).await.unwrap();
    let one = tasks(&bench).by_id(one.id).await.unwrap().unwrap();
    // Who speaks first is under way, and waits for something else.
    let other = connect(&bench.url).await;
    other.batch_execute("BEGIN; SELECT FROM tasks FOR UPDATE").await.unwrap();
    let first = Commit { speaker, ..changes(&bench, [task(&one)]) };
    let next = bench.changing(&Agent { incarnation: Incarnation(2), ..agent.clone() });
    let in_order = [first.events[0].id, next.events[0].id];
    let first = committing(&bench, first);
    waits_for_a_lock(&bench, 1).await;
    let beside = committing(&bench, Commit { speaker, ..bench.telling() });
    beside.await.unwrap().unwrap();
    let next = committing(&bench, next);
    waits_for_a_lock(&bench, 2).await;
    let late: Vec<_> = (0..8).map(|_| committing(&bench, Commit { speaker, ..bench.telling() })).collect();
    let passed = wait::until("the late ones to wait or to be through", SOON, async || {
        let passed = late.iter().filter(|one| one.is_finished()).count();
        (waiting(&bench).await + passed as i64 >= 10).then_some(passed)
    })
    .await;
    assert_eq!((passed, next.is_finished()), (0, false));
    other.batch_execute("COMMIT").await.unwrap();
    first.await.unwrap().unwrap();
    next.await.unwrap().unwrap();
    for one in late {
        let refused = one.await.unwrap();
        assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
    }
    assert!(bench.logged().await.ends_with(&in_order));
}

/// Each of two agents speaks, is changed by what the other speaks, and picks; ids are used twice and settled meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn no_two_commits_wait_for_each_other() {
    let bench = Arc::new(Bench::with(|options| options.connections = 16).await);
    let agents = [active(&bench, "ceo").await, active(&bench, "cto").await];
    for agent in &agents {
        let made: Vec<Change> = (0..60).map(|_| task(&new_task(&bench, agent))).collect();
        bench.store.commit(&changes(&bench, made)).await.unwrap();
    }
    let racers = (0..12).map(|n: usize| {
        let (bench, own, other) = (Arc::clone(&bench), agents[n % 2].clone(), agents[1 - n % 2].clone());
        tokio::spawn(async move {
            let speaker = Some(Speaker { agent: own.id, incarnation: Incarnation(1) });
            for _ in 0..20 {
                let stored = async |agent: &Agent| {
                    agent_store::AgentStore::by_id(&*bench.store, agent.id).await.unwrap().unwrap()
                };
                let changed = [stored(&other).await, stored(&own).await].map(Box::new).map(Change::Agent);
                let commit = match n / 2 % 3 {
                    0 => Commit { speaker, ..changes(&bench, &changed[..1]) },
                    1 => Commit { speaker, ..changes(&bench, changed) },
                    _ => claiming(&bench, &own, 50),
                };
                let again = async { committing(&bench, commit.clone()).await.unwrap() };
                let (one, two, settled) =
                    tokio::join!(bench.store.commit(&commit), again, bench.store.settle(commit.id));
                settled.unwrap();
                for end in [one, two] {
                    let is_decided = matches!(
                        end,
                        Ok(_)
                            | Err(CommitError::Conflict(_) | CommitError::Duplicate(_) | CommitError::Barred)
                    );
                    assert!(is_decided, "{end:?}");
                }
            }
        })
    });
    for racer in join_all(racers.collect::<Vec<_>>()).await {
        racer.unwrap();
    }
    let Bench { store, outside, .. } = Arc::into_inner(bench).unwrap();
    drop(store);
    // What a connection has counted is known for certain when it has ended.
    let asked = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()), deadlocks
         FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks = wait::until("the connections to be gone", SOON, async || {
        let row = outside.query_one(asked, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 1).then(|| row.get::<_, i64>(1))
    })
    .await;
    assert_eq!(deadlocks, 0);
}
