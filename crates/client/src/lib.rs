//! The typed client: every call of the HTTP interface and its event stream, over TCP or a Unix socket.
//!
//! Invariants:
//! - Every call ends: connecting, the answer as a whole and the silence inside a stream have time-outs.
//! - A call is sent at most once; nothing that changes state is repeated behind the caller's back. Only
//!   [`ResumingEvents`] connects again by itself, because reading events changes nothing.
//! - An [`Error`] says what a caller can do: come back later, change the request, or report a defect.
//! - No token and no ticket appears in `Debug` output, in errors or in logs.

mod access;
mod call;
mod endpoint;
mod error;
mod http;
mod socket;
mod sse;
mod time;
mod work;

pub use access::AuditQuery;
pub use call::{EventQuery, EventStream, LogFollow, LogQuery, Page};
pub use endpoint::{Endpoint, EndpointError};
pub use error::Error;
pub use http::{Client, Options, RawAnswer, Token, TokenError};
pub use socket::{EventSocket, Item, ResumingEvents};
pub use work::TaskQuery;
