//! Agents as local processes, each under a supervisor of its own that outlives the server.
//!
//! The server starts `<program> shim` per incarnation and hands it an order on standard input; the supervisor
//! ([`shim`]) takes the agent's lock, starts the agent as its child, keeps its log and records its end. Everything
//! the server knows it reads from the records, so a restarted server knows as much as its predecessor.
//!
//! Invariants: at most one incarnation of an agent lives, which the agent's lock enforces whatever servers do; an
//! incarnation is started once; an ended incarnation has no process left; a signal never reaches a process that
//! merely has the pid of another. Local processes run as the server's own user and are trusted as that user is.
//! Linux 5.3 or later (pidfd).
//!
//! An agent gets exactly: the environment of its start, [`INHERITED`] from the server's own, the path of its
//! credential as `AGENT_CREDENTIAL_FILE` and the directory of the sockets as `ORCHESTRATOR_SOCKET_DIR`. It runs in
//! the server's working directory.

mod ended;
mod logs;
mod look;
mod os;
mod place;
mod record;
pub mod shim;
mod start;
mod stats;
mod watch;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aito_domain::{
    Cause,
    fleet::{Container, ContainerKey, ContainerState},
    id::{AgentType, Incarnation, InstallationId},
    installation::RuntimeKind,
    ports::{
        clock::Clock,
        runtime::{
            ContainerRuntime, Foreign, Hint, LogLine, LogQuery, RuntimeError, Start, Started, Stats, Stopped,
            Unenforced,
        },
    },
    spec::AgentSpec,
};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use rustix::process::Signal;
use tokio::runtime::Handle;

pub use self::start::{INHERITED, SOCKET_DIR};
use self::{
    ended::ended,
    look::{Look, look},
    place::{AgentPlace, Place, make_private_dir, present, write_whole},
    record::{Reply, State},
    start::Outcome,
    watch::Watch,
};

/// How long a start waits for another one of the same agent, or for the last supervisor to let go.
const PATIENCE: Duration = Duration::from_secs(15);

/// How much longer than its grace a stop may take before the supervisor is killed with everything.
const BACKSTOP: Duration = Duration::from_secs(5);

/// Pause between two looks at something that another process is about to do.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What the runtime needs to know.
#[derive(Clone)]
pub struct Options {
    /// Whose agents these are.
    pub installation: InstallationId,
    /// Where agents' records and logs lie; this installation's alone. It is made when it is missing.
    pub dir: PathBuf,
    /// The program that is run as `<program> shim` (supervisor) and `<program> agent` (reference agent).
    /// [`Options::OWN_PROGRAM`] is this very executable, also after its file was replaced.
    pub program: PathBuf,
    /// Says when statistics were read.
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// The running executable.
    pub const OWN_PROGRAM: &str = "/proc/self/exe";
}

/// Why the runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be read or written, or procfs is not mounted.
    #[error("cannot use {}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The directory holds the agents of another installation.
    #[error("{} belongs to installation {found}", dir.display())]
    OtherInstallation {
        /// The directory.
        dir: PathBuf,
        /// What its record says.
        found: String,
    },
}

/// Names this machine as the engine of local processes: its machine-id(5), or its host name where it has none.
#[must_use]
pub fn engine_id() -> String {
    format!("process:{}", os::machine_name())
}

/// Agents as local processes; see the module.
pub struct ProcessRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    boot_id: String,
    watch: Arc<Watch>,
    /// One start at a time per agent; between processes the agent's lock decides.
    starts: Mutex<HashMap<AgentType, Arc<tokio::sync::Mutex<()>>>>,
}

impl ProcessRuntime {
    /// Opens the directory, or makes it.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be used or is another installation's.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        // A path that agents are told must hold wherever they are.
        let dir = std::path::absolute(&options.dir).map_err(failed(&options.dir))?;
        let options = Options { dir, ..options };
        make_private_dir(&options.dir).map_err(failed(&options.dir))?;
        claim(&options.dir, options.installation)?;
        let boot_id = os::boot_id().map_err(failed(Path::new("/proc")))?;
        let starts = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { options, boot_id, watch: Watch::new(), starts }) })
    }

    /// Runs what blocks where it may.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Inner) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || call(&inner)).await;
        done.unwrap_or_else(|panicked| Err(RuntimeError::Unknown(panicked.into())))
    }

    async fn look(&self, key: &ContainerKey) -> Result<Look, RuntimeError> {
        let key = key.clone();
        self.blocking(move |inner| inner.look(&key)).await
    }

    /// Asks a supervisor to end its agent and waits; kills it when it takes too long.
    async fn stop_running(
        &self,
        key: &ContainerKey,
        state: State,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let place = self.inner.place(key);
        let shim = state.shim;
        let asked = self
            .blocking(move |_| {
                let descriptor = os::open(shim).map_err(unavailable)?;
                let text = grace.as_millis().to_string();
                if let Err(error) = write_whole(&place.stop(), text.as_bytes()) {
                    // On a full disk the agent ends all the same, within the grace of its specification.
                    tracing::warn!(place = %place.dir().display(), %error, "the grace of a stop cannot be passed on");
                }
                os::signal(shim, Signal::TERM).map_err(unavailable)?;
                Ok(descriptor)
            })
            .await?;
        if let Some(descriptor) = asked {
            match tokio::time::timeout(grace.saturating_add(BACKSTOP), ended(descriptor)).await {
                Ok(waited) => return waited.map_err(unknown),
                Err(_too_long) => {}
            }
            tracing::warn!(agent = %key.agent_type, incarnation = %key.incarnation, "a supervisor did not end its agent in time and is killed");
        }
        let place = self.inner.place(key);
        self.blocking(move |_| {
            os::signal(shim, Signal::KILL).map_err(unknown)?;
            look::end_leftovers(&place, &state).map_err(unknown)
        })
        .await
    }
}

#[async_trait]
impl ContainerRuntime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn check(&self, spec: &AgentSpec) -> Result<(), RuntimeError> {
        if !spec.mounts.is_empty() {
            let what = "mounts: a local process sees the files of this machine as they are; only containers have mounts";
            return Err(RuntimeError::Refused(what.to_owned()));
        }
        let spec = spec.clone();
        self.blocking(move |inner| inner.check(&spec).map(|_| ())).await
    }

    async fn ensure_started(&self, start: &Start) -> Result<Started, RuntimeError> {
        let turn = self.inner.turn(&start.key.agent_type).lock_owned().await;
        let (start, runtime) = (start.clone(), Handle::current());
        self.blocking(move |inner| {
            // Kept until the end, also when nobody waits for it any more.
            let _turn = turn;
            inner.ensure_started(&start, &runtime)
        })
        .await
    }

    async fn ensure_stopped(&self, key: &ContainerKey, grace: Duration) -> Result<Stopped, RuntimeError> {
        let deadline = os::monotonic().saturating_add(grace).saturating_add(PATIENCE);
        loop {
            match self.look(key).await? {
                Look::Nothing => return Ok(Stopped::NotThere),
                Look::Ended(_, exit) => return Ok(Stopped::Ended(exit)),
                _ if os::monotonic() >= deadline => {
                    return Err(RuntimeError::Unknown("it does not end".into()));
                }
                Look::Creating(_) => {
                    self.blocking(|_| {
                        os::pause(LOOK_AGAIN);
                        Ok(())
                    })
                    .await?;
                }
                Look::Running(state) => self.stop_running(key, state, grace).await?,
            }
        }
    }

    async fn remove(&self, key: &ContainerKey) -> Result<(), RuntimeError> {
        self.ensure_stopped(key, Duration::ZERO).await?;
        let turn = self.inner.turn(&key.agent_type).lock_owned().await;
        let key = key.clone();
        self.blocking(move |inner| {
            let _turn = turn;
            match inner.look(&key)? {
                Look::Ended(..) => inner.place(&key).remove().map_err(unknown),
                Look::Nothing => Ok(()),
                Look::Creating(_) | Look::Running(_) => {
                    Err(RuntimeError::Conflict(format!("incarnation {} is being started", key.incarnation)))
                }
            }
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        let runtime = Handle::current();
        self.blocking(move |inner| inner.list(&runtime).map_err(unavailable)).await
    }

    /// A process that this did not start cannot be told from any other program of the machine.
    async fn foreign(&self) -> Result<Vec<Foreign>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn logs(
        &self,
        key: &ContainerKey,
        query: &LogQuery,
    ) -> Result<BoxStream<'static, LogLine>, RuntimeError> {
        let (key, query) = (key.clone(), query.clone());
        let follow = query.follow;
        let reader = self.blocking(move |inner| inner.open_log(&key, &query)).await?;
        Ok(logs::stream::lines(reader, follow))
    }

    async fn stats(&self, key: &ContainerKey) -> Result<Option<Stats>, RuntimeError> {
        let (key, at) = (key.clone(), self.inner.options.clock.now());
        self.blocking(move |inner| {
            let Look::Running(state) = inner.look(&key)? else { return Ok(None) };
            let all = os::all_processes().map_err(unavailable)?;
            Ok(stats::sum(&all, state.shim, at, stats::Units::here()))
        })
        .await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Hint>, RuntimeError> {
        let hints = self.inner.watch.hints();
        // Whatever lives already is watched from here on, too.
        self.list().await?;
        Ok(hints)
    }

    async fn ping(&self) -> Result<(), RuntimeError> {
        self.blocking(|inner| fs::read_dir(&inner.options.dir).map(|_| ()).map_err(unavailable)).await
    }

    async fn engine_id(&self) -> Result<String, RuntimeError> {
        self.blocking(|_| Ok(engine_id())).await
    }

    fn unenforced(&self) -> Unenforced {
        vec![
            "cpu: local processes share the machine's processors without a bound".to_owned(),
            "pids: local processes may start any number of processes".to_owned(),
            "memory: bounded for each process of an agent, not for all of them together".to_owned(),
        ]
    }
}

impl Inner {
    fn agent(&self, agent_type: &AgentType) -> AgentPlace {
        AgentPlace(self.options.dir.join(agent_type.as_str()))
    }

    fn place(&self, key: &ContainerKey) -> Place {
        self.agent(&key.agent_type).incarnation(key.incarnation)
    }

    fn turn(&self, agent_type: &AgentType) -> Arc<tokio::sync::Mutex<()>> {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(starts.entry(agent_type.clone()).or_default())
    }

    /// What there is of this key; what another agent of the same type left (under another id) is nothing of it.
    fn look(&self, key: &ContainerKey) -> Result<Look, RuntimeError> {
        let found = self.look_any(&key.agent_type, key.incarnation).map_err(unavailable)?;
        Ok(match found {
            Look::Running(State { agent_id, .. }) | Look::Ended(agent_id, _) | Look::Creating(agent_id)
                if agent_id != key.agent_id =>
            {
                Look::Nothing
            }
            found => found,
        })
    }

    fn look_any(&self, agent_type: &AgentType, incarnation: Incarnation) -> io::Result<Look> {
        look(&self.agent(agent_type), incarnation, &self.boot_id)
    }

    fn check(&self, spec: &AgentSpec) -> Result<start::Invocation, RuntimeError> {
        let invocation = start::invocation(spec, &self.options.program)?;
        start::profile(spec)?;
        Ok(invocation)
    }

    fn ensure_started(&self, start: &Start, runtime: &Handle) -> Result<Started, RuntimeError> {
        let deadline = os::monotonic() + PATIENCE;
        let key = &start.key;
        loop {
            match self.look_any(&key.agent_type, key.incarnation).map_err(unavailable)? {
                Look::Running(State { agent_id, .. }) | Look::Ended(agent_id, _)
                    if agent_id != key.agent_id =>
                {
                    return Err(RuntimeError::Conflict(format!(
                        "incarnation {} of {} belongs to agent {agent_id}",
                        key.incarnation, key.agent_type
                    )));
                }
                Look::Running(state) => {
                    self.watch.follow(runtime, state.shim);
                    return Ok(Started::AlreadyRunning);
                }
                Look::Ended(_, exit) => return Ok(Started::AlreadyEnded(exit)),
                Look::Creating(_) => {}
                Look::Nothing => {
                    if let Some(started) = self.try_start(start, runtime)? {
                        return Ok(started);
                    }
                }
            }
            if os::monotonic() >= deadline {
                return Err(RuntimeError::Unknown(
                    "another start of it is under way and does not end".into(),
                ));
            }
            os::pause(LOOK_AGAIN);
        }
    }

    /// One attempt; `None` means to look again.
    fn try_start(&self, start: &Start, runtime: &Handle) -> Result<Option<Started>, RuntimeError> {
        let key = &start.key;
        let invocation = self.check(&start.spec)?;
        let order = start::order(start, invocation, &self.agent(&key.agent_type));
        match start::attempt(&self.options.program, &order, &self.watch, runtime)? {
            Outcome::Answered(Reply::Started) => Ok(Some(Started::Now)),
            Outcome::Answered(Reply::Exists | Reply::Held { incarnation: None }) => Ok(None),
            Outcome::Answered(Reply::Held { incarnation: Some(holder) }) => {
                self.held_by(key, holder)?;
                Ok(None)
            }
            Outcome::Answered(Reply::Failed { for_good: true, reason }) => Err(RuntimeError::Refused(reason)),
            Outcome::Answered(Reply::Failed { for_good: false, reason }) => {
                Err(RuntimeError::Unavailable(reason.into()))
            }
            Outcome::Silent => Err(RuntimeError::Unknown("the supervisor ended without an answer".into())),
        }
    }

    /// Refuses when another incarnation lives; one that is recorded as ended is about to let go.
    fn held_by(&self, key: &ContainerKey, holder: Incarnation) -> Result<(), RuntimeError> {
        let lives = holder != key.incarnation
            && matches!(
                self.look_any(&key.agent_type, holder).map_err(unavailable)?,
                Look::Running(_) | Look::Creating(_)
            );
        if lives {
            return Err(RuntimeError::Conflict(format!("incarnation {holder} of {} lives", key.agent_type)));
        }
        Ok(())
    }

    fn list(&self, runtime: &Handle) -> io::Result<Vec<Container>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.options.dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let name = entry.file_name();
            let Some(agent_type) = name.to_str().and_then(|name| name.parse::<AgentType>().ok()) else {
                continue;
            };
            for incarnation in self.agent(&agent_type).incarnations()? {
                match self.look_any(&agent_type, incarnation) {
                    Ok(look) => found.extend(self.container(&agent_type, incarnation, look, runtime)),
                    // One broken record must not hide the others; the agent's lock still guards its agent.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        tracing::error!(%error, "an agent's record cannot be read");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    fn container(
        &self,
        agent_type: &AgentType,
        incarnation: Incarnation,
        look: Look,
        runtime: &Handle,
    ) -> Option<Container> {
        let (agent_id, state) = match look {
            Look::Nothing => return None,
            Look::Creating(agent_id) => (agent_id, ContainerState::Creating),
            Look::Running(state) => {
                self.watch.follow(runtime, state.shim);
                (state.agent_id, ContainerState::Running)
            }
            Look::Ended(agent_id, exit) => (agent_id, ContainerState::Exited(exit)),
        };
        Some(Container { key: ContainerKey { agent_id, agent_type: agent_type.clone(), incarnation }, state })
    }

    fn open_log(&self, key: &ContainerKey, query: &LogQuery) -> Result<logs::reader::Reader, RuntimeError> {
        if self.look(key)? == Look::Nothing {
            return Err(RuntimeError::NotFound);
        }
        logs::reader::Reader::open(&self.place(key).log(), query).map_err(unavailable)
    }
}

/// The file that says whose the directory is; no agent type has a dot in its name.
const OWNER: &str = "installation.id";

/// Writes into a new directory whose it is, and refuses one of another installation.
fn claim(dir: &Path, installation: InstallationId) -> Result<(), OpenError> {
    let path = dir.join(OWNER);
    match present(fs::read_to_string(&path)).map_err(failed(&path))? {
        Some(found) if found.trim() == installation.to_string() => Ok(()),
        Some(found) => {
            Err(OpenError::OtherInstallation { dir: dir.to_owned(), found: found.trim().to_owned() })
        }
        None => write_whole(&path, format!("{installation}\n").as_bytes()).map_err(failed(&path)),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    |source| OpenError::Io { path, source }
}

fn unavailable(error: impl Into<Cause>) -> RuntimeError {
    RuntimeError::Unavailable(error.into())
}

fn unknown(error: impl Into<Cause>) -> RuntimeError {
    RuntimeError::Unknown(error.into())
}
