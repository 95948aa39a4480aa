//! Where the workspace is, what `cargo metadata` says of it, and how this tool calls cargo.
//!
//! Invariant: a cargo started from here sees none of the variables that the cargo which runs this tool has set for it,
//! and none of the caller's compiler flags: the same checkout builds the same artefacts for everyone.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

/// The answer of `cargo metadata`, as far as it is used here.
#[derive(Debug, Default, Deserialize)]
pub struct Metadata {
    /// Every package; with `--no-deps` the members only.
    pub packages: Vec<Package>,
    /// Ids of the workspace's own packages.
    pub workspace_members: Vec<String>,
    /// The directory of the root manifest.
    pub workspace_root: PathBuf,
}

impl Metadata {
    /// The workspace's own packages.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.is_member(package))
    }

    /// Whether a package is one of the workspace's own.
    pub fn is_member(&self, package: &Package) -> bool {
        self.workspace_members.contains(&package.id)
    }
}

/// One package of `cargo metadata`.
#[derive(Debug, Default, Deserialize)]
pub struct Package {
    /// Name as in its manifest.
    pub name: String,
    /// Version as in its manifest.
    pub version: String,
    /// Opaque id, unique in one answer.
    pub id: String,
    /// Where it comes from; nothing for a path.
    pub source: Option<String>,
    /// SPDX expression.
    pub license: Option<String>,
    /// Path of its manifest.
    pub manifest_path: PathBuf,
    /// What it declares to depend on, of every kind and platform.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    /// What it builds.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// The `[package.metadata]` table.
    #[serde(default)]
    pub metadata: Value,
}

impl Package {
    /// The directory of its manifest.
    pub fn dir(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }

    /// The names of the programs that it builds.
    pub fn program_names(&self) -> Vec<&str> {
        let programs = self.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "bin"));
        programs.map(|target| target.name.as_str()).collect()
    }

    /// A number from its `[package.metadata.xtask]` table.
    pub fn setting(&self, key: &str) -> Option<u64> {
        self.metadata.get("xtask")?.get(key)?.as_u64()
    }
}

/// One thing that a package builds.
#[derive(Debug, Default, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// `lib`, `bin`, `test`, ….
    pub kind: Vec<String>,
}

/// One declared dependency.
#[derive(Debug, Default, Deserialize)]
pub struct Dependency {
    /// The package's real name, also when it is renamed.
    pub name: String,
    /// Nothing for a normal one, else `dev` or `build`.
    pub kind: Option<String>,
}

impl Dependency {
    /// Whether only tests, examples and benches use it.
    pub fn is_dev(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

/// The directory of the workspace's root manifest: the parent of this package's when cargo runs this tool, else the
/// nearest one upward from the present directory.
pub fn root() -> Result<PathBuf, String> {
    if let Some(own) = env::var_os("CARGO_MANIFEST_DIR") {
        let parent = Path::new(&own).parent().map(Path::to_path_buf);
        return parent.ok_or_else(|| "this package's manifest has no parent directory".to_owned());
    }
    let here = env::current_dir().map_err(|e| format!("the present directory is not readable: {e}"))?;
    let is_root = |dir: &&Path| {
        std::fs::read_to_string(dir.join("Cargo.toml")).is_ok_and(|text| text.contains("[workspace]"))
    };
    here.ancestors()
        .find(is_root)
        .map(Path::to_path_buf)
        .ok_or_else(|| "no workspace manifest from here upward".to_owned())
}

/// A cargo in the workspace's root, with a clean environment.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).stdin(Stdio::null());
    clean(&mut command);
    command
}

/// Takes out of a command's environment what the outer cargo has set for this tool, and flags of the caller.
pub fn clean(command: &mut Command) {
    for (key, _) in env::vars_os() {
        if key.to_str().is_some_and(is_leaked) {
            command.env_remove(key);
        }
    }
}

fn is_leaked(key: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| key.starts_with(prefix))
        || [
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_CRATE_NAME",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PRIMARY_PACKAGE",
            "CLIPPY_ARGS",
            "CLIPPY_CONF_DIR",
            "OUT_DIR",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
        ]
        .contains(&key)
}

/// The triple of this machine, from `rustc -vV`.
pub fn host(root: &Path) -> Result<String, String> {
    let text = output(rustc(root).arg("-vV"))?;
    parse_host(&text).ok_or_else(|| "rustc -vV names no host".to_owned())
}

fn parse_host(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(|host| host.trim().to_owned())
}

/// The lint driver of the compiler that cargo will use.
pub fn clippy_driver(root: &Path) -> Result<PathBuf, String> {
    let sysroot = output(rustc(root).args(["--print", "sysroot"]))?;
    let path = Path::new(sysroot.trim()).join("bin/clippy-driver");
    if path.is_file() {
        return Ok(path);
    }
    find_program("clippy-driver")
        .ok_or_else(|| "clippy-driver is missing: rustup component add clippy".to_owned())
}

fn rustc(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(root);
    command
}

/// The first file of that name in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The workspace's own packages, without asking for any other.
pub fn members(root: &Path) -> Result<Metadata, String> {
    metadata(root, &["--no-deps"])
}

/// What `packages_of_all_platforms` could learn.
pub struct Resolved {
    /// Every package of the lock file that is used on the asked platforms.
    pub metadata: Metadata,
    /// Why packages of other platforms are missing, if they are.
    pub narrowed: Option<String>,
}

/// Every package, of every platform. Where packages of other platforms are neither downloaded nor reachable, those of
/// this machine alone, with the reason.
pub fn packages_of_all_platforms(root: &Path) -> Result<Resolved, String> {
    if let Ok(metadata) = metadata(root, &["--offline"]) {
        return Ok(Resolved { metadata, narrowed: None });
    }
    let why = match metadata(root, &[]) {
        Ok(metadata) => return Ok(Resolved { metadata, narrowed: None }),
        Err(why) => why,
    };
    let host = host(root)?;
    match metadata(root, &["--offline", "--filter-platform", &host]) {
        Ok(metadata) => {
            let line = why.lines().next().unwrap_or_default();
            Ok(Resolved {
                metadata,
                narrowed: Some(format!("packages of platforms other than {host}: {line}")),
            })
        }
        Err(_) => Err(why),
    }
}

fn metadata(root: &Path, more: &[&str]) -> Result<Metadata, String> {
    let text = output(cargo(root).args(["metadata", "--format-version", "1", "--locked"]).args(more))?;
    serde_json::from_str(&text).map_err(|e| format!("cargo metadata is not as expected: {e}"))
}

/// Runs a command to its end and returns what it printed; its error output is the error.
pub fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_owned();
    let done = command.output().map_err(|e| format!("{} does not start: {e}", shown(&name)))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{} ended with {}: {}", shown(&name), done.status, said.trim()));
    }
    String::from_utf8(done.stdout).map_err(|_| format!("{} did not print UTF-8", shown(&name)))
}

fn shown(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_read_from_the_compilers_answer() {
        let text = "rustc 1.95.0 (abc)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0\n";
        assert_eq!(parse_host(text).as_deref(), Some("x86_64-unknown-linux-gnu"));
        assert_eq!(parse_host("rustc 1.95.0"), None);
    }

    #[test]
    fn settings_come_from_the_packages_own_table() {
        let package: Package = serde_json::from_str(
            r#"{"name":"a","version":"1.0.0","id":"a","source":null,"license":null,"manifest_path":"/w/a/Cargo.toml",
                "metadata":{"xtask":{"test-threads":1}}}"#,
        )
        .unwrap();
        assert_eq!(package.setting("test-threads"), Some(1));
        assert_eq!(package.setting("time-limit-seconds"), None);
        assert_eq!(package.dir(), Path::new("/w/a"));
    }

    #[test]
    fn package_without_metadata_has_no_settings() {
        assert_eq!(Package::default().setting("test-threads"), None);
    }

    #[test]
    fn variables_of_the_outer_cargo_are_leaks() {
        for key in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            assert!(is_leaked(key), "{key}");
        }
        for key in ["CARGO", "CARGO_HOME", "CARGO_TARGET_DIR", "PATH", "RUSTUP_TOOLCHAIN"] {
            assert!(!is_leaked(key), "{key}");
        }
    }
}
