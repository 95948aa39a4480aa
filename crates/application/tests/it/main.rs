//! The use cases over fakes and the real SQLite store: one binary, one module per area.
//!
//! Invariants: no test sleeps; time is a clock that the test moves; what is random comes from a seed that is printed.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod audit;
mod beliefs;
mod doors;
mod events;
mod feed;
mod fleet;
mod forge;
mod heartbeats;
mod history;
mod login;
mod once;
mod policy;
mod quota;
mod reconcile;
mod storm;
mod support;
mod tampering;
mod tokens;
mod work;
mod writer;
