//! Local processes: the contract on real ones, and what the contract cannot know of.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aito_contracts::{
    clock::ManualClock,
    runtime::{
        Behaviour, ENDLESS, NO_SUCH_PROGRAM, READY, RuntimeFixture, SOON, ended, key, listed, log, printed,
        start, within,
    },
    wait::{until, until_sync},
};
use aito_domain::{
    agent::Exit,
    fleet::{ContainerKey, ContainerState},
    id::InstallationId,
    ports::runtime::{
        ContainerRuntime, LogChannel, LogLine, LogQuery, PLACES, RuntimeError, Start, Started, Stopped,
    },
    spec::Limits,
};
use aito_embedded::process::{INHERITED, OpenError, Options, ProcessRuntime};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use uuid::Uuid;

const SHIM: &str = env!("CARGO_BIN_EXE_aito-shim");
const GRACE: Duration = Duration::from_secs(20);

/// A directory of agents; everything that was started in it is killed when this is dropped.
struct Fixture {
    root: tempfile::TempDir,
    runtime: Arc<ProcessRuntime>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let root = self.root.path().to_string_lossy().into_owned();
        let recorded = agents(self.root.path());
        until_sync("the end of what a test started", SOON, || {
            let mut left = [shims(&root), marked(&root)].concat();
            left.extend(recorded.iter().flat_map(|(pid, start)| session(*pid, Some(*start))));
            for pid in &left {
                kill(*pid, Signal::KILL);
            }
            left.is_empty().then_some(())
        });
    }
}

fn open(dir: &Path, installation: u128) -> Result<ProcessRuntime, OpenError> {
    ProcessRuntime::open(Options {
        installation: InstallationId(Uuid::from_u128(installation)),
        dir: dir.to_owned(),
        program: SHIM.into(),
        clock: Arc::new(ManualClock::new()),
    })
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let runtime = Arc::new(open(&root.path().join("agents"), 1).unwrap());
        Self { root, runtime }
    }

    fn place(&self, key: &ContainerKey) -> PathBuf {
        self.root.path().join(format!("agents/{}/{}", key.agent_type, key.incarnation))
    }

    fn record(&self, key: &ContainerKey) -> Value {
        serde_json::from_slice(&fs::read(self.place(key).join("state.json")).unwrap()).unwrap()
    }

    fn change_record(&self, key: &ContainerKey, change: impl FnOnce(&mut Value)) {
        let mut record = self.record(key);
        change(&mut record);
        fs::write(self.place(key).join("state.json"), record.to_string()).unwrap();
    }

    fn pid(&self, key: &ContainerKey, who: &str) -> i32 {
        i32::try_from(self.record(key)[who]["pid"].as_i64().unwrap()).unwrap()
    }

    /// The processes that carry this incarnation's credential path.
    fn processes(&self, key: &ContainerKey) -> Vec<i32> {
        marked(&format!("{}/", self.place(key).display()))
    }

    /// A start that runs this shell script.
    fn script(&self, key: &ContainerKey, script: &str) -> Start {
        let mut start = start(key);
        start.spec.command = Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
        start
    }

    async fn run(&self, key: &ContainerKey, script: &str) {
        let started = self.runtime.ensure_started(&self.script(key, script)).await.unwrap();
        assert_eq!(started, Started::Now);
    }

    /// What the agent printed.
    async fn texts(&self, key: &ContainerKey) -> Vec<String> {
        log(&*self.runtime, key).await.into_iter().map(|line| line.text).collect()
    }
}

#[async_trait]
impl RuntimeFixture for Fixture {
    async fn fresh() -> Self {
        Self::new()
    }

    fn runtime(&self) -> Arc<dyn ContainerRuntime> {
        self.runtime.clone()
    }

    async fn second_handle(&self) -> Arc<dyn ContainerRuntime> {
        Arc::new(open(&self.root.path().join("agents"), 1).unwrap())
    }

    async fn other_installation(&self) -> Arc<dyn ContainerRuntime> {
        Arc::new(open(&self.root.path().join("others"), 2).unwrap())
    }

    fn start(&self, key: &ContainerKey, behaviour: Behaviour) -> Start {
        let script = match behaviour {
            Behaviour::Sleeper => "exec sleep 3600".to_owned(),
            Behaviour::ExitsWith(code) => format!("exit {code}"),
            Behaviour::IgnoresTerm => format!("trap '' TERM; echo {READY}; while :; do sleep 1; done"),
            Behaviour::Forks => format!(
                "trap '' TERM; sleep 3600 & sh -c 'sleep 3600; :' & trap 'exit 0' TERM; echo {READY}; wait"
            ),
            Behaviour::Prints(lines) => {
                let print = |(channel, text): &(LogChannel, String)| match channel {
                    LogChannel::Stdout => format!("echo '{text}'\n"),
                    LogChannel::Stderr => format!("echo '{text}' >&2\n"),
                };
                lines.iter().map(print).collect::<String>() + "exec sleep 3600"
            }
            Behaviour::PrintsBinary => format!(
                "printf '\\377\\376 ok\\n'; head -c {ENDLESS} /dev/zero | tr '\\0' x; echo; echo after; exec sleep 3600"
            ),
            Behaviour::PrintsEnv => {
                let mut start = start(key);
                start.spec.command = Some(vec!["env".to_owned()]);
                return start;
            }
            Behaviour::NoSuchProgram => {
                let mut start = start(key);
                start.spec.command = Some(vec![NO_SUCH_PROGRAM.to_owned()]);
                return start;
            }
        };
        self.script(key, &script)
    }

    async fn kill_agent(&self, key: &ContainerKey) {
        kill(self.pid(key, "agent"), Signal::KILL);
    }

    async fn living(&self, key: &ContainerKey) -> usize {
        self.processes(key).len()
    }

    fn own_variables(&self) -> Vec<String> {
        INHERITED.iter().chain(&PLACES).map(|name| (*name).to_owned()).collect()
    }
}

mod contract {
    use super::Fixture;
    aito_contracts::runtime_suite!(Fixture);
}

fn kill(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A field of `/proc/<pid>/stat`, counted as in proc(5); from 3 on.
fn stat(pid: i32, field: usize) -> Option<String> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    stat.rsplit_once(") ")?.1.split(' ').nth(field - 3).map(str::to_owned)
}

fn lives(pid: i32) -> bool {
    !matches!(stat(pid, 3).as_deref(), None | Some("Z" | "X"))
}

/// Living members of a session. When `start` is given and its leader lives with another one, it is not meant.
fn session(leader: i32, start: Option<u64>) -> Vec<i32> {
    let led_by = stat(leader, 22).and_then(|start| start.parse::<u64>().ok());
    if start.is_some() && led_by.is_some() && led_by != start {
        return Vec::new();
    }
    let leader = leader.to_string();
    pids().filter(|pid| stat(*pid, 6).as_deref() == Some(&leader) && lives(*pid)).collect()
}

/// Read from proc(5): getsid(2) answers 0 for a session that was made outside of this pid namespace, and its wrapper
/// panics on that.
fn leads_a_session(pid: i32) -> bool {
    stat(pid, 6).and_then(|session| session.parse().ok()) == Some(pid)
}

/// Pid and start of every agent that has a record below this directory.
fn agents(root: &Path) -> Vec<(i32, u64)> {
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let places = below(root.to_owned()).flat_map(below).flat_map(below);
    let records = places.filter_map(|place| fs::read(place.join("state.json")).ok());
    records
        .filter_map(|text| serde_json::from_slice::<Value>(&text).ok())
        .filter_map(|record| {
            let agent = &record["agent"];
            Some((i32::try_from(agent["pid"].as_i64()?).ok()?, agent["start"].as_u64()?))
        })
        .collect()
}

/// Living processes whose credential lies below this path.
fn marked(path: &str) -> Vec<i32> {
    let mark = format!("AGENT_CREDENTIAL_FILE={path}");
    let carries = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
    };
    pids().filter(carries).filter(|pid| lives(*pid)).collect()
}

/// Living supervisors that have a lock below this path open.
fn shims(root: &str) -> Vec<i32> {
    let is_shim = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(SHIM))
    };
    let holds = |pid: &i32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target.starts_with(root))
    };
    pids().filter(is_shim).filter(holds).filter(|pid| lives(*pid)).collect()
}

async fn gone(what: &str, pid: i32) {
    until(what, SOON, async || (!lives(pid)).then_some(())).await;
}

#[tokio::test]
async fn a_killed_supervisor_leaves_no_process_and_is_reported() {
    let fixture = Fixture::new();
    let key1 = key("ceo", 1);
    // One descendant in the agent's session, one in a session of its own, one that has forgotten its environment.
    fixture
        .run(&key1, "trap '' TERM; sleep 3600 & setsid sleep 3600 & env -i sleep 3600 & echo ready; wait")
        .await;
    printed(&*fixture.runtime, &key1, READY).await;
    until("four processes", SOON, async || (fixture.processes(&key1).len() == 3).then_some(())).await;
    let session = fixture.pid(&key1, "agent");
    let mut hints = fixture.runtime.watch().await.unwrap();
    kill(fixture.pid(&key1, "shim"), Signal::KILL);
    within("a hint", Duration::from_secs(1), hints.next()).await.unwrap();

    let exit = Exit::Lost("its supervisor was killed".to_owned());
    assert_eq!(listed(&*fixture.runtime, &key1).await, Some(ContainerState::Exited(exit.clone())));
    assert_eq!(fixture.processes(&key1), [0; 0]);
    assert_eq!(self::session(session, None), [0; 0]);
    // The same is said ever after, and the place is free.
    let stopped = fixture.runtime.ensure_stopped(&key1, GRACE).await.unwrap();
    assert_eq!(stopped, Stopped::Ended(exit.clone()));
    let again = fixture.runtime.ensure_started(&fixture.script(&key1, "exec sleep 3600")).await.unwrap();
    assert_eq!(again, Started::AlreadyEnded(exit));
    fixture.run(&key("ceo", 2), "exec sleep 3600").await;
}

#[tokio::test]
async fn stopping_or_removing_ends_what_a_killed_supervisor_left() {
    for remove in [false, true] {
        let fixture = Fixture::new();
        let key = key("ceo", 1);
        fixture.run(&key, "setsid sleep 3600 & echo ready; wait").await;
        printed(&*fixture.runtime, &key, READY).await;
        until("two processes", SOON, async || (fixture.processes(&key).len() == 2).then_some(())).await;
        let shim = fixture.pid(&key, "shim");
        kill(shim, Signal::KILL);
        gone("the supervisor", shim).await;
        if remove {
            fixture.runtime.remove(&key).await.unwrap();
            assert!(!fixture.place(&key).exists());
        } else {
            fixture.runtime.ensure_stopped(&key, GRACE).await.unwrap();
        }
        assert_eq!(fixture.processes(&key), [0; 0]);
    }
}

#[tokio::test]
async fn a_hundred_starts_of_one_incarnation_make_one_process() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let start = fixture.script(&key, "exec sleep 3600");
    let calls = (0..100).map(|_| {
        let (runtime, start) = (Arc::clone(&fixture.runtime), start.clone());
        tokio::spawn(async move { runtime.ensure_started(&start).await.unwrap() })
    });
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.into_iter().filter(|answer| *answer.as_ref().unwrap() == Started::Now).count(), 1);
    assert_eq!(fixture.processes(&key).len(), 1);
    assert_eq!(shims(&fixture.root.path().to_string_lossy()).len(), 1);
}

#[tokio::test]
async fn many_servers_at_once_start_one_process() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let start = fixture.script(&key, "exec sleep 3600");
    let mut calls = Vec::new();
    for _ in 0..12 {
        let (runtime, start) = (fixture.second_handle().await, start.clone());
        calls.push(tokio::spawn(async move { runtime.ensure_started(&start).await.unwrap() }));
    }
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.into_iter().filter(|answer| *answer.as_ref().unwrap() == Started::Now).count(), 1);
    assert_eq!(fixture.processes(&key).len(), 1);
}

#[tokio::test]
async fn a_new_server_finds_what_lives_and_how_what_died_died() {
    let mut fixture = Fixture::new();
    let (lives_on, exits, dies) = (key("ceo", 3), key("dao", 1), key("cto", 2));
    let gate = fixture.root.path().join("gate");
    fixture.run(&lives_on, "exec sleep 3600").await;
    fixture.run(&exits, &format!("until [ -e {} ]; do sleep 0.01; done; exit 7", gate.display())).await;
    fixture.run(&dies, "exec sleep 3600").await;
    let before = fixture.record(&lives_on);

    // Nobody but the supervisors is there when two of them end. The runtime of the test is not needed for it.
    let agents = fixture.root.path().join("agents");
    fixture.runtime = Arc::new(open(&fixture.root.path().join("nothing"), 9).unwrap());
    fs::write(&gate, "").unwrap();
    kill(fixture.pid(&dies, "agent"), Signal::SEGV);
    for key in [&exits, &dies] {
        let end = fixture.place(key).join("exit.json");
        until("the record of an end", SOON, async || end.exists().then_some(())).await;
    }

    let runtime = open(&agents, 1).unwrap();
    assert_eq!(listed(&runtime, &lives_on).await, Some(ContainerState::Running));
    assert_eq!(listed(&runtime, &exits).await, Some(ContainerState::Exited(Exit::Code(7))));
    assert_eq!(listed(&runtime, &dies).await, Some(ContainerState::Exited(Exit::Signal(11))));
    let again = runtime.ensure_started(&fixture.script(&lives_on, "exec sleep 3600")).await.unwrap();
    assert_eq!(again, Started::AlreadyRunning);
    assert_eq!(fixture.record(&lives_on), before);
    let stopped = runtime.ensure_stopped(&lives_on, GRACE).await.unwrap();
    assert_eq!(stopped, Stopped::Ended(Exit::Signal(15)));
}

#[tokio::test]
async fn another_installation_does_not_open_the_directory() {
    let fixture = Fixture::new();
    let dir = fixture.root.path().join("agents");
    let Err(OpenError::OtherInstallation { found, .. }) = open(&dir, 2) else { panic!("it was opened") };
    assert_eq!(found, Uuid::from_u128(1).to_string());
    open(&dir, 1).unwrap();
}

#[tokio::test]
async fn the_credential_is_the_agents_alone_and_goes_with_it() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let script = "echo \"<$(cat $AGENT_CREDENTIAL_FILE)>\"; echo ready; exec sleep 3600";
    fixture.run(&key, script).await;
    printed(&*fixture.runtime, &key, READY).await;
    assert_eq!(fixture.texts(&key).await[0], "<a-credential>");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let secret = fixture.place(&key).join("secret");
    assert_eq!((mode(&secret), mode(&secret.join("credential"))), (0o700, 0o600));
    assert_eq!(mode(&fixture.place(&key)), 0o700);
    // Neither in the supervisor's arguments or environment nor in any file but its own.
    let shim = fixture.pid(&key, "shim");
    let cmdline = fs::read_to_string(format!("/proc/{shim}/cmdline")).unwrap();
    assert_eq!(cmdline, format!("{SHIM}\0shim\0"));
    assert_eq!(fs::read(format!("/proc/{shim}/environ")).unwrap(), b"");
    for file in ["state.json", "exit.running"] {
        let text = fs::read_to_string(fixture.place(&key).join(file)).unwrap();
        assert!(!text.contains("a-credential") && !text.contains("quotes"), "{text}");
    }
    fixture.runtime.ensure_stopped(&key, GRACE).await.unwrap();
    assert!(!secret.exists());
}

#[tokio::test]
async fn the_environment_is_exactly_the_documented_one() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let mut start = RuntimeFixture::start(&fixture, &key, Behaviour::PrintsEnv);
    start
        .env
        .push(("LANG".to_owned(), aito_domain::ports::runtime::Secret("of the specification".to_owned())));
    fixture.runtime.ensure_started(&start).await.unwrap();
    assert_eq!(ended(&*fixture.runtime, &key).await, Exit::Code(0));
    let got: BTreeMap<String, String> = fixture
        .texts(&key)
        .await
        .iter()
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut wanted: BTreeMap<String, String> =
        INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect();
    assert!(wanted.contains_key("PATH"));
    wanted.extend(start.env.iter().map(|(name, value)| (name.clone(), value.0.clone())));
    let credential = fixture.place(&key).join("secret/credential");
    wanted.insert("AGENT_CREDENTIAL_FILE".to_owned(), credential.display().to_string());
    for name in ["AGENT_PROFILE", "PROFILE_PATH"] {
        wanted.insert(name.to_owned(), start.spec.profile.display().to_string());
    }
    wanted.insert("ORCHESTRATOR_SOCKET_DIR".to_owned(), std::env::temp_dir().display().to_string());
    assert_eq!(got, wanted);
}

#[tokio::test]
async fn the_agent_inherits_no_descriptor_and_leads_its_own_session() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    // Deliberately inheritable: what a careless library would leave open in the server.
    let careless = fs::File::open("/dev/zero").unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    fixture.run(&key, "exec sleep 3600").await;
    let (shim, agent) = (fixture.pid(&key, "shim"), fixture.pid(&key, "agent"));
    let targets = |pid: i32| -> Vec<PathBuf> {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).collect()
    };
    for pid in [shim, agent] {
        assert!(!targets(pid).contains(&PathBuf::from("/dev/zero")), "{:?}", targets(pid));
        assert!(leads_a_session(pid));
    }
    // A program that is just being loaded has its libraries open for a moment.
    until("three descriptors", SOON, async || (targets(agent).len() == 3).then_some(())).await;
}

#[tokio::test]
async fn limits_that_the_system_has_are_set() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let mut start = fixture.script(&key, "ulimit -n; ulimit -Hn; ulimit -d; ulimit -c; echo ready");
    start.spec.limits = Limits { memory_bytes: Some(64 << 20), open_files: Some(77), ..Limits::default() };
    fixture.runtime.ensure_started(&start).await.unwrap();
    ended(&*fixture.runtime, &key).await;
    assert_eq!(fixture.texts(&key).await, ["77", "77", "65536", "0", "ready"]);
    for limit in ["cpu", "pids", "memory"] {
        assert!(fixture.runtime.unenforced().iter().any(|line| line.starts_with(limit)), "{limit}");
    }
}

#[tokio::test]
async fn a_restarted_machine_makes_everything_dead_and_nothing_is_signalled() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "exec sleep 3600").await;
    let agent = fixture.pid(&key, "agent");
    fixture.change_record(&key, |record| record["boot_id"] = "another boot".into());
    let lost = Exit::Lost("the machine was restarted".to_owned());
    assert_eq!(listed(&*fixture.runtime, &key).await, Some(ContainerState::Exited(lost.clone())));
    let stopped = fixture.runtime.ensure_stopped(&key, Duration::ZERO).await.unwrap();
    assert_eq!(stopped, Stopped::Ended(lost));
    assert!(lives(agent));
}

#[tokio::test]
async fn a_reused_pid_is_never_signalled() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "exec sleep 3600").await;
    let shim = fixture.pid(&key, "shim");
    kill(shim, Signal::KILL);
    gone("the supervisor", shim).await;
    // A stranger that leads a session, whose pid is by chance the supervisor's and the agent's.
    let mut stranger = Command::new("setsid").args(["sleep", "3600"]).spawn().unwrap();
    let pid = i32::try_from(stranger.id()).unwrap();
    until("the stranger's session", SOON, async || leads_a_session(pid).then_some(())).await;
    fixture.change_record(&key, |record| {
        for who in ["shim", "agent"] {
            record[who] = serde_json::json!({ "pid": pid, "start": 1 });
        }
    });
    let stopped = fixture.runtime.ensure_stopped(&key, Duration::ZERO).await.unwrap();
    assert_eq!(stopped, Stopped::Ended(Exit::Lost("its supervisor was killed".to_owned())));
    fixture.runtime.remove(&key).await.unwrap();
    let still = stranger.try_wait().unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(still, None, "a stranger was killed");
}

#[tokio::test]
async fn a_supervisor_that_does_nothing_any_more_is_killed_with_everything() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "setsid sleep 3600 & echo ready; wait").await;
    printed(&*fixture.runtime, &key, READY).await;
    kill(fixture.pid(&key, "shim"), Signal::STOP);
    let stop = fixture.runtime.ensure_stopped(&key, Duration::ZERO);
    let stopped = within("a stop with force", Duration::from_secs(15), stop).await.unwrap();
    assert_eq!(stopped, Stopped::Ended(Exit::Lost("its supervisor was killed".to_owned())));
    assert_eq!(fixture.processes(&key), [0; 0]);
}

#[tokio::test]
async fn a_supervisor_that_is_asked_to_end_by_hand_uses_the_grace_of_the_specification() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let mut start = RuntimeFixture::start(&fixture, &key, Behaviour::IgnoresTerm);
    start.spec.grace = Duration::from_millis(200);
    fixture.runtime.ensure_started(&start).await.unwrap();
    printed(&*fixture.runtime, &key, READY).await;
    let shim = fixture.pid(&key, "shim");
    for signal in [Signal::HUP, Signal::INT] {
        kill(shim, signal);
    }
    assert_eq!(listed(&*fixture.runtime, &key).await, Some(ContainerState::Running));
    kill(shim, Signal::TERM);
    assert_eq!(ended(&*fixture.runtime, &key).await, Exit::Signal(9));
}

#[tokio::test]
async fn a_shorter_grace_overtakes_a_longer_one() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture
        .runtime
        .ensure_started(&RuntimeFixture::start(&fixture, &key, Behaviour::IgnoresTerm))
        .await
        .unwrap();
    printed(&*fixture.runtime, &key, READY).await;
    let (runtime, patient) = (Arc::clone(&fixture.runtime), key.clone());
    let first = tokio::spawn(async move { runtime.ensure_stopped(&patient, Duration::from_secs(600)).await });
    let stop = fixture.place(&key).join("stop");
    until("the first request", SOON, async || stop.exists().then_some(())).await;
    let wanted = Stopped::Ended(Exit::Signal(9));
    let second = fixture.runtime.ensure_stopped(&key, Duration::from_millis(50));
    assert_eq!(within("the impatient stop", SOON, second).await.unwrap(), wanted);
    assert_eq!(within("the patient stop", SOON, first).await.unwrap().unwrap(), wanted);
}

#[tokio::test]
async fn ten_megabytes_of_log_are_kept_and_rotated_and_the_agent_is_not_held_up() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "seq -f '%099.0f' 1 100000; exit 6").await;
    let exit =
        until("the end", Duration::from_secs(60), async || match listed(&*fixture.runtime, &key).await {
            Some(ContainerState::Exited(exit)) => Some(exit),
            _ => None,
        });
    assert_eq!(exit.await, Exit::Code(6));
    let size = |name: &str| fs::metadata(fixture.place(&key).join(name)).map_or(0, |file| file.len());
    for name in ["log", "log.1", "log.2", "log.3"] {
        assert!(size(name) <= 4 << 20, "{name}");
    }
    assert!(size("log.2") > 3 << 20, "it was rotated");
    assert!(!fixture.place(&key).join("log.4").exists());
    let numbers: Vec<u32> =
        fixture.texts(&key).await.iter().map(|text| text.trim_start_matches('0').parse().unwrap()).collect();
    assert_eq!(numbers.len(), 100_000);
    assert!(numbers.iter().copied().eq(1..=100_000));
    let tail = LogQuery { tail: Some(2), ..LogQuery::default() };
    let last: Vec<LogLine> = fixture.runtime.logs(&key, &tail).await.unwrap().collect().await;
    assert!(last[1].text.ends_with("0100000") && last.len() == 2);
}

#[tokio::test]
async fn only_the_newest_of_a_log_that_is_too_long_is_kept() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "seq -f '%0999.0f' 1 25000; exec sleep 3600").await;
    let last = format!("{:0999}", 25_000);
    let tail = LogQuery { tail: Some(1), ..LogQuery::default() };
    until("the last line", Duration::from_secs(60), async || {
        let lines: Vec<LogLine> = fixture.runtime.logs(&key, &tail).await.unwrap().collect().await;
        lines.first().is_some_and(|line| line.text == last).then_some(())
    })
    .await;
    let kept = fixture.texts(&key).await;
    assert!((12_000..17_000).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last(), Some(&last));
}

#[tokio::test]
async fn an_endless_line_is_divided_and_nothing_of_it_lost() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "head -c 3000000 /dev/zero | tr '\\0' y; printf end; exec sleep 3600").await;
    let texts = until("the end of the line", SOON, async || {
        let texts = fixture.texts(&key).await;
        texts.last().is_some_and(|text| text.ends_with("end")).then_some(texts)
    })
    .await;
    assert_eq!(texts.iter().map(String::len).sum::<usize>(), 3_000_003);
    assert!(texts.iter().all(|text| text.len() <= 16 << 10));
}

#[tokio::test]
async fn a_prompt_without_an_end_of_line_is_shown_while_the_agent_waits() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "printf 'name? '; exec sleep 3600").await;
    printed(&*fixture.runtime, &key, "name? ").await;
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_with_field_and_path() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let plain = fixture.root.path().join("plain");
    fs::write(&plain, "no program").unwrap();
    let plain = plain.to_str().unwrap();
    let command = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    let mut cases = Vec::new();
    for (words, wanted) in [
        (vec![plain], vec!["command", plain]),
        (vec!["/"], vec!["command", "/"]),
        (vec!["bin/sh"], vec!["command", "bin/sh"]),
        (vec!["no-such-program-anywhere"], vec!["command", "no-such-program-anywhere", "PATH"]),
        (vec![], vec!["command"]),
        (vec![""], vec!["command"]),
    ] {
        let mut start = start(&key);
        start.spec.command = command(&words);
        cases.push((start, wanted));
    }
    let mut start = fixture.script(&key, "exec sleep 3600");
    start.spec.profile = "/nonexistent/profile.md".into();
    cases.push((start.clone(), vec!["profile", "/nonexistent/profile.md"]));
    start.spec.profile = fixture.root.path().to_owned();
    cases.push((start.clone(), vec!["profile", "is no file"]));
    // Nobody writes into it, so opening it would wait for ever.
    let pipe = fixture.root.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    start.spec.profile = pipe;
    cases.push((start, vec!["profile", "is no file"]));
    for (start, wanted) in cases {
        for result in [
            fixture.runtime.check(&start.spec).await,
            fixture.runtime.ensure_started(&start).await.map(|_| ()),
        ] {
            let Err(RuntimeError::Refused(why)) = result else { panic!("{result:?}") };
            assert!(wanted.iter().all(|word| why.contains(word)), "{why} says not {wanted:?}");
        }
    }
    // A program that cannot be run after all: found out by trying, and nothing is left of it.
    fs::write(plain, "#!/nonexistent/interpreter\n").unwrap();
    fs::set_permissions(plain, fs::Permissions::from_mode(0o755)).unwrap();
    let mut start = fixture.script(&key, "");
    start.spec.command = command(&[plain]);
    let result = fixture.runtime.ensure_started(&start).await;
    assert!(matches!(&result, Err(RuntimeError::Refused(why)) if why.contains(plain)), "{result:?}");
    assert_eq!(fixture.runtime.list().await.unwrap(), []);
    assert!(!fixture.place(&key).exists());
}

#[tokio::test]
async fn another_agent_of_the_same_name_is_a_conflict_and_nothing_of_ours() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "exec sleep 3600").await;
    let stranger = ContainerKey { agent_id: aito_domain::id::AgentId(Uuid::from_u128(99)), ..key.clone() };
    let start = fixture.script(&stranger, "exec sleep 3600");
    assert!(matches!(fixture.runtime.ensure_started(&start).await, Err(RuntimeError::Conflict(_))));
    assert_eq!(fixture.runtime.ensure_stopped(&stranger, GRACE).await.unwrap(), Stopped::NotThere);
    fixture.runtime.remove(&stranger).await.unwrap();
    assert_eq!(listed(&*fixture.runtime, &key).await, Some(ContainerState::Running));
}

#[tokio::test]
async fn a_broken_record_hides_no_other_agent() {
    let fixture = Fixture::new();
    let (broken, whole) = (key("ceo", 1), key("dao", 1));
    fixture.run(&broken, "exec sleep 3600").await;
    fixture.run(&whole, "exec sleep 3600").await;
    let record = fs::read(fixture.place(&broken).join("state.json")).unwrap();
    fs::write(fixture.place(&broken).join("state.json"), "{").unwrap();
    assert_eq!(listed(&*fixture.runtime, &whole).await, Some(ContainerState::Running));
    assert!(fixture.runtime.remove(&broken).await.is_err());
    assert_eq!(fixture.processes(&broken).len(), 1);
    fs::write(fixture.place(&broken).join("state.json"), record).unwrap();
    assert_eq!(listed(&*fixture.runtime, &broken).await, Some(ContainerState::Running));
}

#[tokio::test]
async fn what_a_failed_start_left_is_nothing_and_does_not_hinder() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fs::create_dir_all(fixture.place(&key).join("secret")).unwrap();
    assert_eq!(fixture.runtime.list().await.unwrap(), []);
    fixture.run(&key, "exec sleep 3600").await;
    assert_eq!(listed(&*fixture.runtime, &key).await, Some(ContainerState::Running));
}

#[tokio::test]
async fn stats_add_up_the_agents_processes() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    // Work in a child that has ended by the time of the question, and two that live.
    fixture
        .run(&key, "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; sleep 3600 & echo ready; wait")
        .await;
    printed(&*fixture.runtime, &key, READY).await;
    let stats = fixture.runtime.stats(&key).await.unwrap().unwrap();
    assert_eq!(stats.processes, 2);
    assert!(stats.cpu > Duration::ZERO && stats.cpu < SOON, "{stats:?}");
    assert!(stats.memory_bytes > 100_000, "{stats:?}");
}

#[tokio::test]
async fn the_engine_is_this_machine() {
    let fixture = Fixture::new();
    let id = fixture.runtime.engine_id().await.unwrap();
    assert!(id.starts_with("process:") && id.len() > "process:".len(), "{id}");
    assert_eq!(fixture.second_handle().await.engine_id().await.unwrap(), id);
    fixture.runtime.ping().await.unwrap();
    fs::remove_dir_all(fixture.root.path().join("agents")).unwrap();
    assert!(matches!(fixture.runtime.ping().await, Err(RuntimeError::Unavailable(_))));
    assert!(matches!(fixture.runtime.list().await, Err(RuntimeError::Unavailable(_))));
}

/// What a server says to a supervisor, as bytes.
fn order(fixture: &Fixture, key: &ContainerKey, script: &str) -> String {
    serde_json::json!({
        "agent_id": key.agent_id, "agent_type": key.agent_type, "incarnation": key.incarnation,
        "place": fixture.place(key).parent().unwrap(),
        "program": "/bin/sh", "argv": ["sh", "-c", script],
        "env": [
            ["PATH", std::env::var("PATH").unwrap()],
            ["AGENT_CREDENTIAL_FILE", fixture.place(key).join("secret/credential")],
        ],
        "credential": "a-credential", "grace_ms": 1000,
        "log": { "file_bytes": 1000, "files": 2 },
    })
    .to_string()
}

fn shim_with(order: &str) -> std::process::Child {
    let mut command = Command::new(SHIM);
    let mut shim =
        command.arg("shim").env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // A supervisor may answer before it has read everything.
    let _ = shim.stdin.take().unwrap().write_all(order.as_bytes());
    shim
}

#[tokio::test]
async fn a_start_whose_server_died_is_found_by_the_next() {
    let fixture = Fixture::new();
    let key = key("ceo", 4);
    let whole = order(&fixture, &key, "exec sleep 3600");
    // The server died while it was writing: nothing.
    shim_with(&whole[..whole.len() - 1]).wait().unwrap();
    assert_eq!(fixture.runtime.list().await.unwrap(), []);
    // It died right after: the agent runs, though nobody hears the answer.
    let mut shim = shim_with(&whole);
    drop(shim.stdout.take());
    until("the agent", SOON, async || {
        (listed(&*fixture.runtime, &key).await == Some(ContainerState::Running)).then_some(())
    })
    .await;
    let again = fixture.runtime.ensure_started(&fixture.script(&key, "exec sleep 3600")).await.unwrap();
    assert_eq!(again, Started::AlreadyRunning);
    assert_eq!(fixture.processes(&key).len(), 1);
    fixture.runtime.remove(&key).await.unwrap();
    shim.wait().unwrap();
}

#[tokio::test]
async fn a_supervisor_killed_at_any_moment_of_a_start_leaves_nothing_or_an_ended_container() {
    let fixture = Fixture::new();
    for n in 0..40_u32 {
        let key = key("ceo", u64::from(n) + 1);
        let mut shim = shim_with(&order(&fixture, &key, "sleep 3600 & sleep 3600"));
        // From before its first instruction to well after the agent's.
        let spin = (0..u64::from(n) * 40_000).fold(0_u64, |sum, step| std::hint::black_box(sum ^ step));
        std::hint::black_box(spin);
        shim.kill().unwrap();
        shim.wait().unwrap();
        match listed(&*fixture.runtime, &key).await {
            None => {}
            Some(ContainerState::Exited(Exit::Lost(_))) => {
                assert!(fixture.place(&key).join("state.json").exists())
            }
            other => panic!("{other:?} in round {n}"),
        }
        until("nothing alive", SOON, async || fixture.processes(&key).is_empty().then_some(())).await;
        fixture.runtime.remove(&key).await.unwrap();
    }
    // The lock is free and nothing is in the way of the next start.
    fixture.run(&key("ceo", 99), "exec sleep 3600").await;
    assert_eq!(fixture.runtime.list().await.unwrap().len(), 1);
}

#[test]
fn a_supervisor_without_a_whole_order_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for order in ["", "{", "{\"agent_id\":1}", "null"] {
        let mut shim = Command::new(SHIM)
            .arg("shim")
            .env_clear()
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shim.stdin.take().unwrap().write_all(order.as_bytes()).unwrap();
        let output = shim.wait_with_output().unwrap();
        assert!(!output.status.success());
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(reply["reply"], "failed", "{order}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
