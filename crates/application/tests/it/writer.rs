//! One change, one commit: retried when somebody was faster, settled when nobody knows, undone never.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aito_application::{
    By, Error,
    writer::{Applied, Writer},
};
use aito_contracts::faults::{FaultyLedger, Rates};
use aito_domain::{
    agent::{Agent, Status},
    event::{Actor, Payload},
    id::{AgentId, Incarnation},
    ports::{
        agent_store::AgentStore,
        ledger::{Change, Ledger},
    },
};
use uuid::Uuid;

use super::support::{House, Next, Scripted, assert_no_holes, assert_story};

/// A house with the agent `ceo`, and a writer behind a scripted ledger.
async fn set_up(next: impl IntoIterator<Item = Next>) -> (House, Arc<Scripted>, Writer, AgentId) {
    let house = House::automatic();
    house.server(&["ceo"]).await;
    let scripted = Scripted::new(house.store.clone(), next);
    let writer = house.writer(scripted.clone());
    let id = house.agent("ceo").await.id;
    (house, scripted, writer, id)
}

async fn start(writer: &Writer, id: AgentId) -> Result<Agent, Error> {
    writer.agent(id, &By::system(), |agent, now| Ok(agent.want_running(now))).await
}

#[tokio::test]
async fn a_change_is_stored_with_its_events_and_the_next_version() {
    let (house, _, writer, id) = set_up([]).await;
    let before = house.agent("ceo").await;
    let after = start(&writer, id).await.unwrap();
    assert_eq!(after, house.agent("ceo").await, "what is given is what is stored");
    assert_eq!((after.version, after.status()), (before.version.next(), Status::Starting));
    let events = house.events().await;
    let last = events.last().unwrap();
    assert_eq!(
        (last.event_type.as_str(), last.source_agent, &last.actor),
        ("agent_starting", Some(id), &Actor::System)
    );
    assert_eq!(last.created_at, after.updated_at);
}

#[tokio::test]
async fn no_change_is_not_written() {
    let (house, ledger, writer, id) = set_up([]).await;
    start(&writer, id).await.unwrap();
    let before = (house.agent("ceo").await, house.events().await.len());
    assert_eq!(start(&writer, id).await.unwrap(), before.0);
    assert_eq!((house.agent("ceo").await, house.events().await.len()), before);
    assert_eq!(ledger.commits(), 1);
}

#[tokio::test]
async fn a_refusal_of_the_rule_is_given_on_and_writes_nothing() {
    let (house, ledger, writer, id) = set_up([]).await;
    let before = house.events().await.len();
    let refused = writer.agent(id, &By::system(), |_, _| Err(Error::Conflict("no".to_owned()))).await;
    assert!(matches!(refused, Err(Error::Conflict(why)) if why == "no"));
    assert_eq!((ledger.commits(), house.events().await.len()), (0, before));
    let nobody = AgentId(Uuid::from_u128(404));
    assert!(matches!(start(&writer, nobody).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_conflict_is_decided_anew_on_what_is_stored_then() {
    let (house, ledger, writer, id) = set_up([Next::Conflict, Next::Conflict]).await;
    let decisions = AtomicUsize::new(0);
    let after = writer
        .agent(id, &By::system(), |agent, now| {
            decisions.fetch_add(1, Ordering::SeqCst);
            Ok(agent.want_running(now))
        })
        .await
        .unwrap();
    assert_eq!(
        (decisions.load(Ordering::SeqCst), ledger.commits(), after.incarnation),
        (3, 3, Incarnation(1))
    );
    assert_eq!(house.told("ceo").await, ["agent_starting"]);
}

#[tokio::test]
async fn of_many_at_once_every_change_counts_once() {
    let house = House::new();
    house.server(&["ceo"]).await;
    let _passing = house.passing(Duration::from_millis(5));
    let id = house.agent("ceo").await.id;
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let writer = house.writer(house.store.clone());
            tokio::spawn(async move {
                for _ in 0..4 {
                    writer.agent(id, &By::system(), |agent, now| Ok(agent.want_restart(now))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let agent = house.agent("ceo").await;
    assert_eq!((agent.incarnation, agent.version.0), (Incarnation(24), 25));
    assert_story(&house).await;
}

#[tokio::test]
async fn endless_conflicts_end_as_unavailable_with_nothing_done() {
    let (house, ledger, writer, id) = set_up([Next::Conflict; 100]).await;
    let before = (house.agent("ceo").await, house.events().await.len());
    let Err(Error::Unavailable { detail, .. }) = start(&writer, id).await else {
        panic!("it cannot succeed")
    };
    assert!(detail.contains("nothing was done"), "{detail}");
    assert!((2..100).contains(&ledger.commits()), "bounded");
    assert_eq!((house.agent("ceo").await, house.events().await.len()), before);
}

#[tokio::test]
async fn an_unknown_commit_that_was_applied_is_a_success_and_counts_once() {
    let (house, ledger, writer, id) = set_up([Next::UnknownApplied]).await;
    let after = start(&writer, id).await.unwrap();
    assert_eq!((after, ledger.commits(), ledger.settles()), (house.agent("ceo").await, 1, 1));
    assert_eq!(house.told("ceo").await, ["agent_starting"]);
}

#[tokio::test]
async fn an_unknown_commit_that_was_lost_is_decided_anew() {
    let (house, ledger, writer, id) = set_up([Next::UnknownLost]).await;
    ledger.mute_settles(2);
    let after = start(&writer, id).await.unwrap();
    assert_eq!((after.incarnation, ledger.commits(), ledger.settles()), (Incarnation(1), 2, 3));
    assert_eq!(house.told("ceo").await, ["agent_starting"]);
}

#[tokio::test]
async fn what_cannot_be_settled_is_said_to_be_unknown() {
    for (next, applied) in [(Next::UnknownApplied, true), (Next::UnknownLost, false)] {
        let (house, ledger, writer, id) = set_up([next]).await;
        ledger.mute_settles(1000);
        let Err(Error::Unavailable { detail, source, .. }) = start(&writer, id).await else {
            panic!("it is unknown")
        };
        assert!(detail.contains("not known"), "{detail}");
        assert!(source.is_some() && ledger.commits() == 1, "nothing else was tried");
        assert_eq!(house.agent("ceo").await.status() == Status::Starting, applied);
    }
}

#[tokio::test]
async fn an_unavailable_store_is_said_with_nothing_done() {
    let (house, ledger, writer, id) = set_up([Next::Unavailable]).await;
    let before = (house.agent("ceo").await, house.events().await.len());
    let Err(Error::Unavailable { detail, .. }) = start(&writer, id).await else { panic!("it is away") };
    assert!(detail.contains("nothing was done"), "{detail}");
    assert_eq!(
        (house.agent("ceo").await, house.events().await.len(), ledger.commits()),
        (before.0, before.1, 1)
    );
    start(&writer, id).await.unwrap();
}

#[tokio::test]
async fn the_same_commit_again_changes_nothing_and_gives_the_first_answer() {
    let (house, _, writer, id) = set_up([]).await;
    let agent = house.agent("ceo").await;
    let now = writer.clock().now();
    let moved = agent.want_running(now);
    let mut commit = writer.begin();
    commit.changes.push(Change::Agent(Box::new(moved.agent)));
    writer.tell(&mut commit, Some(id), &Actor::System, moved.events, now);
    commit.answer = Some(serde_json::json!({"first": true}));
    assert_eq!(writer.apply(&commit).await.unwrap(), Applied::Yes);
    assert_eq!(writer.apply(&commit).await.unwrap(), Applied::Before(commit.answer.clone()));
    assert_eq!(house.told("ceo").await, ["agent_starting"]);
    let stale = writer.begin();
    let stale = aito_domain::ports::ledger::Commit { changes: commit.changes.clone(), ..stale };
    assert_eq!(writer.apply(&stale).await.unwrap(), Applied::Conflict, "its version has passed");
}

#[tokio::test]
async fn whatever_the_ledger_does_events_and_state_agree() {
    for seed in 0..12 {
        println!("seed {seed}");
        let house = House::automatic();
        house.server(&["ceo"]).await;
        let id = house.agent("ceo").await.id;
        let rates = Rates { conflict: 0.1, ..Rates::ROUGH };
        let faulty: Arc<dyn Ledger> = Arc::new(FaultyLedger::new(house.store.clone(), seed, rates));
        let writer = house.writer(faulty);
        let mut done = 0;
        for _ in 0..30 {
            let before = house.store.by_id(id).await.unwrap().unwrap();
            match writer.agent(id, &By::system(), |agent, now| Ok(agent.want_restart(now))).await {
                Ok(after) => {
                    assert_eq!(after, house.store.by_id(id).await.unwrap().unwrap());
                    assert_eq!(after.incarnation, before.incarnation.next(), "once, seed {seed}");
                    done += 1;
                }
                Err(Error::Unavailable { detail, .. }) if detail.contains("nothing was done") => {
                    assert_eq!(house.store.by_id(id).await.unwrap().unwrap(), before, "seed {seed}");
                }
                Err(Error::Unavailable { detail, .. }) => assert!(detail.contains("not known"), "{detail}"),
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(done >= 15, "{done} of 30 with seed {seed}");
        let events = house.events().await;
        assert_no_holes(&events);
        let begun = events.iter().filter(|e| matches!(e.payload(), Payload::AgentStarting(_))).count() as u64;
        assert_eq!(begun, house.agent("ceo").await.incarnation.0, "seed {seed}");
        assert_story(&house).await;
    }
}
