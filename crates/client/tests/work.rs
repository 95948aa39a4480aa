//! Tasks, mailboxes, domains, settings and state against a server that the test scripts: method, path, headers, body
//! and answer of every call, and how long a call that waits may take.
#![allow(clippy::unwrap_used)]

mod support;

use aito_api::{
    CancelTask, CompleteTask, DecideDomainRequest, EditTask, FailTask, NewDomain, NewDomainRequest,
    NewMessage, NewTask, PutState, WriteSetting,
};
use aito_client::{Client, Error, Options, Page, TaskQuery, Token};
use serde_json::{Value, json};
use std::time::Duration;
use support::{Reply, Server};
use uuid::Uuid;

const AT: &str = "2025-12-20T10:00:00.000Z";
const ID: Uuid = Uuid::from_u128(0x0193_6f1e_5f3a_7c3c_9a51_0d2d_5f9a_1b2c);
const TASK: &str = "/tasks/01936f1e-5f3a-7c3c-9a51-0d2d5f9a1b2c";
const REQUEST: &str = "/domains/approval-requests/01936f1e-5f3a-7c3c-9a51-0d2d5f9a1b2c";

fn client(server: &Server) -> Client {
    timed(server, Duration::from_secs(5))
}

fn timed(server: &Server, timeout: Duration) -> Client {
    let options = Options { token: Some(Token::new("t0ken").unwrap()), timeout, ..Options::default() };
    Client::new(server.endpoint.clone(), options).unwrap()
}

/// A server that answers every call so.
async fn answering(status: u16, answer: Value) -> Server {
    Server::tcp(move |_| Reply::Json(status, answer.clone())).await
}

/// What the last call sent: method and target, and what of `If-Match`, `Idempotency-Key` and body it had. Every call is
/// one request.
fn sent(server: &Server, calls: usize) -> Sent {
    let mut requests = server.requests();
    assert_eq!(requests.len(), calls, "not one request for each call");
    let request = requests.pop().unwrap();
    assert_eq!(request.header("authorization"), Some("Bearer t0ken"));
    let header = |name| request.header(name).map(str::to_owned);
    let body = (!request.body.is_empty()).then(|| {
        assert_eq!(request.header("content-type"), Some("application/json"));
        request.json()
    });
    Sent {
        call: format!("{} {}", request.method, request.target),
        if_match: header("if-match"),
        key: header("idempotency-key"),
        body,
    }
}

#[derive(Debug, PartialEq)]
struct Sent {
    call: String,
    if_match: Option<String>,
    key: Option<String>,
    body: Option<Value>,
}

impl Sent {
    fn new(call: impl Into<String>) -> Self {
        Self { call: call.into(), if_match: None, key: None, body: None }
    }

    fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    fn key(self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }

    fn if_match(self, etag: &str) -> Self {
        Self { if_match: Some(etag.to_owned()), ..self }
    }
}

fn page() -> Page {
    Page { limit: Some(2), cursor: Some("a/b".to_owned()) }
}

fn task() -> Value {
    json!({"id": ID, "title": "Report", "description": null, "status": "in_progress", "priority": "high",
        "assignedTo": "cmo", "createdBy": null, "actor": "token:ops", "dueDate": AT, "result": null, "error": null,
        "overdue": false, "claims": 1, "lease": {"incarnation": 4, "since": AT}, "endedAt": null, "etag": "\"3\"",
        "createdAt": AT, "updatedAt": AT})
}

fn task_answer() -> Value {
    json!({"success": true, "task": task()})
}

#[tokio::test]
async fn tasks_are_listed_as_wanted() {
    let list = json!({"tasks": [task()], "total": 7, "totalExact": true, "limit": 2, "offset": 4,
        "nextCursor": "z"});
    let server = answering(200, list).await;
    let wanted = TaskQuery {
        status: Some("in_progress".to_owned()),
        assigned_to: Some("c&mo".to_owned()),
        offset: Some(4),
        page: page(),
    };
    let list = client(&server).tasks(&wanted).await.unwrap();
    assert_eq!((list.total, list.offset, list.next_cursor.as_deref()), (7, 4, Some("z")));
    assert_eq!(list.tasks[0].lease.as_ref().unwrap().incarnation, 4);
    let target = "/tasks?status=in_progress&assignedTo=c%26mo&offset=4&limit=2&cursor=a%2Fb";
    assert_eq!(sent(&server, 1), Sent::new(format!("GET {target}")));
    client(&server).tasks(&TaskQuery::default()).await.unwrap();
    assert_eq!(sent(&server, 2), Sent::new("GET /tasks"));
}

#[tokio::test]
async fn a_task_is_read() {
    let server = answering(200, task_answer()).await;
    let task = client(&server).task(ID).await.unwrap();
    assert_eq!((task.id, task.status.as_str(), task.etag.as_str()), (ID, "in_progress", "\"3\""));
    assert_eq!(sent(&server, 1), Sent::new(format!("GET {TASK}")));
}

#[tokio::test]
async fn a_task_is_made_with_and_without_a_key() {
    let server = answering(201, task_answer()).await;
    let new = NewTask::new("Report", "cmo", "high");
    let call =
        Sent::new("POST /tasks").body(json!({"title": "Report", "assignTo": "cmo", "priority": "high"}));
    assert_eq!(client(&server).create_task(&new, Some("k-1")).await.unwrap().title, "Report");
    assert_eq!(sent(&server, 1), call.key("k-1"));
    client(&server).create_task(&new, None).await.unwrap();
    assert_eq!(sent(&server, 2).key, None);
}

#[tokio::test]
async fn a_task_is_edited_in_the_state_that_was_seen() {
    let server = answering(200, task_answer()).await;
    let edit = EditTask { description: Some(None), priority: Some("low".to_owned()), ..EditTask::default() };
    let call = || Sent::new(format!("PATCH {TASK}")).body(json!({"description": null, "priority": "low"}));
    assert_eq!(client(&server).edit_task(ID, &edit, Some("\"2\"")).await.unwrap().id, ID);
    assert_eq!(sent(&server, 1), call().if_match("\"2\""));
    client(&server).edit_task(ID, &edit, None).await.unwrap();
    assert_eq!(sent(&server, 2), call());
}

#[tokio::test]
async fn a_claim_tells_the_task_or_why_there_is_none() {
    let server = answering(200, json!({"success": true, "task": task(), "reason": null})).await;
    let claimed = client(&server).claim_task("cmo").await.unwrap();
    assert_eq!((claimed.task.unwrap().id, claimed.reason), (ID, None));
    assert_eq!(sent(&server, 1), Sent::new("POST /tasks/claim").body(json!({"agent": "cmo"})));
    let server = answering(200, json!({"success": true, "task": null, "reason": "nothing_waits"})).await;
    let nothing = client(&server).claim_task("cmo").await.unwrap();
    assert_eq!((nothing.task, nothing.reason.as_deref()), (None, Some("nothing_waits")));
}

#[tokio::test]
async fn a_task_ends_in_three_ways() {
    let server = answering(200, task_answer()).await;
    let client = client(&server);
    let done = CompleteTask { result: Some(json!({"pages": 2})) };
    assert_eq!(client.complete_task(ID, &done).await.unwrap().id, ID);
    let call = |verb: &str, body| Sent::new(format!("POST {TASK}/{verb}")).body(body);
    assert_eq!(sent(&server, 1), call("complete", json!({"result": {"pages": 2}})));
    assert_eq!(
        client.fail_task(ID, &FailTask { error: Some("no figures".to_owned()) }).await.unwrap().id,
        ID
    );
    assert_eq!(sent(&server, 2), call("fail", json!({"error": "no figures"})));
    assert_eq!(client.cancel_task(ID, &CancelTask::default()).await.unwrap().id, ID);
    assert_eq!(sent(&server, 3), call("cancel", json!({})));
}

fn mail() -> Value {
    json!({"id": ID, "kind": "message", "from": "agent:ceo", "fromAgent": ID, "priority": "urgent",
        "payload": {"message": "hi"}, "createdAt": AT, "dueAt": AT, "expiresAt": AT, "acknowledgedAt": null})
}

#[tokio::test]
async fn a_mailbox_is_read_and_acknowledged() {
    let server = answering(200, json!({"messages": [mail()], "nextCursor": null})).await;
    let list = client(&server).mailbox("c/mo", &page(), 20).await.unwrap();
    assert_eq!((list.messages[0].id, &list.messages[0].payload), (ID, &json!({"message": "hi"})));
    assert_eq!(sent(&server, 1), Sent::new("GET /agents/c%2Fmo/mailbox?limit=2&cursor=a%2Fb&wait=20"));
    client(&server).mailbox("cmo", &Page::default(), 0).await.unwrap();
    assert_eq!(sent(&server, 2), Sent::new("GET /agents/cmo/mailbox"));
    let server = answering(200, json!({"success": true, "message": mail()})).await;
    assert_eq!(client(&server).acknowledge("cmo", ID).await.unwrap().kind, "message");
    assert_eq!(sent(&server, 1), Sent::new(format!("POST /agents/cmo/mailbox/{ID}/ack")));
}

#[tokio::test]
async fn a_call_that_waits_may_take_as_much_longer() {
    let server = Server::tcp(|_| Reply::RawThenHang(Vec::new())).await;
    let client = timed(&server, Duration::from_millis(300));
    // The call that does not wait gives up; the one that does is still there a while after.
    let first = Page::default();
    let patient = client.mailbox("cmo", &first, 60);
    tokio::pin!(patient);
    let impatient = async {
        let error = client.mailbox("cmo", &first, 0).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        client.mailbox("cmo", &first, 0).await.unwrap_err();
    };
    tokio::select! {
        biased;
        early = &mut patient => panic!("gave up: {early:?}"),
        () = impatient => {}
    }
    assert_eq!(server.requests().len(), 3);
    let endless = client.mailbox("cmo", &first, 1);
    let error = tokio::time::timeout(Duration::from_secs(20), endless).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable { sent: true, .. }), "a call that waits ends too: {error:?}");
}

#[tokio::test]
async fn messages_are_sent_to_one_and_to_all() {
    let message = NewMessage::new("hi", "urgent");
    let server = answering(201, json!({"success": true, "message": mail()})).await;
    assert_eq!(client(&server).send_message("cmo", &message, Some("k-2")).await.unwrap().from, "agent:ceo");
    let call = || Sent::new("POST /agents/cmo/message").body(json!({"message": "hi", "priority": "urgent"}));
    assert_eq!(sent(&server, 1), call().key("k-2"));
    client(&server).send_message("cmo", &message, None).await.unwrap();
    assert_eq!(sent(&server, 2), call());

    let reached = json!({"messages": [{"agentType": "ceo", "id": ID}], "skipped": ["dao"]});
    let server = answering(201, json!({"success": true, "broadcast": reached})).await;
    let message = NewMessage { message: Some("all".to_owned()), priority: None };
    let reached = client(&server).broadcast(&message, Some("k-3")).await.unwrap();
    assert_eq!((reached.messages[0].id, reached.skipped), (ID, vec!["dao".to_owned()]));
    assert_eq!(sent(&server, 1), Sent::new("POST /broadcast").body(json!({"message": "all"})).key("k-3"));
    client(&server).broadcast(&message, None).await.unwrap();
    assert_eq!(sent(&server, 2).key, None);
}

fn entry() -> Value {
    json!({"id": ID, "domain": "example.com", "category": "research", "description": null, "isActive": true,
        "createdAt": AT, "etag": "\"1\""})
}

#[tokio::test]
async fn domains_are_listed_added_removed_and_checked() {
    let server = answering(200, json!({"domains": [entry()], "nextCursor": null, "advisory": true})).await;
    let list = client(&server).domains(&page()).await.unwrap();
    assert_eq!((list.domains[0].domain.as_str(), list.advisory), ("example.com", true));
    assert_eq!(sent(&server, 1), Sent::new("GET /domains/whitelist?limit=2&cursor=a%2Fb"));

    let server = answering(201, json!({"success": true, "domain": entry()})).await;
    let new = NewDomain::new("example.com", "research");
    assert_eq!(client(&server).add_domain(&new, Some("k-4")).await.unwrap().id, ID);
    let call = || {
        Sent::new("POST /domains/whitelist").body(json!({"domain": "example.com", "category": "research"}))
    };
    assert_eq!(sent(&server, 1), call().key("k-4"));
    client(&server).add_domain(&new, None).await.unwrap();
    assert_eq!(sent(&server, 2), call());

    let server = answering(200, json!({"success": true})).await;
    assert!(client(&server).remove_domain("bücher.example/x").await.unwrap().success);
    assert_eq!(sent(&server, 1), Sent::new("DELETE /domains/b%C3%BCcher.example%2Fx"));

    let answer =
        json!({"domain": "a.example.com", "allowed": true, "matchedBy": "example.com", "advisory": true});
    let server = answering(200, answer).await;
    let check = client(&server).check_domain("a.example.com&x").await.unwrap();
    assert_eq!((check.allowed, check.matched_by.as_deref()), (true, Some("example.com")));
    assert_eq!(sent(&server, 1), Sent::new("GET /domains/check?domain=a.example.com%26x"));
}

fn domain_request() -> Value {
    json!({"id": ID, "domain": "example.com", "url": null, "requestedBy": ID, "actor": "agent:cmo",
        "taskContext": null, "reason": null, "category": null, "status": "pending", "createdAt": AT,
        "decidedBy": null, "decidedAt": null, "decisionReason": null})
}

#[tokio::test]
async fn domains_are_asked_for_and_decided() {
    let server = answering(200, json!({"requests": [domain_request()], "nextCursor": "z"})).await;
    let list = client(&server).domain_requests(Some("rejected"), &page()).await.unwrap();
    assert_eq!((list.requests[0].id, list.next_cursor.as_deref()), (ID, Some("z")));
    let target = "/domains/approval-requests?status=rejected&limit=2&cursor=a%2Fb";
    assert_eq!(sent(&server, 1), Sent::new(format!("GET {target}")));
    client(&server).domain_requests(None, &Page::default()).await.unwrap();
    assert_eq!(sent(&server, 2), Sent::new("GET /domains/approval-requests"));

    let server = answering(200, json!({"success": true, "request": domain_request()})).await;
    let client = client(&server);
    let wish = NewDomainRequest::new("example.com");
    assert_eq!(client.request_domain(&wish, Some("k-5")).await.unwrap().actor, "agent:cmo");
    let call = || Sent::new("POST /domains/approval-requests").body(json!({"domain": "example.com"}));
    assert_eq!(sent(&server, 1), call().key("k-5"));
    client.request_domain(&wish, None).await.unwrap();
    assert_eq!(sent(&server, 2), call());
    let decision =
        DecideDomainRequest { reason: Some("known".to_owned()), category: Some("news".to_owned()) };
    assert_eq!(client.approve_domain(ID, &decision).await.unwrap().id, ID);
    let body = json!({"reason": "known", "category": "news"});
    assert_eq!(sent(&server, 3), Sent::new(format!("POST {REQUEST}/approve")).body(body));
    assert_eq!(client.reject_domain(ID, &DecideDomainRequest::default()).await.unwrap().id, ID);
    assert_eq!(sent(&server, 4), Sent::new(format!("POST {REQUEST}/reject")).body(json!({})));
}

#[tokio::test]
async fn settings_are_read_described_and_written() {
    let list = json!({
        "settings": {"queue": {"delay_low": 300_000}},
        "etags": {"queue": {"delay_low": "\"0\""}},
        "version": 9,
    });
    let server = answering(200, list).await;
    let all = client(&server).settings().await.unwrap();
    assert_eq!((all.version, &all.settings["queue"]["delay_low"]), (9, &json!(300_000)));
    assert_eq!(all.etags["queue"]["delay_low"], "\"0\"");
    assert_eq!(sent(&server, 1), Sent::new("GET /settings"));

    let server = Server::tcp(|_| {
        let body = r#"{"type":"object"}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/schema+json\r\ncontent-length: ";
        Reply::Raw(format!("{head}{}\r\n\r\n{body}", body.len()).into())
    })
    .await;
    assert_eq!(client(&server).settings_schema().await.unwrap(), json!({"type": "object"}));
    assert_eq!(sent(&server, 1), Sent::new("GET /settings/schema"));

    let setting = json!({"category": "my apps", "key": "a/b", "value": "***", "description": null,
        "updatedAt": AT, "updatedBy": "token:ops", "secret": true, "effective": false, "etag": "\"1\""});
    let server = answering(200, json!({"success": true, "setting": setting})).await;
    let write = WriteSetting { secret: Some(true), ..WriteSetting::new("s3cret") };
    let written = client(&server).write_setting("my apps", "a/b", &write).await.unwrap();
    assert_eq!((written.value, written.effective), (json!("***"), false));
    let body = json!({"value": "s3cret", "secret": true});
    assert_eq!(sent(&server, 1), Sent::new("POST /settings/my%20apps/a%2Fb").body(body));
}

#[tokio::test]
async fn state_is_read_and_put_in_the_state_that_was_seen() {
    let entry = |value| json!({"key": "k", "value": value, "updatedAt": AT, "etag": "\"2\""});
    let server = answering(200, json!({"state": [entry(json!([1]))], "nextCursor": "k"})).await;
    let list = client(&server).state("cmo", &page()).await.unwrap();
    assert_eq!((&list.state[0].value, list.next_cursor.as_deref()), (&json!([1]), Some("k")));
    assert_eq!(sent(&server, 1), Sent::new("GET /agents/cmo/state?limit=2&cursor=a%2Fb"));

    let server = answering(200, json!({"success": true, "state": entry(Value::Null)})).await;
    let client = client(&server);
    let removal = PutState::new(Value::Null);
    let removed = client.put_state("cmo", "last report?", &removal, Some("\"1\"")).await.unwrap();
    assert_eq!((removed.value, removed.etag.as_str()), (Value::Null, "\"2\""));
    let call = |body| Sent::new("PUT /agents/cmo/state/last%20report%3F").body(body);
    assert_eq!(sent(&server, 1), call(json!({"value": null})).if_match("\"1\""));
    client.put_state("cmo", "last report?", &PutState::new(json!([1])), None).await.unwrap();
    assert_eq!(sent(&server, 2), call(json!({"value": [1]})));
}
