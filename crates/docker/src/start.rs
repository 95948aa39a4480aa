//! Makes an incarnation's container and starts it, once.
//!
//! Invariants: whoever creates or starts the container of an incarnation holds its turn; an ended container
//! is never started, though the engine would; a start that is refused leaves nothing. The usual start is two calls to
//! the engine: create and start. Where it says that it failed at one, a look tells whether it did it all the same.

use std::time::Duration;

use aito_domain::ports::runtime::{RuntimeError, Start, Started};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    DockerRuntime,
    body::{self, image, refused},
    credentials::{Place, Turn},
    engine::Fault,
    translate::{
        NotCreated, NotStarted, Phase, acting, acting_on, exit, failed, is_of, looking, not_created,
        not_started, phase, whose,
    },
};

/// How often a start begins anew after it met something that has a remedy. Servers that make the network at the same time
/// take it away from each other until one is left, which takes a slow engine many of these.
const TRIES: u32 = 24;

/// Pause between two tries, in which another server may set right what is in the way.
const PAUSE: Duration = Duration::from_millis(50);

impl DockerRuntime {
    pub(crate) async fn start(&self, start: &Start) -> Result<Started, RuntimeError> {
        let place = self.place(&start.key);
        let mut body = body::body(start, &self.common(), &place.own())?;
        let mut pause = interval(PAUSE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..TRIES {
            pause.tick().await; // the first one comes at once
            let network = self.network().await?;
            body["HostConfig"]["NetworkMode"] = Value::String(network.clone());
            let turn = place.enter(&start.credential, self.options.start_timeout).await?;
            if let Some(started) = self.try_start(start, &body, &network, &place, &turn).await? {
                return Ok(started);
            }
        }
        Err(RuntimeError::Unknown("the container or its network disappears again and again".into()))
    }

    /// One attempt; `None` means to try again.
    async fn try_start(
        &self,
        start: &Start,
        body: &Value,
        network: &str,
        place: &Place,
        turn: &Turn,
    ) -> Result<Option<Started>, RuntimeError> {
        let name = self.name(&start.key);
        let fault = match self.engine.create(Some(&name), body).await {
            Ok(id) => {
                if !turn.fresh {
                    place.renew(&start.credential).await.map_err(unknown)?;
                }
                return self.begin(start, &id, network, place).await;
            }
            Err(fault) => fault,
        };
        let why = match not_created(&fault) {
            NotCreated::NameTaken => return self.join(start, network, place, turn).await,
            NotCreated::NoNetwork => {
                self.forget_network(network).await;
                return Ok(None);
            }
            NotCreated::NoImage => {
                let image = image(&start.spec, &self.options.default_image);
                refused("image", &format!("{image} is not on this engine"))
            }
            NotCreated::Other => match self.after_create(start, &fault, place).await? {
                Some(Failed::Runs(started)) => return Ok(Some(started)),
                Some(Failed::Is(why)) => RuntimeError::Refused(why),
                None => acting(fault),
            },
        };
        // What may have been done all the same is looked at by the next call, which then finds everything in place.
        if turn.fresh && !matches!(why, RuntimeError::Unknown(_)) {
            place.remove().await?;
        }
        Err(why)
    }

    /// Goes on with the container that has the name.
    async fn join(
        &self,
        start: &Start,
        network: &str,
        place: &Place,
        turn: &Turn,
    ) -> Result<Option<Started>, RuntimeError> {
        let name = self.name(&start.key);
        let Some(found) = self.engine.inspect(&name).await.map_err(looking)? else { return Ok(None) };
        if !is_of(self.options.installation, &start.key, &found) {
            if turn.fresh {
                place.remove().await?;
            }
            let whose = whose(self.options.installation, &found.labels);
            return Err(RuntimeError::Conflict(format!(
                "a container that is not this one has the name {name} ({whose})"
            )));
        }
        match phase(&found.status) {
            Phase::Running => Ok(Some(Started::AlreadyRunning)),
            Phase::Ended => Ok(Some(Started::AlreadyEnded(exit(&found)))),
            Phase::Created => {
                place.renew(&start.credential).await?;
                self.begin(start, &found.id, network, place).await
            }
            Phase::Leaving => Err(RuntimeError::Conflict(format!("{name} is being removed"))),
        }
    }

    /// Starts a container that was never started.
    async fn begin(
        &self,
        start: &Start,
        id: &str,
        network: &str,
        place: &Place,
    ) -> Result<Option<Started>, RuntimeError> {
        let fault = match self.engine.start(id).await {
            Ok(true) => return Ok(Some(Started::Now)),
            Ok(false) => return Ok(Some(Started::AlreadyRunning)),
            Err(fault) => fault,
        };
        match not_started(&fault) {
            NotStarted::NoNetwork => {
                self.discard(id, place).await?;
                self.forget_network(network).await;
                Ok(None)
            }
            NotStarted::Never(why) => {
                self.discard(id, place).await?;
                let command = start.spec.command.as_deref().and_then(<[String]>::first);
                let image = image(&start.spec, &self.options.default_image);
                Err(refused(
                    "command",
                    &format!("{} of {image}: {why}", command.map_or("the program", String::as_str)),
                ))
            }
            NotStarted::Other => match self.after_start(id, &fault, place).await? {
                Some(Failed::Runs(started)) => Ok(Some(started)),
                Some(Failed::Is(why)) => Err(RuntimeError::Refused(why)),
                None => Err(acting_on(fault)),
            },
        }
    }

    /// Looks what came of a create that the engine says it failed at; `None` when that cannot be told. A container
    /// that was made and never started is removed.
    async fn after_create(
        &self,
        start: &Start,
        fault: &Fault,
        place: &Place,
    ) -> Result<Option<Failed>, RuntimeError> {
        let Some(why) = failed(fault) else { return Ok(None) };
        let Ok(found) = self.engine.inspect(&self.name(&start.key)).await else { return Ok(None) };
        let ours = found.filter(|found| is_of(self.options.installation, &start.key, found));
        let Some(found) = ours else { return Ok(Some(Failed::Is(why))) };
        match phase(&found.status) {
            // It was there before.
            Phase::Running => Ok(Some(Failed::Runs(Started::AlreadyRunning))),
            Phase::Ended => Ok(Some(Failed::Runs(Started::AlreadyEnded(exit(&found))))),
            Phase::Created => {
                self.discard(&found.id, place).await?;
                Ok(Some(Failed::Is(why)))
            }
            Phase::Leaving => Ok(None),
        }
    }

    /// Looks what came of a start that the engine says it failed at, as [`Self::after_create`] does.
    async fn after_start(
        &self,
        id: &str,
        fault: &Fault,
        place: &Place,
    ) -> Result<Option<Failed>, RuntimeError> {
        let Some(why) = failed(fault) else { return Ok(None) };
        let Ok(found) = self.engine.inspect(id).await else { return Ok(None) };
        match found.map(|found| phase(&found.status)) {
            Some(Phase::Running) => return Ok(Some(Failed::Runs(Started::Now))),
            Some(Phase::Created | Phase::Ended) => self.discard(id, place).await?,
            None => place.remove().await?,
            Some(Phase::Leaving) => return Ok(None),
        }
        Ok(Some(Failed::Is(why)))
    }

    /// Removes what a failed start has made.
    async fn discard(&self, id: &str, place: &Place) -> Result<(), RuntimeError> {
        self.engine.remove(id).await.map_err(acting_on)?;
        place.remove().await
    }
}

/// What came of a call that the engine says it failed at.
enum Failed {
    /// It did it all the same, or it was so before.
    Runs(Started),
    /// It did not; the engine's words.
    Is(String),
}

fn unknown(error: RuntimeError) -> RuntimeError {
    match error {
        RuntimeError::Unavailable(cause) => RuntimeError::Unknown(cause),
        other => other,
    }
}
