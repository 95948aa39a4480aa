//! The one way to write: read, decide, commit; again when somebody was faster, settled when nobody knows.
//!
//! Invariants: bounded tries; a commit whose outcome is unknown is settled before anything else is decided.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aito_domain::{
    agent::{Agent, Transition},
    event::{Actor, NewEvent, Payload},
    id::{AgentId, CommitId, EventId},
    ports::{
        agent_store::AgentStore,
        clock::{Clock, IdSource},
        ledger::{Change, Commit, CommitError, Ledger, Settled, Speaker},
    },
    task::PickOutcome,
    time::Timestamp,
};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use crate::{by::By, error::Error, locked::lock, metrics::Metrics};

/// How often a change is tried anew when somebody else changed the same thing.
pub(crate) const CONFLICT_TRIES: u32 = 12;
/// How many commits that one agent asks for a server makes at once. Most of them queue in the store, since they add to
/// the same counts, and would take its connections from everybody else meanwhile.
const AT_ONCE: usize = 4;
/// How long a commit waits for the others of its agent: longer than the store takes to say that it does not answer.
const TURN: Duration = Duration::from_secs(12);
/// How often an unknown outcome is asked for.
const SETTLE_TRIES: u32 = 5;

/// Writes changes.
pub struct Writer {
    ledger: Arc<dyn Ledger>,
    agents: Arc<dyn AgentStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    metrics: Arc<Metrics>,
    turns: Mutex<HashMap<AgentId, Arc<Semaphore>>>,
}

impl Writer {
    /// Over these ports.
    pub fn new(
        ledger: Arc<dyn Ledger>,
        agents: Arc<dyn AgentStore>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { ledger, agents, clock, ids, metrics, turns: Mutex::default() }
    }

    /// The clock that decisions are made by.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Where fresh ids come from.
    pub fn ids(&self) -> &dyn IdSource {
        &*self.ids
    }

    /// Changes one agent: `decide` gets its present state and the time, and may be called several times.
    ///
    /// # Errors
    /// What `decide` refuses with; [`Error::NotFound`]; [`Error::Unavailable`] when the store is away or the
    /// agent is changed by others all the time.
    pub async fn agent<F>(&self, id: AgentId, by: &By, mut decide: F) -> Result<Agent, Error>
    where
        F: FnMut(Agent, Timestamp) -> Result<Transition, Error>,
    {
        for attempt in 0..CONFLICT_TRIES {
            let Some(agent) = self.agents.by_id(id).await? else {
                return Err(Error::NotFound(format!("there is no agent {id}")));
            };
            let now = self.clock.now();
            let transition = decide(agent, now)?;
            if !transition.is_change() {
                return Ok(transition.agent);
            }
            let mut commit = self.begin();
            let mut after = transition.agent.clone();
            commit.changes.push(Change::Agent(Box::new(transition.agent)));
            self.tell(&mut commit, Some(id), by.actor(), transition.events, now);
            self.account(&mut commit, by, now, "");
            match self.apply(&commit).await? {
                Applied::Yes | Applied::Before(_) => {
                    by.told();
                    after.version = after.version.next();
                    return Ok(after);
                }
                Applied::Conflict => self.pause(attempt).await,
            }
        }
        Err(Error::unavailable("the agent is being changed by others all the time; nothing was done", None))
    }

    /// An empty commit with a fresh id.
    pub fn begin(&self) -> Commit {
        Commit::new(CommitId(self.ids.uuid()))
    }

    /// Adds events to a commit.
    pub fn tell(
        &self,
        commit: &mut Commit,
        source_agent: Option<AgentId>,
        actor: &Actor,
        payloads: Vec<Payload>,
        now: Timestamp,
    ) {
        commit.events.extend(payloads.into_iter().map(|payload| NewEvent {
            id: EventId(self.ids.uuid()),
            source_agent,
            actor: actor.clone(),
            payload,
            created_at: now,
        }));
    }

    /// Adds the audit entry of whoever answers for a commit (a change on nobody's account has none), and the incarnation
    /// that speaks it.
    pub fn account(&self, commit: &mut Commit, by: &By, now: Timestamp, detail: &str) {
        commit.speaker = by.speaker();
        commit.audit.extend(by.entry(|| self.ids.uuid(), now, detail));
    }

    /// Applies a commit, settling an unknown outcome.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; its text says whether anything may have been done.
    pub async fn apply(&self, commit: &Commit) -> Result<Applied, Error> {
        Ok(self.apply_telling_barred(commit).await?.0)
    }

    /// As [`Self::apply`]; also says whether the commit's id is barred, so that it cannot be used again.
    pub(crate) async fn apply_telling_barred(&self, commit: &Commit) -> Result<(Applied, bool), Error> {
        let _turn = self.turn(asks(commit)).await?;
        match self.commit(commit).await {
            Ok(_) => Ok((Applied::Yes, false)),
            Err(CommitError::Duplicate(answer)) => Ok((Applied::Before(answer), false)),
            Err(CommitError::Conflict(what)) => {
                debug!(commit = %commit.id, what, "conflict");
                Ok((Applied::Conflict, false))
            }
            // Settled as not applied: the same as never tried, so that the caller decides anew.
            Err(CommitError::Barred) => Ok((Applied::Conflict, true)),
            Err(error) => Err(away(error)),
        }
    }

    /// Applies a commit that carries a pick; `None`: decide again, with another id.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn pick(&self, commit: &Commit) -> Result<Option<PickOutcome>, Error> {
        let _turn = self.turn(asks(commit)).await?;
        match self.commit(commit).await {
            Ok(answer) | Err(CommitError::Duplicate(answer)) => {
                let outcome = serde_json::from_value(answer.unwrap_or_default());
                outcome.map(Some).map_err(|why| Error::Internal(why.into()))
            }
            Err(CommitError::Conflict(_) | CommitError::Barred) => Ok(None),
            Err(error) => Err(away(error)),
        }
    }

    /// Whether the incarnation that speaks still is its agent's present one: asked when a commit met a conflict.
    ///
    /// # Errors
    /// [`Error::PastIncarnation`]; [`Error::Unavailable`].
    pub(crate) async fn still_speaks(&self, by: &By) -> Result<(), Error> {
        let Some(Speaker { agent, incarnation: said }) = by.speaker() else { return Ok(()) };
        match self.agents.by_id(agent).await? {
            Some(agent) if agent.incarnation == said => Ok(()),
            Some(agent) => Err(Error::PastIncarnation { said, present: agent.incarnation }),
            None => Err(Error::NotFound(format!("there is no agent {agent}"))),
        }
    }

    /// Waits until few enough commits that an agent asks for are under way.
    pub(crate) async fn turn(&self, agent: Option<AgentId>) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let Some(agent) = agent else { return Ok(None) };
        let turns =
            lock(&self.turns).entry(agent).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone();
        if let Ok(turn) = turns.clone().try_acquire_owned() {
            return Ok(Some(turn));
        }
        tokio::select! {
            biased;
            // It is never closed.
            turn = turns.acquire_owned() => Ok(turn.ok()),
            () = self.clock.sleep(TURN) => Err(Error::TooMany {
                detail: format!("agent {agent} writes more at once than is stored in {} s", TURN.as_secs()),
                retry_after: TURN,
            }),
        }
    }

    /// Commits, settling an unknown outcome.
    async fn commit(&self, commit: &Commit) -> Result<Option<Value>, CommitError> {
        let started = self.clock.monotonic();
        let outcome = match self.ledger.commit(commit).await {
            Err(CommitError::Unknown(cause)) => {
                warn!(commit = %commit.id, %cause, "outcome of a commit is unknown: settling");
                self.settle(commit).await
            }
            other => other,
        };
        self.metrics.commit(commit.events.len(), self.clock.monotonic() - started, outcome.is_ok());
        outcome
    }

    async fn settle(&self, commit: &Commit) -> Result<Option<Value>, CommitError> {
        let mut last = None;
        for attempt in 0..SETTLE_TRIES {
            match self.ledger.settle(commit.id).await {
                // Of two commits with one derived id the answer tells which one was applied; a pick has an id of its own.
                Ok(Settled::Applied(answer)) if commit.pick.is_some() || answer == commit.answer => {
                    return Ok(answer);
                }
                Ok(Settled::Applied(answer)) => return Err(CommitError::Duplicate(answer)),
                Ok(Settled::NotApplied) => return Err(CommitError::Barred),
                Err(error) => last = Some(error),
            }
            self.pause(attempt + 2).await;
        }
        Err(match last {
            Some(CommitError::Unavailable(cause) | CommitError::Unknown(cause)) => {
                CommitError::Unknown(cause)
            }
            _ => CommitError::Unknown("it could not be settled".into()),
        })
    }

    /// Exponential, from 1 ms to 250 ms, with full jitter, so that two that collide part.
    pub(crate) async fn pause(&self, attempt: u32) {
        let cap = 1_u64 << attempt.min(8);
        let millis = 1 + self.ids.bits() % cap;
        self.clock.sleep(Duration::from_millis(millis.min(250))).await;
    }
}

/// The agent that asks for a commit, if one does: who claims for it may be an operator.
fn asks(commit: &Commit) -> Option<AgentId> {
    let by_others = commit.pick.as_ref().is_some_and(|pick| !matches!(pick.actor, Actor::Agent(_)));
    commit.speaker.map(|speaker| speaker.agent).filter(|agent| !by_others && !agent.0.is_nil())
}

/// A commit that failed for want of the store.
fn away(error: CommitError) -> Error {
    let detail = match error {
        CommitError::Unknown(_) => "the database went away in the middle; whether it was done is not known",
        _ => "the database does not take changes; nothing was done",
    };
    Error::unavailable(detail, Some(error.into()))
}

/// Whether a commit was applied.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// It was.
    Yes,
    /// It was before, and this was its answer.
    Before(Option<Value>),
    /// It was not: read again and decide again.
    Conflict,
}
