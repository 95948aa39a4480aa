//! Whether everything that is needed answers.
//!
//! Invariant: every check has a time limit of its own and all run at once, so that one that hangs hides none.

use std::{future::Future, sync::Arc, time::Duration};

use aito_domain::ports::{bus::EventBus, clock::Clock, event_log::EventLog, runtime::ContainerRuntime};

/// How long a check may take.
pub const CHECK_LIMIT: Duration = Duration::from_secs(2);

/// How one thing answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Whether it did, in time and well.
    pub ok: bool,
    /// How long it took.
    pub latency: Duration,
}

/// How everything answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// The store.
    pub database: Check,
    /// The bus.
    pub bus: Check,
    /// The container runtime.
    pub runtime: Check,
}

/// Asks.
pub struct HealthService {
    log: Arc<dyn EventLog>,
    bus: Arc<dyn EventBus>,
    runtime: Arc<dyn ContainerRuntime>,
    clock: Arc<dyn Clock>,
    began: Duration,
}

impl HealthService {
    /// Over these ports; uptime counts from here.
    pub fn new(
        log: Arc<dyn EventLog>,
        bus: Arc<dyn EventBus>,
        runtime: Arc<dyn ContainerRuntime>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let began = clock.monotonic();
        Self { log, bus, runtime, clock, began }
    }

    /// How long this process serves.
    pub fn uptime(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.began)
    }

    /// The store only.
    pub async fn database(&self) -> Check {
        self.timed(async { self.log.bounds().await.is_ok() }).await
    }

    /// The bus only.
    pub async fn bus(&self) -> Check {
        self.timed(async { self.bus.ping().await.is_ok() }).await
    }

    /// Everything, at once.
    pub async fn all(&self) -> Checks {
        let runtime = self.timed(async { self.runtime.ping().await.is_ok() });
        let (database, bus, runtime) = tokio::join!(self.database(), self.bus(), runtime);
        Checks { database, bus, runtime }
    }

    async fn timed(&self, check: impl Future<Output = bool>) -> Check {
        let started = self.clock.monotonic();
        let ok = tokio::time::timeout(CHECK_LIMIT, check).await.unwrap_or(false);
        Check { ok, latency: self.clock.monotonic().saturating_sub(started) }
    }
}
