//! What the runtime needs to know, and how it is opened.
//!
//! Invariant: opening asks no engine, so that the engine may come up later.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use aito_domain::{
    agent::Exit,
    fleet::ContainerKey,
    id::InstallationId,
    ports::{clock::Clock, runtime::RuntimeError},
};

use crate::{
    body::Common,
    credentials::Place,
    engine::{Engine, Inspected, TimeLimits},
    translate,
};

/// What the runtime needs to know.
#[derive(Clone)]
pub struct Options {
    /// The engine's socket.
    pub socket: PathBuf,
    /// Whose agents these are.
    pub installation: InstallationId,
    /// The name of the agents' network. One that exists is used as it is; `None` is a network of this installation's
    /// own. One that this makes lets agents reach the world and not each other.
    pub network: Option<String>,
    /// Where incarnations' credentials lie: absolute, the same path for the engine as for this server, for nobody
    /// else to enter. It is made when it is missing.
    pub credentials_dir: PathBuf,
    /// The image of agents whose specification names none.
    pub default_image: String,
    /// The user that agents run as.
    pub uid: u32,
    /// The group that agents run as.
    pub gid: u32,
    /// Says when statistics were read, and how old things are.
    pub clock: Arc<dyn Clock>,
    /// The longest that a call to the engine may take.
    pub call_timeout: Duration,
    /// The longest that the creation, start or removal of a container may take.
    pub start_timeout: Duration,
}

impl Options {
    /// Where an engine listens unless it was told otherwise.
    pub const SOCKET: &str = "/var/run/docker.sock";
    /// A fit [`Self::call_timeout`].
    pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
    /// A fit [`Self::start_timeout`].
    pub const START_TIMEOUT: Duration = Duration::from_secs(30);
}

/// Why the runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The engine would mean another directory by it.
    #[error("{} is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// The directory of the credentials cannot be made.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Agents as containers of a Docker engine; see the crate.
pub struct DockerRuntime {
    pub(crate) options: Options,
    pub(crate) engine: Arc<Engine>,
    /// The network's id, once it is known.
    pub(crate) network: tokio::sync::Mutex<Option<String>>,
    /// How containers that were listed as ended have ended, by id.
    pub(crate) exits: Mutex<HashMap<String, Exit>>,
    /// Programs that were found in an image, by the image's id.
    pub(crate) programs: Mutex<HashSet<(String, String)>>,
    /// When leftovers were last looked for.
    pub(crate) swept: Mutex<Option<Duration>>,
}

impl DockerRuntime {
    /// Opens the runtime; the engine may be down.
    ///
    /// # Errors
    /// [`OpenError`] when the directory of the credentials is relative or cannot be made.
    pub fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        for path in [&options.credentials_dir, &options.socket] {
            if !path.is_absolute() {
                return Err(OpenError::Relative(path.clone()));
            }
        }
        make_dir(&options.credentials_dir)?;
        let limits = TimeLimits { call: options.call_timeout, start: options.start_timeout };
        let engine = Arc::new(Engine::new(options.socket.clone(), limits));
        Ok(Arc::new(Self {
            options,
            engine,
            network: tokio::sync::Mutex::default(),
            exits: Mutex::default(),
            programs: Mutex::default(),
            swept: Mutex::default(),
        }))
    }

    pub(crate) fn name(&self, key: &ContainerKey) -> String {
        key.name(self.options.installation)
    }

    pub(crate) fn place(&self, key: &ContainerKey) -> Place {
        let owner = (self.options.uid, self.options.gid);
        Place::new(&self.options.credentials_dir, &self.name(key), owner)
    }

    pub(crate) fn common(&self) -> Common<'_> {
        Common {
            installation: self.options.installation,
            default_image: &self.options.default_image,
            uid: self.options.uid,
            gid: self.options.gid,
        }
    }

    /// The container of this key; one that only has its name is none.
    pub(crate) async fn find(&self, key: &ContainerKey) -> Result<Option<Inspected>, RuntimeError> {
        let found = self.engine.inspect(&self.name(key)).await.map_err(translate::looking)?;
        Ok(found.filter(|found| translate::is_of(self.options.installation, key, found)))
    }
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| OpenError::Io { path: dir.to_owned(), source })
}
