//! What can go wrong with a call, sorted by what the caller can do about it.
//!
//! Invariants:
//! - A 5xx other than 501 is [`Error::Unavailable`], every other refusal is [`Error::Problem`].
//! - After an [`Error::Problem`] nothing was changed, so a change may be asked for again once the reason is gone:
//!   after a while ([`Error::helps_to_wait`]), with another credential ([`Error::is_refused_credential`]), with the
//!   present state ([`Error::is_outdated`]), or with another request.

use aito_api::{Problem, ProblemKind};
use std::time::Duration;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached, does not answer in time or cannot serve now: come back later.
    #[error("server unavailable: {detail}")]
    Unavailable {
        /// What happened, for a human.
        detail: String,
        /// Whether the request may have reached the server, so that a change may have been made.
        sent: bool,
        /// The HTTP status, when there was an answer.
        status: Option<u16>,
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
        /// The cause, when it was none of the server's answers.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The server refused; [`Problem::status`] is the HTTP status, and `detail` says what is wrong or missing (for
    /// 403 the role or scope). When it said how many seconds to wait (429), they stand in the extension
    /// `retryAfter`.
    #[error("refused: {0}")]
    Problem(Box<Problem>),
    /// The answer is not what the interface promises, or the request cannot be written.
    #[error("unexpected answer: {0}")]
    Protocol(String),
}

impl Error {
    /// The HTTP status, when there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Unavailable { status, .. } => *status,
            Self::Problem(problem) => Some(problem.status),
            Self::Protocol(_) => None,
        }
    }

    /// The kind of problem, when the server refused with one that this version knows.
    pub fn problem_kind(&self) -> Option<ProblemKind> {
        match self {
            Self::Problem(problem) => problem.kind(),
            Self::Unavailable { .. } | Self::Protocol(_) => None,
        }
    }

    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Problem(problem) => problem.extensions.get(RETRY_AFTER)?.as_u64().map(Duration::from_secs),
            Self::Protocol(_) => None,
        }
    }

    /// Whether the credential was refused (401 or 403): trying again with it is pointless.
    pub fn is_refused_credential(&self) -> bool {
        matches!(self, Self::Problem(problem) if matches!(problem.status, 401 | 403))
    }

    /// Whether the object is in another state than `If-Match` named (412): read it again, then decide.
    pub fn is_outdated(&self) -> bool {
        matches!(self, Self::Problem(problem) if problem.status == 412)
    }

    /// Whether the same request may succeed later: the server cannot serve now, was called too often (429) or
    /// waited too long for the request (408). [`Self::retry_after`] says how much later, if the server did.
    pub fn helps_to_wait(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 408 | 429),
            Self::Protocol(_) => false,
        }
    }

    /// Whether the server cannot be reached or cannot serve now.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn timed_out(what: &str, limit: Duration, sent: bool) -> Self {
        Self::Unavailable {
            detail: format!("{what} took longer than {} ms", limit.as_millis()),
            sent,
            status: None,
            retry_after: None,
            source: None,
        }
    }

    pub(crate) fn cut(detail: impl Into<String>) -> Self {
        Self::Unavailable { detail: detail.into(), sent: true, status: None, retry_after: None, source: None }
    }

    /// Sorts an answer that is not a success.
    pub(crate) fn from_answer(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let mut problem = serde_json::from_slice::<Problem>(body).unwrap_or_else(|_| Problem {
            type_uri: "about:blank".to_owned(),
            title: String::new(),
            status,
            detail: format!("answered {status} without a problem document"),
            instance: String::new(),
            success: false,
            error: String::new(),
            errors: Vec::new(),
            extensions: Default::default(),
        });
        problem.status = status;
        if matches!(status, 500 | 502..=599) {
            return Self::Unavailable {
                detail: problem.to_string(),
                sent: true,
                status: Some(status),
                retry_after,
                source: None,
            };
        }
        if let Some(wait) = retry_after {
            problem.extensions.entry(RETRY_AFTER.to_owned()).or_insert_with(|| wait.as_secs().into());
        }
        Self::Problem(Box::new(problem))
    }

    /// Sorts a failure of the transport.
    pub(crate) fn from_transport(error: reqwest::Error) -> Self {
        if error.is_builder() {
            return Self::Protocol(format!("the request cannot be written: {}", error.without_url()));
        }
        let sent = !error.is_connect();
        let detail = if error.is_timeout() {
            "no answer in time"
        } else if error.is_connect() {
            "cannot connect"
        } else {
            "the connection broke"
        };
        let error = error.without_url();
        let detail = match root_cause(&error) {
            Some(cause) => format!("{detail}: {cause}"),
            None => detail.to_owned(),
        };
        Self::Unavailable { detail, sent, status: None, retry_after: None, source: Some(Box::new(error)) }
    }
}

const RETRY_AFTER: &str = "retryAfter";

/// The innermost cause says what the operating system said; the layers above only say that something failed.
fn root_cause(error: &dyn std::error::Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_helps() {
        let wait = Some(Duration::from_secs(7));
        for status in [500, 502, 503, 504] {
            let error = Error::from_answer(status, wait, b"");
            assert!(error.is_unavailable() && error.helps_to_wait(), "{status}");
            assert_eq!((error.status(), error.retry_after()), (Some(status), wait));
        }
        for status in [307, 400, 401, 403, 404, 405, 408, 409, 412, 413, 414, 415, 422, 429, 431, 501] {
            let error = Error::from_answer(status, wait, b"<html>");
            assert!(matches!(error, Error::Problem(_)), "{status}");
            assert_eq!((error.status(), error.retry_after()), (Some(status), wait));
            assert_eq!(error.helps_to_wait(), [408, 429].contains(&status), "{status}");
            assert_eq!(error.is_refused_credential(), [401, 403].contains(&status), "{status}");
            assert_eq!(error.is_outdated(), status == 412, "{status}");
        }
        assert!(Error::cut("gone").helps_to_wait());
        assert!(!Error::Protocol("no JSON".to_owned()).helps_to_wait());
    }

    #[test]
    fn the_status_line_wins_over_the_body() {
        let body = br#"{"type":"urn:aito:problem:past-incarnation","status":200,"error":"old"}"#;
        let error = Error::from_answer(401, None, body);
        assert_eq!(error.status(), Some(401));
        assert_eq!(error.problem_kind(), Some(ProblemKind::PastIncarnation));
        assert!(error.is_refused_credential());
        assert_eq!(error.to_string(), "refused: old (401)");
    }
}
