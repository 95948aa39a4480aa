//! Operators' tokens: made, rotated, ended, listed, and checked at every call.
//!
//! Invariants: what a server believes of a token is never older than [`BELIEVED`], so that a change made anywhere
//! counts everywhere within a second; when it cannot be looked up, nobody is told that it is wrong; a secret is in
//! memory only while it is made or checked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aito_domain::{
    Cause,
    access::{Grants, Role},
    event::Actor,
    id::{AgentType, CommitId, InstallationId, TokenId},
    ports::{
        ReadError,
        agent_store::AgentStore,
        ledger::{Change, Commit},
        token_store::TokenStore,
    },
    principal::Principal,
    time::Timestamp,
    token::{MAX_NAME, MAX_OVERLAP, Refused, SecretTag, Token, TokenText, Transition, is_name},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{
    by::By,
    checks::{Seen, expect},
    error::{Error, Fault},
    locked::lock,
    once::{Once, Outcome},
    shared::Shared,
    writer::{Applied, Writer},
};

/// How long a token is believed to be as it was read. With the time that reading takes it stays below a second.
pub const BELIEVED: Duration = Duration::from_millis(500);
/// How many tokens' states are kept in memory at most; more are forgotten at once.
const REMEMBERED: usize = 4096;
/// How often it is stored when tokens were used.
const USES_EVERY: Duration = Duration::from_secs(5);
/// How often a change is tried anew when somebody else was faster.
const TRIES: u32 = 8;

/// Random bits that nobody can guess.
pub trait Randomness: Send + Sync {
    /// 256 of them, or one line that says why there are none.
    fn secret(&self) -> Result<[u8; 32], String>;
}

/// A token as somebody asks for it, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// See [`is_name`].
    pub name: String,
    /// Words of [`Role`].
    pub roles: Vec<String>,
    /// At most one `seat:<type>`.
    pub scopes: Vec<String>,
    /// RFC 3339, in the future.
    pub expires_at: Option<String>,
}

/// A token with when it was last used.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenView {
    /// The token.
    pub token: Token,
    /// To about [`USES_EVERY`]; `None`: never.
    pub last_used_at: Option<Timestamp>,
}

/// Makes, ends and checks tokens.
pub struct TokenService {
    store: Arc<dyn TokenStore>,
    agents: Arc<dyn AgentStore>,
    writer: Arc<Writer>,
    random: Arc<dyn Randomness>,
    known: Mutex<HashMap<TokenId, Known>>,
    looking: Shared<TokenId, Result<Option<Token>, Arc<ReadError>>>,
    uses: Mutex<HashMap<TokenId, Timestamp>>,
}

/// A token as it was read.
struct Known {
    token: Token,
    /// By the clock that never goes back, when the reading began.
    read_at: Duration,
}

impl TokenService {
    /// Over these ports.
    pub fn new(
        store: Arc<dyn TokenStore>,
        agents: Arc<dyn AgentStore>,
        writer: Arc<Writer>,
        random: Arc<dyn Randomness>,
    ) -> Self {
        Self {
            store,
            agents,
            writer,
            random,
            known: Mutex::default(),
            looking: Shared::default(),
            uses: Mutex::default(),
        }
    }

    /// Who the text speaks for; `None` when it is nobody's.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be looked up.
    pub async fn principal(&self, text: &TokenText) -> Result<Option<Principal>, Error> {
        let Some(token) = self.token(text.id).await? else { return Ok(None) };
        let now = self.writer.clock().now();
        if token.accepts(text, now).is_err() {
            return Ok(None);
        }
        lock(&self.uses).insert(token.id, now);
        Ok(held(token, text.hash().tag(), now))
    }

    /// The holder of a token, one of whose secrets was checked before; `None` when that secret counts no more.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn holder(&self, id: TokenId, secret: SecretTag) -> Result<Option<Principal>, Error> {
        let now = self.writer.clock().now();
        Ok(self.token(id).await?.and_then(|token| held(token, secret, now)))
    }

    /// Whether a token with this id was read before, so that asking for it again is asked at most every [`BELIEVED`].
    pub fn is_known(&self, id: TokenId) -> bool {
        lock(&self.known).contains_key(&id)
    }

    /// A token that was read less than [`BELIEVED`] ago.
    async fn token(&self, id: TokenId) -> Result<Option<Token>, Error> {
        let asked_at = self.writer.clock().monotonic();
        if let Some(known) = lock(&self.known).get(&id)
            && asked_at.saturating_sub(known.read_at) < BELIEVED
        {
            return Ok(Some(known.token.clone()));
        }
        let store = self.store.clone();
        let ask = move || {
            let store = store.clone();
            async move { store.by_id(id).await.map_err(Arc::new) }
        };
        let read = self.looking.get(id, ask).await;
        let read = read.ok_or_else(|| Error::unavailable("the server stops", None))?;
        let token = read.map_err(|why| match &*why {
            ReadError::Corrupt(_) => Error::Internal(Cause::from(why.to_string())),
            ReadError::Unavailable(cause) => {
                Error::unavailable("the database is unavailable", Some(Cause::from(cause.to_string())))
            }
        })?;
        let mut known = lock(&self.known);
        match &token {
            Some(token) => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                let newer = known.get(&id).is_some_and(|now| now.token.version > token.version);
                if !newer {
                    // The answer may have been begun a little later than it was asked for, never earlier.
                    known.insert(id, Known { token: token.clone(), read_at: asked_at });
                }
            }
            None => {
                known.remove(&id);
            }
        }
        Ok(token)
    }

    /// Up to `limit` tokens above an id, ended ones too.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list(&self, after: Option<TokenId>, limit: usize) -> Result<Vec<TokenView>, Error> {
        let mut uses: HashMap<TokenId, Timestamp> = self.store.last_uses().await?.into_iter().collect();
        for (id, at) in lock(&self.uses).iter() {
            let known = uses.entry(*id).or_insert(*at);
            *known = (*known).max(*at);
        }
        let tokens = self.store.list().await?.into_iter();
        let above = tokens.filter(|token| after.is_none_or(|after| token.id > after));
        Ok(above
            .take(limit)
            .map(|token| TokenView { last_used_at: uses.get(&token.id).copied(), token })
            .collect())
    }

    /// Makes a token; the text is not to be had again. With `once`, a repetition makes no second one and is told so.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::Conflict`] when a token that is not revoked has the name, or
    /// the call is a repetition; [`Error::Unavailable`].
    pub async fn create(
        &self,
        new: NewToken,
        by: &By,
        once: Option<&Once>,
    ) -> Result<(TokenView, TokenText), Error> {
        let now = self.writer.clock().now();
        let (grants, expires_at) = self.checked(&new, now).await?;
        let text = self.text(TokenId(self.writer.ids().uuid()))?;
        let content = new_content(&new, &grants);
        let content: Vec<&[u8]> = content.iter().map(String::as_bytes).collect();
        for attempt in 0..TRIES {
            let tokens = self.store.list().await?;
            let taken = tokens.iter().find(|token| token.name == new.name && token.revoked_at.is_none());
            let taken = taken.map(|token| name_taken(token, now));
            if let (Some(taken), None) = (&taken, once) {
                return Err(Error::Conflict(taken.clone()));
            }
            let author = by.actor().to_string();
            let made = Token::issue(&text, new.name.clone(), grants.clone(), author, expires_at, now);
            let detail = describe(&made.token);
            let (mut commit, token) = self.commit(made, by, now, &detail);
            let made = Made { token: token.id };
            match self.writer.apply_once(&mut commit, once, &content, &made).await? {
                Outcome::Now => {
                    by.told();
                    return Ok((TokenView { token, last_used_at: None }, text));
                }
                Outcome::Before(made) => return Err(made.refusal()),
                // The name is taken, and not by what the same call made before.
                Outcome::Conflict => match taken {
                    Some(taken) => return Err(Error::Conflict(taken)),
                    None => self.writer.pause(attempt).await,
                },
            }
        }
        Err(Error::unavailable("tokens are being changed by others all the time; nothing was done", None))
    }

    /// Gives a token another secret; the present one stays good for `overlap`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`]; [`Error::Precondition`] when it is not in the states that `seen`
    /// names; [`Error::Conflict`] when it has ended; [`Error::Unavailable`].
    pub async fn rotate(
        &self,
        id: TokenId,
        overlap: Option<i64>,
        seen: Option<&Seen>,
        by: &By,
    ) -> Result<(TokenView, TokenText), Error> {
        let longest = MAX_OVERLAP.as_secs();
        let overlap = match overlap.map_or(Ok(0), u64::try_from) {
            Ok(seconds) if seconds <= longest => Duration::from_secs(seconds),
            _ => {
                let allowed = format!("must be 0 to {longest} seconds");
                return Err(Error::Invalid(vec![Fault::new("/overlap", allowed)]));
            }
        };
        let text = self.text(id)?;
        let decide = |token: Token, now| {
            let hash = text.hash();
            token.rotate(hash, overlap, now).map_err(|why| Error::Conflict(ended(why)))
        };
        let token = self.change(id, seen, by, decide).await?;
        Ok((self.with_use(token), text))
    }

    /// Ends a token; ended already is a success.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`]; [`Error::Unavailable`].
    pub async fn revoke(&self, id: TokenId, seen: Option<&Seen>, by: &By) -> Result<TokenView, Error> {
        let token = self.change(id, seen, by, |token, now| Ok(token.revoke(now))).await?;
        Ok(self.with_use(token))
    }

    /// Makes the first token of an installation, with the roles admin, operator and human; `None` when there is or
    /// was one. `keep` puts the secret where its owner finds it, before the token counts.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; [`Error::Internal`] when it cannot be kept.
    pub async fn first(
        &self,
        installation: InstallationId,
        keep: impl FnOnce(&TokenText) -> Result<(), String>,
    ) -> Result<Option<Token>, Error> {
        // One id for all servers of an installation, whichever starts first: it is made once, for ever. It begins with
        // zeros where others have their time, so that it is the first of every list.
        let derived = CommitId::derived(&[b"first token", installation.0.as_bytes()]);
        let mut bytes = *derived.0.as_bytes();
        bytes[..6].fill(0);
        let id = TokenId(Uuid::new_v8(bytes));
        if self.store.by_id(id).await?.is_some() {
            return Ok(None);
        }
        let text = self.text(id)?;
        keep(&text).map_err(|why| Error::Internal(why.into()))?;
        let by = By::attempt(
            Actor::System,
            Arc::new(crate::by::Attempt::local("tokens.create", "the first start".into())),
        );
        for attempt in 0..TRIES {
            let now = self.writer.clock().now();
            let taken = self.store.list().await?;
            let names = std::iter::once("first".to_owned()).chain((2..).map(|n| format!("first-{n}")));
            let name = free(&taken, names).unwrap_or_else(|| id.to_string());
            let made = Token::issue(&text, name, all_roles(), "system".into(), None, now);
            let detail = describe(&made.token);
            let (commit, token) = self.commit(made, &by, now, &detail);
            match self.writer.apply(&commit).await? {
                Applied::Yes | Applied::Before(_) => return Ok(Some(token)),
                // Another server's counts.
                Applied::Conflict if self.store.by_id(id).await?.is_some() => return Ok(None),
                // Nobody's does: it was settled as not applied, or the name was given away meanwhile.
                Applied::Conflict => self.writer.pause(attempt).await,
            }
        }
        Err(Error::unavailable("tokens are being changed by others all the time; nothing was done", None))
    }

    /// Makes a token with all roles for who lost theirs, under the next free name `recovered-<n>`. `keep` is as with
    /// [`Self::first`].
    ///
    /// # Errors
    /// As [`Self::first`].
    pub async fn recover(
        &self,
        keep: impl FnOnce(&TokenText) -> Result<(), String>,
    ) -> Result<(Token, TokenText), Error> {
        let text = self.text(TokenId(self.writer.ids().uuid()))?;
        keep(&text).map_err(|why| Error::Internal(why.into()))?;
        let by = By::attempt(
            Actor::System,
            Arc::new(crate::by::Attempt::local("tokens.recover", "aito token recover".into())),
        );
        for attempt in 0..TRIES {
            let now = self.writer.clock().now();
            let taken = self.store.list().await?;
            let name = free(&taken, (1..).map(|n| format!("recovered-{n}")));
            let name = name.unwrap_or_else(|| text.id.to_string());
            let made = Token::issue(&text, name, all_roles(), "system".into(), None, now);
            let detail = describe(&made.token);
            let (commit, token) = self.commit(made, &by, now, &detail);
            match self.writer.apply(&commit).await? {
                Applied::Yes | Applied::Before(_) => return Ok((token, text)),
                Applied::Conflict => self.writer.pause(attempt).await,
            }
        }
        Err(Error::unavailable("tokens are being changed by others all the time; nothing was done", None))
    }

    /// Stores when tokens were used, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                () = self.writer.clock().sleep(USES_EVERY) => false,
            };
            self.store_uses().await;
            if stopping {
                return;
            }
        }
    }

    async fn store_uses(&self) {
        let uses: Vec<_> = std::mem::take(&mut *lock(&self.uses)).into_iter().collect();
        if uses.is_empty() {
            return;
        }
        if let Err(why) = self.store.used(&uses).await {
            warn!(%why, "when tokens were used cannot be stored; it will be tried again");
            let mut newer = lock(&self.uses);
            for (id, at) in uses {
                newer.entry(id).or_insert(at);
            }
        }
    }

    async fn change(
        &self,
        id: TokenId,
        seen: Option<&Seen>,
        by: &By,
        decide: impl Fn(Token, Timestamp) -> Result<Transition, Error>,
    ) -> Result<Token, Error> {
        for attempt in 0..TRIES {
            let found = self.store.by_id(id).await?;
            let token = found.ok_or_else(|| Error::NotFound(format!("there is no token {id}")))?;
            expect("the token", seen, token.version)?;
            let now = self.writer.clock().now();
            let after = decide(token, now)?;
            if after.events.is_empty() {
                return Ok(after.token);
            }
            let detail = describe(&after.token);
            let (commit, token) = self.commit(after, by, now, &detail);
            match self.writer.apply(&commit).await? {
                Applied::Yes | Applied::Before(_) => {
                    by.told();
                    lock(&self.known).remove(&id);
                    return Ok(token);
                }
                Applied::Conflict => self.writer.pause(attempt).await,
            }
        }
        Err(Error::unavailable("the token is being changed by others all the time; nothing was done", None))
    }

    /// The commit of a change, and the token as it is afterwards.
    fn commit(&self, change: Transition, by: &By, now: Timestamp, detail: &str) -> (Commit, Token) {
        let mut commit = self.writer.begin();
        let mut after = change.token.clone();
        after.version = after.version.next();
        commit.changes.push(Change::Token(Box::new(change.token)));
        self.writer.tell(&mut commit, None, by.actor(), change.events, now);
        self.writer.account(&mut commit, by, now, detail);
        (commit, after)
    }

    fn with_use(&self, token: Token) -> TokenView {
        let last_used_at = lock(&self.uses).get(&token.id).copied();
        TokenView { token, last_used_at }
    }

    fn text(&self, id: TokenId) -> Result<TokenText, Error> {
        let secret = self.random.secret().map_err(|why| Error::Internal(why.into()))?;
        Ok(TokenText::new(id, secret))
    }

    async fn checked(&self, new: &NewToken, now: Timestamp) -> Result<(Grants, Option<Timestamp>), Error> {
        let mut faults = Vec::new();
        if !is_name(&new.name) {
            let allowed =
                format!("must have 1 to {MAX_NAME} of letters, digits, space and ._-, no space at the ends");
            faults.push(Fault::new("/name", allowed));
        }
        let mut grants = Grants::default();
        for (n, word) in new.roles.iter().enumerate() {
            match word.parse::<Role>() {
                Ok(role) => _ = grants.roles.insert(role),
                Err(why) => faults.push(Fault::new(format!("/roles/{n}"), why.to_string())),
            }
        }
        for (n, scope) in new.scopes.iter().enumerate() {
            let pointer = format!("/scopes/{n}");
            match scope.strip_prefix("seat:").map(str::parse::<AgentType>) {
                Some(Ok(_)) if grants.seat.is_some() => {
                    faults.push(Fault::new(pointer, "must be the only seat: a principal holds at most one"));
                }
                Some(Ok(seat)) if self.agents.by_type(&seat).await?.is_some() => grants.seat = Some(seat),
                _ => faults.push(Fault::new(pointer, "must be seat:<type> of an agent that exists")),
            }
        }
        let expires_at = new.expires_at.as_deref().map(|text| expiry(text, now));
        let expires_at = match expires_at {
            Some(None) => {
                faults.push(Fault::new("/expiresAt", "must be a time in the future (RFC 3339)"));
                None
            }
            Some(at) => at,
            None => None,
        };
        if faults.is_empty() { Ok((grants, expires_at)) } else { Err(Error::Invalid(faults)) }
    }
}

/// The holder of a token by one of its secrets, if that is good.
fn held(token: Token, secret: SecretTag, now: Timestamp) -> Option<Principal> {
    let until = token.good_until(secret, now).ok()?;
    Some(Principal::Token { id: token.id, name: token.name, secret, grants: token.grants, until })
}

/// What is kept of a token's making for who repeats the call: nothing of its secret.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Made {
    token: TokenId,
}

impl Made {
    fn refusal(&self) -> Error {
        Error::Conflict(format!(
            "this Idempotency-Key made the token {} before; its secret was shown then and is not kept",
            self.token
        ))
    }
}

/// The first of some names that no token has, ended ones included.
fn free(taken: &[Token], mut names: impl Iterator<Item = String>) -> Option<String> {
    names.find(|name| taken.iter().all(|token| token.name != *name))
}

fn name_taken(token: &Token, now: Timestamp) -> String {
    let name = &token.name;
    match token.stands(now) {
        Ok(()) => format!("there is a token named \"{name}\" already"),
        Err(_) => {
            format!("there is a token named \"{name}\" already; it has expired: revoke it to free its name")
        }
    }
}

fn all_roles() -> Grants {
    Grants::of([Role::Admin, Role::Operator, Role::Human])
}

/// Name and rights, for the audit.
fn describe(token: &Token) -> String {
    let mut words: Vec<String> = token.grants.roles.iter().map(ToString::to_string).collect();
    words.extend(token.grants.seat.as_ref().map(|seat| format!("seat:{seat}")));
    let words = if words.is_empty() { "nothing".to_owned() } else { words.join(", ") };
    format!("{} \"{}\": {words}", token.id, token.name)
}

fn new_content(new: &NewToken, grants: &Grants) -> Vec<String> {
    let roles: Vec<&str> = grants.roles.iter().map(|role| role.as_str()).collect();
    let seat = grants.seat.as_ref().map(ToString::to_string).unwrap_or_default();
    vec![new.name.clone(), roles.join(","), seat, new.expires_at.clone().unwrap_or_default()]
}

fn expiry(text: &str, now: Timestamp) -> Option<Timestamp> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc);
    let at = aito_domain::time::truncate(at);
    (at > now).then_some(at)
}

fn ended(why: Refused) -> String {
    match why {
        Refused::Revoked => "the token was revoked: make another one".to_owned(),
        Refused::Expired => "the token has expired: make another one".to_owned(),
        Refused::Secret => "the secret is another".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_in_the_future() {
        let now = aito_domain::time::millis(0);
        for bad in ["", "soon", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59+00:00", "2030-01-01"] {
            assert_eq!(expiry(bad, now), None, "{bad}");
        }
        assert!(expiry("2030-01-01T00:00:00+02:00", now).is_some());
    }
}
