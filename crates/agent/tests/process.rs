//! The agent as a process of its own: real signals, exit codes, and what it does to itself.
//!
//! Each test starts this test executable once more with its own name and `AITO_TEST_CHILD` set; that child is the
//! agent.
#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod support;

use aito_agent::{Config, Shutdown};
use rustix::process::{DumpableBehavior, Pid, Signal, dumpable_behavior, kill_process};
use serde_json::json;
use std::{path::Path, process::Stdio, time::Duration};
use support::{Reply, Request, Server, until};
use tokio::process::{Child, Command};

const LONG: Duration = Duration::from_secs(20);
const CHILD: &str = "AITO_TEST_CHILD";
const HEARTBEAT: &str = "/agents/ceo/heartbeat";

/// In the child: runs the agent, says whether its memory is protected, and exits as the agent ended.
fn be_the_agent_if_asked() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let config = Config::from_env(std::env::vars()).unwrap();
        aito_agent::run(config, Shutdown::from_signals().unwrap()).await
    });
    let protected = dumpable_behavior().unwrap() == DumpableBehavior::NotDumpable;
    let report = std::env::var(CHILD).unwrap();
    std::fs::write(report, format!("protected: {protected}")).unwrap();
    std::process::exit(outcome.exit_code().into());
}

fn agent(test: &str, report: &Path, server: &Server, changes: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, report)
        .env("AGENT_ID", "01936f1e-5f3a-7c3c-9a51-0d2d5f9a1b2c")
        .env("AGENT_TYPE", "ceo")
        .env("AGENT_INCARNATION", "1")
        .env("ORCHESTRATOR_URL", server.endpoint.to_string())
        .envs(changes.iter().copied())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

async fn exit_code(child: &mut Child) -> Option<i32> {
    tokio::time::timeout(LONG, child.wait()).await.expect("it did not end").unwrap().code()
}

/// Answers heartbeats and nothing else.
fn heard(request: &Request) -> Reply {
    if request.target != HEARTBEAT {
        return Reply::Json(503, json!({}));
    }
    Reply::Json(
        200,
        json!({"success": true, "loopInterval": 1000, "settingsVersion": 1, "desired": "running", "mailbox": 0}),
    )
}

fn heartbeats(server: &Server) -> usize {
    server.requests().iter().filter(|request| request.target == HEARTBEAT).count()
}

fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

#[test]
fn sigterm_kills_what_thinks_and_ends_with_zero() {
    be_the_agent_if_asked();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let server = Server::tcp(heard).await;
        let dir = tempfile::tempdir().unwrap();
        let (report, thinking) = (dir.path().join("report"), dir.path().join("thinking"));
        let script = format!(
            "trap '' TERM INT; sleep 300 & echo $! > {0}.part; mv {0}.part {0}; wait",
            thinking.display()
        );
        let command = json!(["/bin/sh", "-c", script]).to_string();
        let mut child = agent(
            "sigterm_kills_what_thinks_and_ends_with_zero",
            &report,
            &server,
            &[("THINKING", "command"), ("THINKING_COMMAND", &command), ("AGENT_GRACE", "5")],
        );
        let pid = until("the thought", LONG, || std::fs::read_to_string(&thinking).ok()).await;
        let before = heartbeats(&server);
        signal(&child, Signal::TERM);
        assert_eq!(exit_code(&mut child).await, Some(0));
        until("the death of what thinks", LONG, || (!is_alive(pid.trim())).then_some(())).await;
        assert!(heartbeats(&server) > before, "no last heartbeat");
        assert_eq!(std::fs::read_to_string(report).unwrap(), "protected: false");
    });
}

#[test]
fn in_a_container_its_memory_is_protected() {
    be_the_agent_if_asked();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let server = Server::tcp(heard).await;
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("report");
        let in_container =
            [("AGENT_IN_CONTAINER", "1"), ("THINKING", "command"), ("THINKING_COMMAND", r#"["true"]"#)];
        let mut child = agent("in_a_container_its_memory_is_protected", &report, &server, &in_container);
        until("a heartbeat", LONG, || (heartbeats(&server) > 0).then_some(())).await;
        signal(&child, Signal::INT);
        assert_eq!(exit_code(&mut child).await, Some(0));
        assert_eq!(std::fs::read_to_string(report).unwrap(), "protected: true");
    });
}

#[test]
fn a_second_signal_does_not_wait_for_the_server() {
    be_the_agent_if_asked();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        // It answers the first heartbeat, then never again.
        let asked = std::sync::atomic::AtomicBool::new(false);
        let server = Server::tcp(move |request| {
            let again = request.target == HEARTBEAT && asked.swap(true, std::sync::atomic::Ordering::SeqCst);
            if again { Reply::RawThenHang(Vec::new()) } else { heard(request) }
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("report");
        let mut child = agent(
            "a_second_signal_does_not_wait_for_the_server",
            &report,
            &server,
            &[("AGENT_GRACE", "3600"), ("HEARTBEAT_INTERVAL", "300")],
        );
        until("the first heartbeat", LONG, || (heartbeats(&server) == 1).then_some(())).await;
        signal(&child, Signal::TERM);
        until("the last heartbeat", LONG, || (heartbeats(&server) == 2).then_some(())).await;
        signal(&child, Signal::TERM);
        assert_eq!(exit_code(&mut child).await, Some(143));
    });
}
