//! Reads settings; they are written through the ledger.
//!
//! 1. A commit that returned is visible to every handle at once, and what is read is what was committed, sealed values
//!    byte by byte.
//! 2. `all` gives every stored setting, by category and then key, in byte order.
//! 3. `version` grows with every change of any of them: it is the sum of their versions, read without their values.

use async_trait::async_trait;

use super::ReadError;
use crate::setting::Setting;

/// Reads settings; see the module for the contract.
#[async_trait]
pub trait SettingsStore: Send + Sync {
    /// Every setting that was ever set.
    async fn all(&self) -> Result<Vec<Setting>, ReadError>;
    /// How often settings were set.
    async fn version(&self) -> Result<u64, ReadError>;
}
