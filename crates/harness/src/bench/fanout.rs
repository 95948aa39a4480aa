//! Telling everybody: events that are stored while many WebSocket clients listen.
//!
//! Invariants: a round ends when every listener has every event; a listener that is cut, or gets another number
//! than the others, fails the scenario. The reference writes the very frame that the server sent.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aito_client::{EventQuery, EventSocket};
use async_trait::async_trait;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

use super::{
    bare::Threads,
    load::{self, Address, Connection, Head, Limits},
    machine,
    scenario::{About, Context, Figure, Measured, Scenario, Subject, Target, history_request},
    stats::Latencies,
    websocket::{Arrivals, Listeners},
};
use crate::wait;

/// Listeners, and with `--large`.
const USUAL: usize = 200;
const LARGE: usize = 1000;
/// Deliveries that one round is about: events times listeners.
const ROUND: usize = 100_000;
/// Connections that post, and the size of a group of events in the reference.
const POSTERS: usize = 32;
/// Events whose way to one listener is timed in each measurement.
const PROBES: usize = 50;
/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Deliveries per second.
pub(crate) const WS_FANOUT: About = About {
    name: "ws_fanout",
    what: "history posted over 32 connections, each row an event to 200 WebSocket listeners (1000 with --large), from \
           the first post until all have all",
    reference: "a bare tokio program that writes the same frame to as many sockets, in groups of 32 with one write for \
                a group; its events cost nothing, the server's are stored durably first",
    unit: "deliveries/s",
    target: Some(Target::AtLeast(0.15)),
    on_servers: false,
    only_large: false,
    set_up: |context| Box::pin(set_up(context)),
};

async fn set_up(context: &Context) -> Result<Box<dyn Scenario>, String> {
    let count = if context.large { LARGE } else { USUAL };
    let subject = Subject::start(context, "").await?;
    subject.started_once("ceo").await?;
    let Address::Tcp(address) = subject.address else { return Err("the server has no TCP address".into()) };
    // Whatever the first requests allocate is there before memory is looked at.
    let limits = Limits { time: Duration::from_secs(10), requests: 200 };
    load::closed_loop(&subject.address, &history_request(), POSTERS, limits).await?;
    caught_up(&subject).await?;
    let before = machine::resident_kib(subject.server.pid())?;
    let (listeners, mut arrivals) = Listeners::connect(address, "/ws?types=event", count).await?;
    let idle = machine::resident_kib(subject.server.pid())?;
    let memory = (idle as f64 - before as f64) / count as f64;

    // One event, so that the reference knows how it is sent.
    subject.answer(&history_request()).await?;
    listeners.until(count as u64, PATIENCE).await?;
    let (_, frame) = arrivals.recv().await.ok_or("no frame came")?;
    let frame_bytes = frame.len();
    let bare = Broadcaster::start(frame).map_err(|why| format!("the broadcaster does not start: {why}"))?;
    let (bare_listeners, bare_arrivals) = Listeners::connect(bare.address(), "/", count).await?;
    bare.joined(count).await;
    let facts = vec![
        Figure::new("listeners", count as f64, ""),
        Figure::new("memory of the server per idle listener", memory, "KiB"),
        Figure::new("one frame", frame_bytes as f64, "bytes"),
    ];
    let subject_side = Side { listeners, arrivals };
    let bare_side = Side { listeners: bare_listeners, arrivals: bare_arrivals };
    Ok(Box::new(Fanout { subject_side, bare_side, subject, bare, facts, idle }))
}

/// Waits until the server has told everything so far: who listens from then on hears only what is posted then.
async fn caught_up(subject: &Subject) -> Result<(), String> {
    let client = subject.server.client();
    let failed = |why: aito_client::Error| why.to_string();
    let mut events = EventSocket::connect(&client, &["event"], None).await.map_err(failed)?;
    subject.answer(&history_request()).await?;
    let newest = client.events(&EventQuery::default()).await.map_err(failed)?.events;
    let newest = newest.first().map(|event| event.position.clone());
    loop {
        let next = tokio::time::timeout(wait::SOON, events.next()).await;
        let frame = next.map_err(|_| "the newest event was not told".to_owned())?.map_err(failed)?;
        if frame.ok_or("the stream of events ended")?.position == newest {
            return Ok(());
        }
    }
}

struct Side {
    listeners: Listeners,
    arrivals: Arrivals,
}

struct Fanout {
    subject_side: Side,
    bare_side: Side,
    subject: Subject,
    bare: Broadcaster,
    facts: Vec<Figure>,
    /// Memory of the server with all listeners idle, in KiB.
    idle: u64,
}

#[async_trait(?Send)]
impl Scenario for Fanout {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        let (listeners, request) = (&self.subject_side.listeners, history_request());
        let events = (ROUND / listeners.count()) as u64;
        let limits = Limits { time: PATIENCE, requests: events };
        let mut rounds = Rounds::default();
        while rounds.time < time {
            let (goal, began) = (listeners.total() + events * listeners.count() as u64, listeners.now());
            let posting = load::closed_loop(&self.subject.address, &request, POSTERS, limits);
            let (posted, arrived) = tokio::join!(posting, listeners.until(goal, PATIENCE));
            if posted?.requests != events {
                return Err(format!("{events} events could not be posted within {PATIENCE:?}"));
            }
            arrived?;
            rounds.add(events, listeners.count(), listeners.now() - began);
        }
        let mut connection = Connection::open(&self.subject.address).await?;
        let (mut from_request, mut from_answer) = (Latencies::default(), Latencies::default());
        let Side { listeners, arrivals } = &mut self.subject_side;
        while arrivals.try_recv().is_ok() {}
        for _ in 0..PROBES {
            let goal = listeners.total() + listeners.count() as u64;
            let asked = listeners.now();
            connection.call(&request).await?;
            let answered = listeners.now();
            listeners.until(goal, PATIENCE).await?;
            let (arrived, _) = arrivals.recv().await.ok_or("no frame came")?;
            from_request.push(arrived.saturating_sub(asked));
            from_answer.push(arrived.saturating_sub(answered));
        }
        let mut figures = rounds.figures();
        // The commit lies between request and answer, so its way to the listener takes a time between these.
        figures.extend(way("request", &mut from_request));
        figures.extend(way("answer", &mut from_answer));
        Ok(Measured { value: rounds.rate(), figures })
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        let Side { listeners, arrivals } = &mut self.bare_side;
        let events = ROUND / listeners.count();
        let mut rounds = Rounds::default();
        while rounds.time < time {
            let (goal, began) = (listeners.total() + (events * listeners.count()) as u64, listeners.now());
            self.bare.publish(events, POSTERS);
            listeners.until(goal, PATIENCE).await?;
            rounds.add(events as u64, listeners.count(), listeners.now() - began);
        }
        while arrivals.try_recv().is_ok() {}
        let mut from_publication = Latencies::default();
        for _ in 0..PROBES {
            let (goal, began) = (listeners.total() + listeners.count() as u64, listeners.now());
            self.bare.publish(1, 1);
            listeners.until(goal, PATIENCE).await?;
            let (arrived, _) = arrivals.recv().await.ok_or("no frame came")?;
            from_publication.push(arrived.saturating_sub(began));
        }
        let mut figures = rounds.figures();
        figures.extend(way("publication", &mut from_publication));
        Ok(Measured { value: rounds.rate(), figures })
    }

    async fn facts(&mut self) -> Result<Vec<Figure>, String> {
        let now = machine::resident_kib(self.subject.server.pid())?;
        let mut facts = self.facts.clone();
        facts.push(Figure::new("memory of the server with all idle", self.idle as f64 / 1024.0, "MiB"));
        facts.push(Figure::new("at the end", now as f64 / 1024.0, "MiB"));
        Ok(facts)
    }
}

fn way(from: &str, latencies: &mut Latencies) -> [Figure; 2] {
    [50.0, 99.0].map(|percent| {
        Figure::new(format!("{from} to one listener p{percent}"), latencies.percentile_ms(percent), "ms")
    })
}

/// What rounds came to.
#[derive(Default)]
struct Rounds {
    events: u64,
    deliveries: u64,
    time: Duration,
}

impl Rounds {
    fn add(&mut self, events: u64, listeners: usize, time: Duration) {
        self.events += events;
        self.deliveries += events * listeners as u64;
        self.time += time;
    }

    fn rate(&self) -> f64 {
        self.deliveries as f64 / self.time.as_secs_f64()
    }

    fn figures(&self) -> Vec<Figure> {
        vec![Figure::new("events", self.events as f64 / self.time.as_secs_f64(), "per s")]
    }
}

/// Writes one frame to every socket as often as it is told to.
pub(crate) struct Broadcaster {
    _threads: Threads,
    address: SocketAddr,
    /// Frames published so far, and how many one write takes.
    published: watch::Sender<(usize, usize)>,
    listening: Arc<AtomicUsize>,
}

impl Broadcaster {
    pub(crate) fn start(frame: Vec<u8>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (published, following) = watch::channel((0, 1));
        let listening = Arc::new(AtomicUsize::new(0));
        let threads = Threads::new()?;
        let (frame, counter) = (Arc::<[u8]>::from(frame), listening.clone());
        threads.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(follow(stream, frame.clone(), following.clone(), counter.clone()));
            }
        });
        Ok(Self { _threads: threads, address, published, listening })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until so many listen.
    pub(crate) async fn joined(&self, count: usize) {
        let all = async || (self.listening.load(Ordering::Acquire) >= count).then_some(());
        wait::until("the listeners to join", wait::SOON, all).await;
    }

    /// So many frames to everybody, `group` of them in one write.
    pub(crate) fn publish(&self, frames: usize, group: usize) {
        self.published.send_modify(|state| *state = (state.0 + frames, group));
    }
}

async fn follow(
    mut stream: TcpStream,
    frame: Arc<[u8]>,
    mut published: watch::Receiver<(usize, usize)>,
    listening: Arc<AtomicUsize>,
) {
    let mut request = Vec::new();
    while !matches!(Head::of(&request), Ok(Some(_))) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let mut sent = published.borrow_and_update().0;
    let upgraded = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
    if stream.write_all(upgraded).await.is_err() {
        return;
    }
    listening.fetch_add(1, Ordering::Release);
    let mut group_of_frames: Vec<u8> = Vec::new();
    while published.changed().await.is_ok() {
        let (goal, group) = *published.borrow_and_update();
        while sent < goal {
            let now = group.min(goal - sent);
            if group_of_frames.len() < now * frame.len() {
                group_of_frames = frame.repeat(now);
            }
            if stream.write_all(&group_of_frames[..now * frame.len()]).await.is_err() {
                return;
            }
            sent += now;
        }
    }
}
