//! Reads agents' histories; rows are written through the ledger.
//!
//! 1. Newest first: by time, then by id, both falling.
//! 2. `before` continues exactly after the row that it names, whatever was added since.
//! 3. Only the asked agent's rows, at most `limit` of them.
//! 4. `written` counts an agent's rows from a time on, that time included, and the bytes of their texts (UTF-8).

use async_trait::async_trait;

use super::ReadError;
use crate::{
    history::HistoryEntry,
    id::{AgentId, HistoryId},
    time::Timestamp,
};

/// Where a page begins: after this row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryCursor {
    /// The last row's time.
    pub at: Timestamp,
    /// The last row's id.
    pub id: HistoryId,
}

/// What an agent has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Rows.
    pub rows: u64,
    /// Bytes of their summaries and of their details as JSON text.
    pub bytes: u64,
}

/// Reads histories; see the module for the contract.
#[async_trait]
pub trait HistoryStore: Send + Sync {
    /// Up to `limit` rows of an agent, newest first, below `before`.
    async fn page(
        &self,
        agent: AgentId,
        before: Option<HistoryCursor>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, ReadError>;
    /// How much an agent has written since `from`.
    async fn written(&self, agent: AgentId, from: Timestamp) -> Result<Written, ReadError>;
}
