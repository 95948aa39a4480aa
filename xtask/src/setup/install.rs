//! Installs Debian packages.
//!
//! Invariants: nothing that is installed is started, and no PostgreSQL cluster is made: the tests' servers are their own
//! and those of the system are the user's. Both are held off by files that Debian's packages heed and that are there
//! only as long as the installation takes; where the user has such a file, it stays and rules. (A machine whose systemd
//! runs starts installed services at its next boot, as always: `systemctl disable` is the user's.) No package that is
//! there is removed, but a busybox that is replaced by its static twin.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::probe;
use crate::workspace;

/// Debian Policy 9.11.3 (invoke-rc.d): 101 forbids every action of a package on a service.
const POLICY: (&str, &str) =
    ("/usr/sbin/policy-rc.d", "#!/bin/sh\n# There while `cargo xtask` installs packages.\nexit 101\n");

/// Read by the packages of PostgreSQL's servers before they make a cluster (pg_createcluster(1)).
const CLUSTER: (&str, &str) = (
    "/etc/postgresql-common/createcluster.d/aito-xtask.conf",
    "# There while `cargo xtask` installs packages.\ncreate_main_cluster = false\n",
);

/// What a user of PostgreSQL has already: then whether clusters are made is not for this tool to say.
const CLUSTER_SETTINGS: &str = "/etc/postgresql-common/createcluster.conf";

/// Takes the place of another package that does the same.
const REPLACING: &str = "busybox-static";

/// Only root on Debian or a system made from it.
pub fn is_possible() -> bool {
    probe::is_root()
        && Path::new("/etc/debian_version").exists()
        && workspace::find_program("apt-get").is_some()
}

/// Installs what of these is not installed yet.
pub fn packages(wanted: &[&str]) -> Result<(), String> {
    let missing: Vec<&str> = wanted.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Err(format!("the packages are there already: {}", wanted.join(" ")));
    }
    println!("    installing: {}", missing.join(" "));
    let _policy = Temporary::new(POLICY.0.as_ref(), POLICY.1, 0o755)?;
    let _cluster = match Path::new(CLUSTER_SETTINGS).exists() {
        true => None,
        false => Some(Temporary::new(CLUSTER.0.as_ref(), CLUSTER.1, 0o644)?),
    };
    apt(&["update"], &[])?;
    let (replacing, others): (Vec<&str>, Vec<&str>) =
        missing.iter().partition(|package| **package == REPLACING);
    if !others.is_empty() {
        apt(&["install", "-y", "--no-install-recommends", "--no-remove"], &others)?;
    }
    if !replacing.is_empty() {
        apt(&["install", "-y", "--no-install-recommends"], &replacing)?;
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${db:Status-Status}", package]);
    workspace::output(&mut query).is_ok_and(|status| status == "installed")
}

fn apt(arguments: &[&str], packages: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command.args(arguments).args(packages).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("apt-get {} ended with {status}", arguments.join(" "))),
        Err(e) => Err(format!("apt-get does not start: {e}")),
    }
}

/// A file that is there until this is dropped; none if somebody else's is there.
struct Temporary(Option<PathBuf>);

impl Temporary {
    fn new(path: &Path, text: &str, mode: u32) -> Result<Self, String> {
        match fs::read_to_string(path) {
            // One that a killed run left behind.
            Ok(found) if found == text => return Ok(Self(Some(path.to_owned()))),
            Ok(_) => return Ok(Self(None)),
            Err(_) => {}
        }
        let failed = |e: std::io::Error| format!("{} cannot be made: {e}", path.display());
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(Self(Some(path.to_owned())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(e) = fs::remove_file(path)
        {
            eprintln!("    {} stays behind and may be removed: {e}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_files_come_and_go_and_those_of_others_stay() {
        let dir = std::env::temp_dir().join(format!("xtask-install-{}", std::process::id()));
        let (own, foreign) = (dir.join("deep/own"), dir.join("foreign"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(&foreign, "of the user").unwrap();
        let made = [Temporary::new(&own, "text", 0o755), Temporary::new(&foreign, "text", 0o755)];
        assert_eq!(fs::read_to_string(&own).unwrap(), "text");
        // As if that run had been killed: the next one takes it over.
        let again = Temporary::new(&own, "text", 0o755).unwrap();
        std::mem::forget(made);
        drop(again);
        assert!(!own.exists());
        drop(Temporary::new(&foreign, "text", 0o755));
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "of the user");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn installed_packages_are_known() {
        assert_eq!(is_installed("dpkg"), Path::new("/etc/debian_version").exists());
        assert!(!is_installed("no-such-package"));
    }
}
