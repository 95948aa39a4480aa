//! The fakes of this crate under the contracts of what they stand for.

use std::{sync::Arc, time::Duration};

use aito_contracts::clock::{ClockFixture, ManualClock, SeqIds};
use aito_domain::ports::clock::{Clock, IdSource};
use async_trait::async_trait;

struct Manual {
    clock: Arc<ManualClock>,
    ids: Arc<SeqIds>,
}

#[async_trait]
impl ClockFixture for Manual {
    async fn fresh() -> Self {
        let clock = Arc::new(ManualClock::new());
        Self { ids: Arc::new(SeqIds::new(clock.clone(), 1)), clock }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn ids(&self) -> Arc<dyn IdSource> {
        self.ids.clone()
    }

    async fn pass(&self, by: Duration) {
        self.clock.advance(by).await;
    }

    fn wind_back(&self) {
        self.clock.set(self.clock.now() - Duration::from_secs(3600));
    }
}

mod manual_clock {
    aito_contracts::clock_suite!(super::Manual);
}
