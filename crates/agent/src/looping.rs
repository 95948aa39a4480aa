//! The loop: read the profile, think, act, record; again after the loop interval.
//!
//! Invariants:
//! - The first turn begins with the first accepted heartbeat. A change of the loop interval takes effect at once.
//! - Without an answered heartbeat for the silence limit nothing is thought; a thought under way is dropped.
//! - Rows of history leave in the order in which they were made. One that the server could not take stays in a
//!   queue of at most 100 rows for the next turn; what is lost is said in the log.
//! - Nothing here panics because thinking did.

use crate::{
    action::{self, Action},
    agent::Tuning,
    heartbeat::{Control, Vitals},
    log::{Log, cap, one_line},
    profile::Profile,
    server::Server,
    think::{ActionResult, AgentContext, Context, LoopContext, Think, ThinkError},
    time,
};
use aito_api::{Activity, NewHistory, Timestamp};
use aito_client::Error;
use futures_util::FutureExt;
use serde_json::Value;
use std::{collections::VecDeque, panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

const MAX_QUEUE: usize = 100;
const MAX_SUMMARY: usize = 1000;

/// The state of the loop.
pub(crate) struct Looping {
    pub(crate) agent: AgentContext,
    pub(crate) profile: Option<PathBuf>,
    pub(crate) think: Box<dyn Think>,
    pub(crate) server: Arc<Server>,
    pub(crate) vitals: watch::Sender<Vitals>,
    pub(crate) control: watch::Receiver<Control>,
    pub(crate) log: Log,
    pub(crate) tuning: Tuning,
    pub(crate) progress: Progress,
}

/// What the loop remembers from turn to turn.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// When the last turn began; `None` when the next one is due at once.
    begun: Option<Instant>,
    last_results: Vec<ActionResult>,
    queue: VecDeque<Pending>,
    rows: u64,
}

#[derive(Debug)]
struct Pending {
    row: NewHistory,
    key: String,
}

/// The server refused the credential; the text is its.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

/// What became of a row.
enum Kept {
    Stored,
    Waiting,
    Dropped(String),
}

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

    /// Rows that no server has taken yet.
    pub(crate) fn unsent(&self) -> usize {
        self.progress.queue.len()
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
            let due = match self.progress.begun {
                Some(begun) => begun + control.loop_interval,
                None => return,
            };
            if time::now() >= due {
                return;
            }
            tokio::select! {
                () = time::sleep_until(due.min(silent_at)) => {}
                () = self.heard() => {}
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
        let mut away = self.flush().await?;
        let turn = LoopContext { count, started_at, last_loop_at };
        match self.thought(turn).await {
            None => self.progress.begun = None,
            Some(Ok(list)) => {
                let took = begun.elapsed().as_millis();
                let parsed = action::parse(list);
                let (good, bad) = (parsed.actions.len(), parsed.faults.len());
                self.log.line(format!("loop {count}: thought for {took} ms, {good} actions, {bad} refused"));
                self.act(parsed, &mut away).await?;
            }
            Some(Err(error)) => self.failed("think", error, &mut away).await?,
        }
        self.set_activity(Activity::Idle);
        Ok(())
    }

    /// Thinks; `None` when silence ended it.
    async fn thought(&mut self, turn: LoopContext) -> Option<Result<Vec<Value>, String>> {
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

    async fn act(&mut self, parsed: action::Parsed, away: &mut bool) -> Result<(), Refused> {
        let complaint = parsed.complaint();
        for action in parsed.actions {
            let name = action.name();
            let error = match action {
                Action::Log { message } => {
                    self.log.line(format!("says: {message}"));
                    None
                }
                Action::SetFocus { focus } => {
                    self.log.line(format!("focus: {}", if focus.is_empty() { "none" } else { &focus }));
                    self.vitals.send_modify(|vitals| vitals.focus = Some(focus));
                    None
                }
                Action::RecordHistory { action_type, summary, details } => {
                    let row = NewHistory { details, ..NewHistory::new(action_type, summary) };
                    match self.record(row, away).await? {
                        Kept::Stored => None,
                        Kept::Waiting => Some("the server is away; kept for the next loop".to_owned()),
                        Kept::Dropped(reason) => Some(reason),
                    }
                }
            };
            self.result(name, error);
        }
        match complaint {
            Some(complaint) => self.failed("actions", complaint, away).await,
            None => Ok(()),
        }
    }

    /// Says what failed in the log, in the history and to the next thought.
    async fn failed(&mut self, what: &str, error: String, away: &mut bool) -> Result<(), Refused> {
        self.log.line(format!("{what} failed: {error}"));
        let row = NewHistory::new("error", one_line(&error, MAX_SUMMARY));
        self.result(what, Some(error));
        self.record(row, away).await.map(drop)
    }

    fn result(&mut self, action: &str, error: Option<String>) {
        let (ok, error) = (error.is_none(), error.map(|error| cap(error, MAX_SUMMARY)));
        self.progress.last_results.push(ActionResult { action: action.to_owned(), ok, error });
    }

    /// Queues a row and sends what is queued, unless the server was found away in this turn already.
    async fn record(&mut self, row: NewHistory, away: &mut bool) -> Result<Kept, Refused> {
        self.progress.rows += 1;
        let key = format!("{}-{}-{}", self.agent.id, self.agent.incarnation, self.progress.rows);
        if self.progress.queue.len() >= MAX_QUEUE
            && let Some(oldest) = self.progress.queue.pop_front()
        {
            self.log.line(format!("too many rows wait for the server; dropped: {}", summary(&oldest.row)));
        }
        self.progress.queue.push_back(Pending { row, key });
        if *away {
            return Ok(Kept::Waiting);
        }
        let mut kept = Kept::Waiting;
        *away = self.flush_noting(&mut kept).await?;
        Ok(kept)
    }

    /// Sends what is queued; whether the server is away.
    async fn flush(&mut self) -> Result<bool, Refused> {
        self.flush_noting(&mut Kept::Waiting).await
    }

    /// The same; `last` becomes what happened to the last row, if its turn came.
    async fn flush_noting(&mut self, last: &mut Kept) -> Result<bool, Refused> {
        while let Some(pending) = self.progress.queue.front() {
            let kept = match self.server.record(&pending.row, &pending.key).await {
                Ok(()) => Kept::Stored,
                Err(error) if error.is_refused_credential() => return Err(Refused(error.to_string())),
                Err(Error::Unavailable { detail, .. }) => {
                    let waiting = self.progress.queue.len();
                    self.log.line(format!("history kept for the next loop ({waiting} rows): {detail}"));
                    return Ok(true);
                }
                Err(Error::Problem(problem)) if problem.status == 429 => return Ok(true),
                Err(error) => {
                    self.log.line(format!("history row dropped: {error}: {}", summary(&pending.row)));
                    Kept::Dropped(error.to_string())
                }
            };
            self.progress.queue.pop_front();
            if self.progress.queue.is_empty() {
                *last = kept;
            }
        }
        Ok(false)
    }

    fn set_activity(&self, activity: Activity) {
        self.vitals.send_modify(|vitals| vitals.activity = activity);
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

fn summary(row: &NewHistory) -> &str {
    row.summary.as_deref().unwrap_or_default()
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
