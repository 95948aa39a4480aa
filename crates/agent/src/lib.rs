//! The reference agent: the loop that runs inside an agent's container or process.
//!
//! Invariants:
//! - The heartbeat runs in a task of its own; nothing that thinking does, not even a panic, stops it.
//! - An agent whose credential is refused ends at once, with an exit code of its own: another incarnation speaks
//!   for it now. One that hears nothing from the server for ten minutes stops thinking until it does.
//! - The credential is read once, its file unlinked at once; from then on it is in this process's memory only,
//!   never in a log, and never handed to what thinks.
//! - Thinking is a port ([`Think`]). What comes back from it is data: it is checked, capped and counted before
//!   anything is done.
//! - The mailbox is watched apart from the loop, too; a message wakes the loop, and is acknowledged only when what
//!   thinking made of it is done.
//! - On SIGTERM thinking ends first, with its whole process group, and the agent ends within its grace.

mod action;
mod agent;
pub mod config;
mod credential;
mod descriptors;
mod heartbeat;
mod log;
mod looping;
mod mailbox;
mod outbox;
pub mod profile;
mod server;
mod shutdown;
mod tasks;
pub mod think;
mod time;

pub use action::{Action, ActionFault, Parsed, parse as parse_actions};
pub use agent::{Agent, Outcome, Tuning, run};
pub use config::{Config, ConfigError};
pub use log::Log;
pub use shutdown::{Shutdown, ShutdownHandle};
pub use think::{Think, ThinkError};
