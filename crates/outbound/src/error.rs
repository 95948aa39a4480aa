//! Why a call failed, as decisions that a caller can act on.
//!
//! Invariant: no text or `Debug` output here has anything of a URL, a header or a body, nor of what a server said.

use std::io;

/// Why there is no answer. [`OutboundError::may_have_been_sent`] tells whether the call may have had an effect.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The policy does not allow it. Trying again does not help.
    #[error("refused: {why}")]
    Refused {
        /// The rule.
        why: Refusal,
    },
    /// There was no connection, so nothing was sent. It may work later.
    #[error("unreachable: {what}")]
    Unreachable {
        /// What failed.
        what: &'static str,
        /// What the system said.
        #[source]
        source: Option<io::Error>,
    },
    /// It took too long. It may work later.
    #[error("timed out")]
    TimedOut {
        /// Whether a request was on its way.
        sent: bool,
    },
    /// The answer is larger than is read.
    #[error("too large: the {part} of the answer has more than {limit} bytes")]
    TooLarge {
        /// `head` or `body`. A head is also too large with more than 100 headers.
        part: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The request cannot be sent as it stands: its URL or a header is not well formed. Nothing was sent.
    #[error("invalid: {what}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
    /// The other side breaks a rule of TLS or HTTP, or ended the connection in between.
    #[error("not understood: {what}")]
    Protocol {
        /// What is wrong.
        what: &'static str,
        /// Whether a request was on its way.
        sent: bool,
    },
}

/// The rule that forbids a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither `https` nor `http`.
    #[error("the scheme is neither https nor http")]
    Scheme,
    /// Plain HTTP to a place that it is not allowed for.
    #[error("plain http is not allowed there")]
    PlainHttp,
    /// A name or a password in the URL.
    #[error("the URL has user information")]
    UserInfo,
    /// No address of the host may be reached; what the first one is.
    #[error("the address is {0}")]
    Address(&'static str),
    /// A redirect leads to another origin; what is another one: `scheme`, `host`, `port`, `user`, or,
    /// where the host's name has changed meanwhile, `address`.
    #[error("the redirect leads to another {0}")]
    Redirect(&'static str),
    /// More redirects than are followed.
    #[error("there are more than {0} redirects")]
    TooManyRedirects(usize),
    /// A redirect that does not say whether the method stays (301 or 302 for what is neither GET nor HEAD).
    #[error("the redirect does not say whether the method stays")]
    AmbiguousRedirect,
}

impl OutboundError {
    /// Whether the server may have got a request, so that trying again may do something twice.
    #[must_use]
    pub fn may_have_been_sent(&self) -> bool {
        match self {
            Self::Refused { why } => match why {
                Refusal::Redirect(_) | Refusal::TooManyRedirects(_) | Refusal::AmbiguousRedirect => true,
                Refusal::Scheme | Refusal::PlainHttp | Refusal::UserInfo | Refusal::Address(_) => false,
            },
            Self::Unreachable { .. } | Self::Invalid { .. } => false,
            Self::TooLarge { .. } => true,
            Self::TimedOut { sent } | Self::Protocol { sent, .. } => *sent,
        }
    }

    /// The same failure, met on the way to where a redirect led: by then something was sent.
    pub(crate) fn after_redirect(self) -> Self {
        match self {
            Self::Unreachable { .. } => {
                Self::Protocol { what: "the server redirected and was gone then", sent: true }
            }
            Self::Refused { why: Refusal::Address(_) | Refusal::PlainHttp } => {
                Self::Refused { why: Refusal::Redirect("address") }
            }
            Self::TimedOut { .. } => Self::TimedOut { sent: true },
            Self::Protocol { what, .. } => Self::Protocol { what, sent: true },
            Self::Invalid { .. } => Self::Protocol { what: "the redirect leads nowhere", sent: true },
            Self::Refused { .. } | Self::TooLarge { .. } => self,
        }
    }
}

impl From<Refusal> for OutboundError {
    fn from(why: Refusal) -> Self {
        Self::Refused { why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_whether_something_may_have_been_sent() {
        let unreachable = || OutboundError::Unreachable { what: "x", source: None };
        for untouched in [
            Refusal::Address("private").into(),
            Refusal::PlainHttp.into(),
            unreachable(),
            OutboundError::Invalid { what: "x" },
            OutboundError::TimedOut { sent: false },
            OutboundError::Protocol { what: "x", sent: false },
        ] {
            assert!(!untouched.may_have_been_sent(), "{untouched:?}");
            let later = untouched.after_redirect();
            assert!(later.may_have_been_sent(), "{later:?}");
        }
        for touched in [
            Refusal::Redirect("host").into(),
            OutboundError::TooLarge { part: "body", limit: 1 },
            OutboundError::TimedOut { sent: true },
            OutboundError::Protocol { what: "x", sent: true },
        ] {
            assert!(touched.may_have_been_sent() && touched.after_redirect().may_have_been_sent());
        }
    }

    #[test]
    fn the_texts_read_after_failed_to() {
        let told = |error: OutboundError| error.to_string();
        assert_eq!(told(Refusal::Address("loopback").into()), "refused: the address is loopback");
        assert_eq!(
            told(OutboundError::TooLarge { part: "body", limit: 7 }),
            "too large: the body of the answer has more than 7 bytes"
        );
    }
}
