//! The directories that incarnations' credentials lie in, and the lock by which servers take turns at one incarnation.
//!
//! `<dir>/<container>/` is the server's; the lock is on it. `<dir>/<container>/agent/`, 0700 and the agent's, is what
//! the container sees, with nothing but the file `credential`, 0400, until the agent has read and removed it.
//!
//! Invariants: a file that the agent could have put there is never followed or written into; a lock ends with the
//! process that holds it.

use std::{
    collections::HashSet,
    fs, io,
    io::Write as _,
    os::{
        fd::OwnedFd,
        unix::fs::{
            DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, lchown,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use aito_domain::{
    ports::runtime::{RuntimeError, Secret},
    time::{Timestamp, between, millis},
};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use tokio::time::{MissedTickBehavior, interval};

use crate::body::CREDENTIAL;

/// How old a directory without a container must be before it is swept: another server may be about to use it.
const OLD: Duration = Duration::from_secs(600);

/// Pause between two tries for a lock.
const LOOK_AGAIN: Duration = Duration::from_millis(4);

/// Everything of one incarnation on this host.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    dir: PathBuf,
    owner: (u32, u32),
}

/// Held while a container is made, started or removed.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: OwnedFd,
    /// Whether nothing of the incarnation was there before.
    pub(crate) fresh: bool,
}

impl Place {
    /// That of a container, for a user and group.
    pub(crate) fn new(all: &Path, container: &str, owner: (u32, u32)) -> Self {
        Self { dir: all.join(container), owner }
    }

    /// What the container sees.
    pub(crate) fn own(&self) -> PathBuf {
        self.dir.join("agent")
    }

    /// Makes the directories, and the credential in new ones, and takes the lock; waits at most so long for it.
    ///
    /// # Errors
    /// `Refused` when the directories cannot be given to the agent's user, `Unavailable` for other errors of the disk
    /// or when the lock is not free in time.
    pub(crate) async fn enter(&self, credential: &Secret, at_most: Duration) -> Result<Turn, RuntimeError> {
        let tries = async {
            let mut pause = interval(LOOK_AGAIN);
            pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pause.tick().await; // the first one comes at once
                let (place, credential) = (self.clone(), credential.clone());
                if let Some(turn) = blocking(move || place.try_enter(&credential)).await? {
                    return Ok(turn);
                }
            }
        };
        tokio::time::timeout(at_most, tries).await.unwrap_or_else(|_too_long| {
            Err(RuntimeError::Unavailable("another server is at this container and does not end".into()))
        })
    }

    fn try_enter(&self, credential: &Secret) -> io::Result<Option<Turn>> {
        let fresh = match fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(at(&self.dir, error)),
        };
        let lock =
            match open(&self.dir, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                Ok(lock) => lock,
                // Removed between the two: once more.
                Err(rustix::io::Errno::NOENT) => return Ok(None),
                Err(error) => return Err(at(&self.dir, error.into())),
            };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(at(&self.dir, error.into())),
        }
        // Who held it before may have removed the directory: a lock on that is worth nothing.
        let held = rustix::fs::fstat(&lock)?;
        match fs::symlink_metadata(&self.dir) {
            Ok(there) if (there.dev(), there.ino()) == (held.st_dev, held.st_ino) => {}
            _ => return Ok(None),
        }
        let made = self.make_own()?;
        if made {
            self.write(credential)?;
        }
        Ok(Some(Turn { _lock: lock, fresh: fresh && made }))
    }

    /// Makes what the container sees; `false` when it is there.
    fn make_own(&self) -> io::Result<bool> {
        let own = self.own();
        match fs::DirBuilder::new().mode(0o700).create(&own) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(at(&own, error)),
        }
        fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).map_err(|error| at(&own, error))?;
        if let Err(error) = lchown(&own, Some(self.owner.0), Some(self.owner.1)) {
            let _ = fs::remove_dir(&own);
            return Err(at(&own, error));
        }
        Ok(true)
    }

    /// Writes the credential whole, whatever is there.
    fn write(&self, credential: &Secret) -> io::Result<()> {
        let (unfinished, file) = (self.own().join(".new"), self.own().join(CREDENTIAL));
        let written = || {
            match fs::remove_file(&unfinished) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut out =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&unfinished)?;
            out.write_all(credential.0.as_bytes())?;
            fchown(&out, Some(self.owner.0), Some(self.owner.1))?;
            fs::rename(&unfinished, &file)
        };
        written().map_err(|error| at(&file, error))
    }

    /// Puts the credential in its place again, for a container that was never started.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub(crate) async fn renew(&self, credential: &Secret) -> Result<(), RuntimeError> {
        let (place, credential) = (self.clone(), credential.clone());
        blocking(move || place.write(&credential)).await
    }

    /// Removes everything; nothing there is no error.
    ///
    /// # Errors
    /// `Unknown` when something is left.
    pub(crate) async fn remove(&self) -> Result<(), RuntimeError> {
        let place = self.clone();
        let removed = tokio::task::spawn_blocking(move || remove(&place.dir)).await;
        match removed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(RuntimeError::Unknown(error.into())),
            Err(panicked) => Err(RuntimeError::Unknown(panicked.into())),
        }
    }
}

/// Removes directories that belong to none of these containers and that nobody has touched for ten minutes.
pub(crate) async fn sweep(all: &Path, containers: HashSet<String>, now: Timestamp) {
    let dir = all.to_owned();
    let swept = tokio::task::spawn_blocking(move || {
        for entry in fs::read_dir(&dir)?.flatten() {
            let known = entry
                .file_name()
                .to_str()
                .is_none_or(|name| !name.starts_with("aito-") || containers.contains(name));
            let Ok(there) = fs::symlink_metadata(entry.path()) else { continue };
            if known || !there.is_dir() || between(millis(there.mtime() * 1000), now) < OLD {
                continue;
            }
            match remove(&entry.path()) {
                Ok(()) => {
                    tracing::info!(place = %entry.path().display(), "what was left of a container is removed")
                }
                Err(error) => {
                    tracing::warn!(place = %entry.path().display(), %error, "what is left of a container stays")
                }
            }
        }
        Ok::<_, io::Error>(())
    });
    if let Ok(Err(error)) = swept.await {
        tracing::warn!(dir = %all.display(), %error, "the agents' credentials cannot be listed");
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(dir, error)),
        _ => Ok(()),
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(RuntimeError::Refused(format!("the credential cannot be given to the agent's user: {error}")))
        }
        Ok(Err(error)) => Err(RuntimeError::Unavailable(error.into())),
        Err(panicked) => Err(RuntimeError::Unavailable(panicked.into())),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::*;

    fn place(all: &Path) -> Place {
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Place::new(all, "aito-ceo-abc234", me)
    }

    fn secret() -> Secret {
        Secret("a-credential".to_owned())
    }

    const NOW: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn the_credential_is_the_agents_alone_and_one_server_has_the_turn() {
        let all = tempfile::tempdir().unwrap();
        let place = place(all.path());
        let turn = place.enter(&secret(), NOW).await.unwrap();
        assert!(turn.fresh);
        let file = place.own().join("credential");
        assert_eq!(fs::read_to_string(&file).unwrap(), "a-credential");
        for (path, mode) in
            [(&file, 0o400), (&place.own(), 0o700), (&all.path().join("aito-ceo-abc234"), 0o700)]
        {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode, "{}", path.display());
        }
        assert!(matches!(place.enter(&secret(), NOW).await, Err(RuntimeError::Unavailable(_))));
        drop(turn);
        // An agent that has read it finds it gone for good.
        fs::remove_file(&file).unwrap();
        assert!(!place.enter(&secret(), NOW).await.unwrap().fresh);
        assert!(!file.exists());
        place.renew(&secret()).await.unwrap();
        assert!(file.exists());
        place.remove().await.unwrap();
        place.remove().await.unwrap();
        assert_eq!(fs::read_dir(all.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_the_agent_put_there_is_not_followed() {
        let all = tempfile::tempdir().unwrap();
        let place = place(all.path());
        drop(place.enter(&secret(), NOW).await.unwrap());
        let victim = all.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        for name in [".new", "credential"] {
            let _ = fs::remove_file(place.own().join(name));
            std::os::unix::fs::symlink(&victim, place.own().join(name)).unwrap();
        }
        place.renew(&secret()).await.unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert!(fs::symlink_metadata(place.own().join("credential")).unwrap().is_file());
    }

    #[tokio::test]
    async fn only_what_is_old_and_nobodys_is_swept() {
        let all = tempfile::tempdir().unwrap();
        let make = |name: &str, seconds: i64| {
            let dir = all.path().join(name);
            fs::create_dir(&dir).unwrap();
            let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, &dir, &times, AtFlags::empty()).unwrap();
        };
        make("aito-ceo-aaaaaa", 1000);
        make("aito-dao-aaaaaa", 1000);
        make("aito-cto-aaaaaa", 1500);
        make("something-else", 1000);
        sweep(all.path(), HashSet::from(["aito-dao-aaaaaa".to_owned()]), millis(1_700_000)).await;
        let mut left: Vec<_> = fs::read_dir(all.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["aito-cto-aaaaaa", "aito-dao-aaaaaa", "something-else"]);
    }
}
