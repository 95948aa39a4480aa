//! How much a caller may ask: requests in a time, connections at a time, sizes.
//!
//! Invariants: who has a credential is counted by it, who has none by address (of IPv6 by its /64 network, which
//! one host has whole); what is refused is answered late, so that a flood over a bounded number of connections is a
//! bounded number of requests; what is counted is bounded, whatever is asked.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DashMapStateStore,
};

/// The longest path with its query, in bytes.
pub(crate) const MAX_URI: usize = 8 << 10;
/// The most bytes of all headers together.
pub(crate) const MAX_HEADERS: usize = 32 << 10;
/// How late a refusal is answered: between these. Not as long as the next request has to wait: beside many others that
/// is next to nothing, and each of them would be back at once.
const LATE: Range<Duration> = Duration::from_millis(250)..Duration::from_millis(750);
/// After how many calls it is looked who need not be counted any more.
const TIDY_AFTER: u32 = 20_000;

/// The bounds that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second that a caller may go on with.
    pub rate: NonZeroU32,
    /// Requests that it may make at once after a pause.
    pub burst: NonZeroU32,
    /// Connections of all callers together over TCP, and again as many over Unix sockets.
    pub connections: u32,
    /// Connections of one address, and over Unix sockets of one place on this machine (a container, or a process).
    pub connections_per_address: u32,
    /// Streams that one credential has open: WebSockets, followed logs.
    pub streams_per_credential: u32,
}

impl Default for Limits {
    /// 200 a second, 400 at once; 4096 connections, 256 of one address; 64 streams.
    fn default() -> Self {
        let whole = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            rate: whole(200),
            burst: whole(400),
            connections: 4096,
            connections_per_address: 256,
            streams_per_credential: 64,
        }
    }
}

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Those with one credential.
    Credential(String),
    /// Those without one from an address.
    Address(IpAddr),
    /// Those without one over Unix sockets.
    Unix,
    /// Looks into the store for tokens that nobody here knows yet, by whoever made them necessary. They are apart from
    /// [`Self::Address`], so that who has no credential cannot keep a neighbour from showing one.
    Unknown(Option<IpAddr>),
}

impl Key {
    /// Of looks into the store for who calls from there.
    pub(crate) fn unknown(address: Option<IpAddr>) -> Self {
        Self::Unknown(address.map(network))
    }

    /// Of a caller without a credential.
    pub(crate) fn of(address: Option<IpAddr>) -> Self {
        address.map_or(Self::Unix, |address| Self::Address(network(address)))
    }
}

/// What one host surely has of an address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// How late a refusal is answered, by random bits: those that are refused together do not come back together.
pub(crate) fn late(bits: u64) -> Duration {
    let spread = (LATE.end - LATE.start).as_millis() as u64;
    LATE.start + Duration::from_millis(bits % spread)
}

type Counted = RateLimiter<Key, DashMapStateStore<Key>, DefaultClock, StateInformationMiddleware>;

/// Counts requests (GCRA).
pub struct Rates {
    limits: Limits,
    counted: Counted,
    calls: AtomicU32,
}

/// What is left to a caller after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    limit: u32,
    remaining: u32,
    /// Until everything is there again.
    reset: Duration,
}

/// There is nothing left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) left: Left,
    /// Until the next request can be.
    pub(crate) wait: Duration,
}

impl Rates {
    /// The bounds.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Nothing is counted yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let quota = Quota::per_second(limits.rate).allow_burst(limits.burst);
        let counted = RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>();
        Self { limits, counted, calls: AtomicU32::new(0) }
    }

    /// Counts a request.
    pub(crate) fn take(&self, key: &Key) -> Result<Left, Spent> {
        if self.calls.fetch_add(1, Ordering::Relaxed) >= TIDY_AFTER {
            self.calls.store(0, Ordering::Relaxed);
            self.counted.retain_recent();
        }
        let limit = self.limits.burst.get();
        match self.counted.check_key(key) {
            Ok(snapshot) => Ok(self.left(limit, snapshot.remaining_burst_capacity())),
            Err(until) => {
                let wait = until.wait_time_from(DefaultClock::default().now());
                Err(Spent { left: self.left(limit, 0), wait })
            }
        }
    }

    fn left(&self, limit: u32, remaining: u32) -> Left {
        let missing = f64::from(limit.saturating_sub(remaining));
        Left { limit, remaining, reset: Duration::from_secs_f64(missing / f64::from(self.limits.rate.get())) }
    }
}

impl Left {
    /// Says so: `RateLimit-Limit`, `-Remaining` and `-Reset` (draft-ietf-httpapi-ratelimit-headers-06), the last in
    /// whole seconds.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        for (name, value) in [
            ("ratelimit-limit", u64::from(self.limit)),
            ("ratelimit-remaining", u64::from(self.remaining)),
            ("ratelimit-reset", self.reset.as_secs_f64().ceil() as u64),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
        }
    }
}

/// Counts connections.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Open>);

struct Open {
    limits: Limits,
    /// Addresses that are not held to the bound of one: they speak for many.
    proxies: Vec<ipnet::IpNet>,
    open: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    tcp: u32,
    unix: u32,
    by_peer: HashMap<Peer, u32>,
}

/// Whose connections are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// Those of an address.
    At(IpAddr),
    /// Those of a place on this machine.
    Local(String),
}

impl Connections {
    /// Nothing is open yet.
    pub(crate) fn new(limits: Limits, proxies: Vec<ipnet::IpNet>) -> Self {
        Self(Arc::new(Open { limits, proxies, open: Mutex::default() }))
    }

    /// Counts a connection until the answer is dropped; `None` when it is one too many.
    pub(crate) fn open(&self, peer: Peer) -> Option<Connection> {
        let limits = self.0.limits;
        let (peer, is_proxy) = match peer {
            Peer::At(address) => {
                let is_proxy = self.0.proxies.iter().any(|proxy| proxy.contains(&address.to_canonical()));
                (Peer::At(network(address)), is_proxy)
            }
            local => (local, false),
        };
        let mut counts = self.0.lock();
        let own = counts.by_peer.get(&peer).copied().unwrap_or_default();
        let all = counts.of(&peer);
        if *all >= limits.connections || (own >= limits.connections_per_address && !is_proxy) {
            return None;
        }
        *all += 1;
        counts.by_peer.insert(peer.clone(), own + 1);
        drop(counts);
        Some(Connection { open: self.0.clone(), peer })
    }
}

impl Counts {
    /// All of that kind together.
    fn of(&mut self, peer: &Peer) -> &mut u32 {
        match peer {
            Peer::At(_) => &mut self.tcp,
            Peer::Local(_) => &mut self.unix,
        }
    }
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Every state of it is a good one.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts.
pub(crate) struct Connection {
    open: Arc<Open>,
    peer: Peer,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut counts = self.open.lock();
        let all = counts.of(&self.peer);
        *all = all.saturating_sub(1);
        if let Some(own) = counts.by_peer.get_mut(&self.peer) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                counts.by_peer.remove(&self.peer);
            }
        }
    }
}

/// Counts streams by the credential that they were opened with.
pub struct Streams {
    most: u32,
    open: Arc<Mutex<HashMap<String, u32>>>,
}

impl Streams {
    /// None is open yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { most: limits.streams_per_credential, open: Arc::default() }
    }

    /// Counts a stream until the answer is dropped; `None` when it is one too many.
    pub(crate) fn open(&self, credential: String) -> Option<Stream> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.entry(credential.clone()).or_default();
        if *own >= self.most {
            return None;
        }
        *own += 1;
        drop(open);
        Some(Stream { open: self.open.clone(), credential })
    }
}

/// A stream that counts.
pub(crate) struct Stream {
    open: Arc<Mutex<HashMap<String, u32>>>,
    credential: String,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.credential) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.remove(&self.credential);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    fn limits(rate: u32, burst: u32) -> Limits {
        let whole = |n| NonZeroU32::new(n).unwrap();
        Limits {
            rate: whole(rate),
            burst: whole(burst),
            connections: 3,
            connections_per_address: 2,
            streams_per_credential: 1,
        }
    }

    #[test]
    fn a_burst_is_let_in_and_what_is_more_is_told_when_to_come_back() {
        let rates = Rates::new(limits(1, 3));
        let a = Key::Credential("a".into());
        let remaining: Vec<_> = (0..3).map(|_| rates.take(&a).unwrap().remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        let spent = rates.take(&a).unwrap_err();
        assert!(spent.wait > Duration::from_millis(500) && spent.wait <= Duration::from_secs(1), "{spent:?}");
        assert!(rates.take(&Key::Credential("b".into())).is_ok(), "another caller is another count");
        assert!(rates.take(&Key::of(None)).is_ok());
        let mut headers = HeaderMap::new();
        spent.left.tell(&mut headers);
        assert_eq!(headers.get("ratelimit-limit").unwrap(), "3");
        assert_eq!(headers.get("ratelimit-remaining").unwrap(), "0");
        assert_eq!(headers.get("ratelimit-reset").unwrap(), "3");
    }

    #[test]
    fn refusals_come_late_and_not_together() {
        assert!((0..1000).all(|bits| LATE.contains(&late(bits * 7919))) && LATE.contains(&late(u64::MAX)));
        assert_ne!(late(1), late(2));
    }

    #[test]
    fn one_host_is_one_address() {
        let key = |text: &str| Key::of(Some(text.parse().unwrap()));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_ne!(key("10.0.0.2"), key("10.0.0.1"));
    }

    #[test]
    fn connections_are_bounded_by_address_and_together() {
        let at = |text: &str| Peer::At(text.parse::<IpAddr>().unwrap());
        let all = Connections::new(limits(1, 1), vec!["10.1.0.0/16".parse().unwrap()]);
        let first = all.open(at("10.0.0.1")).unwrap();
        let _second = all.open(at("10.0.0.1")).unwrap();
        assert!(all.open(at("10.0.0.1")).is_none());
        drop(first);
        let _again = all.open(at("10.0.0.1")).unwrap();
        let _proxy = all.open(at("10.1.0.1")).unwrap();
        assert!(all.open(at("10.0.0.9")).is_none(), "three are all");
        let local = |place: &str| Peer::Local(place.to_owned());
        let unix: Vec<_> = (0..4).map(|_| all.open(local("one"))).collect();
        assert_eq!(unix.iter().filter(|one| one.is_some()).count(), 2, "apart from TCP, and of one place");
        assert!(all.open(local("another")).is_some());
        drop(unix);
        assert!(all.open(local("one")).is_some());
        let proxies = Connections::new(limits(1, 1), vec!["10.1.0.0/16".parse().unwrap()]);
        let open: Vec<_> = (0..3).map(|_| proxies.open(at("::ffff:10.1.0.1")).is_some()).collect();
        assert_eq!(open, [true; 3]);
    }
}
