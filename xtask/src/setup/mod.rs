//! What a build and the tests need of this machine: what is there, what is missing, how to get it.
//!
//! Invariants: one table, `PROVISIONS`, says it all, so a further server or tool is one more row; what the tests of the
//! workspace need fails a run of them when it is missing and nothing else; a provision that only some tests want never
//! fails a run, those tests are reported as not run.

mod install;
mod probe;

use std::path::Path;
use std::process::Command;

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
    /// The tests of the workspace, all of them: their servers.
    Suite,
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
        probe: |_| probe::static_link(),
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
        probe: |_| probe::mount_tmpfs(),
        how: "Linux with user namespaces: unshare -rm must be able to mount a tmpfs",
        packages: &["util-linux", "mount"],
    },
    Provision {
        name: "PostgreSQL",
        need: Need::Suite,
        probe: |_| probe::postgres(),
        how: "Debian: apt-get install -y postgresql postgresql-client; no server of the system's needs to run",
        packages: &["postgresql", "postgresql-client"],
    },
    Provision {
        name: "Redis",
        need: Need::Suite,
        probe: |_| probe::all_of(&["redis-server", "redis-cli"], "redis-server"),
        how: "Debian: apt-get install -y redis-server redis-tools; no server of the system's needs to run",
        packages: &["redis-server", "redis-tools"],
    },
    Provision {
        name: "Docker Engine",
        need: Need::Suite,
        probe: |_| probe::all_of(&["dockerd", "containerd", "runc"], "dockerd"),
        how: "Debian: apt-get install -y docker.io; elsewhere https://docs.docker.com/engine/install; no engine of the \
              system's needs to run",
        packages: &["docker.io"],
    },
    Provision {
        name: "iptables",
        need: Need::Suite,
        probe: |_| probe::all_of(&["iptables", "iptables-save"], "iptables"),
        how: "Debian: apt-get install -y iptables; a Docker engine needs it",
        packages: &["iptables"],
    },
    Provision {
        name: "namespaces",
        need: Need::Suite,
        probe: |_| probe::namespaces(),
        how: "run it as root, or in a container with all capabilities: a Docker engine of the tests' own needs that; \
              sudo env PATH=\"$PATH\" cargo xtask test",
        packages: &["util-linux", "mount"],
    },
    Provision {
        name: "busybox",
        need: Need::Suite,
        probe: |_| probe::busybox(Path::new("/bin/busybox")),
        how: "Debian: apt-get install -y busybox-static; images for tests are made of it",
        packages: &["busybox-static"],
    },
    Provision {
        name: "sqlite3",
        need: Need::Suite,
        probe: |root| version(root, "sqlite3", &["--version"]),
        how: "Debian: apt-get install -y sqlite3; tests look into a server's store with it",
        packages: &["sqlite3"],
    },
    Provision {
        name: "openssl",
        need: Need::Suite,
        probe: |root| version(root, "openssl", &["version"]),
        how: "Debian: apt-get install -y openssl; certificates for tests are made with it",
        packages: &["openssl"],
    },
    Provision {
        name: "docker",
        need: Need::Nothing,
        probe: |root| version(root, "docker", &["--version"]),
        how: "Debian: apt-get install -y docker.io or docker-cli; `cargo xtask image` alone uses it",
        packages: &[],
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

/// What a call of this tool is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Run every test.
    Suite,
    /// Run the tests of this tool alone.
    Own,
}

impl Purpose {
    fn needs(self, need: &Need) -> bool {
        match need {
            Need::Everything => true,
            Need::Suite => self == Self::Suite,
            Need::Tests(_) | Need::Nothing => false,
        }
    }
}

/// `cargo xtask setup`.
pub fn run(root: &Path) -> Result<(), String> {
    provide(root, Purpose::Suite).map(|_| ())
}

/// Installs what is missing and Debian has packages for, where that is possible; then probes every provision and prints
/// a line for each. An error names what must be there for this purpose and is not.
pub fn provide(root: &Path, purpose: Purpose) -> Result<Vec<Lacking>, String> {
    let wanted = missing_packages(PROVISIONS, root, purpose);
    if !wanted.is_empty()
        && install::is_possible()
        && let Err(why) = install::packages(&wanted)
    {
        // What is missing for want of it is said below, with how to get it.
        println!("    not installed: {why}");
    }
    judge(PROVISIONS, root, purpose, &mut |line| println!("{line}"))
}

fn judge(
    provisions: &[Provision],
    root: &Path,
    purpose: Purpose,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Lacking>, String> {
    let mut absent = Vec::new();
    let mut lacking = Vec::new();
    for Provision { name, need, probe, how, .. } in provisions {
        match (probe(root), need) {
            (Ok(found), _) => say(&format!("    {name}: {}", first_line(&found))),
            (Err(why), _) if purpose.needs(need) => {
                say(&format!("    {name}: MISSING: {why}\n        how to get it: {how}"));
                absent.push(*name);
            }
            (Err(why), Need::Tests(marker)) => {
                say(&format!(
                    "    {name}: missing, tests named {marker} will not run: {why}\n        how to get it: {how}"
                ));
                lacking.push(Lacking { marker, why: format!("no {name}: {}", first_line(&why)) });
            }
            (Err(_), _) => say(&format!("    {name}: not there, not needed now: {how}")),
        }
    }
    if absent.is_empty() { Ok(lacking) } else { Err(format!("missing: {}", absent.join(", "))) }
}

fn missing_packages(provisions: &[Provision], root: &Path, purpose: Purpose) -> Vec<&'static str> {
    let missing = provisions
        .iter()
        .filter(|provision| purpose.needs(&provision.need) || matches!(provision.need, Need::Tests(_)))
        .filter(|provision| !provision.packages.is_empty() && (provision.probe)(root).is_err());
    missing.flat_map(|provision| provision.packages.iter().copied()).collect()
}

fn version(root: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    workspace::output(Command::new(program).args(arguments).current_dir(root))
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

    fn judged(provisions: &[Provision], purpose: Purpose) -> (Result<Vec<Lacking>, String>, String) {
        let mut said = String::new();
        let outcome = judge(provisions, Path::new("."), purpose, &mut |line| said.push_str(line));
        (outcome, said)
    }

    #[test]
    fn missing_necessity_is_an_error_that_says_how_to_get_it() {
        for purpose in [Purpose::Suite, Purpose::Own] {
            let cc = provision("cc", Need::Everything, |_| Err("not found".into()));
            let (outcome, said) = judged(&[cc], purpose);
            assert_eq!(outcome, Err("missing: cc".into()));
            assert!(said.contains("not found") && said.contains("ask for it"), "{said}");
        }
    }

    #[test]
    fn missing_server_is_an_error_where_the_suite_runs_and_nowhere_else() {
        let servers = [
            provision("there", Need::Suite, |_| Ok("version 1".into())),
            provision("redis", Need::Suite, |_| Err("not found".into())),
            provision("docker", Need::Suite, |_| Err("not root".into())),
        ];
        let (outcome, said) = judged(&servers, Purpose::Suite);
        assert_eq!(outcome, Err("missing: redis, docker".into()));
        assert!(said.contains("not root") && said.contains("ask for it"), "{said}");
        let (outcome, said) = judged(&servers, Purpose::Own);
        assert_eq!(outcome, Ok(vec![]));
        assert!(said.contains("redis: not there, not needed now"), "{said}");
    }

    #[test]
    fn what_only_tests_want_is_lacking_and_no_error() {
        let disk = provision("disk", Need::Tests("needs_disk"), |_| Err("refused\nmore".into()));
        let (outcome, said) = judged(&[disk], Purpose::Suite);
        assert_eq!(outcome, Ok(vec![Lacking { marker: "needs_disk", why: "no disk: refused".into() }]));
        assert!(said.contains("ask for it"), "{said}");
    }

    #[test]
    fn what_is_there_or_not_needed_is_fine() {
        let there = provision("cc", Need::Everything, |_| Ok("cc 12".into()));
        let extra = provision("deny", Need::Nothing, |_| Err("absent".into()));
        let (outcome, said) = judged(&[there, extra], Purpose::Suite);
        assert_eq!(outcome, Ok(vec![]));
        assert!(said.contains("cc 12"), "{said}");
    }

    #[test]
    fn only_what_is_needed_and_missing_is_installed() {
        let missing = |need, purpose| {
            missing_packages(&[provision("it", need, |_| Err(String::new()))], Path::new("."), purpose)
        };
        assert_eq!(missing(Need::Everything, Purpose::Own), ["package"]);
        assert_eq!(missing(Need::Suite, Purpose::Suite), ["package"]);
        assert_eq!(missing(Need::Tests("x"), Purpose::Suite), ["package"]);
        assert!(missing(Need::Suite, Purpose::Own).is_empty());
        assert!(missing(Need::Nothing, Purpose::Suite).is_empty());
        let there = [provision("there", Need::Suite, |_| Ok(String::new()))];
        assert!(missing_packages(&there, Path::new("."), Purpose::Suite).is_empty());
    }
}
