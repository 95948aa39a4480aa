//! Events as a stream of server-sent events: the same as over a WebSocket, in order, once, for who may.

use std::time::Duration;

use aito_api::{Frame, frame_type};
use aito_client::{Client, EventStream};
use aito_harness::{Set, story, wait};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    SOON, as_agent, credential, get, post, refused, sandbox, sandbox_with_leaky_ceo,
    tokens::{guarded, make},
};

/// Within what an open stream follows the end of its credential.
const FOLLOWS: Duration = Duration::from_secs(5);

async fn next(stream: &mut EventStream) -> Frame {
    tokio::time::timeout(SOON, stream.next()).await.expect("nothing comes").unwrap().expect("it has ended")
}

async fn note(client: &Client, n: usize) {
    let body = format!("{{\"value\":{n}}}");
    assert_eq!(post(client, &format!("/settings/mine/n{n}"), &body).await.status, 200);
}

/// The position before everything.
async fn beginning(client: &Client) -> String {
    let events: Value = get(client, "/events?limit=1").await.json().unwrap();
    let newest = events["events"][0]["position"].as_str().unwrap().to_owned();
    format!("{}-0", newest.rsplit_once('-').unwrap().0)
}

pub(crate) async fn a_stream_that_is_cut_and_resumed_has_exactly_the_log(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let mut first = client.stream_events(&[], None).await.unwrap();
    for _ in 0..7 {
        let frame = next(&mut first).await;
        assert_eq!((frame.frame_type.as_str(), frame.position), (frame_type::AGENT_STATUS, None));
    }
    assert_eq!(first.position(), None, "what only tells a state leads nowhere");
    let mut at = beginning(&client).await;
    let writing = async {
        for n in 0..60 {
            note(&client, n).await;
        }
        client.stop("ceo").await.unwrap();
    };
    let reading = async {
        let (mut ids, mut cuts) = (Vec::new(), 0);
        loop {
            let mut stream = client.stream_events(&["event"], Some(&at)).await.unwrap();
            for _ in 0..5 {
                let frame = next(&mut stream).await;
                assert!(frame.last && frame.position.as_deref() == stream.position());
                ids.push(frame.id.unwrap());
                if frame.payload["eventType"] == "agent_stopped" {
                    return (ids, cuts);
                }
            }
            at = stream.position().unwrap().to_owned();
            cuts += 1;
        }
    };
    let ((), (ids, cuts)) = tokio::join!(writing, reading);
    let log: Vec<_> = story::whole_log(&client).await.into_iter().map(|event| event.id).collect();
    assert_eq!(ids, log);
    assert!(cuts > 10, "{cuts}");
    // Who listens to all of it gets the status first, and an id with what is whole.
    let mut stopped = Vec::new();
    while stopped.last() != Some(&frame_type::EVENT.to_owned()) {
        let (frame, before) = (next(&mut first).await, first.position().map(str::to_owned));
        if frame.payload["eventType"] == "agent_stopped" || frame.payload["status"] == "inactive" {
            assert_eq!(before == frame.position, frame.last, "{frame:?}");
            stopped.push(frame.frame_type);
        }
    }
    assert_eq!(stopped, [frame_type::AGENT_STATUS, frame_type::EVENT]);
}

pub(crate) async fn a_stream_from_nowhere_is_told_once_and_goes_on(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    note(&client, 0).await;
    let ahead = format!("{}999999", beginning(&client).await);
    let mut stream = client.stream_events(&["event"], Some(&ahead)).await.unwrap();
    let reset = next(&mut stream).await;
    assert_eq!(reset.frame_type, frame_type::RESET);
    let newest = reset.payload["newest"].as_str().unwrap().to_owned();
    assert_eq!(stream.position(), Some(newest.as_str()));
    // Who comes back from there is not told again.
    let mut stream = client.stream_events(&["event"], Some(&newest)).await.unwrap();
    note(&client, 1).await;
    assert_eq!(next(&mut stream).await.payload["eventType"], "settings_updated");
    let garbage = [("last-event-id", "x")];
    let answer = client.raw("GET", "/events/stream", &garbage, None).await.unwrap();
    assert_eq!(refused(&answer, 422), ["Last-Event-ID"]);
}

pub(crate) async fn a_stream_is_what_the_standard_says(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    note(&client, 0).await;
    let begin = beginning(&client).await;
    let mut plain = TcpStream::connect(server.address().trim_start_matches("http://")).await.unwrap();
    let ask = format!(
        "GET /events/stream?types=event&since={begin} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    );
    plain.write_all(ask.as_bytes()).await.unwrap();
    let mut text = String::new();
    let heard = async {
        let mut buffer = [0; 4096];
        while !text.contains("settings_updated") {
            let count = plain.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    tokio::time::timeout(SOON, heard).await.expect("nothing comes");
    for part in ["200 OK", "content-type: text/event-stream", "cache-control: no-store", "\nretry: 1000\n\n"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let first = begin.replace("-0", "-1");
    assert!(text.contains(&format!("\nid: {first}\nevent: event\ndata: {{\"type\":\"event\",")), "{text}");
    // The head alone is no stream.
    let head = client.raw("HEAD", "/events/stream", &[], None).await.unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
}

pub(crate) async fn a_stream_wants_a_credential_and_ends_with_it(set: Set) {
    let mut sandbox = sandbox_with_leaky_ceo(set);
    sandbox.no_auth = false;
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    admin.start("ceo").await.unwrap();
    let barred = server.client().stream_events(&[], None).await.unwrap_err();
    assert_eq!(barred.status(), Some(401));
    let agent = as_agent(&sandbox, &credential(&sandbox, 1).await);
    assert_eq!(agent.stream_events(&[], None).await.unwrap_err().status(), Some(403));

    let token = make(&admin, "board", &["viewer"]).await;
    let mut stream = server.client_with(&token.secret).stream_events(&["agent_status"], None).await.unwrap();
    next(&mut stream).await;
    admin.revoke_token(token.token.id, None).await.unwrap();
    let over = async { while let Ok(Some(_)) = stream.next().await {} };
    tokio::time::timeout(FOLLOWS, over).await.expect("it goes on");
}

pub(crate) async fn a_ticket_opens_one_stream_once(set: Set) {
    let sandbox = guarded(set);
    let server = sandbox.start().await;
    let (admin, nobody) = (server.client_with(&sandbox.first_token()), server.client());
    let ticket = admin.ticket().await.unwrap().ticket;
    let path = format!("/events/stream?ticket={ticket}");
    // Only to who asks for a stream, as a browser does.
    refused(&get(&nobody, &path).await, 401);
    let accept = [("accept", "text/event-stream")];
    assert_eq!(nobody.raw("HEAD", &path, &accept, None).await.unwrap().status, 200);
    refused(&nobody.raw("GET", &path, &accept, None).await.unwrap(), 401);
}

/// One that does not read must not cost the others anything, and is let go.
pub(crate) async fn who_does_not_read_its_stream_holds_up_nobody(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    let mut deaf = TcpStream::connect(server.address().trim_start_matches("http://")).await.unwrap();
    deaf.write_all(b"GET /events/stream?types=event HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut stream = client.stream_events(&["event"], None).await.unwrap();
    let long = "x".repeat(30_000);
    // More than its connection and its queue take, and than the ring keeps for it.
    for n in 0..12 {
        let description = format!("{{\"value\":\"{long}\",\"description\":\"{n}\"}}");
        assert_eq!(post(&client, "/settings/mine/n", &description).await.status, 200);
        let frame = next(&mut stream).await;
        assert_eq!(frame.payload["eventType"], "settings_updated");
    }
    let listeners = wait::until("both to be counted", SOON, async || {
        let metrics = client.metrics().await.ok()?;
        metrics.lines().find(|line| line.starts_with("aito_event_listeners ")).map(str::to_owned)
    });
    assert_eq!(listeners.await, "aito_event_listeners 2");
    drop(deaf);
    wait::until("the deaf one to be let go", SOON, async || {
        let metrics = client.metrics().await.ok()?;
        metrics.lines().any(|line| line == "aito_event_listeners 1").then_some(())
    })
    .await;
}
