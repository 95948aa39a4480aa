//! A line to the server that can be slow, dead or cut.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::bench::{Bench, connect, fresh_database};
use crate::Options;

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// They arrive.
    Good,
    /// They arrive, each piece after a moment.
    Slow,
    /// They are kept, as where a cable was pulled: no end is told.
    Dead,
    /// Requests arrive; answers wait until it is another line.
    Withholds,
    /// As [`Line::Good`] until somebody says COMMIT: that does not arrive any more, nor anything after it.
    LosesCommit,
    /// As [`Line::Good`] until somebody says COMMIT: that arrives, and the answer is lost.
    LosesAnswer,
    /// As [`Line::Good`] until somebody says COMMIT: that arrives, and the connection is cut.
    CutsAtCommit,
}

/// A store behind a line that the test controls.
pub(crate) async fn behind_a_proxy(adjust: impl FnOnce(&mut Options)) -> (Bench, Proxy) {
    let direct = fresh_database().await;
    let (place, database) = direct.rsplit_once('/').unwrap();
    let (user, server) = place.rsplit_once('@').unwrap();
    let proxy = Proxy::to(server.rsplit_once(':').unwrap().1.parse().unwrap()).await;
    let mut bench = Bench::on(format!("{user}@127.0.0.1:{}/{database}", proxy.port), adjust).await;
    bench.outside = connect(&direct).await;
    (bench, proxy)
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    line: Arc<watch::Sender<Line>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let line = Arc::new(watch::Sender::new(Line::Good));
        let state = Arc::clone(&line);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    // The end of one direction is the end of both, except on a dead line.
                    tokio::select! {
                        () = carry(near_in, far_out, &state, true) => {}
                        () = carry(far_in, near_out, &state, false) => {}
                    }
                });
            }
        });
        Self { port, line, accepting }
    }

    pub(crate) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    line: &watch::Sender<Line>,
    is_request: bool,
) {
    let mut changes = line.subscribe();
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        let piece = &bytes[..count];
        let says_commit = is_request && piece.windows(7).any(|window| window == b"COMMIT\0");
        let now = *line.borrow();
        match now {
            Line::LosesCommit if says_commit => {
                line.send_replace(Line::Dead);
            }
            Line::LosesAnswer if says_commit => {
                if to.write_all(piece).await.is_err() {
                    return;
                }
                line.send_replace(Line::Dead);
                continue;
            }
            Line::CutsAtCommit if says_commit => {
                let _ = to.write_all(piece).await;
                return;
            }
            Line::Withholds if !is_request => {
                let _ = line.subscribe().wait_for(|line| *line != Line::Withholds).await;
            }
            Line::Slow => {
                let mut moment = tokio::time::interval(std::time::Duration::from_millis(30));
                moment.tick().await;
                moment.tick().await;
            }
            _ => {}
        }
        // What a dead line has swallowed never arrives: when it is good again, this connection is not.
        if *changes.borrow_and_update() == Line::Dead {
            let _ = changes.wait_for(|line| *line != Line::Dead).await;
            return;
        }
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}
