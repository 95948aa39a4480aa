//! Tasks handed out: claims, leases of the dead taken back, overdue ones told of.
//!
//! Invariants: a claim is chosen inside its commit; the sweep looks and is not told, and every pass of it is idempotent.

use std::time::Duration;

use aito_domain::{
    event::Actor,
    id::{AgentId, EventId, Incarnation, MailId},
    ports::ledger::Speaker,
    task::{PickOutcome, TaskMove, TaskPick},
    time::Timestamp,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{TRIES, TaskService, TaskView};
use crate::{by::By, checks::busy, error::Error, looping::pass_every};

/// How often the sweep looks.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How many overdue tasks one pass tells of; the next one goes on.
const OVERDUE_AT_ONCE: u32 = 100;
/// How many leases one pass of the sweep takes back of one agent; the next one goes on.
const RELEASES_AT_ONCE: usize = 8;

/// What a claim came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// This task.
    Task(Box<TaskView>),
    /// There is none for it.
    NothingWaits,
    /// It holds as many as it may.
    AtLimit,
}

impl TaskService {
    /// Gives an agent's incarnation its next task.
    ///
    /// # Errors
    /// [`Error::PastIncarnation`]; [`Error::Conflict`] when the agent does not run, or the claim has ended before it could
    /// be answered; [`Error::Unavailable`].
    pub async fn claim(&self, agent: AgentId, incarnation: Incarnation, by: &By) -> Result<Claim, Error> {
        for attempt in 0..TRIES {
            let now = self.writer.clock().now();
            // Agents ask often and mostly in vain: that writes nothing.
            let read = self.store.claimable(agent).await?;
            let read = read.ok_or_else(|| Error::NotFound(format!("there is no agent {agent}")))?;
            let past = read.held.iter().filter(|task| !task.is_held_by_the_living(&read.agent)).count();
            let pick = self.pick(agent, Some(incarnation), by.actor().clone(), now, past).await?;
            let foreseen = pick.decide(&read);
            if foreseen.tasks.is_empty() {
                return self.claimed(foreseen.outcome, incarnation).await;
            }
            let mut commit = self.writer.begin();
            commit.pick = Some(pick);
            self.writer.account(&mut commit, by, now, "");
            // Also who has no credential claims for this incarnation, and it must be the present one until the commit ends.
            commit.speaker = Some(Speaker { agent, incarnation });
            match self.writer.pick(&commit).await? {
                Some(outcome) => {
                    by.told();
                    return self.claimed(outcome, incarnation).await;
                }
                None => {
                    self.writer.still_speaks(by).await?;
                    self.writer.pause(attempt).await;
                }
            }
        }
        Err(busy("the agent's list of tasks"))
    }

    /// Takes back what the dead hold and tells of what is overdue, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let what = "tasks cannot be looked through; trying again";
        pass_every(SWEEP_EVERY, self.writer.clock(), &stop, what, || self.sweep()).await;
    }

    /// One pass of [`Self::run`].
    ///
    /// # Errors
    /// [`Error::Unavailable`]; what was done until then stays done.
    pub async fn sweep(&self) -> Result<(), Error> {
        let leases = self.store.leases().await?;
        if !leases.is_empty() {
            let agents = self.agents.list().await?;
            for agent in &agents {
                let mut holders = leases.iter().filter(|(id, _)| *id == agent.id);
                if holders.any(|(_, incarnation)| !agent.is_lived_by(*incarnation)) {
                    self.take_back(agent.id).await?;
                }
            }
        }
        for task in self.store.overdue(OVERDUE_AT_ONCE).await? {
            let told = self
                .change(task.id, None, None, &By::system(), |task, assignee, now| {
                    // The store's clock says what is due; this server's may be behind.
                    let now = task.due_at.map_or(now, |due_at| now.max(due_at));
                    // Told by another server meanwhile, or ended.
                    let unchanged = TaskMove { task: task.clone(), events: Vec::new() };
                    Ok(task.pass_due(assignee, now).unwrap_or(unchanged))
                })
                .await;
            match told {
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    async fn take_back(&self, agent: AgentId) -> Result<(), Error> {
        let now = self.writer.clock().now();
        let mut commit = self.writer.begin();
        commit.pick = Some(self.pick(agent, None, Actor::System, now, RELEASES_AT_ONCE).await?);
        if self.writer.pick(&commit).await?.is_none() {
            debug!(%agent, "somebody else changed its tasks; looking again");
        }
        Ok(())
    }

    async fn claimed(&self, outcome: PickOutcome, said: Incarnation) -> Result<Claim, Error> {
        match outcome {
            PickOutcome::Claimed { task } => {
                let found = self.store.by_id(task).await?;
                let task = found.ok_or_else(|| Error::Internal("a claimed task is gone".into()))?;
                // Between the commit and this look it may have been taken back, or ended by others.
                if task.lease().is_none_or(|lease| lease.incarnation != said) {
                    return Err(Error::Conflict("the claim has ended already".into()));
                }
                Ok(Claim::Task(Box::new(self.view(task).await?)))
            }
            PickOutcome::NothingWaits => Ok(Claim::NothingWaits),
            PickOutcome::AtLimit => Ok(Claim::AtLimit),
            PickOutcome::Past { present } => Err(Error::PastIncarnation { said, present }),
            PickOutcome::NotRunning => Err(Error::Conflict("the agent does not run".into())),
            PickOutcome::TakenBack => Err(Error::Internal("a claim without a claimant".into())),
        }
    }

    /// A pick that takes back at most so many leases.
    async fn pick(
        &self,
        agent: AgentId,
        claimant: Option<Incarnation>,
        actor: Actor,
        at: Timestamp,
        releases: usize,
    ) -> Result<TaskPick, Error> {
        let settings = self.settings.current().await?;
        let ids = self.writer.ids();
        Ok(TaskPick {
            agent,
            claimant,
            rules: settings.claim_rules(),
            at,
            actor,
            ids: (0..=releases).map(|_| EventId(ids.uuid())).collect(),
            mail_ids: (0..releases).map(|_| MailId(ids.uuid())).collect(),
            delays: settings.delays(),
        })
    }
}
