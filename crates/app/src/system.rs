//! The real clock, the real source of ids and random bits, and the reader of secrets: the outermost edge.
//!
//! Invariant: nothing else in the server asks the system for time or randomness.

#![allow(clippy::disallowed_methods)] // the ports that stand in for these everywhere else are implemented here

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aito_application::fleet::Secrets;
use aito_domain::{
    ports::clock::{Clock, IdSource},
    spec::SecretRef,
    time::{Timestamp, between, millis},
};
use async_trait::async_trait;
use uuid::Uuid;

/// The longest single sleep: after it the wall clock is read again, so that a clock that was set forward is
/// noticed.
const NAP: Duration = Duration::from_secs(60);

/// The system's clock.
pub(crate) struct SystemClock {
    began: Instant,
    wall: fn() -> SystemTime,
}

impl SystemClock {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), wall: SystemTime::now }
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = (self.wall)().duration_since(UNIX_EPOCH).unwrap_or_default();
        millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }

    async fn sleep_until(&self, at: Timestamp) {
        loop {
            let left = between(self.now(), at);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(NAP)).await;
        }
    }

    async fn sleep(&self, length: Duration) {
        tokio::time::sleep(length).await;
    }

    async fn sleep_until_at_most(&self, at: Timestamp, at_most: Duration) {
        // Which of both ended it does not matter.
        let _ = tokio::time::timeout(at_most, self.sleep_until(at)).await;
    }
}

/// Version 7 ids and random bits of the system.
pub(crate) struct SystemIds;

impl IdSource for SystemIds {
    fn uuid(&self) -> Uuid {
        Uuid::now_v7()
    }

    fn bits(&self) -> u64 {
        rand::random()
    }
}

/// Random bytes for keys, from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|why| format!("the system gives no random bytes: {why}"))?;
    Ok(bytes)
}

/// Reads secrets from this process's environment and from files.
pub(crate) struct SystemSecrets;

impl Secrets for SystemSecrets {
    fn resolve(&self, secret: &SecretRef) -> Result<String, String> {
        let value = match secret {
            SecretRef::Env(name) => {
                std::env::var(name).map_err(|_| "the server's environment has no such variable".to_owned())?
            }
            SecretRef::File(path) => read_secret(path)?,
        };
        let value = value.strip_suffix('\n').map_or(value.as_str(), |v| v.strip_suffix('\r').unwrap_or(v));
        if value.contains('\0') { Err("it holds a NUL".to_owned()) } else { Ok(value.to_owned()) }
    }
}

/// The longest secret, in bytes.
const MAX_SECRET: u64 = 64 << 10;

/// Reads a file, and nothing else: a pipe or a device could hold up the start for ever or never end.
fn read_secret(path: &std::path::Path) -> Result<String, String> {
    let found = std::fs::metadata(path).map_err(|why| why.to_string())?;
    if !found.is_file() {
        return Err("it is no file".to_owned());
    }
    if found.len() > MAX_SECRET {
        return Err(format!("it has more than {MAX_SECRET} bytes"));
    }
    std::fs::read_to_string(path).map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Real(Arc<SystemClock>);

    #[async_trait]
    impl aito_contracts::clock::ClockFixture for Real {
        async fn fresh() -> Self {
            Self(Arc::new(SystemClock::new()))
        }

        fn clock(&self) -> Arc<dyn Clock> {
            self.0.clone()
        }

        fn ids(&self) -> Arc<dyn IdSource> {
            Arc::new(SystemIds)
        }

        async fn pass(&self, by: Duration) {
            self.0.sleep(by).await;
        }

        fn wind_back(&self) {}
    }

    aito_contracts::clock_suite!(Real);

    #[tokio::test]
    async fn a_pause_is_no_longer_when_the_clock_is_set_back() {
        /// One hour earlier whenever it is read.
        fn falling() -> SystemTime {
            static READ: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let hours = READ.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            UNIX_EPOCH + Duration::from_secs(1_766_224_800) - Duration::from_secs(3600) * hours
        }
        let clock = SystemClock { wall: falling, ..SystemClock::new() };
        let (short, limit) = (Duration::from_millis(5), Duration::from_secs(10));
        tokio::time::timeout(limit, clock.sleep(short)).await.unwrap_or_else(|_| panic!("it slept on"));
        let due = aito_domain::time::after(clock.now(), short);
        let slept = tokio::time::timeout(limit, clock.sleep_until_at_most(due, short)).await;
        slept.unwrap_or_else(|_| panic!("it slept on"));
    }

    #[test]
    fn secrets_come_from_files_without_their_line_end_and_say_what_is_missing() {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|why| panic!("{why}"));
        let write = |text: &str| std::fs::write(file.path(), text).unwrap_or_else(|why| panic!("{why}"));
        let read = || SystemSecrets.resolve(&SecretRef::File(file.path().to_owned()));
        for (text, value) in
            [("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), (" a b ", " a b "), ("x\n\n", "x\n")]
        {
            write(text);
            assert_eq!(read().as_deref(), Ok(value));
        }
        write("a\0b");
        assert!(read().is_err());
        write(&"x".repeat(65 << 10));
        assert!(read().is_err());
        assert!(SystemSecrets.resolve(&SecretRef::File("/dev/null".into())).is_err());
        assert!(SystemSecrets.resolve(&SecretRef::Env("AITO_NO_SUCH_VARIABLE".into())).is_err());
    }
}
