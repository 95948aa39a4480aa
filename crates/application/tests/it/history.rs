//! Agents' histories: a row and its event in one commit, or nothing.

use aito_application::{By, Error, history::NewEntry, once::Once};
use aito_domain::{
    agent::Agent,
    event::{Actor, Payload},
    history::{MAX_DETAILS, MAX_SUMMARY},
    id::Incarnation,
    ports::{agent_store::AgentStore as _, history_store::HistoryCursor},
};
use serde_json::json;

use super::support::{House, Next, Scripted, Server, operator, spec_of, ty};

fn entry(summary: &str) -> NewEntry {
    NewEntry { action_type: "idea".to_owned(), summary: summary.to_owned(), details: Some(json!({"n": 1.5})) }
}

async fn started(house: &House, server: &Server) -> Agent {
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    house.agent("ceo").await
}

fn own() -> By {
    By::author(Actor::Agent(ty("ceo")))
}

/// A key as the HTTP interface makes it of a caller's.
fn once(credential: &str, path: &str, key: &str) -> Once {
    Once::new(credential, "POST", path, key)
}

#[tokio::test]
async fn a_row_is_stored_with_its_event_and_pages_join() {
    let house = House::automatic();
    let server = house.server(&["ceo", "cmo"]).await;
    let ceo = started(&house, &server).await;
    let mut rows = Vec::new();
    for n in 0..7 {
        rows.push(
            server
                .history
                .record(&ceo, Incarnation(1), entry(&format!("row {n}")), &own(), None, None)
                .await
                .unwrap(),
        );
    }
    rows.reverse();
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = server.history.list(ceo.id, before, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(HistoryCursor { at: last.created_at, id: last.id });
        found.extend(page);
    }
    assert_eq!(found, rows);
    let told: Vec<_> = house
        .events()
        .await
        .iter()
        .filter_map(|event| match event.payload() {
            Payload::HistoryRecorded(it) => Some((it.history_id, event.actor.clone(), it.action_type)),
            _ => None,
        })
        .collect();
    let expected: Vec<_> =
        rows.iter().rev().map(|row| (row.id, own().actor().clone(), "idea".to_owned())).collect();
    assert_eq!(told, expected);
    assert_eq!(house.agent("ceo").await.version, ceo.version, "the agent itself is not changed");
    assert!(server.history.list(house.agent("cmo").await.id, None, 50).await.unwrap().is_empty());
}

#[tokio::test]
async fn bounds_are_exact_and_all_faults_are_named() {
    let house = House::automatic();
    let server = house.server(&["ceo"]).await;
    let ceo = started(&house, &server).await;
    let events = house.events().await.len();
    let faults = |result: Result<_, Error>| match result {
        Err(Error::Invalid(faults)) => faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let record = async |new| server.history.record(&ceo, Incarnation(1), new, &own(), None, None).await;
    let text = |length: usize| "x".repeat(length);
    let all = NewEntry {
        action_type: "Idea".to_owned(),
        summary: "\n".to_owned(),
        details: Some(json!(text(MAX_DETAILS - 1))),
    };
    assert_eq!(faults(record(all).await), ["/actionType", "/summary", "/details"]);
    assert_eq!(faults(record(entry(&text(MAX_SUMMARY + 1))).await), ["/summary"]);
    assert_eq!(house.events().await.len(), events, "nothing was done");

    let umlauts = "ä".repeat(MAX_SUMMARY);
    let largest = NewEntry { details: Some(json!(text(MAX_DETAILS - 2))), ..entry(&umlauts) };
    assert_eq!(record(largest).await.unwrap().summary, umlauts, "characters count, not bytes");
}

#[tokio::test]
async fn only_the_present_incarnation_writes_history() {
    let house = House::automatic();
    let server = house.server(&["ceo"]).await;
    let newborn = house.agent("ceo").await;
    let refused = server.history.record(&newborn, Incarnation(0), entry("x"), &own(), None, None).await;
    assert!(matches!(refused, Err(Error::PastIncarnation { .. })), "it was never started");
    server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    let ceo = house.agent("ceo").await;
    for said in [Incarnation(1), Incarnation(3)] {
        let refused = server.history.record(&ceo, said, entry("x"), &own(), None, None).await;
        let Err(Error::PastIncarnation { said: named, present }) = refused else {
            panic!("{said} is not present")
        };
        assert_eq!((named, present), (said, Incarnation(2)));
    }
    assert!(server.history.list(ceo.id, None, 50).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_row_survives_a_troubled_store_exactly_once_or_not_at_all() {
    let house = House::automatic();
    let ledger = Scripted::new(house.store.clone(), []);
    let server = house.server_of([spec_of("ceo")], ledger.clone(), house.store.clone()).await;
    let ceo = started(&house, &server).await;
    let record = async |summary: &str| {
        server.history.record(&ceo, Incarnation(1), entry(summary), &own(), None, None).await
    };

    ledger.then([Next::UnknownApplied]);
    record("applied").await.unwrap();
    ledger.then([Next::UnknownLost]);
    record("lost and again").await.unwrap();
    ledger.then([Next::Unavailable]);
    let Err(Error::Unavailable { detail, .. }) = record("never").await else { panic!("the store is away") };
    assert!(detail.contains("nothing was done"), "{detail}");

    let rows = server.history.list(ceo.id, None, 50).await.unwrap();
    let summaries: Vec<_> = rows.iter().map(|row| row.summary.as_str()).collect();
    assert_eq!(summaries, ["lost and again", "applied"]);
    let told = house.told("ceo").await;
    assert_eq!(told.iter().filter(|told| *told == "history_recorded").count(), 2);
}

#[tokio::test]
async fn a_repeated_key_stores_nothing_and_gives_the_first_row() {
    let house = House::automatic();
    let ledger = Scripted::new(house.store.clone(), []);
    let server = house.server_of(["ceo", "cmo"].map(spec_of), ledger.clone(), house.store.clone()).await;
    let ceo = started(&house, &server).await;
    let record = async |summary: &str, key: &str| {
        server
            .history
            .record(&ceo, Incarnation(1), entry(summary), &own(), Some(&once("ceo", "/ceo", key)), None)
            .await
    };
    // Whatever became of the answers: of the first call, of the repetition, or of both.
    let troubles: [(&[Next], &[Next]); 6] = [
        (&[], &[]),
        (&[Next::UnknownApplied], &[]),
        (&[Next::UnknownLost], &[]),
        (&[], &[Next::UnknownApplied]),
        (&[], &[Next::UnknownLost]),
        (&[Next::UnknownLost, Next::UnknownLost], &[Next::UnknownLost, Next::UnknownApplied]),
    ];
    for (n, (first, again)) in troubles.into_iter().enumerate() {
        let (summary, key) = (format!("row {n}"), format!("key {n}"));
        ledger.then(first.iter().copied());
        let row = record(&summary, &key).await.unwrap();
        house.clock.advance(std::time::Duration::from_secs(1)).await;
        ledger.then(again.iter().copied());
        assert_eq!(record(&summary, &key).await.unwrap(), row, "after {first:?} and {again:?}");
        assert_eq!(record(&summary, &key).await.unwrap(), row, "after {first:?} and {again:?}");
        let stored = server.history.list(ceo.id, None, 50).await.unwrap();
        assert_eq!((stored.len(), &stored[0]), (n + 1, &row), "after {first:?} and {again:?}");
    }
    assert!(matches!(record("another row", "key 0").await, Err(Error::Conflict(_))));

    // A key is its agent's own, and its caller's.
    let cmo = house.agent("cmo").await;
    server.fleet.start(&ty("cmo"), &operator()).await.unwrap();
    let cmo = house.store.by_id(cmo.id).await.unwrap().unwrap();
    let theirs = server
        .history
        .record(&cmo, Incarnation(1), entry("row 0"), &own(), Some(&once("ceo", "/cmo", "key 0")), None)
        .await
        .unwrap();
    let other = server
        .history
        .record(&ceo, Incarnation(1), entry("row 0"), &operator(), Some(&once("ops", "/ceo", "key 0")), None)
        .await
        .unwrap();
    let mine = record("row 0", "key 0").await.unwrap();
    assert!(theirs.id != mine.id && other.id != mine.id && theirs.agent_id == cmo.id);
    let told = house.told("ceo").await;
    assert_eq!(told.iter().filter(|told| *told == "history_recorded").count(), troubles.len() + 1);
}
