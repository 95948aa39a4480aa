//! Asks sentinels which server is the master.
//!
//! Invariants: a server is taken for the master when a sentinel names it and it says of itself that it is one; one
//! sentinel that is away or silent costs a look-up no more than [`HEAD_START`], and that only until another one has
//! answered.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use redis::{
    Client, ConnectionInfo, ErrorKind, RedisConnectionInfo, RedisError, RedisResult,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use tokio::{sync::Mutex, time::timeout};

/// How long the sentinel that answered last is asked alone. Until there is one, it is the first that is configured.
const HEAD_START: Duration = Duration::from_millis(200);

/// The sentinels of one master.
pub(crate) struct Sentinels {
    /// Asking one needs it exclusively.
    each: Vec<Mutex<SentinelClient>>,
    answered_last: AtomicUsize,
}

impl Sentinels {
    /// Prepares them; nothing is connected yet. `server` is how to begin a connection to the master.
    pub(crate) fn new(
        sentinels: Vec<ConnectionInfo>,
        name: &str,
        server: &RedisConnectionInfo,
    ) -> RedisResult<Self> {
        let node = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(server.clone())
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let one = |sentinel| {
            let (name, node) = (name.to_owned(), Some(node.clone()));
            SentinelClient::build(vec![sentinel], name, node, SentinelServerType::Master).map(Mutex::new)
        };
        let each = sentinels.into_iter().map(one).collect::<RedisResult<_>>()?;
        Ok(Self { each, answered_last: AtomicUsize::new(0) })
    }

    /// The master, as the first of them says that knows one.
    pub(crate) async fn find(&self) -> RedisResult<Client> {
        let preferred = self.answered_last.load(Ordering::Relaxed);
        let mut asked = FuturesUnordered::new();
        asked.push(self.ask(preferred));
        let early = timeout(HEAD_START, asked.next()).await.ok().flatten();
        // None of them begins before it is asked for its answer.
        asked.extend((0..self.each.len()).filter(|n| *n != preferred).map(|n| self.ask(n)));
        let mut answers = stream::iter(early).chain(asked);
        let mut failure: RedisError = (ErrorKind::EmptySentinelList, "there is no sentinel").into();
        let mut known = 0;
        while let Some((n, answer)) = answers.next().await {
            match answer {
                Ok(client) => {
                    self.answered_last.store(n, Ordering::Relaxed);
                    return Ok(client);
                }
                Err(error) if weight(&error) >= known => {
                    known = weight(&error);
                    failure = error;
                }
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn ask(&self, n: usize) -> (usize, RedisResult<Client>) {
        (n, self.each[n].lock().await.async_get_client().await)
    }
}

/// How much an error says, compared with what other sentinels lead to.
fn weight(error: &RedisError) -> u8 {
    match error.kind() {
        ErrorKind::Io => 1,
        ErrorKind::MasterNameNotFoundBySentinel => 2,
        _ => 3,
    }
}
