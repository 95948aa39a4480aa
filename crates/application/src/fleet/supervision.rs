//! Whether this server may act on containers: only where the engine that it sees is the one that the installation's
//! agents run on.
//!
//! Invariants: nothing is done to containers before the engine has been recognised; it is asked anew after every time
//! that it was away, because another one may stand in its place then; the first engine that an installation ever sees
//! becomes its own, for all its servers.

use std::sync::{Arc, Mutex, PoisonError};

use aito_domain::ports::{installation_store::InstallationStore, runtime::ContainerRuntime};
use tracing::{info, warn};

use crate::error::Error;

/// How often an engine is asked anew that was forgotten while it was asked.
const TRIES: usize = 5;

/// Where agents may be supervised.
#[derive(Clone)]
pub enum Supervises {
    /// Wherever this server is: its runtime is the machine itself, and a lock keeps others out.
    Here,
    /// On the engine that the installation's record names.
    TheEngineOf(Arc<dyn InstallationStore>),
}

/// What is known of the engine.
pub(super) struct Supervision {
    on: Supervises,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// `None`: it has to be asked.
    verdict: Option<Result<(), String>>,
    /// How often it was forgotten: what was asked before that may be of another engine.
    forgotten: u64,
}

impl Supervision {
    pub(super) fn new(on: Supervises) -> Self {
        Self { on, known: Mutex::default() }
    }

    /// The engine was away, or its hints ended.
    pub(super) fn forget(&self) {
        let mut known = self.known();
        known.verdict = None;
        known.forgotten += 1;
    }

    /// Whether the engine is known to be another one.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.known().verdict, Some(Err(_)))
    }

    /// Refuses where the engine is known to be another one; asks nobody.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason.
    pub(super) fn known_refusal(&self) -> Result<(), Error> {
        match &self.known().verdict {
            Some(Err(why)) => Err(refused(why)),
            _ => Ok(()),
        }
    }

    /// Refuses unless the engine is the installation's.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason; nothing was done.
    pub(super) async fn check(&self, runtime: &dyn ContainerRuntime) -> Result<(), Error> {
        let Supervises::TheEngineOf(store) = &self.on else { return Ok(()) };
        for _ in 0..TRIES {
            let forgotten = {
                let known = self.known();
                if known.verdict == Some(Ok(())) {
                    return Ok(());
                }
                known.forgotten
            };
            let (engine, verdict) = ask(&**store, runtime).await?;
            let before = {
                let mut known = self.known();
                if known.forgotten != forgotten {
                    // It may be another one by now: asked again.
                    continue;
                }
                known.verdict.replace(verdict.clone())
            };
            match (&verdict, before) {
                (Ok(()), _) => info!(engine, "the engine is this installation's"),
                (Err(why), before) if before.as_ref() != Some(&verdict) => {
                    warn!(why, "this server does not supervise agents");
                }
                (Err(_), _) => {}
            }
            return verdict.map_err(|why| refused(&why));
        }
        Err(Error::unavailable("the engine comes and goes; nothing was done", None))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Every state of it is a good one.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine that answers, and why it is not the installation's, if it is not.
async fn ask(
    store: &dyn InstallationStore,
    runtime: &dyn ContainerRuntime,
) -> Result<(String, Result<(), String>), Error> {
    let engine = runtime.engine_id().await.map_err(|error| super::runtime_away(error, "nothing was done"))?;
    // What was refused may have been accepted meanwhile: the record is read every time.
    let Some(record) = store.set_engine("", &engine).await? else {
        return Err(Error::unavailable("the store holds no installation; nothing was done", None));
    };
    let verdict = if record.engine_id == engine {
        Ok(())
    } else {
        Err(format!(
            "its engine is {engine}, this installation's agents run on {}; if that was replaced: aito \
             installation accept-engine",
            record.engine_id
        ))
    };
    Ok((engine, verdict))
}

fn refused(why: &str) -> Error {
    Error::unavailable(format!("this server does not supervise agents: {why}; nothing was done"), None)
}
