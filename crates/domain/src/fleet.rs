//! What to do so that what runs becomes what is wanted: a pure comparison, made anew on every pass.
//!
//! Invariants: the same input gives the same actions; past incarnations end first, so that at most one
//! container of an agent lives, and only the ended container of the last one is kept, for its log; nothing is decided about an agent whose containers could not be listed;
//! a container that is not recognised as ours is never acted upon.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::{
    agent::{Agent, Desired, Exit, Lifecycle, Reach, retry_is_due},
    id::{AgentId, AgentType, Incarnation, InstallationId},
    installation::base32,
    time::{Timestamp, after},
};

/// Which container: one per incarnation of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerKey {
    /// The agent.
    pub agent_id: AgentId,
    /// The agent's type, part of the name.
    pub agent_type: AgentType,
    /// The incarnation.
    pub incarnation: Incarnation,
}

impl ContainerKey {
    /// The container of an agent's present incarnation.
    #[must_use]
    pub fn of(agent: &Agent) -> Self {
        Self { agent_id: agent.id, agent_type: agent.agent_type.clone(), incarnation: agent.incarnation }
    }

    /// The container's name `aito-<type>-<6 characters>`, the `containerId` of the HTTP contract. The six are
    /// 30 bits of SHA-256 over installation, agent and incarnation: whoever knows these finds the container,
    /// and two servers that start the same incarnation collide at the engine instead of doubling it.
    #[must_use]
    pub fn name(&self, installation: InstallationId) -> String {
        let mut hash = Sha256::new();
        hash.update(b"aito container v1");
        hash.update(installation.0.as_bytes());
        hash.update(self.agent_id.0.as_bytes());
        hash.update(self.incarnation.0.to_be_bytes());
        let code = base32(&hash.finalize()[..4]);
        format!("aito-{}-{}", self.agent_type, &code[..6])
    }
}

/// What a runtime sees of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// It is being made; whether it will run is not known yet.
    Creating,
    /// It runs.
    Running,
    /// It ran and ended.
    Exited(Exit),
}

/// One container of this installation as a runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Which.
    pub key: ContainerKey,
    /// How it is.
    pub state: ContainerState,
}

/// One thing to do. The order in which [`plan`] gives them is the order to do them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Remove a container of a past incarnation; one that still lives is ended first, within the grace.
    Discard(ContainerKey),
    /// Record that incarnations up to this one are taken, and go on above it.
    Renumber(Incarnation),
    /// Complete the recorded start of the present incarnation.
    Start(ContainerKey),
    /// End a container: the recorded stop of the present incarnation, or the last one before it, which may not
    /// go on and whose log is kept.
    Stop(ContainerKey),
    /// Record how the present incarnation ended.
    RecordEnd(Exit),
    /// Record that nothing is left of an agent that should end.
    RecordGone,
    /// Begin the next incarnation: the pause after a failure is over.
    Retry,
    /// Record that the agent is not heard.
    RecordSilence,
}

/// What one agent needs now, and when to look again at the latest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentPlan {
    /// What to do, in order; the state is to be read again after each.
    pub actions: Vec<Action>,
    /// A moment at which something will be due, if one is known.
    pub look_again: Option<Timestamp>,
}

/// One agent as [`plan`] sees it.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// Its stored state.
    pub agent: &'a Agent,
    /// Everything of it that the runtime lists.
    pub containers: &'a [Container],
    /// When its present incarnation was last heard.
    pub last_heartbeat: Option<Timestamp>,
}

/// How long an agent may be silent before it counts as unreachable, for a given heartbeat interval: three
/// intervals, which two lost heartbeats do not exceed, and the time that a heartbeat may take from the server that
/// hears it to another one that decides (`relayed`).
#[must_use]
pub fn silence_bound(heartbeat_interval: Duration, relayed: Duration) -> Duration {
    heartbeat_interval.saturating_mul(3).saturating_add(relayed)
}

/// The container of the last incarnation before the present one, of those that are left.
#[must_use]
pub fn previous<'a>(agent: &Agent, containers: &'a [Container]) -> Option<&'a Container> {
    let past = containers.iter().filter(|container| {
        container.key.agent_id == agent.id && container.key.incarnation < agent.incarnation
    });
    past.max_by_key(|container| container.key.incarnation)
}

/// Compares what is wanted of one agent with what runs.
#[must_use]
pub fn plan(seen: &Seen<'_>, silence: Duration, now: Timestamp) -> AgentPlan {
    let agent = seen.agent;
    let mut out = AgentPlan::default();
    let ours = seen.containers.iter().filter(|container| container.key.agent_id == agent.id);
    if let Some(later) =
        ours.clone().map(|c| c.key.incarnation).filter(|seen| *seen > agent.incarnation).max()
    {
        // The store is behind what ran (a restored backup): take the number first, then they are past.
        out.actions.push(Action::Renumber(later));
        return out;
    }
    let last_past = previous(agent, seen.containers).map(|container| container.key.incarnation);
    let mut present = None;
    for container in ours {
        if container.key.incarnation == agent.incarnation {
            present = Some(container);
        } else if Some(container.key.incarnation) != last_past {
            out.actions.push(Action::Discard(container.key.clone()));
        } else if !matches!(container.state, ContainerState::Exited(_)) {
            out.actions.push(Action::Stop(container.key.clone()));
        }
    }
    let key = ContainerKey::of(agent);
    match (&agent.lifecycle, present.map(|container| &container.state)) {
        (Lifecycle::Inactive, Some(ContainerState::Running | ContainerState::Creating)) => {
            out.actions.push(Action::Stop(key));
        }
        (Lifecycle::Inactive, _) => {}

        (Lifecycle::Stopping { .. }, Some(ContainerState::Running | ContainerState::Creating)) => {
            out.actions.push(Action::Stop(key));
        }
        (Lifecycle::Stopping { .. }, Some(ContainerState::Exited(exit))) => {
            out.actions.push(Action::RecordEnd(exit.clone()));
        }
        (Lifecycle::Stopping { .. }, None) => out.actions.push(Action::RecordGone),

        (Lifecycle::Starting { .. }, None) => out.actions.push(Action::Start(key)),
        (Lifecycle::Active { .. }, None) => {
            out.actions.push(Action::RecordEnd(Exit::Lost("its container is gone".to_owned())));
        }
        (Lifecycle::Starting { .. } | Lifecycle::Active { .. }, Some(ContainerState::Exited(exit))) => {
            out.actions.push(Action::RecordEnd(exit.clone()));
        }
        (Lifecycle::Starting { since } | Lifecycle::Active { since }, Some(state)) => {
            if *state == ContainerState::Creating {
                // A start under way is looked at again soon; starting again is the runtime's to refuse.
                out.actions.push(Action::Start(key));
            }
            let heard = seen.last_heartbeat.map_or(*since, |at| at.max(*since));
            let due = after(heard, silence);
            if matches!(agent.reach, Reach::Unreachable { .. }) {
                // Known already.
            } else if due <= now {
                out.actions.push(Action::RecordSilence);
            } else {
                out.look_again = Some(due);
            }
        }

        (Lifecycle::Error { .. }, Some(ContainerState::Running | ContainerState::Creating)) => {
            // It failed as far as anybody knew and lives all the same: it must not go on unseen.
            out.actions.push(Action::Stop(key));
        }
        (Lifecycle::Error { since, retry_at, .. }, _) => match agent.desired {
            Desired::Running if retry_is_due(*since, *retry_at, now) => out.actions.push(Action::Retry),
            Desired::Running => out.look_again = Some(*retry_at),
            Desired::Stopped => {}
        },
    }
    out
}

#[cfg(test)]
mod tests;
