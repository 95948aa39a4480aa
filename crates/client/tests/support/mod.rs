//! A small HTTP/1.1 server for tests, on loopback or a Unix socket, that answers what the test says.
//!
//! Invariants: one request per connection, every request is recorded before it is answered, and everything ends
//! when the server is dropped.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, missing_docs)]

use aito_client::Endpoint;
use serde_json::Value;
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    task::{JoinHandle, JoinSet},
};

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn is(&self, method: &str, target: &str) -> bool {
        self.method == method && self.target == target
    }
}

#[derive(Clone, Debug)]
pub enum Reply {
    Json(u16, Value),
    /// Bytes as they stand, then the connection is closed.
    Raw(Vec<u8>),
    /// Bytes as they stand, then silence.
    RawThenHang(Vec<u8>),
    /// The connection is cut without a byte.
    Cut,
}

pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> Box<dyn Wire> {
        match self {
            Self::Tcp(listener) => Box::new(listener.accept().await.unwrap().0),
            Self::Unix(listener) => Box::new(listener.accept().await.unwrap().0),
        }
    }
}

type Handler = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

pub struct Server {
    pub endpoint: Endpoint,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn tcp(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        Self::start(endpoint, Arc::new(handler), Listener::Tcp(listener))
    }

    pub fn unix(path: &Path, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        Self::start(Endpoint::unix(path), Arc::new(handler), Listener::Unix(listener))
    }

    fn start(endpoint: Endpoint, handler: Handler, listener: Listener) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let wire = listener.accept().await;
                connections.spawn(serve(wire, handler.clone(), seen.clone()));
            }
        });
        Self { endpoint, requests, task }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(mut wire: Box<dyn Wire>, handler: Handler, seen: Arc<Mutex<Vec<Request>>>) {
    let Some(request) = read(&mut wire).await else { return };
    seen.lock().unwrap().push(request.clone());
    let (bytes, hang) = match handler(&request) {
        Reply::Json(status, value) => {
            let body = value.to_string();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            ((head + &body).into_bytes(), false)
        }
        Reply::Raw(bytes) => (bytes, false),
        Reply::RawThenHang(bytes) => (bytes, true),
        Reply::Cut => return,
    };
    if wire.write_all(&bytes).await.is_ok() && hang {
        // Until the other side gives up.
        let _ = wire.read_u8().await;
    }
    let _ = wire.shutdown().await;
}

async fn read(wire: &mut Box<dyn Wire>) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(wire.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    let mut body = vec![0; length];
    wire.read_exact(&mut body).await.ok()?;
    Some(Request { method, target, headers, body })
}

/// Looks until `found` gives something, for at most `limit` of real time.
pub async fn until<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let waited = tokio::time::timeout(limit, async {
        loop {
            tick.tick().await;
            if let Some(value) = found() {
                return value;
            }
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not happen within {limit:?}"))
}
