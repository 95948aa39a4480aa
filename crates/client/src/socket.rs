//! The event stream over WebSocket: one connection, and a reader that outlives connections.
//!
//! Invariants:
//! - [`ResumingEvents`] yields every frame of every event once and in order, whatever happens to connections:
//!   it asks for what comes after the last position that it has whole, and drops what it already gave out.
//! - A position counts as whole only with its `last` frame.
//! - Frames without a position tell a state, come again with every connection and are passed on each time.
//! - A refused credential ends the reading, whether a connection is refused or closed for it: no reader knocks for
//!   ever at a door that stays shut.

use crate::{Client, Endpoint, Error, call::query, time};
use aito_api::{Frame, Problem, ProblemKind, ResetPayload, frame_type};
use futures_util::StreamExt;
use reqwest::header::AUTHORIZATION;
use std::{collections::HashSet, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// Either kind of connection, as one type.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// One WebSocket connection.
pub struct EventSocket {
    socket: WebSocketStream<Box<dyn Wire>>,
    idle: Duration,
}

impl std::fmt::Debug for EventSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventSocket").field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl EventSocket {
    /// Connects with the client's token. `types` are the frame types wanted (none: all), `since` the position
    /// after which the missed events are replayed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is no connection in time, [`Error::Problem`] when the server refuses.
    pub async fn connect(client: &Client, types: &[&str], since: Option<&str>) -> Result<Self, Error> {
        Self::connect_as(client, None, types, since).await
    }

    /// The same with a ticket ([`Client::ticket`]) in the address, as browsers do it; no token is sent. It opens
    /// one connection, once.
    ///
    /// # Errors
    /// As [`Self::connect`]; [`Error::is_refused_credential`] for a ticket that was used or is too old.
    pub async fn connect_with_ticket(
        client: &Client,
        ticket: &str,
        types: &[&str],
        since: Option<&str>,
    ) -> Result<Self, Error> {
        Self::connect_as(client, Some(ticket), types, since).await
    }

    async fn connect_as(
        client: &Client,
        ticket: Option<&str>,
        types: &[&str],
        since: Option<&str>,
    ) -> Result<Self, Error> {
        let limit = client.options().connect_timeout;
        time::within(limit, Self::open(client, ticket, types, since))
            .await
            .unwrap_or_else(|| Err(Error::timed_out("connecting", limit, false)))
    }

    async fn open(
        client: &Client,
        ticket: Option<&str>,
        types: &[&str],
        since: Option<&str>,
    ) -> Result<Self, Error> {
        let types = (!types.is_empty()).then(|| types.join(","));
        let pairs = [("types", types.as_deref()), ("since", since), ("ticket", ticket)];
        let mut url = query(client.url(&["ws"]), &pairs);
        // No error quotes the address: the ticket stands in it.
        if url.set_scheme("ws").is_err() {
            return Err(Error::Protocol(format!("no WebSocket at {}", client.endpoint())));
        }
        let mut request = url
            .as_str()
            .into_client_request()
            .map_err(|_| Error::Protocol("not an address for a WebSocket".to_owned()))?;
        if let (Some(token), None) = (&client.options().token, ticket) {
            request.headers_mut().insert(AUTHORIZATION, token.header());
        }
        let wire: Box<dyn Wire> = match client.endpoint() {
            Endpoint::Tcp(url) => {
                let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
                let port = url.port_or_known_default().unwrap_or(80);
                let stream = TcpStream::connect((host, port)).await.map_err(cannot_connect)?;
                stream.set_nodelay(true).map_err(cannot_connect)?;
                Box::new(stream)
            }
            Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(cannot_connect)?),
        };
        let (socket, _) = client_async(request, wire).await.map_err(sort)?;
        Ok(Self { socket, idle: client.options().idle_timeout })
    }

    /// The next frame; `None` when the server closed in good order. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the connection broke, was closed for a reason or was silent for too long,
    /// [`Error::Problem`] with the status 401 when the credential was revoked or has ended, [`Error::Protocol`]
    /// when something other than a frame came.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            let message = time::within(self.idle, self.socket.next())
                .await
                .ok_or_else(|| Error::timed_out("a sign of life", self.idle, true))?;
            match message {
                None => return Ok(None),
                Some(Err(tungstenite::Error::ConnectionClosed)) => return Ok(None),
                Some(Err(error)) => return Err(sort(error)),
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text)
                        .map(Some)
                        .map_err(|error| Error::Protocol(format!("not a frame: {error}")));
                }
                Some(Ok(Message::Close(close))) => return close.map_or(Ok(None), farewell),
                Some(Ok(Message::Binary(_))) => {
                    return Err(Error::Protocol("a binary message".to_owned()));
                }
                // Pings are answered by the library with the next read.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            }
        }
    }
}

fn cannot_connect(error: std::io::Error) -> Error {
    Error::Unavailable {
        detail: format!("cannot connect: {error}"),
        sent: false,
        status: None,
        retry_after: None,
        source: Some(Box::new(error)),
    }
}

/// What a close code means to the reader (RFC 6455, section 7.4.1).
fn farewell(close: CloseFrame) -> Result<Option<Frame>, Error> {
    let told = format!("closed with {}: {}", u16::from(close.code), close.reason);
    match close.code {
        CloseCode::Normal => Ok(None),
        // The server's word for a credential that does not count any more.
        CloseCode::Policy => Err(Error::Problem(Box::new(Problem::new(ProblemKind::Unauthorized, told)))),
        _ => Err(Error::cut(told)),
    }
}

fn sort(error: tungstenite::Error) -> Error {
    match error {
        tungstenite::Error::Http(response) => {
            let wait = response
                .headers()
                .get("retry-after")
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs);
            Error::from_answer(
                response.status().as_u16(),
                wait,
                response.body().as_deref().unwrap_or_default(),
            )
        }
        tungstenite::Error::Capacity(_) | tungstenite::Error::Utf8(_) | tungstenite::Error::Url(_) => {
            Error::Protocol(error.to_string())
        }
        _ => Error::cut(format!("the connection broke: {error}")),
    }
}

/// What a [`ResumingEvents`] yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A frame. With a position it comes exactly once; without one it tells a state.
    Frame(Frame),
    /// The position asked for cannot be replayed: events were missed. Reading goes on after `newest`.
    Reset(ResetPayload),
}

/// A reader of the event stream that connects again, by itself, for as long as it is asked.
#[derive(Debug)]
pub struct ResumingEvents {
    client: Client,
    types: Vec<String>,
    socket: Option<EventSocket>,
    progress: Progress,
    backoff: Backoff,
}

impl ResumingEvents {
    /// Reads the frames of `types` (none: all) after position `since`.
    ///
    /// Without `since` the first connection starts with what is new; should it break before the first event
    /// came, so does the next one. Who must miss nothing gives the position of the newest event known.
    pub fn new(client: Client, types: &[&str], since: Option<String>) -> Self {
        Self {
            client,
            types: types.iter().map(|&name| name.to_owned()).collect(),
            socket: None,
            progress: Progress { whole: since, ..Progress::default() },
            backoff: Backoff::default(),
        }
    }

    /// The last position that was given out whole.
    pub fn position(&self) -> Option<&str> {
        self.progress.whole.as_deref()
    }

    /// The next item, however long that takes and however many connections. Nothing is lost when the future
    /// is dropped.
    ///
    /// # Errors
    /// [`Error::Problem`] when the server refuses (a credential, also one that was good until now; a type),
    /// [`Error::Protocol`] when it does not speak the protocol. Neither gets better by itself; asking again tries
    /// again. A server that was called too often (429) is waited for as long as it says, at most 5 minutes.
    pub async fn next(&mut self) -> Result<Item, Error> {
        loop {
            let Some(socket) = &mut self.socket else {
                self.connect().await?;
                continue;
            };
            match socket.next().await {
                Ok(Some(frame)) => {
                    self.backoff.succeeded();
                    if let Some(item) = self.progress.take(frame)? {
                        return Ok(item);
                    }
                }
                Ok(None) => self.disconnected(None),
                Err(error) => self.failed(error)?,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.backoff.wait().await;
        let types: Vec<&str> = self.types.iter().map(String::as_str).collect();
        match EventSocket::connect(&self.client, &types, self.progress.whole.as_deref()).await {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => self.failed(error)?,
        }
        Ok(())
    }

    /// Goes on after what time heals, and hands back the rest.
    fn failed(&mut self, error: Error) -> Result<(), Error> {
        self.disconnected(Some(&error));
        if error.helps_to_wait() { Ok(()) } else { Err(error) }
    }

    fn disconnected(&mut self, why: Option<&Error>) {
        self.socket = None;
        self.backoff.failed(why);
    }
}

/// What was given out so far.
#[derive(Debug, Default)]
struct Progress {
    /// The last position whose `last` frame was given out.
    whole: Option<String>,
    /// The position after it, when only some of its frames were given out, with their types.
    part: Option<(String, HashSet<String>)>,
}

impl Progress {
    /// Passes a frame on, or drops it when it was given out before.
    fn take(&mut self, frame: Frame) -> Result<Option<Item>, Error> {
        if frame.frame_type == frame_type::RESET {
            let reset: ResetPayload = serde_json::from_value(frame.payload)
                .map_err(|error| Error::Protocol(format!("not a reset: {error}")))?;
            *self = Self { whole: reset.newest.clone(), part: None };
            return Ok(Some(Item::Reset(reset)));
        }
        let Some(position) = &frame.position else {
            return Ok(Some(Item::Frame(frame)));
        };
        if self.whole.as_deref().is_some_and(|whole| is_at_or_before(position, whole)) {
            return Ok(None);
        }
        let (at, given) = self.part.get_or_insert_with(|| (position.clone(), HashSet::new()));
        if at != position {
            *at = position.clone();
            given.clear();
        }
        let new = given.insert(frame.frame_type.clone());
        if frame.last {
            self.whole = Some(position.clone());
            self.part = None;
        }
        Ok(new.then_some(Item::Frame(frame)))
    }
}

/// Whether `position` is `known` or comes before it in the same epoch. Positions of two epochs, or of a form
/// that is not known, can't be compared, and then only equal ones count.
fn is_at_or_before(position: &str, known: &str) -> bool {
    let split = |text: &str| {
        let (epoch, n) = text.rsplit_once('-')?;
        Some((epoch.to_owned(), n.parse::<u64>().ok()?))
    };
    match (split(position), split(known)) {
        (Some((epoch, n)), Some((known_epoch, known_n))) if epoch == known_epoch => n <= known_n,
        _ => position == known,
    }
}

/// Waits longer after every failure, from 50 ms to 5 s; for as long as the server asked, but for its absence not
/// beyond 5 s, and for its limits not beyond 5 minutes.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(5);
    /// Knocking before a limit is lifted only earns the next refusal.
    const LONGEST_LIMIT: Duration = Duration::from_secs(300);

    fn succeeded(&mut self) {
        *self = Self::default();
    }

    fn failed(&mut self, why: Option<&Error>) {
        let delay = Self::FIRST.saturating_mul(1 << self.failures.min(10)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        let longest = match why.and_then(Error::status) {
            Some(429) => Self::LONGEST_LIMIT,
            _ => Self::LONGEST,
        };
        let asked = why.and_then(Error::retry_after).unwrap_or_default();
        self.not_before = Some(time::now() + asked.min(longest).max(delay));
    }

    /// Keeps the time until it is over, so that a dropped future does not shorten the wait.
    async fn wait(&mut self) {
        if let Some(at) = self.not_before {
            time::sleep_until(at).await;
            self.not_before = None;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frame(name: &str, position: Option<&str>, last: bool) -> Frame {
        Frame {
            frame_type: name.to_owned(),
            payload: serde_json::Value::Null,
            id: None,
            position: position.map(str::to_owned),
            timestamp: "2025-12-20T10:00:00Z".parse().unwrap(),
            last,
        }
    }

    #[test]
    fn a_position_is_whole_only_with_its_last_frame() {
        let mut progress = Progress::default();
        let mut take = |name: &str, position: &str, last: bool| {
            let given = progress.take(frame(name, Some(position), last)).unwrap().is_some();
            (given, progress.whole.clone())
        };
        assert_eq!(take("event", "1-1", true), (true, Some("1-1".into())));
        assert_eq!(take("agent_status", "1-2", false), (true, Some("1-1".into())));
        // The connection broke here; the next one starts again after 1-1.
        assert_eq!(take("agent_status", "1-2", false), (false, Some("1-1".into())));
        assert_eq!(take("event", "1-2", true), (true, Some("1-2".into())));
        assert_eq!(take("event", "1-2", true), (false, Some("1-2".into())));
        assert_eq!(take("event", "1-1", true), (false, Some("1-2".into())));
        assert_eq!(take("event", "1-10", true), (true, Some("1-10".into())));
        assert_eq!(take("event", "2-1", true), (true, Some("2-1".into())));
    }

    #[test]
    fn frames_that_tell_a_state_always_pass() {
        let mut progress = Progress::default();
        for _ in 0..2 {
            assert!(progress.take(frame("agent_status", None, false)).unwrap().is_some());
        }
        assert_eq!(progress.whole, None);
    }

    #[test]
    fn after_a_reset_reading_goes_on_behind_the_newest() {
        let mut progress = Progress { whole: Some("1-9".into()), part: None };
        let mut reset = frame(frame_type::RESET, None, false);
        reset.payload = serde_json::json!({"reason": "epoch", "oldest": "2-1", "newest": "2-4"});
        assert!(matches!(progress.take(reset).unwrap(), Some(Item::Reset(_))));
        assert!(progress.take(frame("event", Some("2-4"), true)).unwrap().is_none());
        assert!(progress.take(frame("event", Some("2-5"), true)).unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_grows_and_is_bounded() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            backoff.failed(None);
            let begun = time::now();
            backoff.wait().await;
            waits.push(begun.elapsed());
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert!(waits[0] >= Backoff::FIRST && waits[0] < Duration::from_millis(60), "{waits:?}");
        assert!(waits[11] >= Backoff::LONGEST && waits[11] < Duration::from_millis(5010), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_waited_for_as_it_asks_but_cannot_silence_a_client() {
        for (status, asked, waited) in
            [(503, 3, 3), (503, 3600, 5), (429, 3, 3), (429, 60, 60), (429, 3600, 300)]
        {
            let mut backoff = Backoff::default();
            backoff.failed(Some(&Error::from_answer(status, Some(Duration::from_secs(asked)), b"")));
            let begun = time::now();
            backoff.wait().await;
            let over = begun.elapsed().saturating_sub(Duration::from_secs(waited));
            assert!(begun.elapsed() >= Duration::from_secs(waited), "{status}: {:?}", begun.elapsed());
            assert!(over < Duration::from_millis(10), "{status} asking {asked}: {over:?} too long");
        }
    }
}
