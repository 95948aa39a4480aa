//! Reads agents' notes; they are written through the ledger.
//!
//! 1. A commit that returned is visible to every handle at once, and what is read is what was committed.
//! 2. `page` gives an agent's notes that are not removed, by key in byte order, above `after`.
//! 3. `by_key` gives a note also when it was removed, since its version counts on.
//! 4. `count` counts an agent's notes that are not removed.

use async_trait::async_trait;

use super::ReadError;
use crate::{id::AgentId, state::StateEntry};

/// Reads notes; see the module for the contract.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Up to `limit` notes of an agent.
    async fn page(
        &self,
        agent: AgentId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StateEntry>, ReadError>;
    /// The note under a key.
    async fn by_key(&self, agent: AgentId, key: &str) -> Result<Option<StateEntry>, ReadError>;
    /// How many notes an agent has.
    async fn count(&self, agent: AgentId) -> Result<u64, ReadError>;
}
