//! What a build and the tests need of this machine: what is there, what is missing, how to get it.
//!
//! Invariants: one table, `PROVISIONS`, says it all, so a further server or tool is one more row; a provision that only
//! some tests want never fails a run, those tests are reported as not run.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::workspace;

/// One thing that is needed.
struct Provision {
    name: &'static str,
    need: Need,
    /// What is there, or what is wrong.
    probe: fn(&Path) -> Result<String, String>,
    /// How to get it.
    how: &'static str,
    /// Debian packages that provide it; none where it comes from elsewhere.
    packages: &'static [&'static str],
}

/// Who needs it.
enum Need {
    /// Nothing works without it.
    Everything,
    /// Tests with this marker in their name.
    Tests(&'static str),
    /// Nothing; but more is checked with it.
    Nothing,
}

const PROVISIONS: &[Provision] = &[
    Provision {
        name: "rustc",
        need: Need::Everything,
        probe: |root| version(root, "rustc", &["--version"]),
        how: "https://rustup.rs; rust-toolchain.toml names the version",
        packages: &[],
    },
    Provision {
        name: "cargo",
        need: Need::Everything,
        probe: |root| workspace::output(workspace::cargo(root).arg("--version")),
        how: "https://rustup.rs; rust-toolchain.toml names the version",
        packages: &[],
    },
    Provision {
        name: "rustfmt",
        need: Need::Everything,
        probe: |root| workspace::output(workspace::cargo(root).args(["fmt", "--version"])),
        how: "rustup component add rustfmt",
        packages: &[],
    },
    Provision {
        name: "clippy",
        need: Need::Everything,
        probe: |root| {
            workspace::output(
                Command::new(workspace::clippy_driver(root)?).arg("--version").current_dir(root),
            )
        },
        how: "rustup component add clippy",
        packages: &[],
    },
    Provision {
        name: "C compiler",
        need: Need::Everything,
        probe: |_| static_link(),
        how: "Debian: apt-get install -y gcc libc6-dev; Fedora: dnf install gcc glibc-static",
        packages: &["gcc", "libc6-dev"],
    },
    Provision {
        name: "git",
        need: Need::Nothing,
        probe: |root| version(root, "git", &["--version"]),
        how: "Debian: apt-get install -y git; without it, tidy reads every file instead of the tracked ones",
        packages: &["git"],
    },
    Provision {
        name: "tmpfs",
        need: Need::Tests("needs_tmpfs"),
        probe: |_| mount_tmpfs(),
        how: "Linux with user namespaces: unshare -rm must be able to mount a tmpfs",
        packages: &["util-linux", "mount"],
    },
    Provision {
        name: "cargo-deny",
        need: Need::Nothing,
        probe: |root| workspace::output(workspace::cargo(root).args(["deny", "--version"])),
        how: "cargo install --locked cargo-deny; `cargo xtask deps` checks the same without it",
        packages: &[],
    },
];

/// A provision that this machine lacks and that some tests want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// Part of the names of those tests.
    pub marker: &'static str,
    /// Why they are not run.
    pub why: String,
}

/// Probes every provision and prints a line for each. An error names what must be there and is not.
pub fn check(root: &Path) -> Result<Vec<Lacking>, String> {
    judge(PROVISIONS, root, &mut |line| println!("{line}"))
}

/// `cargo xtask setup`: as `check`, after installing what Debian has packages for when that is possible.
pub fn run(root: &Path) -> Result<(), String> {
    let wanted = missing_packages(PROVISIONS, root);
    if !wanted.is_empty() && can_install() {
        println!("    installing: apt-get install -y {}", wanted.join(" "));
        apt(&["update"])?;
        apt(&[&["install", "-y", "--no-install-recommends"], wanted.as_slice()].concat())?;
    }
    check(root).map(|_| ())
}

fn judge(provisions: &[Provision], root: &Path, say: &mut dyn FnMut(&str)) -> Result<Vec<Lacking>, String> {
    let mut absent = Vec::new();
    let mut lacking = Vec::new();
    for Provision { name, need, probe, how, .. } in provisions {
        match (probe(root), need) {
            (Ok(found), _) => say(&format!("    {name}: {}", first_line(&found))),
            (Err(why), Need::Everything) => {
                say(&format!("    {name}: MISSING: {why}\n        how to get it: {how}"));
                absent.push(*name);
            }
            (Err(why), Need::Tests(marker)) => {
                say(&format!(
                    "    {name}: missing, tests named {marker} will not run: {why}\n        how to get it: {how}"
                ));
                lacking.push(Lacking { marker, why: format!("no {name}: {}", first_line(&why)) });
            }
            (Err(_), Need::Nothing) => say(&format!("    {name}: not there, not needed: {how}")),
        }
    }
    if absent.is_empty() { Ok(lacking) } else { Err(format!("missing: {}", absent.join(", "))) }
}

fn missing_packages(provisions: &[Provision], root: &Path) -> Vec<&'static str> {
    let missing = provisions
        .iter()
        .filter(|provision| !matches!(provision.need, Need::Nothing))
        .filter(|provision| !provision.packages.is_empty() && (provision.probe)(root).is_err());
    missing.flat_map(|provision| provision.packages.iter().copied()).collect()
}

/// Only root on Debian or a system made from it.
fn can_install() -> bool {
    let root =
        fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_user(&status) == Some("0"));
    root && Path::new("/etc/debian_version").exists() && workspace::find_program("apt-get").is_some()
}

fn effective_user(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    let status =
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("apt-get {} ended with {status}", arguments[0])),
        Err(e) => Err(format!("apt-get does not start: {e}")),
    }
}

fn version(root: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    workspace::output(Command::new(program).args(arguments).current_dir(root))
}

/// The tests' binary is linked statically, so a compiler alone is not enough: the static C library must be there.
fn static_link() -> Result<String, String> {
    let dir = std::env::temp_dir().join(format!("aito-xtask-cc-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| format!("{} cannot be made: {e}", dir.display()))?;
    let linked = link(&dir.join("probe"));
    // A leftover in the temporary directory is no reason to refuse.
    let _ = fs::remove_dir_all(&dir);
    linked?;
    workspace::output(Command::new("cc").arg("--version"))
}

fn link(program: &Path) -> Result<(), String> {
    let mut command = Command::new("cc");
    command.args(["-static", "-x", "c", "-", "-o"]).arg(program).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("cc does not start: {e}"))?;
    let source = child.stdin.take().map(|mut stdin| stdin.write_all(b"int main(void) { return 0; }\n"));
    let done = child.wait_with_output().map_err(|e| format!("cc is lost: {e}"))?;
    match (source, done.status.success()) {
        (Some(Ok(())), true) => Ok(()),
        _ => {
            Err(format!("cc cannot link statically: {}", first_line(&String::from_utf8_lossy(&done.stderr))))
        }
    }
}

fn mount_tmpfs() -> Result<String, String> {
    let script = "mount -t tmpfs -o size=64k none /tmp";
    workspace::output(Command::new("unshare").args(["-rm", "sh", "-c", script]))?;
    Ok("can be mounted in a namespace".to_owned())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provision(name: &'static str, need: Need, probe: fn(&Path) -> Result<String, String>) -> Provision {
        Provision { name, need, probe, how: "ask for it", packages: &["package"] }
    }

    fn judged(provisions: &[Provision]) -> (Result<Vec<Lacking>, String>, String) {
        let mut said = String::new();
        let outcome = judge(provisions, Path::new("."), &mut |line| said.push_str(line));
        (outcome, said)
    }

    #[test]
    fn missing_necessity_is_an_error_that_says_how_to_get_it() {
        let (outcome, said) = judged(&[provision("cc", Need::Everything, |_| Err("not found".into()))]);
        assert_eq!(outcome, Err("missing: cc".into()));
        assert!(said.contains("not found") && said.contains("ask for it"), "{said}");
    }

    #[test]
    fn what_only_tests_want_is_lacking_and_no_error() {
        let (outcome, said) =
            judged(&[provision("disk", Need::Tests("needs_disk"), |_| Err("refused\nmore".into()))]);
        assert_eq!(outcome, Ok(vec![Lacking { marker: "needs_disk", why: "no disk: refused".into() }]));
        assert!(said.contains("ask for it"), "{said}");
    }

    #[test]
    fn what_is_there_or_not_needed_is_fine() {
        let there = provision("cc", Need::Everything, |_| Ok("cc 12".into()));
        let extra = provision("deny", Need::Nothing, |_| Err("absent".into()));
        let (outcome, said) = judged(&[there, extra]);
        assert_eq!(outcome, Ok(vec![]));
        assert!(said.contains("cc 12"), "{said}");
    }

    #[test]
    fn only_what_is_needed_and_missing_is_installed() {
        let provisions = [
            provision("there", Need::Everything, |_| Ok(String::new())),
            provision("unneeded", Need::Nothing, |_| Err(String::new())),
        ];
        assert!(missing_packages(&provisions, Path::new(".")).is_empty());
        let missing = [provision("cc", Need::Everything, |_| Err(String::new()))];
        assert_eq!(missing_packages(&missing, Path::new(".")), ["package"]);
    }

    #[test]
    fn effective_user_is_the_second_number() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t0\t0\t0\t0\n"), Some("0"));
        assert_eq!(effective_user("Name:\tx\n"), None);
    }
}
