//! The ports' contracts as tests: one named test per rule, run by every adapter, fake and decorator; and what
//! such tests need: fakes, a fault injector, a way to wait.
//!
//! Invariant: nothing that production code depends on lives here.

#![allow(clippy::unwrap_used)] // this crate is test code: a failed unwrap is a failed test

pub mod bus;
pub mod clock;
pub mod faults;
pub mod runtime;
pub mod runtime_fake;
pub mod store;
pub mod wait;
