//! Why a call to the engine failed, in own terms.
//!
//! Invariants: vendor errors are turned into this at once and never kept or cloned; whether the engine may have acted
//! can be told from the variant.

use aito_domain::Cause;
use containers_api::conn;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No connection came about: nothing was asked.
    NoEngine(Cause),
    /// It was asked, and no whole answer came: it may have acted.
    Lost(Cause),
    /// It refused or failed, and says why.
    Answer {
        /// The HTTP status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// It answers, and is not an engine that this adapter can use; the text says why.
    Unsuitable(String),
}

impl Fault {
    /// Whether it answered with this status.
    pub(crate) fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Answer { status, .. } if *status == wanted)
    }

    /// No whole answer in time.
    pub(crate) fn too_late() -> Self {
        Self::Lost("the Docker engine does not answer in time".into())
    }
}

impl From<conn::Error> for Fault {
    fn from(error: conn::Error) -> Self {
        match error {
            conn::Error::Fault { code, message } => Self::Answer { status: code.as_u16(), message },
            conn::Error::Hyper(error) if error.is_connect() => Self::NoEngine(error.into()),
            conn::Error::Hyper(error) => Self::Lost(error.into()),
            // The request could not be built, so nothing was sent.
            conn::Error::InvalidUri(error) => Self::NoEngine(error.into()),
            conn::Error::Http(error) => Self::NoEngine(error.into()),
            other => Self::Lost(other.to_string().into()),
        }
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Lost(error.into())
    }
}

impl From<docker_api::Error> for Fault {
    fn from(error: docker_api::Error) -> Self {
        match error {
            docker_api::Error::Fault { code, message } => Self::Answer { status: code.as_u16(), message },
            docker_api::Error::Error(error) => error.into(),
            docker_api::Error::Hyper(error) => conn::Error::Hyper(error).into(),
            docker_api::Error::SerdeJsonError(error) => error.into(),
            other => Self::Lost(other.to_string().into()),
        }
    }
}
