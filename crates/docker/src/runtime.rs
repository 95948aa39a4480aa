//! The port on the parts of this crate.
//!
//! Invariant: every method is a step or two; what they mean is in the modules that they call.

use std::time::Duration;

use aito_domain::{
    fleet::{Container, ContainerKey},
    installation::RuntimeKind,
    ports::runtime::{
        ContainerRuntime, Foreign, Hint, LogLine, LogQuery, RuntimeError, Start, Started, Stats, Stopped,
        Unenforced,
    },
    spec::AgentSpec,
};
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::time::timeout;

use crate::{
    DockerRuntime, asked, logs,
    translate::{self, INSTALLATION, Phase, looking, phase},
};

/// How far back hints reach, in seconds: an end while the subscription was just being made is not lost.
const LOOK_BACK: i64 = 1;

/// Pauses after which a hint is repeated: the engine tells of an end before its listing shows it, and takes the
/// container off its network in between (seen with 20.10: about 100 ms).
const ECHOES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

#[async_trait]
impl ContainerRuntime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    async fn check(&self, spec: &AgentSpec) -> Result<(), RuntimeError> {
        self.check_spec(spec).await
    }

    async fn ensure_started(&self, start: &Start) -> Result<Started, RuntimeError> {
        self.start(start).await
    }

    async fn ensure_stopped(&self, key: &ContainerKey, grace: Duration) -> Result<Stopped, RuntimeError> {
        self.stop(key, grace).await
    }

    async fn remove(&self, key: &ContainerKey) -> Result<(), RuntimeError> {
        self.remove_all(key).await
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        self.list_ours().await
    }

    async fn foreign(&self) -> Result<Vec<Foreign>, RuntimeError> {
        self.list_foreign().await
    }

    async fn logs(
        &self,
        key: &ContainerKey,
        query: &LogQuery,
    ) -> Result<BoxStream<'static, LogLine>, RuntimeError> {
        let found = self.find(key).await?.ok_or(RuntimeError::NotFound)?;
        if found.tty {
            return Err(RuntimeError::Refused(
                "a container on a terminal has no log of two channels".to_owned(),
            ));
        }
        logs::open(self.engine.clone(), found.id, query).await
    }

    async fn stats(&self, key: &ContainerKey) -> Result<Option<Stats>, RuntimeError> {
        let Some(found) = self.find(key).await? else { return Ok(None) };
        if phase(&found.status) != Phase::Running {
            return Ok(None);
        }
        let said = self.engine.stats(&found.id).await.map_err(looking)?;
        Ok(said.and_then(|said| translate::stats(&said, self.options.clock.now())))
    }

    async fn watch(&self) -> Result<BoxStream<'static, Hint>, RuntimeError> {
        let since = self.options.clock.now().timestamp() - LOOK_BACK;
        let label = self.options.installation.to_string();
        let events = self.engine.events((INSTALLATION, &label), since).await.map_err(looking)?;
        let hints = stream::unfold((events, &[][..]), |(mut events, mut echoes)| async move {
            let event = match echoes {
                [] => events.next().await,
                [pause, later @ ..] => match timeout(*pause, events.next()).await {
                    Ok(event) => event,
                    Err(_quiet) => {
                        echoes = later;
                        return Some((Hint, (events, echoes)));
                    }
                },
            };
            match event? {
                // What exactly happened is for the look to find out.
                Ok(_) => Some((Hint, (events, &ECHOES[..]))),
                Err(fault) => {
                    tracing::warn!(?fault, "the Docker engine stops telling of containers");
                    None
                }
            }
        });
        Ok(hints.boxed())
    }

    async fn ping(&self) -> Result<(), RuntimeError> {
        asked::ping(&self.engine).await
    }

    async fn engine_id(&self) -> Result<String, RuntimeError> {
        asked::id(&self.engine).await
    }

    fn unenforced(&self) -> Unenforced {
        translate::unenforced(self.engine.known_info().as_ref())
    }
}
