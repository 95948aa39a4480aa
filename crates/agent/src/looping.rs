//! The loop: read the profile, think, act, record; again after the loop interval.
//!
//! Invariants:
//! - The first turn begins with the first accepted heartbeat. A change of the loop interval takes effect at once.
//! - A new message begins a turn at once, but never while one runs, and at most one a second; so does a claimed task,
//!   which is worked on in the turn after the claim.
//! - Without an answered heartbeat for the silence limit nothing is thought; a thought under way is dropped.
//! - Once the server was found away, a turn calls it no more.
//! - The messages of a turn are dealt with when its actions are done, but not acknowledged before what the actions made
//!   has left the outbox.
//! - Nothing here panics because thinking did.

use crate::{
    action::{self, Action},
    agent::Tuning,
    heartbeat::{Control, Vitals},
    log::{Log, cap, one_line},
    mailbox::Mailbox,
    outbox::{Entry, Left, Outbox, Sent},
    profile::Profile,
    server::Server,
    tasks::{self, Answer, Failure},
    think::{ActionResult, AgentContext, Context, LoopContext, Message, Task, Think, ThinkError},
    time,
};
use aito_api::{Activity, NewHistory, Timestamp};
use futures_util::FutureExt;
use serde_json::Value;
use std::{panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

const MAX_SUMMARY: usize = 1000;
/// From the beginning of a turn that had new messages to the next one that such begin.
const WOKEN_PACE: Duration = Duration::from_secs(1);

/// The state of the loop.
pub(crate) struct Looping {
    pub(crate) agent: AgentContext,
    pub(crate) profile: Option<PathBuf>,
    pub(crate) think: Box<dyn Think>,
    pub(crate) server: Arc<Server>,
    pub(crate) vitals: watch::Sender<Vitals>,
    pub(crate) control: watch::Receiver<Control>,
    pub(crate) mailbox: Mailbox,
    pub(crate) outbox: Outbox,
    pub(crate) log: Log,
    pub(crate) tuning: Tuning,
    pub(crate) progress: Progress,
}

/// What the loop remembers from turn to turn.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// When the last turn began; `None` when the next one is due at once.
    begun: Option<Instant>,
    /// When the last turn that had new messages began.
    woken: Option<Instant>,
    last_results: Vec<ActionResult>,
}

/// The server refused the credential; the text is its.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

/// What a turn has come to so far.
#[derive(Debug, Default)]
struct Turn {
    /// The server was found away.
    away: bool,
    /// A task was claimed.
    claimed: bool,
}

/// What became of an action: what to tell of it, null for nothing; or why it was not done.
type Outcome = Result<Value, String>;

const AWAY: &str = "the server is away";

impl Looping {
    /// Turns until the credential is refused.
    pub(crate) async fn run(&mut self) -> Refused {
        loop {
            self.due().await;
            if let Err(refused) = self.turn().await {
                return refused;
            }
        }
    }

    /// Entries of the outbox that no server has taken yet.
    pub(crate) fn unsent(&self) -> usize {
        self.outbox.len()
    }

    /// Waits for the next turn, and through silence.
    async fn due(&mut self) {
        loop {
            let control = *self.control.borrow_and_update();
            let Some(answered_at) = control.answered_at else {
                self.heard().await;
                continue;
            };
            let silent_at = answered_at + self.tuning.silence_limit;
            if time::now() >= silent_at {
                self.wait_out_silence(answered_at).await;
                continue;
            }
            let Some(begun) = self.progress.begun else { return };
            let (regular, waking) = (begun + control.loop_interval, self.mailbox.wakes());
            let due = if waking {
                regular.min(self.progress.woken.map_or(begun, |woken| woken + WOKEN_PACE))
            } else {
                regular
            };
            if time::now() >= due {
                return;
            }
            let mailbox = self.mailbox.clone();
            tokio::select! {
                () = time::sleep_until(due.min(silent_at)) => {}
                () = self.heard() => {}
                () = mailbox.woken(), if !waking => {}
            }
        }
    }

    /// Ends with the next answer to a heartbeat.
    async fn heard(&mut self) {
        if self.control.changed().await.is_err() {
            // The heartbeat has ended, and with it soon the agent.
            std::future::pending::<()>().await;
        }
    }

    async fn wait_out_silence(&mut self, answered_at: Instant) {
        let limit = self.tuning.silence_limit;
        self.log.line(format!("no heartbeat answered for {} s: not thinking until one is", seconds(limit)));
        self.set_activity(Activity::Blocked);
        while self.control.borrow().answered_at == Some(answered_at) {
            self.heard().await;
        }
        self.log.line("heartbeat answered: thinking again");
        self.set_activity(Activity::Idle);
    }

    async fn turn(&mut self) -> Result<(), Refused> {
        let (begun, started_at) = (time::now(), Timestamp::new(time::wall()));
        let last_loop_at = self.vitals.borrow().last_loop_at;
        self.progress.begun = Some(begun);
        self.vitals.send_modify(|vitals| {
            vitals.loop_count += 1;
            vitals.last_loop_at = Some(started_at);
            vitals.activity = Activity::Working;
        });
        let count = self.vitals.borrow().loop_count;
        let mut turn = Turn::default();
        self.flush(&mut turn).await?;
        let tasks = self.tasks(&mut turn).await?;
        if self.mailbox.wakes() {
            self.progress.woken = Some(begun);
        }
        let messages = self.mailbox.show();
        let shown: Vec<_> = messages.iter().map(|message| message.id).collect();
        let place = LoopContext { count, started_at, last_loop_at };
        match self.thought(place, messages, tasks).await {
            None => self.progress.begun = None,
            Some(Ok(list)) => {
                let took = begun.elapsed().as_millis();
                let parsed = action::parse(list);
                let (good, bad) = (parsed.actions.len(), parsed.faults.len());
                self.log.line(format!("loop {count}: thought for {took} ms, {good} actions, {bad} refused"));
                self.act(parsed, &mut turn).await?;
                self.mailbox.dealt_with(&shown);
                self.settle();
            }
            Some(Err(error)) => self.failed("think", error, &mut turn).await?,
        }
        if turn.claimed {
            self.progress.begun = None;
        }
        self.set_activity(Activity::Idle);
        Ok(())
    }

    /// What this incarnation works on. When that cannot be known, thinking is told so.
    async fn tasks(&mut self, turn: &mut Turn) -> Result<Vec<Task>, Refused> {
        let error = if turn.away {
            AWAY.to_owned()
        } else {
            match tasks::in_progress(&self.server, self.agent.incarnation).await? {
                Ok(tasks) => return Ok(tasks),
                Err(failure) => turn.noting(failure),
            }
        };
        self.log.line(format!("tasks in progress are not known: {error}"));
        self.result("tasks", Err(error));
        Ok(Vec::new())
    }

    /// Thinks; `None` when silence ended it.
    async fn thought(
        &mut self,
        turn: LoopContext,
        messages: Vec<Message>,
        tasks: Vec<Task>,
    ) -> Option<Result<Vec<Value>, String>> {
        let profile = match self.profile.as_deref().map(Profile::read) {
            Some(Ok(profile)) => profile,
            Some(Err(error)) => return Some(Err(error.to_string())),
            None => Profile::default(),
        };
        let context = Context {
            agent: self.agent.clone(),
            profile,
            turn,
            focus: self.vitals.borrow().focus.clone().filter(|focus| !focus.is_empty()),
            last_results: std::mem::take(&mut self.progress.last_results),
            messages,
            tasks,
        };
        // A panic in an adapter is that adapter's failure; it leaves nothing of the loop half done, because the
        // adapter sees nothing of the loop.
        let thinking = AssertUnwindSafe(self.think.think(&context)).catch_unwind();
        let silence = silence(self.control.clone(), self.tuning.silence_limit);
        tokio::select! {
            biased;
            answer = thinking => {
                let answer = answer.unwrap_or(Err(ThinkError::Panicked));
                Some(answer.map_err(|error| error.to_string()))
            }
            () = silence => None,
        }
    }

    async fn act(&mut self, parsed: action::Parsed, turn: &mut Turn) -> Result<(), Refused> {
        let complaint = parsed.complaint();
        for action in parsed.actions {
            let name = action.name();
            let outcome = match action {
                Action::Log { message } => {
                    self.log.line(format!("says: {message}"));
                    Ok(Value::Null)
                }
                Action::SetFocus { focus } => {
                    self.log.line(format!("focus: {}", if focus.is_empty() { "none" } else { &focus }));
                    self.vitals.send_modify(|vitals| vitals.focus = Some(focus));
                    Ok(Value::Null)
                }
                Action::RecordHistory { action_type, summary, details } => {
                    let row = NewHistory { details, ..NewHistory::new(action_type, summary) };
                    self.make(Entry::Row(row), turn).await?
                }
                Action::CreateTask(task) => self.make(Entry::Task(task), turn).await?,
                Action::SendMessage { to, message } => {
                    self.make(Entry::Message { to, message }, turn).await?
                }
                Action::Claim => self.claim(turn).await?,
                Action::CompleteTask { id, result } => {
                    let server = self.server.clone();
                    turn.ask(async move { tasks::complete(&server, id, result).await }).await?
                }
                Action::FailTask { id, error } => {
                    let server = self.server.clone();
                    turn.ask(async move { tasks::fail(&server, id, error).await }).await?
                }
            };
            self.result(name, outcome);
        }
        match complaint {
            Some(complaint) => self.failed("actions", complaint, turn).await,
            None => Ok(()),
        }
    }

    async fn claim(&mut self, turn: &mut Turn) -> Result<Outcome, Refused> {
        let server = self.server.clone();
        let claimed = turn.ask(async move { tasks::claim(&server).await }).await?;
        Ok(claimed.map(|(claimed, told)| {
            turn.claimed |= claimed;
            told
        }))
    }

    /// Says what failed in the log, in the history and to the next thought.
    async fn failed(&mut self, what: &str, error: String, turn: &mut Turn) -> Result<(), Refused> {
        self.log.line(format!("{what} failed: {error}"));
        let row = NewHistory::new("error", one_line(&error, MAX_SUMMARY));
        self.result(what, Err(error));
        self.make(Entry::Row(row), turn).await.map(drop)
    }

    fn result(&mut self, action: &str, outcome: Outcome) {
        let ok = outcome.is_ok();
        let (details, error) = match outcome {
            Ok(Value::Null) => (None, None),
            Ok(told) => (Some(told), None),
            Err(error) => (None, Some(cap(error, MAX_SUMMARY))),
        };
        self.progress.last_results.push(ActionResult { action: action.to_owned(), ok, error, details });
    }

    /// Puts an entry into the outbox and sends what is there, unless the server was found away in this turn already.
    async fn make(&mut self, entry: Entry, turn: &mut Turn) -> Result<Outcome, Refused> {
        let (number, dropped) = self.outbox.push(entry);
        dropped.into_iter().for_each(|left| self.tell(left));
        let mut outcome = Err(format!("{AWAY}; kept for the next loop"));
        if !turn.away {
            for left in self.send(turn).await? {
                if left.number == number {
                    outcome = left.outcome;
                } else {
                    self.tell(left);
                }
            }
        }
        Ok(outcome)
    }

    /// Sends what was left over from earlier turns.
    async fn flush(&mut self, turn: &mut Turn) -> Result<(), Refused> {
        let left = self.send(turn).await?;
        left.into_iter().for_each(|left| self.tell(left));
        self.settle();
        Ok(())
    }

    async fn send(&mut self, turn: &mut Turn) -> Result<Vec<Left>, Refused> {
        let Sent { left, away } = self.outbox.send(&self.server).await?;
        turn.away = away;
        Ok(left)
    }

    /// Tells the next thought what became of an entry of an earlier turn; rows of history are in the log only.
    fn tell(&mut self, left: Left) {
        if !left.is_row {
            self.result(left.action, left.outcome);
        }
    }

    /// Lets what was dealt with be acknowledged, if nothing that came of it waits for the server.
    fn settle(&self) {
        if self.outbox.len() == 0 {
            self.mailbox.release();
        }
    }

    fn set_activity(&self, activity: Activity) {
        self.vitals.send_modify(|vitals| vitals.activity = activity);
    }
}

impl Turn {
    /// Makes a call, unless the server was found away.
    async fn ask<T>(&mut self, call: impl Future<Output = Answer<T>>) -> Result<Result<T, String>, Refused> {
        if self.away {
            return Ok(Err(AWAY.to_owned()));
        }
        Ok(call.await?.map_err(|failure| self.noting(failure)))
    }

    /// The text of a failure.
    fn noting(&mut self, failure: Failure) -> String {
        match failure {
            Failure::No(text) => text,
            Failure::Away(text) => {
                self.away = true;
                text
            }
        }
    }
}

/// Ends when no heartbeat was answered for `limit`.
async fn silence(mut control: watch::Receiver<Control>, limit: Duration) {
    loop {
        let answered_at = control.borrow_and_update().answered_at;
        let Some(silent_at) = answered_at.map(|at| at + limit) else { return };
        tokio::select! {
            () = time::sleep_until(silent_at) => return,
            changed = control.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
