//! The one extractor through which every handler is reached: it asks the one function that knows who may what.
//!
//! Invariants: a route cannot be registered without its operation, and a request whose operation is not found is
//! denied; rights are checked before anything of the request is read; an attempt that goes to the audit is noted
//! before the handler runs.

use std::{rc::Rc, sync::Arc};

use actix_web::{FromRequest, Handler, HttpMessage as _, HttpRequest, dev::Payload, http::Method};
use aito_api::ProblemKind;
use aito_application::{Attempt, By, audit::NOBODY, login::Standing, once::Once};
use aito_domain::{
    access::{Denied, Operation, Who, permit},
    id::{AgentId, Incarnation},
    ports::ledger::Speaker,
    principal::Principal,
};
use futures_util::future::LocalBoxFuture;

use crate::{
    guard::{Source, told_path},
    limits::{Stream, Streams},
    problem::ApiError,
};

/// What a path's methods do; put beside the path's handlers, read by [`Checked`].
pub(crate) struct Operations(pub(crate) Vec<(Method, Operation)>);

impl Operations {
    /// The operation of a method; HEAD is GET's (RFC 9110, section 9.3.2).
    fn of(&self, method: &Method) -> Option<Operation> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.iter().find(|(known, _)| known == method).map(|(_, operation)| *operation)
    }
}

/// A handler that is reached by who may only.
#[derive(Clone)]
pub(crate) struct Guarded<F>(pub(crate) F);

impl<F, Args> Handler<Checked<Args>> for Guarded<F>
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
{
    type Output = F::Output;
    type Future = F::Future;

    fn call(&self, args: Checked<Args>) -> Self::Future {
        self.0.call(args.0)
    }
}

/// Arguments of a handler whose caller may call it.
pub(crate) struct Checked<Args>(Args);

impl<Args: FromRequest + 'static> FromRequest for Checked<Args> {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, actix_web::Error>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        if let Err(error) = check(req) {
            return Box::pin(async { Err(error.into()) });
        }
        let args = Args::from_request(req, payload);
        Box::pin(async { args.await.map(Checked).map_err(Into::into) })
    }
}

/// Whether the request may be made; notes the attempt where one is owed.
fn check(req: &HttpRequest) -> Result<(), ApiError> {
    let operation = req.app_data::<Operations>().and_then(|all| all.of(req.method()));
    // What nobody has said who may do, nobody may.
    let Some(operation) = operation else {
        return Err(ApiError::new(ProblemKind::Forbidden, "nobody may do this"));
    };
    let standing = req.extensions().get::<Rc<Standing>>().cloned();
    let who = standing.as_ref().map_or(Who::Nobody, |standing| standing.principal.who());
    let permitted = permit(who, operation, req.match_info().get("type"));
    if operation.is_audited() || permitted.is_err() {
        let attempt = attempt(req, standing.as_deref(), operation);
        req.extensions_mut().insert(attempt);
    }
    permitted.map_err(|denied| refusal(standing.as_deref(), &denied))
}

fn attempt(req: &HttpRequest, standing: Option<&Standing>, operation: Operation) -> Arc<Attempt> {
    let from = req.extensions().get::<Source>().cloned().unwrap_or_default();
    let actor = standing.map_or_else(|| NOBODY.to_owned(), |it| it.principal.actor().to_string());
    let credential = standing.map_or_else(|| "none".to_owned(), |it| it.principal.key());
    let object = told_path(req.path()).to_owned();
    Arc::new(Attempt::new(actor, credential, operation.as_str(), object, from.source(), from.request_id))
}

/// A denial as an answer; what is missing is named for machines too.
fn refusal(standing: Option<&Standing>, denied: &Denied) -> ApiError {
    let who = standing.map(|standing| standing.principal.actor().to_string()).unwrap_or_default();
    match denied {
        Denied::NoCredential => no_credential(),
        Denied::Lacks { needs } => {
            ApiError::new(ProblemKind::Forbidden, format!("{who} may not: {denied}")).with("scope", needs)
        }
        Denied::NotItsOwn { .. } => ApiError::new(ProblemKind::Forbidden, denied.to_string()),
    }
}

fn no_credential() -> ApiError {
    ApiError::new(ProblemKind::Unauthorized, "a credential is needed: Authorization: Bearer …")
}

/// Who calls, for handlers that need to know.
#[derive(Clone)]
pub(crate) struct Caller {
    standing: Rc<Standing>,
    attempt: Option<Arc<Attempt>>,
}

impl Caller {
    /// Who.
    pub(crate) fn principal(&self) -> &Principal {
        &self.standing.principal
    }

    /// The agent as it was read when its credential was checked.
    pub(crate) fn agent(&self) -> Option<&aito_domain::agent::Agent> {
        self.standing.agent.as_ref()
    }

    /// On whose account changes are made.
    pub(crate) fn by(&self) -> By {
        let actor = self.principal().actor();
        let by = match &self.attempt {
            Some(attempt) => By::attempt(actor, attempt.clone()),
            None => By::author(actor),
        };
        match self.principal() {
            Principal::Agent { id, incarnation, .. } => {
                by.speaking(Speaker { agent: *id, incarnation: *incarnation })
            }
            Principal::Anonymous | Principal::Token { .. } | Principal::External { .. } => by,
        }
    }

    /// Whether the caller may do something to an object that only the body names.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn may(&self, operation: Operation, object: &str) -> Result<(), ApiError> {
        self.principal().may(operation, Some(object)).map_err(|denied| refusal(Some(&self.standing), &denied))
    }

    /// The agent that calls with its incarnation, if one does.
    pub(crate) fn incarnation(&self) -> Option<(AgentId, Incarnation)> {
        match self.principal() {
            Principal::Agent { id, incarnation, .. } => Some((*id, *incarnation)),
            Principal::Anonymous | Principal::Token { .. } | Principal::External { .. } => None,
        }
    }

    /// Counts a stream of this caller's for as long as the answer is kept.
    ///
    /// # Errors
    /// 429 when there are too many.
    pub(crate) fn stream(&self, streams: &Streams) -> Result<Stream, ApiError> {
        streams.open(self.principal().key()).ok_or_else(|| {
            let detail = "this credential has too many streams open: end one, or wait until one has ended";
            ApiError::new(ProblemKind::TooManyRequests, detail).retry_after(5)
        })
    }

    /// The call's `Idempotency-Key`, as this caller's for this method and path.
    ///
    /// # Errors
    /// 422 when it is no key.
    pub(crate) fn once(&self, req: &HttpRequest) -> Result<Option<Once>, ApiError> {
        let Some(value) = req.headers().get("idempotency-key") else { return Ok(None) };
        let key = value
            .to_str()
            .ok()
            .filter(|key| (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()));
        let key = key.ok_or_else(|| {
            ApiError::fault("Idempotency-Key", "must have 1 to 255 visible ASCII characters")
        })?;
        // An agent's own, whichever incarnation repeats the call.
        let credential = match self.principal() {
            Principal::Agent { id, .. } => format!("agent/{id}"),
            other => other.key(),
        };
        Ok(Some(Once::new(&credential, req.method().as_str(), req.path(), key)))
    }
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = futures_util::future::Ready<Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let extensions = req.extensions();
        let standing = extensions.get::<Rc<Standing>>().cloned();
        let attempt = extensions.get::<Arc<Attempt>>().cloned();
        futures_util::future::ready(
            standing.map(|standing| Self { standing, attempt }).ok_or_else(no_credential),
        )
    }
}
