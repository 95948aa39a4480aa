//! Reads agents.
//!
//! 1. A commit that returned is visible to every handle at once.
//! 2. What is read is what was committed, field by field.
//! 3. `list` gives every agent, ordered by type; a type that no agent has is `None`, not an error.

use async_trait::async_trait;

use super::ReadError;
use crate::{
    agent::Agent,
    id::{AgentId, AgentType},
};

/// Reads agents; see the module for the contract.
#[async_trait]
pub trait AgentStore: Send + Sync {
    /// Every agent, ordered by type.
    async fn list(&self) -> Result<Vec<Agent>, ReadError>;
    /// The agent of a type.
    async fn by_type(&self, agent_type: &AgentType) -> Result<Option<Agent>, ReadError>;
    /// The agent with an id.
    async fn by_id(&self, id: AgentId) -> Result<Option<Agent>, ReadError>;
}
