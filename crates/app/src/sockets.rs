//! The directory in which agents find servers' sockets: short, owned by this user, made once.
//!
//! Invariants: a socket path holds at most 107 bytes (unix(7)); a directory that exists is used as it is,
//! since agents hold it, and refused when somebody else owns it.

use std::{
    fs,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use aito_domain::id::InstallationId;

/// The name of the one server of an embedded installation.
const SOCKET: &str = "server.sock";

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

/// Makes the directory if it is not there, and binds the server's socket in it.
pub(crate) fn bind(dir: &Path) -> Result<UnixListener, String> {
    let failed = |why: std::io::Error| format!("cannot use the socket directory {}: {why}", dir.display());
    let path = dir.join(SOCKET);
    if path.as_os_str().len() > 107 {
        return Err(format!(
            "socket_dir: {} is too long for a socket: 107 bytes at the most",
            path.display()
        ));
    }
    match fs::DirBuilder::new().mode(0o755).create(dir) {
        Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(why)),
        _ => {}
    }
    let found = fs::symlink_metadata(dir).map_err(failed)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!("the socket directory {} is not a directory of this user", dir.display()));
    }
    // The data directory's lock is held: whoever bound this before is gone.
    match fs::remove_file(&path) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(failed(why)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    // Everybody may connect: the credential is the guard.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}
