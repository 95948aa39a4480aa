//! The log and its listeners: everything once, in order, across cuts.

use std::{sync::Arc, time::Duration};

use aito_api::{AgentStatus, NewHistory};
use aito_client::{EventQuery, EventSocket, Item, Page, ResumingEvents};
use aito_harness::{Set, story, wait};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use crate::{SOON, sandbox, until_status};

pub(crate) async fn a_listener_that_is_cut_and_resumes_at_random_has_exactly_the_log(set: Set) {
    let seed = 7;
    let mut random = StdRng::seed_from_u64(seed);
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    until_status(&client, "ceo", AgentStatus::Active).await;
    let newest = client.events(&EventQuery::default()).await.unwrap().events[0].position.clone();
    let epoch = newest.rsplit_once('-').unwrap().0.to_owned();

    let writing = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (client, writing) = (server.client(), writing.clone());
            tokio::spawn(async move {
                let mut rows = 0;
                while writing.load(std::sync::atomic::Ordering::Relaxed) {
                    client
                        .record_history("ceo", &NewHistory::new("task", format!("{writer}: {rows}")))
                        .await
                        .unwrap();
                    rows += 1;
                }
                rows
            })
        })
        .collect();
    // Each connection is cut after a random number of frames; the next one goes on from the last whole event.
    let mut seen: Vec<String> = Vec::new();
    let mut connections = 0;
    while connections < 25 {
        let since = seen.last().cloned().unwrap_or_else(|| format!("{epoch}-0"));
        let mut socket = EventSocket::connect(&client, &["event"], Some(&since)).await.unwrap();
        connections += 1;
        for _ in 0..random.random_range(1..60) {
            let frame = socket.next().await.unwrap().unwrap();
            seen.push(frame.position.unwrap());
        }
    }
    writing.store(false, std::sync::atomic::Ordering::Relaxed);
    let mut rows = 0;
    for writer in writers {
        rows += writer.await.unwrap();
    }
    let log = story::whole_log(&client).await;
    story::check(&log);
    assert!(log.iter().filter(|event| event.event_type == "history_recorded").count() >= rows);
    let mut rest = EventSocket::connect(&client, &["event"], seen.last().map(String::as_str)).await.unwrap();
    while seen.len() < log.len() {
        seen.push(rest.next().await.unwrap().unwrap().position.unwrap());
    }
    let logged: Vec<String> = log.into_iter().map(|event| event.position).collect();
    assert_eq!(seen, logged, "seed {seed}");
}

/// Waits until the start has made all agents and the list of domains; gives the newest position.
async fn all_registered(client: &aito_client::Client) -> String {
    wait::until("events", SOON, async || {
        let domains = client.domains(&Page::default()).await.unwrap().domains.len();
        let events = client.events(&EventQuery::default()).await.unwrap().events;
        // Seven agents, the first token, and what every list begins with.
        (domains > 0 && events.len() == 8 + domains).then(|| events[0].position.clone())
    })
    .await
}

pub(crate) async fn listeners_get_the_present_status_first_and_frames_in_the_documented_form(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    // From a position on: what the server has read of its log so far is its own affair.
    let newest = all_registered(&client).await;
    let mut all = EventSocket::connect(&client, &[], Some(&newest)).await.unwrap();
    for _ in 0..7 {
        let frame = all.next().await.unwrap().unwrap();
        assert_eq!((frame.frame_type.as_str(), frame.position, frame.id), ("agent_status", None, None));
        assert_eq!(frame.payload["status"], "inactive");
    }
    let mut statuses = EventSocket::connect(&client, &["agent_status"], Some(&newest)).await.unwrap();
    for _ in 0..7 {
        statuses.next().await.unwrap().unwrap();
    }
    client.start("cmo").await.unwrap();
    let specific = all.next().await.unwrap().unwrap();
    assert_eq!(specific.frame_type, "agent_status");
    assert_eq!(specific.payload, json!({"agentType": "cmo", "status": "starting"}));
    assert!(!specific.last && specific.position.is_some());
    let event = all.next().await.unwrap().unwrap();
    assert_eq!((event.frame_type.as_str(), event.last), ("event", true));
    assert_eq!((&event.position, &event.id), (&specific.position, &specific.id));
    assert_eq!(event.payload["eventType"], "agent_starting");
    let alone = statuses.next().await.unwrap().unwrap();
    assert!(alone.last, "the only frame that passes the filter is the last one");
    assert_eq!(alone.position, specific.position);
}

pub(crate) async fn a_position_that_cannot_be_resumed_gets_one_reset(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    let newest = all_registered(&client).await;
    let epoch = newest.rsplit_once('-').unwrap().0.to_owned();
    for since in ["another-1".to_owned(), format!("{epoch}-9999")] {
        let newest = client.events(&EventQuery::default()).await.unwrap().events[0].position.clone();
        let mut socket = EventSocket::connect(&client, &["event"], Some(&since)).await.unwrap();
        let reset = socket.next().await.unwrap().unwrap();
        assert_eq!(reset.frame_type, "reset", "{since}");
        assert_eq!(reset.payload["oldest"], format!("{epoch}-1"));
        assert_eq!(reset.payload["newest"], newest);
        // After it, it is live: the next event is the one after the newest.
        client.start("cco").await.unwrap();
        let next = socket.next().await.unwrap().unwrap();
        assert_eq!(next.payload["eventType"], "agent_starting");
        assert_eq!(story::number(&next.position.unwrap()), story::number(&newest) + 1);
        client.stop("cco").await.unwrap();
        let mut resuming = ResumingEvents::new(client.clone(), &["event"], Some(since));
        assert!(matches!(resuming.next().await.unwrap(), Item::Reset(_)));
    }
}

pub(crate) async fn lists_are_paged_without_gap_or_double(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    for n in 0..23 {
        client.record_history("ceo", &NewHistory::new("idea", format!("{n}"))).await.unwrap();
    }
    let mut rows = Vec::new();
    let mut cursor = None;
    loop {
        let page = client.history("ceo", &Page { limit: Some(5), cursor }).await.unwrap();
        rows.extend(page.history.into_iter().map(|row| row.summary));
        // What is added while somebody reads does not shift the pages.
        client.record_history("ceo", &NewHistory::new("error", "later")).await.unwrap();
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let mine: Vec<_> = rows.iter().filter_map(|text| text.parse::<u32>().ok()).collect();
    assert_eq!(mine, (0..23).rev().collect::<Vec<_>>(), "{rows:?}");
    let typed = EventQuery { event_type: Some("agent_starting".into()), page: Page::default() };
    let events = client.events(&typed).await.unwrap().events;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].payload["agentType"], "ceo");
}

pub(crate) async fn a_listener_that_never_reads_does_not_stop_the_others(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    // Opened and never read from.
    let stalled = EventSocket::connect(&client, &[], None).await.unwrap();
    let mut reading = EventSocket::connect(&client, &["event"], None).await.unwrap();
    let text = "x".repeat(9000);
    for n in 0..200 {
        client.record_history("ceo", &NewHistory::new("task", format!("{n} {text}"))).await.unwrap();
    }
    let mut rows = 0;
    while rows < 200 {
        let frame =
            tokio::time::timeout(Duration::from_secs(20), reading.next()).await.unwrap().unwrap().unwrap();
        rows += u32::from(frame.payload["eventType"] == "history_recorded");
    }
    drop(stalled);
    assert!(client.metrics().await.unwrap().contains("aito_events_written_total"));
}

pub(crate) async fn a_repeated_history_row_is_stored_once(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let row = NewHistory::new("task", "paid the invoice");
    let first = client.record_history_once("ceo", &row, "k-1").await.unwrap().history;
    server.kill();
    let server = sandbox.start().await;
    let client = server.client();
    let again = client.record_history_once("ceo", &row, "k-1").await.unwrap().history;
    assert_eq!(again, first);
    client.record_history_once("ceo", &row, "k-2").await.unwrap();
    let other = client.record_history_once("ceo", &NewHistory::new("task", "paid it twice"), "k-1").await;
    assert_eq!(other.unwrap_err().status(), Some(409));
    let rows = client.history("ceo", &Page::default()).await.unwrap().history;
    assert_eq!(rows.iter().filter(|row| row.summary.starts_with("paid")).count(), 2, "{rows:?}");
    let query = EventQuery { event_type: Some("history_recorded".into()), page: Page::default() };
    let told = client.events(&query).await.unwrap().events;
    assert!(told.iter().all(|event| {
        told.iter().filter(|e| e.payload["historyId"] == event.payload["historyId"]).count() == 1
    }));
}
