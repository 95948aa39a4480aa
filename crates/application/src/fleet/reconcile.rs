//! The reconcile loop: lists what runs, compares, acts; for one agent on request, for all on every pass.
//!
//! Invariants: agents are read before containers are listed, and an agent that was changed meanwhile is left
//! to the next pass, so that no decision rests on a listing older than the state; one list call a pass.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use aito_domain::{
    agent::Agent,
    fleet::{AgentPlan, Container, Seen, plan},
    id::AgentId,
    ports::runtime::{Hint, RuntimeError},
    time::{Timestamp, after},
};
use futures_util::stream::BoxStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{FleetService, runtime_away};
use crate::error::Error;

/// How long the loop waits at the most before it looks without having been told.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// The shortest pause between two passes that nothing but the time asks for.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// How many times one agent is looked at in one go; a healthy move takes three.
const ROUNDS: usize = 12;
/// How often a caller's wish is looked at anew when the agent was changed between the look and the deed.
const SETTLE_TRIES: usize = 5;

/// Since when agents could be heard without a break. A heartbeat is taken only where the agent's state can be read, so
/// while the store is away nobody is heard, by any server.
pub(super) struct Listening {
    since: Timestamp,
    is_deaf: bool,
}

impl Listening {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { since: now, is_deaf: false }
    }

    /// The store answered, or did not.
    fn noted(&mut self, answered: bool, now: Timestamp) {
        if answered && self.is_deaf {
            self.since = now;
        }
        self.is_deaf = !answered;
    }

    /// Silence is counted from here at the earliest.
    fn since(&self, now: Timestamp) -> Timestamp {
        if self.is_deaf { now } else { self.since }
    }
}

/// Agents whose last step failed: each is left alone for a while, so that something that fails quickly is not
/// tried without end. The pause doubles up to [`LOOK_ANYWAY`].
#[derive(Default)]
struct Setbacks(HashMap<AgentId, Setback>);

struct Setback {
    count: u32,
    /// On the monotonic clock.
    until: Duration,
}

impl Setbacks {
    fn note(&mut self, agent: AgentId, done: bool, now: Duration) {
        if done {
            self.0.remove(&agent);
            return;
        }
        let setback = self.0.entry(agent).or_insert(Setback { count: 0, until: now });
        setback.until = now + SHORTEST_PAUSE.saturating_mul(1 << setback.count.min(16)).min(LOOK_ANYWAY);
        setback.count += 1;
    }

    /// How long an agent is to be left alone yet.
    fn pause(&self, agent: AgentId, now: Duration) -> Option<Duration> {
        self.0.get(&agent).map(|setback| setback.until.saturating_sub(now)).filter(|pause| !pause.is_zero())
    }
}

impl FleetService {
    /// Reconciles until `stop`. Steps under way are let finish in the background: the wish is stored, so the
    /// next process completes what this one does not.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut hints: Option<BoxStream<'static, Hint>> = None;
        let mut steps = JoinSet::new();
        let mut setbacks = Setbacks::default();
        let clock = self.parts.writer.clock();
        loop {
            if hints.is_none() {
                self.supervision.forget();
                hints = self.parts.runtime.watch().await.inspect_err(|error| debug!(%error, "no hints")).ok();
            }
            let again = self.pass(&mut steps, &setbacks).await;
            let now = clock.now();
            let latest = after(now, LOOK_ANYWAY);
            let due = again.map_or(latest, |at| at.min(latest));
            // Never spin: a time that has come is acted upon by the steps that are under way.
            let due = if due <= now { after(now, SHORTEST_PAUSE) } else { due };
            tokio::select! {
                () = stop.cancelled() => {
                    steps.detach_all();
                    return;
                }
                () = self.look.notified() => {}
                () = clock.sleep_until_at_most(due, LOOK_ANYWAY) => {}
                () = crate::hints::next(&mut hints) => {}
                Some(done) = steps.join_next() => match done {
                    Ok((agent, done)) => setbacks.note(agent, done, clock.monotonic()),
                    Err(error) => warn!(%error, "a step failed"),
                },
            }
        }
    }

    /// One pass over all agents; gives the next moment at which something is due.
    async fn pass(
        self: &Arc<Self>,
        steps: &mut JoinSet<(AgentId, bool)>,
        setbacks: &Setbacks,
    ) -> Option<Timestamp> {
        let clock = self.parts.writer.clock();
        let started = clock.monotonic();
        let looked = self.look_at_all().await;
        self.parts.metrics.pass(clock.monotonic().saturating_sub(started), looked.is_ok());
        let (agents, containers) = match looked {
            Ok(seen) => seen,
            Err(error) => {
                if self.saw_nothing() {
                    warn!(%error, "cannot look at the fleet; agents keep their last state");
                }
                return None;
            }
        };
        for container in &containers {
            let known = agents.iter().any(|agent| agent.id == container.key.agent_id);
            if !known
                && self.unknown.lock().unwrap_or_else(PoisonError::into_inner).insert(container.key.clone())
            {
                warn!(container = %container.key.name(self.parts.installation), "belongs to no known agent; left alone");
            }
        }
        let containers: Arc<[Container]> = containers.into();
        let mut again: Option<Timestamp> = None;
        let mut look_at = |at: Timestamp| again = Some(again.map_or(at, |other| other.min(at)));
        for agent in agents {
            self.parts.metrics.agent(agent.agent_type.as_str(), agent.status());
            let plan = self.plan_for(&agent, &containers, clock.now());
            if let Some(at) = plan.look_again {
                look_at(at);
            }
            if plan.actions.is_empty() {
                continue;
            }
            if let Some(pause) = setbacks.pause(agent.id, clock.monotonic()) {
                look_at(after(clock.now(), pause));
                continue;
            }
            let Ok(guard) = self.lock_of(agent.id).try_lock_owned() else {
                // Somebody is at it already.
                continue;
            };
            let (fleet, containers) = (self.clone(), containers.clone());
            steps.spawn(async move {
                let _guard = guard;
                let id = agent.id;
                let done = fleet.settle_from(agent, containers.to_vec()).await;
                match &done {
                    Ok(_) => {}
                    Err(error @ (Error::Conflict(_) | Error::Unavailable { .. })) => {
                        debug!(agent = %id, %error, "left to the next pass");
                    }
                    Err(error) => warn!(agent = %id, %error, "a reconcile step failed"),
                }
                (id, done.is_ok())
            });
        }
        again
    }

    async fn look_at_all(&self) -> Result<(Vec<Agent>, Vec<Container>), Error> {
        let agents = self.parts.agents.list().await;
        self.listening().noted(agents.is_ok(), self.parts.writer.clock().now());
        Ok((agents?, self.list().await?))
    }

    /// What runs, if this is the engine to ask.
    async fn list(&self) -> Result<Vec<Container>, Error> {
        let look = self.begin_look();
        match self.parts.runtime.list().await {
            Ok(containers) => {
                if let Err(refused) = self.supervision.check(&*self.parts.runtime).await {
                    // What another engine lists says nothing of our agents.
                    self.saw_nothing();
                    return Err(refused);
                }
                if self.is_stale() {
                    info!("the container runtime answers again");
                }
                self.saw_all(look, &containers);
                Ok(containers)
            }
            Err(error) => {
                if self.saw_nothing() {
                    warn!(%error, "the container runtime does not answer");
                }
                self.supervision.forget();
                Err(runtime_away(error, "agents keep their last state"))
            }
        }
    }

    pub(super) fn plan_for(&self, agent: &Agent, containers: &[Container], now: Timestamp) -> AgentPlan {
        let since = self.listening().since(now);
        let heard = self.parts.heartbeats.last_at(agent).unwrap_or(since).max(since);
        let seen = Seen { agent, containers, last_heartbeat: Some(heard) };
        plan(&seen, self.silence_bound(&agent.agent_type), now)
    }

    /// The loop's own step for one agent, now: what the wish that was just stored needs.
    ///
    /// It goes on when the caller goes away: an effect under way must keep the agent's lock to its end.
    pub(super) async fn settle_agent(self: &Arc<Self>, id: AgentId) -> Result<Agent, Error> {
        let fleet = self.clone();
        let step = tokio::spawn(async move { fleet.settle_now(id).await });
        step.await.unwrap_or_else(|failed| Err(Error::Internal(failed.into())))
    }

    async fn settle_now(&self, id: AgentId) -> Result<Agent, Error> {
        let _guard = self.lock_of(id).lock_owned().await;
        for _ in 0..SETTLE_TRIES {
            let agent = self.reread(id).await?;
            let containers = self.list().await?;
            if let Some(agent) = self.settle_from(agent, containers).await? {
                return Ok(agent);
            }
        }
        Err(Error::unavailable("it is being changed by others all the time", None))
    }

    /// Acts until nothing is left to do, on a listing that is kept up to date by what the actions report. `None`:
    /// something may be left, and the loop was told to look.
    async fn settle_from(
        &self,
        agent: Agent,
        mut containers: Vec<Container>,
    ) -> Result<Option<Agent>, Error> {
        containers.retain(|container| container.key.agent_id == agent.id);
        let mut agent = agent;
        let stored = self.reread(agent.id).await?;
        if stored.version != agent.version {
            // Changed since it was read: the listing may be older than that.
            self.look();
            return Ok(None);
        }
        for _ in 0..ROUNDS {
            let plan = self.plan_for(&agent, &containers, self.parts.writer.clock().now());
            let Some(action) = plan.actions.into_iter().next() else { return Ok(Some(agent)) };
            let id = agent.id;
            agent = match self.act(agent, action, &mut containers).await {
                // Somebody else has moved the agent meanwhile: what was to be recorded has become moot.
                Err(Error::Conflict(why)) => {
                    debug!(agent = %id, why, "moot");
                    self.look();
                    return Ok(None);
                }
                done => done?,
            };
        }
        self.look();
        Ok(None)
    }

    async fn reread(&self, id: AgentId) -> Result<Agent, Error> {
        let found = self.parts.agents.by_id(id).await?;
        found.ok_or_else(|| Error::NotFound(format!("there is no agent {id}")))
    }

    /// Whether an effect's failure is one that only another look can tell.
    pub(super) fn effect_failed(&self, effect: &'static str, error: RuntimeError) -> Error {
        self.parts.metrics.effect(effect, false);
        match error {
            error @ RuntimeError::Unknown(_) => {
                self.look();
                Error::unavailable(
                    format!("the container runtime failed in the middle of a {effect}"),
                    Some(error.into()),
                )
            }
            error => Error::unavailable(
                format!("the container runtime could not {effect}: {error}"),
                Some(error.into()),
            ),
        }
    }
}
