//! Hears agents: who lives, what they do. Heartbeats are kept apart from events; what changes by one is not.
//!
//! Invariants: only the present incarnation is heard; a heartbeat that changes nothing writes nothing but a
//! row in the next batch, at most 2 s later; what could not be flushed is kept and tried again; what other servers
//! heard is read as often as the own is stored.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use aito_domain::{
    agent::{Agent, Desired, MAX_FOCUS, Refused},
    event::Actor,
    id::{AgentId, Incarnation},
    ports::heartbeats::{Activity, FlushError, Heartbeat, Heartbeats},
    spec::AgentSpec,
    time::{Timestamp, truncate},
};
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    by::By,
    error::{Error, Fault},
    fleet::Roster,
    mailbox::MailService,
    metrics::Metrics,
    settings::SettingsService,
    writer::Writer,
};

/// The longest that a heartbeat stays in memory only.
pub const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// The longest that a heartbeat usually takes from one server to another: one stores it, the other reads it, and the
/// store takes its time for both.
pub const RELAYED: Duration = FLUSH_EVERY.saturating_mul(2).saturating_add(Duration::from_secs(1));

/// A heartbeat as an agent sends it, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    /// Finished loops; must not be negative.
    pub loop_count: Option<i64>,
    /// What the agent works on; `Some(None)` clears it, `None` leaves it.
    pub focus: Option<Option<String>>,
    /// When its last loop began; must be RFC 3339.
    pub last_loop_at: Option<String>,
    /// Must be a word of [`Activity`].
    pub activity: Option<String>,
}

/// What a heartbeat is answered: the control channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// Time between two loops.
    pub loop_interval: Duration,
    /// What is wanted of the agent.
    pub desired: Desired,
    /// Grows with every change of a setting.
    pub settings_version: u64,
    /// How many messages are due, at most a second old.
    pub mailbox: u64,
}

#[derive(Default)]
struct Heard {
    last: HashMap<AgentId, Heartbeat>,
    dirty: HashSet<AgentId>,
}

/// Hears agents.
pub struct HeartbeatService {
    store: Arc<dyn Heartbeats>,
    writer: Arc<Writer>,
    roster: Arc<Roster>,
    settings: Arc<SettingsService>,
    mail: Arc<MailService>,
    metrics: Arc<Metrics>,
    heard: Mutex<Heard>,
}

impl HeartbeatService {
    /// Over these ports, nothing heard yet; [`Self::load`] fetches what was stored.
    pub fn new(
        store: Arc<dyn Heartbeats>,
        writer: Arc<Writer>,
        roster: Arc<Roster>,
        settings: Arc<SettingsService>,
        mail: Arc<MailService>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, writer, roster, settings, mail, metrics, heard: Mutex::default() }
    }

    /// Fetches what was heard before this process began, and what other servers have heard since.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn load(&self) -> Result<(), Error> {
        let rows = self.store.all().await?;
        let mut heard = self.lock();
        for row in rows {
            let newer = heard.last.get(&row.agent_id).is_none_or(|known| rank(known) < rank(&row));
            if newer {
                heard.last.insert(row.agent_id, row);
            }
        }
        Ok(())
    }

    /// The last that was heard of an agent, whatever the incarnation.
    pub fn last(&self, agent: AgentId) -> Option<Heartbeat> {
        self.lock().last.get(&agent).cloned()
    }

    /// When the given incarnation was last heard.
    pub fn last_at(&self, agent: &Agent) -> Option<Timestamp> {
        self.last(agent.id).filter(|row| row.incarnation == agent.incarnation).map(|row| row.at)
    }

    /// Takes a heartbeat of an agent whose credential was checked and whose state was read for that.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::PastIncarnation`]; [`Error::Unavailable`] when a change that follows from it cannot be written: the agent was heard all the
    /// same and tries again.
    pub async fn heard(&self, agent: Agent, incarnation: Incarnation, beat: Beat) -> Result<Control, Error> {
        let result = self.take(agent, incarnation, beat).await;
        self.metrics.heartbeat(result.is_ok());
        result
    }

    async fn take(&self, agent: Agent, incarnation: Incarnation, beat: Beat) -> Result<Control, Error> {
        let Checked { loop_count, activity, last_loop_at } = checked(&beat)?;
        let id = agent.id;
        agent.present(incarnation).map_err(past)?;
        let now = self.writer.clock().now();
        self.note(id, incarnation, now, loop_count, activity, last_loop_at);
        // Most heartbeats change nothing: decide on what was read before anything is written.
        let changes = agent.clone().heard(incarnation, beat.focus.clone(), now).map_err(past)?.is_change();
        let agent = if changes {
            let by = By::author(Actor::Agent(agent.agent_type));
            self.writer
                .agent(id, &by, |agent, now| agent.heard(incarnation, beat.focus.clone(), now).map_err(past))
                .await?
        } else {
            agent
        };
        let spec = self.roster.get(&agent.agent_type);
        // An agent lives whether these can be read or not.
        let values = self.settings.current().await.unwrap_or_else(|_| self.settings.last_known());
        let configured = spec.map_or(Duration::from_secs(3600), |spec: &AgentSpec| spec.loop_interval);
        Ok(Control {
            loop_interval: values.loop_interval(&agent.agent_type).unwrap_or(configured),
            desired: agent.desired,
            settings_version: values.version(),
            mailbox: self.mail.due(id).await.unwrap_or_default(),
        })
    }

    fn note(
        &self,
        agent_id: AgentId,
        incarnation: Incarnation,
        at: Timestamp,
        loop_count: Option<u64>,
        activity: Option<Activity>,
        last_loop_at: Option<Timestamp>,
    ) {
        let mut heard = self.lock();
        let before = heard.last.get(&agent_id);
        if before.is_some_and(|row| row.incarnation > incarnation) {
            return;
        }
        let row = Heartbeat {
            agent_id,
            incarnation,
            at,
            loop_count: loop_count.or(before.map(|row| row.loop_count)).unwrap_or(0),
            last_loop_at: last_loop_at.or(before.and_then(|row| row.last_loop_at)),
            activity: activity
                .or(before.filter(|row| row.incarnation == incarnation).and_then(|row| row.activity)),
        };
        heard.last.insert(agent_id, row);
        heard.dirty.insert(agent_id);
    }

    /// Stores what was heard since the last time; what cannot be stored stays for the next.
    ///
    /// # Errors
    /// [`FlushError`].
    pub async fn flush(&self) -> Result<(), FlushError> {
        let rows: Vec<Heartbeat> = {
            let mut heard = self.lock();
            let dirty = std::mem::take(&mut heard.dirty);
            dirty.iter().filter_map(|id| heard.last.get(id).cloned()).collect()
        };
        if rows.is_empty() {
            return Ok(());
        }
        let result = self.store.flush(&rows).await;
        if result.is_err() {
            self.lock().dirty.extend(rows.iter().map(|row| row.agent_id));
        }
        result
    }

    /// Flushes and looks what others heard until `stop`, then flushes once more.
    pub async fn run(&self, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                () = self.writer.clock().sleep(FLUSH_EVERY) => false,
            };
            match self.flush().await {
                Ok(()) if failing => {
                    failing = false;
                    info!("heartbeats are stored again");
                }
                Ok(()) => {}
                Err(error) => {
                    if !failing {
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        warn!(?cause, "heartbeats cannot be stored; they are kept in memory");
                    }
                    failing = true;
                }
            }
            if stopping {
                return;
            }
            if let Err(error) = self.load().await {
                debug!(%error, "what other servers heard cannot be read");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Nothing panics while it is held, and every state of it is a good one.
        self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn rank(row: &Heartbeat) -> (Incarnation, Timestamp) {
    (row.incarnation, row.at)
}

fn past(refused: Refused) -> Error {
    match refused {
        Refused::Past { said, present } => Error::PastIncarnation { said, present },
        Refused::State => Error::Conflict("the agent is not in a state for that".into()),
    }
}

struct Checked {
    loop_count: Option<u64>,
    activity: Option<Activity>,
    last_loop_at: Option<Timestamp>,
}

fn checked(beat: &Beat) -> Result<Checked, Error> {
    let mut faults = Vec::new();
    let loop_count = beat.loop_count.and_then(|count| u64::try_from(count).ok());
    if beat.loop_count.is_some() && loop_count.is_none() {
        faults.push(Fault::new("/loopCount", "must be a whole number, 0 or more"));
    }
    let activity = beat.activity.as_deref().and_then(Activity::parse);
    if beat.activity.is_some() && activity.is_none() {
        faults.push(Fault::new("/status", "must be one of idle, working, blocked"));
    }
    let last_loop_at = beat.last_loop_at.as_deref().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    if beat.last_loop_at.is_some() && last_loop_at.is_none() {
        faults.push(Fault::new("/lastLoopAt", "must be a time as RFC 3339 writes it"));
    }
    if let Some(Some(focus)) = &beat.focus
        && (focus.chars().count() > MAX_FOCUS || focus.contains('\0'))
    {
        faults.push(Fault::new(
            "/currentFocus",
            format!("must have at most {MAX_FOCUS} characters and no NUL"),
        ));
    }
    if !faults.is_empty() {
        return Err(Error::Invalid(faults));
    }
    let last_loop_at = last_loop_at.map(|at| truncate(at.with_timezone(&Utc)));
    Ok(Checked { loop_count, activity, last_loop_at })
}
