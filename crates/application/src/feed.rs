//! Follows the event log for everybody who listens: one tailer per process, a ring of events in the form in
//! which they are sent, and subscriptions that join replay to live.
//!
//! Invariants: the ring holds consecutive events and ends with the newest that was read; a subscription gives
//! every event above its start exactly once, in order, or ends as [`Behind`]; memory is bounded by the ring
//! whatever the number and speed of subscribers, since each only has a place in it.

use std::{
    collections::VecDeque,
    sync::{Arc, RwLock},
    time::Duration,
};

use aito_domain::{
    event::Event,
    ports::{
        ReadError,
        bus::{BusItem, BusMessage, EventBus, Topic},
        clock::Clock,
        event_log::EventLog,
    },
};
use futures_util::{StreamExt as _, future::ready, stream::BoxStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long the tailer waits at the most before it looks without having been told.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);
/// How many events one read takes.
const PAGE: u32 = 500;

/// An event number with the form in which it is sent.
pub type Item<T> = (u64, Arc<T>);

/// Follows the log. `T` is the encoded form that all subscribers share.
pub struct Feed<T> {
    log: Arc<dyn EventLog>,
    encode: fn(&Event) -> T,
    capacity: usize,
    ring: RwLock<VecDeque<Item<T>>>,
    /// The number of the newest event that was read.
    head: watch::Sender<u64>,
}

impl<T: Send + Sync + 'static> Feed<T> {
    /// A feed that keeps `capacity` events, at least 1, and begins with what is appended after now.
    ///
    /// # Errors
    /// [`ReadError`] when the log's end cannot be read.
    pub async fn open(
        log: Arc<dyn EventLog>,
        capacity: usize,
        encode: fn(&Event) -> T,
    ) -> Result<Self, ReadError> {
        let newest = log.bounds().await?.map_or(0, |bounds| bounds.newest);
        let head = watch::Sender::new(newest);
        Ok(Self { log, encode, capacity: capacity.max(1), ring: RwLock::default(), head })
    }

    /// The number of the newest event that subscribers can see.
    pub fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Changes with every event that subscribers can see.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Everything above `after`, from the log first if the ring does not reach back that far.
    pub fn subscribe(self: &Arc<Self>, after: u64) -> Subscription<T> {
        Subscription { head: self.head.subscribe(), feed: self.clone(), seen: after, live: false }
    }

    /// Reads what is new in the log until `stop`, and tells other servers of it.
    pub async fn run(&self, bus: &dyn EventBus, clock: &dyn Clock, stop: CancellationToken) {
        tokio::select! {
            () = self.read(bus, clock, stop) => {}
            () = tell(bus, self.head.subscribe()) => {}
        }
    }

    async fn read(&self, bus: &dyn EventBus, clock: &dyn Clock, stop: CancellationToken) {
        let mut hints: Option<BoxStream<'static, _>> = None;
        let mut of_the_log = Some(self.log.hints());
        loop {
            if hints.is_none() {
                let subscribed = bus.subscribe(&[Topic::LOG]).await;
                let subscribed = subscribed.inspect_err(|error| debug!(%error, "no hints")).ok();
                hints = subscribed.map(|items| self.worth_a_look(items));
            }
            if let Err(error) = self.catch_up().await {
                warn!(%error, "the event log cannot be read; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock.sleep(LOOK_ANYWAY) => {}
                () = crate::hints::next(&mut hints) => {}
                () = crate::hints::next(&mut of_the_log) => {}
            }
        }
    }

    /// Those hints that tell of more than has been read.
    fn worth_a_look(&self, items: BoxStream<'static, BusItem>) -> BoxStream<'static, ()> {
        let head = self.head.subscribe();
        items
            .filter(move |item| ready(newest(item).is_none_or(|newest| newest > *head.borrow())))
            .map(|_| ())
            .boxed()
    }

    async fn catch_up(&self) -> Result<(), ReadError> {
        loop {
            let seen = self.head();
            let events = self.log.tail(seen, PAGE).await?;
            let Some(last) = events.last().map(|event| event.position.n) else { return Ok(()) };
            let full = events.len() == PAGE as usize;
            {
                let mut ring = self.ring.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                for event in &events {
                    if ring.len() == self.capacity {
                        ring.pop_front();
                    }
                    ring.push_back((event.position.n, Arc::new((self.encode)(event))));
                }
            }
            self.head.send_replace(last);
            if !full {
                return Ok(());
            }
        }
    }

    /// Up to `limit` items above `seen` from the ring; `None` when it does not reach back to them.
    fn ring_after(&self, seen: u64, limit: usize) -> Option<Vec<Item<T>>> {
        let ring = self.ring.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = ring.front()?.0;
        if seen + 1 < first {
            return None;
        }
        let skip = usize::try_from(seen + 1 - first).unwrap_or(usize::MAX);
        Some(ring.iter().skip(skip).take(limit).cloned().collect())
    }
}

/// What a hint says can be read; `None` when it says nothing of use, or hints may have been missed.
fn newest(item: &BusItem) -> Option<u64> {
    match item {
        BusItem::Message(message) => std::str::from_utf8(&message.payload).ok()?.parse().ok(),
        BusItem::Missed => None,
    }
}

/// Tells other servers what can be read, as often as that changes and messages get through.
async fn tell(bus: &dyn EventBus, mut head: watch::Receiver<u64>) {
    // The sender lives as long as the feed that runs this.
    while head.changed().await.is_ok() {
        let newest = *head.borrow_and_update();
        let message = BusMessage { topic: Topic::LOG, payload: newest.to_string().into_bytes() };
        if let Err(error) = bus.publish(message).await {
            // Others look by themselves; they are only later.
            debug!(%error, "hint not published");
        }
    }
}

/// A subscriber fell out of the ring: it is too slow to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the listener fell behind")]
pub struct Behind;

/// One listener's place in the log.
pub struct Subscription<T> {
    feed: Arc<Feed<T>>,
    head: watch::Receiver<u64>,
    seen: u64,
    /// Whether it has joined the ring; before that it may read the log, after that it must keep up.
    live: bool,
}

impl<T: Send + Sync + 'static> Subscription<T> {
    /// The next events, at least one and at most `limit` (0 counts as 1); waits for them. Cancelling loses
    /// nothing.
    ///
    /// # Errors
    /// [`Next::Behind`] when it was too slow; [`Next::Unavailable`] when the log cannot be read for a replay.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Item<T>>, Next> {
        let limit = limit.max(1);
        loop {
            let head = *self.head.borrow_and_update();
            if head <= self.seen {
                // The sender lives as long as the feed, which this subscription holds.
                let _ = self.head.changed().await;
                continue;
            }
            if let Some(items) = self.feed.ring_after(self.seen, limit)
                && let Some((last, _)) = items.last()
            {
                self.live = true;
                self.seen = *last;
                return Ok(items);
            }
            if self.live {
                return Err(Next::Behind(Behind));
            }
            let page = u32::try_from(limit).unwrap_or(PAGE).min(PAGE);
            let events = self.feed.log.after(self.seen, page).await.map_err(Next::Unavailable)?;
            let Some(last) = events.last() else {
                // Nothing is kept between here and the head.
                self.seen = head;
                continue;
            };
            self.seen = last.position.n;
            return Ok(events.iter().map(|e| (e.position.n, Arc::new((self.feed.encode)(e)))).collect());
        }
    }

    /// The number of the last event that it gave.
    pub fn seen(&self) -> u64 {
        self.seen
    }
}

/// Why a subscription has no next events.
#[derive(Debug, thiserror::Error)]
pub enum Next {
    /// It was too slow.
    #[error(transparent)]
    Behind(Behind),
    /// The log does not answer.
    #[error("the event log cannot be read")]
    Unavailable(#[source] ReadError),
}
