//! Keeps the one record of what installation a store belongs to.
//!
//! 1. `load` gives `None` before the first `create`.
//! 2. The first `create` wins; a later one changes nothing and gives the record that stands.
//! 3. `set_engine` changes the engine's name only where the stored one is `from` (an empty name: not known yet),
//!    and gives the record that stands; of racing calls from one name exactly one counts.

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
    /// Names the engine where it is `from`; gives the record that stands, `None` when there is none.
    async fn set_engine(&self, from: &str, to: &str) -> Result<Option<InstallationRecord>, ReadError>;
}
