//! How a use case fails: variants are what a caller can do about it.
//!
//! Invariant: texts are for callers; whatever a vendor said is a source, for the log only.

use std::time::Duration;

use aito_domain::{Cause, id::Incarnation, ports::ReadError};

/// One wrong value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: a JSON pointer (RFC 6901) into the body, or `?name` for a query parameter.
    pub pointer: String,
    /// What is allowed.
    pub detail: String,
}

impl Fault {
    /// A fault at `pointer`.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// Why a use case failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing; the text names it.
    #[error("{0}")]
    NotFound(String),
    /// Values are wrong, or the thing cannot be done as configured; all faults found.
    #[error("invalid: {}", .0.iter().map(|f| f.detail.as_str()).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Fault>),
    /// The caller's incarnation is not the present one.
    #[error("incarnation {said} is past: the present one is {present}")]
    PastIncarnation {
        /// The caller's.
        said: Incarnation,
        /// The present one.
        present: Incarnation,
    },
    /// The caller may do this, but not with these values or this thing; the text says what would be needed.
    #[error("{0}")]
    Forbidden(String),
    /// The thing is in no state for that.
    #[error("{0}")]
    Conflict(String),
    /// The thing was changed since the caller saw it.
    #[error("{0}")]
    Precondition(String),
    /// More than the caller may have in a time.
    #[error("{detail}")]
    TooMany {
        /// One line for callers: what, how much of it, until when.
        detail: String,
        /// When there is some again.
        retry_after: Duration,
    },
    /// Something that is needed does not answer; the text says what and whether anything was done.
    #[error("{detail}")]
    Unavailable {
        /// One line for callers.
        detail: String,
        /// When trying again makes sense.
        retry_after: Duration,
        /// For the log.
        #[source]
        source: Option<Cause>,
    },
    /// A defect or damaged data; the source is for the log.
    #[error("internal error")]
    Internal(#[source] Cause),
}

impl Error {
    /// Something is away, and nothing was done.
    pub fn unavailable(detail: impl Into<String>, source: impl Into<Option<Cause>>) -> Self {
        Self::Unavailable {
            detail: detail.into(),
            retry_after: Duration::from_secs(2),
            source: source.into(),
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(_) => Self::unavailable("the database is unavailable", Some(error.into())),
            ReadError::Corrupt(_) => Self::Internal(error.into()),
        }
    }
}
