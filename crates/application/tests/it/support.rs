//! A small company for tests: a SQLite store in a directory of its own, a runtime in memory that can be watched and
//! troubled, and servers over them that can be killed and replaced.
//!
//! Invariants: everything that a server keeps in memory is made anew with the server; what is durable belongs to the
//! house.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aito_application::{
    By, Error,
    domains::DomainService,
    fleet::{FleetParts, FleetService, Roster, Secrets, Supervises},
    heartbeat::{Beat, HeartbeatService},
    history::HistoryService,
    mailbox::MailService,
    metrics::Metrics,
    quota::{Allowance, Quotas},
    settings::SettingsService,
    state::StateService,
    tasks::TaskService,
    tokens::Randomness,
    writer::Writer,
};
use aito_contracts::{
    clock::{ManualClock, SeqIds},
    runtime::spec,
    runtime_fake::FakeRuntime,
    wait,
};
use aito_domain::{
    agent::{Agent, Status},
    credential::AgentCredentials,
    event::{Actor, Event, Payload},
    fleet::{Container, ContainerKey, ContainerState},
    id::{AgentId, AgentType, CommitId, Incarnation, InstallationId},
    installation::{Epoch, InstallationKey, InstallationRecord, RuntimeKind},
    ports::{
        agent_store::AgentStore,
        clock::IdSource,
        event_log::EventLog,
        heartbeats::Heartbeats,
        installation_store::InstallationStore as _,
        ledger::{Commit, CommitError, Ledger, Settled},
        runtime::{
            ContainerRuntime, Foreign, Hint, LogLine, LogQuery, RuntimeError, Start, Started, Stats, Stopped,
            Unenforced,
        },
    },
    setting::{Registry, SettingsKey},
    spec::{AgentSpec, RestartPolicy, SecretRef},
    time::Timestamp,
};
use aito_embedded::{
    bus::LocalBus,
    sqlite::{Options, SqliteStore},
};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a test waits for what must come.
pub const SOON: Duration = Duration::from_secs(20);

pub fn installation() -> InstallationId {
    InstallationId(Uuid::from_u128(1))
}

pub fn epoch() -> Epoch {
    "test".parse().unwrap()
}

pub fn ty(name: &str) -> AgentType {
    name.parse().unwrap()
}

pub fn operator() -> By {
    By::author(Actor::Token("ops".to_owned()))
}

pub fn policy() -> RestartPolicy {
    RestartPolicy {
        initial: Duration::from_millis(500),
        max: Duration::from_secs(8),
        reset_after: Duration::from_secs(600),
        crash_loop_after: 3,
    }
}

/// How the agents of the house are configured: heartbeats every 10 s, restarts by [`policy`].
pub fn spec_of(name: &str) -> AgentSpec {
    AgentSpec { restart: policy(), grace: Duration::from_secs(1), ..spec(&ty(name)) }
}

/// What a server is given of the house, or something in front of it.
pub struct Parts {
    pub ledger: Arc<dyn Ledger>,
    pub heartbeats: Arc<dyn Heartbeats>,
    pub agents: Arc<dyn AgentStore>,
    pub supervises: Supervises,
}

/// What outlives servers.
pub struct House {
    pub clock: Arc<ManualClock>,
    pub store: Arc<SqliteStore>,
    pub log: Arc<dyn EventLog>,
    pub bus: Arc<LocalBus>,
    pub engine: FakeRuntime,
    pub runtime: Arc<Probe>,
    servers: AtomicU32,
    _dir: TempDir,
}

impl House {
    /// Nobody lives in it yet, and its clock stands still.
    pub fn new() -> Self {
        Self::with(ManualClock::new())
    }

    /// As [`Self::new`], on a clock that passes when somebody sleeps.
    pub fn automatic() -> Self {
        Self::with(ManualClock::automatic())
    }

    fn with(clock: ManualClock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(clock);
        let store = SqliteStore::open(Options::new(dir.path().join("store"), clock.clone())).unwrap();
        let engine = FakeRuntime::new(clock.clone()).of_installation(installation());
        Self {
            log: store.log(epoch()),
            bus: Arc::new(LocalBus::new()),
            runtime: Arc::new(Probe::new(engine.clone())),
            servers: AtomicU32::new(0),
            _dir: dir,
            engine,
            store,
            clock,
        }
    }

    /// Ids that no other server of the house makes.
    pub fn ids(&self) -> Arc<dyn IdSource> {
        let seed = self.servers.fetch_add(1, Ordering::Relaxed);
        Arc::new(SeqIds::new(self.clock.clone(), seed))
    }

    /// A writer of its own.
    pub fn writer(&self, ledger: Arc<dyn Ledger>) -> Writer {
        Writer::new(ledger, self.store.clone(), self.clock.clone(), self.ids(), Arc::default())
    }

    /// A server for these agents, which are registered.
    pub async fn server(&self, names: &[&str]) -> Server {
        self.server_of(names.iter().map(|name| spec_of(name)), self.store.clone(), self.store.clone()).await
    }

    pub async fn server_of(
        &self,
        specs: impl IntoIterator<Item = AgentSpec>,
        ledger: Arc<dyn Ledger>,
        heartbeats: Arc<dyn Heartbeats>,
    ) -> Server {
        let parts = Parts { ledger, heartbeats, agents: self.store.clone(), supervises: Supervises::Here };
        self.server_on(specs, parts).await
    }

    /// A server that acts on containers only on the engine that the store names.
    pub async fn supervisor_of(&self, names: &[&str], engine: &str) -> Server {
        let record = InstallationRecord {
            id: installation(),
            epoch: epoch(),
            key_fingerprint: "0123456789abcdef".to_owned(),
            runtime: RuntimeKind::Docker,
            engine_id: engine.to_owned(),
        };
        self.store.create(&record).await.unwrap();
        let (ledger, heartbeats, agents) = (self.store.clone(), self.store.clone(), self.store.clone());
        let supervises = Supervises::TheEngineOf(self.store.clone());
        let parts = Parts { ledger, heartbeats, agents, supervises };
        self.server_on(names.iter().map(|name| spec_of(name)), parts).await
    }

    pub async fn server_on(&self, specs: impl IntoIterator<Item = AgentSpec>, parts: Parts) -> Server {
        let Parts { ledger, heartbeats, agents, supervises } = parts;
        let metrics = Arc::new(Metrics::new());
        let roster = Arc::new(Roster::new(specs));
        let writer =
            Arc::new(Writer::new(ledger, agents.clone(), self.clock.clone(), self.ids(), metrics.clone()));
        let (_, news) = watch::channel(0);
        let settings = Arc::new(SettingsService::new(
            self.store.clone(),
            writer.clone(),
            Registry::new(roster.all().map(|spec| (spec.agent_type.clone(), spec.loop_interval))),
            SettingsKey::new(&InstallationKey::new([1; 32]), installation()),
            Arc::new(Counting::default()),
        ));
        let mail = Arc::new(MailService::new(
            self.store.clone(),
            self.store.clone(),
            writer.clone(),
            settings.clone(),
            news,
        ));
        let tasks = Arc::new(TaskService::new(
            self.store.clone(),
            self.store.clone(),
            writer.clone(),
            settings.clone(),
            mail.clone(),
        ));
        let domains = Arc::new(DomainService::new(self.store.clone(), writer.clone(), mail.clone()));
        let heartbeats = Arc::new(HeartbeatService::new(
            heartbeats,
            writer.clone(),
            roster.clone(),
            settings.clone(),
            mail.clone(),
            metrics.clone(),
        ));
        let fleet = Arc::new(FleetService::new(FleetParts {
            agents,
            runtime: self.runtime.clone(),
            writer: writer.clone(),
            roster,
            heartbeats: heartbeats.clone(),
            settings: settings.clone(),
            secrets: Arc::new(NoSecrets),
            credentials: AgentCredentials::new(&InstallationKey::new([1; 32]), installation(), &epoch()),
            installation: installation(),
            socket_dir: std::env::temp_dir(),
            supervises,
            relayed: Duration::ZERO,
            metrics,
        }));
        heartbeats.load().await.unwrap();
        // Under injected faults the first tries may fail, as at a real start.
        wait::until("the agents' registration", SOON, async || {
            let registered = fleet.register_configured().await.ok();
            if registered.is_none() {
                self.clock.advance_at_once(Duration::from_millis(300));
            }
            registered
        })
        .await;
        let history = HistoryService::new(self.store.clone(), writer.clone());
        let notes = StateService::new(self.store.clone(), writer.clone());
        let quotas = self.quotas(Allowance::default());
        let work = Work { settings, mail, tasks, domains, notes, quotas };
        Server { fleet, heartbeats, history, work, writer, running: None }
    }

    /// Counts what agents of the house store.
    pub fn quotas(&self, allowance: Allowance) -> Quotas {
        Quotas::new(self.store.clone(), self.store.clone(), self.clock.clone(), allowance)
    }

    pub async fn agent(&self, name: &str) -> Agent {
        self.store.by_type(&ty(name)).await.unwrap().expect("it is registered")
    }

    /// The whole log.
    pub async fn events(&self) -> Vec<Event> {
        self.log.after(0, 100_000).await.unwrap()
    }

    /// The types of all events about an agent, in order, without its registration.
    pub async fn told(&self, name: &str) -> Vec<String> {
        let id = self.agent(name).await.id;
        let all = self.events().await.into_iter().filter(|event| event.source_agent == Some(id));
        all.map(|event| event.event_type).filter(|event_type| event_type != "agent_registered").collect()
    }

    /// Every agent in a running container reports once. One that is told that it is past ends, as real ones do.
    pub async fn beat(&self, server: &Server) {
        for container in self.engine.list().await.unwrap_or_default() {
            if container.state != ContainerState::Running {
                continue;
            }
            let Some(agent) = self.store.by_id(container.key.agent_id).await.unwrap() else { continue };
            let heard = server.heartbeats.heard(agent, container.key.incarnation, Beat::default()).await;
            if matches!(heard, Err(Error::PastIncarnation { .. })) {
                self.engine.exit_now(&container.key, aito_domain::agent::Exit::Code(0));
            }
        }
    }

    /// Waits until an agent has a status.
    pub async fn until_status(&self, name: &str, status: Status) -> Agent {
        wait::until(&format!("{name} to be {status:?}"), SOON, async || {
            Some(self.agent(name).await).filter(|agent| agent.status() == status)
        })
        .await
    }

    /// Waits until the server's loop has looked, from beginning to end, at least twice from now on.
    pub async fn until_looked(&self, server: &Server) {
        for _ in 0..3 {
            let before = self.runtime.lists();
            server.fleet.look();
            wait::until("the loop to look", SOON, async || (self.runtime.lists() > before).then_some(()))
                .await;
        }
    }

    /// Waits until nobody but the loop sleeps, and it until that time.
    pub async fn until_asleep_till(&self, at: Timestamp) {
        let what = format!("the loop to sleep until {at}");
        wait::until(&what, SOON, async || (self.clock.next_due() == Some(at)).then_some(())).await;
    }

    /// Waits until the loop, and nobody else, sleeps.
    pub async fn until_asleep(&self) {
        wait::until("the loop to sleep", SOON, async || (self.clock.sleepers() == 1).then_some(())).await;
    }

    pub async fn store_of_agents(&self) -> Vec<Agent> {
        AgentStore::list(&*self.store).await.unwrap()
    }

    /// Every container of an agent that is kept.
    pub async fn listed(&self, name: &str) -> Vec<Incarnation> {
        let agent_type = ty(name);
        let all = self.engine.list().await.unwrap().into_iter();
        let mut listed: Vec<_> = all
            .filter(|c| c.key.agent_type == agent_type)
            .map(|container| container.key.incarnation)
            .collect();
        listed.sort();
        listed
    }

    pub async fn running(&self, name: &str) -> Vec<Incarnation> {
        let agent_type = ty(name);
        let all = self.engine.list().await.unwrap().into_iter();
        let running = all.filter(|c| c.key.agent_type == agent_type && c.state == ContainerState::Running);
        let mut running: Vec<_> = running.map(|container| container.key.incarnation).collect();
        running.sort();
        running
    }
}

/// Lets the house's clock pass while it exists.
pub struct Passing {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl House {
    /// Lets time pass from now on: `step` every few milliseconds.
    pub fn passing(&self, step: Duration) -> Passing {
        let (clock, over) = (self.clock.clone(), Arc::new(AtomicBool::new(false)));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            wait::until_sync("the end of the test", Duration::from_secs(600), || {
                clock.advance_at_once(step);
                ended.load(Ordering::SeqCst).then_some(())
            });
        });
        Passing { over, thread: Some(thread) }
    }
}

struct NoSecrets;

impl Secrets for NoSecrets {
    fn resolve(&self, secret: &SecretRef) -> Result<String, String> {
        match secret {
            SecretRef::Env(name) if name == "THERE" => Ok("a value".to_owned()),
            _ => Err("it is not set".to_owned()),
        }
    }
}

/// Random bits that are never the same and never surprise.
#[derive(Default)]
pub struct Counting(AtomicU64);

impl Randomness for Counting {
    fn secret(&self) -> Result<[u8; 32], String> {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Ok(bytes)
    }
}

/// The daily paths of a server.
pub struct Work {
    pub settings: Arc<SettingsService>,
    pub mail: Arc<MailService>,
    pub tasks: Arc<TaskService>,
    pub domains: Arc<DomainService>,
    pub notes: StateService,
    pub quotas: Quotas,
}

/// What one process keeps in memory.
pub struct Server {
    pub fleet: Arc<FleetService>,
    pub heartbeats: Arc<HeartbeatService>,
    pub history: HistoryService,
    pub work: Work,
    pub writer: Arc<Writer>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Server {
    /// Begins the reconcile loop.
    pub fn run(&mut self) {
        let stop = CancellationToken::new();
        let running = tokio::spawn(self.fleet.clone().run(stop.clone()));
        self.running = Some((stop, running));
    }

    /// Ends the reconcile loop as a shutdown does.
    pub async fn stop(&mut self) {
        if let Some((stop, running)) = self.running.take() {
            stop.cancel();
            running.await.unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((_, running)) = self.running.take() {
            running.abort();
        }
    }
}

/// How a call of the runtime is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Certainly not done.
    Unavailable,
    /// Not done, and the caller cannot know.
    UnknownNotDone,
    /// Done, and the caller cannot know.
    UnknownDone,
}

/// The fake runtime, watched: counts calls, finds doubles, fails on demand.
pub struct Probe {
    inner: FakeRuntime,
    lists: AtomicU64,
    starts: AtomicU64,
    stops: AtomicU64,
    start_trouble: Mutex<Option<Trouble>>,
    random: Mutex<Option<(StdRng, f64)>>,
    gate: Mutex<Option<Gate>>,
    start_gate: Mutex<Option<Gate>>,
    doubles: Mutex<Vec<String>>,
    conflicts: AtomicU64,
    watch_ends: AtomicBool,
    watches: AtomicU64,
}

pub struct Gate {
    reached: oneshot::Sender<()>,
    open: oneshot::Receiver<()>,
}

/// A call that is held: it has begun when `reached` gives, and goes on when `open` is used or dropped.
pub struct Held {
    pub reached: oneshot::Receiver<()>,
    pub open: oneshot::Sender<()>,
}

pub fn gate() -> (Gate, Held) {
    let (reached, was_reached) = oneshot::channel();
    let (open, opened) = oneshot::channel();
    (Gate { reached, open: opened }, Held { reached: was_reached, open })
}

impl Probe {
    fn new(inner: FakeRuntime) -> Self {
        Self {
            inner,
            lists: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            stops: AtomicU64::new(0),
            start_trouble: Mutex::default(),
            random: Mutex::default(),
            gate: Mutex::default(),
            start_gate: Mutex::default(),
            doubles: Mutex::default(),
            conflicts: AtomicU64::new(0),
            watch_ends: false.into(),
            watches: AtomicU64::new(0),
        }
    }

    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::SeqCst)
    }

    /// How often a start was asked for.
    pub fn starts(&self) -> u64 {
        self.starts.load(Ordering::SeqCst)
    }

    pub fn stops(&self) -> u64 {
        self.stops.load(Ordering::SeqCst)
    }

    /// How often hints were asked for.
    pub fn watches(&self) -> u64 {
        self.watches.load(Ordering::SeqCst)
    }

    /// Moments at which two containers of one agent lived, one line each.
    pub fn doubles(&self) -> Vec<String> {
        lock(&self.doubles).clone()
    }

    /// How often a start was refused because of what else runs.
    pub fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::SeqCst)
    }

    /// Every start fails like this, until it is changed.
    pub fn trouble_starts(&self, trouble: Option<Trouble>) {
        *lock(&self.start_trouble) = trouble;
    }

    /// So many calls of a hundred fail, in one of the three ways, by seed.
    pub fn trouble_all(&self, seed: u64, percent: u32) {
        let random = StdRng::seed_from_u64(seed);
        *lock(&self.random) = (percent > 0).then(|| (random, f64::from(percent) / 100.0));
    }

    /// The streams of hints end at once.
    pub fn end_watches(&self) {
        self.watch_ends.store(true, Ordering::SeqCst);
    }

    /// The next listing is taken and then held back.
    pub fn hold_next_list(&self) -> Held {
        let (gate, held) = gate();
        *lock(&self.gate) = Some(gate);
        held
    }

    /// The next start is held before it does anything.
    pub fn hold_next_start(&self) -> Held {
        let (gate, held) = gate();
        *lock(&self.start_gate) = Some(gate);
        held
    }

    fn draw(&self) -> Option<Trouble> {
        let mut random = lock(&self.random);
        let (random, rate) = random.as_mut()?;
        if !random.random_bool(*rate) {
            return None;
        }
        Some([Trouble::Unavailable, Trouble::UnknownNotDone, Trouble::UnknownDone][random.random_range(0..3)])
    }

    async fn troubled<T>(
        &self,
        trouble: Option<Trouble>,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        let unknown = || RuntimeError::Unknown("injected".into());
        match trouble {
            None => call.await,
            Some(Trouble::Unavailable) => Err(RuntimeError::Unavailable("injected".into())),
            Some(Trouble::UnknownNotDone) => Err(unknown()),
            Some(Trouble::UnknownDone) => {
                call.await?;
                Err(unknown())
            }
        }
    }

    async fn start(&self, start: &Start) -> Result<Started, RuntimeError> {
        let result = self.inner.ensure_started(start).await;
        if matches!(result, Err(RuntimeError::Conflict(_))) {
            self.conflicts.fetch_add(1, Ordering::SeqCst);
        }
        let mut alive: HashMap<AgentId, Vec<Incarnation>> = HashMap::new();
        for container in self.inner.list().await.unwrap_or_default() {
            if container.state == ContainerState::Running {
                alive.entry(container.key.agent_id).or_default().push(container.key.incarnation);
            }
        }
        let doubled = alive.get(&start.key.agent_id).filter(|incarnations| incarnations.len() > 1);
        if let Some(incarnations) = doubled {
            lock(&self.doubles).push(format!("{}: {incarnations:?}", start.key.agent_type));
        }
        result
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub async fn pass(gate: Option<Gate>) {
    if let Some(Gate { reached, open }) = gate {
        let _ = reached.send(());
        let _ = open.await;
    }
}

#[async_trait]
impl ContainerRuntime for Probe {
    fn kind(&self) -> RuntimeKind {
        self.inner.kind()
    }

    async fn check(&self, spec: &AgentSpec) -> Result<(), RuntimeError> {
        self.inner.check(spec).await
    }

    async fn ensure_started(&self, start: &Start) -> Result<Started, RuntimeError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        let gate = lock(&self.start_gate).take();
        pass(gate).await;
        let trouble = lock(&self.start_trouble).or_else(|| self.draw());
        self.troubled(trouble, self.start(start)).await
    }

    async fn ensure_stopped(&self, key: &ContainerKey, grace: Duration) -> Result<Stopped, RuntimeError> {
        self.stops.fetch_add(1, Ordering::SeqCst);
        self.troubled(self.draw(), self.inner.ensure_stopped(key, grace)).await
    }

    async fn remove(&self, key: &ContainerKey) -> Result<(), RuntimeError> {
        self.troubled(self.draw(), self.inner.remove(key)).await
    }

    async fn foreign(&self) -> Result<Vec<Foreign>, RuntimeError> {
        self.inner.foreign().await
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        let listed = self.troubled(self.draw(), self.inner.list()).await;
        let gate = lock(&self.gate).take();
        pass(gate).await;
        listed
    }

    async fn logs(
        &self,
        key: &ContainerKey,
        query: &LogQuery,
    ) -> Result<BoxStream<'static, LogLine>, RuntimeError> {
        self.inner.logs(key, query).await
    }

    async fn stats(&self, key: &ContainerKey) -> Result<Option<Stats>, RuntimeError> {
        self.inner.stats(key).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Hint>, RuntimeError> {
        self.watches.fetch_add(1, Ordering::SeqCst);
        if self.watch_ends.load(Ordering::SeqCst) {
            return Ok(Box::pin(futures_util::stream::empty()));
        }
        self.inner.watch().await
    }

    async fn ping(&self) -> Result<(), RuntimeError> {
        self.inner.ping().await
    }

    async fn engine_id(&self) -> Result<String, RuntimeError> {
        self.inner.engine_id().await
    }

    fn unenforced(&self) -> Unenforced {
        self.inner.unenforced()
    }
}

/// What a scripted ledger does with the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Fine,
    Conflict,
    Unavailable,
    /// Applied, and the answer is lost.
    UnknownApplied,
    /// Lost with its answer.
    UnknownLost,
}

/// A ledger that does what it is told, one commit after the other, and then goes on without fault.
pub struct Scripted {
    inner: Arc<dyn Ledger>,
    next: Mutex<VecDeque<Next>>,
    mute_settles: AtomicUsize,
    settles: AtomicUsize,
    commits: AtomicUsize,
}

impl Scripted {
    pub fn new(inner: Arc<dyn Ledger>, next: impl IntoIterator<Item = Next>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            next: Mutex::new(next.into_iter().collect()),
            mute_settles: AtomicUsize::new(0),
            settles: AtomicUsize::new(0),
            commits: AtomicUsize::new(0),
        })
    }

    pub fn then(&self, next: impl IntoIterator<Item = Next>) {
        lock(&self.next).extend(next);
    }

    /// The next so many questions after a commit are not answered.
    pub fn mute_settles(&self, count: usize) {
        self.mute_settles.store(count, Ordering::SeqCst);
    }

    pub fn settles(&self) -> usize {
        self.settles.load(Ordering::SeqCst)
    }

    /// How many commits were tried.
    pub fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Ledger for Scripted {
    async fn commit(&self, commit: &Commit) -> Result<Option<serde_json::Value>, CommitError> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        let next = lock(&self.next).pop_front().unwrap_or(Next::Fine);
        match next {
            Next::Fine => self.inner.commit(commit).await,
            Next::Conflict => Err(CommitError::Conflict("somebody".to_owned())),
            Next::Unavailable => Err(CommitError::Unavailable("scripted".into())),
            Next::UnknownApplied => {
                self.inner.commit(commit).await?;
                Err(CommitError::Unknown("scripted: applied".into()))
            }
            Next::UnknownLost => Err(CommitError::Unknown("scripted: lost".into())),
        }
    }

    async fn settle(&self, id: CommitId) -> Result<Settled, CommitError> {
        self.settles.fetch_add(1, Ordering::SeqCst);
        let muted =
            self.mute_settles.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if muted.is_ok() {
            return Err(CommitError::Unavailable("scripted: mute".into()));
        }
        self.inner.settle(id).await
    }
}

/// Positions are 1, 2, 3 and so on.
pub fn assert_no_holes(events: &[Event]) {
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.position.n, index as u64 + 1, "a hole or a double before {event:?}");
    }
}

/// Replays what the log tells of every agent, refuses stories that cannot be, and gives where each one ends.
pub fn replayed(events: &[Event]) -> BTreeMap<AgentId, (Status, Incarnation)> {
    let mut known: BTreeMap<AgentId, (Status, Incarnation)> = BTreeMap::new();
    for event in events {
        let Some(id) = event.source_agent else { continue };
        let payload = event.payload();
        if let Payload::AgentRegistered(_) = payload {
            assert!(
                known.insert(id, (Status::Inactive, Incarnation(0))).is_none(),
                "registered twice: {event:?}"
            );
            continue;
        }
        let Some((status, present)) = known.get(&id).copied() else { panic!("not registered: {event:?}") };
        let lives = matches!(status, Status::Starting | Status::Active);
        let (next, about, possible) = match &payload {
            Payload::AgentStarting(it) => {
                assert!(it.incarnation > present, "begins twice or goes back: {event:?}");
                (it.status, it.incarnation, true)
            }
            Payload::AgentStarted(it) => (it.status, it.incarnation, status == Status::Starting),
            Payload::AgentUnreachable(it) => (it.status, it.incarnation, lives && it.status == status),
            Payload::AgentRecovered(it) => (it.status, it.incarnation, status == Status::Active),
            Payload::AgentStopping(it) => {
                (it.status, it.incarnation, !matches!(status, Status::Stopping | Status::Inactive))
            }
            Payload::AgentStopped(it) => (it.status, it.incarnation, status == Status::Stopping),
            Payload::AgentError(it) => (it.status, it.incarnation, lives),
            Payload::AgentFocusChanged(_) | Payload::HistoryRecorded(_) => (status, present, true),
            _ => panic!("not expected: {event:?}"),
        };
        assert!(possible, "cannot be while it is {status:?}: {event:?}");
        assert!(
            matches!(payload, Payload::AgentStarting(_)) || about == present,
            "of another incarnation: {event:?}"
        );
        known.insert(id, (next, about));
    }
    known
}

/// What the log tells is what is stored.
pub async fn assert_story(house: &House) {
    let events = house.events().await;
    assert_no_holes(&events);
    let told = replayed(&events);
    for agent in house.store.list().await.unwrap() {
        assert_eq!(told.get(&agent.id), Some(&(agent.status(), agent.incarnation)), "{agent:?}");
    }
}
