//! One error envelope: every failure becomes an RFC 9457 problem document here.
//!
//! Invariants: the mapping is exhaustive; public text and internal detail are apart; a failure of the server
//! is logged once, here, with its sources.

use std::fmt;

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use aito_api::{FieldFault, Problem, ProblemKind, problem};
use aito_application::{Error, Fault};
use tracing::{error, warn};

/// A failed request: the problem document and the headers that go with it.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    problem: Box<Problem>,
    retry_after: Option<u64>,
    allow: Option<String>,
}

impl ApiError {
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(kind, detail)), retry_after: None, allow: None }
    }

    pub(crate) fn invalid(faults: Vec<Fault>) -> Self {
        let faults = faults.into_iter().map(|fault| FieldFault::new(fault.pointer, fault.detail)).collect();
        Self { problem: Box::new(Problem::invalid(faults)), retry_after: None, allow: None }
    }

    pub(crate) fn fault(pointer: &str, detail: impl Into<String>) -> Self {
        Self::invalid(vec![Fault::new(pointer, detail)])
    }

    pub(crate) fn method_not_allowed(allow: &str) -> Self {
        let mut this = Self::new(ProblemKind::MethodNotAllowed, format!("this path knows {allow}"));
        this.allow = Some(allow.to_owned());
        this
    }

    /// After how many seconds to come back.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// With a further member of the document, for machines.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.problem.extensions.insert(name.to_owned(), value.into());
        self
    }

    /// The answer, with the path that was called.
    pub(crate) fn answer(&self, path: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.content_type(problem::MEDIA_TYPE);
        if let Some(seconds) = self.retry_after {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if let Some(allow) = &self.allow {
            response.insert_header((header::ALLOW, allow.as_str()));
        }
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        let problem = self.problem.as_ref().clone().at(path);
        response.body(serde_json::to_string(&problem).unwrap_or_default())
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(what) => Self::new(ProblemKind::NotFound, what),
            Error::Invalid(faults) => Self::invalid(faults),
            Error::PastIncarnation { .. } => Self::new(ProblemKind::PastIncarnation, error.to_string()),
            Error::Forbidden(what) => Self::new(ProblemKind::Forbidden, what),
            Error::Conflict(what) => Self::new(ProblemKind::Conflict, what),
            Error::Precondition(what) => Self::new(ProblemKind::PreconditionFailed, what),
            Error::TooMany { detail, retry_after } => {
                Self::new(ProblemKind::TooManyRequests, detail).retry_after(retry_after.as_secs().max(1))
            }
            Error::Unavailable { detail, retry_after, source } => {
                warn!(detail, cause = %Chain(source.as_deref().map(|s| s as _)), "unavailable");
                Self::new(ProblemKind::Unavailable, detail).retry_after(retry_after.as_secs().max(1))
            }
            Error::Internal(source) => {
                error!(cause = %Chain(Some(&*source)), "internal error");
                Self::new(ProblemKind::Internal, "the server failed; the log says why")
            }
        }
    }
}

/// Prints an error and its sources in one line.
struct Chain<'a>(Option<&'a (dyn std::error::Error + 'static)>);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next = self.0;
        let mut first = true;
        while let Some(error) = next {
            write!(f, "{}{error}", if first { "" } else { ": " })?;
            first = false;
            next = error.source();
        }
        Ok(())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// What the middleware replaces by [`ApiError::answer`], which knows the path.
    fn error_response(&self) -> HttpResponse {
        self.answer("")
    }
}
