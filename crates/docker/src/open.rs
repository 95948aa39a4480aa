//! What the runtime needs to know, and how it is opened.
//!
//! Invariant: opening asks no engine, so that the engine may come up later.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
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
    /// else to enter: it must be this user's, and gets mode 0700. It is made when it is missing.
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
    /// What is in the place of the credentials' directory is not fit for them.
    #[error("cannot use {} for credentials: {why}", path.display())]
    Unfit {
        /// Which path.
        path: PathBuf,
        /// What it is.
        why: String,
    },
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
    /// [`OpenError`] when the directory of the credentials is relative, cannot be made, or is not this user's alone.
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

/// Makes the directory, with parents as others are, and sees to it that nobody else can enter it.
fn make_dir(dir: &Path) -> Result<(), OpenError> {
    // Without a slash at the end, which would lead through a link.
    let dir = &dir.components().collect::<PathBuf>();
    let failed = |source| OpenError::Io { path: dir.clone(), source };
    let unfit = |why| Err(OpenError::Unfit { path: dir.clone(), why });
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let there = fs::symlink_metadata(dir).map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    if !there.is_dir() {
        return unfit("it is no directory".to_owned());
    }
    if there.uid() != own {
        return unfit(format!("it is user {}'s, and this server is user {own}", there.uid()));
    }
    if there.mode() & 0o7777 != 0o700 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn unfit(path: &Path) -> String {
        match make_dir(path) {
            Err(OpenError::Unfit { path: named, why }) => {
                assert_eq!(named, path.components().collect::<PathBuf>());
                why
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_last_directory_is_private_and_its_parents_are_as_usual() {
        let all = tempfile::tempdir().unwrap();
        fs::create_dir(all.path().join("usual")).unwrap();
        let usual = mode(&all.path().join("usual"));
        let dir = all.path().join("a/b/c");
        make_dir(&dir).unwrap();
        for (path, wanted) in [("a", usual), ("a/b", usual), ("a/b/c", 0o700)] {
            assert_eq!(mode(&all.path().join(path)), wanted, "{path}");
        }
        // One that was there before is closed to others, and what is in it stays.
        fs::write(dir.join("x"), "").unwrap();
        for open in [0o755, 0o1777, 0o2750, 0o500] {
            fs::set_permissions(&dir, fs::Permissions::from_mode(open)).unwrap();
            make_dir(&dir).unwrap();
            assert_eq!(mode(&dir), 0o700, "{open:o}");
        }
        assert!(dir.join("x").exists());
    }

    #[test]
    fn what_is_no_directory_of_this_user_is_refused_by_name_and_not_changed() {
        let all = tempfile::tempdir().unwrap();
        let (dir, link, file) = (all.path().join("dir"), all.path().join("link"), all.path().join("file"));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&dir, &link).unwrap();
        fs::write(&file, "").unwrap();
        for path in [link.clone(), file.clone(), all.path().join("link/")] {
            assert!(unfit(&path).contains("no directory"), "{}", path.display());
        }
        assert_eq!(mode(&dir), 0o755);
        // Somebody else's: root can make such a one, and for others what is root's is one.
        let other = if rustix::process::geteuid().is_root() {
            lchown(&dir, Some(65_532), None).unwrap();
            dir
        } else {
            PathBuf::from("/usr")
        };
        let before = mode(&other);
        assert!(unfit(&other).contains("user"), "{}", other.display());
        assert_eq!(mode(&other), before);
        assert!(matches!(make_dir(&file.join("under")), Err(OpenError::Io { .. })));
    }
}
