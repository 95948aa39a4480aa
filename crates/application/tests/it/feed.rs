//! Following the log: replay joins live without gap or double, slow listeners are told, memory is bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aito_application::feed::{Feed, Next, Subscription};
use aito_contracts::wait;
use aito_domain::{
    event::{Actor, AgentFocusChanged, Event, Payload},
    id::{AgentId, Incarnation},
    installation::Epoch,
    ports::{
        ReadError,
        bus::{BusError, BusItem, BusMessage, EventBus, Topic},
        event_log::{Bounds, EventLog, EventQuery},
    },
};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::support::{House, SOON, ty};

/// What an event is encoded as here: enough to recognise it.
fn encoded(event: &Event) -> String {
    format!("{} {}", event.position, event.id)
}

/// Commits so many events at once.
async fn append(house: &House, count: usize) {
    let writer = house.writer(house.store.clone());
    append_by(&writer, count).await;
}

async fn append_by(writer: &aito_application::writer::Writer, count: usize) {
    let changed = AgentFocusChanged { agent_type: ty("ceo"), incarnation: Incarnation(1), focus: None };
    let mut commit = writer.begin();
    let source = AgentId(Uuid::from_u128(7));
    let payloads = vec![Payload::AgentFocusChanged(changed); count];
    writer.tell(&mut commit, Some(source), &Actor::System, payloads, writer.clock().now());
    writer.apply(&commit).await.unwrap();
}

struct Running<T> {
    feed: Arc<Feed<T>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl<T: Send + Sync + 'static> Running<T> {
    async fn open(house: &House, capacity: usize, encode: fn(&Event) -> T) -> Self {
        Self::open_on(house, house.log.clone(), capacity, encode).await
    }

    async fn open_on(
        house: &House,
        log: Arc<dyn EventLog>,
        capacity: usize,
        encode: fn(&Event) -> T,
    ) -> Self {
        let feed = Arc::new(Feed::open(log, capacity, encode).await.unwrap());
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (feed, stop, bus, clock) =
                (feed.clone(), stop.clone(), house.bus.clone(), house.clock.clone());
            async move { feed.run(&*bus, &*clock, stop).await }
        });
        Self { feed, stop, task }
    }

    async fn until_head(&self, n: u64) {
        wait::until("the feed to read on", SOON, async || (self.feed.head() >= n).then_some(())).await;
        assert_eq!(self.feed.head(), n);
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn take_up_to<T: Send + Sync + 'static>(
    subscription: &mut Subscription<T>,
    n: u64,
    mut limit: impl FnMut() -> usize,
) -> Vec<(u64, Arc<T>)> {
    let mut all = Vec::new();
    while subscription.seen() < n {
        let limit = limit();
        let items =
            tokio::time::timeout(SOON, subscription.next(limit)).await.expect("events are there").unwrap();
        assert!((1..=limit).contains(&items.len()), "{} of at most {limit}", items.len());
        assert_eq!(items.last().unwrap().0, subscription.seen());
        all.extend(items);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_joins_live_without_gap_or_double_while_writers_write() {
    const TOTAL: u64 = 600;
    for seed in 0..4_u64 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let house = Arc::new(House::new());
        append(&house, 40).await;
        let running = Running::open(&house, 100_000, encoded).await;
        let mut written = 40;
        let mut writers = Vec::new();
        let sizes: Vec<usize> = std::iter::from_fn(|| {
            let size = random.random_range(1..8).min(TOTAL - written);
            written += size;
            (size > 0).then(|| usize::try_from(size).unwrap())
        })
        .collect();
        for part in sizes.chunks(sizes.len().div_ceil(4)) {
            let (writer, part) = (house.writer(house.store.clone()), part.to_vec());
            writers.push(tokio::spawn(async move {
                for size in part {
                    append_by(&writer, size).await;
                }
            }));
        }
        let mut readers = Vec::new();
        for reader in 0..12_u64 {
            let feed = running.feed.clone();
            let mut random = StdRng::seed_from_u64(seed * 1000 + reader);
            readers.push(tokio::spawn(async move {
                // Somewhere in what is there already, or where the log will be in a moment.
                let since = random.random_range(0..=feed.head());
                let mut subscription = feed.subscribe(since);
                let mut found = Vec::new();
                while subscription.seen() < TOTAL {
                    // Some are cut in the middle and come back with the last position that they saw.
                    if random.random_bool(0.1) {
                        let seen = subscription.seen();
                        subscription = feed.subscribe(seen);
                    }
                    // A cancelled wait loses nothing.
                    if random.random_bool(0.2) {
                        let waiting = subscription.next(random.random_range(1..50));
                        if let Some(items) = futures_util::FutureExt::now_or_never(waiting) {
                            found.extend(items.unwrap());
                        }
                        continue;
                    }
                    let limit = random.random_range(1..50);
                    let items =
                        tokio::time::timeout(SOON, subscription.next(limit)).await.expect("events come");
                    found.extend(items.unwrap());
                }
                (since, found)
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        let log = house.events().await;
        assert_eq!(log.len() as u64, TOTAL);
        for reader in readers {
            let (since, found) = reader.await.unwrap();
            let expected: Vec<_> =
                log.iter().filter(|e| e.position.n > since).map(|e| (e.position.n, encoded(e))).collect();
            let found: Vec<_> = found.into_iter().map(|(n, item)| (n, (*item).clone())).collect();
            assert_eq!(found, expected, "since {since}, seed {seed}");
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_longer_than_the_ring_comes_from_the_log_and_then_joins() {
    for seed in 0..20_u64 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let house = House::new();
        append(&house, 30).await;
        let capacity = random.random_range(1..20);
        let running = Running::open(&house, capacity, encoded).await;
        append(&house, random.random_range(1..30)).await;
        let newest = house.events().await.len() as u64;
        running.until_head(newest).await;
        for since in 0..newest {
            let mut subscription = running.feed.subscribe(since);
            let found = take_up_to(&mut subscription, newest, || random.random_range(1..40)).await;
            let numbers: Vec<_> = found.iter().map(|(n, _)| *n).collect();
            assert_eq!(
                numbers,
                (since + 1..=newest).collect::<Vec<_>>(),
                "since {since} with a ring of {capacity}"
            );
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn a_listener_that_is_too_slow_is_told_and_others_are_not_held_up() {
    let house = House::new();
    let running = Running::open(&house, 8, encoded).await;
    let mut slow = running.feed.subscribe(0);
    let mut quick = running.feed.subscribe(0);
    append(&house, 3).await;
    running.until_head(3).await;
    assert_eq!(take_up_to(&mut slow, 3, || 100).await.len(), 3);

    append(&house, 8).await;
    running.until_head(11).await;
    assert_eq!(
        take_up_to(&mut quick, 11, || 100).await.len(),
        11,
        "the ring reaches back exactly that far, or the log"
    );
    assert_eq!(slow.next(2).await.unwrap().len(), 2, "the ring still holds what it has not seen");

    append(&house, 7).await;
    running.until_head(18).await;
    assert!(matches!(slow.next(100).await, Err(Next::Behind(_))), "it saw 5, the ring begins with 11");
    assert!(matches!(slow.next(100).await, Err(Next::Behind(_))), "and it stays so");
    assert_eq!(slow.seen(), 5);
    assert_eq!(take_up_to(&mut quick, 18, || 100).await.len(), 7);
    let mut back = running.feed.subscribe(5);
    assert_eq!(take_up_to(&mut back, 18, || 100).await.len(), 13, "it may come back");
    running.stop().await;
}

static ALIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// Counts how many of it exist.
struct Counted;

impl Counted {
    fn of(_: &Event) -> Self {
        let alive = ALIVE.fetch_add(1, Ordering::SeqCst) + 1;
        MOST.fetch_max(alive, Ordering::SeqCst);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn memory_is_bounded_by_the_ring_whatever_listeners_do() {
    let house = House::new();
    let running = Running::open(&house, 16, Counted::of).await;
    let mut idle: Vec<_> = (0..50).map(|_| running.feed.subscribe(0)).collect();
    append(&house, 1).await;
    running.until_head(1).await;
    for subscription in &mut idle {
        subscription.next(10).await.unwrap();
    }
    for round in 1..=20 {
        append(&house, 100).await;
        running.until_head(1 + 100 * round).await;
    }
    assert_eq!(ALIVE.load(Ordering::SeqCst), 16);
    assert!(MOST.load(Ordering::SeqCst) <= 17, "{MOST:?} at once");
    running.stop().await;
}

#[tokio::test]
async fn a_ring_without_room_still_holds_one_and_never_more() {
    fn unit(_: &Event) {}
    let house = House::new();
    let running = Running::open(&house, 0, unit).await;
    let mut subscription = running.feed.subscribe(0);
    for n in 1..5 {
        append(&house, 1).await;
        running.until_head(n).await;
    }
    let mut late = running.feed.subscribe(3);
    assert_eq!(late.next(10).await.unwrap().len(), 1);
    let all = take_up_to(&mut subscription, 4, || 10).await;
    assert_eq!(all.len(), 4, "from the log, since the ring does not reach back");
    append(&house, 2).await;
    running.until_head(6).await;
    assert!(matches!(late.next(10).await, Err(Next::Behind(_))), "one fits, and two came");
    running.stop().await;
}

#[tokio::test]
async fn asking_for_nothing_gives_one() {
    let house = House::new();
    append(&house, 3).await;
    let running = Running::open(&house, 8, encoded).await;
    let mut replaying = running.feed.subscribe(0);
    assert_eq!(replaying.next(0).await.unwrap()[0].0, 1);
    append(&house, 2).await;
    running.until_head(5).await;
    let mut live = running.feed.subscribe(3);
    assert_eq!(live.next(0).await.unwrap()[0].0, 4);
    assert_eq!(live.next(0).await.unwrap()[0].0, 5);
    running.stop().await;
}

/// A bus that tells nothing and whose streams end at once.
struct Mute {
    subscribed: AtomicUsize,
}

#[async_trait]
impl EventBus for Mute {
    async fn publish(&self, _: BusMessage) -> Result<(), BusError> {
        Ok(())
    }

    async fn subscribe(&self, _: &[Topic]) -> Result<BoxStream<'static, BusItem>, BusError> {
        self.subscribed.fetch_add(1, Ordering::SeqCst);
        Ok(Box::pin(futures_util::stream::empty()))
    }

    async fn ping(&self) -> Result<(), BusError> {
        Ok(())
    }
}

/// A log that can be switched off, and gives no hints.
struct Switched {
    inner: Arc<dyn EventLog>,
    off: AtomicBool,
    /// How often somebody followed it.
    tailed: AtomicUsize,
}

impl Switched {
    fn new(house: &House) -> Arc<Self> {
        let (off, tailed) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Self { inner: house.log.clone(), off, tailed })
    }

    fn there(&self) -> Result<(), ReadError> {
        if self.off.load(Ordering::SeqCst) {
            Err(ReadError::Unavailable("switched off".into()))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl EventLog for Switched {
    fn epoch(&self) -> &Epoch {
        self.inner.epoch()
    }

    async fn after(&self, n: u64, limit: u32) -> Result<Vec<Event>, ReadError> {
        self.there()?;
        self.inner.after(n, limit).await
    }

    async fn tail(&self, n: u64, limit: u32) -> Result<Vec<Event>, ReadError> {
        self.there()?;
        self.tailed.fetch_add(1, Ordering::SeqCst);
        self.inner.tail(n, limit).await
    }

    async fn latest(&self, query: &EventQuery, limit: u32) -> Result<Vec<Event>, ReadError> {
        self.there()?;
        self.inner.latest(query, limit).await
    }

    async fn bounds(&self) -> Result<Option<Bounds>, ReadError> {
        self.there()?;
        self.inner.bounds().await
    }

    fn hints(&self) -> BoxStream<'static, ()> {
        Box::pin(futures_util::stream::pending())
    }
}

#[tokio::test]
async fn without_hints_the_timer_looks_and_a_dead_bus_is_not_asked_all_the_time() {
    let house = House::new();
    let log = Switched::new(&house);
    let feed = Arc::new(Feed::open(log, 16, encoded).await.unwrap());
    let (bus, stop) = (Arc::new(Mute { subscribed: AtomicUsize::new(0) }), CancellationToken::new());
    let task = tokio::spawn({
        let (feed, bus, clock, stop) = (feed.clone(), bus.clone(), house.clock.clone(), stop.clone());
        async move { feed.run(&*bus, &*clock, stop).await }
    });
    wait::until("the tailer to sleep", SOON, async || (house.clock.sleepers() == 1).then_some(())).await;
    append(&house, 2).await;
    assert_eq!((feed.head(), bus.subscribed.load(Ordering::SeqCst)), (0, 1));
    house.clock.advance(Duration::from_secs(1)).await;
    wait::until("the look", SOON, async || (feed.head() == 2).then_some(())).await;
    wait::until("the tailer to sleep", SOON, async || (house.clock.sleepers() == 1).then_some(())).await;
    assert_eq!(bus.subscribed.load(Ordering::SeqCst), 2, "once a look");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_log_that_is_away_is_said_to_a_replay_and_nothing_is_lost() {
    let house = House::new();
    append(&house, 5).await;
    let log = Switched::new(&house);
    let running = Running::open_on(&house, log.clone(), 16, encoded).await;
    let mut replaying = running.feed.subscribe(2);
    let mut live = running.feed.subscribe(5);
    log.off.store(true, Ordering::SeqCst);
    assert!(matches!(replaying.next(10).await, Err(Next::Unavailable(_))));
    append(&house, 3).await;
    log.off.store(false, Ordering::SeqCst);
    let found = wait::until("the replay and what is new", SOON, async || {
        house.clock.advance(Duration::from_secs(1)).await;
        (running.feed.head() == 8).then_some(())
    });
    found.await;
    let numbers = |items: Vec<(u64, Arc<String>)>| items.into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    assert_eq!(numbers(take_up_to(&mut replaying, 8, || 10).await), [3, 4, 5, 6, 7, 8]);
    assert_eq!(numbers(take_up_to(&mut live, 8, || 10).await), [6, 7, 8]);
    assert_eq!(running.feed.head(), house.events().await.len() as u64);
    running.stop().await;
}

#[tokio::test]
async fn a_hint_of_the_log_alone_is_enough() {
    let house = House::new();
    let feed = Arc::new(Feed::open(house.log.clone(), 16, encoded).await.unwrap());
    let (bus, stop) = (Arc::new(Mute { subscribed: AtomicUsize::new(0) }), CancellationToken::new());
    let task = tokio::spawn({
        let (feed, bus, clock, stop) = (feed.clone(), bus, house.clock.clone(), stop.clone());
        async move { feed.run(&*bus, &*clock, stop).await }
    });
    wait::until("the tailer to sleep", SOON, async || (house.clock.sleepers() == 1).then_some(())).await;
    append(&house, 2).await;
    // The clock stands still: nothing but the hint makes it look.
    wait::until("the events", SOON, async || (feed.head() == 2).then_some(())).await;
    stop.cancel();
    task.await.unwrap();
}

/// One server reads, and tells by the bus what can be read; the other hears it and looks, and is not sent back to what
/// it knows.
#[tokio::test]
async fn servers_tell_each_other_what_can_be_read_and_nobody_looks_for_what_it_has() {
    let house = House::new();
    let deaf = Switched::new(&house);
    let other = Running::open_on(&house, deaf.clone(), 16, encoded).await;
    let told = Running::open_on(&house, house.log.clone(), 16, encoded).await;
    wait::until("both to sleep", SOON, async || (house.clock.sleepers() == 2).then_some(())).await;
    append(&house, 3).await;
    // The clock stands still, and this one's log gives no hints.
    other.until_head(3).await;
    told.until_head(3).await;
    wait::until("both to sleep", SOON, async || (house.clock.sleepers() == 2).then_some(())).await;
    let looks = deaf.tailed.load(Ordering::SeqCst);
    let say = async |payload: &str| {
        let message = BusMessage { topic: Topic::LOG, payload: payload.as_bytes().to_vec() };
        house.bus.publish(message).await.unwrap();
    };
    say("2").await;
    say("3").await;
    say("4").await;
    wait::until("a look", SOON, async || (deaf.tailed.load(Ordering::SeqCst) > looks).then_some(())).await;
    wait::until("both to sleep", SOON, async || (house.clock.sleepers() == 2).then_some(())).await;
    assert_eq!(deaf.tailed.load(Ordering::SeqCst), looks + 1, "only what is ahead is looked for");
    say("not a number").await;
    wait::until("a look", SOON, async || (deaf.tailed.load(Ordering::SeqCst) > looks + 1).then_some(()))
        .await;
    other.stop().await;
    told.stop().await;
}
