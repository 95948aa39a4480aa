//! The ports: what the use cases need of the world, one file each, its numbered contract in the header.
//!
//! Invariants: domain types only, object-safe, every error a decision. The crate `aito-contracts` has one
//! test per number, which every adapter, fake and decorator runs.

pub mod agent_store;
pub mod audit_store;
pub mod bus;
pub mod clock;
pub mod domain_store;
pub mod event_log;
pub mod heartbeats;
pub mod history_store;
pub mod installation_store;
pub mod ledger;
pub mod mailbox_store;
pub mod quota_store;
pub mod runtime;
pub mod settings_store;
pub mod state_store;
pub mod task_store;
pub mod token_store;

use crate::Cause;

/// How many there are of something that is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// How many; at least so many if not exact.
    pub count: u64,
    /// Whether that is exact, which it is up to [`EXACT_TOTAL`].
    pub exact: bool,
}

/// Up to how many a [`Total`] is exact (HTTP contract, Conventions).
pub const EXACT_TOTAL: u64 = 10_000;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store does not answer, or not in time; trying later may help.
    #[error("the store is unavailable")]
    Unavailable(#[source] Cause),
    /// What is stored cannot be understood by this version.
    #[error("stored data cannot be read")]
    Corrupt(#[source] Cause),
}
