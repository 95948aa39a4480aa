//! The event stream against a scripted WebSocket server: one connection, and resuming over many broken ones.
#![allow(clippy::unwrap_used)]

use aito_api::{ProblemKind, frame_type};
use aito_client::{Client, Endpoint, Error, EventSocket, Item, Options, ResumingEvents, Token};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream, UnixListener},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

const AT: &str = "2025-12-20T10:00:00.000Z";

fn client(endpoint: Endpoint) -> Client {
    let options = Options {
        token: Some(Token::new("t0ken").unwrap()),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_millis(400),
        ..Options::default()
    };
    Client::new(endpoint, options).unwrap()
}

fn frame(kind: &str, position: Option<u64>, last: bool) -> Message {
    let mut frame = json!({"type": kind, "payload": {"n": position}, "timestamp": AT});
    if let Some(n) = position {
        frame["id"] = json!(uuid::Uuid::from_u128(u128::from(n)));
        frame["position"] = json!(format!("1-{n}"));
    }
    if last {
        frame["last"] = json!(true);
    }
    Message::text(frame.to_string())
}

async fn listener() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    (listener, endpoint)
}

/// Accepts the handshake and tells what was asked: the target and the credential.
async fn accept<S>(stream: S) -> (WebSocketStream<S>, String, Option<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let asked = Arc::new(Mutex::new((String::new(), None)));
    let seen = asked.clone();
    #[allow(clippy::result_large_err, reason = "the library's signature")]
    let callback = move |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let credential =
            request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        *seen.lock().unwrap() = (request.uri().to_string(), credential);
        Ok(response)
    };
    let socket = accept_hdr_async(stream, callback).await.unwrap();
    let (target, credential) = asked.lock().unwrap().clone();
    (socket, target, credential)
}

#[tokio::test]
async fn frames_come_over_tcp_and_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let (tcp, endpoint) = listener().await;
    let server = tokio::spawn(async move {
        let mut asked = Vec::new();
        let (mut socket, target, credential) = accept(tcp.accept().await.unwrap().0).await;
        socket.send(frame("event", Some(1), true)).await.unwrap();
        socket.close(None).await.unwrap();
        asked.push((target, credential));
        let (mut socket, target, credential) = accept(unix.accept().await.unwrap().0).await;
        socket.send(frame("event", Some(1), true)).await.unwrap();
        socket.close(None).await.unwrap();
        asked.push((target, credential));
        asked
    });
    for endpoint in [endpoint, Endpoint::unix(&path)] {
        let mut socket =
            EventSocket::connect(&client(endpoint), &["event", "agent_status"], Some("1-0")).await.unwrap();
        let frame = socket.next().await.unwrap().unwrap();
        assert_eq!((frame.frame_type.as_str(), frame.position.as_deref()), ("event", Some("1-1")));
        assert_eq!(socket.next().await.unwrap(), None);
    }
    for (target, credential) in server.await.unwrap() {
        assert!(target.ends_with("/ws?types=event%2Cagent_status&since=1-0"), "{target}");
        assert_eq!(credential.as_deref(), Some("Bearer t0ken"));
    }
}

#[tokio::test]
async fn a_refusal_and_an_eviction_are_told_apart() {
    let (tcp, endpoint) = listener().await;
    let server = tokio::spawn(async move {
        let mut stream = tcp.accept().await.unwrap().0;
        let body = r#"{"type":"urn:aito:problem:unauthorized","error":"no"}"#;
        let head = format!("HTTP/1.1 401 X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut socket = accept(tcp.accept().await.unwrap().0).await.0;
        let close = CloseFrame { code: CloseCode::Again, reason: "too slow".into() };
        socket.close(Some(close)).await.unwrap();
        while socket.next().await.is_some() {}
        // The third connection stays silent.
        let socket = accept(tcp.accept().await.unwrap().0).await.0;
        (stream, socket)
    });
    let client = client(endpoint);
    let refused = EventSocket::connect(&client, &[], None).await.unwrap_err();
    assert!(refused.is_refused_credential(), "{refused:?}");
    let evicted = EventSocket::connect(&client, &[], None).await.unwrap().next().await.unwrap_err();
    assert!(evicted.is_unavailable() && evicted.to_string().contains("1013"), "{evicted}");
    let silent = EventSocket::connect(&client, &[], None).await.unwrap().next().await.unwrap_err();
    assert!(matches!(silent, Error::Unavailable { .. }), "{silent:?}");
    drop(server.await.unwrap());
}

/// A log of `END` events, every third one with a specific frame before its `event` frame. The server cuts each
/// connection after as many frames as `cuts` says, in the middle of an event too, and replays inclusively, as a
/// sloppy server might.
#[tokio::test]
async fn every_event_comes_exactly_once_over_broken_connections() {
    const END: u64 = 120;
    let (tcp, endpoint) = listener().await;
    let server = tokio::spawn(async move {
        let mut cuts = (0_usize..).map(|n| n * 7 % 11);
        let mut connections = 0;
        loop {
            let (mut socket, target, _) = accept(tcp.accept().await.unwrap().0).await;
            connections += 1;
            let since: u64 = target.split("since=1-").nth(1).map_or(0, |n| n.parse().unwrap());
            socket.send(frame("agent_status", None, false)).await.unwrap();
            let frames = (since..=END).filter(|n| *n > 0).flat_map(|n| {
                let specific = (n % 3 == 0).then(|| frame("agent_status", Some(n), false));
                specific.into_iter().chain([frame("event", Some(n), true)])
            });
            let mut left = cuts.next().unwrap();
            for frame in frames {
                if socket.send(frame).await.is_err() || left == 0 {
                    break;
                }
                left -= 1;
            }
            if left > 0 {
                // Everything was sent: stay until the client leaves.
                while socket.next().await.is_some_and(|message| message.is_ok()) {}
                return connections;
            }
            let _ = socket.flush().await;
        }
    });
    let mut events = ResumingEvents::new(client(endpoint), &[], Some("1-0".to_owned()));
    let mut seen = Vec::new();
    while events.position() != Some(&format!("1-{END}")) {
        let Item::Frame(frame) = events.next().await.unwrap() else { panic!("a reset") };
        if frame.position.is_some() {
            seen.push((frame.payload["n"].as_u64().unwrap(), frame.frame_type));
        }
    }
    drop(events);
    let wanted: Vec<_> = (1..=END)
        .flat_map(|n| {
            let specific = (n % 3 == 0).then(|| (n, frame_type::AGENT_STATUS.to_owned()));
            specific.into_iter().chain([(n, frame_type::EVENT.to_owned())])
        })
        .collect();
    assert_eq!(seen, wanted);
    assert!(server.await.unwrap() > 10, "the connections were not broken");
}

#[tokio::test]
async fn a_reset_is_surfaced_and_a_refusal_ends_the_wait() {
    let (tcp, endpoint) = listener().await;
    let server = tokio::spawn(async move {
        let mut socket = accept(tcp.accept().await.unwrap().0).await.0;
        let reset = json!({"type": "reset", "timestamp": AT,
            "payload": {"reason": "pruned", "oldest": "1-5", "newest": "1-9"}});
        socket.send(Message::text(reset.to_string())).await.unwrap();
        socket.send(frame("event", Some(10), true)).await.unwrap();
        drop(socket);
        let (socket, target, _) = accept(tcp.accept().await.unwrap().0).await;
        drop(socket);
        let mut stream = tcp.accept().await.unwrap().0;
        stream.write_all(b"HTTP/1.1 403 X\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        target
    });
    let mut events = ResumingEvents::new(client(endpoint), &["event"], Some("1-2".to_owned()));
    let Item::Reset(reset) = events.next().await.unwrap() else { panic!("no reset") };
    assert_eq!(reset.oldest.as_deref(), Some("1-5"));
    assert!(matches!(events.next().await.unwrap(), Item::Frame(_)));
    assert_eq!(next(&mut events).await.unwrap_err().status(), Some(403));
    assert!(server.await.unwrap().ends_with("since=1-10"), "resumed elsewhere");
}

#[tokio::test]
async fn a_ticket_opens_a_stream_in_place_of_the_token() {
    let (tcp, endpoint) = listener().await;
    let server = tokio::spawn(async move {
        let (mut socket, target, credential) = accept(tcp.accept().await.unwrap().0).await;
        socket.send(frame("event", Some(2), true)).await.unwrap();
        socket.close(None).await.unwrap();
        let stream = refuse(&tcp, 401).await;
        (target, credential, stream)
    });
    let client = client(endpoint);
    let ticket = "aito-ticket.a_-.b";
    let mut socket =
        EventSocket::connect_with_ticket(&client, ticket, &["event"], Some("1-1")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().position.as_deref(), Some("1-2"));
    let used = EventSocket::connect_with_ticket(&client, ticket, &[], None).await.unwrap_err();
    assert!(used.is_refused_credential() && !format!("{used:?}").contains("a_-"), "{used:?}");
    let (target, credential, _) = server.await.unwrap();
    assert!(target.ends_with("/ws?types=event&since=1-1&ticket=aito-ticket.a_-.b"), "{target}");
    assert_eq!(credential, None, "the token was sent beside the ticket");
}

/// Answers a handshake with a status; the connection lives as long as what is returned.
async fn refuse(tcp: &TcpListener, status: u16) -> TcpStream {
    let mut stream = tcp.accept().await.unwrap().0;
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Sends one event and says farewell.
async fn part_with(tcp: &TcpListener, n: u64, code: CloseCode, reason: &'static str) -> String {
    let (mut socket, target, credential) = accept(tcp.accept().await.unwrap().0).await;
    assert_eq!(credential.as_deref(), Some("Bearer t0ken"), "every connection shows the credential");
    socket.send(frame("event", Some(n), true)).await.unwrap();
    socket.close(Some(CloseFrame { code, reason: reason.into() })).await.unwrap();
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
    target
}

/// The next item; a reader that waits for ever fails the test.
async fn next(events: &mut ResumingEvents) -> Result<Item, Error> {
    tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("nothing came, no error either")
}

async fn position(events: &mut ResumingEvents) -> Option<String> {
    match next(events).await.unwrap() {
        Item::Frame(frame) => frame.position,
        Item::Reset(reset) => panic!("{reset:?}"),
    }
}

#[tokio::test]
async fn a_credential_that_ended_ends_the_reading() {
    let (tcp, endpoint) = listener().await;
    let server = tokio::spawn(async move {
        part_with(&tcp, 1, CloseCode::Away, "the server stops").await;
        part_with(&tcp, 2, CloseCode::Again, "fell behind").await;
        part_with(&tcp, 3, CloseCode::Policy, "the token was revoked").await;
        tcp
    });
    let mut events = ResumingEvents::new(client(endpoint), &[], Some("1-0".to_owned()));
    for n in 1..=3 {
        assert_eq!(position(&mut events).await, Some(format!("1-{n}")));
    }
    let ended = next(&mut events).await.unwrap_err();
    assert!(ended.is_refused_credential() && !ended.helps_to_wait(), "{ended:?}");
    assert_eq!((ended.status(), ended.problem_kind()), (Some(401), Some(ProblemKind::Unauthorized)));
    assert!(ended.to_string().contains("the token was revoked"), "{ended}");
    let tcp = server.await.unwrap();
    let again = tokio::time::timeout(Duration::from_millis(200), tcp.accept()).await;
    assert!(again.is_err(), "it connected again without being asked");
}

#[tokio::test]
async fn a_credential_that_is_refused_on_the_way_back_ends_the_reading() {
    for status in [401, 403] {
        let (tcp, endpoint) = listener().await;
        let server = tokio::spawn(async move {
            part_with(&tcp, 1, CloseCode::Away, "the server stops").await;
            drop(tcp.accept().await.unwrap());
            drop(refuse(&tcp, 503).await);
            refuse(&tcp, status).await
        });
        let mut events = ResumingEvents::new(client(endpoint), &[], None);
        assert_eq!(position(&mut events).await.as_deref(), Some("1-1"));
        let refused = next(&mut events).await.unwrap_err();
        assert!(refused.is_refused_credential(), "{refused:?}");
        assert_eq!(refused.status(), Some(status));
        assert_eq!(events.position(), Some("1-1"), "asking again would go on elsewhere");
        drop(server.await.unwrap());
    }
}

#[tokio::test]
async fn a_limit_is_waited_for_as_long_as_the_server_says() {
    let (tcp, endpoint) = listener().await;
    let server = tokio::spawn(async move {
        let mut stream = tcp.accept().await.unwrap().0;
        let early = tokio::time::timeout(Duration::from_millis(900), async {
            let head = b"HTTP/1.1 429 X\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(head).await.unwrap();
            tcp.accept().await
        });
        assert!(early.await.is_err(), "knocked again too early");
        part_with(&tcp, 8, CloseCode::Normal, "").await
    });
    let mut events = ResumingEvents::new(client(endpoint), &[], Some("1-7".to_owned()));
    assert_eq!(position(&mut events).await.as_deref(), Some("1-8"));
    drop(events);
    let target = server.await.unwrap();
    assert!(target.ends_with("since=1-7"), "{target}");
}
