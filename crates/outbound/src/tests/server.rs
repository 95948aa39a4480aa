//! A server of few words: what it says is written by the test, byte by byte.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_rustls::TlsAcceptor;

/// What is said to a request, after which the connection is closed.
pub(super) enum Reply {
    /// These bytes.
    Say(Vec<u8>),
    /// The first bytes, then the second ones again and again until nobody takes them any more, with this pause.
    Endless(Vec<u8>, Vec<u8>, Option<Duration>),
    /// Nothing, with the connection left open.
    Silence,
}

/// A server; it ends when dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    heard: Mutex<Vec<String>>,
    connections: AtomicUsize,
    written: AtomicUsize,
    left: Notify,
}

impl Server {
    /// Answers each request with what `reply` makes of its text and number, from 0.
    pub(super) async fn start(
        at: &str,
        reply: impl Fn(&str, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(at, None, reply).await
    }

    /// The same behind TLS.
    pub(super) async fn with(
        at: &str,
        tls: Option<TlsAcceptor>,
        reply: impl Fn(&str, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (shared, reply) = (state.clone(), Arc::new(reply));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let (state, reply, tls) = (shared.clone(), reply.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &state, &*reply).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &state, &*reply).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, task }
    }

    /// Says the same to everybody.
    pub(super) async fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start("127.0.0.1:0", move |_, _| Reply::Say(bytes.clone())).await
    }

    /// A URL of it.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests so far.
    pub(super) fn heard(&self) -> Vec<String> {
        self.state.heard.lock().unwrap().clone()
    }

    /// How many connections there were.
    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// How many bytes of an endless answer were written once nobody took more of them.
    pub(super) async fn left_after(&self) -> usize {
        timeout(Duration::from_secs(20), self.state.left.notified()).await.expect("the caller stays");
        self.state.written.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer with this status, these lines of header and this body.
pub(super) fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    let mut bytes = (text + "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A redirect to there.
pub(super) fn redirect(status: u16, location: &str) -> Vec<u8> {
    answer(&format!("{status} Elsewhere"), &[&format!("location: {location}")], b"")
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    state: &State,
    reply: &(impl Fn(&str, usize) -> Reply + Send + Sync),
) {
    let Some(request) = read(&mut stream).await else { return };
    let number = {
        let mut heard = state.heard.lock().unwrap();
        heard.push(request.clone());
        heard.len() - 1
    };
    match reply(&request, number) {
        Reply::Say(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            // Until the other side has gone too: what it has not read yet would be lost.
            let _ = stream.read(&mut [0]).await;
        }
        Reply::Endless(head, piece, pause) => {
            let mut pause = pause.map(interval);
            let mut done = stream.write_all(&head).await;
            while done.is_ok() {
                if let Some(pause) = &mut pause {
                    pause.tick().await;
                }
                done = stream.write_all(&piece).await;
                state.written.fetch_add(piece.len(), Ordering::Relaxed);
            }
            state.left.notify_one();
        }
        Reply::Silence => pending().await,
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if bytes.len() >= end + 4 + length.parse::<usize>().unwrap() {
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
