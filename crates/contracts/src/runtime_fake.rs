//! A runtime in memory: small, working, and able to fail on demand.
//!
//! Invariants: it keeps the contract of `ContainerRuntime` as long as no switch is set; what a switch makes fail
//! fails as the port says: `Unavailable` has done nothing, `Unknown` has done everything. Agents behave as they
//! were told by [`FakeRuntime::script`], else they sleep.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aito_domain::{
    agent::Exit,
    fleet::{Container, ContainerKey, ContainerState},
    id::{AgentType, InstallationId},
    installation::RuntimeKind,
    ports::{
        clock::Clock,
        runtime::{
            ContainerRuntime, Foreign, Hint, LogChannel, LogLine, LogQuery, RuntimeError, Start, Started,
            Stats, Stopped, Unenforced,
        },
    },
    spec::AgentSpec,
};
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use uuid::Uuid;

use crate::runtime::{BINARY, Behaviour, ENDLESS, NO_SUCH_PROGRAM, READY};

/// One handle on an engine in memory.
#[derive(Clone)]
pub struct FakeRuntime {
    engine: Arc<Engine>,
    installation: InstallationId,
    clock: Arc<dyn Clock>,
}

struct Engine {
    world: Mutex<World>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct World {
    containers: HashMap<(InstallationId, ContainerKey), Fake>,
    scripts: HashMap<AgentType, Behaviour>,
    occupied: HashSet<ContainerKey>,
    starts: HashMap<ContainerKey, u32>,
    unavailable: bool,
    unknown: u32,
    slow: Option<Duration>,
    exclusive: bool,
}

struct Fake {
    behaviour: Behaviour,
    exit: Option<Exit>,
    lines: Vec<LogLine>,
}

impl FakeRuntime {
    /// A new engine without containers. Pauses and times are the clock's.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let engine = Engine { world: Mutex::default(), changes: watch::Sender::new(0) };
        Self { engine: Arc::new(engine), installation: InstallationId(Uuid::from_u128(1)), clock }
    }

    /// Another handle on the same engine, for another installation. A clone is one for the same.
    #[must_use]
    pub fn of_installation(&self, installation: InstallationId) -> Self {
        Self { installation, ..self.clone() }
    }

    /// From now on agents of this type behave like this when they are started.
    pub fn script(&self, agent_type: &AgentType, behaviour: Behaviour) {
        self.world().scripts.insert(agent_type.clone(), behaviour);
    }

    /// While set, every call fails as `Unavailable` and does nothing.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.world().unavailable = unavailable;
    }

    /// The next `calls` starts, stops and removals are done and then answered as `Unknown`.
    pub fn unknown_after_apply(&self, calls: u32) {
        self.world().unknown = calls;
    }

    /// While set, every call takes that long.
    pub fn set_slow(&self, slow: Option<Duration>) {
        self.world().slow = slow;
    }

    /// While set, an incarnation is refused while another one of its agent lives.
    pub fn set_exclusive(&self, exclusive: bool) {
        self.world().exclusive = exclusive;
    }

    /// Something foreign takes the name of this container: its start is a conflict from now on.
    pub fn occupy(&self, key: &ContainerKey) {
        self.world().occupied.insert(key.clone());
    }

    /// The container ends now, if it runs.
    pub fn exit_now(&self, key: &ContainerKey, exit: Exit) {
        let mut world = self.world();
        if let Some(fake) = self.find(&mut world, key) {
            fake.exit.get_or_insert(exit);
        }
        drop(world);
        self.changed();
    }

    /// The container disappears with everything, as if somebody had removed it by hand.
    pub fn vanish(&self, key: &ContainerKey) {
        self.world().containers.remove(&self.place(key));
        self.changed();
    }

    /// The agent writes a line.
    pub fn write(&self, key: &ContainerKey, channel: LogChannel, text: &str) {
        let at = self.clock.now();
        let mut world = self.world();
        if let Some(fake) = self.find(&mut world, key) {
            fake.lines.push(LogLine { at, channel, text: text.to_owned() });
        }
        drop(world);
        self.changed();
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self, key: &ContainerKey) -> bool {
        self.find(&mut self.world(), key).is_some_and(|fake| fake.exit.is_none())
    }

    /// How often this container was really started.
    #[must_use]
    pub fn starts(&self, key: &ContainerKey) -> u32 {
        self.world().starts.get(key).copied().unwrap_or(0)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.engine.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, key: &ContainerKey) -> (InstallationId, ContainerKey) {
        (self.installation, key.clone())
    }

    fn find<'a>(&self, world: &'a mut World, key: &ContainerKey) -> Option<&'a mut Fake> {
        world.containers.get_mut(&self.place(key))
    }

    fn changed(&self) {
        self.engine.changes.send_modify(|count| *count += 1);
    }

    /// Every call begins here.
    async fn enter(&self) -> Result<(), RuntimeError> {
        let slow = self.world().slow;
        if let Some(slow) = slow {
            self.clock.sleep(slow).await;
        }
        if self.world().unavailable {
            return Err(RuntimeError::Unavailable("the engine was switched off".into()));
        }
        Ok(())
    }

    /// Every call that did something ends here.
    fn leave<T>(&self, done: T) -> Result<T, RuntimeError> {
        self.changed();
        let mut world = self.world();
        if world.unknown > 0 {
            world.unknown -= 1;
            return Err(RuntimeError::Unknown("the answer was lost".into()));
        }
        Ok(done)
    }

    fn refusal(world: &World, agent_type: &AgentType) -> Result<Behaviour, RuntimeError> {
        match world.scripts.get(agent_type) {
            Some(Behaviour::NoSuchProgram) => {
                Err(RuntimeError::Refused(format!("command: {NO_SUCH_PROGRAM}: no such file")))
            }
            Some(behaviour) => Ok(behaviour.clone()),
            None => Ok(Behaviour::Sleeper),
        }
    }

    fn apply_start(&self, start: &Start) -> Result<Started, RuntimeError> {
        let mut world = self.world();
        if let Some(fake) = self.find(&mut world, &start.key) {
            return Ok(fake.exit.clone().map_or(Started::AlreadyRunning, Started::AlreadyEnded));
        }
        let behaviour = Self::refusal(&world, &start.key.agent_type)?;
        if world.occupied.contains(&start.key) {
            return Err(RuntimeError::Conflict("the name is taken".to_owned()));
        }
        let other = world.containers.iter().find(|((installation, key), fake)| {
            *installation == self.installation && key.agent_id == start.key.agent_id && fake.exit.is_none()
        });
        if let Some(((_, key), _)) = other.filter(|_| world.exclusive) {
            return Err(RuntimeError::Conflict(format!("incarnation {} lives", key.incarnation)));
        }
        let exit = match behaviour {
            Behaviour::ExitsWith(code) => Some(Exit::Code(code)),
            Behaviour::PrintsEnv => Some(Exit::Code(0)),
            _ => None,
        };
        let at = self.clock.now();
        let lines = output(&behaviour, start);
        let lines = lines.into_iter().map(|(channel, text)| LogLine { at, channel, text }).collect();
        world.containers.insert(self.place(&start.key), Fake { behaviour, exit, lines });
        *world.starts.entry(start.key.clone()).or_default() += 1;
        Ok(Started::Now)
    }
}

/// What an agent prints at once.
fn output(behaviour: &Behaviour, start: &Start) -> Vec<(LogChannel, String)> {
    let out = |text: String| (LogChannel::Stdout, text);
    match behaviour {
        Behaviour::Prints(lines) => lines.clone(),
        Behaviour::IgnoresTerm | Behaviour::Forks => vec![out(READY.to_owned())],
        Behaviour::PrintsBinary => vec![
            out(String::from_utf8_lossy(BINARY).into_owned()),
            out("x".repeat(ENDLESS.min(16 << 10))),
            out("after".to_owned()),
        ],
        Behaviour::PrintsEnv => {
            start.env.iter().map(|(name, value)| out(format!("{name}={}", value.0))).collect()
        }
        Behaviour::Sleeper | Behaviour::ExitsWith(_) | Behaviour::NoSuchProgram => Vec::new(),
    }
}

#[async_trait]
impl ContainerRuntime for FakeRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn check(&self, spec: &AgentSpec) -> Result<(), RuntimeError> {
        self.enter().await?;
        Self::refusal(&self.world(), &spec.agent_type).map(|_| ())
    }

    async fn ensure_started(&self, start: &Start) -> Result<Started, RuntimeError> {
        self.enter().await?;
        let started = self.apply_start(start)?;
        self.leave(started)
    }

    async fn ensure_stopped(&self, key: &ContainerKey, grace: Duration) -> Result<Stopped, RuntimeError> {
        self.enter().await?;
        let behaviour = match self.find(&mut self.world(), key) {
            None => return Ok(Stopped::NotThere),
            Some(Fake { exit: Some(exit), .. }) => return Ok(Stopped::Ended(exit.clone())),
            Some(fake) => fake.behaviour.clone(),
        };
        let exit = if behaviour == Behaviour::IgnoresTerm {
            self.clock.sleep(grace).await;
            Exit::Signal(9)
        } else {
            Exit::Signal(15)
        };
        self.exit_now(key, exit);
        let stopped = match self.find(&mut self.world(), key) {
            Some(Fake { exit: Some(exit), .. }) => Stopped::Ended(exit.clone()),
            _ => Stopped::NotThere,
        };
        self.leave(stopped)
    }

    async fn remove(&self, key: &ContainerKey) -> Result<(), RuntimeError> {
        self.enter().await?;
        self.vanish(key);
        self.leave(())
    }

    async fn foreign(&self) -> Result<Vec<Foreign>, RuntimeError> {
        self.enter().await?;
        Ok(Vec::new())
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        self.enter().await?;
        let world = self.world();
        let ours =
            world.containers.iter().filter(|((installation, _), _)| *installation == self.installation);
        Ok(ours
            .map(|((_, key), fake)| Container {
                key: key.clone(),
                state: fake.exit.clone().map_or(ContainerState::Running, ContainerState::Exited),
            })
            .collect())
    }

    async fn logs(
        &self,
        key: &ContainerKey,
        query: &LogQuery,
    ) -> Result<BoxStream<'static, LogLine>, RuntimeError> {
        self.enter().await?;
        let changes = self.engine.changes.subscribe();
        let count = match self.find(&mut self.world(), key) {
            None => return Err(RuntimeError::NotFound),
            Some(fake) => fake.lines.len(),
        };
        let first = query.tail.map_or(0, |tail| count.saturating_sub(tail as usize));
        let (runtime, key, query) = (self.clone(), key.clone(), query.clone());
        let (follow, since) = (query.follow, query.since);
        let lines = stream::unfold((changes, first), move |(mut changes, next)| {
            let (runtime, key) = (runtime.clone(), key.clone());
            async move {
                loop {
                    let line =
                        runtime.find(&mut runtime.world(), &key).map(|fake| fake.lines.get(next).cloned());
                    match line {
                        Some(Some(line)) => return Some((line, (changes, next + 1))),
                        Some(None) if follow => changes.changed().await.ok()?,
                        Some(None) | None => return None,
                    }
                }
            }
        });
        let wanted = move |line: &LogLine| since.is_none_or(|since| line.at >= since);
        Ok(lines.filter(move |line| std::future::ready(wanted(line))).boxed())
    }

    async fn stats(&self, key: &ContainerKey) -> Result<Option<Stats>, RuntimeError> {
        self.enter().await?;
        let at = self.clock.now();
        let stats = Stats { at, cpu: Duration::ZERO, memory_bytes: 1 << 20, processes: 1 };
        Ok(self.is_running(key).then_some(stats))
    }

    async fn watch(&self) -> Result<BoxStream<'static, Hint>, RuntimeError> {
        self.enter().await?;
        let changes = self.engine.changes.subscribe();
        let hints = stream::unfold(changes, |mut changes| async move {
            changes.changed().await.ok()?;
            Some((Hint, changes))
        });
        Ok(hints.boxed())
    }

    async fn ping(&self) -> Result<(), RuntimeError> {
        self.enter().await
    }

    async fn engine_id(&self) -> Result<String, RuntimeError> {
        self.enter().await?;
        Ok("fake:1".to_owned())
    }

    fn unenforced(&self) -> Unenforced {
        vec!["everything: agents of a fake use nothing".to_owned()]
    }
}
