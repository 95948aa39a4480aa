//! The typed calls against a server that the test scripts: what is sent, what is read, how failures are sorted.
#![allow(clippy::unwrap_used)]

mod support;

use aito_api::{AgentStatus, HeartbeatRequest, NewHistory, ProblemKind};
use aito_client::{Client, Endpoint, Error, EventQuery, LogQuery, Options, Page, Token};
use serde_json::{Value, json};
use std::time::Duration;
use support::{Reply, Request, Server};

const AT: &str = "2025-12-20T10:00:00.000Z";
const ID: &str = "01936f1e-5f3a-7c3c-9a51-0d2d5f9a1b2c";

fn quick() -> Options {
    Options {
        token: Some(Token::new("t0ken").unwrap()),
        connect_timeout: Duration::from_millis(500),
        timeout: Duration::from_millis(500),
        effect_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_millis(500),
    }
}

fn client(server: &Server) -> Client {
    Client::new(server.endpoint.clone(), quick()).unwrap()
}

fn routes(request: &Request) -> Reply {
    let event = json!({"id": ID, "eventType": "agent_started", "sourceAgent": ID, "actor": "system",
        "payload": {}, "createdAt": AT, "position": "1-1"});
    let row = json!({"id": ID, "actionType": "task", "summary": "done", "createdAt": AT});
    let started = json!({"success": true, "message": "ok", "containerId": "aito-ceo-abc123"});
    let answer: Value = match (request.method.as_str(), request.target.as_str()) {
        ("GET", "/health") => json!({"status": "ok", "timestamp": AT}),
        ("GET", "/agents?status=active") => json!({"agents": [{"id": ID, "type": "ceo", "name": "CEO Agent",
            "status": "active", "loopInterval": 1800, "lastHeartbeat": AT, "containerStatus": "running"}]}),
        ("POST", "/agents/ceo/start" | "/agents/ceo/restart") => started,
        ("POST", "/agents/ceo/stop") => json!({"success": true, "message": "ok"}),
        ("POST", "/agents/ceo/heartbeat") => {
            json!({"success": true, "loopInterval": 60, "settingsVersion": 1,
            "desired": "running", "mailbox": 0})
        }
        ("GET", "/agents/ceo/history?limit=2&cursor=a%2Fb") => json!({"history": [row], "nextCursor": "z"}),
        ("POST", "/agents/ceo/history") => json!({"success": true, "history": row}),
        ("GET", "/events?type=agent_started&limit=5") => json!({"events": [event], "nextCursor": null}),
        ("GET", "/agents/ceo/events") => json!({"events": []}),
        ("GET", "/agents/ceo/logs?tail=1&since=2025-12-20T10%3A00%3A00.000Z") => {
            json!({"logs": [{"at": AT, "stream": "stdout", "message": "hi"}]})
        }
        _ => {
            return Reply::Json(
                404,
                json!({"type": "urn:aito:problem:not-found", "status": 404, "error": "no"}),
            );
        }
    };
    Reply::Json(200, answer)
}

async fn every_call(client: &Client) {
    assert_eq!(client.health().await.unwrap().status, "ok");
    let agents = client.agents(Some("active")).await.unwrap().agents;
    assert_eq!((agents[0].agent_type.as_str(), agents[0].status), ("ceo", AgentStatus::Active));
    assert_eq!(client.start("ceo").await.unwrap().container_id, "aito-ceo-abc123");
    assert!(client.restart("ceo").await.unwrap().success);
    assert!(client.stop("ceo").await.unwrap().success);
    let heartbeat = HeartbeatRequest { loop_count: Some(1), ..Default::default() };
    assert_eq!(client.heartbeat("ceo", &heartbeat).await.unwrap().loop_interval, 60);
    let page = Page { limit: Some(2), cursor: Some("a/b".to_owned()) };
    assert_eq!(client.history("ceo", &page).await.unwrap().next_cursor.as_deref(), Some("z"));
    let created = client.record_history("ceo", &NewHistory::new("task", "done")).await.unwrap();
    assert_eq!(created.history.summary, "done");
    client.record_history_once("ceo", &NewHistory::new("task", "done"), "a-1").await.unwrap();
    let wanted = EventQuery {
        event_type: Some("agent_started".to_owned()),
        page: Page { limit: Some(5), cursor: None },
    };
    assert_eq!(client.events(&wanted).await.unwrap().events[0].position, "1-1");
    assert!(client.agent_events("ceo", &Page::default()).await.unwrap().events.is_empty());
    let wanted = LogQuery { tail: Some(1), since: Some(AT.parse().unwrap()), previous: false };
    assert_eq!(client.logs("ceo", &wanted).await.unwrap().logs[0].message, "hi");
    let unknown = client.agent("xyz").await.unwrap_err();
    assert_eq!(unknown.problem_kind(), Some(ProblemKind::NotFound));
}

#[tokio::test]
async fn calls_over_tcp() {
    let server = Server::tcp(routes).await;
    every_call(&client(&server)).await;
    let requests = server.requests();
    assert!(requests.iter().all(|request| request.header("authorization") == Some("Bearer t0ken")));
    let heartbeat = requests.iter().find(|request| request.is("POST", "/agents/ceo/heartbeat")).unwrap();
    assert_eq!(heartbeat.json(), json!({"loopCount": 1}));
    let keys: Vec<_> = requests.iter().filter_map(|request| request.header("idempotency-key")).collect();
    assert_eq!(keys, ["a-1"]);
    assert_eq!(heartbeat.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn calls_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::unix(&dir.path().join("a.sock"), routes);
    every_call(&client(&server)).await;
    assert_eq!(server.requests()[0].header("host"), Some("localhost"));
}

#[tokio::test]
async fn without_a_token_none_is_sent() {
    let server = Server::tcp(routes).await;
    let client = Client::new(server.endpoint.clone(), Options { token: None, ..quick() }).unwrap();
    client.health().await.unwrap();
    assert_eq!(server.requests()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_server_that_is_not_ready_has_answered() {
    let server = Server::tcp(|request| match request.target.as_str() {
        "/ready" => Reply::Json(503, json!({"ready": false, "checks": {"database": "error", "redis": "ok"}})),
        _ => Reply::Json(503, json!({"error": "starting"})),
    })
    .await;
    assert!(!client(&server).ready().await.unwrap().ready);
    let error = client(&server).health_full().await.unwrap_err();
    assert_eq!((error.is_unavailable(), error.status()), (true, Some(503)));
}

#[tokio::test]
async fn nobody_there_means_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    for endpoint in [Endpoint::unix(dir.path().join("none.sock")), "http://127.0.0.1:1".parse().unwrap()] {
        let error = Client::new(endpoint.clone(), quick()).unwrap().start("ceo").await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { sent: false, .. }), "{endpoint}: {error:?}");
    }
}

#[tokio::test]
async fn silence_ends_in_time_and_nothing_is_sent_twice() {
    for reply in
        [Reply::RawThenHang(Vec::new()), Reply::Cut, Reply::RawThenHang(b"HTTP/1.1 200 OK\r\n\r\n".into())]
    {
        let server = Server::tcp({
            let reply = reply.clone();
            move |_| reply.clone()
        })
        .await;
        let error = client(&server).start("ceo").await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { sent: true, status: None, .. }), "{reply:?}: {error:?}");
        assert_eq!(server.requests().len(), 1, "{reply:?}");
    }
}

#[tokio::test]
async fn the_wait_that_the_server_asks_for_is_told() {
    for (status, unavailable) in [(503, true), (429, false)] {
        let server = Server::tcp(move |_| {
            Reply::Raw(format!("HTTP/1.1 {status} X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n").into())
        })
        .await;
        let error = client(&server).health().await.unwrap_err();
        assert_eq!(error.is_unavailable(), unavailable);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::tcp(routes).await;
    let target = format!("{}/health", elsewhere.endpoint);
    let server = Server::tcp(move |_| {
        Reply::Raw(format!("HTTP/1.1 307 X\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n").into())
    })
    .await;
    assert_eq!(client(&server).health().await.unwrap_err().status(), Some(307));
    assert!(elsewhere.requests().is_empty(), "the token went elsewhere");
}

#[tokio::test]
async fn another_shape_is_a_protocol_error() {
    let server = Server::tcp(|_| Reply::Json(200, json!({"agents": 3}))).await;
    assert!(matches!(client(&server).agents(None).await, Err(Error::Protocol(_))));
}

#[tokio::test]
async fn a_raw_answer_comes_as_it_is() {
    let server = Server::tcp(|request| Reply::Json(405, json!({"body": request.body.len()}))).await;
    let answer = client(&server).raw("PATCH", "/x?limit=0", &[("x-a", "b")], Some(vec![1, 2])).await.unwrap();
    assert_eq!((answer.status, answer.json().unwrap()), (405, json!({"body": 2})));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let request = &server.requests()[0];
    assert_eq!((request.target.as_str(), request.header("x-a")), ("/x?limit=0", Some("b")));
}

fn sse(text: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{text}").into()
}

fn line(message: &str) -> String {
    format!("data: {{\"at\":\"{AT}\",\"stream\":\"stdout\",\"message\":\"{message}\"}}\n\n")
}

#[tokio::test]
async fn logs_are_followed_to_their_end() {
    let server = Server::tcp(|_| {
        Reply::Raw(sse(&format!(
            "{}: still here\n\n{}event: end\ndata\n\n{}",
            line("a"),
            line("b"),
            line("c")
        )))
    })
    .await;
    let mut follow = client(&server).follow_logs("ceo", &LogQuery::default()).await.unwrap();
    let mut messages = Vec::new();
    while let Some(line) = follow.next().await.unwrap() {
        messages.push(line.message);
    }
    assert_eq!(messages, ["a", "b"]);
    assert_eq!(server.requests()[0].target, "/agents/ceo/logs?follow=true");
}

#[tokio::test]
async fn a_silent_log_stream_is_given_up() {
    use futures_util::StreamExt;
    let server = Server::tcp(|_| Reply::RawThenHang(sse(&line("a")))).await;
    let follow = client(&server).follow_logs("ceo", &LogQuery::default()).await.unwrap();
    let items: Vec<_> = follow.into_stream().collect().await;
    assert_eq!(items.len(), 2);
    assert_eq!(items[0].as_ref().unwrap().message, "a");
    assert!(items[1].as_ref().unwrap_err().is_unavailable());
}
