//! Starts, stops and watches agents' containers, or what stands in for them.
//!
//! 1. `ensure_started` starts a container once: asked again while it runs it is `AlreadyRunning`, after it has
//!    ended `AlreadyEnded`; concurrent calls for one key end with one container.
//! 2. Two incarnations of one agent are two containers; but while another incarnation of the agent lives, a
//!    runtime may refuse a start as `Conflict`.
//! 3. `ensure_stopped` asks gracefully, then forces after `grace`; what is not there is `NotThere`; what has
//!    ended already is given as it ended.
//! 4. `remove` leaves nothing of a container behind; a running one is forced to end first; what is not there
//!    is no error.
//! 5. `list` shows every container of this installation, also those that another process of it started, and
//!    no other; an ended one is shown until it is removed, with how it ended.
//! 6. The end of a container yields a hint on `watch`, within 1 s.
//! 7. `check` refuses, naming what is missing, what `ensure_started` would refuse for good; it changes nothing.
//! 8. `logs` gives what the agent wrote on both channels in order, cut to `tail` and `since`; with `follow` the
//!    stream goes on until the container is removed or the reader goes; bytes that are no text are shown as
//!    replacement characters, endless lines are cut.
//! 9. `stats` of what does not run is `None`.
//! 10. An error says whether anything happened: [`RuntimeError`].
//! 11. The agent gets the given environment and nothing of the server's own but what `check` documents.
//! 12. `foreign` shows what looks like an agent of such a company and is none of this installation's; no other
//!     call ever touches it.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::{
    Cause,
    agent::Exit,
    fleet::{Container, ContainerKey},
    installation::RuntimeKind,
    spec::AgentSpec,
    time::Timestamp,
};

/// A text that must not be shown: its `Debug` says nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Everything that a start needs.
#[derive(Debug, Clone)]
pub struct Start {
    /// Which container.
    pub key: ContainerKey,
    /// How the agent is configured.
    pub spec: AgentSpec,
    /// The environment of the agent, complete but for what the runtime itself adds: where profile, credential
    /// and sockets lie, as the agent sees them ([`PLACES`]).
    pub env: Vec<(String, Secret)>,
    /// The incarnation's credential.
    pub credential: Secret,
    /// The directory in which servers' sockets lie, on this host.
    pub socket_dir: PathBuf,
}

/// The variables that a runtime adds to an agent's environment, besides what it documents itself.
pub const PLACES: [&str; 4] =
    ["AGENT_PROFILE", "PROFILE_PATH", "AGENT_CREDENTIAL_FILE", "ORCHESTRATOR_SOCKET_DIR"];

/// What a start found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It runs since this call.
    Now,
    /// It ran already.
    AlreadyRunning,
    /// It ran and has ended; an incarnation is started once only.
    AlreadyEnded(Exit),
}

/// What a stop found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// It has ended, like this.
    Ended(Exit),
    /// There is no such container.
    NotThere,
}

/// Which part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only the last so many lines that are kept.
    pub tail: Option<u32>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// Go on with what is written from now on.
    pub follow: bool,
}

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogChannel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read.
    pub at: Timestamp,
    /// Where it was written.
    pub channel: LogChannel,
    /// The line without its end.
    pub text: String,
}

/// What a container uses at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// When that was read.
    pub at: Timestamp,
    /// Processor time since the start, all its processes.
    pub cpu: Duration,
    /// Resident memory in bytes, all its processes.
    pub memory_bytes: u64,
    /// Processes.
    pub processes: u32,
}

/// A container that looks like an agent's and is not of this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its name, as the engine shows it.
    pub name: String,
    /// The agent type that it claims, if it claims one.
    pub agent_type: Option<String>,
    /// Whether it runs.
    pub running: bool,
    /// One line for people: whose it is, as far as can be told.
    pub whose: String,
}

/// A container may have changed: look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint;

/// Why a call failed, as what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such container.
    #[error("there is no such container")]
    NotFound,
    /// Something else holds the name or the agent's place; the text names it.
    #[error("conflict: {0}")]
    Conflict(String),
    /// It will not work by trying again; the text says what must change.
    #[error("{0}")]
    Refused(String),
    /// The runtime does not answer and nothing was done.
    #[error("the runtime is unavailable")]
    Unavailable(#[source] Cause),
    /// The runtime failed on the way: look before deciding.
    #[error("whether the runtime did it is not known")]
    Unknown(#[source] Cause),
}

/// What a runtime enforces of [`crate::spec::Limits`], one line for people per limit that it does not.
pub type Unenforced = Vec<String>;

/// Keeps containers; see the module for the contract.
#[async_trait]
pub trait ContainerRuntime: Send + Sync {
    /// Which runtime this is.
    fn kind(&self) -> RuntimeKind;
    /// Whether a start like this could succeed.
    async fn check(&self, spec: &AgentSpec) -> Result<(), RuntimeError>;
    /// Makes the container run, once.
    async fn ensure_started(&self, start: &Start) -> Result<Started, RuntimeError>;
    /// Makes it end.
    async fn ensure_stopped(&self, key: &ContainerKey, grace: Duration) -> Result<Stopped, RuntimeError>;
    /// Makes it disappear.
    async fn remove(&self, key: &ContainerKey) -> Result<(), RuntimeError>;
    /// Everything of this installation.
    async fn list(&self) -> Result<Vec<Container>, RuntimeError>;
    /// Look-alikes, ordered by name.
    async fn foreign(&self) -> Result<Vec<Foreign>, RuntimeError>;
    /// A container's log.
    async fn logs(
        &self,
        key: &ContainerKey,
        query: &LogQuery,
    ) -> Result<BoxStream<'static, LogLine>, RuntimeError>;
    /// What it uses now.
    async fn stats(&self, key: &ContainerKey) -> Result<Option<Stats>, RuntimeError>;
    /// Hints that containers changed; the stream ends when it cannot go on, and is then asked for again.
    async fn watch(&self) -> Result<BoxStream<'static, Hint>, RuntimeError>;
    /// Whether it answers.
    async fn ping(&self) -> Result<(), RuntimeError>;
    /// Names the engine, the same after a restart of it.
    async fn engine_id(&self) -> Result<String, RuntimeError>;
    /// Which limits it cannot enforce here.
    fn unenforced(&self) -> Unenforced;
}
