//! Checks of values that callers hand in, all alike.

use aito_domain::{
    agent::Agent,
    id::{AgentId, AgentType, Version},
    ports::agent_store::AgentStore,
};
use serde_json::Value;

use crate::error::{Error, Fault};

/// In which states a caller wants a thing to be for a change: what `If-Match` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// In any, as long as it is there.
    Any,
    /// In one of these.
    In(Vec<Version>),
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, pointer: &str, detail: impl Into<String>) {
        self.0.push(Fault::new(pointer, detail));
    }

    /// A text that must be there: 1 to `max` characters, not only spaces, no NUL (not every store can keep one).
    pub(crate) fn text(&mut self, pointer: &str, text: &str, max: usize) {
        if text.trim().is_empty() || text.chars().count() > max || text.contains('\0') {
            self.add(pointer, format!("must have 1 to {max} characters, not only spaces and no NUL"));
        }
    }

    /// A text that may be left out: at most `max` characters, no NUL.
    pub(crate) fn optional(&mut self, pointer: &str, text: Option<&str>, max: usize) {
        if text.is_some_and(|text| text.chars().count() > max || text.contains('\0')) {
            self.add(pointer, format!("must have at most {max} characters and no NUL"));
        }
    }

    /// Any JSON of at most `max` bytes, no NUL in its texts.
    pub(crate) fn json(&mut self, pointer: &str, value: Option<&Value>, max: usize) {
        if value.is_some_and(|value| value.to_string().len() > max || holds_nul(value)) {
            self.add(pointer, format!("must take at most {max} bytes as JSON and hold no NUL"));
        }
    }

    /// What `read` makes of a text; its error says what is allowed.
    pub(crate) fn read<T, E: std::fmt::Display>(
        &mut self,
        pointer: &str,
        text: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        read(text).map_err(|why| self.add(pointer, why.to_string())).ok()
    }

    /// An agent that is called by its type.
    pub(crate) async fn agent(
        &mut self,
        pointer: &str,
        text: &str,
        agents: &dyn AgentStore,
    ) -> Result<Option<Agent>, Error> {
        let Some(agent_type) = self.read(pointer, text, str::parse::<AgentType>) else { return Ok(None) };
        let agent = agents.by_type(&agent_type).await?;
        if agent.is_none() {
            self.add(pointer, format!("must be the type of an agent; there is no {agent_type}"));
        }
        Ok(agent)
    }

    /// An agent that is called by its type or its id, for filters.
    pub(crate) async fn filter(
        &mut self,
        pointer: &str,
        text: &str,
        agents: &dyn AgentStore,
    ) -> Result<Option<Agent>, Error> {
        if let Ok(id) = text.parse::<AgentId>() {
            let agent = agents.by_id(id).await?;
            if agent.is_none() {
                self.add(pointer, format!("must be an agent's type or id; there is no {id}"));
            }
            return Ok(agent);
        }
        self.agent(pointer, text, agents).await
    }

    /// # Errors
    /// [`Error::Invalid`] when anything is wrong.
    pub(crate) fn done(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}

/// Whether a text anywhere in it has a NUL.
pub(crate) fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(members) => members.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether a thing is in one of the states that the caller has seen.
///
/// # Errors
/// [`Error::Precondition`].
pub(crate) fn expect(what: &str, seen: Option<&Seen>, is: Version) -> Result<(), Error> {
    match seen {
        Some(Seen::Any) if is == Version::default() => {
            Err(Error::Precondition(format!("{what} is not there: leave If-Match out to make it")))
        }
        Some(Seen::In(seen)) if !seen.contains(&is) => {
            Err(Error::Precondition(format!("{what} was changed since: read it again and decide again")))
        }
        _ => Ok(()),
    }
}

/// What is said when others are always faster.
pub(crate) fn busy(what: &str) -> Error {
    Error::unavailable(format!("{what} is being changed by others all the time; nothing was done"), None)
}
