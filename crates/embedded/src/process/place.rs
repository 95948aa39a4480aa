//! Where an agent's incarnations lie on disk, and the lock that says which one lives.
//!
//! Layout: `<agents>/<type>/lock` and `<agents>/<type>/<incarnation>/{state.json, exit.json, exit.running, stop, log,
//! log.1…, secret/credential}`. Invariants: records appear whole or not at all (written aside, synced, renamed); an
//! incarnation's directory is made under the agent's lock only; a directory without `state.json` whose
//! incarnation does not hold the lock is what a failed start left, and means nothing.
//!
//! The lock is an fcntl(2) record lock and not flock(2): who holds it can be asked (`F_GETLK`) without taking it
//! for a moment and so disturbing a start.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use aito_domain::id::{AgentId, Incarnation};
use rustix::{
    fs::{FlockOperation, fcntl_lock},
    process::{Flock, FlockType, fcntl_getlk},
};
use serde::{Serialize, de::DeserializeOwned};

/// The directory of one agent type.
#[derive(Debug, Clone)]
pub(crate) struct AgentPlace(pub PathBuf);

/// The directory of one incarnation.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    dir: PathBuf,
}

impl AgentPlace {
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(crate) fn incarnation(&self, incarnation: Incarnation) -> Place {
        Place { dir: self.0.join(incarnation.to_string()) }
    }

    /// The incarnations that have a directory, in rising order.
    pub(crate) fn incarnations(&self) -> io::Result<Vec<Incarnation>> {
        let mut found = Vec::new();
        for entry in present(fs::read_dir(&self.0))?.into_iter().flatten() {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
            // Only the one way in which the number is written: `08` is nobody's directory.
            found.extend(number.filter(|n| name.to_str() == Some(&n.to_string())).map(Incarnation));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes what was moved aside to be removed, and directories of starts that never came to be. The caller
    /// holds the lock.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(REMOVED) {
                present(fs::remove_dir_all(entry.path()))?;
            }
        }
        for incarnation in self.incarnations()? {
            let place = self.incarnation(incarnation);
            if !place.state().exists() && !place.exit().exists() {
                present(fs::remove_dir_all(place.dir()))?;
            }
        }
        Ok(())
    }
}

/// How the names of directories begin that are being removed.
const REMOVED: &str = ".removed-";

impl Place {
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }
    pub(crate) fn exit(&self) -> PathBuf {
        self.dir.join("exit.json")
    }
    /// Room for the exit's record, taken before the start so that a disk that is full at the end has it.
    pub(crate) fn reserved_exit(&self) -> PathBuf {
        self.dir.join("exit.reserved")
    }
    /// The same room from the moment on at which the agent runs: so its name tells that.
    pub(crate) fn running(&self) -> PathBuf {
        self.dir.join("exit.running")
    }
    pub(crate) fn stop(&self) -> PathBuf {
        self.dir.join("stop")
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
    pub(crate) fn secret_dir(&self) -> PathBuf {
        self.dir.join("secret")
    }
    pub(crate) fn credential(&self) -> PathBuf {
        self.secret_dir().join("credential")
    }

    /// Makes all of it disappear; whoever looks meanwhile sees it whole or not at all.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let (Some(parent), Some(name)) = (self.dir.parent(), self.dir.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let aside = parent.join(format!("{REMOVED}{}-{}", name.to_string_lossy(), unique()));
        if present(fs::rename(&self.dir, &aside))?.is_none() {
            return Ok(());
        }
        sync_dir(parent)?;
        present(fs::remove_dir_all(aside)).map(|_| ())
    }
}

/// Makes a directory, and those above it, that only its owner may enter; being there is no error.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// `None` for what is not there.
pub(crate) fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a record; `None` when there is none. One that cannot be understood is an error of kind `InvalidData`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = present(fs::read(path))? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

/// Writes a record of which a reader sees all or nothing, before and after a crash.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_whole(path, &serde_json::to_vec(value)?)
}

/// [`write_json`] for bytes.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let aside = parent.join(format!(".aside-{}", unique()));
    let written = create_private(&aside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&aside, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    sync_dir(parent)
}

/// A new file that only its owner may read.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A text that no other call of any living process gives.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The agent's lock, held until this is dropped. Whoever holds it must not open the file a second time: closing
/// any descriptor of it would release it.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and writes into it for whom; `None` when another process holds it.
    pub(crate) fn take(place: &AgentPlace, owner: Owner) -> io::Result<Option<Self>> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(place.lock_file())?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(
            format!("{} {} {}\n", std::process::id(), owner.incarnation, owner.agent_id).as_bytes(),
        )?;
        Ok(Some(Self { _file: file }))
    }
}

/// Whom a lock is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub agent_id: AgentId,
    pub incarnation: Incarnation,
}

/// That somebody holds an agent's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    /// For whom; `None` while it has not written that yet.
    pub owner: Option<Owner>,
}

/// Asks who holds the lock, without touching it.
pub(crate) fn holder(place: &AgentPlace) -> io::Result<Option<Holder>> {
    let Some(mut file) = present(File::open(place.lock_file()))? else { return Ok(None) };
    let Some(found) = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))? else { return Ok(None) };
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    // What the file says is the last holder's until the present one has written; its pid tells them apart.
    let pid = found.pid.map(rustix::process::Pid::as_raw_pid);
    let owner = owner(&text).filter(|(wrote, _)| Some(*wrote) == pid).map(|(_, owner)| owner);
    Ok(Some(Holder { owner }))
}

/// Reads what a holder wrote into the file.
fn owner(text: &str) -> Option<(i32, Owner)> {
    let mut words = text.strip_suffix('\n')?.split(' ');
    let pid = words.next()?.parse().ok()?;
    let incarnation = Incarnation(words.next()?.parse().ok()?);
    Some((pid, Owner { incarnation, agent_id: words.next()?.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, AgentPlace) {
        let dir = tempfile::tempdir().unwrap();
        let place = AgentPlace(dir.path().to_owned());
        (dir, place)
    }

    #[test]
    fn only_numbers_as_they_are_written_are_incarnations() {
        let (dir, place) = place();
        for name in ["1", "10", "2", "02", "-3", "x", ".removed-4-1-1"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(place.incarnations().unwrap(), [Incarnation(1), Incarnation(2), Incarnation(10)]);
        assert_eq!(AgentPlace(dir.path().join("none")).incarnations().unwrap(), []);
    }

    #[test]
    fn a_sweep_removes_what_failed_starts_and_interrupted_removals_left() {
        let (dir, place) = place();
        for n in 1..=3 {
            fs::create_dir(place.incarnation(Incarnation(n)).dir()).unwrap();
        }
        fs::write(place.incarnation(Incarnation(2)).state(), "{}").unwrap();
        fs::create_dir(dir.path().join(".removed-9-1-1")).unwrap();
        place.sweep().unwrap();
        assert_eq!(place.incarnations().unwrap(), [Incarnation(2)]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        place.incarnation(Incarnation(2)).remove().unwrap();
        place.incarnation(Incarnation(2)).remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn records_are_private_and_leave_nothing_aside() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, _) = place();
        let path = dir.path().join("record");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        write_json(&path, &1).unwrap();
        write_json(&path, &2).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(2));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, "{").unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_lock_file_that_was_not_written_whole_names_nobody() {
        let agent_id = AgentId(uuid::Uuid::from_u128(7));
        let whole = format!("42 8 {agent_id}\n");
        assert_eq!(owner(&whole), Some((42, Owner { agent_id, incarnation: Incarnation(8) })));
        for torn in ["", "42", "42 8\n", &whole[..whole.len() - 1], &whole[..10]] {
            assert_eq!(owner(torn), None, "{torn}");
        }
    }
}
