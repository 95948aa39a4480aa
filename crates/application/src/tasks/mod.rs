//! Tasks: created, shown, ended; handed out in [`claims`].
//!
//! Invariants: what an agent may see is what was assigned to or created by it, and the rest is not there for it.

mod claims;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aito_domain::{
    agent::Agent,
    id::{AgentId, AgentType, Incarnation, TaskId},
    mailbox::{Letter, MailKind},
    ports::{
        Total,
        agent_store::AgentStore,
        ledger::Change,
        task_store::{TaskCursor, TaskQuery, TaskStore},
    },
    quota::SpentKind,
    task::{
        EndedBy, MAX_DESCRIPTION, MAX_REASON, MAX_RESULT, MAX_TITLE, Priority, Refused, Task, TaskEdit,
        TaskMove, TaskState, TaskStatus, next,
    },
    time::{Timestamp, is_storable, truncate},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use claims::Claim;

use crate::{
    by::By,
    checks::{Faults, Seen, busy, expect},
    error::Error,
    locked::lock,
    mailbox::MailService,
    names::Names,
    once::{Once, Outcome},
    quota::{Cost, Counted, Paid, Quotas, settle_up},
    settings::SettingsService,
    writer::Writer,
};

/// How long an estimate of how many there are is used.
const ESTIMATED: Duration = Duration::from_secs(10);
/// How often a change is tried when somebody else was faster.
const TRIES: u32 = 12;
/// How many tasks are read at once; one may take some 300 KiB.
const ROWS_AT_ONCE: usize = 64;
/// After so many bytes a page ends, however few tasks it has.
const PAGE_BYTES: usize = 4 << 20;

/// A task as somebody hands it in, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct NewTask {
    /// Must have 1 to [`MAX_TITLE`] characters.
    pub title: String,
    /// At most [`MAX_DESCRIPTION`] characters.
    pub description: Option<String>,
    /// Must be the type of an agent.
    pub assign_to: String,
    /// Must be a word of [`Priority`].
    pub priority: String,
    /// Must be RFC 3339.
    pub due_date: Option<String>,
}

/// What somebody wants to change of a task, not yet checked; `None` leaves a thing as it is.
#[derive(Debug, Clone, Default)]
pub struct EditTask {
    /// As in [`NewTask`].
    pub title: Option<String>,
    /// As in [`NewTask`]; `Some(None)` clears it.
    pub description: Option<Option<String>>,
    /// As in [`NewTask`].
    pub assign_to: Option<String>,
    /// As in [`NewTask`].
    pub priority: Option<String>,
    /// As in [`NewTask`]; `Some(None)` clears it.
    pub due_date: Option<Option<String>>,
    /// Whether a status was given, which is not changed this way.
    pub status: bool,
}

/// Which tasks somebody wants to see, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of this status.
    pub status: Option<TaskStatus>,
    /// Of this agent: its type or id.
    pub assigned_to: Option<String>,
}

/// A task with what is shown of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// The task.
    pub task: Task,
    /// The type of the agent that it belongs to.
    pub assignee: AgentType,
}

/// A page of tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskPage {
    /// The tasks, newest first.
    pub tasks: Vec<TaskView>,
    /// How many there are on all pages.
    pub total: Total,
    /// Whether there are more after these.
    pub goes_on: bool,
}

/// How a task is to end.
#[derive(Debug, Clone)]
pub enum Ending {
    /// It is done, with this result.
    Complete(Option<Value>),
    /// It is given up, for this reason; must have 1 to [`MAX_REASON`] characters.
    Fail(String),
    /// It is not wanted any more, for this reason.
    Cancel(Option<String>),
}

/// Creates, shows, hands out and ends tasks.
pub struct TaskService {
    store: Arc<dyn TaskStore>,
    agents: Arc<dyn AgentStore>,
    writer: Arc<Writer>,
    settings: Arc<SettingsService>,
    mail: Arc<MailService>,
    names: Names,
    /// Estimates, with when they were made by the clock that never goes back.
    many: Mutex<HashMap<TaskQuery, (Total, Duration)>>,
}

impl TaskService {
    /// Over these ports.
    pub fn new(
        store: Arc<dyn TaskStore>,
        agents: Arc<dyn AgentStore>,
        writer: Arc<Writer>,
        settings: Arc<SettingsService>,
        mail: Arc<MailService>,
    ) -> Self {
        let names = Names::new(agents.clone());
        Self { store, agents, writer, settings, mail, names, many: Mutex::default() }
    }

    /// A task; `viewer` is the agent that asks, if one does.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when the agent may not see it; [`Error::Unavailable`].
    pub async fn get(&self, id: TaskId, viewer: Option<AgentId>) -> Result<TaskView, Error> {
        let task = self.seen(id, viewer).await?;
        self.view(task).await
    }

    /// Up to `limit` tasks, newest first; `viewer` is the agent that asks, if one does.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Unavailable`].
    pub async fn list(
        &self,
        wanted: &Wanted,
        viewer: Option<AgentId>,
        before: Option<TaskCursor>,
        offset: u32,
        limit: u32,
    ) -> Result<TaskPage, Error> {
        let mut faults = Faults::default();
        let assigned_to = match &wanted.assigned_to {
            Some(text) => faults.filter("?assignedTo", text, &*self.agents).await?.map(|agent| agent.id),
            None => None,
        };
        faults.done()?;
        let query = TaskQuery { status: wanted.status, assigned_to, seen_by: viewer };
        let (page, total) =
            tokio::join!(self.page(&query, before, offset, limit as usize), self.total(query));
        let (page, goes_on) = page?;
        let mut tasks = Vec::new();
        for task in page {
            tasks.push(self.view(task).await?);
        }
        Ok(TaskPage { tasks, total: total?, goes_on })
    }

    /// Up to `limit` tasks, fewer when they are large; true: there are more.
    async fn page(
        &self,
        query: &TaskQuery,
        mut before: Option<TaskCursor>,
        mut offset: u32,
        limit: usize,
    ) -> Result<(Vec<Task>, bool), Error> {
        let (mut tasks, mut bytes): (Vec<Task>, usize) = (Vec::new(), 0);
        loop {
            let asked = (limit + 1 - tasks.len()).min(ROWS_AT_ONCE);
            let rows = self.store.page(query, before, offset, asked as u32).await?;
            let is_last = rows.len() < asked;
            for task in rows {
                if tasks.len() >= limit || bytes >= PAGE_BYTES {
                    return Ok((tasks, true));
                }
                bytes += size(&task);
                before = Some(TaskCursor { at: task.created_at, id: task.id });
                tasks.push(task);
            }
            if is_last {
                return Ok((tasks, false));
            }
            offset = 0;
        }
    }

    /// How many tasks a query finds. What is more than is counted exactly is an estimate anyway, and used for a while.
    async fn total(&self, query: TaskQuery) -> Result<Total, Error> {
        let now = self.writer.clock().monotonic();
        let known = lock(&self.many).get(&query).copied();
        if let Some((total, at)) = known
            && now.saturating_sub(at) < ESTIMATED
        {
            return Ok(total);
        }
        let total = self.store.total(&query).await?;
        let mut many = lock(&self.many);
        many.retain(|_, (_, at)| now.saturating_sub(*at) < ESTIMATED);
        if !total.exact {
            many.insert(query, (total, now));
        }
        Ok(total)
    }

    /// Creates a task and wakes its agent. `creator` is the agent that does, if one does; what it may create a day is
    /// bounded by `quotas`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::Forbidden`] when an agent asks for what is critical;
    /// [`Error::TooMany`]; [`Error::Conflict`] when the key was used for another task; [`Error::PastIncarnation`];
    /// [`Error::Unavailable`].
    pub async fn create(
        &self,
        new: NewTask,
        creator: Option<&Agent>,
        by: &By,
        once: Option<&Once>,
        quotas: &Quotas,
    ) -> Result<TaskView, Error> {
        let mut faults = Faults::default();
        faults.text("/title", &new.title, MAX_TITLE);
        faults.optional("/description", new.description.as_deref(), MAX_DESCRIPTION);
        let priority = faults.read("/priority", &new.priority, str::parse::<Priority>);
        let due_at = due_date(&mut faults, new.due_date.as_deref());
        let assignee = faults.agent("/assignTo", &new.assign_to, &*self.agents).await?;
        faults.done()?;
        let (Some(priority), Some(assignee)) = (priority, assignee) else {
            return Err(Error::Internal("a task without a priority or an agent".into()));
        };
        if creator.is_some() && priority == Priority::Critical {
            return Err(Error::Forbidden(
                "an agent may not create what is critical: it lacks the role operator".into(),
            ));
        }
        let description = new.description.clone().unwrap_or_default();
        let content = [
            new.title.as_bytes(),
            description.as_bytes(),
            new.assign_to.as_bytes(),
            priority.as_str().as_bytes(),
            new.due_date.as_deref().unwrap_or_default().as_bytes(),
        ];
        let now = self.writer.clock().now();
        let made = aito_domain::task::NewTask {
            title: new.title.clone(),
            description: new.description.clone(),
            priority,
            assigned_to: assignee.id,
            created_by: creator.map(|agent| agent.id),
            actor: by.actor().clone(),
            due_at,
        };
        let TaskMove { task, events } =
            Task::create(TaskId(self.writer.ids().uuid()), made, &assignee.agent_type, now);
        let view = |first: First| {
            let First { id, created_at } = first;
            let version = task.version.next();
            let task = Task { id, created_at, updated_at: created_at, version, ..task.clone() };
            TaskView { task, assignee: assignee.agent_type.clone() }
        };
        let bytes = (new.title.len() + description.len()) as u64;
        let what = Counted::Spent(SpentKind::Tasks);
        let cost = creator.map(|agent| Cost { quotas, what, agent, bytes });
        let taken = match self.writer.pay(cost, once, &content).await? {
            Paid::Now(taken) => taken,
            Paid::Before(first) => return Ok(view(first)),
        };
        let woken = self.woken(&task, by).await;
        let done = match woken {
            Ok(woken) => {
                let mut commit = self.writer.begin();
                commit.changes.push(Change::Task(Box::new(task.clone())));
                commit.changes.extend(woken);
                commit.spent.extend(taken.as_ref().and_then(|taken| taken.spent()));
                self.writer.tell(&mut commit, Some(assignee.id), by.actor(), events, now);
                self.writer.account(&mut commit, by, now, "");
                let first = First { id: task.id, created_at: now };
                self.writer.create_once(&mut commit, by, once, &content, &first).await
            }
            Err(error) => Err(error),
        };
        settle_up(taken, &done);
        match done? {
            Outcome::Now => {
                by.told();
                Ok(view(First { id: task.id, created_at: now }))
            }
            Outcome::Before(first) => Ok(view(first)),
            Outcome::Conflict => Err(busy("the list of tasks")),
        }
    }

    /// Changes what a task says.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::NotFound`]; [`Error::Precondition`] when it is not in the states
    /// that `seen` names; [`Error::Conflict`] when it has ended, or would go to another agent while one works on it;
    /// [`Error::Unavailable`].
    pub async fn edit(
        &self,
        id: TaskId,
        edit: EditTask,
        seen: Option<&Seen>,
        by: &By,
    ) -> Result<TaskView, Error> {
        let mut faults = Faults::default();
        if edit.status {
            let how = "is not changed here: by POST /tasks/{id}/complete, fail and cancel, and by claiming";
            faults.add("/status", how);
        }
        if let Some(title) = &edit.title {
            faults.text("/title", title, MAX_TITLE);
        }
        let description = edit.description.as_ref().and_then(Option::as_deref);
        faults.optional("/description", description, MAX_DESCRIPTION);
        let priority = match &edit.priority {
            Some(text) => faults.read("/priority", text, str::parse::<Priority>),
            None => None,
        };
        let due_at = edit.due_date.as_ref().map(|text| due_date(&mut faults, text.as_deref()));
        let assignee = match &edit.assign_to {
            Some(text) => faults.agent("/assignTo", text, &*self.agents).await?,
            None => None,
        };
        let nothing = edit.title.is_none()
            && edit.description.is_none()
            && edit.assign_to.is_none()
            && edit.priority.is_none()
            && edit.due_date.is_none();
        if nothing && !edit.status {
            faults.add("", "must have at least one of title, description, assignTo, priority, dueDate");
        }
        faults.done()?;
        let change = TaskEdit {
            title: edit.title,
            description: edit.description,
            priority,
            assigned_to: assignee.map(|agent| (agent.id, agent.agent_type)),
            due_at,
        };
        self.change(id, None, seen, by, |task, assignee, now| {
            task.edit(change.clone(), assignee, now).map_err(conflict)
        })
        .await
    }

    /// Ends a task. `who` is the agent that does, with its incarnation, if one does.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`]; [`Error::Forbidden`] when it is not the agent's to end this way;
    /// [`Error::Conflict`] when it has ended otherwise, or is held by nobody or another incarnation;
    /// [`Error::PastIncarnation`]; [`Error::Unavailable`].
    pub async fn end(
        &self,
        id: TaskId,
        ending: Ending,
        who: Option<(AgentId, Incarnation)>,
        by: &By,
    ) -> Result<TaskView, Error> {
        let mut faults = Faults::default();
        match &ending {
            Ending::Complete(result) => faults.json("/result", result.as_ref(), MAX_RESULT),
            Ending::Fail(error) => faults.text("/error", error, MAX_REASON),
            Ending::Cancel(reason) => faults.optional("/reason", reason.as_deref(), MAX_REASON),
        }
        faults.done()?;
        let ended_by =
            who.map_or(EndedBy::Operator, |(agent, incarnation)| EndedBy::Holder(agent, incarnation));
        self.change(id, who.map(|(agent, _)| agent), None, by, |task, assignee, now| {
            if let (Some((agent, _)), Ending::Complete(_) | Ending::Fail(_)) = (who, &ending)
                && task.assigned_to != agent
            {
                return Err(Error::Forbidden(format!(
                    "the task is {assignee}'s: only that agent may say how it ended"
                )));
            }
            match &ending {
                // No result and null are the same.
                Ending::Complete(result) => {
                    let result = result.clone().filter(|result| !result.is_null());
                    task.complete(ended_by, result, assignee, now)
                }
                Ending::Fail(error) => task.fail(ended_by, error.clone(), assignee, now),
                Ending::Cancel(reason) => task.cancel(reason.clone(), assignee, now),
            }
            .map_err(conflict)
        })
        .await
    }

    /// What tells an agent of a task that waits for it.
    async fn woken(&self, task: &Task, by: &By) -> Result<Option<Change>, Error> {
        self.mail.wake(Letter::of_task(task, by.actor())).await
    }

    /// What tells of the end of a task: its creator and who worked on it, unless they have caused it; and the agent that
    /// has room for another one now, if one waits.
    async fn told_of_end(
        &self,
        task: &Task,
        was_held: bool,
        who: Option<AgentId>,
        by: &By,
    ) -> Result<Vec<Change>, Error> {
        let mut told = Vec::new();
        let worker = was_held.then_some(task.assigned_to);
        let creator = task.created_by.filter(|creator| Some(*creator) != worker);
        for agent in [creator, worker].into_iter().flatten().filter(|agent| Some(*agent) != who) {
            let notice = format!("task_{}", task.status());
            let letter = Letter {
                agent_id: agent,
                kind: MailKind::Notice,
                sender: by.actor().clone(),
                from_agent: None,
                priority: task.priority,
                body: json!({ "notice": notice, "taskId": task.id, "title": task.title }),
            };
            told.extend(self.mail.wake(letter).await?);
        }
        if was_held && let Some(waiting) = self.store.claimable(task.assigned_to).await? {
            let rules = self.settings.current().await?.claim_rules();
            if let Some(waiting) = next(&waiting.oldest, &rules, self.writer.clock().now()) {
                told.extend(self.woken(waiting, by).await?);
            }
        }
        Ok(told)
    }

    /// A task that a viewer may see.
    async fn seen(&self, id: TaskId, viewer: Option<AgentId>) -> Result<Task, Error> {
        let found = self.store.by_id(id).await?;
        let seen = found.filter(|task| viewer.is_none_or(|viewer| task.concerns(viewer)));
        seen.ok_or_else(|| Error::NotFound(format!("there is no task {id}")))
    }

    async fn view(&self, task: Task) -> Result<TaskView, Error> {
        let assignee = self.names.of(task.assigned_to).await?;
        Ok(TaskView { task, assignee })
    }

    async fn change(
        &self,
        id: TaskId,
        viewer: Option<AgentId>,
        seen: Option<&Seen>,
        by: &By,
        decide: impl Fn(Task, &AgentType, Timestamp) -> Result<TaskMove, Error>,
    ) -> Result<TaskView, Error> {
        for attempt in 0..TRIES {
            let before = self.seen(id, viewer).await?;
            expect("the task", seen, before.version)?;
            let (was, pressed, was_held) = (before.assigned_to, before.priority, before.lease().is_some());
            let assignee = self.names.of(was).await?;
            let now = self.writer.clock().now();
            let TaskMove { task, events } = decide(before, &assignee, now)?;
            if events.is_empty() {
                return self.view(task).await;
            }
            let mut commit = self.writer.begin();
            // What presses more than it did wakes anew.
            let presses = task.priority > pressed && task.status() == TaskStatus::Pending;
            if task.assigned_to != was || presses {
                commit.changes.extend(self.woken(&task, by).await?);
            }
            if task.status().has_ended() {
                commit.changes.extend(self.told_of_end(&task, was_held, viewer, by).await?);
            }
            commit.changes.push(Change::Task(Box::new(task.clone())));
            self.writer.tell(&mut commit, Some(task.assigned_to), by.actor(), events, now);
            self.writer.account(&mut commit, by, now, "");
            match self.writer.apply_once(&mut commit, None, &[], &()).await? {
                Outcome::Now | Outcome::Before(()) => {
                    by.told();
                    let version = task.version.next();
                    return self.view(Task { version, ..task }).await;
                }
                Outcome::Conflict => {
                    self.writer.still_speaks(by).await?;
                    self.writer.pause(attempt).await;
                }
            }
        }
        Err(busy("the task"))
    }
}

/// What a repetition is answered: the task as it was first stored.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct First {
    id: TaskId,
    created_at: Timestamp,
}

/// About how many bytes a task takes.
fn size(task: &Task) -> usize {
    let state = match &task.state {
        TaskState::Completed { result: Some(result), .. } => result.to_string().len(),
        TaskState::Failed { error, .. } => error.len(),
        TaskState::Cancelled { reason: Some(reason), .. } => reason.len(),
        _ => 0,
    };
    1000 + task.title.len() + task.description.as_ref().map_or(0, String::len) + state
}

fn conflict(refused: Refused) -> Error {
    Error::Conflict(refused.to_string())
}

/// A time that somebody gives, of those that every store can hold.
fn due_date(faults: &mut Faults, text: Option<&str>) -> Option<Timestamp> {
    let text = text?;
    let at = DateTime::parse_from_rfc3339(text).ok().map(|at| truncate(at.with_timezone(&Utc)));
    let at = at.filter(|at| is_storable(*at));
    if at.is_none() {
        faults.add("/dueDate", "must be a time as RFC 3339 writes it, from 1970 to 9999");
    }
    at
}
