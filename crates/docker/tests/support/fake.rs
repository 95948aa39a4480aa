//! An engine that is none: it answers what a test tells it to, or badly, or not at all.
//!
//! Invariant: one request per connection, as the adapter asks; what was asked is kept.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// With this status and document.
    Json(u16, String),
    /// With a head, these pieces, and a regular end.
    Pieces(Vec<Vec<u8>>),
    /// With a head, these pieces, and then the connection breaks.
    Broken(Vec<Vec<u8>>),
    /// With exactly these bytes, and then nothing more while the connection stays.
    Stalled(Vec<u8>),
}

/// A refusal in the engine's form.
pub fn refusal(status: u16, message: &str) -> Reply {
    Reply::Json(status, serde_json::json!({ "message": message }).to_string())
}

/// An answer in the engine's form.
pub fn answer(value: &serde_json::Value) -> Reply {
    Reply::Json(200, value.to_string())
}

/// A socket on which it answers.
pub struct Fake {
    /// The directory with the socket.
    pub dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    /// Answers requests such as `GET /version` by this function.
    pub fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, reply) = (Arc::clone(&asked), Arc::new(reply));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                tokio::spawn(async move {
                    // Whoever asked may be gone.
                    let _ = serve(stream, |request| {
                        seen.lock().unwrap().push(request.to_owned());
                        reply(request)
                    })
                    .await;
                });
            }
        });
        Self { dir, asked, server }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How often something that begins like this was asked.
    pub fn count(&self, beginning: &str) -> usize {
        self.asked().iter().filter(|request| request.starts_with(beginning)).count()
    }
}

async fn serve(mut stream: UnixStream, reply: impl FnOnce(&str) -> Reply) -> std::io::Result<()> {
    let mut head = Vec::new();
    let end = loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    while head.len() < end + length.unwrap_or(0) {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let first = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let request = first.strip_suffix(" HTTP/1.1").unwrap_or(&first);
    match reply(request) {
        Reply::Json(status, body) => {
            let body = if matches!(status, 204 | 304) { String::new() } else { body };
            let length =
                if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n{length}Connection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await
        }
        Reply::Pieces(pieces) => {
            chunked(&mut stream, pieces).await?;
            stream.write_all(b"0\r\n\r\n").await
        }
        Reply::Broken(pieces) => chunked(&mut stream, pieces).await,
        Reply::Stalled(bytes) => {
            stream.write_all(&bytes).await?;
            // Ends when the other side goes.
            stream.read_buf(&mut head).await.map(drop)
        }
    }
}

async fn chunked(stream: &mut UnixStream, pieces: Vec<Vec<u8>>) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    for piece in pieces {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        stream.write_all(&piece).await?;
        stream.write_all(b"\r\n").await?;
    }
    stream.flush().await
}
