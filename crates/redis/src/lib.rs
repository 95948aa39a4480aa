//! The event bus on Redis.
//!
//! Invariants: opening needs no Redis, and everything recovers by itself when it comes back; every call ends within
//! the configured times; what a lost connection may have swallowed is told; a password is in no text that this crate
//! makes; TLS that was asked for is never given up.

mod address;
mod bus;
mod connector;
mod lines;
mod link;
mod options;
mod sentinels;
mod topics;
mod translate;

pub use bus::RedisBus;
pub use options::{OpenError, Options, Place};
