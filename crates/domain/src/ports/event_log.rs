//! Reads the event log; events are written through the ledger.
//!
//! 1. One total order: positions are unique and grow, and within one commit they keep its order.
//! 2. Who has seen position p never finds a new event at or before it: whatever writers do at the same time,
//!    a reader that goes on from the last position it has read gets every event exactly once.
//! 3. Positions have no holes: the first event has 1, each next one more, also when commits fail between.
//! 4. A writer that has not committed yet neither stalls readers nor hides what others committed.
//! 5. `after` gives up to `limit` events above a position, in order.
//! 6. `latest` gives the newest first, filtered by type, hidden types and agent, below `before`.
//! 7. `bounds` names the oldest and newest position that can be read; an empty log has none.
//! 8. A body is read as it was written, whatever its type.
//! 9. What a commit that returned has written can be read by every handle at once.
//! 10. `hints` yields something within 1 s after an event became readable, whichever server wrote it; it may
//!     yield without a reason, and may miss: who needs every event looks now and then anyway.
//! 11. `tail` is `after` for who follows the log: it waits for nothing, so it need not give yet what was committed
//!     a moment ago (9), of which a hint tells; rules 1 to 5 hold.

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::ReadError;
use crate::{event::Event, id::AgentId, installation::Epoch};

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Of this type only.
    pub event_type: Option<String>,
    /// Of none of these types.
    pub hidden: Vec<String>,
    /// About or from this agent only.
    pub agent: Option<AgentId>,
    /// Below this number only.
    pub before: Option<u64>,
}

/// The range that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The number of the oldest event that is kept.
    pub oldest: u64,
    /// The number of the newest.
    pub newest: u64,
}

/// Reads the log; see the module for the contract.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// The present life of the log.
    fn epoch(&self) -> &Epoch;
    /// Up to `limit` events with numbers above `n`, in order.
    async fn after(&self, n: u64, limit: u32) -> Result<Vec<Event>, ReadError>;
    /// Up to `limit` events with numbers above `n`, in order, as far as they can be read at once.
    async fn tail(&self, n: u64, limit: u32) -> Result<Vec<Event>, ReadError>;
    /// Up to `limit` events, newest first.
    async fn latest(&self, query: &EventQuery, limit: u32) -> Result<Vec<Event>, ReadError>;
    /// What there is.
    async fn bounds(&self) -> Result<Option<Bounds>, ReadError>;
    /// Says when to look; many that come together may be one. Never ends.
    fn hints(&self) -> BoxStream<'static, ()>;
}
