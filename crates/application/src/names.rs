//! The types of agents by their ids. A pair never changes, so what was read once is kept.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use aito_domain::{
    id::{AgentId, AgentType},
    ports::agent_store::AgentStore,
};

use crate::error::Error;

/// Knows agents by id.
pub(crate) struct Names {
    agents: Arc<dyn AgentStore>,
    known: RwLock<HashMap<AgentId, AgentType>>,
}

impl Names {
    pub(crate) fn new(agents: Arc<dyn AgentStore>) -> Self {
        Self { agents, known: RwLock::default() }
    }

    /// The type of an agent.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Internal`] for an agent that is not stored.
    pub(crate) async fn of(&self, id: AgentId) -> Result<AgentType, Error> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(known.clone());
        }
        let all = self.agents.list().await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(all.into_iter().map(|agent| (agent.id, agent.agent_type)));
        known.get(&id).cloned().ok_or_else(|| Error::Internal(format!("there is no agent {id}").into()))
    }
}
