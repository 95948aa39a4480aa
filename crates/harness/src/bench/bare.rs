//! The least that could do a server's work: answers the same bytes to every request, with nothing behind it.
//!
//! Invariants: it runs on threads of its own, as many as the machine has cores, so that a request wakes another
//! thread as it does with a real server; dropping it ends it.

use std::{
    io,
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    runtime::{Builder, Runtime},
};

use super::load::{Address, Head};

/// Threads that end when they are dropped.
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    pub(crate) fn new() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Ok(Self(Some(
            Builder::new_multi_thread().worker_threads(cores).thread_name("bare").enable_all().build()?,
        )))
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(work);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A runtime must not be dropped, and so waited for, inside of another one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Answers always the same.
pub(crate) struct Responder {
    _threads: Threads,
    address: Address,
    #[cfg(test)]
    answered: Arc<AtomicU64>,
}

impl Responder {
    /// On a free port of 127.0.0.1.
    pub(crate) fn tcp(answer: Vec<u8>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = Address::Tcp(listener.local_addr()?);
        let (answer, answered, threads) = (Arc::new(answer), Arc::new(AtomicU64::new(0)), Threads::new()?);
        let counter = answered.clone();
        threads.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(respond(stream, answer.clone(), counter.clone()));
            }
        });
        Ok(Self {
            _threads: threads,
            address,
            #[cfg(test)]
            answered,
        })
    }

    /// On a Unix socket, which must not be there yet.
    pub(crate) fn unix(path: PathBuf, answer: Vec<u8>) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let (answer, answered, threads) = (Arc::new(answer), Arc::new(AtomicU64::new(0)), Threads::new()?);
        let counter = answered.clone();
        threads.spawn(async move {
            let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(respond(stream, answer.clone(), counter.clone()));
            }
        });
        Ok(Self {
            _threads: threads,
            address: Address::Unix(path),
            #[cfg(test)]
            answered,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// How many requests it answered.
    #[cfg(test)]
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

async fn respond(
    mut wire: impl AsyncRead + AsyncWrite + Unpin,
    answer: Arc<Vec<u8>>,
    answered: Arc<AtomicU64>,
) {
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        let whole = match Head::of(&buffer) {
            Ok(Some(head)) if buffer.len() >= head.length + head.body => head.length + head.body,
            Ok(_) => match wire.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            },
            Err(_) => return,
        };
        buffer.drain(..whole);
        answered.fetch_add(1, Ordering::Relaxed);
        if wire.write_all(&answer).await.is_err() {
            return;
        }
    }
}
