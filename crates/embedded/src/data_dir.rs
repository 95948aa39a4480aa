//! The data directory: where everything of an installation lies, and the lock by which one server holds it.
//!
//! Invariants: a [`DataDir`] is held exclusively until it is dropped or its process ends, however that ends;
//! the lock file is never removed, because a removed one could be locked twice; the installation's key lies in
//! one file, which nobody but its owner can read, and is never shown.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aito_domain::{
    id::InstallationId,
    installation::{Epoch, InstallationKey, RuntimeKind},
};
use rustix::fs::Access;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Something else has that name.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// It lies on a file system that is mounted read-only.
    #[error("{} lies on a read-only file system", .0.display())]
    ReadOnly(PathBuf),
    /// This user may not write there.
    #[error("{} is not writable for this user", .0.display())]
    NotWritable(PathBuf),
    /// It does not exist and cannot be made, or the system refuses it for another reason.
    #[error("{} cannot be used as the data directory: {source}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server holds it.
    #[error("{} is held by another server{}", path.display(), pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    HeldBy {
        /// The directory.
        path: PathBuf,
        /// The holder's process id as it wrote it; `None` while it has not done so yet.
        pid: Option<u32>,
    },
}

/// Why the installation's file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum InstallationFileError {
    /// Others could read the key.
    #[error("{} holds the installation's key but is open to others (mode {mode:04o}); run `chmod 600` on it", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not what this version writes.
    #[error("{} is not an installation's file: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong; nothing of the key.
        detail: String,
    },
    /// The system refuses it.
    #[error("{} cannot be read or written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked as long as it is open. Opened close-on-exec, so no child can hold it on.
    lock: File,
}

impl DataDir {
    /// Takes the directory, made with mode 0700 (and its parents) if it does not exist. Its path must be
    /// absolute where children of this process are to find it.
    ///
    /// # Errors
    /// [`DataDirError`] names the directory and the reason.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        let path = path.into();
        make(&path)?;
        check_writable(&path)?;
        let unusable = |source| DataDirError::Unusable { path: path.clone(), source };
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                lock.read_to_string(&mut text).map_err(unusable)?;
                return Err(DataDirError::HeldBy { pid: holder(&text), path });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        write_holder(&mut lock).map_err(unusable)?;
        let mode = fs::metadata(&path).map_err(unusable)?.mode();
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "others on this machine can look into the data directory (mode {:04o})", mode & 0o7777);
        }
        Ok(Self { path, lock })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SQLite store.
    #[must_use]
    pub fn db(&self) -> PathBuf {
        self.path.join("aito.sqlite3")
    }

    /// What local processes keep, one directory per agent.
    #[must_use]
    pub fn agents(&self) -> PathBuf {
        self.path.join("agents")
    }

    /// The agents' profiles.
    #[must_use]
    pub fn profiles(&self) -> PathBuf {
        self.path.join("profiles")
    }

    /// The installation's file.
    #[must_use]
    pub fn installation_file(&self) -> PathBuf {
        self.path.join("installation.json")
    }

    /// Reads the installation's file; `None` before the first start.
    ///
    /// # Errors
    /// It is open to others, malformed, or cannot be read.
    pub fn read_installation(&self) -> Result<Option<InstallationFile>, InstallationFileError> {
        peek(&self.path)
    }

    /// Writes the installation's file: whole or not at all, durable when this returns.
    ///
    /// # Errors
    /// The system refuses it; what stood there before stands.
    pub fn write_installation(&self, content: &InstallationFile) -> Result<(), InstallationFileError> {
        let path = self.installation_file();
        let io = |source| InstallationFileError::Io { path: path.clone(), source };
        let mut text = serde_json::to_vec_pretty(content).map_err(|error| io(error.into()))?;
        text.push(b'\n');
        // The directory is ours alone: a file of this name is what a crash left behind.
        let draft = self.path.join("installation.json.new");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(io)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io)?;
        fs::rename(&draft, &path).map_err(io)?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(io)
    }
}

/// Reads the installation's file of a data directory that somebody else may hold; `None` when there is none.
///
/// # Errors
/// It is open to others, malformed, or cannot be read.
pub fn peek(dir: &Path) -> Result<Option<InstallationFile>, InstallationFileError> {
    let path = dir.join("installation.json");
    let io = |source| InstallationFileError::Io { path: path.clone(), source };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mode = file.metadata().map_err(io)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(InstallationFileError::OpenToOthers { path, mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io)?;
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| InstallationFileError::Malformed { path, detail: error.to_string() })
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Closing would do, were it not for a child that was forked a moment ago and has not executed yet.
        let _ = self.lock.unlock();
    }
}

/// What the installation's file holds. Fields that this version does not know make it malformed: they may
/// say something that must not be ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstallationFile {
    /// Who.
    pub id: InstallationId,
    /// The life of the event log that this server knows of.
    pub epoch: Epoch,
    /// The key, 64 hexadecimal digits in the file; [`Debug`] shows its fingerprint only.
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    pub key: InstallationKey,
    /// Where agents run.
    pub runtime: RuntimeKind,
    /// The engine that they run on.
    pub engine_id: String,
    /// Where the state lies.
    pub store: StoreKind,
    /// Whether the store is known to hold the installation's record.
    #[serde(default)]
    pub recorded: bool,
    /// The directory of the sockets by which agents reach the server.
    pub socket_dir: PathBuf,
}

/// Which store an installation uses; chosen at its first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// The file in the data directory.
    Sqlite,
    /// A PostgreSQL server.
    Postgres,
}

fn make(path: &Path) -> Result<(), DataDirError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(source) => Err(match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                DataDirError::NotADirectory(path.to_owned())
            }
            io::ErrorKind::ReadOnlyFilesystem => DataDirError::ReadOnly(path.to_owned()),
            _ => DataDirError::Unusable { path: path.to_owned(), source },
        }),
    }
}

fn check_writable(path: &Path) -> Result<(), DataDirError> {
    use rustix::io::Errno;
    rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).map_err(
        |errno| match errno {
            Errno::ROFS => DataDirError::ReadOnly(path.to_owned()),
            Errno::ACCESS | Errno::PERM => DataDirError::NotWritable(path.to_owned()),
            other => DataDirError::Unusable { path: path.to_owned(), source: other.into() },
        },
    )
}

/// Writes who holds the lock: pid, and the process's start in clock ticks since boot (proc_pid_stat(5), field
/// 22), by which another process that got the same pid later is told apart.
fn write_holder(lock: &mut File) -> io::Result<()> {
    let pid = std::process::id();
    let text = match start_ticks() {
        Some(ticks) => format!("pid {pid}\nstarted {ticks}\n"),
        None => format!("pid {pid}\n"),
    };
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(text.as_bytes())
}

fn holder(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("pid ")).and_then(|pid| pid.trim().parse().ok())
}

fn start_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(22 - 3)?.parse().ok()
}

fn write_key<S: Serializer>(key: &InstallationKey, serializer: S) -> Result<S::Ok, S::Error> {
    let digits: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
    serializer.serialize_str(&digits)
}

fn read_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<InstallationKey, D::Error> {
    // No message here may repeat what stands in the file.
    let wrong = || D::Error::custom("the key must be 64 hexadecimal digits");
    let text = String::deserialize(deserializer).map_err(|_| wrong())?;
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut key = [0; 32];
    for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(InstallationKey::new(key))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn content() -> InstallationFile {
        InstallationFile {
            id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            epoch: "abcd2345".parse().unwrap(),
            key: InstallationKey::new(std::array::from_fn(|n| u8::try_from(n * 7).unwrap())),
            runtime: RuntimeKind::Process,
            engine_id: "local".into(),
            store: StoreKind::Sqlite,
            recorded: true,
            socket_dir: "/run/user/1000/aito-x".into(),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_missing_directory_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let dir = DataDir::open(&path).unwrap();
        assert_eq!((mode(&path), mode(&path.join("lock"))), (0o700, 0o600));
        assert_eq!(dir.db(), path.join("aito.sqlite3"));
    }

    #[test]
    fn a_held_directory_names_its_holder_and_is_free_afterwards() {
        let parent = tempfile::tempdir().unwrap();
        let first = DataDir::open(parent.path()).unwrap();
        let text = fs::read_to_string(parent.path().join("lock")).unwrap();
        assert!(text.lines().any(|line| line.starts_with("started ")), "{text}");
        let error = DataDir::open(parent.path()).unwrap_err();
        assert!(matches!(error, DataDirError::HeldBy { pid: Some(pid), .. } if pid == std::process::id()));
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        DataDir::open(parent.path()).unwrap();
    }

    #[test]
    fn a_child_does_not_hold_the_lock_on() {
        let parent = tempfile::tempdir().unwrap();
        let first = DataDir::open(parent.path()).unwrap();
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        drop(first);
        let again = DataDir::open(parent.path());
        child.kill().unwrap();
        child.wait().unwrap();
        again.unwrap();
    }

    #[test]
    fn what_cannot_be_the_directory_is_named_with_the_reason() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataDir::open(&file), Err(DataDirError::NotADirectory(path)) if path == file));
        let below = file.join("below");
        assert!(matches!(DataDir::open(&below), Err(DataDirError::NotADirectory(path)) if path == below));
        // No user may make anything there, not even root.
        let refused = DataDir::open("/proc/aito").unwrap_err();
        assert!(refused.to_string().starts_with("/proc/aito cannot be used"), "{refused}");
    }

    #[test]
    fn the_installation_is_read_as_it_was_written() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        assert_eq!(dir.read_installation().unwrap(), None);
        fs::write(parent.path().join("installation.json.new"), "left by a crash").unwrap();
        dir.write_installation(&content()).unwrap();
        assert_eq!(dir.read_installation().unwrap(), Some(content()));
        assert_eq!(mode(&dir.installation_file()), 0o600);
        let other = InstallationFile { engine_id: "other".into(), ..content() };
        dir.write_installation(&other).unwrap();
        assert_eq!(dir.read_installation().unwrap(), Some(other));
        let mut names: Vec<_> =
            fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["installation.json", "lock"]);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        dir.write_installation(&content()).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(dir.installation_file(), fs::Permissions::from_mode(mode)).unwrap();
            let error = dir.read_installation().unwrap_err();
            assert!(matches!(error, InstallationFileError::OpenToOthers { mode: seen, .. } if seen == mode));
        }
    }

    #[test]
    fn a_malformed_file_is_refused_without_showing_the_key() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        let good = serde_json::to_value(content()).unwrap();
        let key = good["key"].as_str().unwrap().to_owned();
        assert!(!format!("{:?}", content()).contains(&key[..16]));
        let mut unknown = good.clone();
        unknown["mood"] = "fine".into();
        let mut short = good.clone();
        short["key"] = key[..60].into();
        let mut strange = good.clone();
        strange["key"] = format!("{}é", &key[..62]).into();
        for bad in [unknown, short, strange] {
            dir.write_installation(&content()).unwrap();
            fs::write(dir.installation_file(), bad.to_string()).unwrap();
            let error = dir.read_installation().unwrap_err();
            assert!(matches!(error, InstallationFileError::Malformed { .. }), "{error}");
            assert!(!error.to_string().contains(&key[..16]), "{error}");
        }
    }
}
