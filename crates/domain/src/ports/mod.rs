//! The ports: what the use cases need of the world, one file each, its numbered contract in the header.
//!
//! Invariants: domain types only, object-safe, every error a decision. The crate `aito-contracts` has one
//! test per number, which every adapter, fake and decorator runs.

pub mod agent_store;
pub mod audit_store;
pub mod bus;
pub mod clock;
pub mod event_log;
pub mod heartbeats;
pub mod history_store;
pub mod installation_store;
pub mod ledger;
pub mod runtime;
pub mod token_store;

use crate::Cause;

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
