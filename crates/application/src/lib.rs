//! The use cases and the loops: what the control plane does, over ports only.
//!
//! Invariants: no adapter's name; every change goes through one [`writer::Writer`] and so through
//! `Ledger::commit`; loops take no input (a signal means *look now*, a timer looks anyway) and every pass is
//! idempotent.

pub mod audit;
pub mod by;
mod checks;
pub mod domains;
pub mod error;
pub mod events;
pub mod feed;
pub mod fleet;
pub mod health;
pub mod heartbeat;
mod hints;
pub mod history;
mod locked;
pub mod login;
mod looping;
pub mod mailbox;
pub mod metrics;
mod names;
pub mod once;
pub mod quota;
pub mod settings;
pub mod shared;
pub mod state;
pub mod tasks;
pub mod tokens;
pub mod writer;

pub use by::{Attempt, By};
pub use checks::Seen;
pub use error::{Error, Fault};

/// The version of this build, as it is shown.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
