//! What configuration says of an agent: how it is started, limited, restarted. Never set through the API.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::id::AgentType;

/// The specification of one agent type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// Which agent this is about.
    pub agent_type: AgentType,
    /// What people read, such as `CEO Agent`.
    pub name: String,
    /// The agent's place in the company.
    pub tier: Tier,
    /// The container image, by name or by digest; local processes need none.
    pub image: Option<String>,
    /// Directories and files of the host that the container sees; local processes see the host anyway.
    pub mounts: Vec<Mount>,
    /// Program and arguments; `None` runs the reference agent.
    pub command: Option<Vec<String>>,
    /// Seconds between two loops of the agent, at least 1.
    pub loop_interval: Duration,
    /// Time between two heartbeats, at least 1 s.
    pub heartbeat_interval: Duration,
    /// How long the agent may take to end after it was asked to.
    pub grace: Duration,
    /// Where the agent's profile (Markdown) lies.
    pub profile: PathBuf,
    /// Plain environment variables.
    pub env: BTreeMap<String, String>,
    /// Environment variables whose values are secrets.
    pub secrets: BTreeMap<String, SecretRef>,
    /// Upper bounds of what the agent may use.
    pub limits: Limits,
    /// When and how often a dead agent is started again.
    pub restart: RestartPolicy,
}

/// A directory or file of the host inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it lies on the host; absolute.
    pub source: PathBuf,
    /// Where the agent sees it; absolute.
    pub target: PathBuf,
    /// Whether the agent may only read it.
    pub read_only: bool,
}

/// An agent's place: heads hold the seats of votes, the C-level advises (HTTP contract, Agents).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// `ceo` and `dao` by default.
    Head,
    /// Everybody else by default.
    Clevel,
}

impl Tier {
    /// The word of the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Clevel => "clevel",
        }
    }
}

/// Where a secret's value comes from; the value itself is read when the agent is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretRef {
    /// An environment variable of the server.
    Env(String),
    /// A file that the server can read; a trailing line break is dropped.
    File(PathBuf),
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Upper bounds of what an agent may use; `None` leaves a thing unbounded. A runtime says what it enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Thousandths of one processor.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Open files per process.
    pub open_files: Option<u64>,
}

/// When an agent that should run is started again: exponential back-off, for ever, with a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Pause before the first restart.
    pub initial: Duration,
    /// Longest pause.
    pub max: Duration,
    /// An incarnation that ran at least this long starts the count of failures anew.
    pub reset_after: Duration,
    /// From this many failures in a row the agent's health is `crash_loop`.
    pub crash_loop_after: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(300),
            reset_after: Duration::from_secs(600),
            crash_loop_after: 5,
        }
    }
}

impl RestartPolicy {
    /// The pause after the `failures`th failure in a row (1 is the first): `initial`, doubled each time, at
    /// most `max`.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_never_overflow() {
        let policy = RestartPolicy::default();
        let pauses: Vec<_> = (0..5).map(|n| policy.pause(n).as_millis()).collect();
        assert_eq!(pauses, [500, 500, 1000, 2000, 4000]);
        assert_eq!(policy.pause(u32::MAX), policy.max);
        assert_eq!(RestartPolicy { initial: Duration::MAX, ..policy }.pause(9), policy.max);
    }
}
