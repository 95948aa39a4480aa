//! Reads what agents have used up; it is added through the ledger.
//!
//! 1. `spent` gives what commits that returned have added for an agent, a kind and a day; nothing at all is zero.

use async_trait::async_trait;

use super::{ReadError, history_store::Written};
use crate::{id::AgentId, quota::SpentKind, time::Timestamp};

/// Reads what was used up; see the module for the contract.
#[async_trait]
pub trait QuotaStore: Send + Sync {
    /// What an agent has used up of a kind on the day that begins at `day`.
    async fn spent(&self, agent: AgentId, kind: SpentKind, day: Timestamp) -> Result<Written, ReadError>;
}
