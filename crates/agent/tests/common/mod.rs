//! What the tests of whole agents share: answers of a scripted server, a running agent, a scripted thinker.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../../client/tests/support/mod.rs"]
pub mod support;

use aito_agent::{
    Agent, Config, Log, Outcome, Shutdown, ShutdownHandle, Think, ThinkError, Tuning, think::Context,
};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use support::{Reply, Request, Server, until};
use tokio::task::JoinHandle;

pub const LONG: Duration = Duration::from_secs(20);
pub const ID: &str = "01936f1e-5f3a-7c3c-9a51-0d2d5f9a1b2c";
pub const HEARTBEAT: &str = "/agents/ceo/heartbeat";
pub const HISTORY: &str = "/agents/ceo/history";

pub fn heard(loop_interval: u64, desired: &str) -> Reply {
    Reply::Json(
        200,
        json!({"success": true, "loopInterval": loop_interval, "settingsVersion": 1, "desired": desired, "mailbox": 0}),
    )
}

pub fn stored() -> Reply {
    let row =
        json!({"id": ID, "actionType": "task", "summary": "s", "createdAt": "2025-12-20T10:00:00.000Z"});
    Reply::Json(201, json!({"success": true, "history": row}))
}

pub fn refused(status: u16, slug: &str) -> Reply {
    Reply::Json(status, json!({"type": format!("urn:aito:problem:{slug}"), "status": status, "error": slug}))
}

/// Nothing waits and nothing is in progress; all history is stored.
pub fn quiet(request: &Request) -> Reply {
    if request.target.starts_with("/agents/ceo/mailbox?") {
        // Held until the agent gives up.
        Reply::RawThenHang(Vec::new())
    } else if request.target.starts_with("/tasks?") {
        tasks(&[])
    } else {
        stored()
    }
}

pub fn tasks(tasks: &[Value]) -> Reply {
    let list = json!({"tasks": tasks, "total": tasks.len(), "totalExact": true, "limit": 100, "offset": 0,
        "nextCursor": null});
    Reply::Json(200, list)
}

/// A server whose answers to heartbeats the test can change, and which stores all history.
pub async fn server(heartbeat: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    Server::tcp(move |request| if request.target == HEARTBEAT { heartbeat() } else { quiet(request) }).await
}

pub fn config(server: &Server, changes: &[(&str, &str)]) -> Config {
    let mut vars = vec![
        ("AGENT_ID".to_owned(), ID.to_owned()),
        ("AGENT_TYPE".to_owned(), "ceo".to_owned()),
        ("AGENT_INCARNATION".to_owned(), "3".to_owned()),
        ("ORCHESTRATOR_URL".to_owned(), server.endpoint.to_string()),
    ];
    vars.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    // In these tests time is short.
    Config { heartbeat_interval: Duration::from_millis(50), ..Config::from_env(vars).unwrap() }
}

/// A running agent.
pub struct Running {
    pub lines: Arc<Mutex<Vec<String>>>,
    pub stop: ShutdownHandle,
    pub task: JoinHandle<Outcome>,
}

impl Running {
    pub fn start(config: Config, think: Option<Box<dyn Think>>, tuning: Tuning) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        let log = Log::to(move |line| kept.lock().unwrap().push(line.to_owned()));
        let (shutdown, stop) = Shutdown::manual();
        let agent = Agent::new(config).log(log).tuning(tuning);
        let agent = match think {
            Some(think) => agent.think(think),
            None => agent,
        };
        Self { lines, stop, task: tokio::spawn(agent.run(shutdown)) }
    }

    pub fn count(&self, part: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }

    pub async fn says(&self, part: &str) {
        until(&format!("the line {part:?} in {:?}", self.lines), LONG, || {
            (self.count(part) > 0).then_some(())
        })
        .await;
    }

    pub async fn end(self) -> Outcome {
        tokio::time::timeout(LONG, self.task).await.expect("it did not end").unwrap()
    }

    pub async fn stop(self) -> Outcome {
        self.stop.signal();
        self.end().await
    }
}

/// Answers from a list, then with no actions; counts its thoughts.
#[derive(Default)]
pub struct Scripted {
    answers: Mutex<VecDeque<Value>>,
    thoughts: Arc<AtomicU64>,
    contexts: Arc<Mutex<Vec<Value>>>,
}

#[async_trait]
impl Think for Scripted {
    fn describe(&self) -> String {
        "script".to_owned()
    }

    async fn think(&self, context: &Context) -> Result<Vec<Value>, ThinkError> {
        self.thoughts.fetch_add(1, Ordering::SeqCst);
        self.contexts.lock().unwrap().push(serde_json::to_value(context).unwrap());
        // Not held while it panics.
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(Value::Array(list)) => Ok(list),
            Some(Value::String(panic)) => panic!("{panic}"),
            _ => Ok(Vec::new()),
        }
    }
}

pub fn scripted(answers: Value) -> (Box<Scripted>, Arc<AtomicU64>, Arc<Mutex<Vec<Value>>>) {
    let Value::Array(answers) = answers else { panic!("not a list") };
    let script = Scripted { answers: Mutex::new(answers.into()), ..Scripted::default() };
    let (thoughts, contexts) = (script.thoughts.clone(), script.contexts.clone());
    (Box::new(script), thoughts, contexts)
}

pub fn posts(server: &Server, target: &str) -> Vec<Request> {
    server.requests().into_iter().filter(|request| request.is("POST", target)).collect()
}

pub fn summaries(server: &Server) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    posts(server, HISTORY)
        .iter()
        .map(Request::json)
        .map(|row| (text(&row["actionType"]), text(&row["summary"])))
        .collect()
}
