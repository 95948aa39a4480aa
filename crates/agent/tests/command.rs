//! The command adapter with real child processes: what they get, what ends them, what is made of their answers.
#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod support;

use aito_agent::{
    Log, Think, ThinkError,
    config::{Command, Environment},
    profile::Profile,
    think::{ActionResult, AgentContext, Context, LoopContext, Message, Task, command::CommandThinker},
};
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use support::until;

const LONG: Duration = Duration::from_secs(20);

fn context() -> Context {
    Context {
        agent: AgentContext { id: uuid::Uuid::nil(), agent_type: "ceo".to_owned(), incarnation: 3 },
        profile: Profile::parse("---\ntitle: Chief\n---\nLead.").unwrap(),
        turn: LoopContext {
            count: 2,
            started_at: "2025-12-20T10:00:00Z".parse().unwrap(),
            last_loop_at: Some("2025-12-20T09:30:00Z".parse().unwrap()),
        },
        focus: Some("growth".to_owned()),
        last_results: vec![ActionResult { action: "log".to_owned(), ok: true, error: None, details: None }],
        messages: vec![Message {
            id: uuid::Uuid::nil(),
            kind: "message".to_owned(),
            from: "agent:cmo".to_owned(),
            priority: "high".to_owned(),
            payload: json!({"message": "hi"}),
            created_at: "2025-12-20T09:40:00Z".parse().unwrap(),
        }],
        tasks: vec![Task {
            id: uuid::Uuid::nil(),
            title: "Report".to_owned(),
            description: None,
            priority: "urgent".to_owned(),
            due_date: Some("2025-12-21T00:00:00Z".parse().unwrap()),
            created_at: "2025-12-20T09:41:00Z".parse().unwrap(),
        }],
    }
}

fn shell(script: &str) -> Command {
    Command {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: LONG,
        output_cap: 1 << 20,
        env: Environment([("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into()),
    }
}

fn thinker(command: Command) -> (CommandThinker, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    let log = Log::to(move |line| kept.lock().unwrap().push(line.to_owned()));
    (CommandThinker::new(command, log), lines)
}

async fn think(command: Command) -> Result<Vec<Value>, ThinkError> {
    thinker(command).0.think(&context()).await
}

fn is_alive(pid: u32) -> bool {
    // A zombie has ended; who reaps it is not our matter.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

fn written_pid(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok()
}

#[tokio::test]
async fn the_context_comes_as_json_and_the_actions_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen.json");
    let script =
        format!(r#"cat > {}; echo '[{{"action":"log","message":"hi"}}]'; echo oops >&2"#, seen.display());
    let (thinker, lines) = thinker(shell(&script));
    let answer = thinker.think(&context()).await.unwrap();
    assert_eq!(answer, [json!({"action": "log", "message": "hi"})]);
    let seen: Value = serde_json::from_slice(&std::fs::read(seen).unwrap()).unwrap();
    assert_eq!(
        seen,
        json!({
            "agent": {"id": "00000000-0000-0000-0000-000000000000", "type": "ceo", "incarnation": 3},
            "profile": {"frontMatter": {"title": "Chief"}, "body": "Lead."},
            "loop": {"count": 2, "startedAt": "2025-12-20T10:00:00.000Z", "lastLoopAt": "2025-12-20T09:30:00.000Z"},
            "focus": "growth",
            "lastResults": [{"action": "log", "ok": true}],
            "messages": [{
                "id": "00000000-0000-0000-0000-000000000000",
                "kind": "message",
                "from": "agent:cmo",
                "priority": "high",
                "payload": {"message": "hi"},
                "createdAt": "2025-12-20T09:40:00.000Z",
            }],
            "tasks": [{
                "id": "00000000-0000-0000-0000-000000000000",
                "title": "Report",
                "description": null,
                "priority": "urgent",
                "dueDate": "2025-12-21T00:00:00.000Z",
                "createdAt": "2025-12-20T09:41:00.000Z",
            }],
        })
    );
    assert_eq!(*lines.lock().unwrap(), ["thinking says: oops"]);
}

#[tokio::test]
async fn the_environment_is_exactly_what_was_configured() {
    let mut command =
        shell("exec /usr/bin/env -0 | tr '\\0' '\\n' | sed 's/.*/\"&\"/' | paste -sd, | sed 's/.*/[&]/'");
    command.env.0.insert("MODEL_KEY".to_owned(), "k".to_owned());
    let answer = think(command).await.unwrap();
    let mut names: Vec<_> = answer
        .iter()
        .map(|pair| pair.as_str().unwrap().split('=').next().unwrap().to_owned())
        // What a shell sets for itself.
        .filter(|name| !matches!(name.as_str(), "PWD" | "SHLVL" | "_" | "OLDPWD"))
        .collect();
    names.sort();
    assert_eq!(names, ["MODEL_KEY", "PATH"]);
}

#[tokio::test]
async fn an_answer_that_is_no_list_is_an_error() {
    for (script, part) in [
        ("true", "no JSON list"),
        ("echo nonsense", "no JSON list"),
        ("echo '{}'", "another kind"),
        ("echo '[1] [2]'", "no JSON list"),
        ("echo '[]'; exit 3", "exit code 3"),
        ("kill -SEGV $$", "signal 11"),
    ] {
        let error = think(shell(script)).await.unwrap_err().to_string();
        assert!(error.contains(part), "{script}: {error}");
    }
    let missing = Command { argv: vec!["/no/such/program".to_owned()], ..shell("") };
    assert!(matches!(think(missing).await, Err(ThinkError::Start(_))));
}

#[tokio::test]
async fn a_program_that_reads_nothing_is_fine() {
    let mut large = context();
    large.profile.body = "x".repeat(1 << 20);
    let answer = thinker(shell("exec <&-; echo '[]'")).0.think(&large).await.unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn too_much_output_ends_it() {
    let command = Command { output_cap: 1000, ..shell("yes") };
    assert!(matches!(think(command).await, Err(ThinkError::TooMuchOutput(1000))));
    let exact = Command { output_cap: 4, ..shell("printf '[  ]'") };
    assert!(think(exact).await.unwrap().is_empty());
}

#[tokio::test]
async fn too_much_to_standard_error_is_left_out() {
    let (thinker, lines) = thinker(shell("yes | head -n 100000 >&2; echo '[]'"));
    thinker.think(&context()).await.unwrap();
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 101);
    assert!(lines[100].contains("left out"), "{}", lines[100]);
}

#[tokio::test]
async fn the_time_limit_kills_the_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let (leader, grandchild) = (dir.path().join("leader"), dir.path().join("grandchild"));
    let script = format!(
        "trap '' TERM; echo $$ > {}; sh -c 'trap \"\" TERM; sleep 300 & echo $! > {}; wait' & wait",
        leader.display(),
        grandchild.display()
    );
    let command = Command { timeout: Duration::from_millis(700), ..shell(&script) };
    assert!(matches!(think(command).await, Err(ThinkError::TimedOut(_))));
    for path in [leader, grandchild] {
        let pid = written_pid(&path).unwrap();
        until("the death of the group", LONG, || (!is_alive(pid)).then_some(())).await;
    }
}

#[tokio::test]
async fn what_stays_behind_an_answer_is_killed_and_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("left");
    let script = format!("sleep 300 & echo $! > {}; echo '[]'", left.display());
    assert!(think(shell(&script)).await.unwrap().is_empty());
    let pid = written_pid(&left).unwrap();
    until("the death of what stayed", LONG, || (!is_alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn dropping_the_thought_kills_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let (thinker, _) = thinker(shell(&format!("sleep 300 & echo $! > {}; wait", path.display())));
    let context = context();
    let thought = thinker.think(&context);
    let pid = tokio::select! {
        _ = thought => panic!("it answered"),
        pid = until("the child", LONG, || written_pid(&path)) => pid,
    };
    until("the death of the group", LONG, || (!is_alive(pid)).then_some(())).await;
}
