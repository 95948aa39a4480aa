//! Waiting for a condition with a deadline; the one place here that sleeps.

#![allow(clippy::disallowed_methods)] // real processes run on real time; everything else waits through this

use std::time::{Duration, Instant};

/// How long a condition may take that should hold at once, on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(20);

/// Asks until there is an answer; panics, naming what it waited for, when `within` is over.
pub async fn until<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lets a length of time pass: for choosing random moments, never for waiting for something.
pub async fn pass(length: Duration) {
    tokio::time::sleep(length).await;
}

/// Lets others run for a moment, between two looks of somebody who has no async runtime.
pub fn breathe() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Time since some fixed moment of this process.
pub fn stopwatch() -> impl Fn() -> Duration {
    let began = Instant::now();
    move || began.elapsed()
}

/// The present wall-clock time in milliseconds since 1970.
pub fn wall_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
