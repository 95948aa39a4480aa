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
    engine::{Inspected, Mounted},
    translate::{Phase, looking, phase},
};

/// How many digits of its id an engine gives a container as host name, and the fewest that are taken for such.
const SHORT_ID: usize = 12;

/// What a process sees of the machine that it runs on.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// What `/proc/self/mountinfo` says.
    pub mountinfo: String,
    /// The host name.
    pub hostname: String,
    /// Whether there is a file `/.dockerenv`, which an engine puts into its containers. It is no proof: it stays in a
    /// disk that was made from an image.
    pub dockerenv: bool,
}

impl Surroundings {
    /// Those of this process.
    pub fn own() -> Self {
        Self {
            mountinfo: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            dockerenv: fs::exists("/.dockerenv").unwrap_or(false),
        }
    }

    /// The id of the container that this surely is.
    fn container(&self) -> Option<&str> {
        // The engine keeps these three files in a directory with the container's id, wherever its data lies.
        self.mountinfo.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(3);
            let (root, place) = (fields.next()?, fields.next()?);
            let file = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&place);
            root.split('/').find(|part| file && part.len() == 64 && is_hex(part))
        })
    }

    /// The host name, where it may tell which container this is.
    fn name(&self) -> Option<&str> {
        self.dockerenv.then_some(self.hostname.as_str())
    }

    /// Whether a container that the engine found by the host name is this one. The engine finds by name and by the
    /// beginning of an id as well, so it may be any other.
    fn is(&self, found: &Inspected) -> bool {
        let host = &self.hostname;
        let by_id = host.len() >= SHORT_ID && is_hex(host) && found.id.starts_with(host.as_str());
        by_id || found.hostname == *host
    }
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
        let own = tokio::task::spawn_blocking(Surroundings::own).await;
        let own = own.map_err(|panicked| RuntimeError::Unavailable(panicked.into()))?;
        self.verify_host_paths_from(paths, &own).await
    }

    /// [`Self::verify_host_paths`] for a server in these surroundings.
    ///
    /// # Errors
    /// The same.
    pub async fn verify_host_paths_from(
        &self,
        paths: &[PathBuf],
        own: &Surroundings,
    ) -> Result<(), RuntimeError> {
        let id = own.container();
        let by_id = id.map(|id| (id, true));
        for (name, sure) in by_id.into_iter().chain(own.name().map(|name| (name, false))) {
            match self.engine.inspect(name).await {
                Ok(Some(found)) if phase(&found.status) == Phase::Running && (sure || own.is(&found)) => {
                    return paths.iter().try_for_each(|path| same_place(path, &found.mounts));
                }
                Ok(_) => {}
                // A host's name need not be one that an engine can have.
                Err(fault) if fault.is(400) => {}
                Err(fault) => return Err(looking(fault)),
            }
        }
        if id.is_some() {
            return Err(RuntimeError::Refused(
                "this server runs in a container that the Docker engine does not know, so agents cannot be given its directories; use the socket of the engine that runs this container, with the container's own host name".to_owned(),
            ));
        }
        Ok(())
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
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
        let own = |mountinfo: String| Surroundings { mountinfo, hostname: "web".to_owned(), dockerenv: true };
        assert_eq!(own(mountinfo).container(), Some(id.as_str()));
        assert_eq!(own("1 2 8:1 / / rw - ext4 /dev/vda rw\n".to_owned()).container(), None);
    }

    #[test]
    fn a_host_name_is_a_container_by_its_short_id_or_as_its_host_name_only() {
        let id = "0f".repeat(32);
        let is = |hostname: &str, id: &str, its: &str| {
            let own =
                Surroundings { mountinfo: String::new(), hostname: hostname.to_owned(), dockerenv: true };
            own.is(&Inspected {
                id: id.to_owned(),
                name: hostname.to_owned(),
                hostname: its.to_owned(),
                ..Inspected::default()
            })
        };
        assert!(is(&id[..12], &id, "web") && is("web", &id, "web"));
        // A name, the beginning of an id that is too short, and a name that looks like one.
        assert!(!is("web", &id, "web1") && !is("0f0f", &id, "web") && !is("abcdefabcdef", &id, "web"));
    }
}
