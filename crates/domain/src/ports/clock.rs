//! Time and fresh ids, so that rules and loops can be tested on a clock that a test moves.
//!
//! 1. `now` has no part below one millisecond.
//! 2. `monotonic` never goes back, whatever happens to the wall clock.
//! 3. `sleep_until` returns at or after its time, at once when that has passed.
//! 4. Ids are unique, and an id made later sorts after one made at least 1 ms earlier.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::time::{Timestamp, after};

/// Time; see the module for the contract.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The present time.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment of this process.
    fn monotonic(&self) -> Duration;
    /// Waits for a time.
    async fn sleep_until(&self, at: Timestamp);
    /// Waits for a length of time. A clock that can be set back meanwhile must not wait longer for that.
    async fn sleep(&self, length: Duration) {
        self.sleep_until(after(self.now(), length)).await;
    }
    /// Waits for a time, at most for a length of time, also when the clock is set back meanwhile.
    async fn sleep_until_at_most(&self, at: Timestamp, at_most: Duration) {
        self.sleep_until(at.min(after(self.now(), at_most))).await;
    }
}

/// Fresh ids and random bits; see the module for the contract.
pub trait IdSource: Send + Sync {
    /// A new id, version 7 (RFC 9562).
    fn uuid(&self) -> Uuid;
    /// 64 random bits, for jitter and the like; not for secrets.
    fn bits(&self) -> u64;
}
