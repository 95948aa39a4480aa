//! The agent aggregate: what is wanted of an agent, where it is in its life, and the moves between.
//!
//! Invariants: every move consumes the old state and yields the new one with the events that tell of it, or
//! refuses; incarnations only grow; what is said of an incarnation that is not the present one moves nothing.

use serde::{Deserialize, Serialize};

use crate::{
    event::{
        AgentEnded, AgentFailed, AgentFocusChanged, AgentMoved, AgentRegistered, AgentStarting,
        AgentStopping, Payload, StartReason, StopReason,
    },
    id::{AgentId, AgentType, Incarnation, Version},
    spec::RestartPolicy,
    time::{Timestamp, after, between},
};

/// The longest focus, in characters.
pub const MAX_FOCUS: usize = 500;

/// What is wanted of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// It should live.
    Running,
    /// It should not.
    Stopped,
}

impl Desired {
    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// Where an agent is in its life, with what belongs to that place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Lifecycle {
    /// Not running, and nothing is under way.
    Inactive,
    /// The present incarnation was asked for; no heartbeat of it came yet.
    Starting {
        /// Since when.
        since: Timestamp,
    },
    /// The present incarnation was heard.
    Active {
        /// Since when.
        since: Timestamp,
    },
    /// The present incarnation was asked to end.
    Stopping {
        /// Since when.
        since: Timestamp,
    },
    /// The present incarnation could not be started, or died.
    Error {
        /// Since when.
        since: Timestamp,
        /// One line for people.
        reason: String,
        /// When the next incarnation begins.
        retry_at: Timestamp,
    },
}

/// The one word for a [`Lifecycle`] (HTTP contract, Agents: `status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not running.
    Inactive,
    /// Asked for, not heard yet.
    Starting,
    /// Heard.
    Active,
    /// Asked to end.
    Stopping,
    /// Failed; will be tried again.
    Error,
}

impl Status {
    /// Every status, in the order of the contract.
    pub const ALL: [Self; 5] = [Self::Inactive, Self::Starting, Self::Active, Self::Stopping, Self::Error];

    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Stopping => "stopping",
            Self::Error => "error",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = BadStatus;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(BadStatus)
    }
}

/// A word that is no [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of inactive, starting, active, stopping, error")]
pub struct BadStatus;

/// Whether the agent is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Reach {
    /// Nothing is known of this incarnation yet.
    Unknown,
    /// It is heard.
    Ok,
    /// It was not heard for too long.
    Unreachable {
        /// Since when that is known.
        since: Timestamp,
    },
}

/// How an agent does (HTTP contract, Agents: `health`). `stuck` comes with the supervision of loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Heard, and not restarting all the time.
    Ok,
    /// Should run and is not heard.
    Unreachable,
    /// Failed several times in a row.
    CrashLoop,
    /// Not running, or too young to tell.
    Unknown,
}

impl Health {
    /// The word of the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::CrashLoop => "crash_loop",
            Self::Unknown => "unknown",
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal (number as in signal(7)).
    Signal(i32),
    /// Nobody saw how; the text says what is known.
    Lost(String),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::Lost(what) => write!(f, "ended unseen: {what}"),
        }
    }
}

/// The last end of one of the agent's incarnations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Which incarnation ended.
    pub incarnation: Incarnation,
    /// How.
    pub exit: Exit,
    /// When that was recorded.
    pub at: Timestamp,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its type, by which it is called.
    pub agent_type: AgentType,
    /// The version that was read; a commit writes the next.
    pub version: Version,
    /// What is wanted.
    pub desired: Desired,
    /// The present incarnation; 0 before the first start.
    pub incarnation: Incarnation,
    /// Where it is.
    pub lifecycle: Lifecycle,
    /// Whether it is heard.
    pub reach: Reach,
    /// What it says that it works on, at most [`MAX_FOCUS`] characters.
    pub focus: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// Automatic restarts since it exists.
    pub restarts: u64,
    /// How its last ended incarnation ended.
    pub last_exit: Option<LastExit>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A move: the new state and what happened. No events means that nothing changed and nothing is to be written.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Transition {
    /// The state after it.
    pub agent: Agent,
    /// What to tell, in order.
    pub events: Vec<Payload>,
}

impl Transition {
    /// Whether there is anything to write.
    #[must_use]
    pub fn is_change(&self) -> bool {
        !self.events.is_empty()
    }
}

/// Why a move is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The incarnation that it is about is not the present one.
    #[error("incarnation {said} is past: the present one is {present}")]
    Past {
        /// The incarnation that was named.
        said: Incarnation,
        /// The present one.
        present: Incarnation,
    },
    /// The agent is in no state from which this move leads.
    #[error("the agent is not in a state for that")]
    State,
}

impl Agent {
    /// Whether this is its present incarnation, and has not ended.
    #[must_use]
    pub fn is_lived_by(&self, incarnation: Incarnation) -> bool {
        self.incarnation == incarnation
            && match self.lifecycle {
                Lifecycle::Starting { .. } | Lifecycle::Active { .. } | Lifecycle::Stopping { .. } => true,
                Lifecycle::Inactive | Lifecycle::Error { .. } => false,
            }
    }

    /// A new agent: wanted stopped, never started.
    pub fn register(id: AgentId, agent_type: AgentType, name: String, now: Timestamp) -> Transition {
        let events = vec![Payload::AgentRegistered(AgentRegistered { agent_type: agent_type.clone(), name })];
        let agent = Self {
            id,
            agent_type,
            version: Version::default(),
            desired: Desired::Stopped,
            incarnation: Incarnation::default(),
            lifecycle: Lifecycle::Inactive,
            reach: Reach::Unknown,
            focus: None,
            failures: 0,
            restarts: 0,
            last_exit: None,
            created_at: now,
            updated_at: now,
        };
        Transition { agent, events }
    }

    /// The one word for where it is.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.lifecycle {
            Lifecycle::Inactive => Status::Inactive,
            Lifecycle::Starting { .. } => Status::Starting,
            Lifecycle::Active { .. } => Status::Active,
            Lifecycle::Stopping { .. } => Status::Stopping,
            Lifecycle::Error { .. } => Status::Error,
        }
    }

    /// How it does. A crash loop is over once an incarnation has lasted for `policy.reset_after`.
    #[must_use]
    pub fn health(&self, policy: &RestartPolicy, now: Timestamp) -> Health {
        if self.desired == Desired::Stopped {
            return Health::Unknown;
        }
        let lasted = match self.lifecycle {
            Lifecycle::Active { since } => between(since, now) >= policy.reset_after,
            _ => false,
        };
        if self.failures >= policy.crash_loop_after && !lasted {
            return Health::CrashLoop;
        }
        match (&self.lifecycle, self.reach) {
            (_, Reach::Unreachable { .. }) | (Lifecycle::Error { .. }, _) => Health::Unreachable,
            (Lifecycle::Active { .. }, Reach::Ok) => Health::Ok,
            _ => Health::Unknown,
        }
    }

    /// Somebody wants it to run. Starting or active already: nothing changes.
    pub fn want_running(mut self, now: Timestamp) -> Transition {
        let under_way = matches!(self.lifecycle, Lifecycle::Starting { .. } | Lifecycle::Active { .. });
        if self.desired == Desired::Running && under_way {
            return Transition { agent: self, events: Vec::new() };
        }
        self.desired = Desired::Running;
        self.failures = 0;
        self.begin(StartReason::Requested, Vec::new(), now)
    }

    /// Somebody wants it to run anew, running or not. The incarnation before is past from here on.
    pub fn want_restart(mut self, now: Timestamp) -> Transition {
        let mut events = Vec::new();
        if matches!(self.lifecycle, Lifecycle::Starting { .. } | Lifecycle::Active { .. }) {
            events.push(self.stopping(StopReason::Restart));
        }
        self.desired = Desired::Running;
        self.failures = 0;
        self.begin(StartReason::Restart, events, now)
    }

    /// Somebody wants it to end. Ended or ending already: nothing changes.
    pub fn want_stopped(mut self, now: Timestamp) -> Transition {
        let ending = matches!(self.lifecycle, Lifecycle::Inactive | Lifecycle::Stopping { .. });
        if self.desired == Desired::Stopped && ending {
            return Transition { agent: self, events: Vec::new() };
        }
        self.desired = Desired::Stopped;
        self.lifecycle = Lifecycle::Stopping { since: now };
        let events = vec![self.stopping(StopReason::Requested)];
        self.moved(events, now)
    }

    /// The pause after a failure is over.
    ///
    /// # Errors
    /// [`Refused::State`] unless it should run, failed, and the time has come.
    pub fn retry(mut self, now: Timestamp) -> Result<Transition, Refused> {
        match self.lifecycle {
            Lifecycle::Error { since, retry_at, .. }
                if self.desired == Desired::Running && retry_is_due(since, retry_at, now) =>
            {
                self.restarts += 1;
                Ok(self.begin(StartReason::Recovery, Vec::new(), now))
            }
            _ => Err(Refused::State),
        }
    }

    /// A later incarnation than the stored one was seen, or the derived name of the present one is held by
    /// something foreign: go on above `seen`.
    ///
    /// # Errors
    /// [`Refused::State`] when the stored incarnation is above `seen` already, or is `seen` and the agent should
    /// not run: it needs no other name then, and somebody else may have renumbered it just now.
    pub fn renumber(mut self, seen: Incarnation, now: Timestamp) -> Result<Transition, Refused> {
        let moot = self.desired == Desired::Stopped && seen == self.incarnation;
        if seen < self.incarnation || moot {
            return Err(Refused::State);
        }
        self.incarnation = seen;
        Ok(match self.desired {
            Desired::Running => self.begin(StartReason::Renumbered, Vec::new(), now),
            Desired::Stopped => {
                self.lifecycle = Lifecycle::Stopping { since: now };
                let events = vec![self.stopping(StopReason::Requested)];
                self.moved(events, now)
            }
        })
    }

    /// A heartbeat came, with what the agent says that it works on (`None`: it did not say).
    ///
    /// # Errors
    /// [`Refused::Past`] for another incarnation than the present one.
    pub fn heard(
        mut self,
        incarnation: Incarnation,
        focus: Option<Option<String>>,
        now: Timestamp,
    ) -> Result<Transition, Refused> {
        self.present(incarnation)?;
        let mut events = Vec::new();
        let first = matches!(self.lifecycle, Lifecycle::Starting { .. });
        if first {
            self.lifecycle = Lifecycle::Active { since: now };
            events.push(Payload::AgentStarted(self.named()));
        }
        if matches!(self.lifecycle, Lifecycle::Active { .. }) && self.reach != Reach::Ok {
            let was_lost = matches!(self.reach, Reach::Unreachable { .. });
            self.reach = Reach::Ok;
            if was_lost || self.failures > 0 {
                events.push(Payload::AgentRecovered(self.named()));
            }
        }
        if let Some(focus) = focus.filter(|focus| *focus != self.focus) {
            self.focus.clone_from(&focus);
            events.push(Payload::AgentFocusChanged(AgentFocusChanged {
                agent_type: self.agent_type.clone(),
                incarnation,
                focus,
            }));
        }
        Ok(if events.is_empty() { Transition { agent: self, events } } else { self.moved(events, now) })
    }

    /// It was not heard for too long.
    ///
    /// # Errors
    /// [`Refused::State`] unless it should run, was started, and this was not known yet.
    pub fn silent(mut self, now: Timestamp) -> Result<Transition, Refused> {
        let running = matches!(self.lifecycle, Lifecycle::Starting { .. } | Lifecycle::Active { .. });
        if self.desired != Desired::Running || !running || matches!(self.reach, Reach::Unreachable { .. }) {
            return Err(Refused::State);
        }
        self.reach = Reach::Unreachable { since: now };
        let events = vec![Payload::AgentUnreachable(self.named())];
        Ok(self.moved(events, now))
    }

    /// The present incarnation ended, or is nowhere to be found.
    ///
    /// # Errors
    /// [`Refused::Past`] for another incarnation; [`Refused::State`] when its end is recorded already.
    pub fn ended(
        mut self,
        incarnation: Incarnation,
        exit: Exit,
        policy: &RestartPolicy,
        now: Timestamp,
    ) -> Result<Transition, Refused> {
        self.present(incarnation)?;
        let since = match self.lifecycle {
            Lifecycle::Inactive | Lifecycle::Error { .. } => return Err(Refused::State),
            Lifecycle::Starting { since } | Lifecycle::Active { since } | Lifecycle::Stopping { since } => {
                since
            }
        };
        self.last_exit = Some(LastExit { incarnation, exit: exit.clone(), at: now });
        if self.desired == Desired::Stopped {
            return Ok(self.stopped(Some(exit), now));
        }
        if matches!(self.lifecycle, Lifecycle::Active { .. }) && between(since, now) >= policy.reset_after {
            self.failures = 0;
        }
        Ok(self.fail(exit.to_string(), Some(exit), policy, now))
    }

    /// An agent that should end has nothing left that runs, and nobody saw how it ended.
    ///
    /// # Errors
    /// [`Refused::State`] unless it is stopping.
    pub fn gone(self, now: Timestamp) -> Result<Transition, Refused> {
        match self.lifecycle {
            Lifecycle::Stopping { .. } => Ok(self.stopped(None, now)),
            _ => Err(Refused::State),
        }
    }

    /// The present incarnation could not be started.
    ///
    /// # Errors
    /// [`Refused::Past`] for another incarnation; [`Refused::State`] unless it is starting.
    pub fn start_failed(
        self,
        incarnation: Incarnation,
        reason: String,
        policy: &RestartPolicy,
        now: Timestamp,
    ) -> Result<Transition, Refused> {
        self.present(incarnation)?;
        match self.lifecycle {
            Lifecycle::Starting { .. } => Ok(self.fail(reason, None, policy, now)),
            _ => Err(Refused::State),
        }
    }

    /// # Errors
    /// [`Refused::Past`] unless `said` is the present incarnation.
    pub fn present(&self, said: Incarnation) -> Result<(), Refused> {
        if said == self.incarnation && said > Incarnation::default() {
            Ok(())
        } else {
            Err(Refused::Past { said, present: self.incarnation })
        }
    }

    fn begin(mut self, reason: StartReason, mut events: Vec<Payload>, now: Timestamp) -> Transition {
        self.incarnation = self.incarnation.next();
        self.lifecycle = Lifecycle::Starting { since: now };
        self.reach = Reach::Unknown;
        events.push(Payload::AgentStarting(AgentStarting {
            agent_type: self.agent_type.clone(),
            status: Status::Starting,
            incarnation: self.incarnation,
            reason,
        }));
        self.moved(events, now)
    }

    fn fail(
        mut self,
        reason: String,
        exit: Option<Exit>,
        policy: &RestartPolicy,
        now: Timestamp,
    ) -> Transition {
        self.failures = self.failures.saturating_add(1);
        let retry_at = after(now, policy.pause(self.failures));
        self.reach = Reach::Unknown;
        self.lifecycle = Lifecycle::Error { since: now, reason: reason.clone(), retry_at };
        let events = vec![Payload::AgentError(AgentFailed {
            agent_type: self.agent_type.clone(),
            status: Status::Error,
            incarnation: self.incarnation,
            reason,
            exit,
            failures: self.failures,
            retry_at,
        })];
        self.moved(events, now)
    }

    fn stopped(mut self, exit: Option<Exit>, now: Timestamp) -> Transition {
        self.lifecycle = Lifecycle::Inactive;
        self.reach = Reach::Unknown;
        self.failures = 0;
        let events = vec![Payload::AgentStopped(AgentEnded {
            agent_type: self.agent_type.clone(),
            status: Status::Inactive,
            incarnation: self.incarnation,
            exit,
        })];
        self.moved(events, now)
    }

    fn stopping(&self, reason: StopReason) -> Payload {
        Payload::AgentStopping(AgentStopping {
            agent_type: self.agent_type.clone(),
            status: Status::Stopping,
            incarnation: self.incarnation,
            reason,
        })
    }

    fn named(&self) -> AgentMoved {
        AgentMoved {
            agent_type: self.agent_type.clone(),
            status: self.status(),
            incarnation: self.incarnation,
        }
    }

    fn moved(mut self, events: Vec<Payload>, now: Timestamp) -> Transition {
        self.updated_at = now;
        Transition { agent: self, events }
    }
}

/// Whether the pause after a failure is over. Where the clock was set back behind the failure itself nobody can
/// say how much of the pause has passed, and waiting for the old time could take hours: it counts as over.
#[must_use]
pub fn retry_is_due(since: Timestamp, retry_at: Timestamp, now: Timestamp) -> bool {
    retry_at <= now || now < since
}

#[cfg(test)]
mod tests;
