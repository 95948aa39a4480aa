//! Agents that are read together.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use aito_application::shared_agents::SharedAgents;
use aito_domain::{
    agent::Agent,
    event::Actor,
    id::{AgentId, AgentType},
    ports::{ReadError, agent_store::AgentStore},
};
use async_trait::async_trait;

use crate::support::{House, ty};

#[tokio::test]
async fn what_was_committed_is_what_is_read_by_type_by_id_and_in_the_list() {
    let house = House::new();
    let server = house.server(&["ceo", "cto"]).await;
    let agents = SharedAgents::new(house.store.clone());
    for _ in 0..5 {
        server.fleet.start(&ty("ceo"), &Actor::System).await.unwrap();
        let stored = house.agent("ceo").await;
        assert_eq!(agents.by_type(&ty("ceo")).await.unwrap(), Some(stored.clone()));
        assert_eq!(agents.by_id(stored.id).await.unwrap(), Some(stored.clone()));
        assert_eq!(agents.list().await.unwrap(), house.store.list().await.unwrap());
        server.fleet.stop(&ty("ceo"), &Actor::System).await.unwrap();
    }
    assert_eq!(agents.by_type(&ty("nobody")).await.unwrap(), None);
}

/// Fails as it is told.
struct Failing(AtomicU8);

impl Failing {
    fn say<T>(&self) -> Result<T, ReadError> {
        Err(match self.0.load(Ordering::SeqCst) {
            0 => ReadError::Unavailable("away".into()),
            _ => ReadError::Corrupt("damaged".into()),
        })
    }
}

#[async_trait]
impl AgentStore for Failing {
    async fn list(&self) -> Result<Vec<Agent>, ReadError> {
        self.say()
    }
    async fn by_type(&self, _: &AgentType) -> Result<Option<Agent>, ReadError> {
        self.say()
    }
    async fn by_id(&self, _: AgentId) -> Result<Option<Agent>, ReadError> {
        self.say()
    }
}

#[tokio::test]
async fn a_failure_keeps_its_kind_and_its_cause_for_everybody() {
    let store = Arc::new(Failing(AtomicU8::new(0)));
    let agents = SharedAgents::new(store.clone());
    let text = |error: &dyn std::error::Error| {
        let mut texts = vec![error.to_string()];
        let mut next = error.source();
        while let Some(source) = next {
            texts.push(source.to_string());
            next = source.source();
        }
        texts.join(": ")
    };
    let ceo = ty("ceo");
    let (one, two, three) = tokio::join!(agents.by_type(&ceo), agents.by_type(&ceo), agents.by_type(&ceo));
    for answer in [one, two, three] {
        let error = answer.unwrap_err();
        assert!(matches!(error, ReadError::Unavailable(_)));
        assert!(text(&error).ends_with("away"), "{}", text(&error));
    }
    store.0.store(1, Ordering::SeqCst);
    let error = agents.by_id(AgentId(uuid::Uuid::nil())).await.unwrap_err();
    assert!(matches!(error, ReadError::Corrupt(_)));
    assert!(text(&error).ends_with("damaged"), "{}", text(&error));
}
