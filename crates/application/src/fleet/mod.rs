//! The fleet: what people ask of agents, and what they see of them.
//!
//! Invariants: a wish is committed before its effect is tried, and what could not be done is done by the loop;
//! a refusal that can be known beforehand leaves nothing changed; effects of one agent never overlap in this
//! process.

mod effects;
mod follow;
mod reconcile;
mod roster;
mod supervision;
mod view;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use aito_domain::{
    Cause,
    agent::{Agent, Refused, Transition},
    credential::AgentCredentials,
    event::Actor,
    fleet::ContainerKey,
    id::{AgentId, AgentType, InstallationId},
    ports::{
        agent_store::AgentStore,
        ledger::Change,
        runtime::{ContainerRuntime, LogLine, LogQuery, RuntimeError, Stats},
    },
    spec::{AgentSpec, SecretRef},
    time::{Timestamp, between},
};
use futures_util::stream::BoxStream;
use tokio::sync::Notify;

pub use roster::Roster;
pub use supervision::Supervises;
pub use view::{AgentView, ContainerStatus, ContainerView};

use crate::{
    by::By,
    error::{Error, Fault},
    heartbeat::HeartbeatService,
    metrics::Metrics,
    settings::SettingsService,
    writer::Writer,
};

/// How often the registration of an agent is tried in one go.
const REGISTER_TRIES: u32 = 12;

/// Reads the values of secrets when an agent is started; may block, so it is called on a thread that may.
pub trait Secrets: Send + Sync {
    /// The value, or one line that says what is missing.
    fn resolve(&self, secret: &SecretRef) -> Result<String, String>;
}

/// What the fleet service is made of.
pub struct FleetParts {
    /// Reads agents.
    pub agents: Arc<dyn AgentStore>,
    /// Runs them.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Writes changes.
    pub writer: Arc<Writer>,
    /// How agents are configured.
    pub roster: Arc<Roster>,
    /// Hears them.
    pub heartbeats: Arc<HeartbeatService>,
    /// Knows how often they loop.
    pub settings: Arc<SettingsService>,
    /// Reads their secrets.
    pub secrets: Arc<dyn Secrets>,
    /// Makes their credentials.
    pub credentials: AgentCredentials,
    /// Whose agents they are.
    pub installation: InstallationId,
    /// Where servers' sockets lie on this host.
    pub socket_dir: std::path::PathBuf,
    /// Where this server may act on containers.
    pub supervises: Supervises,
    /// How long a heartbeat may take to here from another server that heard it; zero where there is no other.
    pub relayed: Duration,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Starts, stops, shows and reconciles agents.
pub struct FleetService {
    parts: FleetParts,
    supervision: supervision::Supervision,
    listening: Mutex<reconcile::Listening>,
    observed: Mutex<view::Observed>,
    locks: Mutex<HashMap<AgentId, Arc<tokio::sync::Mutex<()>>>>,
    readings: Mutex<HashMap<ContainerKey, Stats>>,
    /// Containers of no known agent that were told of: once each.
    unknown: Mutex<HashSet<ContainerKey>>,
    look: Notify,
}

/// What an agent's container uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// The container's name.
    pub container_id: String,
    /// The reading.
    pub stats: Stats,
    /// Percent of one processor since the reading before; `None` for the first.
    pub cpu_percent: Option<f64>,
}

impl FleetService {
    /// A fleet of nobody yet; [`Self::register_configured`] makes the agents, [`Self::run`] keeps them.
    pub fn new(parts: FleetParts) -> Self {
        let now = parts.writer.clock().now();
        Self {
            supervision: supervision::Supervision::new(parts.supervises.clone()),
            parts,
            listening: Mutex::new(reconcile::Listening::new(now)),
            observed: Mutex::default(),
            locks: Mutex::default(),
            readings: Mutex::default(),
            unknown: Mutex::default(),
            look: Notify::new(),
        }
    }

    /// So that what is shown is what counts; settings that cannot be read are those that were read last.
    async fn look_at_settings(&self) {
        let _ = self.parts.settings.current().await;
    }

    /// Makes every configured agent that does not exist yet. Idempotent, and safe beside other servers.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn register_configured(&self) -> Result<(), Error> {
        for spec in self.parts.roster.all() {
            self.registered(spec).await?;
        }
        Ok(())
    }

    /// The agent of a specification, made if it does not exist yet.
    async fn registered(&self, spec: &AgentSpec) -> Result<Agent, Error> {
        for _ in 0..REGISTER_TRIES {
            if let Some(agent) = self.parts.agents.by_type(&spec.agent_type).await? {
                return Ok(agent);
            }
            let writer = &self.parts.writer;
            let now = writer.clock().now();
            let id = AgentId(writer.ids().uuid());
            let transition = Agent::register(id, spec.agent_type.clone(), spec.name.clone(), now);
            let mut commit = writer.begin();
            commit.changes.push(Change::Agent(Box::new(transition.agent)));
            writer.tell(&mut commit, Some(id), &Actor::System, transition.events, now);
            // A conflict means that somebody else made it: the next look finds it.
            writer.apply(&commit).await?;
        }
        Err(Error::unavailable(format!("agent {} could not be registered yet", spec.agent_type), None))
    }

    /// Starts an agent; running already is a success. Gives its container's name.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for what can never start as configured and
    /// [`Error::Unavailable`] for a runtime that is away, both with nothing changed; [`Error::Unavailable`]
    /// that says so when the wish is stored and the start will be tried again.
    pub async fn start(self: &Arc<Self>, agent_type: &AgentType, by: &By) -> Result<String, Error> {
        self.begin(agent_type, by, Agent::want_running).await
    }

    /// Restarts an agent, running or not. Gives its new container's name.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(self: &Arc<Self>, agent_type: &AgentType, by: &By) -> Result<String, Error> {
        self.begin(agent_type, by, Agent::want_restart).await
    }

    async fn begin(
        self: &Arc<Self>,
        agent_type: &AgentType,
        by: &By,
        wish: fn(Agent, Timestamp) -> Transition,
    ) -> Result<String, Error> {
        let agent = self.agent(agent_type).await?;
        let spec = self.spec(agent_type)?;
        let runtime = &self.parts.runtime;
        runtime.ping().await.map_err(|error| runtime_away(error, "nothing was done"))?;
        self.supervision.check(&**runtime).await?;
        runtime.check(spec).await.map_err(|error| match error {
            RuntimeError::Refused(what) => {
                Error::Invalid(vec![Fault::new("", format!("agent {agent_type} cannot start: {what}"))])
            }
            other => runtime_away(other, "nothing was done"),
        })?;
        self.secrets_of(spec).await.map_err(|what| {
            Error::Invalid(vec![Fault::new("", format!("agent {agent_type} cannot start: {what}"))])
        })?;
        let agent = self.parts.writer.agent(agent.id, by, |agent, now| Ok(wish(agent, now))).await?;
        let incarnation = agent.incarnation;
        let after = self.settle_agent(agent.id).await.map_err(|error| {
            Error::unavailable(
                format!("agent {agent_type} could not be started yet: {error}; it will be tried again"),
                Some(Cause::from(error)),
            )
        })?;
        let failed = match &after.lifecycle {
            aito_domain::agent::Lifecycle::Error { reason, .. } if after.incarnation == incarnation => {
                Some(reason)
            }
            _ => None,
        };
        if let Some(reason) = failed {
            return Err(Error::unavailable(
                format!("agent {agent_type} could not be started yet: {reason}; it will be tried again"),
                None,
            ));
        }
        Ok(ContainerKey::of(&after).name(self.parts.installation))
    }

    /// Stops an agent, gracefully and then by force; not running is a success.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unavailable`]: the runtime is away, the wish is stored and the stop will
    /// be tried again, or the store is away and nothing was done.
    pub async fn stop(self: &Arc<Self>, agent_type: &AgentType, by: &By) -> Result<(), Error> {
        let agent = self.agent(agent_type).await?;
        // An engine that is away refuses nothing: the wish is stored, and the effect waits for it.
        if self.parts.runtime.ping().await.is_ok() {
            self.supervision.check(&*self.parts.runtime).await?;
        }
        let agent = self.parts.writer.agent(agent.id, by, |agent, now| Ok(agent.want_stopped(now))).await?;
        self.settle_agent(agent.id).await.map_err(|error| {
            Error::unavailable(
                format!("agent {agent_type} could not be stopped yet: {error}; it will be tried again"),
                Some(Cause::from(error)),
            )
        })?;
        Ok(())
    }

    /// What a stored agent looks like at the moment.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unavailable`].
    pub async fn view(&self, agent_type: &AgentType) -> Result<AgentView, Error> {
        self.look_at_settings().await;
        Ok(self.show(self.agent(agent_type).await?))
    }

    /// What every agent looks like at the moment, ordered by type.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn views(&self) -> Result<Vec<AgentView>, Error> {
        self.look_at_settings().await;
        let mut agents = self.parts.agents.list().await?;
        let known = |spec: &AgentSpec| agents.iter().any(|agent| agent.agent_type == spec.agent_type);
        if !self.parts.roster.all().all(known) {
            self.register_configured().await?;
            agents = self.parts.agents.list().await?;
        }
        Ok(agents.into_iter().map(|agent| self.show(agent)).collect())
    }

    /// The stored agent of a type.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unavailable`].
    pub async fn agent(&self, agent_type: &AgentType) -> Result<Agent, Error> {
        let found = self.parts.agents.by_type(agent_type).await?;
        match (found, self.parts.roster.get(agent_type)) {
            (Some(agent), _) => Ok(agent),
            // Asked for before the start has come to make it.
            (None, Some(spec)) => self.registered(spec).await,
            (None, None) => Err(Error::NotFound(format!("there is no agent \"{agent_type}\""))),
        }
    }

    /// The stored agent with an id.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn agent_by_id(&self, id: AgentId) -> Result<Option<Agent>, Error> {
        Ok(self.parts.agents.by_id(id).await?)
    }

    /// How an agent is configured.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it exists and is not configured any more.
    pub fn spec(&self, agent_type: &AgentType) -> Result<&AgentSpec, Error> {
        self.parts.roster.get(agent_type).ok_or_else(|| {
            Error::Conflict(format!("agent \"{agent_type}\" is not in the configuration any more"))
        })
    }

    /// The log of an agent's present incarnation, or with `previous` of the last one before it that is kept;
    /// one that is followed goes on with the incarnations that come.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an agent that was never started or has no container; [`Error::Unavailable`].
    pub async fn logs(
        self: &Arc<Self>,
        agent_type: &AgentType,
        query: &LogQuery,
        previous: bool,
    ) -> Result<BoxStream<'static, LogLine>, Error> {
        let agent = self.agent(agent_type).await?;
        self.supervision.known_refusal()?;
        let none = |which| Error::NotFound(format!("agent \"{agent_type}\" has no {which}container"));
        let key = if previous {
            let listed = self.parts.runtime.list().await;
            let listed = listed.map_err(|error| runtime_away(error, "the log cannot be read"))?;
            let found = aito_domain::fleet::previous(&agent, &listed);
            found.ok_or_else(|| none("previous "))?.key.clone()
        } else {
            ContainerKey::of(&agent)
        };
        let lines = self.parts.runtime.logs(&key, query).await.map_err(|error| match error {
            RuntimeError::NotFound => none(""),
            other => runtime_away(other, "the log cannot be read"),
        })?;
        Ok(if query.follow { follow::follow(self.clone(), key, lines) } else { lines })
    }

    /// What an agent's container uses; `None` when it does not run.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unavailable`].
    pub async fn usage(&self, agent_type: &AgentType) -> Result<Option<Usage>, Error> {
        let key = ContainerKey::of(&self.agent(agent_type).await?);
        self.supervision.known_refusal()?;
        let stats = match self.parts.runtime.stats(&key).await {
            Ok(stats) => stats,
            Err(RuntimeError::NotFound) => None,
            Err(other) => return Err(runtime_away(other, "its use cannot be read")),
        };
        let mut readings = self.readings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Only the present incarnation's readings can be compared with a later one.
        readings.retain(|known, _| known.agent_id != key.agent_id || *known == key);
        let Some(stats) = stats else { return Ok(None) };
        let before = readings.insert(key.clone(), stats);
        let cpu_percent = before.and_then(|before| {
            let wall = between(before.at, stats.at).as_secs_f64();
            let used = stats.cpu.saturating_sub(before.cpu).as_secs_f64();
            (wall > 0.0).then(|| used / wall * 100.0)
        });
        Ok(Some(Usage { container_id: key.name(self.parts.installation), stats, cpu_percent }))
    }

    /// Whether this server may act on containers, as far as it knows: it sees no other engine than the installation's.
    pub fn may_supervise(&self) -> bool {
        !self.supervision.is_refused()
    }

    /// Says that something may have changed: the loop looks now.
    pub fn look(&self) {
        self.look.notify_one();
    }

    fn listening(&self) -> std::sync::MutexGuard<'_, reconcile::Listening> {
        // Every state of it is a good one.
        self.listening.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn secrets_of(&self, spec: &AgentSpec) -> Result<Vec<(String, String)>, String> {
        let (source, wanted) = (self.parts.secrets.clone(), spec.secrets.clone());
        let read = move || {
            let each = wanted.into_iter().map(|(name, secret)| match source.resolve(&secret) {
                Ok(value) => Ok((name, value)),
                Err(why) => Err(format!("its secret {name} ({secret}) cannot be read: {why}")),
            });
            each.collect()
        };
        // They may lie on a disk that does not answer.
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|_| Err("its secrets could not be read".to_owned()))
    }

    fn lock_of(&self, id: AgentId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        locks.entry(id).or_default().clone()
    }

    fn silence_bound(&self, agent_type: &AgentType) -> Duration {
        let interval =
            self.parts.roster.get(agent_type).map_or(Duration::from_secs(10), |spec| spec.heartbeat_interval);
        aito_domain::fleet::silence_bound(interval, self.parts.relayed)
    }
}

fn runtime_away(error: RuntimeError, done: &str) -> Error {
    Error::unavailable(format!("the container runtime is unavailable; {done}"), Some(error.into()))
}

fn refused(refused: Refused) -> Error {
    // Somebody else has moved the agent meanwhile: what was to be done has become moot.
    Error::Conflict(refused.to_string())
}
