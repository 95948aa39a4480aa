//! Who is configured.

use std::collections::BTreeMap;

use aito_domain::{id::AgentType, spec::AgentSpec};

/// The specifications of all configured agents.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    specs: BTreeMap<AgentType, AgentSpec>,
}

impl Roster {
    /// Of these.
    pub fn new(specs: impl IntoIterator<Item = AgentSpec>) -> Self {
        Self { specs: specs.into_iter().map(|spec| (spec.agent_type.clone(), spec)).collect() }
    }

    /// The specification of a type.
    pub fn get(&self, agent_type: &AgentType) -> Option<&AgentSpec> {
        self.specs.get(agent_type)
    }

    /// All, ordered by type.
    pub fn all(&self) -> impl Iterator<Item = &AgentSpec> {
        self.specs.values()
    }
}
