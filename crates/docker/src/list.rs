//! What the engine has of this installation, and what merely looks like it.
//!
//! Invariants: one call shows everything; how a container ended is asked for once per end. Leftovers of servers that
//! died are swept at the first listing and every ten minutes.

use std::{collections::HashSet, sync::PoisonError, time::Duration};

use aito_domain::{
    agent::Exit,
    fleet::{Container, ContainerState},
    ports::runtime::{Foreign, RuntimeError},
};

use crate::{
    DockerRuntime, credentials,
    engine::Listed,
    translate::{self, INSTALLATION, PROBE, Phase, key_of, looking, phase},
};

/// How often leftovers are looked for, and how old they must be.
const SWEEP: Duration = Duration::from_secs(600);

impl DockerRuntime {
    pub(crate) async fn list_ours(&self) -> Result<Vec<Container>, RuntimeError> {
        let installation = self.options.installation;
        let all = self.engine.list(&[(INSTALLATION, &installation.to_string())]).await.map_err(looking)?;
        let mut found = Vec::with_capacity(all.len());
        let mut ended = HashSet::new();
        for listed in &all {
            let keys = listed.names.iter().find_map(|name| key_of(installation, name, &listed.labels));
            let Some(key) = keys else { continue };
            let state = match phase(&listed.state) {
                Phase::Created => ContainerState::Creating,
                Phase::Running => ContainerState::Running,
                Phase::Leaving => continue,
                Phase::Ended => {
                    ended.insert(listed.id.clone());
                    match self.end_of(&listed.id).await? {
                        Some(state) => state,
                        None => continue,
                    }
                }
            };
            found.push(Container { key, state });
        }
        self.exits().retain(|id, _| ended.contains(id));
        self.sweep(&all).await;
        Ok(found)
    }

    pub(crate) async fn list_foreign(&self) -> Result<Vec<Foreign>, RuntimeError> {
        let all = self.engine.list(&[]).await.map_err(looking)?;
        let mut found: Vec<Foreign> =
            all.iter().filter_map(|listed| translate::foreign(self.options.installation, listed)).collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// How a container that was listed as ended is; `None` when it is gone meanwhile.
    async fn end_of(&self, id: &str) -> Result<Option<ContainerState>, RuntimeError> {
        if let Some(exit) = self.exits().get(id) {
            return Ok(Some(ContainerState::Exited(exit.clone())));
        }
        let Some(found) = self.engine.inspect(id).await.map_err(looking)? else { return Ok(None) };
        let state = translate::state(&found);
        if let Some(ContainerState::Exited(exit)) = &state {
            if found.oom_killed {
                tracing::warn!(container = %found.name, %exit, "an agent was killed for its memory limit");
            }
            self.exits().insert(id.to_owned(), exit.clone());
        }
        Ok(state)
    }

    fn exits(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, Exit>> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sweep(&self, ours: &[Listed]) {
        let now = self.options.clock.monotonic();
        {
            let mut last = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| now.saturating_sub(last) < SWEEP) {
                return;
            }
            *last = Some(now);
        }
        let now = self.options.clock.now();
        let names = ours.iter().flat_map(|listed| listed.names.iter().cloned()).collect();
        credentials::sweep(&self.options.credentials_dir, names, now).await;
        let installation = self.options.installation.to_string();
        let probes = self.engine.list(&[(PROBE, &installation)]).await.unwrap_or_default();
        let old = i64::try_from(SWEEP.as_secs()).unwrap_or(i64::MAX);
        for probe in probes.iter().filter(|probe| now.timestamp().saturating_sub(probe.created) > old) {
            if phase(&probe.state) == Phase::Created && self.engine.remove(&probe.id).await.is_ok() {
                tracing::info!(container = %probe.id, "a container that only showed an image's files is removed");
            }
        }
    }
}
