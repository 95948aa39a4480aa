//! Replays an event log and says where it is not what the rules of tasks allow.
//!
//! Invariants: the rules stand here a second time, written from the HTTP contract and not from the code under test; of
//! one agent the log is in the order in which its claims were decided, and what a claim saw stands before it; a claim and
//! the end of its incarnation are wholly one before the other.

use std::{cmp::Reverse, collections::BTreeMap};

use aito_api::Event;
use serde_json::Value;
use uuid::Uuid;

/// The priorities, the least first.
pub const PRIORITIES: [&str; 5] = ["low", "normal", "high", "urgent", "critical"];
/// The place in [`PRIORITIES`] beyond which waiting raises nothing.
const HIGH: usize = 2;

/// By which rules the log was made.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How many tasks of one agent may be in progress at a time.
    pub at_most: usize,
    /// After how many milliseconds of waiting a task counts one priority more; 0: never.
    pub age_step_ms: i64,
}

/// What a server acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// This incarnation works on it.
    Claimed(u64),
    /// It is done.
    Completed,
    /// It is given up.
    Failed,
    /// It is not wanted.
    Cancelled,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Done.
    Completed,
    /// Given up.
    Failed,
    /// Not wanted.
    Cancelled,
}

/// What a log without fault tells.
#[derive(Debug, Default)]
pub struct Told {
    /// How often each task was claimed by each incarnation.
    pub claims: BTreeMap<(Uuid, u64), u32>,
    /// How each task that has ended did.
    pub endings: BTreeMap<Uuid, Ending>,
    /// Tasks that have not ended.
    pub open: usize,
    /// Leases that were taken back.
    pub releases: u32,
    /// Claims at which waiting decided: without it another task would have been next.
    pub aged: u32,
    /// Claims at which their agent had as many tasks in progress as it may, with the claimed one.
    pub full: u32,
}

impl Told {
    /// How many tasks ended so.
    pub fn ended(&self, ending: Ending) -> usize {
        self.endings.values().filter(|one| **one == ending).count()
    }

    /// Checks that everything that was acknowledged is in the log, as often as it was acknowledged.
    ///
    /// # Errors
    /// The first that is not.
    pub fn confirm(&self, acknowledged: &[(Uuid, Said)]) -> Result<(), String> {
        let mut claims: BTreeMap<(Uuid, u64), u32> = BTreeMap::new();
        let mut endings: BTreeMap<Uuid, Ending> = BTreeMap::new();
        for (task, said) in acknowledged {
            let ending = match said {
                Said::Claimed(incarnation) => {
                    *claims.entry((*task, *incarnation)).or_default() += 1;
                    continue;
                }
                Said::Completed => Ending::Completed,
                Said::Failed => Ending::Failed,
                Said::Cancelled => Ending::Cancelled,
            };
            // Who cancels what was cancelled is told that it is; everything else ends once.
            let before = endings.insert(*task, ending);
            if before.is_some_and(|before| before != ending || ending != Ending::Cancelled) {
                return Err(format!("task {task} was acknowledged as {before:?} and as {ending:?}"));
            }
        }
        for ((task, incarnation), count) in claims {
            let told = self.claims.get(&(task, incarnation)).copied().unwrap_or_default();
            if told < count {
                return Err(format!(
                    "task {task} was given to incarnation {incarnation} {count} times; the log tells of {told}"
                ));
            }
        }
        match endings.iter().find(|(task, ending)| self.endings.get(task) != Some(ending)) {
            Some((task, ending)) => Err(format!(
                "task {task} was acknowledged as {ending:?}; the log tells of {:?}",
                self.endings.get(task)
            )),
            None => Ok(()),
        }
    }
}

/// Replays a whole log, oldest first.
///
/// # Errors
/// The first event that must not be, and why.
pub fn check(log: &[Event], rules: Rules) -> Result<Told, String> {
    let mut model = Model { rules, ..Model::default() };
    for event in log {
        model.hear(event).map_err(|why| format!("{why}: {event:?}"))?;
    }
    model.told.open = model.tasks.values().filter(|task| !matches!(task.state, State::Ended(_))).count();
    Ok(model.told)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    Held(u64),
    Ended(Ending),
}

#[derive(Debug)]
struct Task {
    agent: String,
    priority: usize,
    created_ms: i64,
    state: State,
}

/// The newest incarnation of an agent.
#[derive(Debug, Clone, Copy, Default)]
struct Newest {
    incarnation: u64,
    is_over: bool,
}

#[derive(Debug)]
struct Model {
    rules: Rules,
    tasks: BTreeMap<Uuid, Task>,
    agents: BTreeMap<String, Newest>,
    told: Told,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            rules: Rules { at_most: 1, age_step_ms: 0 },
            tasks: BTreeMap::new(),
            agents: BTreeMap::new(),
            told: Told::default(),
        }
    }
}

impl Model {
    fn hear(&mut self, event: &Event) -> Result<(), String> {
        match event.event_type.as_str() {
            "agent_starting" => self.begin(event),
            "agent_error" | "agent_stopped" => self.end_incarnation(event),
            "task_created" => self.create(event),
            "task_completed" => self.end(event, Ending::Completed),
            "task_updated" => match text(event, "change")? {
                "claimed" => self.claim(event),
                "released" => self.release(event),
                "failed" => self.end(event, Ending::Failed),
                "cancelled" => self.end(event, Ending::Cancelled),
                other => Err(format!("nobody here changes a task so: {other}")),
            },
            _ => Ok(()),
        }
    }

    fn begin(&mut self, event: &Event) -> Result<(), String> {
        let (agent, incarnation) = (text(event, "agentType")?, whole(event, "incarnation")?);
        let newest = self.agents.entry(agent.to_owned()).or_default();
        if incarnation <= newest.incarnation {
            return Err(format!("incarnation {incarnation} began after {}", newest.incarnation));
        }
        *newest = Newest { incarnation, is_over: false };
        Ok(())
    }

    fn end_incarnation(&mut self, event: &Event) -> Result<(), String> {
        let (agent, incarnation) = (text(event, "agentType")?, whole(event, "incarnation")?);
        let newest = self.agents.entry(agent.to_owned()).or_default();
        newest.is_over |= incarnation == newest.incarnation;
        Ok(())
    }

    fn create(&mut self, event: &Event) -> Result<(), String> {
        let word = text(event, "priority")?;
        let priority = PRIORITIES.iter().position(|one| *one == word);
        let task = Task {
            agent: text(event, "assignedTo")?.to_owned(),
            priority: priority.ok_or_else(|| format!("{word} is no priority"))?,
            created_ms: at(event),
            state: State::Waits,
        };
        match self.tasks.insert(id(event)?, task) {
            None => Ok(()),
            Some(_) => Err("a task was created twice".to_owned()),
        }
    }

    fn claim(&mut self, event: &Event) -> Result<(), String> {
        let (claimed, agent, now) = (id(event)?, text(event, "assignedTo")?, at(event));
        let incarnation = whole(event, "incarnation")?;
        self.check_claimant(agent, incarnation)?;
        let held = self.of(agent).filter(|(_, task)| matches!(task.state, State::Held(_))).count();
        if held >= self.rules.at_most {
            return Err(format!("{agent} has {held} tasks in progress already"));
        }
        let waiting = || self.of(agent).filter(|(_, task)| task.state == State::Waits);
        let next = |step: i64| {
            waiting()
                .min_by_key(|(id, task)| (Reverse(raised(task, now, step)), task.created_ms, **id))
                .map(|(id, _)| *id)
        };
        let (best, best_unaged) = (next(self.rules.age_step_ms), next(0));
        if best != Some(claimed) {
            let better = best.map(|id| (id, &self.tasks[&id]));
            let got = self.tasks.get(&claimed);
            return Err(format!("task {claimed} ({got:?}) was claimed before {better:?}"));
        }
        self.told.aged += u32::from(best_unaged != best);
        self.told.full += u32::from(held + 1 == self.rules.at_most);
        *self.told.claims.entry((claimed, incarnation)).or_default() += 1;
        self.set(event, State::Held(incarnation))
    }

    /// The incarnation that claims is the present one and lives.
    fn check_claimant(&self, agent: &str, incarnation: u64) -> Result<(), String> {
        let newest = self.agents.get(agent).copied().unwrap_or_default();
        if incarnation == 0 || incarnation > newest.incarnation {
            return Err(format!("incarnation {incarnation} claims, which never began"));
        }
        if incarnation != newest.incarnation {
            return Err(format!(
                "incarnation {incarnation} claims, and the present one is {}",
                newest.incarnation
            ));
        }
        if newest.is_over { Err(format!("incarnation {incarnation} claims after its end")) } else { Ok(()) }
    }

    fn release(&mut self, event: &Event) -> Result<(), String> {
        let (agent, incarnation) = (text(event, "assignedTo")?, whole(event, "incarnation")?);
        let state = self.task(event)?.state;
        if state != State::Held(incarnation) {
            return Err(format!(
                "incarnation {incarnation} does not hold what is taken back from it: {state:?}"
            ));
        }
        let newest = self.agents.get(agent).copied().unwrap_or_default();
        if incarnation == newest.incarnation && !newest.is_over {
            return Err(format!("it is taken back from incarnation {incarnation}, which has not ended"));
        }
        self.told.releases += 1;
        self.set(event, State::Waits)
    }

    fn end(&mut self, event: &Event, ending: Ending) -> Result<(), String> {
        let held = match self.task(event)?.state {
            State::Waits => None,
            State::Held(incarnation) => Some(incarnation),
            State::Ended(before) => return Err(format!("a task ended twice, first as {before:?}")),
        };
        let named = event.payload.get("incarnation").and_then(Value::as_u64);
        if named != held {
            return Err(format!("it names {named:?} as the incarnation at work, which was {held:?}"));
        }
        self.told.endings.insert(id(event)?, ending);
        self.set(event, State::Ended(ending))
    }

    fn of(&self, agent: &str) -> impl Iterator<Item = (&Uuid, &Task)> {
        self.tasks.iter().filter(move |(_, task)| task.agent == agent)
    }

    fn task(&self, event: &Event) -> Result<&Task, String> {
        let agent = text(event, "assignedTo")?;
        let task = self.tasks.get(&id(event)?).ok_or("a task that was never created")?;
        if task.agent != agent {
            return Err(format!("the task is {}'s", task.agent));
        }
        Ok(task)
    }

    /// Puts a task where its event says that it is now.
    fn set(&mut self, event: &Event, state: State) -> Result<(), String> {
        let says = event.payload.get("status").and_then(Value::as_str);
        let is = match state {
            State::Waits => "pending",
            State::Held(_) => "in_progress",
            State::Ended(Ending::Completed) => "completed",
            State::Ended(Ending::Failed) => "failed",
            State::Ended(Ending::Cancelled) => "cancelled",
        };
        if says.is_some_and(|says| says != is) {
            return Err(format!("the task is {is}"));
        }
        let task = self.tasks.get_mut(&id(event)?).ok_or("a task that was never created")?;
        task.state = state;
        Ok(())
    }
}

/// The priority that counts after waiting.
fn raised(task: &Task, now_ms: i64, step_ms: i64) -> usize {
    if task.priority >= HIGH || step_ms == 0 {
        return task.priority;
    }
    let steps = now_ms.saturating_sub(task.created_ms).max(0) / step_ms;
    usize::try_from(steps).map_or(HIGH, |steps| task.priority.saturating_add(steps).min(HIGH))
}

fn at(event: &Event) -> i64 {
    event.created_at.timestamp_millis()
}

fn text<'a>(event: &'a Event, key: &str) -> Result<&'a str, String> {
    event.payload.get(key).and_then(Value::as_str).ok_or_else(|| format!("{key} is missing"))
}

fn whole(event: &Event, key: &str) -> Result<u64, String> {
    event.payload.get(key).and_then(Value::as_u64).ok_or_else(|| format!("{key} is missing"))
}

fn id(event: &Event) -> Result<Uuid, String> {
    text(event, "taskId")?.parse().map_err(|_| "taskId is no id".to_owned())
}

#[cfg(test)]
#[path = "model/tests.rs"]
mod tests;
