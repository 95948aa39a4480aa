//! Which task an agent gets next, and whose leases have ended: decided on what the store read under its lock.
//!
//! Invariant: pure, and the same for the same reading.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Task, TaskStatus};
use crate::{
    agent::{Agent, Lifecycle},
    event::{Actor, NewEvent, Payload},
    id::{AgentId, EventId, Incarnation, MailId, TaskId},
    mailbox::{Delays, Letter, Mail},
    time::{Timestamp, between},
};

/// By which tasks are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimRules {
    /// How many tasks of one agent may be in progress, at least 1.
    pub at_most: u32,
    /// After which time of waiting a task counts one priority more, up to high; zero: never.
    pub age_step: Duration,
}

/// The task that an agent gets next: the highest priority as raised by waiting, then the oldest, then the smallest id.
#[must_use]
pub fn next<'a>(
    waiting: impl IntoIterator<Item = &'a Task>,
    rules: &ClaimRules,
    now: Timestamp,
) -> Option<&'a Task> {
    waiting.into_iter().filter(|task| task.status() == TaskStatus::Pending).min_by_key(|task| {
        let aged = task.priority.aged(between(task.created_at, now), rules.age_step);
        (std::cmp::Reverse(aged), task.created_at, task.id)
    })
}

/// What only the transaction can choose: the leases of one agent that have ended, and the task that it gets next.
///
/// It is data, and [`Self::decide`] is pure: the store locks the agent's claims, reads, decides, and writes what came out.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskPick {
    /// Whose tasks.
    pub agent: AgentId,
    /// The incarnation that claims; `None` only takes back what nobody works on any more.
    pub claimant: Option<Incarnation>,
    /// By which rules.
    pub rules: ClaimRules,
    /// When.
    pub at: Timestamp,
    /// Who causes it.
    pub actor: Actor,
    /// Ids for the events; with too few of them, as much is done as they reach for.
    pub ids: Vec<EventId>,
    /// Ids for what tells the agent of tasks that wait again; as with the events.
    pub mail_ids: Vec<MailId>,
    /// When that wakes it.
    pub delays: Delays,
}

/// What the store reads for a [`TaskPick`].
#[derive(Debug, Clone, PartialEq)]
pub struct Claimable {
    /// The agent.
    pub agent: Agent,
    /// Its tasks in progress, by id.
    pub held: Vec<Task>,
    /// Its oldest waiting task of each priority; waiting raises the older one of two first, so no other is ever next.
    pub oldest: Vec<Task>,
}

/// What a [`TaskPick`] came to, kept as the commit's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum PickOutcome {
    /// The claimant holds it now.
    Claimed {
        /// Which.
        task: TaskId,
    },
    /// There is no task for it.
    NothingWaits,
    /// It holds as many as it may.
    AtLimit,
    /// Another incarnation has taken over.
    Past {
        /// The present one.
        present: Incarnation,
    },
    /// It has ended, or is stopping.
    NotRunning,
    /// Nobody claimed.
    TakenBack,
}

/// What a [`TaskPick`] writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    /// Tasks with the version that they were read at, each once.
    pub tasks: Vec<Task>,
    /// What tells the agent of tasks that wait again.
    pub mails: Vec<Mail>,
    /// What to tell, in order.
    pub events: Vec<NewEvent>,
    /// What it came to.
    pub outcome: PickOutcome,
}

impl TaskPick {
    /// Decides on what was read.
    #[must_use]
    pub fn decide(&self, read: &Claimable) -> Picked {
        let Claimable { agent, held, oldest } = read;
        let mut ids = self.ids.iter();
        let mut tasks: Vec<Task> = Vec::new();
        let mut events = Vec::new();
        // The last id is for the claim.
        let spare = self.ids.len().saturating_sub(1).min(self.mail_ids.len());
        let ended = held.iter().filter(|task| !task.is_held_by_the_living(agent));
        for (task, id) in ended.zip(ids.by_ref().take(spare)) {
            let moved = task.clone().release(&agent.agent_type, self.at);
            events.extend(self.tell(*id, moved.events));
            tasks.push(moved.task);
        }
        let in_progress = held.len() - tasks.len();
        let outcome = match self.claimant.map(|incarnation| (incarnation, works(agent, incarnation))) {
            None => PickOutcome::TakenBack,
            Some((_, Err(why))) => why,
            Some(_) if in_progress >= self.rules.at_most as usize => PickOutcome::AtLimit,
            Some((incarnation, Ok(()))) => {
                let chosen = next(oldest.iter().chain(&tasks), &self.rules, self.at).cloned();
                match chosen.zip(ids.next()) {
                    None => PickOutcome::NothingWaits,
                    Some((task, id)) => {
                        let moved = task.claim(incarnation, &agent.agent_type, self.at);
                        events.extend(self.tell(*id, moved.events));
                        tasks.retain(|one| one.id != moved.task.id);
                        let outcome = PickOutcome::Claimed { task: moved.task.id };
                        tasks.push(moved.task);
                        outcome
                    }
                }
            }
        };
        // It was given its wake-up before, which was perhaps acknowledged by who worked on it.
        let waiting = tasks.iter().filter(|task| task.status() == TaskStatus::Pending);
        let mails = waiting
            .zip(&self.mail_ids)
            .map(|(task, id)| Letter::of_task(task, &self.actor).sent(*id, &self.delays, self.at))
            .collect();
        Picked { tasks, mails, events, outcome }
    }

    fn tell(&self, id: EventId, payloads: Vec<Payload>) -> impl Iterator<Item = NewEvent> {
        payloads.into_iter().map(move |payload| NewEvent {
            id,
            source_agent: Some(self.agent),
            actor: self.actor.clone(),
            payload,
            created_at: self.at,
        })
    }
}

/// Whether an incarnation speaks for the agent, has not ended, and is not about to.
fn works(agent: &Agent, incarnation: Incarnation) -> Result<(), PickOutcome> {
    if agent.incarnation != incarnation {
        return Err(PickOutcome::Past { present: agent.incarnation });
    }
    let stops = matches!(agent.lifecycle, Lifecycle::Stopping { .. });
    if agent.is_lived_by(incarnation) && !stops { Ok(()) } else { Err(PickOutcome::NotRunning) }
}
