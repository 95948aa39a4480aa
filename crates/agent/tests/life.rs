//! Whole agents against a scripted server: heartbeat, control channel, refusals, silence, stopping.
#![allow(clippy::unwrap_used)]

mod common;

use aito_agent::{Config, Outcome, Think, ThinkError, Tuning, think::Context};
use async_trait::async_trait;
use common::{
    HEARTBEAT, HISTORY, LONG, Running, config, heard, posts, quiet, refused, scripted, server, stored,
    summaries,
    support::{Reply, Request, Server, until},
};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

#[tokio::test]
async fn the_shipped_rules_make_a_living_agent() {
    let server = server(|| heard(1, "running")).await;
    let dir = tempfile::tempdir().unwrap();
    let (profile, credential) = (dir.path().join("ceo.md"), dir.path().join("credential"));
    std::fs::write(&profile, "---\ntitle: Chief\nfocus: growth\n---\nLead.\n").unwrap();
    std::fs::write(&credential, "t0ken\n").unwrap();
    let config = config(
        &server,
        &[
            ("AGENT_PROFILE", profile.to_str().unwrap()),
            ("AGENT_CREDENTIAL_FILE", credential.to_str().unwrap()),
        ],
    );
    let agent = Running::start(config, None, Tuning::default());
    agent.says("focus: growth").await;
    agent.says("ceo is in loop 2").await;
    until("a heartbeat that tells it", LONG, || {
        let told = posts(&server, HEARTBEAT).pop()?.json();
        (told["loopCount"].as_u64()? >= 2 && told["currentFocus"] == "growth" && told["status"] == "idle")
            .then(|| assert!(told["lastLoopAt"].as_str().unwrap().ends_with('Z')))
    })
    .await;
    assert!(!credential.exists());
    let first = &posts(&server, HEARTBEAT)[0];
    assert_eq!(first.json(), json!({"loopCount": 0, "status": "idle"}));
    assert_eq!(first.header("authorization"), Some("Bearer t0ken"));
    assert_eq!(agent.count("t0ken"), 0);
    assert_eq!(agent.count("no model"), 2);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn a_change_of_the_loop_interval_takes_effect_at_once() {
    let interval = Arc::new(AtomicU64::new(3000));
    let told = interval.clone();
    let server = server(move || heard(told.load(Ordering::SeqCst), "running")).await;
    let (script, thoughts, _) = scripted(json!([]));
    let agent =
        Running::start(config(&server, &[("LOOP_INTERVAL", "3000")]), Some(script), Tuning::default());
    until("the first loop", LONG, || (thoughts.load(Ordering::SeqCst) == 1).then_some(())).await;
    interval.store(1, Ordering::SeqCst);
    until("more loops", LONG, || (thoughts.load(Ordering::SeqCst) >= 2).then_some(())).await;
    assert_eq!(agent.count("loop interval is now 1 s"), 1);
    assert_eq!(agent.stop().await.exit_code(), 0);
}

#[tokio::test]
async fn the_server_can_stop_it() {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let server =
        server(move || heard(1, if told.load(Ordering::SeqCst) { "stopped" } else { "running" })).await;
    let agent = Running::start(config(&server, &[]), None, Tuning::default());
    agent.says("is in loop 1").await;
    stop.store(true, Ordering::SeqCst);
    assert_eq!(agent.end().await.exit_code(), 0);
}

#[tokio::test]
async fn a_refused_credential_ends_it_with_a_code_of_its_own() {
    for (status, slug) in [(401, "past-incarnation"), (401, "unauthorized"), (403, "forbidden")] {
        let server = server(move || refused(status, slug)).await;
        let (script, thoughts, _) = scripted(json!([]));
        let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
        let lines = agent.lines.clone();
        assert_eq!(agent.end().await.exit_code(), 77, "{slug}");
        assert_eq!((server.requests().len(), thoughts.load(Ordering::SeqCst)), (1, 0), "{slug}");
        assert!(lines.lock().unwrap().iter().any(|line| line.contains(slug)), "{lines:?}");
    }
}

#[tokio::test]
async fn a_refusal_of_history_ends_it_too() {
    let server = Server::tcp(|request| match request.target.as_str() {
        HEARTBEAT => heard(1, "running"),
        HISTORY => refused(401, "past-incarnation"),
        _ => quiet(request),
    })
    .await;
    let (script, ..) =
        scripted(json!([[{"action": "record_history", "actionType": "task", "summary": "a"}]]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    assert_eq!(agent.end().await, Outcome::Refused);
}

#[tokio::test]
async fn it_does_not_think_before_a_heartbeat_was_accepted() {
    let ready = Arc::new(AtomicBool::new(false));
    let told = ready.clone();
    let server =
        server(
            move || {
                if told.load(Ordering::SeqCst) { heard(1, "running") } else { refused(503, "unavailable") }
            },
        )
        .await;
    let (script, thoughts, _) = scripted(json!([]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    until("some heartbeats", LONG, || (posts(&server, HEARTBEAT).len() >= 4).then_some(())).await;
    assert_eq!(thoughts.load(Ordering::SeqCst), 0);
    assert_eq!(agent.count("heartbeat failed"), 1, "{:?}", agent.lines);
    ready.store(true, Ordering::SeqCst);
    until("the first loop", LONG, || (thoughts.load(Ordering::SeqCst) == 1).then_some(())).await;
    assert_eq!(agent.count("answered again"), 1);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

/// A thinker that never answers, and tells when it was begun and when it was dropped.
#[derive(Clone, Default)]
struct Endless {
    begun: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

struct CountDrop(Arc<AtomicU64>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Think for Endless {
    fn describe(&self) -> String {
        "endless".to_owned()
    }

    async fn think(&self, _: &Context) -> Result<Vec<Value>, ThinkError> {
        let _guard = CountDrop(self.dropped.clone());
        self.begun.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }
}

#[tokio::test]
async fn silence_stops_thinking_until_the_next_answer() {
    let away = Arc::new(AtomicBool::new(false));
    let told = away.clone();
    let server =
        server(move || if told.load(Ordering::SeqCst) { Reply::Cut } else { heard(1, "running") }).await;
    let endless = Endless::default();
    let tuning = Tuning { silence_limit: Duration::from_millis(400), ..Tuning::default() };
    let agent = Running::start(config(&server, &[]), Some(Box::new(endless.clone())), tuning);
    until("a thought", LONG, || (endless.begun.load(Ordering::SeqCst) == 1).then_some(())).await;
    away.store(true, Ordering::SeqCst);
    agent.says("not thinking until").await;
    assert_eq!(endless.dropped.load(Ordering::SeqCst), 1, "the thought goes on");
    until("a heartbeat that tells it", LONG, || {
        (posts(&server, HEARTBEAT).pop()?.json()["status"] == "blocked").then_some(())
    })
    .await;
    assert_eq!(endless.begun.load(Ordering::SeqCst), 1);
    away.store(false, Ordering::SeqCst);
    agent.says("thinking again").await;
    until("a new thought", LONG, || (endless.begun.load(Ordering::SeqCst) == 2).then_some(())).await;
    assert_eq!(agent.count("not thinking until"), 1);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn a_signal_ends_a_thought_and_sends_a_last_heartbeat() {
    let server = server(|| heard(1, "running")).await;
    let endless = Endless::default();
    let config = Config { heartbeat_interval: Duration::from_secs(100), ..config(&server, &[]) };
    let agent = Running::start(config, Some(Box::new(endless.clone())), Tuning::default());
    until("a thought", LONG, || (endless.begun.load(Ordering::SeqCst) == 1).then_some(())).await;
    assert_eq!(posts(&server, HEARTBEAT).len(), 1);
    assert_eq!(agent.stop().await, Outcome::Stopped);
    assert_eq!(endless.dropped.load(Ordering::SeqCst), 1);
    let heartbeats = posts(&server, HEARTBEAT);
    assert_eq!(heartbeats.len(), 2);
    assert_eq!(heartbeats[1].json()["status"], "idle");
}

#[tokio::test]
async fn a_signal_ends_it_within_its_grace_also_when_the_server_is_silent() {
    let silent = Arc::new(AtomicBool::new(false));
    let told = silent.clone();
    let server = server(move || {
        if told.load(Ordering::SeqCst) { Reply::RawThenHang(Vec::new()) } else { heard(1, "running") }
    })
    .await;
    let agent = Running::start(
        Config { grace: Duration::from_millis(400), ..config(&server, &[]) },
        None,
        Tuning::default(),
    );
    agent.says("is in loop 1").await;
    silent.store(true, Ordering::SeqCst);
    agent.stop.signal();
    let ended = tokio::time::timeout(Duration::from_millis(2000), agent.task).await;
    assert_eq!(ended.expect("it hangs on the last heartbeat").unwrap(), Outcome::Stopped);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let silent = Arc::new(AtomicBool::new(false));
    let told = silent.clone();
    let server = server(move || {
        if told.load(Ordering::SeqCst) { Reply::RawThenHang(Vec::new()) } else { heard(1, "running") }
    })
    .await;
    let slow = Tuning { farewell: LONG * 2, call_timeout: LONG * 2, ..Tuning::default() };
    let agent = Running::start(Config { grace: LONG * 4, ..config(&server, &[]) }, None, slow);
    agent.says("is in loop 1").await;
    silent.store(true, Ordering::SeqCst);
    agent.stop.signal();
    agent.says("asked to stop").await;
    agent.stop.signal();
    assert_eq!(agent.end().await, Outcome::Forced);
}

#[tokio::test]
async fn actions_are_done_and_the_bad_ones_told_in_one_row() {
    let server = server(|| heard(1, "running")).await;
    let (script, _, contexts) = scripted(json!([[
        {"action": "record_history", "actionType": "decision", "summary": "first", "details": {"n": 1}},
        {"action": "launch"},
        {"action": "log", "message": "hello\nworld"},
        {"action": "record_history", "actionType": "nonsense", "summary": "x"},
        {"action": "set_focus", "focus": "next thing"},
    ]]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    agent.says("says: hello world").await;
    until("the second thought", LONG, || (contexts.lock().unwrap().len() >= 2).then_some(())).await;
    let rows = summaries(&server);
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0], ("decision".to_owned(), "first".to_owned()));
    assert_eq!(rows[1].0, "error");
    assert!(rows[1].1.contains("launch") && rows[1].1.contains("action 3"), "{rows:?}");
    assert_eq!(posts(&server, HISTORY)[0].json()["details"], json!({"n": 1}));
    let second = contexts.lock().unwrap()[1].clone();
    assert_eq!(second["focus"], "next thing");
    assert_eq!(second["loop"]["count"], 2);
    let results: Vec<_> = second["lastResults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["action"].as_str().unwrap(), one["ok"].as_bool().unwrap()))
        .collect();
    assert_eq!(results, [("record_history", true), ("log", true), ("set_focus", true), ("actions", false)]);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn a_panic_while_thinking_stops_neither_heartbeat_nor_loop() {
    let server = server(|| heard(1, "running")).await;
    let (script, thoughts, _) = scripted(json!(["deliberate panic of a test"]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    agent.says("thinking panicked").await;
    until("the next thought", LONG, || (thoughts.load(Ordering::SeqCst) >= 2).then_some(())).await;
    assert_eq!(summaries(&server)[0], ("error".to_owned(), "thinking panicked".to_owned()));
    let before = posts(&server, HEARTBEAT).len();
    until("more heartbeats", LONG, || (posts(&server, HEARTBEAT).len() > before + 2).then_some(())).await;
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn rows_that_the_server_could_not_take_come_with_the_next_loop() {
    let answers = Arc::new(Mutex::new(VecDeque::from([Reply::Cut, stored(), refused(422, "invalid")])));
    let server = Server::tcp(move |request| match request.target.as_str() {
        HEARTBEAT => heard(1, "running"),
        HISTORY => answers.lock().unwrap().pop_front().unwrap_or_else(stored),
        _ => quiet(request),
    })
    .await;
    let row = |summary: &str| json!({"action": "record_history", "actionType": "task", "summary": summary});
    let (script, _, contexts) = scripted(json!([[row("a"), row("b"), row("c")], []]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    until("three loops", LONG, || (contexts.lock().unwrap().len() >= 3).then_some(())).await;
    let names: Vec<_> = summaries(&server).into_iter().map(|(_, summary)| summary).collect();
    assert_eq!(names, ["a", "a", "b", "c"]);
    let keys: Vec<_> =
        posts(&server, HISTORY).iter().map(|one| one.header("idempotency-key").unwrap().to_owned()).collect();
    assert_eq!(keys[0], keys[1], "repeated with another key");
    assert!(keys[1] != keys[2] && keys[2] != keys[3]);
    assert_eq!(agent.count("kept for the next loop"), 1);
    assert_eq!(agent.count("history row dropped"), 1);
    let second = contexts.lock().unwrap()[1].clone();
    assert_eq!(second["lastResults"][0]["ok"], false);
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn what_is_never_taken_is_bounded_and_said() {
    let server = Server::tcp(|request| match request.target.as_str() {
        HEARTBEAT => heard(1, "running"),
        HISTORY => refused(503, "unavailable"),
        _ => quiet(request),
    })
    .await;
    let rows = vec![json!({"action": "record_history", "actionType": "task", "summary": "r"}); 50];
    let (script, _, contexts) = scripted(json!([rows, rows, rows]));
    let agent = Running::start(config(&server, &[]), Some(script), Tuning::default());
    until("four loops", LONG, || (contexts.lock().unwrap().len() >= 4).then_some(())).await;
    assert_eq!(agent.count("too many entries wait for the server; dropped: r"), 50);
    // One try at the beginning of each loop and one in the first: never one per row.
    assert!(posts(&server, HISTORY).len() <= 5, "{}", posts(&server, HISTORY).len());
    let lines = agent.lines.clone();
    assert_eq!(agent.stop().await, Outcome::Stopped);
    let said = lines
        .lock()
        .unwrap()
        .iter()
        .any(|line| line.contains("100 entries (history, tasks, messages) that no server took"));
    assert!(said, "{lines:?}");
}

#[tokio::test]
async fn the_profile_is_read_anew_in_every_loop() {
    let server = server(|| heard(1, "running")).await;
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("p.md");
    std::fs::write(&profile, "---\ntitle: One\n---\n").unwrap();
    let (script, _, contexts) = scripted(json!([]));
    let config = config(&server, &[("PROFILE_PATH", profile.to_str().unwrap())]);
    let agent = Running::start(config, Some(script), Tuning::default());
    let last_title =
        || contexts.lock().unwrap().last().map(|last| last["profile"]["frontMatter"]["title"].clone());
    until("the first title", LONG, || (last_title()? == "One").then_some(())).await;
    std::fs::write(&profile, "---\ntitle: [\n---\n").unwrap();
    agent.says("p.md is malformed").await;
    std::fs::write(&profile, "---\ntitle: Two\n---\n").unwrap();
    until("the second title", LONG, || (last_title()? == "Two").then_some(())).await;
    assert!(summaries(&server).iter().any(|(kind, text)| kind == "error" && text.contains("p.md")));
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn what_cannot_be_used_is_said_before_the_first_heartbeat() {
    let server = server(|| heard(1, "running")).await;
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.toml");
    std::fs::write(&rules, "[[rule]]\nevery = 0\ndo = []\n").unwrap();
    for (changes, part) in [
        (vec![("AGENT_PROFILE", "/nowhere/ceo.md")], "/nowhere/ceo.md"),
        (vec![("AGENT_CREDENTIAL_FILE", "/nowhere/credential")], "/nowhere/credential"),
        (vec![("THINKING_RULES", rules.to_str().unwrap())], "rule 1"),
    ] {
        let agent = Running::start(config(&server, &changes), None, Tuning::default());
        let lines = agent.lines.clone();
        assert_eq!(agent.end().await.exit_code(), 78, "{part}");
        let said =
            lines.lock().unwrap().iter().any(|line| line.contains("cannot start") && line.contains(part));
        assert!(said, "{lines:?}");
    }
    assert!(server.requests().is_empty());
}

/// The whole way of the credential: taken from its file, used for calls, and nowhere in what the thinking
/// command can look at: environment, descriptors, arguments, files.
#[tokio::test]
async fn the_credential_is_nowhere_in_the_thinking_command() {
    const SECRET: &str = "v3ry-s3cret-credential";
    let server = server(|| heard(1000, "running")).await;
    let dir = tempfile::tempdir().unwrap();
    let (credential, report) = (dir.path().join("credential"), dir.path().join("report"));
    std::fs::write(&credential, SECRET).unwrap();
    // A descriptor that this process hands down by mistake, to a file that holds the credential.
    let leaked_path = dir.path().join("leaked");
    std::fs::write(&leaked_path, SECRET).unwrap();
    let leaked = std::fs::File::open(&leaked_path).unwrap();
    std::fs::remove_file(&leaked_path).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let script = format!(
        "{{ cat; echo; tr '\\0' '\\n' < /proc/self/environ; tr '\\0' '\\n' < /proc/$$/cmdline; \
         for d in /proc/$$/fd/*; do echo \"$d $(readlink $d)\"; done; \
         cat {dir}/* 2>/dev/null; echo complete; }} > {report}.part 2>&1; mv {report}.part {report}; echo '[]'",
        dir = dir.path().display(),
        report = report.display()
    );
    let command = json!(["/bin/sh", "-c", script]).to_string();
    let config = config(
        &server,
        &[
            ("AGENT_CREDENTIAL_FILE", credential.to_str().unwrap()),
            ("THINKING", "command"),
            ("THINKING_COMMAND", &command),
            ("PATH", "/usr/bin:/bin"),
            ("NOT_NAMED", SECRET),
        ],
    );
    assert!(!format!("{config:?}").contains(SECRET));
    let agent = Running::start(config, None, Tuning::default());
    let seen = until("the report", LONG, || std::fs::read_to_string(&report).ok()).await;
    drop(leaked);
    assert!(seen.ends_with("complete\n") && seen.contains("PATH=/usr/bin:/bin"), "{seen}");
    assert!(!seen.contains(SECRET), "{seen}");
    let pipes_only =
        seen.lines().filter(|line| line.starts_with("/proc/") && line.contains("/fd/")).all(|line| {
            let (descriptor, target) = line.split_once(' ').unwrap();
            let number: u32 = descriptor.rsplit('/').next().unwrap().parse().unwrap();
            // The shell's own: its redirection to the report (and where it keeps what that replaced).
            number <= 2 || target.is_empty() || target.starts_with("pipe:") || target.contains("report")
        });
    assert!(pipes_only && !seen.contains("leaked"), "{seen}");
    assert!(agent.lines.lock().unwrap().iter().all(|line| !line.contains(SECRET)));
    let heartbeat = &posts(&server, HEARTBEAT)[0];
    assert_eq!(heartbeat.header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn a_variable_that_holds_the_credential_is_refused() {
    let server = server(|| heard(1, "running")).await;
    let dir = tempfile::tempdir().unwrap();
    let credential = dir.path().join("credential");
    std::fs::write(&credential, "s3cret-value").unwrap();
    let config = config(
        &server,
        &[
            ("AGENT_CREDENTIAL_FILE", credential.to_str().unwrap()),
            ("THINKING", "command"),
            ("THINKING_COMMAND", r#"["true"]"#),
            ("THINKING_ENV", "COPY"),
            ("COPY", "Bearer s3cret-value"),
        ],
    );
    let agent = Running::start(config, None, Tuning::default());
    let lines = agent.lines.clone();
    assert_eq!(agent.end().await, Outcome::Misconfigured);
    let lines = lines.lock().unwrap().join("\n");
    assert!(lines.contains("COPY would hand the credential") && !lines.contains("s3cret-value"), "{lines}");
}

fn socket_dir(config: Config, dir: &Path) -> Config {
    Config { server: aito_agent::config::ServerAddress::SocketDir(dir.to_owned()), ..config }
}

#[tokio::test]
async fn it_outlives_the_server_that_it_talked_to() {
    let somewhere = server(|| heard(1, "running")).await;
    let dir = tempfile::tempdir().unwrap();
    let reply =
        |request: &Request| if request.target == HEARTBEAT { heard(1, "running") } else { quiet(request) };
    // A server that died and left its socket file, and something that is no socket at all.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("a.sock")).unwrap());
    std::fs::write(dir.path().join("b.sock"), "").unwrap();
    let (first_path, second_path) = (dir.path().join("c.sock"), dir.path().join("d.sock"));
    let first = Server::unix(&first_path, reply);
    let second = Server::unix(&second_path, reply);
    let agent = Running::start(socket_dir(config(&somewhere, &[]), dir.path()), None, Tuning::default());
    until("heartbeats at the first", LONG, || (posts(&first, HEARTBEAT).len() >= 3).then_some(())).await;
    assert!(second.requests().is_empty(), "it does not stay with the one that works");
    drop(first);
    until("heartbeats at the second", LONG, || (posts(&second, HEARTBEAT).len() >= 3).then_some(())).await;
    // The first one comes back; the agent stays where it is well.
    std::fs::remove_file(&first_path).unwrap();
    let first = Server::unix(&first_path, reply);
    let before = posts(&second, HEARTBEAT).len();
    until("more at the second", LONG, || (posts(&second, HEARTBEAT).len() > before + 3).then_some(())).await;
    assert!(first.requests().is_empty());
    drop(second);
    std::fs::remove_file(&second_path).unwrap();
    until("heartbeats at the first again", LONG, || (posts(&first, HEARTBEAT).len() >= 2).then_some(()))
        .await;
    assert_eq!(agent.stop().await, Outcome::Stopped);
}

#[tokio::test]
async fn an_empty_directory_is_waited_out() {
    let somewhere = server(|| heard(1, "running")).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = Running::start(socket_dir(config(&somewhere, &[]), dir.path()), None, Tuning::default());
    agent.says("there is no socket").await;
    let server = Server::unix(&dir.path().join("late.sock"), |request| {
        if request.target == HEARTBEAT { heard(1, "running") } else { quiet(request) }
    });
    agent.says("first heartbeat accepted").await;
    assert!(!server.requests().is_empty());
    assert_eq!(agent.stop().await, Outcome::Stopped);
}
