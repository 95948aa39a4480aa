//! Whose a credential is, and whether it still is.
//!
//! Invariants: a credential that cannot be looked up is an error of the store, never a refusal; what an identity
//! provider says gives roles only, never a seat nor an agent; a ticket counts once, whichever server it meets.

use std::sync::Arc;

use aito_domain::{
    access::{Grants, Role},
    agent::Agent,
    credential::{self, AgentClaim, AgentCredentials},
    id::{AgentId, Incarnation},
    ports::agent_store::AgentStore,
    principal::Principal,
    ticket::{self, Holder, Ticket, Tickets},
    time::{Timestamp, after, millis},
    token::{self, TokenText},
};

use crate::{
    error::Error,
    tokens::TokenService,
    writer::{Applied, Writer},
};

/// What an identity provider says of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// Who; unique at that provider.
    pub subject: String,
    /// Words of roles, known here or not.
    pub roles: Vec<String>,
    /// Until when its word counts.
    pub until: Timestamp,
}

/// Checks the tokens of an identity provider.
pub trait Vouches: Send + Sync {
    /// What the token says, or `None` when it is not to be believed. May read a file now and then.
    fn verify(&self, token: &str, now: Timestamp) -> Option<Vouched>;
}

/// Somebody whose credential was checked.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Who.
    pub principal: Principal,
    /// The agent as it was read for that, when it is one.
    pub agent: Option<Agent>,
}

impl Standing {
    /// Somebody without a credential where none is asked for.
    pub fn anonymous() -> Self {
        Self { principal: Principal::Anonymous, agent: None }
    }
}

/// Why a credential does not count.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// It is nobody's, or has ended.
    #[error("the credential is not valid")]
    Invalid,
    /// Of an incarnation that another one has replaced.
    #[error("incarnation {said} is past: the present one is {present}")]
    PastIncarnation {
        /// The credential's.
        said: Incarnation,
        /// The present one.
        present: Incarnation,
    },
    /// It cannot be looked up.
    #[error(transparent)]
    Failed(Error),
}

impl From<Error> for LoginError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What is needed to check a text that came as a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text<'a> {
    /// An agent's; checking it needs no store until it proved genuine.
    Agent(AgentClaim),
    /// An operator's token.
    Token(TokenText),
    /// Perhaps one of an identity provider.
    Other(&'a str),
}

/// Checks credentials.
pub struct LoginService {
    agents: Arc<dyn AgentStore>,
    tokens: Arc<TokenService>,
    credentials: AgentCredentials,
    tickets: Tickets,
    vouches: Option<Arc<dyn Vouches>>,
    writer: Arc<Writer>,
}

impl LoginService {
    /// Over these.
    pub fn new(
        agents: Arc<dyn AgentStore>,
        tokens: Arc<TokenService>,
        credentials: AgentCredentials,
        tickets: Tickets,
        vouches: Option<Arc<dyn Vouches>>,
        writer: Arc<Writer>,
    ) -> Self {
        Self { agents, tokens, credentials, tickets, vouches, writer }
    }

    /// What kind of credential a text is, decided by its form and, for an agent's, by its code.
    ///
    /// # Errors
    /// [`LoginError::Invalid`] for one that is certainly none.
    pub fn read<'a>(&self, text: &'a str) -> Result<Text<'a>, LoginError> {
        if text.starts_with(credential::PREFIX) {
            return self.credentials.verify(text).map(Text::Agent).ok_or(LoginError::Invalid);
        }
        if text.starts_with(token::PREFIX) {
            return text.parse().map(Text::Token).map_err(|_| LoginError::Invalid);
        }
        if self.vouches.is_some() { Ok(Text::Other(text)) } else { Err(LoginError::Invalid) }
    }

    /// Whether checking it needs no look into the store that anybody could cause.
    pub fn is_cheap(&self, text: &Text<'_>) -> bool {
        match text {
            Text::Token(token) => self.tokens.is_known(token.id),
            Text::Agent(_) | Text::Other(_) => true,
        }
    }

    /// Who a credential speaks for.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn check(&self, text: &Text<'_>) -> Result<Standing, LoginError> {
        match text {
            Text::Agent(claim) => self.agent(claim.agent_id, claim.incarnation).await,
            Text::Token(token) => {
                let principal = self.tokens.principal(token).await?.ok_or(LoginError::Invalid)?;
                Ok(Standing { principal, agent: None })
            }
            Text::Other(text) => {
                let now = self.writer.clock().now();
                let vouched = self.vouches.as_ref().and_then(|vouches| vouches.verify(text, now));
                let Vouched { subject, roles, until } = vouched.ok_or(LoginError::Invalid)?;
                // A word that is no role gives nothing, and a seat cannot be said at all.
                let grants = Grants::of(roles.iter().filter_map(|word| word.parse::<Role>().ok()));
                Ok(Standing { principal: Principal::External { subject, grants, until }, agent: None })
            }
        }
    }

    async fn agent(&self, id: AgentId, incarnation: Incarnation) -> Result<Standing, LoginError> {
        let agent = self.agents.by_id(id).await.map_err(Error::from)?.ok_or(LoginError::Invalid)?;
        if agent.present(incarnation).is_err() {
            return Err(LoginError::PastIncarnation { said: incarnation, present: agent.incarnation });
        }
        let agent_type = agent.agent_type.clone();
        Ok(Standing { principal: Principal::Agent { id, agent_type, incarnation }, agent: Some(agent) })
    }

    /// Whether somebody who was let in still would be.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be looked up.
    pub async fn still(&self, principal: &Principal) -> Result<bool, Error> {
        let now = self.writer.clock().now();
        if principal.until().is_some_and(|until| until <= now) {
            return Ok(false);
        }
        match principal {
            Principal::Anonymous | Principal::External { .. } => Ok(true),
            // Fewer rights than before end what was opened with more.
            Principal::Token { id, secret, grants, .. } => {
                let holder = self.tokens.holder(*id, *secret).await?;
                Ok(holder.is_some_and(|holder| match holder {
                    Principal::Token { grants: now, .. } => now == *grants,
                    _ => false,
                }))
            }
            Principal::Agent { id, incarnation, .. } => match self.agent(*id, *incarnation).await {
                Ok(_) => Ok(true),
                Err(LoginError::Failed(error)) => Err(error),
                Err(LoginError::Invalid | LoginError::PastIncarnation { .. }) => Ok(false),
            },
        }
    }

    /// A ticket for somebody, and until when it can be used.
    pub fn ticket(&self, principal: &Principal) -> (String, Timestamp) {
        let holder = match principal {
            Principal::Anonymous => Holder::Anonymous,
            Principal::Token { id, secret, .. } => Holder::Token(*id, *secret),
            Principal::External { subject, grants, until } => Holder::External {
                subject: subject.clone(),
                grants: grants.clone(),
                until: until.timestamp_millis(),
            },
            Principal::Agent { id, incarnation, .. } => Holder::Agent(*id, *incarnation),
        };
        let until = after(self.writer.clock().now(), ticket::LIFE);
        let ticket = Ticket { number: self.writer.ids().uuid(), until: until.timestamp_millis(), holder };
        (self.tickets.mint(&ticket), until)
    }

    /// Uses a ticket up. One of the anonymous caller is good where nobody needs a credential (`open`).
    ///
    /// # Errors
    /// [`LoginError`]; a ticket that was used before is [`LoginError::Invalid`].
    pub async fn redeem(&self, text: &str, open: bool) -> Result<Standing, LoginError> {
        let ticket = self.tickets.verify(text, self.writer.clock().now()).ok_or(LoginError::Invalid)?;
        let standing = match &ticket.holder {
            Holder::Anonymous if open => Standing::anonymous(),
            Holder::Anonymous => return Err(LoginError::Invalid),
            Holder::Token(id, secret) => {
                let principal = self.tokens.holder(*id, *secret).await?.ok_or(LoginError::Invalid)?;
                Standing { principal, agent: None }
            }
            Holder::External { subject, grants, until } => {
                let (subject, grants, until) = (subject.clone(), grants.clone(), millis(*until));
                if until <= self.writer.clock().now() {
                    return Err(LoginError::Invalid);
                }
                Standing { principal: Principal::External { subject, grants, until }, agent: None }
            }
            Holder::Agent(id, incarnation) => self.agent(*id, *incarnation).await?,
        };
        let mut commit = self.writer.begin();
        commit.id = ticket.commit_id();
        // Tells this use from another one of the same ticket, should its outcome have to be settled.
        commit.answer = Some(self.writer.ids().uuid().to_string().into());
        match self.writer.apply(&commit).await? {
            Applied::Yes => Ok(standing),
            Applied::Before(_) => Err(LoginError::Invalid),
            // It changes nothing that others change: its id was settled as not applied.
            Applied::Conflict => {
                let what = "the database went away in the middle and the ticket is lost; ask for another one";
                Err(Error::unavailable(what, None).into())
            }
        }
    }
}
