//! Tells other listeners, and other servers, that something happened. Fast, and allowed to lose: the log is
//! the truth, so whoever is told looks there.
//!
//! 1. A message reaches every subscription to its topic that existed when it was published, in the order of
//!    one publisher.
//! 2. A subscription gets only the topics that it asked for.
//! 3. A reader that is too slow, or a connection that was lost, yields [`BusItem::Missed`], after which
//!    messages go on; nothing is lost without it.
//! 4. Publishing to nobody succeeds. Publishing never waits for a reader.
//! 5. Dropping a subscription frees what it held.

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::Cause;

/// What a message is about; letters, digits, `-`, `_` and `:`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic(pub std::borrow::Cow<'static, str>);

impl Topic {
    /// Something can be read in the event log: look there. The payload is the number of the newest event that the
    /// sender has read, in decimal digits.
    pub const LOG: Self = Self(std::borrow::Cow::Borrowed("hint:log"));
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusMessage {
    /// Its topic.
    pub topic: Topic,
    /// Its content.
    pub payload: Vec<u8>,
}

/// What a subscription yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusItem {
    /// A message.
    Message(BusMessage),
    /// Something may have been missed here.
    Missed,
}

/// The bus does not answer; the message is perhaps not delivered.
#[derive(Debug, thiserror::Error)]
#[error("the bus is unavailable")]
pub struct BusError(#[source] pub Cause);

/// Publishes and subscribes; see the module for the contract.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// Tells everybody who listens.
    async fn publish(&self, message: BusMessage) -> Result<(), BusError>;
    /// Listens; the stream ends only when the bus is closed for good.
    async fn subscribe(&self, topics: &[Topic]) -> Result<BoxStream<'static, BusItem>, BusError>;
    /// Whether it answers.
    async fn ping(&self) -> Result<(), BusError>;
}
