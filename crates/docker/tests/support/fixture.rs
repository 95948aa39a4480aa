//! The runtime on the run's real engine, with agents that are shell scripts.
//!
//! Invariants: every fixture is an installation of its own, so that tests run beside each other; what it started is
//! removed when it is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aito_contracts::{
    clock::ManualClock,
    runtime::{Behaviour, ENDLESS, NO_SUCH_PROGRAM, READY, RuntimeFixture, SOON, log, start},
    wait::until_sync,
};
use aito_docker::{ADDED, DockerRuntime, Options};
use aito_domain::{
    fleet::ContainerKey,
    id::InstallationId,
    ports::runtime::{ContainerRuntime, LogChannel, PLACES, Secret, Start, Started},
    time::{Timestamp, millis},
};
use aito_harness::{
    engine::{call, sweep},
    servers::{ENGINE, address},
};
use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use uuid::Uuid;

use super::image;

/// The network of the tests' agents; one for all, since an engine has room for few.
pub const NETWORK: &str = "aito-test";

/// The user that agents run as, who owns nothing on this machine.
pub const USER: u32 = 65_532;

/// A shell that waits without a child until it is asked to end, and ends with code 143 then.
pub const SLEEP: &str = "trap 'exit 143' TERM; exec 3<>/nothing; while :; do read -t 3600 x <&3; done";

/// An installation on an engine.
pub struct Fixture {
    pub socket: PathBuf,
    pub installation: InstallationId,
    pub dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub image: String,
    pub runtime: Arc<DockerRuntime>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for installation in [self.installation, other(self.installation)] {
            sweep(&self.socket, &format!("aito.installation={installation}"));
        }
    }
}

/// The engine of this run.
pub fn engine() -> PathBuf {
    PathBuf::from(address(ENGINE))
}

/// The test image on the run's engine; its own program is a shell that ends at once with code 5.
pub fn shared_image() -> String {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| image::provide(&engine(), &["CMD [\"/bin/sh\", \"-c\", \"exit 5\"]"])).clone()
}

/// A container as the engine shows it.
///
/// # Panics
/// When there is none.
pub fn inspect(socket: &Path, name: &str) -> Value {
    let shown = call(socket, "GET", &format!("/containers/{name}/json"), None);
    assert_eq!(shown.status, 200, "{name}: {}", shown.json());
    shown.json()
}

/// Makes the agents' network where there is none. It is no installation's: the first one would take it along when it
/// goes, from under the others.
fn provide_network(socket: &Path) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = json!({ "Name": NETWORK, "CheckDuplicate": true });
    let made = call(socket, "POST", "/networks/create", Some(&wanted));
    assert!([201, 409].contains(&made.status), "{NETWORK}: {}", made.json());
}

/// The real time, which engine and runtime must agree on for "since".
pub fn present() -> Timestamp {
    millis(aito_harness::wait::wall_millis())
}

fn other(installation: InstallationId) -> InstallationId {
    InstallationId(Uuid::from_u128(installation.0.as_u128() ^ 1))
}

fn fresh_installation() -> InstallationId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = u128::from(NEXT.fetch_add(2, Ordering::Relaxed));
    let run = u128::from(std::process::id()) << 64 | (aito_harness::wait::wall_millis() as u128) << 96;
    InstallationId(Uuid::from_u128(run | number << 8))
}

/// Options for an engine with short times.
pub fn options(socket: &Path, dir: &Path, installation: InstallationId, image: &str) -> Options {
    Options {
        socket: socket.to_owned(),
        installation,
        network: Some(NETWORK.to_owned()),
        credentials_dir: dir.join("credentials"),
        default_image: image.to_owned(),
        uid: USER,
        gid: USER,
        clock: Arc::new(ManualClock::at(present())),
        call_timeout: Options::CALL_TIMEOUT,
        start_timeout: Options::START_TIMEOUT,
    }
}

impl Fixture {
    /// An installation on the run's engine.
    pub fn new() -> Self {
        Self::on(&engine(), &shared_image())
    }

    /// An installation on this engine.
    pub fn on(socket: &Path, image: &str) -> Self {
        provide_network(socket);
        let dir = tempfile::tempdir().unwrap();
        let installation = fresh_installation();
        let clock = Arc::new(ManualClock::at(present()));
        let options = Options { clock: clock.clone(), ..options(socket, dir.path(), installation, image) };
        let runtime = DockerRuntime::open(options).unwrap();
        Self { socket: socket.to_owned(), installation, dir, clock, image: image.to_owned(), runtime }
    }

    /// Options like those of the runtime.
    pub fn options(&self) -> Options {
        options(&self.socket, self.dir.path(), self.installation, &self.image)
    }

    /// A container's name.
    pub fn name(&self, key: &ContainerKey) -> String {
        key.name(self.installation)
    }

    /// A container as the engine shows it.
    pub fn inspect(&self, key: &ContainerKey) -> Value {
        inspect(&self.socket, &self.name(key))
    }

    /// Where a container's credential lies on this host.
    pub fn credential(&self, key: &ContainerKey) -> PathBuf {
        self.dir.path().join("credentials").join(self.name(key)).join("agent/credential")
    }

    /// A start that runs this shell script.
    pub fn script(&self, key: &ContainerKey, script: &str) -> Start {
        let mut start = start(key);
        start.env.push(("TEST_MARK".to_owned(), Secret(self.name(key))));
        start.spec.command = Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
        start
    }

    /// Starts a script.
    pub async fn run(&self, key: &ContainerKey, script: &str) {
        let started = self.runtime.ensure_started(&self.script(key, script)).await.unwrap();
        assert_eq!(started, Started::Now);
    }

    /// What the agent printed.
    pub async fn texts(&self, key: &ContainerKey) -> Vec<String> {
        log(&*self.runtime, key).await.into_iter().map(|line| line.text).collect()
    }

    /// Processes on this machine that have the mark of this container's start.
    fn marked(&self, key: &ContainerKey) -> usize {
        let mark = format!("TEST_MARK={}", self.name(key));
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<i32>().is_ok()))
            .filter_map(|entry| fs::read(entry.path().join("environ")).ok())
            .filter(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
            .count()
    }

    fn runs(&self, key: &ContainerKey) -> bool {
        let path = format!("/containers/{}/json", self.name(key));
        call(&self.socket, "GET", &path, None).json()["State"]["Running"] == true
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
        DockerRuntime::open(self.options()).unwrap()
    }

    async fn other_installation(&self) -> Arc<dyn ContainerRuntime> {
        let mut options = self.options();
        options.installation = other(self.installation);
        DockerRuntime::open(options).unwrap()
    }

    fn start(&self, key: &ContainerKey, behaviour: Behaviour) -> Start {
        let script = match behaviour {
            Behaviour::Sleeper => SLEEP.to_owned(),
            Behaviour::ExitsWith(code) => format!("exit {code}"),
            Behaviour::IgnoresTerm => {
                format!("trap '' TERM; echo {READY}; exec 3<>/nothing; while :; do read -t 3600 x <&3; done")
            }
            Behaviour::Forks => format!(
                "trap '' TERM; sleep 3600 & sh -c 'sleep 3600; :' & trap 'exit 0' TERM; echo {READY}; wait"
            ),
            Behaviour::Prints(lines) => {
                let print = |(channel, text): &(LogChannel, String)| match channel {
                    LogChannel::Stdout => format!("echo '{text}'\n"),
                    LogChannel::Stderr => format!("echo '{text}' >&2\n"),
                };
                lines.iter().map(print).collect::<String>() + SLEEP
            }
            Behaviour::PrintsBinary => format!(
                "printf '\\377\\376 ok\\n'; head -c {ENDLESS} /dev/zero | tr '\\0' x; echo; echo after; {SLEEP}"
            ),
            Behaviour::PrintsEnv | Behaviour::NoSuchProgram => {
                let program = if behaviour == Behaviour::PrintsEnv { "env" } else { NO_SUCH_PROGRAM };
                let mut start = self.script(key, "");
                start.spec.command = Some(vec![program.to_owned()]);
                return start;
            }
        };
        self.script(key, &script)
    }

    async fn kill_agent(&self, key: &ContainerKey) {
        let pid = self.inspect(key)["State"]["Pid"].as_i64().unwrap();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    }

    async fn living(&self, key: &ContainerKey) -> usize {
        // What was just started has its environment only once its program is loaded.
        until_sync("the program", SOON, || {
            let count = self.marked(key);
            (count > 0 || !self.runs(key)).then_some(count)
        })
    }

    fn own_variables(&self) -> Vec<String> {
        ADDED.iter().chain(&PLACES).map(|name| (*name).to_owned()).collect()
    }
}

/// A long time for something that should take a short one.
pub const GRACE: Duration = Duration::from_secs(20);
