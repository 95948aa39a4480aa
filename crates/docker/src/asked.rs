//! An engine that is only asked: whether it is there, which one it is, and what it has.
//!
//! Invariant: nothing is changed by it, neither in the engine nor on this host.

use std::{path::PathBuf, time::Duration};

use aito_domain::ports::runtime::RuntimeError;

use crate::{
    OpenError,
    engine::{Engine, TimeLimits},
    translate::looking,
};

/// A Docker engine, to be asked before a runtime is opened on it.
pub struct DockerEngine {
    engine: Engine,
}

impl DockerEngine {
    /// The engine behind this socket, which may be down; no question takes longer than `call_timeout`.
    ///
    /// # Errors
    /// [`OpenError::Relative`] when the path is.
    pub fn at(socket: PathBuf, call_timeout: Duration) -> Result<Self, OpenError> {
        if !socket.is_absolute() {
            return Err(OpenError::Relative(socket));
        }
        let limits = TimeLimits { call: call_timeout, start: call_timeout };
        Ok(Self { engine: Engine::new(socket, limits) })
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// `Unavailable` when it does not, `Refused` when it is too old.
    pub async fn ping(&self) -> Result<(), RuntimeError> {
        ping(&self.engine).await
    }

    /// Names it, as the runtime's own `engine_id` does.
    ///
    /// # Errors
    /// As [`Self::ping`].
    pub async fn id(&self) -> Result<String, RuntimeError> {
        id(&self.engine).await
    }

    /// Whether it has an image, by name, digest or id.
    ///
    /// # Errors
    /// As [`Self::ping`]; `Refused` also when that is no name of an image.
    pub async fn has_image(&self, name: &str) -> Result<bool, RuntimeError> {
        has_image(&self.engine, name).await
    }
}

pub(crate) async fn ping(engine: &Engine) -> Result<(), RuntimeError> {
    engine.ping().await.map_err(looking)
}

pub(crate) async fn has_image(engine: &Engine, name: &str) -> Result<bool, RuntimeError> {
    Ok(engine.image(name).await.map_err(looking)?.is_some())
}

pub(crate) async fn id(engine: &Engine) -> Result<String, RuntimeError> {
    let info = engine.info().await.map_err(looking)?;
    if info.id.is_empty() {
        return Err(RuntimeError::Unavailable("the Docker engine does not say its id".into()));
    }
    Ok(format!("docker:{}", info.id))
}
