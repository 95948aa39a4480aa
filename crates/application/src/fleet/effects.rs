//! Carries out one action of a plan: an effect on the runtime, or a commit that records what was seen.
//!
//! Invariant: what an effect reports is put into the caller's listing, so that the next plan sees it; a
//! record is decided on the state that was read, by the aggregate, and refused there when it is moot.

use aito_domain::{
    agent::{Agent, Refused, Transition},
    credential::AgentClaim,
    fleet::{Action, Container, ContainerKey, ContainerState},
    ports::runtime::{RuntimeError, Secret, Start, Started, Stopped},
    spec::{AgentSpec, RestartPolicy},
    time::Timestamp,
};
use tracing::{info, warn};

use super::{FleetService, refused};
use crate::{by::By, error::Error};

impl FleetService {
    /// Does it, and gives the agent as it is afterwards.
    pub(super) async fn act(
        &self,
        agent: Agent,
        action: Action,
        containers: &mut Vec<Container>,
    ) -> Result<Agent, Error> {
        let policy = self.parts.roster.get(&agent.agent_type).map(|spec| spec.restart).unwrap_or_default();
        match action {
            Action::Discard(key) => {
                self.discard(&key).await?;
                containers.retain(|container| container.key != key);
                Ok(agent)
            }
            Action::Start(key) => self.start_container(agent, key, &policy, containers).await,
            Action::Stop(key) => {
                let state = self.stop_container(&agent, &key).await?;
                set(containers, &key, state);
                Ok(agent)
            }
            Action::Renumber(seen) => self.record(&agent, move |a, now| a.renumber(seen, now)).await,
            Action::RecordEnd(exit) => {
                info!(agent = %agent.agent_type, incarnation = %agent.incarnation, %exit, "agent ended");
                let incarnation = agent.incarnation;
                self.record(&agent, move |a, now| a.ended(incarnation, exit.clone(), &policy, now)).await
            }
            Action::RecordGone => self.record(&agent, Agent::gone).await,
            Action::Retry => self.record(&agent, Agent::retry).await,
            Action::RecordSilence => {
                warn!(agent = %agent.agent_type, incarnation = %agent.incarnation, "agent is not heard any more");
                self.record(&agent, Agent::silent).await
            }
        }
    }

    async fn start_container(
        &self,
        agent: Agent,
        key: ContainerKey,
        policy: &RestartPolicy,
        containers: &mut Vec<Container>,
    ) -> Result<Agent, Error> {
        let incarnation = key.incarnation;
        let failed = |reason: String| {
            let policy = *policy;
            move |a: Agent, now| a.start_failed(incarnation, reason.clone(), &policy, now)
        };
        let start = match self.spec(&agent.agent_type) {
            Ok(spec) => self.start_of(&key, spec).await,
            Err(error) => Err(error.to_string()),
        };
        let start = match start {
            Ok(start) => start,
            Err(why) => return self.record(&agent, failed(why)).await,
        };
        match self.parts.runtime.ensure_started(&start).await {
            Ok(started) => {
                self.parts.metrics.effect("start", true);
                let state = match started {
                    Started::Now | Started::AlreadyRunning => {
                        info!(agent = %agent.agent_type, %incarnation, "container runs");
                        ContainerState::Running
                    }
                    Started::AlreadyEnded(exit) => ContainerState::Exited(exit),
                };
                self.saw(&key, Some(state.clone()));
                set(containers, &key, Some(state));
                Ok(agent)
            }
            // The next try takes the next incarnation, and with it another name.
            Err(error @ (RuntimeError::Refused(_) | RuntimeError::Conflict(_))) => {
                self.parts.metrics.effect("start", false);
                warn!(agent = %agent.agent_type, %incarnation, %error, "agent cannot be started");
                self.record(&agent, failed(error.to_string())).await
            }
            Err(error) => Err(self.effect_failed("start", error)),
        }
    }

    async fn start_of(&self, key: &ContainerKey, spec: &AgentSpec) -> Result<Start, String> {
        let seconds = |length: std::time::Duration| Secret(length.as_secs().max(1).to_string());
        let mut env: Vec<(String, Secret)> =
            spec.env.iter().map(|(name, value)| (name.clone(), Secret(value.clone()))).collect();
        env.extend(self.secrets_of(spec).await?.into_iter().map(|(name, value)| (name, Secret(value))));
        env.extend([
            ("AGENT_ID".to_owned(), Secret(key.agent_id.to_string())),
            ("AGENT_TYPE".to_owned(), Secret(key.agent_type.to_string())),
            ("AGENT_INCARNATION".to_owned(), Secret(key.incarnation.to_string())),
            ("LOOP_INTERVAL".to_owned(), seconds(spec.loop_interval)),
            ("HEARTBEAT_INTERVAL".to_owned(), seconds(spec.heartbeat_interval)),
            ("AGENT_GRACE".to_owned(), seconds(spec.grace)),
        ]);
        let claim = AgentClaim { agent_id: key.agent_id, incarnation: key.incarnation };
        Ok(Start {
            key: key.clone(),
            spec: spec.clone(),
            env,
            credential: Secret(self.parts.credentials.mint(claim)),
            socket_dir: self.parts.socket_dir.clone(),
        })
    }

    async fn stop_container(
        &self,
        agent: &Agent,
        key: &ContainerKey,
    ) -> Result<Option<ContainerState>, Error> {
        let grace =
            self.parts.roster.get(&agent.agent_type).map_or(std::time::Duration::from_secs(10), |s| s.grace);
        let stopped = self.parts.runtime.ensure_stopped(key, grace).await;
        let state = match stopped.map_err(|error| self.effect_failed("stop", error))? {
            Stopped::Ended(exit) => Some(ContainerState::Exited(exit)),
            Stopped::NotThere => None,
        };
        self.parts.metrics.effect("stop", true);
        self.saw(key, state.clone());
        Ok(state)
    }

    async fn discard(&self, key: &ContainerKey) -> Result<(), Error> {
        let grace =
            self.parts.roster.get(&key.agent_type).map_or(std::time::Duration::from_secs(10), |s| s.grace);
        let runtime = &self.parts.runtime;
        runtime.ensure_stopped(key, grace).await.map_err(|error| self.effect_failed("stop", error))?;
        runtime.remove(key).await.map_err(|error| self.effect_failed("remove", error))?;
        self.parts.metrics.effect("remove", true);
        self.saw(key, None);
        Ok(())
    }

    /// Commits what was seen of `agent`, unless another incarnation has begun meanwhile: nothing that was seen
    /// is about that one.
    async fn record<F>(&self, agent: &Agent, decide: F) -> Result<Agent, Error>
    where
        F: Fn(Agent, Timestamp) -> Result<Transition, Refused>,
    {
        let said = agent.incarnation;
        let decide = |agent: Agent, now| {
            let present = agent.incarnation;
            if present == said { decide(agent, now) } else { Err(Refused::Past { said, present }) }
        };
        self.parts
            .writer
            .agent(agent.id, &By::system(), |agent, now| decide(agent, now).map_err(refused))
            .await
    }
}

fn set(containers: &mut Vec<Container>, key: &ContainerKey, state: Option<ContainerState>) {
    containers.retain(|container| container.key != *key);
    if let Some(state) = state {
        containers.push(Container { key: key.clone(), state });
    }
}
