//! The client's only door to real time.
//!
//! Invariant: real time decides here how long to wait, never what an answer means.
#![allow(
    clippy::disallowed_methods,
    reason = "time-outs and back-off of network calls run on real time; tokio's clock can be paused in tests"
)]

use std::time::Duration;
use tokio::time::Instant;

/// Now, on tokio's clock.
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
