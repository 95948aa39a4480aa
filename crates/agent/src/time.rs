//! The agent's only door to real time.
//!
//! Invariant: the wall clock is only reported, never compared; what must happen after a while is measured on
//! tokio's monotonic clock, which a test can pause.
#![allow(
    clippy::disallowed_methods,
    reason = "an agent is an executable's outermost edge: its loop runs in real time"
)]

use chrono::{DateTime, Utc};
use std::time::Duration;
use tokio::time::Instant;

/// Now, on the wall clock.
pub(crate) fn wall() -> DateTime<Utc> {
    Utc::now()
}

/// Now, on the monotonic clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until `at`.
pub(crate) async fn sleep_until(at: Instant) {
    tokio::time::sleep_until(at).await;
}

/// Runs `future` for at most `limit`; `None` when that was too short.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}
