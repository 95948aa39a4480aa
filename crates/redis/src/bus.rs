//! [`EventBus`] on the channels of Redis.
//!
//! Invariants: commands go over pooled connections and what is heard over one of its own ([`crate::link`]), all of them
//! driven by the runtime that opened the bus, whoever calls; a subscription holds a place in one shared ring, nothing
//! of its own, so a reader that does not read costs nothing and is told what it missed; streams end with the bus.

use std::{fmt, sync::Arc};

use aito_domain::ports::bus::{BusError, BusItem, BusMessage, EventBus, Topic};
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use redis::Cmd;
use tokio::{
    runtime::Handle,
    sync::broadcast::error::RecvError,
    task::{AbortHandle, JoinError},
};

use crate::{
    connector::Connector,
    link::{Limits, Link, RING},
    options::{OpenError, Options},
    translate::{Failure, channel},
};

/// A bus for the listeners of all servers that use the same Redis and prefix.
pub struct RedisBus {
    connector: Arc<Connector>,
    link: Arc<Link>,
    prefix: Arc<str>,
    home: Handle,
    task: AbortHandle,
    name: String,
}

impl RedisBus {
    /// Opens it. Redis may be down: connections are made in the background and as they are needed. Must be called
    /// within the tokio runtime that shall drive the connections, and that lives as long as the bus.
    ///
    /// # Errors
    /// [`OpenError`] when the options are wrong.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        let nodes = options.place.nodes().map_err(|what| OpenError::Address { what })?;
        let nodes = nodes.with_credentials(options.user.as_deref(), options.password.as_deref());
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_:".contains(c);
        if !options.prefix.chars().all(allowed) {
            return Err(OpenError::Prefix { prefix: options.prefix });
        }
        let name = nodes.to_string();
        let connector = Arc::new(Connector::new(nodes, &options)?);
        let limits = Limits { connect: options.connect_timeout, answer: options.answer_timeout };
        let prefix: Arc<str> = options.prefix.into();
        let link = Arc::new(Link::new(connector.clone(), prefix.clone(), limits));
        let home = Handle::current();
        let task = home.spawn({
            let link = link.clone();
            async move { link.run().await }
        });
        Ok(Arc::new(Self { connector, link, prefix, home, task: task.abort_handle(), name }))
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.link.subscriptions()
    }

    /// How many messages a reader may be behind before it misses some.
    #[must_use]
    pub fn capacity(&self) -> usize {
        RING
    }

    /// Runs a command at home: a connection is driven where it was made, and a caller's thread may be blocked by others
    /// or end.
    async fn command(&self, command: Cmd) -> Result<(), Failure> {
        let connector = self.connector.clone();
        let run = self.home.spawn(async move { connector.run(&command).await });
        run.await.unwrap_or_else(|error: JoinError| Err(self.connector.server().other(&error.to_string())))
    }
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus")
            .field("server", &self.name)
            .field("prefix", &self.prefix)
            .field("subscriptions", &self.subscriptions())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl EventBus for RedisBus {
    async fn publish(&self, message: BusMessage) -> Result<(), BusError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel(&self.prefix, &message.topic)).arg(message.payload);
        Ok(self.command(command).await?)
    }

    async fn subscribe(&self, topics: &[Topic]) -> Result<BoxStream<'static, BusItem>, BusError> {
        let state = self.link.subscribe(topics).await?;
        let items = stream::unfold(state, |(mut items, held)| async move {
            loop {
                let item = match items.recv().await {
                    Ok(item) => match &*item {
                        BusItem::Message(message) if !held.topics().contains(&message.topic) => continue,
                        _ => Arc::unwrap_or_clone(item),
                    },
                    // Perhaps none of them was of these topics; the reader looks once for nothing then.
                    Err(RecvError::Lagged(_)) => BusItem::Missed,
                    Err(RecvError::Closed) => return None,
                };
                return Some((item, (items, held)));
            }
        });
        Ok(items.boxed())
    }

    async fn ping(&self) -> Result<(), BusError> {
        // One that can only speak does not answer.
        tokio::try_join!(self.command(redis::cmd("PING")), self.link.check())?;
        Ok(())
    }
}
