//! Agents live, die, come back, outlive the server; what is wanted is what runs.

use std::{collections::BTreeMap, time::Duration};

use aito_api::{AgentStatus, ContainerStatus, HealthState};
use aito_client::{EventQuery, LogQuery, Page};
use aito_harness::{
    Set, chaos, processes, story,
    wait::{self, wall_millis},
};
use rustix::process::Signal;

use crate::{SOON, sandbox, until_status};

const AGENTS: [&str; 7] = ["ceo", "cmo", "cto", "cfo", "coo", "cco", "dao"];

pub(crate) async fn seven_agents_live_outlive_a_killed_server_and_are_found_once(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    for agent in AGENTS {
        let started = client.start(agent).await.unwrap();
        assert!(started.container_id.starts_with(&format!("aito-{agent}-")), "{started:?}");
    }
    for agent in AGENTS {
        until_status(&client, agent, AgentStatus::Active).await;
    }
    let before: BTreeMap<_, _> =
        sandbox.agents().into_iter().map(|(agent, n, pid)| (agent, (n, pid))).collect();
    assert_eq!(before.len(), 7);
    server.kill();
    let after_kill: BTreeMap<_, _> =
        sandbox.agents().into_iter().map(|(agent, n, pid)| (agent, (n, pid))).collect();
    assert_eq!(after_kill, before, "a killed server must leave its agents running");

    let server = sandbox.start().await;
    let client = server.client();
    let came_back = wall_millis();
    for agent in AGENTS {
        let what = format!("a heartbeat of {agent} after the restart");
        wait::until(&what, SOON, async || {
            let detail = client.agent(agent).await.ok()?;
            let heard = detail.last_heartbeat?.timestamp_millis() > came_back;
            (heard && detail.container_status == ContainerStatus::Running && detail.health == HealthState::Ok)
                .then_some(())
        })
        .await;
    }
    let found: BTreeMap<_, _> =
        sandbox.agents().into_iter().map(|(agent, n, pid)| (agent, (n, pid))).collect();
    assert_eq!(found, before, "the next server must find the same processes and start none");
    story::check(&story::whole_log(&client).await);
}

pub(crate) async fn a_killed_agent_is_an_event_within_1_s_and_a_restart_begun_within_2_s(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    let first = client.start("ceo").await.unwrap().container_id;
    until_status(&client, "ceo", AgentStatus::Active).await;
    let (_, _, pid) = sandbox.agents()[0];
    let killed = wall_millis();
    processes::signal(pid, Signal::KILL);
    wait::until("the second incarnation", SOON, async || {
        let detail = client.agent("ceo").await.ok()?;
        (detail.incarnation == 2 && detail.status == AgentStatus::Active).then_some(())
    })
    .await;
    let events = client.agent_events("ceo", &Page::default()).await.unwrap().events;
    let at = |wanted: &str, incarnation: u64| {
        let found = events.iter().find(|e| e.event_type == wanted && e.payload["incarnation"] == incarnation);
        found
            .unwrap_or_else(|| panic!("no {wanted} of {incarnation} in {events:?}"))
            .created_at
            .timestamp_millis()
    };
    let (died, restarted) = (at("agent_error", 1) - killed, at("agent_starting", 2) - killed);
    assert!((0..=1000).contains(&died), "the death was an event after {died} ms");
    assert!((0..=2000).contains(&restarted), "the restart began after {restarted} ms");
    let detail = client.agent("ceo").await.unwrap();
    assert_ne!(detail.container_id.unwrap(), first, "every start has a container of its own");
    let exit = detail.last_exit.unwrap();
    assert!(matches!((exit.signal, exit.code), (Some(9), None) | (None, Some(137))), "{exit:?}");
    assert_eq!(detail.restarts, 1);
}

pub(crate) async fn the_exit_of_an_agent_that_died_without_a_server_is_known(set: Set) {
    let sandbox = sandbox(set);
    let marker = sandbox.root().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done; exit 41", marker.display());
    sandbox.configure(&format!("[agents.ceo]\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n"));
    let server = sandbox.start().await;
    server.client().start("ceo").await.unwrap();
    server.kill();
    std::fs::write(&marker, "").unwrap();
    wait::until("the agent to end", SOON, async || sandbox.agents().is_empty().then_some(())).await;
    // It would only end again, at once; that is another test's.
    sandbox.configure("[agents.ceo]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
    let server = sandbox.start().await;
    let exit =
        wait::until("the recorded exit", SOON, async || server.client().agent("ceo").await.ok()?.last_exit)
            .await;
    assert_eq!((exit.code, exit.signal), (Some(41), None), "{exit:?}");
}

pub(crate) async fn start_is_idempotent_and_restart_and_stop_do_what_they_say(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    let first = client.start("cto").await.unwrap();
    assert_eq!(first.message, "Agent cto started");
    assert_eq!(client.start("cto").await.unwrap().container_id, first.container_id, "running already");
    let second = client.restart("cto").await.unwrap();
    assert_eq!(second.message, "Agent cto restarted");
    assert_ne!(second.container_id, first.container_id);
    until_status(&client, "cto", AgentStatus::Active).await;
    assert_eq!(sandbox.agents().len(), 1, "the first incarnation is gone");
    assert_eq!(client.stop("cto").await.unwrap().message, "Agent cto stopped");
    assert!(sandbox.agents().is_empty());
    let detail = client.agent("cto").await.unwrap();
    assert_eq!(detail.status, AgentStatus::Inactive);
    // The reference agent ends by itself when it is asked to.
    assert_eq!(detail.last_exit.unwrap().code, Some(0));
    client.stop("cto").await.unwrap();
    let restarted = client.restart("cto").await.unwrap();
    assert_ne!(restarted.container_id, second.container_id, "an inactive agent is started by a restart");
    until_status(&client, "cto", AgentStatus::Active).await;
}

pub(crate) async fn concurrent_starts_and_restarts_leave_one_process(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let calls = (0..24).map(|n| {
        let client = server.client();
        tokio::spawn(async move {
            match n % 3 {
                0 => client.restart("coo").await.map(|_| ()),
                _ => client.start("coo").await.map(|_| ()),
            }
        })
    });
    for call in futures_util::future::join_all(calls).await {
        // Where a start takes long, others change the agent faster than one of these comes through: the wish stands.
        if let Err(why) = call.unwrap() {
            assert_eq!(why.status(), Some(503), "{why}");
            assert!(why.to_string().contains("it will be tried again"), "{why}");
        }
    }
    until_status(&server.client(), "coo", AgentStatus::Active).await;
    assert_eq!(sandbox.agents().len(), 1);
    story::check(&story::whole_log(&server.client()).await);
}

pub(crate) async fn an_agent_that_always_dies_backs_off_and_is_said_to_loop(set: Set) {
    let sandbox = sandbox(set);
    sandbox.configure(
        "[agents.cfo]\ncommand = [\"/bin/false\"]\n[agents.cfo.restart]\ninitial_ms = 20\ncrash_loop_after = 3\n",
    );
    let server = sandbox.start().await;
    let client = server.client();
    // Whether the start sees the death already is a matter of moments; the wish is stored either way.
    let _ = client.start("cfo").await;
    wait::until("health crash_loop", SOON, async || {
        (client.agent_health("cfo").await.ok()?.health == HealthState::CrashLoop).then_some(())
    })
    .await;
    let query = EventQuery { event_type: Some("agent_error".into()), page: Page::default() };
    let failures = wait::until("five failures", SOON, async || {
        let mut events = client.events(&query).await.ok()?.events;
        events.reverse();
        (events.len() >= 5).then_some(events)
    })
    .await;
    for (n, pair) in failures.windows(2).take(4).enumerate() {
        let pause = 20 << n;
        let gap = pair[1].created_at.timestamp_millis() - pair[0].created_at.timestamp_millis();
        assert!(gap >= pause, "failure {n} was followed by the next after {gap} ms, not {pause}");
        assert_eq!(pair[0].payload["failures"], n as u64 + 1);
        assert_eq!(pair[0].payload["exit"]["code"], 1);
    }
    assert_eq!(client.health_full().await.unwrap().status, aito_api::SystemStatus::Degraded);
    client.stop("cfo").await.unwrap();
    until_status(&client, "cfo", AgentStatus::Inactive).await;
    assert_eq!(client.health_full().await.unwrap().status, aito_api::SystemStatus::Healthy);
}

pub(crate) async fn a_silent_agent_is_unreachable_until_it_is_heard_again(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("dao").await.unwrap();
    until_status(&client, "dao", AgentStatus::Active).await;
    let (_, _, pid) = sandbox.agents()[0];
    processes::signal(pid, Signal::STOP);
    let health = |wanted: HealthState| {
        let client = client.clone();
        async move {
            let what = format!("health {wanted:?}");
            wait::until(&what, SOON, async || {
                (client.agent_health("dao").await.ok()?.health == wanted).then_some(())
            })
            .await;
        }
    };
    health(HealthState::Unreachable).await;
    processes::signal(pid, Signal::CONT);
    health(HealthState::Ok).await;
    let events = client.agent_events("dao", &Page::default()).await.unwrap().events;
    let names: Vec<_> = events
        .iter()
        .map(|event| event.event_type.as_str())
        .filter(|name| *name != "agent_focus_changed")
        .collect();
    assert!(names.starts_with(&["agent_recovered", "agent_unreachable"]), "{names:?}");
}

pub(crate) async fn a_stop_leaves_agents_running_and_is_quick(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    until_status(&client, "ceo", AgentStatus::Active).await;
    let mut listener = aito_client::EventSocket::connect(&client, &[], None).await.unwrap();
    let mut log = client.follow_logs("ceo", &LogQuery::default()).await.unwrap();
    let took = wait::stopwatch();
    assert!(server.stop().await.success());
    assert!(took() < Duration::from_secs(10), "the stop took {:?}", took());
    while let Ok(Some(_)) = listener.next().await {}
    while let Ok(Some(_)) = log.next().await {}
    assert_eq!(sandbox.agents().len(), 1);
}

pub(crate) async fn logs_can_be_read_and_followed(set: Set) {
    let sandbox = sandbox(set);
    let marker = sandbox.root().join("go");
    let script = format!(
        "echo one; echo two >&2; while [ ! -e {} ]; do sleep 0.01; done; echo three; exec sleep 1000",
        marker.display()
    );
    sandbox.configure(&format!("[agents.ceo]\ngrace = 1\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n"));
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let mut follow = client.follow_logs("ceo", &LogQuery::default()).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(follow.next().await.unwrap().unwrap());
    }
    // Two channels are two pipes: between them no order is promised.
    seen.sort_by(|a, b| a.message.cmp(&b.message));
    std::fs::write(&marker, "").unwrap();
    seen.push(follow.next().await.unwrap().unwrap());
    let said: Vec<_> = seen.iter().map(|line| (line.message.as_str(), line.stream)).collect();
    use aito_api::LogStream::{Stderr, Stdout};
    assert_eq!(said, [("one", Stdout), ("two", Stderr), ("three", Stdout)]);
    let tail = client.logs("ceo", &LogQuery { tail: Some(1), ..LogQuery::default() }).await.unwrap().logs;
    assert_eq!(tail.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["three"]);
    // Who follows sees the next incarnation too, from its first line on.
    client.restart("ceo").await.unwrap();
    let mut again = Vec::new();
    while again.len() < 3 {
        let line = tokio::time::timeout(SOON, follow.next()).await.unwrap().unwrap().unwrap();
        again.push(line.message);
    }
    again.sort();
    assert_eq!(again, ["one", "three", "two"]);
    let stats = client.stats("ceo").await.unwrap();
    assert!(stats.memory_bytes > 0 && stats.processes >= 1, "{stats:?}");
}

pub(crate) async fn the_last_words_of_a_dead_agent_can_be_read_after_its_restart(set: Set) {
    let sandbox = sandbox(set);
    sandbox.configure(
        "[agents.ceo]\ncommand = [\"/bin/sh\", \"-c\", \"echo words of $AGENT_INCARNATION; exec sleep 1000\"]\n",
    );
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let of = |previous| {
        let client = client.clone();
        let query = LogQuery { previous, ..LogQuery::default() };
        async move {
            let logs = client.logs("ceo", &query).await.map_err(|why| why.status())?.logs;
            Ok::<_, Option<u16>>(logs.into_iter().map(|line| line.message).collect::<Vec<_>>())
        }
    };
    assert_eq!(of(true).await, Err(Some(404)), "there is none before the first");
    for incarnation in 1..=3_u64 {
        let words = format!("words of {incarnation}");
        wait::until("its words", SOON, async || {
            of(false).await.is_ok_and(|log| log == [words.clone()]).then_some(())
        })
        .await;
        // While a process replaces its program, its environment cannot be read for a moment.
        let pid =
            wait::until("its process", SOON, async || sandbox.agents().first().map(|agent| agent.2)).await;
        processes::signal(pid, Signal::KILL);
        wait::until("the next incarnation", SOON, async || {
            (client.agent("ceo").await.ok()?.incarnation > incarnation && !sandbox.agents().is_empty())
                .then_some(())
        })
        .await;
        assert_eq!(of(true).await, Ok(vec![words]));
    }
    let kept = client.containers().await.unwrap().containers;
    let kept: Vec<_> = kept.into_iter().filter(|container| !container.foreign).collect();
    assert_eq!(kept.len(), 2, "only the last one before the present is kept: {kept:?}");
}

pub(crate) async fn chaos_ten_kills(set: Set) {
    let report = chaos::run(&sandbox(set), 20_261_122, 10).await;
    assert_eq!(report.kills, 10);
    assert!(report.acknowledged > 0, "{report:?}");
    println!("{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_benchmark_measures_something() {
    let out = tempfile::tempdir().unwrap();
    let options = aito_harness::bench::Options {
        bin: env!("CARGO_BIN_EXE_aito").into(),
        only: Vec::new(),
        repeats: 1,
        time: Duration::from_millis(100),
        large: false,
        out: out.path().to_owned(),
    };
    // Whether a target is met is not a test's to say: this is a debug build on a busy machine.
    let summary = aito_harness::bench::run(&options).await.unwrap();
    assert_eq!(summary.failed, 0);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.path().join("bench.json")).unwrap()).unwrap();
    assert!(report["rows"].as_array().is_some_and(|rows| rows.len() >= 6), "{report}");
}
