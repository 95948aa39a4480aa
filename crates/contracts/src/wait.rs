//! Waiting for a condition, so that no test sleeps and hopes.
//!
//! Invariants: the wait ends as soon as the condition holds; past the deadline it panics with the name of what
//! was awaited. Real time counts, whatever clock the tested code was given.
#![allow(clippy::disallowed_methods)] // the one place of the tests where real time is read and let pass

use std::time::{Duration, Instant};

/// Pause between two probes.
const PAUSE: Duration = Duration::from_millis(3);

/// Asks `probe` every few milliseconds until it gives something.
///
/// # Panics
/// Naming `what`, when `within` has passed and the last probe gave nothing.
pub async fn until<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < within, "waited {within:?} in vain for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`until`] for tests without an async runtime.
///
/// # Panics
/// Naming `what`, when `within` has passed and the last probe gave nothing.
pub fn until_sync<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < within, "waited {within:?} in vain for {what}");
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_returns_what_the_probe_finds() {
        let mut rounds = 0;
        let found = until("the third round", Duration::from_secs(5), async || {
            rounds += 1;
            (rounds == 3).then_some("found")
        })
        .await;
        assert_eq!((found, rounds), ("found", 3));
    }

    #[test]
    #[should_panic(expected = "in vain for a thing that never comes")]
    fn it_names_what_never_came() {
        until_sync("a thing that never comes", Duration::from_millis(10), || None::<()>);
    }
}
