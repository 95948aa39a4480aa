//! The agents' network.
//!
//! An engine may let two networks have one name, and then starts no container on either. So servers that make it at
//! the same time look again afterwards: all keep the oldest, and remove later ones.
//!
//! Invariants: a network is used only after that look, so a later one is never in use; only later ones that this
//! installation made are removed.

use aito_domain::ports::runtime::RuntimeError;

use crate::{
    DockerRuntime,
    engine::Network,
    translate::{INSTALLATION, MANAGED, acting, looking},
};

/// Keeps the containers of a bridge from reaching each other.
const NO_NEIGHBOURS: (&str, &str) = ("com.docker.network.bridge.enable_icc", "false");

impl DockerRuntime {
    /// The network's id; it is made when it is missing.
    pub(crate) async fn network(&self) -> Result<String, RuntimeError> {
        let mut known = self.network.lock().await;
        if let Some(id) = &*known {
            return Ok(id.clone());
        }
        let id = self.find_or_make_network().await?;
        *known = Some(id.clone());
        Ok(id)
    }

    /// Looks for it anew at the next start, unless somebody else already has.
    pub(crate) async fn forget_network(&self, id: &str) {
        let mut known = self.network.lock().await;
        if known.as_deref() == Some(id) {
            *known = None;
        }
    }

    async fn find_or_make_network(&self) -> Result<String, RuntimeError> {
        let installation = self.options.installation.to_string();
        let name = self.network_name();
        if let Some(found) = self.present_network(&name).await? {
            return Ok(found);
        }
        let labels = [(INSTALLATION, installation.as_str()), (MANAGED, "true")];
        match self.engine.create_network(&name, &labels, &[NO_NEIGHBOURS]).await {
            Ok(_) => {}
            // Somebody was quicker.
            Err(fault) if fault.is(409) => {}
            Err(fault) => return Err(acting(fault)),
        }
        let gone = || RuntimeError::Unavailable(format!("the network {name} does not stay").into());
        self.present_network(&name).await?.ok_or_else(gone)
    }

    /// The oldest of those with exactly this name.
    async fn present_network(&self, name: &str) -> Result<Option<String>, RuntimeError> {
        let found = self.engine.networks_like(name).await.map_err(looking)?;
        let mut named: Vec<Network> = found.into_iter().filter(|network| network.name == name).collect();
        let is_taken = !named.is_empty();
        let own = self.options.installation.to_string();
        let is_ours = |network: &Network| network.labels.get(INSTALLATION) == Some(&own);
        if self.options.network.is_none() {
            named.retain(is_ours);
        }
        named.sort_by_key(|network| (network.created, network.id.clone()));
        match named.split_first() {
            Some((oldest, later)) => {
                for network in later.iter().filter(|network| is_ours(network)) {
                    self.remove_later(&network.id).await;
                }
                Ok(Some(oldest.id.clone()))
            }
            None if is_taken => Err(RuntimeError::Conflict(format!(
                "the network {name} is not this installation's; remove it or name another one"
            ))),
            None => Ok(None),
        }
    }

    async fn remove_later(&self, id: &str) {
        // Somebody else may be at it; if it stays, starts say so.
        if let Err(fault) = self.engine.remove_network(id).await {
            tracing::warn!(network = %id, ?fault, "a second network of the same name is not removed");
        }
    }

    fn network_name(&self) -> String {
        self.options.network.clone().unwrap_or_else(|| {
            let id = self.options.installation.0.simple().to_string();
            format!("aito-{}", &id[..12])
        })
    }
}
