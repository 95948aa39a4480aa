//! Who a request acts for, once its credential was checked.
//!
//! Invariants: a principal has one key, by which limits, idempotency and audit know it; its grants are those at
//! the time of the check.

use crate::{
    access::{Denied, Grants, Operation, Role, Who, permit},
    event::Actor,
    id::{AgentId, AgentType, Incarnation, TokenId},
    time::Timestamp,
    token::SecretTag,
};

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Somebody without a credential, on a listener that asks for none.
    Anonymous,
    /// The holder of a token.
    Token {
        /// Which.
        id: TokenId,
        /// What it is called.
        name: String,
        /// Which of its secrets was shown.
        secret: SecretTag,
        /// What it may.
        grants: Grants,
        /// When that secret ends by itself.
        until: Option<Timestamp>,
    },
    /// Somebody whom an identity provider vouches for (a JSON Web Token); never with a seat.
    External {
        /// Whom.
        subject: String,
        /// What they may.
        grants: Grants,
        /// When the word of the provider ends.
        until: Timestamp,
    },
    /// The present incarnation of an agent.
    Agent {
        /// Which.
        id: AgentId,
        /// Its type.
        agent_type: AgentType,
        /// The incarnation.
        incarnation: Incarnation,
    },
}

impl Principal {
    /// As events and audit name it. Somebody of an identity provider is `token:jwt/<subject>`; no token's name has
    /// a slash.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self {
            Self::Anonymous => Actor::Unauthenticated,
            Self::Token { name, .. } => Actor::Token(name.clone()),
            Self::External { subject, .. } => Actor::Token(format!("jwt/{subject}")),
            Self::Agent { agent_type, .. } => Actor::Agent(agent_type.clone()),
        }
    }

    /// By which limits, idempotency and audit know it.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Anonymous => "none".to_owned(),
            Self::Token { id, .. } => format!("token/{id}"),
            Self::External { subject, .. } => format!("jwt/{subject}"),
            Self::Agent { id, incarnation, .. } => format!("agent/{id}/{incarnation}"),
        }
    }

    /// As far as rights go.
    #[must_use]
    pub fn who(&self) -> Who<'_> {
        match self {
            Self::Anonymous => Who::Anonymous,
            Self::Token { grants, .. } | Self::External { grants, .. } => Who::Holder(grants),
            Self::Agent { agent_type, .. } => Who::Agent(agent_type),
        }
    }

    /// Whether it may do something; see [`permit`].
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may(&self, operation: Operation, object: Option<&str>) -> Result<(), Denied> {
        permit(self.who(), operation, object)
    }

    /// When it ends by itself, if it does.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Token { until, .. } => *until,
            Self::External { until, .. } => Some(*until),
            Self::Anonymous | Self::Agent { .. } => None,
        }
    }

    /// Whether it may see what is told of tokens.
    #[must_use]
    pub fn sees_tokens(&self) -> bool {
        match self {
            Self::Anonymous => true,
            Self::Token { grants, .. } | Self::External { grants, .. } => grants.has(Role::Admin),
            Self::Agent { .. } => false,
        }
    }
}
