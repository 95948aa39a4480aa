//! The contract of `ContainerRuntime`: at least one test per rule, named after it.
//!
//! Invariants: a test knows of a runtime only what its port says; what an agent does is named by [`Behaviour`] and
//! made true by the fixture.

use std::{sync::Arc, time::Duration};

use aito_domain::{
    agent::Exit,
    fleet::{Container, ContainerKey, ContainerState},
    id::{AgentId, AgentType, Incarnation},
    ports::runtime::{
        ContainerRuntime, LogChannel, LogLine, LogQuery, RuntimeError, Secret, Start, Started, Stopped,
    },
    spec::{AgentSpec, Limits, RestartPolicy, Tier},
    time::after,
};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use uuid::Uuid;

use crate::wait::until;

/// What an agent does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Lives until it is asked to end.
    Sleeper,
    /// Ends at once with this code.
    ExitsWith(i32),
    /// Lives, prints [`READY`] and does not end when asked.
    IgnoresTerm,
    /// Lives, starts at least two processes that do not end when asked, prints [`READY`], ends itself when asked.
    Forks,
    /// Prints these lines and lives.
    Prints(Vec<(LogChannel, String)>),
    /// Prints [`BINARY`], a line of [`ENDLESS`] times `x`, the line `after`, and lives.
    PrintsBinary,
    /// Prints its environment, one `NAME=value` per line, and ends with code 0.
    PrintsEnv,
    /// Cannot be started: its program is [`NO_SUCH_PROGRAM`].
    NoSuchProgram,
}

/// What an agent prints when it is as its [`Behaviour`] says.
pub const READY: &str = "ready";

/// A line that is no text.
pub const BINARY: &[u8] = b"\xff\xfe ok";

/// Characters of a line that is too long.
pub const ENDLESS: usize = 100_000;

/// A program that exists nowhere.
pub const NO_SUCH_PROGRAM: &str = "/nonexistent/no-such-program";

/// The longest line that a log may show, in bytes; no runtime shows longer ones.
pub const LONGEST_LINE: usize = 64 << 10;

/// How long a test waits for something that should happen soon.
pub const SOON: Duration = Duration::from_secs(10);

/// A runtime under test. What it started is ended when it is dropped, whatever became of the test.
#[async_trait]
pub trait RuntimeFixture: Send + Sync + Sized + 'static {
    /// An empty one.
    async fn fresh() -> Self;
    /// The runtime.
    fn runtime(&self) -> Arc<dyn ContainerRuntime>;
    /// The runtime of a restarted server on the same state.
    async fn second_handle(&self) -> Arc<dyn ContainerRuntime>;
    /// The runtime of another installation on the same machine or engine.
    async fn other_installation(&self) -> Arc<dyn ContainerRuntime>;
    /// The start of an agent that behaves like this.
    fn start(&self, key: &ContainerKey, behaviour: Behaviour) -> Start;
    /// Kills the agent's main process from outside.
    async fn kill_agent(&self, key: &ContainerKey);
    /// How many processes of the agent live.
    async fn living(&self, key: &ContainerKey) -> usize;
    /// Names of the variables that the runtime may add to an agent's environment.
    fn own_variables(&self) -> Vec<String>;
}

/// The key of an incarnation of an agent.
#[must_use]
pub fn key(agent_type: &str, incarnation: u64) -> ContainerKey {
    let seed = agent_type.bytes().fold(1_u128, |sum, byte| (sum << 7) ^ u128::from(byte));
    ContainerKey {
        agent_id: AgentId(Uuid::from_u128(seed)),
        agent_type: agent_type.parse::<AgentType>().unwrap(),
        incarnation: Incarnation(incarnation),
    }
}

/// A specification that needs nothing but its profile, which is the test's own executable unless it is replaced.
#[must_use]
pub fn spec(agent_type: &AgentType) -> AgentSpec {
    AgentSpec {
        agent_type: agent_type.clone(),
        name: format!("{agent_type} agent"),
        tier: Tier::Clevel,
        image: None,
        mounts: Vec::new(),
        command: None,
        loop_interval: Duration::from_secs(60),
        heartbeat_interval: Duration::from_secs(10),
        grace: Duration::from_secs(5),
        profile: std::env::current_exe().unwrap(),
        env: [].into(),
        secrets: [].into(),
        limits: Limits::default(),
        restart: RestartPolicy::default(),
    }
}

/// A start of the agent with [`spec`] and a small environment.
#[must_use]
pub fn start(key: &ContainerKey) -> Start {
    Start {
        key: key.clone(),
        spec: spec(&key.agent_type),
        env: vec![
            ("AGENT_TYPE".to_owned(), Secret(key.agent_type.to_string())),
            ("TEST_SECRET".to_owned(), Secret("with blanks, = and 'quotes'".to_owned())),
        ],
        credential: Secret("a-credential".to_owned()),
        socket_dir: std::env::temp_dir(),
    }
}

/// How the runtime lists a container.
pub async fn listed(runtime: &dyn ContainerRuntime, key: &ContainerKey) -> Option<ContainerState> {
    let all = runtime.list().await.unwrap();
    let mut ours = all.into_iter().filter(|container| container.key == *key);
    let state = ours.next().map(|container| container.state);
    assert!(ours.next().is_none(), "{key:?} is listed twice");
    state
}

/// Waits until a container has ended.
pub async fn ended(runtime: &dyn ContainerRuntime, key: &ContainerKey) -> Exit {
    until("the container's end", SOON, async || match listed(runtime, key).await {
        Some(ContainerState::Exited(exit)) => Some(exit),
        _ => None,
    })
    .await
}

/// Everything of a log that is kept.
pub async fn log(runtime: &dyn ContainerRuntime, key: &ContainerKey) -> Vec<LogLine> {
    runtime.logs(key, &LogQuery::default()).await.unwrap().collect().await
}

/// Waits until the log has a line with this text.
pub async fn printed(runtime: &dyn ContainerRuntime, key: &ContainerKey, text: &str) {
    until("a line of the log", SOON, async || {
        log(runtime, key).await.iter().any(|line| line.text == text).then_some(())
    })
    .await;
}

/// Fails when the call takes longer than it may.
pub async fn within<T>(what: &str, limit: Duration, call: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, call).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than {limit:?}"),
    }
}

async fn run<F: RuntimeFixture>(fixture: &F, key: &ContainerKey, behaviour: Behaviour) {
    let started = fixture.runtime().ensure_started(&fixture.start(key, behaviour)).await.unwrap();
    assert_eq!(started, Started::Now);
}

const GRACE: Duration = Duration::from_secs(20);

/// Rule 1: asked again while it runs.
pub async fn r01_starts_once<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    run(&fixture, &key, Behaviour::Sleeper).await;
    assert_eq!(listed(&*runtime, &key).await, Some(ContainerState::Running));
    let start = fixture.start(&key, Behaviour::Sleeper);
    assert_eq!(runtime.ensure_started(&start).await.unwrap(), Started::AlreadyRunning);
    let again = fixture.second_handle().await.ensure_started(&start).await.unwrap();
    assert_eq!(again, Started::AlreadyRunning);
    assert_eq!(fixture.living(&key).await, 1);
}

/// Rule 1: asked again after it has ended.
pub async fn r01_what_has_ended_is_not_started_again<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    run(&fixture, &key, Behaviour::ExitsWith(3)).await;
    assert_eq!(ended(&*runtime, &key).await, Exit::Code(3));
    let start = fixture.start(&key, Behaviour::Sleeper);
    assert_eq!(runtime.ensure_started(&start).await.unwrap(), Started::AlreadyEnded(Exit::Code(3)));
    assert_eq!(fixture.living(&key).await, 0);
}

/// Rule 1: asked by many at once, through two handles.
pub async fn r01_concurrent_starts_make_one<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (one, two) = (fixture.runtime(), fixture.second_handle().await);
    let key = key("ceo", 1);
    let start = fixture.start(&key, Behaviour::Sleeper);
    let calls = (0..20).map(|n| {
        let (runtime, start) = (Arc::clone(if n % 2 == 0 { &one } else { &two }), start.clone());
        tokio::spawn(async move { runtime.ensure_started(&start).await.unwrap() })
    });
    let answers: Vec<_> =
        futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let now = answers.iter().filter(|answer| **answer == Started::Now).count();
    let running = answers.iter().filter(|answer| **answer == Started::AlreadyRunning).count();
    assert_eq!((now, running), (1, 19));
    assert_eq!(fixture.living(&key).await, 1);
    assert_eq!(one.list().await.unwrap().len(), 1);
}

/// Rule 2: the next incarnation beside the last, or refused while it lives.
pub async fn r02_incarnations_are_two_containers_or_a_conflict<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let runtime = fixture.runtime();
    let (first, second) = (key("ceo", 1), key("ceo", 2));
    run(&fixture, &first, Behaviour::Sleeper).await;
    let start = fixture.start(&second, Behaviour::Sleeper);
    match runtime.ensure_started(&start).await {
        Ok(started) => assert_eq!(started, Started::Now),
        Err(RuntimeError::Conflict(what)) => {
            assert!(what.contains("incarnation 1"), "{what}");
            assert_eq!(listed(&*runtime, &second).await, None);
            runtime.ensure_stopped(&first, GRACE).await.unwrap();
            assert_eq!(runtime.ensure_started(&start).await.unwrap(), Started::Now);
        }
        Err(other) => panic!("{other:?}"),
    }
    runtime.remove(&first).await.unwrap();
    let left = runtime.list().await.unwrap();
    assert_eq!(left, [Container { key: second, state: ContainerState::Running }]);
}

/// Rule 2: agents do not get in each other's way.
pub async fn r02_agents_are_independent<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let runtime = fixture.runtime();
    let (ceo, dao) = (key("ceo", 1), key("dao", 1));
    run(&fixture, &ceo, Behaviour::Sleeper).await;
    run(&fixture, &dao, Behaviour::Sleeper).await;
    runtime.remove(&ceo).await.unwrap();
    assert_eq!(listed(&*runtime, &dao).await, Some(ContainerState::Running));
    assert_eq!(fixture.living(&dao).await, 1);
}

/// Rule 3: who ends when asked is not forced.
pub async fn r03_stops_gracefully<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    run(&fixture, &key, Behaviour::Sleeper).await;
    let stopped = within("a graceful stop", SOON, runtime.ensure_stopped(&key, GRACE)).await.unwrap();
    // A program without a handler dies of the signal; some engines report that as 128 and its number.
    let graceful = [Exit::Signal(15), Exit::Code(143), Exit::Code(0)].map(Stopped::Ended);
    assert!(graceful.contains(&stopped), "{stopped:?}");
    let Stopped::Ended(exit) = stopped else { unreachable!() };
    assert_eq!(listed(&*runtime, &key).await, Some(ContainerState::Exited(exit)));
    assert_eq!(fixture.living(&key).await, 0);
}

/// Rule 3: who does not end when asked is forced, after the grace.
pub async fn r03_forces_after_the_grace<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    run(&fixture, &key, Behaviour::IgnoresTerm).await;
    printed(&*runtime, &key, READY).await;
    let stop = runtime.ensure_stopped(&key, Duration::from_millis(300));
    let stopped = within("a forced stop", SOON, stop).await.unwrap();
    let forced = [Exit::Signal(9), Exit::Code(137)].map(Stopped::Ended);
    assert!(forced.contains(&stopped), "{stopped:?}");
    assert_eq!(fixture.living(&key).await, 0);
}

/// Rule 3: what the agent started ends with it.
pub async fn r03_descendants_end_with_the_agent<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    run(&fixture, &key, Behaviour::Forks).await;
    printed(&*runtime, &key, READY).await;
    assert!(fixture.living(&key).await >= 3);
    within("a stop", SOON, runtime.ensure_stopped(&key, GRACE)).await.unwrap();
    assert_eq!(fixture.living(&key).await, 0);
}

/// Rule 3: what is not there, and what has ended.
pub async fn r03_says_what_is_not_there_and_how_it_ended<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    assert_eq!(runtime.ensure_stopped(&key, GRACE).await.unwrap(), Stopped::NotThere);
    run(&fixture, &key, Behaviour::ExitsWith(5)).await;
    ended(&*runtime, &key).await;
    let wanted = Stopped::Ended(Exit::Code(5));
    assert_eq!(runtime.ensure_stopped(&key, GRACE).await.unwrap(), wanted);
    assert_eq!(fixture.second_handle().await.ensure_stopped(&key, GRACE).await.unwrap(), wanted);
}

/// Rule 4: nothing is left of what was removed, running or not.
pub async fn r04_remove_leaves_nothing<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let runtime = fixture.runtime();
    let (running, done) = (key("ceo", 1), key("dao", 1));
    run(&fixture, &running, Behaviour::IgnoresTerm).await;
    run(&fixture, &done, Behaviour::ExitsWith(0)).await;
    ended(&*runtime, &done).await;
    for key in [&running, &done] {
        within("a removal", SOON, runtime.remove(key)).await.unwrap();
        assert_eq!(fixture.living(key).await, 0);
        assert_eq!(runtime.ensure_stopped(key, GRACE).await.unwrap(), Stopped::NotThere);
        assert!(matches!(runtime.logs(key, &LogQuery::default()).await, Err(RuntimeError::NotFound)));
    }
    assert_eq!(runtime.list().await.unwrap(), []);
}

/// Rule 4: removing what is not there.
pub async fn r04_removing_nothing_is_no_error<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    fixture.runtime().remove(&key("ceo", 1)).await.unwrap();
    fixture.runtime().remove(&key("ceo", 1)).await.unwrap();
}

/// Rule 5: also what another process of the installation started, with how it ended, until it is removed.
pub async fn r05_lists_what_others_started_until_it_is_removed<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let runtime = fixture.runtime();
    let (running, done) = (key("ceo", 7), key("dao", 8));
    run(&fixture, &running, Behaviour::Sleeper).await;
    run(&fixture, &done, Behaviour::ExitsWith(4)).await;
    ended(&*runtime, &done).await;
    let later = fixture.second_handle().await;
    for runtime in [&runtime, &later] {
        assert_eq!(listed(&**runtime, &running).await, Some(ContainerState::Running));
        assert_eq!(listed(&**runtime, &done).await, Some(ContainerState::Exited(Exit::Code(4))));
        assert_eq!(runtime.list().await.unwrap().len(), 2);
    }
    later.remove(&done).await.unwrap();
    assert_eq!(listed(&*runtime, &done).await, None);
}

/// Rule 5: nothing of another installation, whatever it has in common.
pub async fn r05_other_installations_are_apart<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (ours, other, key) = (fixture.runtime(), fixture.other_installation().await, key("ceo", 1));
    run(&fixture, &key, Behaviour::Sleeper).await;
    assert_eq!(other.list().await.unwrap(), []);
    assert_eq!(other.ensure_stopped(&key, GRACE).await.unwrap(), Stopped::NotThere);
    other.remove(&key).await.unwrap();
    assert_eq!(listed(&*ours, &key).await, Some(ContainerState::Running));
}

/// Rule 6: whoever looks only when told to learns of an end within a second.
pub async fn r06_an_end_is_hinted_within_a_second<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let runtime = fixture.runtime();
    let (before, after) = (key("ceo", 1), key("dao", 1));
    run(&fixture, &before, Behaviour::Sleeper).await;
    // One handle that started it, and one that found it.
    for (runtime, key) in [(runtime, &after), (fixture.second_handle().await, &before)] {
        let mut hints = runtime.watch().await.unwrap();
        if key == &after {
            run(&fixture, key, Behaviour::Sleeper).await;
        }
        fixture.kill_agent(key).await;
        let told = async {
            loop {
                hints.next().await.expect("hints go on");
                if let Some(ContainerState::Exited(exit)) = listed(&*runtime, key).await {
                    break exit;
                }
            }
        };
        let exit = within("the hint of an end", Duration::from_secs(1), told).await;
        assert!([Exit::Signal(9), Exit::Code(137)].contains(&exit), "{exit:?}");
    }
}

/// Rule 7: what cannot be started is refused by name, and nothing comes of asking.
pub async fn r07_check_refuses_what_cannot_start<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    runtime.check(&fixture.start(&key, Behaviour::Sleeper).spec).await.unwrap();
    let start = fixture.start(&key, Behaviour::NoSuchProgram);
    match runtime.check(&start.spec).await {
        Err(RuntimeError::Refused(why)) => assert!(why.contains(NO_SUCH_PROGRAM), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(runtime.list().await.unwrap(), []);
}

/// Rule 8: both channels, each in order; the end of the agent is not the end of its log.
pub async fn r08_logs_have_both_channels_in_order<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    let lines: Vec<_> = (0..6)
        .map(|n| (if n % 2 == 0 { LogChannel::Stdout } else { LogChannel::Stderr }, format!("line {n}")))
        .collect();
    run(&fixture, &key, Behaviour::Prints(lines.clone())).await;
    until("six lines", SOON, async || (log(&*runtime, &key).await.len() == 6).then_some(())).await;
    runtime.ensure_stopped(&key, GRACE).await.unwrap();
    let got = log(&*runtime, &key).await;
    for channel in [LogChannel::Stdout, LogChannel::Stderr] {
        let of = |all: Vec<(LogChannel, String)>| -> Vec<String> {
            all.into_iter().filter(|(from, _)| *from == channel).map(|(_, text)| text).collect()
        };
        assert_eq!(of(got.iter().map(|line| (line.channel, line.text.clone())).collect()), of(lines.clone()));
    }
}

/// Rule 8: the last lines, and those from a time on.
pub async fn r08_logs_are_cut_to_tail_and_since<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    let lines = (0..5).map(|n| (LogChannel::Stdout, n.to_string())).collect();
    run(&fixture, &key, Behaviour::Prints(lines)).await;
    printed(&*runtime, &key, "4").await;
    let texts = async |query: LogQuery| -> Vec<String> {
        let lines: Vec<LogLine> = runtime.logs(&key, &query).await.unwrap().collect().await;
        lines.into_iter().map(|line| line.text).collect()
    };
    let tail = |n| LogQuery { tail: Some(n), ..LogQuery::default() };
    assert_eq!(texts(tail(2)).await, ["3", "4"]);
    assert_eq!(texts(tail(0)).await, [""; 0]);
    assert_eq!(texts(tail(99)).await, ["0", "1", "2", "3", "4"]);
    let all = log(&*runtime, &key).await;
    for at in [all[0].at, all[2].at, all[4].at, after(all[4].at, Duration::from_millis(1))] {
        let wanted: Vec<_> = all.iter().filter(|line| line.at >= at).map(|line| line.text.clone()).collect();
        assert_eq!(texts(LogQuery { since: Some(at), ..LogQuery::default() }).await, wanted);
    }
}

/// Rule 8: a followed log ends with the container's removal, not before.
pub async fn r08_follow_goes_on_until_the_container_is_removed<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    run(&fixture, &key, Behaviour::Prints(vec![(LogChannel::Stdout, "first".to_owned())])).await;
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut followed = runtime.logs(&key, &query).await.unwrap();
    let line = within("the first line", SOON, followed.next()).await.unwrap();
    assert_eq!((line.text.as_str(), line.channel), ("first", LogChannel::Stdout));
    runtime.ensure_stopped(&key, GRACE).await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(300), followed.next()).await;
    assert!(quiet.is_err(), "a followed log ended with the agent: {quiet:?}");
    runtime.remove(&key).await.unwrap();
    assert_eq!(within("the end of the log", SOON, followed.next()).await, None);
}

/// Rule 8: bytes that are no text, and a line without an end.
pub async fn r08_what_is_no_text_is_shown_all_the_same<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    run(&fixture, &key, Behaviour::PrintsBinary).await;
    printed(&*runtime, &key, "after").await;
    let lines = log(&*runtime, &key).await;
    assert_eq!(lines[0].text, "\u{fffd}\u{fffd} ok");
    let long = &lines[1..lines.len() - 1];
    assert!(!long.is_empty());
    for line in long {
        assert!(line.text.len() <= LONGEST_LINE && line.text.starts_with('x'), "{}", line.text.len());
    }
}

/// Rule 9: numbers for what runs, none for what does not.
pub async fn r09_stats_of_what_does_not_run_are_none<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    assert_eq!(runtime.stats(&key).await.unwrap(), None);
    run(&fixture, &key, Behaviour::Sleeper).await;
    // A program that is just being loaded may have no memory of its own yet.
    until("numbers of what runs", SOON, async || {
        let stats = runtime.stats(&key).await.unwrap().expect("it runs");
        (stats.processes >= 1 && stats.memory_bytes > 0).then_some(())
    })
    .await;
    runtime.ensure_stopped(&key, GRACE).await.unwrap();
    assert_eq!(runtime.stats(&key).await.unwrap(), None);
}

/// Rule 10: what was refused did not happen, and can be done right later.
pub async fn r10_a_refused_start_left_nothing<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    match runtime.ensure_started(&fixture.start(&key, Behaviour::NoSuchProgram)).await {
        Err(RuntimeError::Refused(why)) => assert!(why.contains(NO_SUCH_PROGRAM), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(runtime.list().await.unwrap(), []);
    run(&fixture, &key, Behaviour::Sleeper).await;
}

/// Rule 10: what is not there is said to be not there.
pub async fn r10_logs_of_nothing_are_not_found<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let logs = fixture.runtime().logs(&key("ceo", 1), &LogQuery::default()).await;
    assert!(matches!(logs, Err(RuntimeError::NotFound)));
}

/// Rule 11: the given environment, whole, and else only what the runtime names.
pub async fn r11_the_environment_is_what_was_given<F: RuntimeFixture>() {
    let fixture = F::fresh().await;
    let (runtime, key) = (fixture.runtime(), key("ceo", 1));
    let start = fixture.start(&key, Behaviour::PrintsEnv);
    assert_eq!(runtime.ensure_started(&start).await.unwrap(), Started::Now);
    assert_eq!(ended(&*runtime, &key).await, Exit::Code(0));
    let lines: Vec<_> = log(&*runtime, &key).await.into_iter().map(|line| line.text).collect();
    for (name, value) in &start.env {
        assert!(lines.contains(&format!("{name}={}", value.0)), "{name} is missing in {lines:?}");
    }
    let own = fixture.own_variables();
    for line in &lines {
        let name = line.split('=').next().unwrap();
        let given = start.env.iter().any(|(given, _)| given == name) || own.iter().any(|own| own == name);
        assert!(given, "{line} was not given");
    }
}

/// Makes the contract's tests for a fixture, in a module that names it.
#[macro_export]
macro_rules! runtime_suite {
    ($fixture:ty) => {
        $crate::runtime_suite!(@tests $fixture:
            r01_starts_once,
            r01_what_has_ended_is_not_started_again,
            r01_concurrent_starts_make_one,
            r02_incarnations_are_two_containers_or_a_conflict,
            r02_agents_are_independent,
            r03_stops_gracefully,
            r03_forces_after_the_grace,
            r03_descendants_end_with_the_agent,
            r03_says_what_is_not_there_and_how_it_ended,
            r04_remove_leaves_nothing,
            r04_removing_nothing_is_no_error,
            r05_lists_what_others_started_until_it_is_removed,
            r05_other_installations_are_apart,
            r06_an_end_is_hinted_within_a_second,
            r07_check_refuses_what_cannot_start,
            r08_logs_have_both_channels_in_order,
            r08_logs_are_cut_to_tail_and_since,
            r08_follow_goes_on_until_the_container_is_removed,
            r08_what_is_no_text_is_shown_all_the_same,
            r09_stats_of_what_does_not_run_are_none,
            r10_a_refused_start_left_nothing,
            r10_logs_of_nothing_are_not_found,
            r11_the_environment_is_what_was_given,
        );
    };
    (@tests $fixture:ty: $($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::runtime::$name::<$fixture>().await;
            }
        )*
    };
}
