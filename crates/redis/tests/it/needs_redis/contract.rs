//! The contract of the bus.

use std::sync::Arc;

use aito_contracts::bus::BusFixture;
use aito_domain::ports::bus::EventBus;
use aito_harness::servers::{REDIS, address};
use aito_redis::{Options, RedisBus};
use async_trait::async_trait;

use super::support::prefix;

struct Fixture {
    prefix: String,
    bus: Arc<RedisBus>,
}

#[async_trait]
impl BusFixture for Fixture {
    async fn fresh() -> Self {
        let prefix = prefix();
        Self { bus: open(&prefix), prefix }
    }

    fn bus(&self) -> Arc<dyn EventBus> {
        self.bus.clone()
    }

    async fn second_handle(&self) -> Arc<dyn EventBus> {
        open(&self.prefix)
    }

    fn overflow(&self) -> usize {
        // Half as many more, because some may still be on their way when the reader begins to read.
        self.bus.capacity() * 3 / 2
    }

    async fn held(&self) -> usize {
        self.bus.subscriptions()
    }
}

fn open(prefix: &str) -> Arc<RedisBus> {
    RedisBus::open(Options { prefix: prefix.to_owned(), ..Options::new(address(REDIS)) }).unwrap()
}

aito_contracts::bus_suite!(Fixture);
