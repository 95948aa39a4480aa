//! The pooled connections for commands.
//!
//! Invariants: a connection on which a command or its check failed is not used again, nor is one of the same era,
//! which may lead to the same nowhere; a connection of a later era, and one that is only slow to be made, end none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use redis::{AsyncConnectionConfig, RedisError, aio::MultiplexedConnection};
use tokio::time::timeout;

use crate::connector::Finder;

/// How many commands are under way at once; more of them wait.
const POOL: usize = 4;

/// Why there is no connection.
pub(crate) type PoolError = managed::PoolError<RedisError>;

/// The pool.
pub(crate) struct Lines {
    pool: managed::Pool<Maker>,
    era: Arc<AtomicU64>,
}

impl Lines {
    /// An empty pool. A connection that was used before has `check_timeout` to show that it is alive.
    pub(crate) fn new(
        nodes: Arc<Finder>,
        config: AsyncConnectionConfig,
        check_timeout: Duration,
    ) -> Result<Self, managed::BuildError> {
        let era = Arc::new(AtomicU64::new(0));
        let maker = Maker { nodes, config, check_timeout, era: era.clone() };
        Ok(Self { pool: managed::Pool::builder(maker).max_size(POOL).build()?, era })
    }

    /// A connection that is alive.
    pub(crate) async fn get(&self) -> Result<managed::Object<Maker>, PoolError> {
        self.pool.get().await
    }

    /// Lets go of all connections that were made up to now.
    pub(crate) fn forget_all(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.close_past();
    }

    /// Lets go of the connections of this era, if it is not over already.
    pub(crate) fn forget(&self, era: u64) {
        if end(&self.era, era) {
            self.close_past();
        }
    }

    fn close_past(&self) {
        let era = self.era.load(Ordering::Acquire);
        self.pool.retain(|line, _| line.era == era);
    }
}

/// Whether it was the present one.
fn end(present: &AtomicU64, era: u64) -> bool {
    present.compare_exchange(era, era + 1, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// A connection.
pub(crate) struct Line {
    pub(crate) connection: MultiplexedConnection,
    /// When it was made.
    pub(crate) era: u64,
    maker: deadpool_redis::Manager,
}

/// Makes them and checks them.
pub(crate) struct Maker {
    nodes: Arc<Finder>,
    config: AsyncConnectionConfig,
    check_timeout: Duration,
    era: Arc<AtomicU64>,
}

impl managed::Manager for Maker {
    type Type = Line;
    type Error = RedisError;

    async fn create(&self) -> Result<Line, RedisError> {
        let era = self.era.load(Ordering::Acquire);
        let info = self.nodes.find().await?.get_connection_info().clone();
        let maker = deadpool_redis::Manager::new_with_config(info, self.config.clone())?;
        Ok(Line { connection: maker.create().await?, era, maker })
    }

    async fn recycle(&self, line: &mut Line, metrics: &Metrics) -> RecycleResult<RedisError> {
        if line.era != self.era.load(Ordering::Acquire) {
            return Err(RecycleError::message("it was let go of"));
        }
        let check = timeout(self.check_timeout, line.maker.recycle(&mut line.connection, metrics)).await;
        let alive = check.unwrap_or_else(|_| Err(RecycleError::message("it does not answer in time")));
        if alive.is_err() {
            end(&self.era, line.era);
        }
        alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_era_ends_once_however_many_of_its_connections_fail() {
        let present = AtomicU64::new(7);
        assert!(end(&present, 7), "the first that fails ends it");
        assert!(!end(&present, 7), "another one of the same era ends nothing");
        assert!(!end(&present, 6));
        assert_eq!(present.into_inner(), 8);
    }
}
