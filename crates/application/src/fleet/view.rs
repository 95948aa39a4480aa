//! What people see of agents: stored state, last observation and last heartbeat put together.

use std::{collections::HashMap, time::Duration};

use aito_domain::{
    agent::{Agent, Health},
    fleet::{Container, ContainerKey, ContainerState},
    id::Incarnation,
    ports::heartbeats::Heartbeat,
    spec::AgentSpec,
};

use super::FleetService;
use crate::error::Error;

/// What the runtime says of an agent's container (HTTP contract, Agents).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerStatus {
    /// It runs.
    Running,
    /// It has ended and is still kept.
    Exited,
    /// There is none.
    Missing,
    /// It is being made, or the runtime has not been asked yet.
    Unknown,
}

impl ContainerStatus {
    /// The word of the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// The last that was seen of the runtime. Looks and changes are numbered in the order in which they began, so
/// that a slow listing hides nothing that was done or seen after it was asked for.
#[derive(Default)]
pub(super) struct Observed {
    containers: HashMap<ContainerKey, ContainerState>,
    /// The newest number.
    count: u64,
    /// The number of the look that `containers` comes from.
    look: u64,
    /// What became of containers after that look.
    changed: HashMap<ContainerKey, (u64, Option<ContainerState>)>,
    /// Whether the runtime was ever asked with success.
    asked: bool,
    /// Whether the last question failed.
    stale: bool,
}

impl Observed {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

/// An agent as it is shown.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// The stored state.
    pub agent: Agent,
    /// How it is configured; `None` when it is not any more.
    pub spec: Option<AgentSpec>,
    /// The last that was heard of it, whatever the incarnation.
    pub heartbeat: Option<Heartbeat>,
    /// Its container.
    pub container: ContainerStatus,
    /// Its container's name, if there is one.
    pub container_id: Option<String>,
    /// How it does.
    pub health: Health,
    /// Whether the runtime cannot be asked at the moment.
    pub stale: bool,
    /// Time between two of its loops; `None` when it is not configured any more.
    pub loop_interval: Option<Duration>,
}

/// A container as it is shown: one of ours, or one that only looks like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    /// Its name.
    pub name: String,
    /// The agent type that it belongs to, or claims.
    pub agent_type: Option<String>,
    /// The incarnation; `None` for a foreign one.
    pub incarnation: Option<Incarnation>,
    /// How it is.
    pub status: ContainerStatus,
    /// Whether it is the container of an agent's present incarnation.
    pub present: bool,
    /// Whose it is, when it is not of this installation.
    pub foreign: Option<String>,
}

impl FleetService {
    /// Every container of this installation, ordered by name, and then those that only look like it.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn containers(&self) -> Result<Vec<ContainerView>, Error> {
        let runtime = &self.parts.runtime;
        self.supervision.known_refusal()?;
        let away = |error| super::runtime_away(error, "its containers cannot be listed");
        let (agents, listed, foreign) =
            tokio::join!(self.parts.agents.list(), runtime.list(), runtime.foreign());
        let (agents, listed, foreign) = (agents?, listed.map_err(away)?, foreign.map_err(away)?);
        let mut views: Vec<_> = listed
            .into_iter()
            .map(|container| ContainerView {
                name: container.key.name(self.parts.installation),
                agent_type: Some(container.key.agent_type.to_string()),
                incarnation: Some(container.key.incarnation),
                status: status_of(&container.state),
                present: agents.iter().any(|agent| ContainerKey::of(agent) == container.key),
                foreign: None,
            })
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views.extend(foreign.into_iter().map(|foreign| ContainerView {
            name: foreign.name,
            agent_type: foreign.agent_type,
            incarnation: None,
            status: if foreign.running { ContainerStatus::Running } else { ContainerStatus::Exited },
            present: false,
            foreign: Some(foreign.whose),
        }));
        Ok(views)
    }

    pub(super) fn show(&self, agent: Agent) -> AgentView {
        let key = ContainerKey::of(&agent);
        let (container, stale) = {
            let observed = self.observed();
            let status = match observed.containers.get(&key) {
                Some(state) => status_of(state),
                None if observed.asked => ContainerStatus::Missing,
                None => ContainerStatus::Unknown,
            };
            (status, observed.stale)
        };
        let there = matches!(container, ContainerStatus::Running | ContainerStatus::Exited);
        let spec = self.parts.roster.get(&agent.agent_type).cloned();
        let policy = spec.as_ref().map(|spec| spec.restart).unwrap_or_default();
        let set = self.parts.settings.last_known().loop_interval(&agent.agent_type);
        AgentView {
            loop_interval: set.or(spec.as_ref().map(|spec| spec.loop_interval)),
            container_id: there.then(|| key.name(self.parts.installation)),
            heartbeat: self.parts.heartbeats.last(agent.id),
            health: agent.health(&policy, self.parts.writer.clock().now()),
            container,
            spec,
            stale,
            agent,
        }
    }

    /// Numbers a look that begins now.
    pub(super) fn begin_look(&self) -> u64 {
        self.observed().next()
    }

    /// Keeps what a listing showed that was asked for as `look`.
    pub(super) fn saw_all(&self, look: u64, containers: &[Container]) {
        let mut observed = self.observed();
        observed.asked = true;
        observed.stale = false;
        if look < observed.look {
            return;
        }
        observed.look = look;
        observed.changed.retain(|_, (number, _)| *number > look);
        let listed = containers.iter().map(|c| (c.key.clone(), Some(c.state.clone())));
        let since = observed.changed.iter().map(|(key, (_, state))| (key.clone(), state.clone()));
        // The later entry of a key counts.
        let all: HashMap<_, _> = listed.chain(since).collect();
        observed.containers = all.into_iter().filter_map(|(key, state)| Some((key, state?))).collect();
    }

    /// Keeps what became of one container; `None`: it is gone.
    pub(super) fn saw(&self, key: &ContainerKey, state: Option<ContainerState>) {
        let mut observed = self.observed();
        let number = observed.next();
        observed.changed.insert(key.clone(), (number, state.clone()));
        match state {
            Some(state) => observed.containers.insert(key.clone(), state),
            None => observed.containers.remove(key),
        };
    }

    /// What was seen last of a container; before anything was seen it counts as being made.
    pub(super) fn state_of(&self, key: &ContainerKey) -> Option<ContainerState> {
        let observed = self.observed();
        let unknown = (!observed.asked).then_some(ContainerState::Creating);
        observed.containers.get(key).cloned().or(unknown)
    }

    /// The newest container of a later incarnation of the same agent, as it was seen last.
    pub(super) fn later(&self, key: &ContainerKey) -> Option<ContainerKey> {
        let observed = self.observed();
        let later = observed
            .containers
            .keys()
            .filter(|other| other.agent_id == key.agent_id && other.incarnation > key.incarnation);
        later.max_by_key(|other| other.incarnation).cloned()
    }

    /// Keeps that the runtime did not answer; true when that is news.
    pub(super) fn saw_nothing(&self) -> bool {
        !std::mem::replace(&mut self.observed().stale, true)
    }

    /// Whether the runtime did not answer the last time.
    pub fn is_stale(&self) -> bool {
        self.observed().stale
    }

    fn observed(&self) -> std::sync::MutexGuard<'_, Observed> {
        // Every state of it is a good one.
        self.observed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn status_of(state: &ContainerState) -> ContainerStatus {
    match state {
        ContainerState::Running => ContainerStatus::Running,
        ContainerState::Exited(_) => ContainerStatus::Exited,
        ContainerState::Creating => ContainerStatus::Unknown,
    }
}
