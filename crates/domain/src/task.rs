//! Tasks: what agents are to do, in which order they get it, and for how long one of them holds it.
//!
//! Invariants: a task belongs to one agent at a time; it is in progress only under a lease of one incarnation of that
//! agent, and back in the queue when that incarnation ends; a task that has ended stays as it ended. The source of words,
//! order and limits is the HTTP contract, section Tasks.

mod pick;

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use pick::{ClaimRules, Claimable, PickOutcome, Picked, TaskPick, next};

use crate::{
    agent::Agent,
    event::{Actor, Payload, TaskChange, TaskCompleted, TaskCreated, TaskUpdated},
    id::{AgentId, AgentType, Incarnation, TaskId, Version},
    time::Timestamp,
};

/// The longest title, in characters.
pub const MAX_TITLE: usize = 500;
/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 50_000;
/// The most that a result may take as JSON text, in bytes.
pub const MAX_RESULT: usize = 65_536;
/// The longest reason why a task failed or was cancelled, in characters.
pub const MAX_REASON: usize = 10_000;

/// How much something presses; the later in this list the more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// It can wait.
    Low,
    /// As usual.
    Normal,
    /// Before what is usual. Waiting raises no task beyond this.
    High,
    /// Soon.
    Urgent,
    /// Now. Agents cannot ask for it.
    Critical,
}

impl Priority {
    /// Every priority, the least first.
    pub const ALL: [Self; 5] = [Self::Low, Self::Normal, Self::High, Self::Urgent, Self::Critical];

    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
            Self::Critical => "critical",
        }
    }

    /// Its place in [`Self::ALL`], as stores keep it: 0 to 4.
    #[must_use]
    pub fn rank(self) -> u8 {
        self as u8
    }

    /// The priority of a rank.
    #[must_use]
    pub fn of_rank(rank: i64) -> Option<Self> {
        usize::try_from(rank).ok().and_then(|rank| Self::ALL.get(rank).copied())
    }

    /// What it counts as after waiting: one step more for each whole `step`, never past [`Self::High`].
    #[must_use]
    pub fn aged(self, waited: Duration, step: Duration) -> Self {
        if self >= Self::High || step.is_zero() {
            return self;
        }
        let steps = waited.as_millis() / step.as_millis().max(1);
        let rank = u128::from(self.rank()).saturating_add(steps).min(u128::from(Self::High.rank()));
        Self::of_rank(rank as i64).unwrap_or(Self::High)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no [`Priority`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of low, normal, high, urgent, critical")]
pub struct BadPriority;

impl FromStr for Priority {
    type Err = BadPriority;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == text).ok_or(BadPriority)
    }
}

/// The one word for a [`TaskState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Waits for its agent.
    Pending,
    /// An incarnation works on it.
    InProgress,
    /// Done.
    Completed,
    /// Given up by who worked on it.
    Failed,
    /// Not wanted any more.
    Cancelled,
}

impl TaskStatus {
    /// Every status, in the order of the contract.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::InProgress, Self::Completed, Self::Failed, Self::Cancelled];

    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will become of it.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no [`TaskStatus`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of pending, in_progress, completed, failed, cancelled")]
pub struct BadTaskStatus;

impl FromStr for TaskStatus {
    type Err = BadTaskStatus;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(BadTaskStatus)
    }
}

/// Who works on a task, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The incarnation of the agent that the task is assigned to.
    pub incarnation: Incarnation,
    /// Since when.
    pub since: Timestamp,
}

/// Where a task is, with what belongs to that place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for its agent.
    Pending,
    /// An incarnation works on it.
    InProgress(Lease),
    /// Done.
    Completed {
        /// What came out, at most [`MAX_RESULT`] bytes as JSON text.
        result: Option<Value>,
        /// When.
        at: Timestamp,
    },
    /// Given up.
    Failed {
        /// Why, at most [`MAX_REASON`] characters.
        error: String,
        /// When.
        at: Timestamp,
    },
    /// Not wanted any more.
    Cancelled {
        /// Why, at most [`MAX_REASON`] characters.
        reason: Option<String>,
        /// When.
        at: Timestamp,
    },
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The version that was read; a commit writes the next.
    pub version: Version,
    /// What it is called, 1 to [`MAX_TITLE`] characters.
    pub title: String,
    /// What is to be done, at most [`MAX_DESCRIPTION`] characters.
    pub description: Option<String>,
    /// How much it presses.
    pub priority: Priority,
    /// Where it is.
    pub state: TaskState,
    /// Whose it is.
    pub assigned_to: AgentId,
    /// The agent that created it, if one did.
    pub created_by: Option<AgentId>,
    /// Who created it.
    pub actor: Actor,
    /// When it should have ended.
    pub due_at: Option<Timestamp>,
    /// Whether it was told that this time has passed.
    pub overdue: bool,
    /// How often it was claimed.
    pub claims: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What a new task is made of.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// See [`Task::title`].
    pub title: String,
    /// See [`Task::description`].
    pub description: Option<String>,
    /// How much it presses.
    pub priority: Priority,
    /// Whose it is.
    pub assigned_to: AgentId,
    /// The agent that creates it, if one does.
    pub created_by: Option<AgentId>,
    /// Who creates it.
    pub actor: Actor,
    /// When it should have ended.
    pub due_at: Option<Timestamp>,
}

/// What is changed of a task; `None` leaves a thing as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskEdit {
    /// Another title.
    pub title: Option<String>,
    /// Another description, or none.
    pub description: Option<Option<String>>,
    /// Another priority.
    pub priority: Option<Priority>,
    /// Another agent, with its type.
    pub assigned_to: Option<(AgentId, AgentType)>,
    /// Another time, or none.
    pub due_at: Option<Option<Timestamp>>,
}

/// A move of a task: the new state and what happened. No events means that nothing changed.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct TaskMove {
    /// The task after it.
    pub task: Task,
    /// What to tell, in order.
    pub events: Vec<Payload>,
}

/// On whose word a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The incarnation that works on it.
    Holder(AgentId, Incarnation),
    /// Somebody who may end any task.
    Operator,
}

/// Why a move is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has ended already.
    #[error("the task is {0} already")]
    Ended(TaskStatus),
    /// Somebody works on it, and this is possible only while nobody does.
    #[error("the task is in progress: it cannot be given to another agent")]
    InProgress,
    /// It waits, and so nobody has a word to say of how it ended.
    #[error("the task was not claimed, or the claim has ended")]
    NotClaimed,
    /// Another incarnation, or another agent, holds it.
    #[error("the task is held by somebody else")]
    NotTheHolder,
    /// Its time has not come, or that was told already.
    #[error("the task is not newly overdue")]
    NotDue,
}

impl Task {
    /// A new task, for an agent of this type.
    pub fn create(id: TaskId, new: NewTask, assignee: &AgentType, now: Timestamp) -> TaskMove {
        let told = TaskCreated {
            task_id: id,
            title: new.title.clone(),
            priority: new.priority,
            assigned_to: assignee.clone(),
        };
        let task = Self {
            id,
            version: Version::default(),
            title: new.title,
            description: new.description,
            priority: new.priority,
            state: TaskState::Pending,
            assigned_to: new.assigned_to,
            created_by: new.created_by,
            actor: new.actor,
            due_at: new.due_at,
            overdue: false,
            claims: 0,
            created_at: now,
            updated_at: now,
        };
        TaskMove { task, events: vec![Payload::TaskCreated(told)] }
    }

    /// The one word for where it is.
    #[must_use]
    pub fn status(&self) -> TaskStatus {
        match self.state {
            TaskState::Pending => TaskStatus::Pending,
            TaskState::InProgress(_) => TaskStatus::InProgress,
            TaskState::Completed { .. } => TaskStatus::Completed,
            TaskState::Failed { .. } => TaskStatus::Failed,
            TaskState::Cancelled { .. } => TaskStatus::Cancelled,
        }
    }

    /// Who works on it.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        match self.state {
            TaskState::InProgress(lease) => Some(lease),
            _ => None,
        }
    }

    /// Whether an agent may see it: it was given to it, or comes from it.
    #[must_use]
    pub fn concerns(&self, agent: AgentId) -> bool {
        self.assigned_to == agent || self.created_by == Some(agent)
    }

    /// Whether its lease counts: the agent's present incarnation holds it, and has not ended.
    #[must_use]
    pub fn is_held_by_the_living(&self, agent: &Agent) -> bool {
        self.lease().is_some_and(|lease| agent.is_lived_by(lease.incarnation))
    }

    /// Changes what it says. `assignee` is the type of the agent that it belongs to now.
    ///
    /// # Errors
    /// [`Refused::Ended`]; [`Refused::InProgress`] when it would go to another agent while one works on it.
    pub fn edit(mut self, edit: TaskEdit, assignee: &AgentType, now: Timestamp) -> Result<TaskMove, Refused> {
        if self.status().has_ended() {
            return Err(Refused::Ended(self.status()));
        }
        let before = self.clone();
        let mut assignee = assignee.clone();
        if let Some((agent, agent_type)) = edit.assigned_to
            && agent != self.assigned_to
        {
            if self.lease().is_some() {
                return Err(Refused::InProgress);
            }
            (self.assigned_to, assignee) = (agent, agent_type);
        }
        if let Some(title) = edit.title {
            self.title = title;
        }
        if let Some(description) = edit.description {
            self.description = description;
        }
        if let Some(priority) = edit.priority {
            self.priority = priority;
        }
        if let Some(due_at) = edit.due_at
            && due_at != self.due_at
        {
            self.due_at = due_at;
            self.overdue = false;
        }
        if self == before {
            return Ok(TaskMove { task: self, events: Vec::new() });
        }
        Ok(self.updated(TaskChange::Edited, &assignee, None, now))
    }

    /// An incarnation begins to work on it.
    fn claim(mut self, incarnation: Incarnation, assignee: &AgentType, now: Timestamp) -> TaskMove {
        self.state = TaskState::InProgress(Lease { incarnation, since: now });
        self.claims += 1;
        self.updated(TaskChange::Claimed, assignee, Some(incarnation), now)
    }

    /// The incarnation that worked on it has ended: it waits again.
    fn release(mut self, assignee: &AgentType, now: Timestamp) -> TaskMove {
        let incarnation = self.lease().map(|lease| lease.incarnation);
        self.state = TaskState::Pending;
        self.updated(TaskChange::Released, assignee, incarnation, now)
    }

    /// It is done. Done with the same result already: nothing changes, so that who got no answer may say it again.
    ///
    /// # Errors
    /// [`Refused::Ended`], [`Refused::NotClaimed`], [`Refused::NotTheHolder`].
    pub fn complete(
        mut self,
        by: EndedBy,
        result: Option<Value>,
        assignee: &AgentType,
        now: Timestamp,
    ) -> Result<TaskMove, Refused> {
        if let (TaskState::Completed { result: first, .. }, true) = (&self.state, self.is_ended_by(by))
            && *first == result
        {
            return Ok(TaskMove { task: self, events: Vec::new() });
        }
        let incarnation = self.may_end(by)?;
        self.state = TaskState::Completed { result, at: now };
        self.updated_at = now;
        let told = TaskCompleted {
            task_id: self.id,
            title: self.title.clone(),
            assigned_to: assignee.clone(),
            incarnation,
        };
        Ok(TaskMove { task: self, events: vec![Payload::TaskCompleted(told)] })
    }

    /// It is given up. Given up for the same reason already: nothing changes.
    ///
    /// # Errors
    /// As [`Self::complete`].
    pub fn fail(
        mut self,
        by: EndedBy,
        error: String,
        assignee: &AgentType,
        now: Timestamp,
    ) -> Result<TaskMove, Refused> {
        if let (TaskState::Failed { error: first, .. }, true) = (&self.state, self.is_ended_by(by))
            && *first == error
        {
            return Ok(TaskMove { task: self, events: Vec::new() });
        }
        let incarnation = self.may_end(by)?;
        self.state = TaskState::Failed { error, at: now };
        Ok(self.updated(TaskChange::Failed, assignee, incarnation, now))
    }

    /// It is not wanted any more. Cancelled already: nothing changes.
    ///
    /// # Errors
    /// [`Refused::Ended`] when it was done or given up.
    pub fn cancel(
        mut self,
        reason: Option<String>,
        assignee: &AgentType,
        now: Timestamp,
    ) -> Result<TaskMove, Refused> {
        match self.status() {
            TaskStatus::Cancelled => Ok(TaskMove { task: self, events: Vec::new() }),
            ended if ended.has_ended() => Err(Refused::Ended(ended)),
            _ => {
                let incarnation = self.lease().map(|lease| lease.incarnation);
                self.state = TaskState::Cancelled { reason, at: now };
                Ok(self.updated(TaskChange::Cancelled, assignee, incarnation, now))
            }
        }
    }

    /// Its time has passed.
    ///
    /// # Errors
    /// [`Refused::NotDue`] unless it is open, due, and this was not told yet.
    pub fn pass_due(mut self, assignee: &AgentType, now: Timestamp) -> Result<TaskMove, Refused> {
        let due = self.due_at.is_some_and(|due_at| due_at <= now);
        if !due || self.overdue || self.status().has_ended() {
            return Err(Refused::NotDue);
        }
        self.overdue = true;
        let incarnation = self.lease().map(|lease| lease.incarnation);
        Ok(self.updated(TaskChange::Overdue, assignee, incarnation, now))
    }

    /// Whether who says this is one who could have ended it.
    fn is_ended_by(&self, by: EndedBy) -> bool {
        match by {
            EndedBy::Operator => true,
            EndedBy::Holder(agent, _) => agent == self.assigned_to,
        }
    }

    /// Whether it may end on this word; the incarnation that worked on it.
    fn may_end(&self, by: EndedBy) -> Result<Option<Incarnation>, Refused> {
        if self.status().has_ended() {
            return Err(Refused::Ended(self.status()));
        }
        let held = self.lease().map(|lease| lease.incarnation);
        match (by, held) {
            (EndedBy::Operator, held) => Ok(held),
            (EndedBy::Holder(agent, _), _) if agent != self.assigned_to => Err(Refused::NotTheHolder),
            (EndedBy::Holder(..), None) => Err(Refused::NotClaimed),
            (EndedBy::Holder(_, said), Some(held)) if said != held => Err(Refused::NotTheHolder),
            (EndedBy::Holder(..), held) => Ok(held),
        }
    }

    fn updated(
        mut self,
        change: TaskChange,
        assignee: &AgentType,
        incarnation: Option<Incarnation>,
        now: Timestamp,
    ) -> TaskMove {
        self.updated_at = now;
        let told = TaskUpdated {
            task_id: self.id,
            change,
            status: self.status(),
            priority: self.priority,
            assigned_to: assignee.clone(),
            incarnation,
        };
        TaskMove { task: self, events: vec![Payload::TaskUpdated(told)] }
    }
}

#[cfg(test)]
#[path = "task/tests.rs"]
mod tests;
