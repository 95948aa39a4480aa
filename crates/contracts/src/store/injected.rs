//! Any store behind the fault injector and a caller that copes with it, as a fixture of the same suite.

use std::sync::Arc;

use aito_domain::event::NewEvent;
use async_trait::async_trait;

use super::{Handles, OpenWriter, StoreFixture};
use crate::faults::{FaultyLedger, Rates, Settlements, SettlingLedger};

/// The fixture `F`, whose ledger fails by `SEED` ([`Rates::ROUGH`]) and is asked by a [`SettlingLedger`].
pub struct Injected<F, const SEED: u64> {
    inner: F,
    settlements: Settlements,
}

impl<F, const SEED: u64> Injected<F, SEED> {
    fn wrap(&self, handles: Handles, seed: u64) -> Handles {
        let faulty = Arc::new(FaultyLedger::new(Arc::clone(&handles.ledger), seed, Rates::ROUGH));
        Handles { ledger: Arc::new(SettlingLedger::new(faulty, self.settlements.clone())), ..handles }
    }
}

#[async_trait]
impl<F: StoreFixture, const SEED: u64> StoreFixture for Injected<F, SEED> {
    async fn fresh() -> Self {
        // Shown when the test fails.
        println!("faults are injected with seed {SEED}");
        Self { inner: F::fresh().await, settlements: Settlements::default() }
    }

    fn handles(&self) -> Handles {
        self.wrap(self.inner.handles(), SEED)
    }

    async fn second_handle(&self) -> Handles {
        self.wrap(self.inner.second_handle().await, !SEED)
    }

    async fn reopen(&mut self) {
        self.inner.reopen().await;
    }

    async fn open_writer(&self, event: NewEvent) -> Box<dyn OpenWriter> {
        self.inner.open_writer(event).await
    }

    async fn break_store(&self) {
        self.inner.break_store().await;
    }

    async fn heal(&self) {
        self.inner.heal().await;
    }
}
