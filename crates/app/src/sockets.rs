//! The directory in which agents find servers' sockets: short, owned by this user, made once.
//!
//! Invariants: a socket path holds at most 107 bytes (unix(7)); a directory that exists is used as it is,
//! since agents hold it, and refused when somebody else owns it; a socket has its name only while somebody listens, so
//! that one nobody answers on is known to be a leftover.

use std::{
    fs,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use aito_domain::id::InstallationId;
use tracing::warn;

/// The name of a server's socket: always the same for one data directory. An installation's only server has the plain
/// one.
pub(crate) fn name(data_dir: &Path, only: bool) -> String {
    if only {
        return "server.sock".to_owned();
    }
    let mut hash = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(data_dir, &mut hash);
    format!("{:016x}.sock", std::hash::Hasher::finish(&hash))
}

/// Where the directory of a new installation shall be.
pub(crate) fn choose(installation: InstallationId) -> PathBuf {
    let name = format!("aito-{}", &installation.0.simple().to_string()[20..]);
    if rustix::process::geteuid().is_root() && Path::new("/run").is_dir() {
        return Path::new("/run").join(name);
    }
    let user_dir = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute() && dir.is_dir());
    user_dir.unwrap_or_else(std::env::temp_dir).join(name)
}

/// Makes the directory if it is not there, and binds the server's socket in it; leftovers of other servers go.
pub(crate) fn bind(dir: &Path, name: &str) -> Result<UnixListener, String> {
    let failed = |why: std::io::Error| format!("cannot use the socket directory {}: {why}", dir.display());
    let path = dir.join(name);
    let aside = dir.join(format!(".{name}"));
    if aside.as_os_str().len() > 107 {
        return Err(format!(
            "socket_dir: {} is too long for a socket: 107 bytes at the most",
            path.display()
        ));
    }
    match fs::DirBuilder::new().mode(0o755).create(dir) {
        // Whatever the process's own mask takes away: agents of other users look for sockets here.
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(failed)?,
        Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(why)),
        Err(_) => {}
    }
    let found = fs::symlink_metadata(dir).map_err(failed)?;
    if found.mode() & 0o005 != 0o005 {
        warn!(dir = %dir.display(), "the socket directory is closed to other users: agents in containers of another user cannot reach this server");
    }
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!("the socket directory {} is not a directory of this user", dir.display()));
    }
    // The data directory's lock is held: whoever bound this before is gone.
    match fs::remove_file(&aside) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(failed(why)),
        _ => {}
    }
    let listener = UnixListener::bind(&aside).map_err(failed)?;
    // Everybody may connect: the credential is the guard.
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o666)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    fs::rename(&aside, &path).map_err(failed)?;
    sweep(dir, &path);
    Ok(listener)
}

/// Removes sockets on which nobody listens. Agents try them all, so each costs every one of them a try.
fn sweep(dir: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path == own || path.extension().is_none_or(|extension| extension != "sock") {
            continue;
        }
        let refused =
            UnixStream::connect(&path).is_err_and(|why| why.kind() == std::io::ErrorKind::ConnectionRefused);
        if refused {
            // Whoever else sweeps may have been faster.
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn each_server_has_a_socket_of_its_own_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (name(Path::new("/a"), false), name(Path::new("/b"), false));
        assert_ne!(one, two);
        assert_eq!(name(Path::new("/a"), true), "server.sock");
        let names = || {
            let mut all: Vec<_> =
                fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
            all.sort();
            all
        };
        let first = bind(dir.path(), &one).unwrap();
        drop(bind(dir.path(), &two).unwrap());
        assert_eq!(names().len(), 2);
        drop(first);
        let again = bind(dir.path(), &one).unwrap();
        assert_eq!(names(), [one.as_str()], "nobody listens on the other any more");
        UnixStream::connect(dir.path().join(&one)).unwrap();
        drop(again);
    }
}
