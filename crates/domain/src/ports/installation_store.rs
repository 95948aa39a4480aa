//! Keeps the one record of what installation a store belongs to.
//!
//! 1. `load` gives `None` before the first `create`.
//! 2. The first `create` wins; a later one changes nothing and gives the record that stands.

use async_trait::async_trait;

use super::ReadError;
use crate::installation::InstallationRecord;

/// Keeps the installation's record; see the module for the contract.
#[async_trait]
pub trait InstallationStore: Send + Sync {
    /// The record, once there is one.
    async fn load(&self) -> Result<Option<InstallationRecord>, ReadError>;
    /// Writes the record unless there is one; gives the one that stands.
    async fn create(&self, record: &InstallationRecord) -> Result<InstallationRecord, ReadError>;
}
