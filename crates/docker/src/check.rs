//! Whether a start could succeed, without making it.
//!
//! Invariants: nothing is changed but a container that shows an image's files: it never runs, belongs to no agent and
//! is removed at once, or by the sweep when the server dies in between. What was found is remembered, what was
//! missing is asked for again.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{MutexGuard, PoisonError},
};

use aito_domain::{ports::runtime::RuntimeError, spec::AgentSpec};
use serde_json::json;

use crate::{
    DockerRuntime,
    body::{command, image, paths, refused},
    translate::{PROBE, acting, looking},
};

impl DockerRuntime {
    pub(crate) async fn check_spec(&self, spec: &AgentSpec) -> Result<(), RuntimeError> {
        paths(spec)?;
        let command = command(spec)?;
        let reader = (self.options.uid, self.options.gid);
        let (on_host, wanted) = (files(spec), command.and_then(|command| program(spec, &command[0])));
        let by_mount = match &wanted {
            Some(Program::Mounted(path)) => vec![("command", path.clone())],
            _ => Vec::new(),
        };
        let missing = tokio::task::spawn_blocking(move || {
            on_host.into_iter().chain(by_mount).find_map(|(field, path)| unusable(field, &path, reader))
        });
        match missing.await {
            Ok(None) => {}
            Ok(Some(refusal)) => return Err(refusal),
            Err(panicked) => return Err(RuntimeError::Unavailable(panicked.into())),
        }
        let name = image(spec, &self.options.default_image);
        let Some(found) = self.engine.image(name).await.map_err(looking)? else {
            return Err(refused("image", &format!("{name} is not on this engine")));
        };
        match wanted {
            None if command.is_none() && !found.has_program => {
                Err(refused("command", &format!("is not given, and {name} has none of its own")))
            }
            Some(Program::InImage(path)) if !self.holds(&found.id, &path).await? => {
                Err(refused("command", &format!("{path} is not in {name}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether an image has this file.
    async fn holds(&self, image: &str, path: &str) -> Result<bool, RuntimeError> {
        let wanted = (image.to_owned(), path.to_owned());
        if self.found_programs().contains(&wanted) {
            return Ok(true);
        }
        let installation = self.options.installation.to_string();
        let body = json!({
            "Image": image,
            "Entrypoint": [],
            "Cmd": ["never-started"],
            "Labels": { PROBE: installation },
            "HostConfig": { "NetworkMode": "none" },
        });
        let probe = self.engine.create(None, &body).await.map_err(acting)?;
        let found = self.engine.has_file(&probe, path).await;
        let removed = self.engine.remove(&probe).await;
        let found = found.map_err(looking)?;
        removed.map_err(acting)?;
        if found {
            self.found_programs().insert(wanted);
        }
        Ok(found)
    }

    fn found_programs(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a program must be for a start to succeed.
enum Program {
    /// In the image, at this path.
    InImage(String),
    /// On this host, in what is mounted over the image.
    Mounted(PathBuf),
}

/// `None` for a name without a path: the container's own `PATH` decides.
fn program(spec: &AgentSpec, program: &str) -> Option<Program> {
    let path = Path::new(program);
    if !path.is_absolute() {
        return None;
    }
    let over = spec.mounts.iter().filter(|mount| path.starts_with(&mount.target));
    Some(match over.max_by_key(|mount| mount.target.as_os_str().len()) {
        Some(mount) => {
            let rest = path.strip_prefix(&mount.target).unwrap_or(path);
            // Nothing is appended when a file is mounted: that would be another path.
            let rest = Some(rest).filter(|rest| !rest.as_os_str().is_empty());
            Program::Mounted(rest.map_or_else(|| mount.source.clone(), |rest| mount.source.join(rest)))
        }
        None => Program::InImage(program.to_owned()),
    })
}

/// Whether its mode lets somebody read it (inode(7)).
fn readable(file: &std::fs::Metadata, uid: u32, gid: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let bit = match file {
        file if file.uid() == uid => 0o400,
        file if file.gid() == gid => 0o040,
        _ => 0o004,
    };
    file.mode() & bit != 0
}

/// What must be on this host.
fn files(spec: &AgentSpec) -> Vec<(&'static str, PathBuf)> {
    let profile = ("profile", spec.profile.clone());
    let mounts = spec.mounts.iter().map(|mount| ("mounts", mount.source.clone()));
    std::iter::once(profile).chain(mounts).collect()
}

/// What keeps the container's user from a file of the host: it is not there, or it is a profile that it cannot read.
/// What else is mounted may be anything.
fn unusable(field: &str, path: &Path, (uid, gid): (u32, u32)) -> Option<RuntimeError> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(there) if field == "profile" && !there.is_file() => {
            Some(refused(field, &format!("{shown} is no file")))
        }
        Ok(there) if field == "profile" && !readable(&there, uid, gid) => {
            Some(refused(field, &format!("{shown} cannot be read by user {uid}, as whom the agent runs")))
        }
        Ok(_) => None,
        Err(error) => Some(refused(field, &format!("{shown}: {error}"))),
    }
}
