//! Whether paths of this server mean the same to the engine.
//!
//! A server in a container of the engine sees other files than the engine does, except where a directory of the host
//! is mounted at the same place.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aito_domain::ports::runtime::RuntimeError;

use crate::{
    DockerRuntime,
    engine::Mounted,
    translate::{Phase, looking, phase},
};

/// What a container can know of itself.
#[derive(Debug, Clone, Default)]
struct OwnContainer {
    /// Ids or names under which the engine may know it, the surest first.
    names: Vec<String>,
    /// Whether it surely is one. The file `/.dockerenv` is no proof: it stays in a disk that was made from an image.
    certain: bool,
}

impl DockerRuntime {
    /// Checks that each path is the same directory for the engine as for this server. They are when the server does
    /// not run in a container of the engine, or when the path lies on a directory of the host that is mounted at the
    /// same place.
    ///
    /// # Errors
    /// `Refused` with what to mount, or when the server runs in a container that this engine does not know;
    /// `Unavailable` when the engine does not answer.
    pub async fn verify_host_paths(&self, paths: &[PathBuf]) -> Result<(), RuntimeError> {
        let own = tokio::task::spawn_blocking(own_container).await;
        let own = own.map_err(|panicked| RuntimeError::Unavailable(panicked.into()))?;
        self.verify(paths, &own).await
    }

    async fn verify(&self, paths: &[PathBuf], own: &OwnContainer) -> Result<(), RuntimeError> {
        for name in &own.names {
            match self.engine.inspect(name).await {
                Ok(Some(found)) if phase(&found.status) == Phase::Running => {
                    return paths.iter().try_for_each(|path| same_place(path, &found.mounts));
                }
                Ok(_) => {}
                // A host's name need not be one that an engine can have.
                Err(fault) if fault.is(400) => {}
                Err(fault) => return Err(looking(fault)),
            }
        }
        if own.certain {
            return Err(RuntimeError::Refused(
                "this server runs in a container that the Docker engine does not know, so agents cannot be given its directories; use the socket of the engine that runs this container, with the container's own host name".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Finds out from this machine's files whether this is a container.
fn own_container() -> OwnContainer {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    own_from(&mounts, host)
}

fn own_from(mountinfo: &str, host: String) -> OwnContainer {
    // The engine keeps these three files in a directory with the container's id, wherever its data lies.
    let ids = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let file = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&place);
        root.split('/').find(|part| file && part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    let id = ids.map(str::to_owned).next();
    OwnContainer { certain: id.is_some(), names: id.into_iter().chain([host]).collect() }
}

/// Whether the mount that a path lies on shows the host's directory of the same name.
fn same_place(path: &Path, mounts: &[Mounted]) -> Result<(), RuntimeError> {
    let over = mounts.iter().filter(|mount| path.starts_with(&mount.destination));
    match over.max_by_key(|mount| mount.destination.len()) {
        Some(mount) if mount.kind == "bind" && mount.source == mount.destination => Ok(()),
        _ => {
            let shown = path.display();
            Err(RuntimeError::Refused(format!(
                "this server runs in a container, and agents need {shown} of the host at the same place: mount it with --volume {shown}:{shown}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, destination: &str) -> Mounted {
        Mounted { kind: kind.to_owned(), source: source.to_owned(), destination: destination.to_owned() }
    }

    #[test]
    fn a_path_must_lie_on_the_hosts_directory_of_the_same_name() {
        let mounts = [
            mount("bind", "/srv/aito", "/srv/aito"),
            mount("bind", "/var/x", "/run/aito"),
            mount("volume", "/var/lib/docker/volumes/v/_data", "/srv/aito/data"),
        ];
        let is_fine = |path: &str| same_place(Path::new(path), &mounts).is_ok();
        assert!(is_fine("/srv/aito") && is_fine("/srv/aito/agents"));
        for bad in ["/run/aito/sockets", "/srv/aito/data/agents", "/srv/aito2", "/tmp"] {
            match same_place(Path::new(bad), &mounts) {
                Err(RuntimeError::Refused(why)) => assert!(why.contains(&format!("{bad}:{bad}")), "{why}"),
                other => panic!("{bad}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_container_knows_its_id_from_the_files_that_the_engine_mounts() {
        let id = "0f".repeat(32);
        let mountinfo = format!(
            "1 2 8:1 / / rw - overlay overlay rw\n\
             3 2 8:1 /srv/{id} /data rw - ext4 /dev/vda rw\n\
             4 2 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/vda rw\n"
        );
        let own = own_from(&mountinfo, "web".to_owned());
        assert!(own.certain);
        assert_eq!(own.names, [id, "web".to_owned()]);
        let host = own_from("1 2 8:1 / / rw - ext4 /dev/vda rw\n", "vm".to_owned());
        assert!(!host.certain && host.names == ["vm"]);
    }
}
