//! The one place where this tool reads a clock.
//!
//! Invariant: only durations leave this module; nothing here decides what a check finds.
#![allow(
    clippy::disallowed_methods,
    reason = "a build tool's own time limits are real time; it has no Clock port"
)]

use std::time::{Duration, Instant};

/// A running stopwatch.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// What is left of `limit` since the start; zero when it has passed.
    pub fn left(self, limit: Duration) -> Duration {
        limit.saturating_sub(self.elapsed())
    }
}
