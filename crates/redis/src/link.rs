//! The one connection that listens, for all subscriptions of a bus, and the ring into which it puts what it hears.
//!
//! Invariants: the ring is filled by whoever reads from the connection, at once and without waiting, so no reader holds
//! up another one or the server; a connection that follows another one first says [`BusItem::Missed`] and says it after
//! the server has subscribed it and before anything that it hears; commands on the connection follow one another, each
//! with what is wanted at its time, so an unsubscription never undoes a later subscription.

use std::{
    collections::HashSet,
    future::pending,
    sync::{Arc, Mutex as Lock, PoisonError},
    time::Duration,
};

use aito_domain::ports::bus::{BusItem, Topic};
use redis::{ConnectionAddr, PushInfo, PushKind, aio::MultiplexedConnection, aio::SendError};
use tokio::{
    sync::{Mutex, Notify, broadcast, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    connector::Connector,
    topics::{Held, Topics},
    translate::{Failure, channel, message},
};

/// Messages that a reader may be behind before it misses some.
pub(crate) const RING: usize = 512;

/// The pause after the first failure to connect; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the ring holds.
pub(crate) type Item = Arc<BusItem>;

/// The connection, present or to come.
pub(crate) struct Link {
    connector: Arc<Connector>,
    prefix: Arc<str>,
    limits: Limits,
    ring: broadcast::Sender<Item>,
    topics: Arc<Topics>,
    state: watch::Sender<State>,
    /// What the server has been asked to send on the present connection. Whoever sends a command on it holds this.
    on_wire: Mutex<HashSet<Topic>>,
}

/// How long things may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Making a connection.
    pub(crate) connect: Duration,
    /// An answer.
    pub(crate) answer: Duration,
}

#[derive(Clone)]
enum State {
    /// The first attempt is under way.
    Connecting,
    Up(MultiplexedConnection),
    Down(Failure),
}

impl Link {
    pub(crate) fn new(connector: Arc<Connector>, prefix: Arc<str>, limits: Limits) -> Self {
        Self {
            connector,
            prefix,
            limits,
            ring: broadcast::Sender::new(RING),
            topics: Arc::default(),
            state: watch::Sender::new(State::Connecting),
            on_wire: Mutex::default(),
        }
    }

    /// How many subscriptions there are.
    pub(crate) fn subscriptions(&self) -> usize {
        self.topics.subscriptions()
    }

    /// Listens to topics; when this returns, the server has confirmed it.
    pub(crate) async fn subscribe(
        &self,
        topics: &[Topic],
    ) -> Result<(broadcast::Receiver<Item>, Held), Failure> {
        let held = self.topics.hold(topics);
        let confirmed = timeout(self.limits.answer, self.confirm(&held)).await;
        Ok((confirmed.unwrap_or_else(|_| Err(self.connector.server().silent()))?, held))
    }

    /// Whether the connection that listens is there.
    pub(crate) async fn check(&self) -> Result<(), Failure> {
        timeout(self.limits.answer, self.present())
            .await
            .unwrap_or_else(|_| Err(self.connector.server().silent()))?;
        Ok(())
    }

    /// The connection. Once there was a first attempt there is nothing to wait for: it is up or it is down.
    async fn present(&self) -> Result<MultiplexedConnection, Failure> {
        let mut state = self.state.subscribe();
        let attempted = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        match attempted.as_deref() {
            Ok(State::Up(connection)) => Ok(connection.clone()),
            Ok(State::Down(failure)) => Err(failure.clone()),
            // The sender lives as long as `self`.
            Ok(State::Connecting) | Err(_) => Err(self.connector.server().other("not connected")),
        }
    }

    async fn confirm(&self, held: &Held) -> Result<broadcast::Receiver<Item>, Failure> {
        self.present().await?;
        let mut on_wire = self.on_wire.lock().await;
        // Perhaps another one by now.
        let mut connection = self.present().await?;
        if !held.topics().is_empty() {
            // Also for a topic that is subscribed already: its confirmation comes after all that was published before,
            // which this subscription must not get.
            on_wire.extend(held.topics().iter().cloned());
            let subscribed = connection.subscribe(self.channels(held.topics())).await;
            subscribed.map_err(|error| self.connector.server().failed(&error))?;
        }
        Ok(self.ring.subscribe())
    }

    /// Connects, and connects again whenever the connection is lost, for ever.
    pub(crate) async fn run(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connect().await {
                Ok((connection, address, ear)) => {
                    info!(server = %address, "listening on Redis");
                    if self.keep(connection, &address, &ear).await {
                        pause = FIRST_PAUSE;
                    }
                    ear.close();
                    self.down(self.connector.server().other("the connection is lost"));
                }
                Err(failure) => self.down(failure),
            }
            let _ = timeout(pause, pending::<()>()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Makes a connection and subscribes it to all that is wanted.
    async fn connect(&self) -> Result<(MultiplexedConnection, ConnectionAddr, Arc<Ear>), Failure> {
        let ear = Arc::new(Ear {
            ring: self.ring.clone(),
            prefix: self.prefix.clone(),
            phase: Lock::new(Phase::Connected),
            lost: Notify::new(),
        });
        let listening = self.connector.listen({
            let ear = ear.clone();
            move |push| {
                ear.hear(push);
                Ok::<(), SendError>(())
            }
        });
        let (mut connection, address) = timeout(self.limits.connect, listening)
            .await
            .map_err(|_| self.connector.server().silent())?
            .map_err(|error| self.connector.server().failed(&error))?;
        // With sentinels it may lead elsewhere than those for commands.
        self.connector.forget();
        let mut on_wire = self.on_wire.lock().await;
        on_wire.clear();
        let wanted = self.topics.wanted();
        if !wanted.is_empty() {
            if let Err(error) = connection.subscribe(self.channels(&wanted)).await {
                ear.close();
                return Err(self.connector.server().failed(&error));
            }
            *on_wire = wanted;
        }
        self.state.send_replace(State::Up(connection.clone()));
        Ok((connection, address, ear))
    }

    /// Looks after a connection until it is lost; says whether it was fine at least once since it was made.
    async fn keep(&self, mut connection: MultiplexedConnection, address: &ConnectionAddr, ear: &Ear) -> bool {
        let mut beat = interval(self.limits.answer);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await;
        let mut answered = false;
        loop {
            tokio::select! {
                () = ear.lost.notified() => return answered,
                () = self.topics.idle.notified() => {
                    if let Err(error) = self.tidy(&mut connection).await {
                        debug!(error = %self.connector.server().failed(&error), "cannot unsubscribe");
                        return answered;
                    }
                }
                _ = beat.tick() => {
                    let fine = tokio::select! {
                        () = ear.lost.notified() => false,
                        fine = self.inspect(&mut connection, address) => fine,
                    };
                    if !fine {
                        return answered;
                    }
                    answered = true;
                }
            }
        }
    }

    /// Whether the connection is alive and leads to where it should.
    async fn inspect(&self, connection: &mut MultiplexedConnection, address: &ConnectionAddr) -> bool {
        if let Err(error) = redis::cmd("PING").exec_async(connection).await {
            debug!(error = %self.connector.server().failed(&error), "the connection has died in silence");
            return false;
        }
        let moved = timeout(self.limits.connect, self.connector.has_moved_from(address)).await == Ok(true);
        if moved {
            info!(server = %address, "the sentinels name another master");
        }
        !moved
    }

    /// Unsubscribes from what nobody listens to any more.
    async fn tidy(&self, connection: &mut MultiplexedConnection) -> redis::RedisResult<()> {
        let mut on_wire = self.on_wire.lock().await;
        let wanted = self.topics.wanted();
        let idle: HashSet<Topic> = on_wire.difference(&wanted).cloned().collect();
        if !idle.is_empty() {
            connection.unsubscribe(self.channels(&idle)).await?;
            on_wire.retain(|topic| wanted.contains(topic));
        }
        Ok(())
    }

    fn down(&self, failure: Failure) {
        self.state.send_if_modified(|state| {
            let known = matches!(state, State::Down(before) if *before == failure);
            if !known {
                warn!(error = %failure, "Redis does not serve the bus; trying again");
                *state = State::Down(failure);
            }
            !known
        });
    }

    fn channels(&self, topics: &HashSet<Topic>) -> Vec<String> {
        topics.iter().map(|topic| channel(&self.prefix, topic)).collect()
    }
}

/// What hears on one connection. It runs within the task that reads from it.
struct Ear {
    ring: broadcast::Sender<Item>,
    prefix: Arc<str>,
    phase: Lock<Phase>,
    /// Woken when the connection ends.
    lost: Notify,
}

enum Phase {
    Connected,
    Subscribed,
    Closed,
}

impl Ear {
    fn hear(&self, push: PushInfo) {
        // Held until the ring has it, so that nothing of a closed connection comes after what the next one says.
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let item = match (&*phase, &push.kind) {
            (_, PushKind::Disconnection) => {
                self.lost.notify_one();
                return;
            }
            (Phase::Closed, _) => return,
            // The first confirmation is the one of all that was wanted when the connection was made, in one command,
            // which a server runs at once: from here on nothing is missed, and nothing has been heard yet.
            (Phase::Connected, PushKind::Subscribe) => {
                *phase = Phase::Subscribed;
                Some(BusItem::Missed)
            }
            _ => message(&self.prefix, push).map(BusItem::Message),
        };
        if let Some(item) = item {
            // An error says that nobody listens, which is fine.
            let _ = self.ring.send(Arc::new(item));
        }
    }

    /// Nothing that comes after this is heard.
    fn close(&self) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase::Closed;
    }
}
