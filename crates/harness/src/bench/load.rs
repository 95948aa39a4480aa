//! A small load generator for HTTP/1.1: connections that stay open, each sending its next request when the answer
//! to the last one is there (a closed loop, no pipelining).
//!
//! Invariants: every load is bounded in time and in the number of requests; it goes to loopback addresses and
//! Unix sockets only; an answer other than 2xx, a broken one or a missing one fails the whole load, because a
//! rate of errors is no measurement.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::JoinSet,
};

use super::stats::Latencies;
use crate::wait;

/// How long after its time a load may take to get its last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// The longest head of a message, in bytes.
const LONGEST_HEAD: usize = 64 << 10;

/// Where a load goes.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Of `http://127.0.0.1:<port>`.
    pub(crate) fn of_url(url: &str) -> Result<Self, String> {
        let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/').parse::<SocketAddr>();
        match address {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Tcp(address)),
            Ok(address) => Err(format!("{address} is not on loopback: loads stay on this machine")),
            Err(_) => Err(format!("\"{url}\" is no address")),
        }
    }
}

/// A request as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Request(Arc<[u8]>);

impl Request {
    pub(crate) fn get(path: &str) -> Self {
        Self(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n").into_bytes().into())
    }

    /// With a credential.
    pub(crate) fn get_as(path: &str, token: &str) -> Self {
        let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
        Self(text.into_bytes().into())
    }

    /// With a JSON body and, where there is one, a credential.
    pub(crate) fn post(path: &str, body: &str, token: Option<&str>) -> Self {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{token}Content-Length: {length}\r\n\r\n{body}"
        );
        Self(text.into_bytes().into())
    }

    #[cfg(test)]
    pub(crate) fn raw(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

/// When a load ends: whichever comes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) time: Duration,
    pub(crate) requests: u64,
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) requests: u64,
    /// From the first request to the last answer.
    pub(crate) time: Duration,
    pub(crate) latencies: Latencies,
}

impl Done {
    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.time.as_secs_f64()
    }
}

/// Sends one request over and over on so many connections at once.
pub(crate) async fn closed_loop(
    to: &Address,
    request: &Request,
    connections: usize,
    limits: Limits,
) -> Result<Done, String> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(to).await?);
    }
    let taken = Arc::new(AtomicU64::new(0));
    let since = Arc::new(wait::stopwatch());
    let mut running = JoinSet::new();
    for mut connection in open {
        let (taken, since, request) = (taken.clone(), since.clone(), request.clone());
        running.spawn(async move {
            let mut latencies = Latencies::default();
            let mut now = since();
            while now < limits.time && taken.fetch_add(1, Ordering::Relaxed) < limits.requests {
                connection.call(&request).await?;
                let answered = since();
                latencies.push(answered - now);
                now = answered;
            }
            Ok::<_, String>((latencies, now))
        });
    }
    let all = async {
        let mut done = Done { requests: 0, time: Duration::ZERO, latencies: Latencies::default() };
        while let Some(one) = running.join_next().await {
            let (latencies, ended) = one.map_err(|why| why.to_string())??;
            done.requests += latencies.len() as u64;
            done.time = done.time.max(ended);
            done.latencies.merge(latencies);
        }
        Ok::<_, String>(done)
    };
    let within = limits.time + LAST_ANSWERS;
    let done =
        tokio::time::timeout(within, all).await.map_err(|_| format!("no answer within {within:?}"))??;
    if done.requests == 0 { Err("the load sent nothing".into()) } else { Ok(done) }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// One connection that stays open.
pub(crate) struct Connection {
    wire: Box<dyn Wire>,
    /// What was received and not yet used.
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(to: &Address) -> Result<Self, String> {
        let failed = |why: std::io::Error| format!("cannot connect to {to:?}: {why}");
        let wire: Box<dyn Wire> = match to {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Box::new(stream)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(failed)?),
        };
        Ok(Self { wire, buffer: Vec::with_capacity(64 << 10) })
    }

    /// Sends a request and waits for the whole answer, which must be a 2xx.
    pub(crate) async fn call(&mut self, request: &Request) -> Result<(), String> {
        let length = self.exchange(request).await?;
        self.buffer.drain(..length);
        Ok(())
    }

    /// The same, and gives the whole answer, head and body.
    pub(crate) async fn answer(&mut self, request: &Request) -> Result<Vec<u8>, String> {
        let length = self.exchange(request).await?;
        Ok(self.buffer.drain(..length).collect())
    }

    /// Sends a request and gives the status of the whole answer, whatever it is.
    pub(crate) async fn status(&mut self, request: &Request) -> Result<u16, String> {
        let (head, length) = self.received(request).await?;
        self.buffer.drain(..length);
        head.status.ok_or_else(|| "an answer without a status".to_owned())
    }

    /// The length of the answer that then stands at the beginning of the buffer.
    async fn exchange(&mut self, request: &Request) -> Result<usize, String> {
        let (head, whole) = self.received(request).await?;
        accepted(head.status, &self.buffer[..whole]).map(|()| whole)
    }

    /// The head and the length of the answer that then stands at the beginning of the buffer.
    async fn received(&mut self, request: &Request) -> Result<(Head, usize), String> {
        self.wire.write_all(&request.0).await.map_err(|why| format!("cannot send: {why}"))?;
        loop {
            if let Some(head) = Head::of(&self.buffer)? {
                let whole = head.length + head.body;
                if self.buffer.len() >= whole {
                    return Ok((head, whole));
                }
            }
            match self.wire.read_buf(&mut self.buffer).await {
                Ok(0) => return Err("the connection was closed instead of an answer".into()),
                Ok(_) => {}
                Err(why) => return Err(format!("cannot receive: {why}")),
            }
        }
    }
}

fn accepted(status: Option<u16>, answer: &[u8]) -> Result<(), String> {
    if status.is_some_and(|status| (200..300).contains(&status)) {
        return Ok(());
    }
    let shown = String::from_utf8_lossy(&answer[..answer.len().min(1000)]).into_owned();
    Err(format!("answered with a failure: {shown}"))
}

/// The head of a request or an answer, as far as its end must be found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The head's length in bytes, with the empty line.
    pub(crate) length: usize,
    /// The body's, by `Content-Length`; 0 without one.
    pub(crate) body: usize,
    /// Of an answer.
    pub(crate) status: Option<u16>,
}

impl Head {
    /// `None` while it is not there as a whole.
    ///
    /// # Errors
    /// When it is too long, or its body's length is not told by `Content-Length`.
    pub(crate) fn of(bytes: &[u8]) -> Result<Option<Self>, String> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            let long = bytes.len() > LONGEST_HEAD;
            return if long { Err("the head of a message does not end".into()) } else { Ok(None) };
        };
        let text =
            std::str::from_utf8(&bytes[..end]).map_err(|_| "the head of a message is no text".to_owned())?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.starts_with("HTTP/").then(|| first.split(' ').nth(1)?.parse().ok()).flatten();
        let mut body = 0;
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("\"{line}\" is no header"))?;
            if name.eq_ignore_ascii_case("content-length") {
                body = value.trim().parse().map_err(|_| format!("\"{line}\" is no length"))?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err("an answer in chunks: this load generator wants a Content-Length".into());
            }
        }
        Ok(Some(Self { length: end + 4, body, status }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use crate::bench::bare::Responder;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    fn limits(ms: u64, requests: u64) -> Limits {
        Limits { time: Duration::from_millis(ms), requests }
    }

    #[test]
    fn heads_are_found_and_measured() {
        assert_eq!(Head::of(b"HTTP/1.1 200 OK\r\ncontent-le"), Ok(None));
        let head = Head::of(ANSWER).unwrap().unwrap();
        assert_eq!((head.length, head.body, head.status), (38, 5, Some(200)));
        let request = Head::of(b"POST /x HTTP/1.1\r\nContent-LENGTH:  12\r\n\r\n").unwrap().unwrap();
        assert_eq!((request.body, request.status), (12, None));
        assert_eq!(Head::of(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap().body, 0);
        assert!(Head::of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(Head::of(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n").is_err());
        assert!(Head::of(&vec![b'x'; LONGEST_HEAD + 1]).is_err());
    }

    #[test]
    fn only_loopback_is_loaded() {
        assert!(matches!(Address::of_url("http://127.0.0.1:80"), Ok(Address::Tcp(_))));
        assert!(Address::of_url("http://192.0.2.1:80").unwrap_err().contains("loopback"));
        assert!(Address::of_url("http://example.test").is_err());
    }

    #[tokio::test]
    async fn a_load_is_bounded_by_its_number_and_everything_is_counted() {
        let bare = Responder::tcp(ANSWER.to_vec()).unwrap();
        let mut done =
            closed_loop(bare.address(), &Request::get("/"), 8, limits(20_000, 1000)).await.unwrap();
        assert_eq!((done.requests, done.latencies.len(), bare.answered()), (1000, 1000, 1000));
        assert!(done.time < Duration::from_secs(20) && done.rate() > 50.0, "{:?}", done.time);
        let (p50, p99) = (done.latencies.percentile_ms(50.0), done.latencies.percentile_ms(99.0));
        assert!(p50 > 0.0 && p50 <= p99, "{p50} {p99}");
    }

    #[tokio::test]
    async fn a_load_is_bounded_by_its_time() {
        let bare = Responder::tcp(ANSWER.to_vec()).unwrap();
        let done = closed_loop(bare.address(), &Request::get("/"), 2, limits(50, u64::MAX)).await.unwrap();
        assert!(done.requests > 0 && done.time >= Duration::from_millis(50), "{done:?}");
    }

    #[tokio::test]
    async fn bodies_and_unix_sockets_are_understood_on_both_sides() {
        let dir = tempfile::tempdir().unwrap();
        let bare = Responder::unix(dir.path().join("b.sock"), ANSWER.to_vec()).unwrap();
        let request = Request::post("/x", &"y".repeat(100_000), Some("t"));
        let done = closed_loop(bare.address(), &request, 3, limits(20_000, 30)).await.unwrap();
        assert_eq!((done.requests, bare.answered()), (30, 30));
    }

    #[tokio::test]
    async fn failures_and_closed_connections_fail_the_load() {
        let refusing = Responder::tcp(b"HTTP/1.1 503 no\r\ncontent-length: 4\r\n\r\nbusy".to_vec()).unwrap();
        let why = closed_loop(refusing.address(), &Request::get("/"), 2, limits(1000, 10)).await.unwrap_err();
        assert!(why.contains("503") && why.contains("busy"), "{why}");
        let bare = Responder::tcp(ANSWER.to_vec()).unwrap();
        // A head that the other side cannot read makes it hang up.
        let why = closed_loop(bare.address(), &Request::raw("GET\r\nx\r\n\r\n"), 1, limits(1000, 10))
            .await
            .unwrap_err();
        assert!(why.contains("closed") || why.contains("cannot receive"), "{why}");
        let address = bare.address().clone();
        drop(bare);
        let gone = async || Connection::open(&address).await.is_err().then_some(());
        wait::until("the responder to be gone", wait::SOON, gone).await;
    }
}
