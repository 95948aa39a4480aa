//! The HTTP face: routes, extractors, WebSocket, problem documents, OpenAPI.
//!
//! Invariants: a handler is reached through one extractor that asks who may; it extracts, calls one use case, converts; no SQL, no adapter, no rule of the business;
//! every answer that is not a success is a problem document, every one carries `X-Request-Id`.

mod answers;
mod caller;
mod convert;
mod cursor;
mod extract;
mod frames;
mod guard;
mod limits;
mod listen;
mod openapi;
mod problem;
mod routes;
mod server;
mod sse;
mod standing;
mod state;
mod ws;

pub use answers::Answers;
pub use frames::{Frames, encode};
pub use limits::{Limits, Rates, Streams};
pub use openapi::document;
pub use server::{Listener, serve};
pub use state::{Access, AppState};
