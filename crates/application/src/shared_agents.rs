//! Agents, each read once for all who ask for it at the same time; lists are shared where they are shown.
//!
//! Invariant: the contract of the port is that of the store behind it, since no answer is older than its question.

use std::sync::Arc;

use aito_domain::{
    agent::Agent,
    id::{AgentId, AgentType},
    ports::{ReadError, agent_store::AgentStore},
};
use async_trait::async_trait;

use crate::shared::Shared;

/// An [`AgentStore`] over another one.
pub struct SharedAgents {
    store: Arc<dyn AgentStore>,
    by_type: Shared<AgentType, Found>,
    by_id: Shared<AgentId, Found>,
}

type Found = Result<Option<Arc<Agent>>, Arc<ReadError>>;

/// A failure that several callers are told of.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Told(Arc<ReadError>);

impl SharedAgents {
    /// Over this store.
    pub fn new(store: Arc<dyn AgentStore>) -> Self {
        Self { store, by_type: Shared::default(), by_id: Shared::default() }
    }
}

#[async_trait]
impl AgentStore for SharedAgents {
    async fn list(&self) -> Result<Vec<Agent>, ReadError> {
        self.store.list().await
    }

    async fn by_type(&self, agent_type: &AgentType) -> Result<Option<Agent>, ReadError> {
        let (store, wanted) = (self.store.clone(), agent_type.clone());
        let ask = move || {
            let (store, wanted) = (store.clone(), wanted.clone());
            async move { found(store.by_type(&wanted).await) }
        };
        told(self.by_type.get(agent_type.clone(), ask).await).map(|agent| agent.map(Arc::unwrap_or_clone))
    }

    async fn by_id(&self, id: AgentId) -> Result<Option<Agent>, ReadError> {
        let store = self.store.clone();
        let ask = move || {
            let store = store.clone();
            async move { found(store.by_id(id).await) }
        };
        told(self.by_id.get(id, ask).await).map(|agent| agent.map(Arc::unwrap_or_clone))
    }
}

fn found(answer: Result<Option<Agent>, ReadError>) -> Found {
    answer.map(|agent| agent.map(Arc::new)).map_err(Arc::new)
}

/// The answer as one of those who share it gets it.
fn told<T>(answer: Option<Result<T, Arc<ReadError>>>) -> Result<T, ReadError> {
    match answer {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(error)) => Err(match *error {
            ReadError::Unavailable(_) => ReadError::Unavailable(Box::new(Told(error))),
            ReadError::Corrupt(_) => ReadError::Corrupt(Box::new(Told(error))),
        }),
        None => Err(ReadError::Unavailable("the reading was given up".into())),
    }
}
