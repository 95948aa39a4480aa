//! Runs the real server for end-to-end tests, chaos and benchmarks: in a sandbox of its own, found and ended
//! again whatever happens.
//!
//! Invariants: nothing that production code depends on lives here; every sandbox has its own directories and
//! a free loopback port; dropping one leaves no process behind.

#![allow(clippy::unwrap_used)] // this crate is test code: a failed unwrap is a failed test

pub mod api_fuzz;
pub mod bench;
pub mod canaries;
pub mod chaos;
pub mod claims;
pub mod database;
pub mod engine;
pub mod image;
pub mod processes;
pub mod sandbox;
pub mod servers;
pub mod story;
pub mod wait;

pub use sandbox::{Places, Sandbox, Server, Set};
