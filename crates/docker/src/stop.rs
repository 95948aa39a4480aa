//! Ends and removes containers.
//!
//! Invariants: only a container that is exactly the asked one is touched, and by its id; a container that was never
//! started is removed instead of ended.

use std::time::Duration;

use aito_domain::{
    fleet::ContainerKey,
    ports::runtime::{RuntimeError, Stopped},
};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{
    DockerRuntime,
    engine::{Fault, Inspected},
    translate::{Phase, acting, exit, looking, phase},
};

/// Pause between two looks at a removal that somebody else began.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The longest grace that the engine is told, in seconds: a year.
const LONGEST: u64 = 31_536_000;

/// How often a stop looks again after the container changed under it.
const TRIES: u32 = 4;

impl DockerRuntime {
    pub(crate) async fn stop(&self, key: &ContainerKey, grace: Duration) -> Result<Stopped, RuntimeError> {
        let mut asked = false;
        for _ in 0..TRIES {
            let Some(found) = self.find(key).await.map_err(|error| after(asked, error))? else {
                return Ok(Stopped::NotThere);
            };
            match phase(&found.status) {
                Phase::Ended => return Ok(Stopped::Ended(exit(&found))),
                Phase::Leaving => {
                    self.until_gone(&found.id).await?;
                    return Ok(Stopped::NotThere);
                }
                Phase::Created => {
                    self.remove_all(key).await?;
                    return Ok(Stopped::NotThere);
                }
                Phase::Running => self.end(&found, grace).await?,
            }
            asked = true;
        }
        Err(RuntimeError::Unknown("it does not end".into()))
    }

    /// Asks, and forces after the grace.
    async fn end(&self, found: &Inspected, grace: Duration) -> Result<(), RuntimeError> {
        let id = &found.id;
        if grace.subsec_nanos() == 0 && !grace.is_zero() {
            // The engine goes on with it when this server dies meanwhile. It counts in whole seconds.
            return settled(self.engine.stop(id, grace.as_secs().min(LONGEST)).await.map(drop));
        }
        if !grace.is_zero() {
            settled(self.engine.kill(id, "SIGTERM").await)?;
            match self.engine.wait(id, grace).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(fault) => return settled(Err(fault)),
            }
        }
        settled(self.engine.kill(id, "SIGKILL").await)?;
        match self.engine.wait(id, self.options.start_timeout).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(RuntimeError::Unknown("it does not end though it was killed".into())),
            Err(fault) => settled(Err(fault)),
        }
    }

    /// Removes a container with everything, as [`aito_domain::ports::runtime::ContainerRuntime::remove`] says.
    pub(crate) async fn remove_all(&self, key: &ContainerKey) -> Result<(), RuntimeError> {
        if let Some(found) = self.find(key).await? {
            match self.engine.remove(&found.id).await {
                Ok(_) => {}
                // Somebody else is at it.
                Err(fault) if fault.is(409) => self.until_gone(&found.id).await?,
                Err(fault) => return Err(acting(fault)),
            }
        }
        self.place(key).remove().await
    }

    async fn until_gone(&self, id: &str) -> Result<(), RuntimeError> {
        let gone = async {
            let mut pause = interval(LOOK_AGAIN);
            pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pause.tick().await;
                if self.engine.inspect(id).await.map_err(looking)?.is_none() {
                    return Ok(());
                }
            }
        };
        let late = |_| Err(RuntimeError::Unknown("its removal does not end".into()));
        timeout(self.options.start_timeout, gone).await.unwrap_or_else(late)
    }
}

/// A container that is gone, or does not run any more, is what was wanted; the next look says which.
fn settled(answer: Result<(), Fault>) -> Result<(), RuntimeError> {
    match answer {
        Err(fault) if fault.is(404) || fault.is(409) => Ok(()),
        other => other.map_err(acting),
    }
}

/// Once something was asked, a look that fails leaves open what came of it.
fn after(asked: bool, error: RuntimeError) -> RuntimeError {
    match error {
        RuntimeError::Unavailable(cause) if asked => RuntimeError::Unknown(cause),
        other => other,
    }
}
