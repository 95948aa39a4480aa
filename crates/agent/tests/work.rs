//! Whole agents and their work, against a scripted server: messages, tasks, and what they do about them.
#![allow(clippy::unwrap_used)]

mod common;

use aito_agent::{Outcome, Think, ThinkError, Tuning, think::Context};
use async_trait::async_trait;
use common::{
    HEARTBEAT, HISTORY, LONG, Running, config, heard, posts, refused, scripted, stored, summaries,
    support::{Reply, Request, Server, until},
    tasks,
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

const AT: &str = "2025-12-20T10:00:00.000Z";
const MAILBOX: &str = "/agents/ceo/mailbox?";
const NEVER: u64 = 3000;

/// What the server answers instead of doing what it is asked to.
type Instead = Box<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;

/// A server with a mailbox and tasks; clones are the same one.
#[derive(Clone, Default)]
struct Office(Arc<Mutex<Desk>>);

#[derive(Default)]
struct Desk {
    messages: Vec<Value>,
    pending: Vec<Value>,
    in_progress: Vec<Value>,
    instead: Option<Instead>,
}

impl Office {
    async fn open(&self, loop_interval: u64) -> Server {
        let office = self.clone();
        Server::tcp(move |request| office.answer(request, loop_interval)).await
    }

    fn answer(&self, request: &Request, loop_interval: u64) -> Reply {
        let mut desk = self.0.lock().unwrap();
        if let Some(reply) = desk.instead.as_ref().and_then(|instead| instead(request)) {
            return reply;
        }
        let parts: Vec<_> = request.target.split(['/', '?']).skip(1).collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("POST", ["agents", "ceo", "heartbeat"]) => heard(loop_interval, "running"),
            ("POST", ["agents", "ceo", "history"]) => stored(),
            ("GET", ["agents", "ceo", "mailbox", _]) => {
                Reply::Json(200, json!({"messages": desk.messages, "nextCursor": null}))
            }
            ("POST", ["agents", "ceo", "mailbox", id, "ack"]) => {
                desk.messages.retain(|message| message["id"] != *id);
                Reply::Json(200, json!({"success": true, "message": mail(0, "message", json!({}))}))
            }
            ("POST", ["agents", "cfo", "message"]) => {
                Reply::Json(201, json!({"success": true, "message": mail(77, "message", json!({}))}))
            }
            ("GET", ["tasks", "status=in_progress&assignedTo=ceo&limit=100"]) => tasks(&desk.in_progress),
            ("POST", ["tasks"]) => {
                Reply::Json(201, json!({"success": true, "task": task(88, &request.json()["title"], None)}))
            }
            ("POST", ["tasks", "claim"]) => {
                let task = desk.pending.pop();
                desk.in_progress.extend(task.clone());
                let reason = if task.is_none() { json!("nothing_waits") } else { Value::Null };
                Reply::Json(200, json!({"success": true, "task": task, "reason": reason}))
            }
            ("POST", ["tasks", id, "complete" | "fail"]) => {
                let at = desk.in_progress.iter().position(|task| task["id"] == *id);
                match at {
                    Some(at) => {
                        Reply::Json(200, json!({"success": true, "task": desk.in_progress.remove(at)}))
                    }
                    None => refused(409, "conflict"),
                }
            }
            other => panic!("asked for {other:?}"),
        }
    }

    fn put(&self, message: Value) {
        self.0.lock().unwrap().messages.push(message);
    }

    fn waiting(&self) -> usize {
        self.0.lock().unwrap().messages.len()
    }

    fn instead(&self, instead: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) {
        self.0.lock().unwrap().instead = Some(Box::new(instead));
    }

    fn as_usual(&self) {
        self.0.lock().unwrap().instead = None;
    }
}

fn id(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

fn mail(number: u128, kind: &str, payload: Value) -> Value {
    json!({"id": id(number), "kind": kind, "from": "agent:cmo", "fromAgent": null, "priority": "high",
        "payload": payload, "createdAt": AT, "dueAt": AT, "expiresAt": AT, "acknowledgedAt": null})
}

fn letter(number: u128) -> Value {
    mail(number, "message", json!({"message": "hi"}))
}

fn task(number: u128, title: &Value, incarnation: Option<u64>) -> Value {
    let lease = incarnation.map(|incarnation| json!({"incarnation": incarnation, "since": AT}));
    json!({"id": id(number), "title": title, "description": null, "status": "in_progress", "priority": "high",
        "assignedTo": "ceo", "createdBy": null, "actor": "token:ops", "dueDate": null, "result": null,
        "error": null, "overdue": false, "claims": 1, "lease": lease, "endedAt": null, "etag": "\"1\"",
        "createdAt": AT, "updatedAt": AT})
}

fn ack(number: u128) -> String {
    format!("/agents/ceo/mailbox/{}/ack", id(number))
}

fn is_ack(request: &Request) -> bool {
    request.target.ends_with("/ack")
}

/// Where in the order of requests the first such one came.
fn place(server: &Server, target: &str) -> Option<usize> {
    server.requests().iter().position(|request| request.is("POST", target))
}

fn shown(context: &Value) -> Vec<String> {
    let messages = context["messages"].as_array().unwrap();
    messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

/// Waits for so many thoughts.
async fn thoughts(contexts: &Mutex<Vec<Value>>, count: usize) -> Vec<Value> {
    let seen = || Some(contexts.lock().unwrap().clone()).filter(|contexts| contexts.len() >= count);
    until(&format!("thought {count}"), LONG, seen).await
}

/// Waits until `count` more heartbeats were sent, which is at least `count` times 50 ms.
async fn heartbeats(server: &Server, count: usize) {
    let before = posts(server, HEARTBEAT).len();
    until("more heartbeats", LONG, || (posts(server, HEARTBEAT).len() >= before + count).then_some(())).await;
}

#[tokio::test]
async fn a_message_wakes_the_loop_is_shown_once_and_acknowledged() {
    let office = Office::default();
    let server = office.open(NEVER).await;
    let (script, _, contexts) = scripted(json!([]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    assert_eq!(thoughts(&contexts, 1).await[0]["messages"], json!([]));
    assert!(server.requests().iter().any(|request| request.target == format!("{MAILBOX}limit=64&wait=30")));
    office.put(letter(1));
    let second = thoughts(&contexts, 2).await[1].clone();
    assert_eq!(
        second["messages"],
        json!([{"id": id(1), "kind": "message", "from": "agent:cmo", "priority": "high",
            "payload": {"message": "hi"}, "createdAt": AT}])
    );
    until("the acknowledgement", LONG, || (office.waiting() == 0).then_some(())).await;
    assert_eq!(posts(&server, &ack(1)).len(), 1);
    office.put(letter(2));
    assert_eq!(shown(&thoughts(&contexts, 3).await[2]), [id(2)]);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn the_shipped_rules_note_who_wrote() {
    let office = Office::default();
    office.put(letter(1));
    office.put(mail(2, "task", json!({"taskId": id(9), "title": "Report", "priority": "high"})));
    let server = office.open(NEVER).await;
    let agent = Running::start(config(&server, &[]), None, Tuning::default());
    until("the acknowledgements", LONG, || (office.waiting() == 0).then_some(())).await;
    let rows = summaries(&server);
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows[0].0 == "communication" && rows[0].1.starts_with("agent:cmo wrote to ceo"), "{rows:?}");
    assert!(rows[1].0 == "task" && rows[1].1.contains("waits") && rows[1].1.contains("Report"), "{rows:?}");
    assert!(posts(&server, "/tasks/claim").is_empty());
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

/// Has a new message for itself by the time that it has thought.
struct Busy {
    office: Office,
    begun: Arc<Mutex<Vec<Value>>>,
}

#[async_trait]
impl Think for Busy {
    fn describe(&self) -> String {
        "busy".to_owned()
    }

    async fn think(&self, context: &Context) -> Result<Vec<Value>, ThinkError> {
        let mut begun = self.begun.lock().unwrap();
        begun.push(json!(context.turn.started_at));
        self.office.put(letter(begun.len() as u128));
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn messages_wake_it_at_most_once_a_second() {
    let office = Office::default();
    let server = office.open(NEVER).await;
    let begun = Arc::new(Mutex::new(Vec::new()));
    let busy = Busy { office: office.clone(), begun: begun.clone() };
    let agent = Running::start(config(&server, &[]), Some(Box::new(busy)), Tuning::default());
    let times: Vec<_> = thoughts(&begun, 4)
        .await
        .iter()
        .map(|at| at.as_str().unwrap().parse::<aito_api::Timestamp>().unwrap().into_inner())
        .collect();
    // The first turn needs no message. Times are told in whole milliseconds.
    for pair in times[1..].windows(2) {
        let apart = (pair[1] - pair[0]).num_milliseconds();
        assert!(apart >= 999, "{apart} ms");
    }
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn a_message_is_acknowledged_after_what_came_of_it_was_stored() {
    let office = Office::default();
    let server = office.open(1).await;
    office.instead(|request| (request.target == HISTORY).then_some(Reply::Cut));
    let row = json!({"action": "record_history", "actionType": "task", "summary": "a"});
    let (script, _, contexts) = scripted(json!([[], [row]]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    thoughts(&contexts, 1).await;
    office.put(letter(1));
    // Two turns of the row that the server does not take.
    until("tries", LONG, || (posts(&server, HISTORY).len() >= 3).then_some(())).await;
    assert!(!server.requests().iter().any(is_ack));
    let tried = server.requests().len();
    office.as_usual();
    until("the acknowledgement", LONG, || (office.waiting() == 0).then_some(())).await;
    let taken = server.requests()[tried..].iter().position(|request| request.target == HISTORY).unwrap();
    assert!(place(&server, &ack(1)).unwrap() > tried + taken);
    let showings = contexts.lock().unwrap().iter().filter(|context| !shown(context).is_empty()).count();
    assert_eq!(showings, 1);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

/// Thinks about messages for ever.
struct Pondering(Arc<AtomicU64>);

#[async_trait]
impl Think for Pondering {
    fn describe(&self) -> String {
        "pondering".to_owned()
    }

    async fn think(&self, context: &Context) -> Result<Vec<Value>, ThinkError> {
        if !context.messages.is_empty() {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn who_ends_before_it_has_acted_acknowledges_nothing() {
    let office = Office::default();
    office.put(letter(1));
    let server = office.open(NEVER).await;
    for round in 1..=2 {
        let pondered = Arc::new(AtomicU64::new(0));
        let pondering = Box::new(Pondering(pondered.clone()));
        let agent = Running::start(config(&server, &[]), Some(pondering), Tuning::default());
        until("a thought of it", LONG, || (pondered.load(Ordering::SeqCst) == 1).then_some(())).await;
        // It goes on looking while it thinks, and no turn begins meanwhile.
        heartbeats(&server, 10).await;
        assert_eq!(pondered.load(Ordering::SeqCst), 1, "{round}");
        assert_eq!(agent.stop().await, Outcome::Stopped);
    }
    assert!(!server.requests().iter().any(is_ack));
}

#[tokio::test]
async fn what_cannot_be_acknowledged_is_later_and_not_shown_again() {
    let office = Office::default();
    office.put(letter(1));
    let server = office.open(1).await;
    office.instead(|request| is_ack(request).then_some(Reply::Cut));
    let (script, _, contexts) = scripted(json!([]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    until("tries", LONG, || (posts(&server, &ack(1)).len() >= 3).then_some(())).await;
    thoughts(&contexts, 4).await;
    assert_eq!(agent.count("mailbox cannot be read"), 1);
    office.as_usual();
    until("the acknowledgement", LONG, || (office.waiting() == 0).then_some(())).await;
    agent.says("mailbox can be read again").await;
    office.put(letter(2));
    let so_far = contexts.lock().unwrap().len();
    let all = thoughts(&contexts, so_far + 2).await;
    assert_eq!(all.iter().flat_map(shown).collect::<Vec<_>>(), [id(1), id(2)]);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn a_failed_turn_keeps_its_messages_for_the_next_one() {
    let office = Office::default();
    let server = office.open(NEVER).await;
    let (script, _, contexts) = scripted(json!([[], "deliberate panic of a test"]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    thoughts(&contexts, 1).await;
    office.put(letter(1));
    agent.says("thinking panicked").await;
    heartbeats(&server, 30).await;
    assert_eq!(contexts.lock().unwrap().len(), 2, "it woke the loop twice");
    assert!(!server.requests().iter().any(is_ack));
    office.put(letter(2));
    assert_eq!(shown(&thoughts(&contexts, 3).await[2]), [id(1), id(2)]);
    until("the acknowledgements", LONG, || (office.waiting() == 0).then_some(())).await;
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn no_message_wakes_it_while_no_heartbeat_is_answered() {
    let office = Office::default();
    let server = office.open(NEVER).await;
    let (script, _, contexts) = scripted(json!([]));
    let tuning = Tuning { silence_limit: Duration::from_millis(400), ..Tuning::default() };
    let agent = Running::start(config(&server, &[]), Some(script), tuning);
    thoughts(&contexts, 1).await;
    office.instead(|request| (request.target == HEARTBEAT).then_some(Reply::Cut));
    agent.says("not thinking until").await;
    office.put(letter(1));
    agent.says("1 new messages").await;
    heartbeats(&server, 5).await;
    assert_eq!(contexts.lock().unwrap().len(), 1);
    office.as_usual();
    assert_eq!(shown(&thoughts(&contexts, 2).await[1]), [id(1)]);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn a_claimed_task_is_worked_on_in_the_next_turn() {
    let office = Office::default();
    office.0.lock().unwrap().pending.push(task(5, &json!("Report"), Some(3)));
    // Those of another incarnation, and one that nobody holds.
    let others = [Some(2), None].map(|incarnation| task(6, &json!("Other"), incarnation));
    office.0.lock().unwrap().in_progress.extend(others);
    let server = office.open(NEVER).await;
    let (script, _, contexts) = scripted(json!([
        [{"action": "claim"}, {"action": "claim"}],
        [{"action": "complete_task", "taskId": id(5), "result": {"pages": 2}}, {"action": "claim"}],
    ]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    let contexts_seen = thoughts(&contexts, 2).await;
    assert_eq!(contexts_seen[0]["tasks"], json!([]));
    assert_eq!(
        contexts_seen[1]["tasks"],
        json!([{"id": id(5), "title": "Report", "description": null, "priority": "high", "dueDate": null,
            "createdAt": AT}])
    );
    assert_eq!(
        contexts_seen[1]["lastResults"],
        json!([
            {"action": "claim", "ok": true, "details": {"taskId": id(5), "title": "Report"}},
            {"action": "claim", "ok": true, "details": {"taskId": null, "reason": "nothing_waits"}},
        ])
    );
    assert_eq!(posts(&server, "/tasks/claim")[0].json(), json!({"agent": "ceo"}));
    let complete = format!("/tasks/{}/complete", id(5));
    until("the completion", LONG, || place(&server, &complete)).await;
    assert_eq!(posts(&server, &complete)[0].json(), json!({"result": {"pages": 2}}));
    heartbeats(&server, 20).await;
    assert_eq!(contexts.lock().unwrap().len(), 2, "a turn without a reason");
    office.put(letter(1));
    let third = thoughts(&contexts, 3).await[2].clone();
    assert_eq!(third["tasks"], json!([]));
    assert_eq!(
        third["lastResults"][0],
        json!({"action": "complete_task", "ok": true, "details": {"taskId": id(5)}})
    );
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn what_it_makes_is_made_once_and_told() {
    let office = Office::default();
    let server = office.open(1).await;
    office.instead(|request| (request.target == "/tasks").then_some(Reply::Cut));
    let (script, _, contexts) = scripted(json!([[
        {"action": "create_task", "title": "Figures", "assignTo": "cfo", "priority": "low", "dueDate": AT},
        {"action": "claim"},
        {"action": "send_message", "to": "cfo", "message": "please", "priority": "urgent"},
    ]]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    let second = thoughts(&contexts, 2).await[1].clone();
    let kept = "the server is away; kept for the next loop";
    assert_eq!(
        second["lastResults"].as_array().unwrap()[..3],
        [
            json!({"action": "create_task", "ok": false, "error": kept}),
            json!({"action": "claim", "ok": false, "error": "the server is away"}),
            json!({"action": "send_message", "ok": false, "error": kept}),
        ]
    );
    assert!(posts(&server, "/tasks/claim").is_empty());
    office.as_usual();
    until("the message", LONG, || place(&server, "/agents/cfo/message")).await;
    let told = until("the results", LONG, || {
        let contexts = contexts.lock().unwrap();
        let mut results = contexts.iter().flat_map(|context| context["lastResults"].as_array().unwrap());
        let made = |one: &&Value| one["ok"] == true;
        Some(results.by_ref().filter(made).cloned().collect::<Vec<_>>()).filter(|made| made.len() == 2)
    })
    .await;
    assert_eq!(
        told,
        [
            json!({"action": "create_task", "ok": true, "details": {"taskId": id(88)}}),
            json!({"action": "send_message", "ok": true, "details": {"messageId": id(77)}}),
        ]
    );
    let tries = posts(&server, "/tasks");
    let keys: Vec<_> = tries.iter().map(|one| one.header("idempotency-key").unwrap()).collect();
    assert!(keys.len() >= 2 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(
        tries[0].json(),
        json!({"title": "Figures", "assignTo": "cfo", "priority": "low", "dueDate": AT})
    );
    let message = &posts(&server, "/agents/cfo/message")[0];
    assert_eq!(message.json(), json!({"message": "please", "priority": "urgent"}));
    assert_ne!(message.header("idempotency-key").unwrap(), keys[0]);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn what_the_server_refuses_is_told_and_it_lives_on() {
    let office = Office::default();
    let server = office.open(1).await;
    office.instead(|request| match request.target.as_str() {
        "/tasks" => Some(refused(403, "forbidden")),
        "/agents/cfo/message" => Some(refused(422, "invalid")),
        _ => None,
    });
    let (script, _, contexts) = scripted(json!([[
        {"action": "create_task", "title": "t", "assignTo": "cfo", "priority": "critical"},
        {"action": "send_message", "to": "cfo", "message": "m", "priority": "low"},
        {"action": "fail_task", "taskId": id(1), "error": "no figures"},
        {"action": "complete_task", "taskId": "1"},
    ]]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    let results = thoughts(&contexts, 2).await[1]["lastResults"].clone();
    for (at, action, part) in [
        (0, "create_task", "forbidden"),
        (1, "send_message", "invalid"),
        (2, "fail_task", "conflict"),
        (3, "actions", "taskId is not a UUID"),
    ] {
        let result = &results[at];
        assert!(result["action"] == action && result["ok"] == false, "{results}");
        assert!(result["error"].as_str().unwrap().contains(part), "{results}");
    }
    assert_eq!(posts(&server, "/tasks").len(), 1, "it was tried again");
    assert_eq!(posts(&server, &format!("/tasks/{}/fail", id(1)))[0].json(), json!({"error": "no figures"}));
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn thinking_is_told_when_its_tasks_are_not_known() {
    let office = Office::default();
    let server = office.open(NEVER).await;
    office.instead(|request| request.target.starts_with("/tasks?").then(|| refused(503, "unavailable")));
    let (script, _, contexts) = scripted(json!([]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    let first = thoughts(&contexts, 1).await[0].clone();
    assert_eq!((&first["tasks"], &first["lastResults"][0]["action"]), (&json!([]), &json!("tasks")));
    assert_eq!(first["lastResults"][0]["ok"], false);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn a_refused_credential_ends_it_wherever_it_is_refused() {
    for (part, status, slug) in [
        (MAILBOX, 401, "past-incarnation"),
        (MAILBOX, 403, "forbidden"),
        ("/ack", 401, "past-incarnation"),
        ("/tasks?", 401, "past-incarnation"),
        ("/tasks/claim", 401, "past-incarnation"),
    ] {
        let office = Office::default();
        office.put(letter(1));
        let server = office.open(1).await;
        office.instead(move |request| request.target.contains(part).then(|| refused(status, slug)));
        let (script, ..) = scripted(json!([[{"action": "claim"}]]));
        let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
        let lines = agent.lines.clone();
        assert_eq!(agent.end().await.exit_code(), 77, "{part}");
        assert!(lines.lock().unwrap().iter().any(|line| line.contains(slug)), "{lines:?}");
    }
}

#[tokio::test]
async fn the_mailbox_is_left_alone_as_long_as_the_server_asks() {
    let office = Office::default();
    let server = office.open(NEVER).await;
    office.instead(|request| {
        let busy = b"HTTP/1.1 429 X\r\nretry-after: 2\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        request.target.starts_with(MAILBOX).then(|| Reply::Raw(busy.to_vec()))
    });
    let (script, ..) = scripted(json!([]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    agent.says("mailbox cannot be read").await;
    let looks = || server.requests().iter().filter(|request| request.target.starts_with(MAILBOX)).count();
    // By itself the agent would have looked again after a quarter of a second, which is five heartbeats at most.
    let first = posts(&server, HEARTBEAT).len();
    let second =
        until("the second look", LONG, || (looks() == 2).then(|| posts(&server, HEARTBEAT).len())).await;
    assert!(second - first >= 10, "{}", second - first);
    assert_eq!(agent.count("mailbox cannot be read"), 1);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}
