//! A clock that a test moves, ids that a seed reproduces, and the contract of `Clock` and `IdSource`.
//!
//! Invariants: the manual clock moves only when it is told to (or, in automatic mode, when somebody sleeps);
//! sleepers wake in the order of their times; the ids of one source are strictly increasing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aito_domain::{
    ports::clock::{Clock, IdSource},
    time::{Timestamp, after, millis},
};
use async_trait::async_trait;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::oneshot;
use uuid::Uuid;

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub struct ManualClock {
    automatic: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    now: Timestamp,
    monotonic: Duration,
    next_sleeper: u64,
    /// By time and then by who came first.
    sleepers: BTreeMap<(Timestamp, u64), oneshot::Sender<()>>,
}

impl ManualClock {
    /// A clock that stands at 2025-12-20T10:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        Self::at(millis(1_766_224_800_000))
    }

    /// A clock that stands at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        let state = State { now, monotonic: Duration::ZERO, next_sleeper: 0, sleepers: BTreeMap::new() };
        Self { automatic: false, state: Mutex::new(state) }
    }

    /// A clock on which whoever sleeps makes the time pass: pauses cost nothing, and times are still true to
    /// each other. Not for tests in which several tasks sleep, because each moves the time for all.
    #[must_use]
    pub fn automatic() -> Self {
        Self { automatic: true, ..Self::new() }
    }

    /// Lets time pass and wakes whoever is due, earliest first. Each sleeper that wakes is let run, as far as
    /// the scheduler does so, before the time moves on to the next one.
    pub async fn advance(&self, by: Duration) {
        let target = after(self.now(), by);
        while let Some(waker) = self.step(target) {
            let _ = waker.send(());
            tokio::task::yield_now().await;
        }
    }

    /// [`advance`](Self::advance) without letting anybody run in between.
    pub fn advance_at_once(&self, by: Duration) {
        let target = after(self.now(), by);
        while let Some(waker) = self.step(target) {
            let _ = waker.send(());
        }
    }

    /// Sets the wall clock, as an operator would: `monotonic` goes on as before. Whoever sleeps until a time
    /// that has now passed wakes.
    pub fn set(&self, now: Timestamp) {
        let due = {
            let mut state = self.state();
            state.now = now;
            let later = state.sleepers.split_off(&(after(now, Duration::from_millis(1)), 0));
            std::mem::replace(&mut state.sleepers, later)
        };
        for (_, waker) in due {
            let _ = waker.send(());
        }
    }

    /// How many sleep at the moment.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        let mut state = self.state();
        state.sleepers.retain(|_, waker| !waker.is_closed());
        state.sleepers.len()
    }

    /// The earliest time that somebody sleeps until.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let mut state = self.state();
        state.sleepers.retain(|_, waker| !waker.is_closed());
        state.sleepers.keys().next().map(|(at, _)| *at)
    }

    /// Moves to the next sleeper that is due until `target` and gives it, or moves to `target`.
    fn step(&self, target: Timestamp) -> Option<oneshot::Sender<()>> {
        let mut state = self.state();
        let due = state
            .sleepers
            .first_entry()
            .filter(|entry| entry.key().0 <= target)
            .map(|entry| entry.remove_entry());
        let (at, waker) = match due {
            Some(((at, _), waker)) => (at, Some(waker)),
            None => (target, None),
        };
        if let Ok(passed) = (at - state.now).to_std() {
            state.now = at;
            state.monotonic += passed;
        }
        waker
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere must not hide behind a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state().now
    }

    fn monotonic(&self) -> Duration {
        self.state().monotonic
    }

    async fn sleep_until(&self, at: Timestamp) {
        if self.automatic {
            let passing = (at - self.now()).to_std().unwrap_or_default();
            self.advance(passing).await;
            return;
        }
        let woken = {
            let mut state = self.state();
            if at <= state.now {
                return;
            }
            let (waker, woken) = oneshot::channel();
            let number = state.next_sleeper;
            state.next_sleeper += 1;
            state.sleepers.insert((at, number), waker);
            woken
        };
        // The clock outlives its sleepers or they end with it.
        let _ = woken.await;
    }
}

/// Ids of the form of version 7 that a seed and a clock reproduce; strictly increasing, whatever the clock
/// does. Sources of different seeds do not collide.
pub struct SeqIds {
    clock: Arc<dyn Clock>,
    seed: u32,
    state: Mutex<(u64, u64, StdRng)>,
}

impl SeqIds {
    /// Ids that carry the clock's time and the seed.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, seed: u32) -> Self {
        Self { clock, seed, state: Mutex::new((0, 0, StdRng::seed_from_u64(u64::from(seed)))) }
    }
}

impl IdSource for SeqIds {
    fn uuid(&self) -> Uuid {
        let now = u64::try_from(self.clock.now().timestamp_millis()).unwrap_or_default();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.max(now);
        state.1 += 1;
        let (millis, count) = (u128::from(state.0) & 0xffff_ffff_ffff, u128::from(state.1));
        // RFC 9562, 5.7: time 48, version 4, 12 bits, variant 2, 62 bits. The count fills the 12 bits and the
        // 30 below the variant, the seed the rest.
        let id = millis << 80
            | 7 << 76
            | (count >> 30 & 0xfff) << 64
            | 0b10 << 62
            | (count & 0x3fff_ffff) << 32
            | u128::from(self.seed);
        Uuid::from_u128(id)
    }

    fn bits(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).2.random()
    }
}

/// What the clock suite runs on.
#[async_trait]
pub trait ClockFixture: Send + Sync + Sized + 'static {
    /// A new one.
    async fn fresh() -> Self;
    /// The clock.
    fn clock(&self) -> Arc<dyn Clock>;
    /// A source of ids on this clock.
    fn ids(&self) -> Arc<dyn IdSource>;
    /// Lets time pass while others run: moves the clock, or truly waits.
    async fn pass(&self, by: Duration);
    /// Moves the wall clock back by an hour, where that can be done; a real clock is left alone.
    fn wind_back(&self);
}

/// Rule 1.
pub async fn clock_01_now_has_no_part_below_one_millisecond<F: ClockFixture>() {
    let fixture = F::fresh().await;
    let clock = fixture.clock();
    for _ in 0..200 {
        let now = clock.now();
        assert_eq!(now, aito_domain::time::truncate(now));
        fixture.pass(Duration::from_micros(50)).await;
    }
}

/// Rule 2.
pub async fn clock_02_monotonic_never_goes_back<F: ClockFixture>() {
    let fixture = F::fresh().await;
    let clock = fixture.clock();
    let mut last = clock.monotonic();
    for round in 0..50 {
        if round % 10 == 5 {
            fixture.wind_back();
        }
        let next = clock.monotonic();
        assert!(next >= last, "{next:?} after {last:?}");
        last = next;
        fixture.pass(Duration::from_millis(1)).await;
    }
    assert!(last > Duration::ZERO, "it moves at all");
}

/// Rule 3.
pub async fn clock_03_sleeping_ends_at_or_after_its_time<F: ClockFixture>() {
    let fixture = F::fresh().await;
    let clock = fixture.clock();
    let start = clock.now();
    tokio::time::timeout(Duration::from_secs(5), clock.sleep_until(start)).await.expect("now has passed");
    let past = start - Duration::from_secs(60);
    tokio::time::timeout(Duration::from_secs(5), clock.sleep_until(past))
        .await
        .expect("a minute ago has passed");

    let due = after(start, Duration::from_millis(30));
    let sleeper = tokio::spawn({
        let clock = Arc::clone(&clock);
        async move {
            clock.sleep_until(due).await;
            clock.now()
        }
    });
    let woken = async {
        while !sleeper.is_finished() {
            fixture.pass(Duration::from_millis(5)).await;
        }
        sleeper.await.unwrap()
    };
    let woken = tokio::time::timeout(Duration::from_secs(10), woken).await.expect("it wakes");
    assert!(woken >= due, "woke at {woken}, due at {due}");
}

/// Rule 4.
pub async fn clock_04_ids_are_unique_and_sort_by_time<F: ClockFixture>() {
    let fixture = F::fresh().await;
    let ids = fixture.ids();
    let makers: Vec<_> = (0..4)
        .map(|_| {
            let ids = Arc::clone(&ids);
            tokio::spawn(async move { (0..500).map(|_| ids.uuid()).collect::<Vec<_>>() })
        })
        .collect();
    let mut all = std::collections::HashSet::new();
    for maker in makers {
        for id in maker.await.unwrap() {
            assert_eq!(id.get_version_num(), 7, "{id}");
            assert!(all.insert(id), "{id} came twice");
        }
    }
    let mut earlier = ids.uuid();
    for _ in 0..20 {
        fixture.pass(Duration::from_millis(2)).await;
        let later = ids.uuid();
        assert!(later > earlier, "{later} was made after {earlier}");
        earlier = later;
    }
    assert!((0..64).map(|_| ids.bits()).collect::<std::collections::HashSet<_>>().len() > 60, "bits differ");
}

/// The contract of `Clock` and `IdSource` as tests of a fixture ([`ClockFixture`]).
#[macro_export]
macro_rules! clock_suite {
    ($fixture:ty) => {
        $crate::contract_tests! { clock, $fixture,
            clock_01_now_has_no_part_below_one_millisecond,
            clock_02_monotonic_never_goes_back,
            clock_03_sleeping_ends_at_or_after_its_time,
            clock_04_ids_are_unique_and_sort_by_time,
        }
    };
}

/// One test per named rule of a module of this crate, on a fixture.
#[doc(hidden)]
#[macro_export]
macro_rules! contract_tests {
    ($module:ident, $fixture:ty, $($rule:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $rule() {
                $crate::$module::$rule::<$fixture>().await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleepers_wake_in_order_and_see_their_own_time() {
        let clock = Arc::new(ManualClock::new());
        let start = clock.now();
        let seen = Arc::new(Mutex::new(Vec::new()));
        for delay in [30, 10, 20] {
            let (clock, seen) = (Arc::clone(&clock), Arc::clone(&seen));
            tokio::spawn(async move {
                clock.sleep(Duration::from_millis(delay)).await;
                seen.lock().unwrap().push((delay, clock.now()));
            });
        }
        while clock.sleepers() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(clock.next_due(), Some(after(start, Duration::from_millis(10))));
        clock.advance(Duration::from_millis(25)).await;
        let at = |delay| (delay, after(start, Duration::from_millis(delay)));
        assert_eq!(*seen.lock().unwrap(), [at(10), at(20)]);
        assert_eq!((clock.sleepers(), clock.monotonic()), (1, Duration::from_millis(25)));
    }

    #[tokio::test]
    async fn the_automatic_clock_passes_by_sleeping() {
        let clock = ManualClock::automatic();
        let start = clock.now();
        clock.sleep(Duration::from_secs(3600)).await;
        assert_eq!(
            (clock.now(), clock.monotonic()),
            (after(start, Duration::from_secs(3600)), Duration::from_secs(3600))
        );
    }

    #[tokio::test]
    async fn setting_the_clock_wakes_whom_it_passes() {
        let clock = Arc::new(ManualClock::new());
        let sleeper = tokio::spawn({
            let clock = Arc::clone(&clock);
            async move { clock.sleep(Duration::from_secs(60)).await }
        });
        while clock.sleepers() < 1 {
            tokio::task::yield_now().await;
        }
        clock.set(after(clock.now(), Duration::from_secs(60)));
        sleeper.await.unwrap();
        assert_eq!(clock.monotonic(), Duration::ZERO);
    }

    #[test]
    fn a_seed_reproduces_its_ids() {
        let ids = |seed| {
            let source = SeqIds::new(Arc::new(ManualClock::new()), seed);
            (source.uuid(), source.uuid(), source.bits())
        };
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
    }
}
