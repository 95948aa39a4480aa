//! The least of a WebSocket client, to count frames on many connections at little cost.
//!
//! Invariants: only what a server may send is understood (RFC 6455: unmasked, unfragmented frames, the length in
//! 7, 16 or 64 bits); pings are answered; a connection that ends or is not understood fails everything that waits
//! for deliveries.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, mpsc},
    task::JoinSet,
};

use super::load::Head;
use crate::wait;

/// The longest frame, in bytes.
const LONGEST: u64 = 4 << 20;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// When text frames came, by the listeners' stopwatch, and how they looked.
pub(crate) type Arrivals = mpsc::UnboundedReceiver<(Duration, Vec<u8>)>;

/// Many connections that only listen.
pub(crate) struct Listeners {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    received: Vec<AtomicU64>,
    total: AtomicU64,
    goal: AtomicU64,
    reached: Notify,
    failure: Mutex<Option<String>>,
    since: Box<dyn Fn() -> Duration + Send + Sync>,
}

impl Listeners {
    /// Connects so many; the one in the middle also tells each arrival, while `Arrivals` is held.
    pub(crate) async fn connect(
        to: SocketAddr,
        path: &str,
        count: usize,
    ) -> Result<(Self, Arrivals), String> {
        let shared = Arc::new(Shared {
            received: (0..count).map(|_| AtomicU64::new(0)).collect(),
            total: AtomicU64::new(0),
            goal: AtomicU64::new(u64::MAX),
            reached: Notify::new(),
            failure: Mutex::new(None),
            since: Box::new(wait::stopwatch()),
        });
        let (told, arrivals) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let opened = tokio::time::timeout(HANDSHAKE, shake(to, path)).await;
            let (stream, rest) = opened.map_err(|_| format!("no answer to handshake {number}"))??;
            let told = (number == count / 2).then(|| told.clone());
            let shared = shared.clone();
            tasks.spawn(async move {
                let why = listen(stream, rest, number, &shared, told).await;
                shared.fail(format!("listener {number}: {why}"));
            });
        }
        Ok((Self { tasks, shared }, arrivals))
    }

    pub(crate) fn count(&self) -> usize {
        self.tasks.len()
    }

    /// The present time of the stopwatch by which arrivals are told.
    pub(crate) fn now(&self) -> Duration {
        (self.shared.since)()
    }

    /// How many text frames came so far, on all connections.
    pub(crate) fn total(&self) -> u64 {
        self.shared.total.load(Ordering::Acquire)
    }

    /// Waits until so many came, and each connection got as many as the others.
    pub(crate) async fn until(&self, goal: u64, within: Duration) -> Result<(), String> {
        let reached = async {
            self.shared.goal.store(goal, Ordering::SeqCst);
            loop {
                let notified = self.shared.reached.notified();
                if let Some(why) = self.shared.failure.lock().unwrap().clone() {
                    return Err(why);
                }
                if self.total() >= goal {
                    return Ok(());
                }
                notified.await;
            }
        };
        let late = |_| format!("{} of {goal} deliveries came within {within:?}", self.total());
        tokio::time::timeout(within, reached).await.map_err(late)??;
        let each: Vec<u64> = self.shared.received.iter().map(|count| count.load(Ordering::Acquire)).collect();
        let (least, most) = (each.iter().min(), each.iter().max());
        if least == most {
            Ok(())
        } else {
            Err(format!("listeners got between {least:?} and {most:?} frames"))
        }
    }
}

impl Shared {
    fn fail(&self, why: String) {
        self.failure.lock().unwrap().get_or_insert(why);
        self.reached.notify_one();
    }

    fn came(&self, number: usize, frames: u64) {
        self.received[number].fetch_add(frames, Ordering::Release);
        let before = self.total.fetch_add(frames, Ordering::SeqCst);
        let goal = self.goal.load(Ordering::SeqCst);
        if before < goal && before + frames >= goal {
            self.reached.notify_one();
        }
    }
}

async fn shake(to: SocketAddr, path: &str) -> Result<(TcpStream, Vec<u8>), String> {
    let failed = |why: std::io::Error| format!("cannot connect: {why}");
    let mut stream = TcpStream::connect(to).await.map_err(failed)?;
    // The key is any 16 bytes; whether the answer matches it is no question of speed.
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        if let Some(head) = Head::of(&buffer)? {
            if head.status != Some(101) {
                return Err(format!("no WebSocket: {}", String::from_utf8_lossy(&buffer)));
            }
            return Ok((stream, buffer.split_off(head.length)));
        }
        if stream.read_buf(&mut buffer).await.map_err(failed)? == 0 {
            return Err("closed instead of a handshake".into());
        }
    }
}

/// Listens until it cannot, and says why.
async fn listen(
    mut stream: TcpStream,
    mut buffer: Vec<u8>,
    number: usize,
    shared: &Shared,
    told: Option<mpsc::UnboundedSender<(Duration, Vec<u8>)>>,
) -> String {
    loop {
        let (mut used, mut texts) = (0, 0);
        loop {
            let frame = match Frame::of(&buffer[used..]) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(why) => return why,
            };
            let payload = &buffer[used + frame.head..used + frame.head + frame.payload];
            match frame.opcode {
                TEXT => {
                    texts += 1;
                    if let Some(told) = &told {
                        let whole = &buffer[used..used + frame.head + frame.payload];
                        let _ = told.send(((shared.since)(), whole.to_vec()));
                    }
                }
                PING => {
                    // Masked with zeros, which changes nothing but is what a client must say.
                    let length = u8::try_from(payload.len()).unwrap_or(0);
                    let pong = [&[0x8A, 0x80 | length, 0, 0, 0, 0], &payload[..usize::from(length)]].concat();
                    if let Err(why) = stream.write_all(&pong).await {
                        return format!("cannot answer a ping: {why}");
                    }
                }
                CLOSE => {
                    return format!(
                        "closed by the server: {}",
                        String::from_utf8_lossy(payload.get(2..).unwrap_or(&[]))
                    );
                }
                _ => {}
            }
            used += frame.head + frame.payload;
        }
        buffer.drain(..used);
        if texts > 0 {
            shared.came(number, texts);
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return "the connection ended".into(),
            Ok(_) => {}
            Err(why) => return format!("the connection broke: {why}"),
        }
    }
}

/// A frame's shape.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    opcode: u8,
    head: usize,
    payload: usize,
}

impl Frame {
    /// `None` while it is not there as a whole.
    fn of(bytes: &[u8]) -> Result<Option<Self>, String> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0xF0 != 0x80 || second & 0x80 != 0 {
            return Err(format!("a frame that a server may not send here: {first:02x} {second:02x}"));
        }
        let (head, length) = match (second, rest) {
            (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
            (127, [a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
            (126 | 127, _) => return Ok(None),
            (length, _) => (2, u64::from(*length)),
        };
        let payload = usize::try_from(length).ok().filter(|_| length <= LONGEST);
        let payload = payload.ok_or_else(|| format!("a frame of {length} bytes"))?;
        Ok((bytes.len() >= head + payload).then_some(Self { opcode: first & 0x0F, head, payload }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use crate::bench::fanout::Broadcaster;

    fn text_frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0x81, 126];
        frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        frame.extend(vec![b'x'; length]);
        frame
    }

    #[test]
    fn frames_of_all_three_lengths_are_understood() {
        assert_eq!(Frame::of(&[]), Ok(None));
        assert_eq!(Frame::of(&[0x81]), Ok(None));
        assert_eq!(Frame::of(&[0x89, 0]), Ok(Some(Frame { opcode: PING, head: 2, payload: 0 })));
        assert_eq!(Frame::of(&[0x81, 3, 1, 2]), Ok(None));
        assert_eq!(Frame::of(&text_frame(300)), Ok(Some(Frame { opcode: TEXT, head: 4, payload: 300 })));
        assert_eq!(Frame::of(&text_frame(300)[..303]), Ok(None));
        let mut long = vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(Frame::of(&long), Ok(None));
        long.extend(vec![0; 65536]);
        assert_eq!(Frame::of(&long), Ok(Some(Frame { opcode: TEXT, head: 10, payload: 65536 })));
        assert!(Frame::of(&[0x81, 0x83, 0, 0]).is_err(), "masked");
        assert!(Frame::of(&[0x01, 0]).is_err(), "fragmented");
        assert!(Frame::of(&[0x81, 127, 0xFF, 0, 0, 0, 0, 0, 0, 0]).is_err(), "endless");
    }

    #[tokio::test]
    async fn every_listener_gets_every_frame_and_the_middle_one_tells_them() {
        let bare = Broadcaster::start(text_frame(200)).unwrap();
        let (listeners, mut arrivals) = Listeners::connect(bare.address(), "/ws", 20).await.unwrap();
        bare.joined(20).await;
        let before = listeners.now();
        bare.publish(100, 32);
        listeners.until(2000, wait::SOON).await.unwrap();
        assert_eq!((listeners.total(), listeners.count()), (2000, 20));
        let mut last = before;
        for _ in 0..100 {
            let (at, frame) = arrivals.recv().await.unwrap();
            assert!(at >= last && frame == text_frame(200));
            last = at;
        }
        assert!(arrivals.try_recv().is_err());
        let late = listeners.until(2001, Duration::from_millis(50)).await.unwrap_err();
        assert!(late.contains("2000 of 2001"), "{late}");
    }

    #[tokio::test]
    async fn a_connection_that_ends_fails_who_waits() {
        let bare = Broadcaster::start(text_frame(10)).unwrap();
        let (listeners, _arrivals) = Listeners::connect(bare.address(), "/ws", 3).await.unwrap();
        drop(bare);
        let why = listeners.until(1, wait::SOON).await.unwrap_err();
        assert!(why.contains("listener") && why.contains("connection"), "{why}");
    }
}
