//! The runtime that agents live in: chosen once, at an installation's first start, and opened.
//!
//! Invariants: a choice that was made is kept; what is chosen by itself is said with the reason; an engine may be away,
//! it is found when it comes.

use std::{path::Path, sync::Arc};

use aito_docker::{DockerEngine, DockerRuntime};
use aito_domain::{
    id::InstallationId,
    installation::RuntimeKind,
    ports::{
        clock::Clock,
        runtime::{ContainerRuntime, RuntimeError},
    },
};
use aito_embedded::{data_dir::InstallationFile, process::ProcessRuntime};
use tracing::warn;

use crate::{
    config::{Config, DockerConfig, RuntimeChoice},
    installation::chain,
};

/// The user that containers run as when the server is root: one that no system gives to anybody.
const NOBODY: u32 = 65_532;

/// The kind of runtime, and why.
pub(crate) struct Chosen {
    pub(crate) kind: RuntimeKind,
    pub(crate) why: String,
    /// The engine's name; empty when it does not answer yet.
    pub(crate) engine_id: String,
}

/// Chooses for a start. `before`: what this installation was begun with.
pub(crate) async fn choose(config: &Config, before: Option<RuntimeKind>) -> Result<Chosen, String> {
    let asked = match config.runtime {
        RuntimeChoice::Auto => None,
        RuntimeChoice::Process => Some(RuntimeKind::Process),
        RuntimeChoice::Docker => Some(RuntimeKind::Docker),
    };
    let (kind, why) = match (asked, before) {
        (Some(asked), Some(before)) if asked != before => {
            return Err(format!(
                "runtime from the configuration is {asked}: this installation runs its agents as {before}, \
                 chosen at its first start"
            ));
        }
        (Some(asked), _) => (asked, "as configured".to_owned()),
        (None, Some(before)) => (before, "as at the first start".to_owned()),
        (None, None) => match engine_for(config).await {
            Ok(()) => {
                (RuntimeKind::Docker, "a Docker engine answers and has the image of every agent".to_owned())
            }
            Err(why) => (RuntimeKind::Process, why),
        },
    };
    let engine_id = match kind {
        RuntimeKind::Process => aito_embedded::process::engine_id(),
        RuntimeKind::Docker => probe(config)?.id().await.unwrap_or_default(),
    };
    Ok(Chosen { kind, why, engine_id })
}

/// Whether an engine could run all agents; the text says why not.
async fn engine_for(config: &Config) -> Result<(), String> {
    let engine = probe(config).map_err(|_| "no Docker engine is configured".to_owned())?;
    engine.ping().await.map_err(|_| "no Docker engine answers".to_owned())?;
    for image in config.agents.iter().filter_map(|spec| spec.image.as_deref()) {
        let there = engine
            .has_image(image)
            .await
            .map_err(|why| format!("the Docker engine fails: {}", chain(&why)))?;
        if !there {
            return Err(format!("the Docker engine has no image {image}"));
        }
    }
    Ok(())
}

/// The name of the engine that answers.
pub(crate) async fn engine_id(config: &Config) -> Result<String, String> {
    probe(config)?.id().await.map_err(|why| format!("the Docker engine: {}", chain(&why)))
}

/// An engine that is only asked.
fn probe(config: &Config) -> Result<DockerEngine, String> {
    DockerEngine::at(config.docker.socket.clone()?, aito_docker::Options::CALL_TIMEOUT)
        .map_err(|why| chain(&why))
}

/// Opens the runtime of an installation.
pub(crate) async fn open(
    config: &Config,
    installation: &InstallationFile,
    agents_dir: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn ContainerRuntime>, String> {
    match installation.runtime {
        RuntimeKind::Process => {
            let options = aito_embedded::process::Options {
                installation: installation.id,
                dir: agents_dir.to_owned(),
                program: aito_embedded::process::Options::OWN_PROGRAM.into(),
                clock: clock.clone(),
            };
            Ok(Arc::new(ProcessRuntime::open(options).map_err(|why| chain(&why))?))
        }
        RuntimeKind::Docker => {
            let dir = credentials_dir(&installation.socket_dir);
            let runtime = docker(&config.docker, installation.id, &dir, clock)?;
            let shared = [installation.socket_dir.clone(), dir, agents_dir.to_owned()];
            match runtime.verify_host_paths(&shared).await {
                Ok(()) => {}
                Err(RuntimeError::Refused(why)) => return Err(why),
                Err(why) => warn!(why = chain(&why), "the Docker engine does not answer yet"),
            }
            Ok(runtime)
        }
    }
}

/// Where containers' credentials lie on the host until they are read: beside the sockets, which all containers see,
/// and not among them.
pub(crate) fn credentials_dir(socket_dir: &Path) -> std::path::PathBuf {
    let mut name = socket_dir.file_name().unwrap_or_default().to_owned();
    name.push("-agents");
    socket_dir.with_file_name(name)
}

fn docker(
    config: &DockerConfig,
    installation: InstallationId,
    credentials_dir: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<DockerRuntime>, String> {
    use aito_docker::Options;
    let own = |id: u32| if id == 0 { NOBODY } else { id };
    let options = Options {
        socket: config.socket.clone()?,
        installation,
        network: config.network.clone(),
        credentials_dir: credentials_dir.to_owned(),
        default_image: config.image.clone(),
        uid: own(rustix::process::geteuid().as_raw()),
        gid: own(rustix::process::getegid().as_raw()),
        clock: clock.clone(),
        call_timeout: Options::CALL_TIMEOUT,
        start_timeout: Options::START_TIMEOUT,
    };
    DockerRuntime::open(options).map_err(|why| chain(&why))
}
