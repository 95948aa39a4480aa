//! The bus within one process.
//!
//! Invariants: publishing never waits and never fails; a subscription holds a place in one shared ring, nothing
//! of its own, so a reader that does not read costs nothing and is told what it missed.

use std::sync::Arc;

use aito_domain::ports::bus::{BusError, BusItem, BusMessage, EventBus, Topic};
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::broadcast::{self, error::RecvError};

/// Messages that a reader may be behind before it misses some.
const RING: usize = 1024;

/// A bus for the listeners of this process.
#[derive(Debug, Clone)]
pub struct LocalBus {
    messages: broadcast::Sender<Arc<BusMessage>>,
}

impl LocalBus {
    /// A bus to which nobody listens yet.
    #[must_use]
    pub fn new() -> Self {
        Self { messages: broadcast::Sender::new(RING) }
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.messages.receiver_count()
    }

    /// How many messages a reader may be behind before it misses some.
    #[must_use]
    pub fn capacity(&self) -> usize {
        RING
    }
}

impl Default for LocalBus {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl EventBus for LocalBus {
    async fn publish(&self, message: BusMessage) -> Result<(), BusError> {
        // An error says that nobody listens, which is fine.
        let _ = self.messages.send(Arc::new(message));
        Ok(())
    }

    async fn subscribe(&self, topics: &[Topic]) -> Result<BoxStream<'static, BusItem>, BusError> {
        let state = (self.messages.subscribe(), topics.to_vec());
        let items = stream::unfold(state, |(mut messages, topics)| async move {
            loop {
                let item = match messages.recv().await {
                    Ok(message) if topics.contains(&message.topic) => {
                        BusItem::Message(Arc::unwrap_or_clone(message))
                    }
                    Ok(_) => continue,
                    // Perhaps none of them was of these topics; the reader looks once for nothing then.
                    Err(RecvError::Lagged(_)) => BusItem::Missed,
                    Err(RecvError::Closed) => return None,
                };
                return Some((item, (messages, topics)));
            }
        });
        Ok(items.boxed())
    }

    async fn ping(&self) -> Result<(), BusError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_end_with_the_bus() {
        let bus = LocalBus::new();
        let mut reader = bus.subscribe(&[Topic::LOG]).await.unwrap();
        bus.publish(BusMessage { topic: Topic::LOG, payload: Vec::new() }).await.unwrap();
        drop(bus);
        assert!(matches!(reader.next().await, Some(BusItem::Message(_))));
        assert_eq!(reader.next().await, None);
    }
}
