//! What the tests of this crate share: an image that needs no registry, the runtime on
//! the run's engine, and an engine that is none.

#![allow(clippy::unwrap_used, dead_code)] // each test executable uses a part of it

pub mod fake;
pub mod fixture;
pub mod image;
pub mod warnings;
