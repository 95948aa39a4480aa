//! Reads the audit and seals it; entries are written through the ledger.
//!
//! 1. `unsealed` gives up to `limit` entries that have no place in the chain yet, ordered by id; every entry of a
//!    commit that returned is among them until it is sealed.
//! 2. `head` is [`Head::NONE`] until something was sealed, then what the last seal made it.
//! 3. `seal` gives entries their places, all or none, and only from the head that is stored: from another it is
//!    `Conflict` and changes nothing; of racing ones from one head exactly one counts. An entry that is sealed
//!    already, or that there is not, is `Conflict` too.
//! 4. `sealed` gives up to `limit` sealed entries with numbers above `n`, in order, as they were sealed.
//! 5. `page` gives the newest entries first, by id falling, sealed or not, filtered, below `before`.
//! 6. `prune` keeps the checkpoint in place of the one before and removes the sealed entries up to its number, all
//!    or none; what is above or unsealed stays. A checkpoint below the kept one is `Conflict` and changes nothing.
//! 7. `checkpoint` is the one that the last `prune` kept.

use async_trait::async_trait;

use super::ReadError;
use crate::{
    Cause,
    audit::{AuditEntry, Checkpoint, Head, Outcome, Sealed},
    id::AuditId,
};

/// Which entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// By this actor only.
    pub actor: Option<String>,
    /// Of this operation only.
    pub operation: Option<String>,
    /// With this outcome only.
    pub outcome: Option<Outcome>,
    /// Below this id only.
    pub before: Option<AuditId>,
}

/// An entry with its place, if it has one yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The entry.
    pub entry: AuditEntry,
    /// Its number and seal.
    pub place: Option<Head>,
}

/// Why the chain was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Somebody else changed it: read again.
    #[error("the chain was changed by somebody else")]
    Conflict,
    /// It may or may not have been changed: read again later.
    #[error("the store is unavailable")]
    Unavailable(#[source] Cause),
}

/// Reads and seals the audit; see the module for the contract.
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// The oldest entries without a place.
    async fn unsealed(&self, limit: u32) -> Result<Vec<AuditEntry>, ReadError>;
    /// The end of the chain.
    async fn head(&self) -> Result<Head, ReadError>;
    /// Gives entries their places: `entries[i]` gets the number `head.n + 1 + i`.
    async fn seal(&self, head: Head, entries: &[Sealed]) -> Result<(), SealError>;
    /// Sealed entries in order.
    async fn sealed(&self, n: u64, limit: u32) -> Result<Vec<Sealed>, ReadError>;
    /// The newest entries.
    async fn page(&self, query: &AuditQuery, limit: u32) -> Result<Vec<Listed>, ReadError>;
    /// Forgets what the checkpoint covers; gives how many entries went.
    async fn prune(&self, checkpoint: &Checkpoint) -> Result<u64, SealError>;
    /// What was forgotten up to.
    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ReadError>;
}
