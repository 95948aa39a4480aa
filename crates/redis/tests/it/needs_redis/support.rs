//! What the tests share.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aito_contracts::wait;
use aito_domain::ports::bus::{BusError, BusItem, BusMessage, EventBus as _, Topic};
use aito_redis::{Options, RedisBus};
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Within which everything here happens.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Above the default limit of a call, 2 s.
pub(crate) const CALL: Duration = Duration::from_millis(2600);

pub(crate) type Items = BoxStream<'static, BusItem>;

/// A bus at a URL that gives up on an answer after 300 ms, and so notices a silent death after 600 ms.
pub(crate) fn impatient(url: String) -> Arc<RedisBus> {
    RedisBus::open(Options { answer_timeout: Duration::from_millis(300), ..Options::new(url) }).unwrap()
}

/// A prefix that nobody else uses.
pub(crate) fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("it-{}-{}:", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn topic(name: &'static str) -> Topic {
    Topic(name.into())
}

pub(crate) fn message(name: &'static str, text: &str) -> BusMessage {
    BusMessage { topic: topic(name), payload: text.as_bytes().to_vec() }
}

pub(crate) async fn next(items: &mut Items) -> BusItem {
    tokio::time::timeout(PATIENCE, items.next()).await.expect("something comes").expect("the bus is open")
}

/// Publishes again and again until it works.
pub(crate) async fn publish(bus: &RedisBus, message: BusMessage) {
    wait::until("publishing to work", PATIENCE, async || bus.publish(message.clone()).await.ok()).await;
}

/// Subscribes again and again until it works.
pub(crate) async fn subscribe(bus: &RedisBus, name: &'static str) -> Items {
    wait::until("subscribing to work", PATIENCE, async || bus.subscribe(&[topic(name)]).await.ok()).await
}

/// Everything that an error says.
pub(crate) fn text(error: &BusError) -> String {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source} {error:?}")
}

/// Sends a command by hand.
pub(crate) fn raw(url: &str, words: &[&str]) -> redis::Value {
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query(&mut connection).unwrap()
}

/// A way to a server that can be disturbed.
pub(crate) struct Proxy {
    pub(crate) url: String,
    cuts: watch::Sender<u32>,
    held: watch::Sender<bool>,
    blocked: watch::Sender<bool>,
    taken: Arc<AtomicU32>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (cuts, held) = (watch::Sender::new(0), watch::Sender::new(false));
        let (blocked, taken) = (watch::Sender::new(false), Arc::<AtomicU32>::default());
        let (cut, hold, block, count) =
            (cuts.subscribe(), held.subscribe(), blocked.subscribe(), taken.clone());
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                if *block.borrow() {
                    silent.push(near);
                    continue;
                }
                let (mut cut, mut hold) = (cut.clone(), hold.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                        (near.split(), far.split());
                    let back = async {
                        let mut buffer = vec![0; 65536];
                        while let Ok(count @ 1..) = far_in.read(&mut buffer).await {
                            if hold.wait_for(|held| !held).await.is_err()
                                || near_out.write_all(&buffer[..count]).await.is_err()
                            {
                                break;
                            }
                        }
                    };
                    tokio::select! {
                        _ = tokio::io::copy(&mut near_in, &mut far_out) => {}
                        () = back => {}
                        _ = cut.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { url, cuts, held, blocked, taken }
    }

    /// From now on the connections that there are carry nothing, and nobody is told. New ones do.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on new connections carry nothing; those that there are do.
    pub(crate) fn block(&self) {
        self.blocked.send_replace(true);
    }

    /// How many connections were ever made.
    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether what the server says is kept back.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

/// How many connections listen to a channel.
pub(crate) fn listeners(url: &str, channel: &str) -> i64 {
    let (_, count): (String, i64) =
        redis::from_redis_value(raw(url, &["PUBSUB", "NUMSUB", channel])).unwrap();
    count
}
