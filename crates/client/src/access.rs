//! The calls about who may call: tokens, tickets and the audit.
//!
//! Invariant: an answer that holds a secret is never quoted in an error.

use crate::{
    Client, Error, Page,
    call::{paged, query},
};
use aito_api::{AuditList, Done, NewToken, RotateToken, Ticket, TicketCreated, TokenList, TokenSecret};
use reqwest::{Method, RequestBuilder, Url, header::IF_MATCH};
use uuid::Uuid;

/// Which entries of the audit to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only what this one did, such as `token:dashboard`.
    pub actor: Option<String>,
    /// Only this operation, such as `agents.start`.
    pub operation: Option<String>,
    /// Only this outcome: `done`, `unchanged`, `refused` or `failed`.
    pub outcome: Option<String>,
    /// Which page.
    pub page: Page,
}

impl Client {
    /// `GET /tokens`, oldest first, ended ones too.
    ///
    /// # Errors
    /// See [`Error`]; so for all calls.
    pub async fn tokens(&self, page: &Page) -> Result<TokenList, Error> {
        self.get(paged(self.url(&["tokens"]), page)).await
    }

    /// `POST /tokens`; the answer is the only one that has the secret.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, a token whose secret nobody knows may have been made.
    pub async fn create_token(&self, token: &NewToken) -> Result<TokenSecret, Error> {
        self.get_secret(self.request(Method::POST, self.url(&["tokens"])).json(token)).await
    }

    /// The same with an `Idempotency-Key`: whoever repeats the call with the same key makes no second token. The
    /// server keeps no secret, so only the first answer has it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_token_once(&self, token: &NewToken, key: &str) -> Result<TokenSecret, Error> {
        let request = self.request(Method::POST, self.url(&["tokens"]));
        self.get_secret(request.header("idempotency-key", key).json(token)).await
    }

    /// `POST /tokens/{id}/rotate`; `if_match` is the `etag` that the token must still have. The answer is the only
    /// one that has the new secret.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_outdated`] when the token changed meanwhile. When unavailable and sent, the
    /// token may have a new secret that nobody knows.
    pub async fn rotate_token(
        &self,
        id: Uuid,
        rotation: &RotateToken,
        if_match: Option<&str>,
    ) -> Result<TokenSecret, Error> {
        let url = self.token_url(id, &["rotate"]);
        self.get_secret(matching(self.request(Method::POST, url), if_match).json(rotation)).await
    }

    /// `DELETE /tokens/{id}`: nobody is let in with it from now on. `if_match` is the `etag` that the token must
    /// still have.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_outdated`] when the token changed meanwhile.
    pub async fn revoke_token(&self, id: Uuid, if_match: Option<&str>) -> Result<Done, Error> {
        self.json(matching(self.request(Method::DELETE, self.token_url(id, &[])), if_match)).await
    }

    /// `GET /audit`, newest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn audit(&self, wanted: &AuditQuery) -> Result<AuditList, Error> {
        let url = query(
            self.url(&["audit"]),
            &[
                ("actor", wanted.actor.as_deref()),
                ("operation", wanted.operation.as_deref()),
                ("outcome", wanted.outcome.as_deref()),
            ],
        );
        self.get(paged(url, &wanted.page)).await
    }

    /// `POST /ws/tickets`: opens one WebSocket as this client, within 30 s
    /// ([`crate::EventSocket::connect_with_ticket`]).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ticket(&self) -> Result<Ticket, Error> {
        let made: TicketCreated =
            self.get_secret(self.request(Method::POST, self.url(&["ws", "tickets"]))).await?;
        Ok(made.ticket)
    }

    fn token_url(&self, id: Uuid, rest: &[&str]) -> Url {
        let id = id.to_string();
        self.url(&[&["tokens", id.as_str()], rest].concat())
    }
}

/// With `If-Match`, if a state is named (RFC 9110, section 13.1.1).
pub(crate) fn matching(request: RequestBuilder, etag: Option<&str>) -> RequestBuilder {
    match etag {
        Some(etag) => request.header(IF_MATCH, etag),
        None => request,
    }
}
