//! Looks names up with the system's resolver, the way that also works in an image of one static file.
//!
//! Invariant: look-ups that hang hold at most [`AT_ONCE`] of the threads that block.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// How many look-ups run at once. They cannot be cancelled, and other things need the runtime's blocking threads too.
const AT_ONCE: usize = 64;

/// Turns a name into addresses. What it says is not trusted: every address is judged.
#[async_trait]
pub(crate) trait Lookup: Send + Sync {
    /// All addresses of the name, in the order of preference.
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the C library: files and DNS.
pub(crate) struct SystemLookup {
    permits: Arc<Semaphore>,
}

impl SystemLookup {
    /// One that has yet to look anything up.
    pub(crate) fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

#[async_trait]
impl Lookup for SystemLookup {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(io::Error::other)?;
        let name = name.to_owned();
        spawn_blocking(move || {
            let found = (name.as_str(), 0).to_socket_addrs().map(|found| found.map(|one| one.ip()).collect());
            // Only now: a caller that has given up does not end the look-up.
            drop(permit);
            found
        })
        .await
        .map_err(io::Error::other)?
    }
}
