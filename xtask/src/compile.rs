//! The one build that lints, tests and makes the binary.
//!
//! Invariants: every workspace crate is compiled once, by the lint driver, for the host's triple as an explicit target
//! and statically; a lint is an error; dependencies are compiled by the plain compiler and shared with anyone who
//! builds with the same `RUSTFLAGS` and target. A release build goes without the lint driver, because that one
//! switches optimisations off.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::workspace::{self, Metadata};

/// The only value of `RUSTFLAGS` that this tool ever sets.
pub const RUSTFLAGS: &str = "-C target-feature=+crt-static";

/// The lint driver's arguments, in the form in which cargo's own lint command hands them over.
const CLIPPY_ARGS: &str = "-Dwarnings__CLIPPY_HACKERY__";

/// This tool's own package: it is built for the host and linted and tested apart.
const OWN: &str = "xtask";

/// What a build made.
#[derive(Debug, Default)]
pub struct Built {
    /// Test executables, by package and source.
    pub tests: Vec<TestBinary>,
    /// Name and path of every other executable.
    pub programs: Vec<(String, PathBuf)>,
}

impl Built {
    /// The path of a built program.
    pub fn program(&self, name: &str) -> Result<&Path, String> {
        let found = self.programs.iter().find(|(program, _)| program == name);
        found
            .map(|(_, path)| path.as_path())
            .ok_or_else(|| format!("no workspace crate builds a program `{name}`"))
    }
}

/// One test executable and what cargo would give it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TestBinary {
    /// The package's name.
    pub package: String,
    /// Its source, relative to the package's directory: `src/lib.rs`, `tests/api.rs`.
    pub source: String,
    /// The executable.
    pub executable: PathBuf,
    /// The package's directory: where it runs.
    pub dir: PathBuf,
    /// The package's version.
    pub version: String,
    /// Programs of the same package.
    pub programs: Vec<(String, PathBuf)>,
    /// How many tests run side by side; nothing: as many as there are processors.
    pub threads: Option<u64>,
    /// Seconds that it may take; nothing: the default.
    pub limit: Option<u64>,
}

/// Lints and builds every workspace crate, its tests and its programs, in the debug profile.
pub fn workspace(root: &Path) -> Result<Built, String> {
    let mut command = workspace::cargo(root);
    command.args(["build", "--workspace", "--exclude", OWN, "--lib", "--bins", "--tests"]);
    target(&mut command, root)?;
    lint(&mut command, root)?;
    run(command, root)
}

/// Lints this tool and builds its tests, for the host.
pub fn own(root: &Path) -> Result<Built, String> {
    let mut command = workspace::cargo(root);
    command.args(["build", "--package", OWN, "--tests"]);
    lint(&mut command, root)?;
    run(command, root)
}

/// Builds the programs of some packages in the release profile.
pub fn release(root: &Path, packages: &[&str]) -> Result<Built, String> {
    programs(root, packages, &["--release"])
}

/// Builds the programs of some packages in the debug profile, without lints.
pub fn debug(root: &Path, packages: &[&str]) -> Result<Built, String> {
    programs(root, packages, &[])
}

fn programs(root: &Path, packages: &[&str], profile: &[&str]) -> Result<Built, String> {
    let mut command = workspace::cargo(root);
    command.args(["build", "--bins"]).args(profile);
    for package in packages {
        command.args(["--package", package]);
    }
    target(&mut command, root)?;
    run(command, root)
}

fn target(command: &mut Command, root: &Path) -> Result<(), String> {
    command.arg("--target").arg(workspace::host(root)?).env("RUSTFLAGS", RUSTFLAGS);
    Ok(())
}

fn lint(command: &mut Command, root: &Path) -> Result<(), String> {
    command
        .env("RUSTC_WORKSPACE_WRAPPER", workspace::clippy_driver(root)?)
        .env("CLIPPY_ARGS", CLIPPY_ARGS)
        .env("CLIPPY_CONF_DIR", root);
    Ok(())
}

fn run(mut command: Command, root: &Path) -> Result<Built, String> {
    let members = workspace::members(root)?;
    command.args(["--locked", "--keep-going", "--message-format=json-render-diagnostics"]);
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|e| format!("cargo does not start: {e}"))?;
    let stdout = child.stdout.take().ok_or("cargo has no output")?;
    let mut built = Built::default();
    let mut fault = None;
    for line in BufReader::new(stdout).lines() {
        match line {
            Ok(line) => fault = read_message(&line, &members, &mut built).err().or(fault),
            Err(e) => fault = Some(format!("cargo's messages are not readable: {e}")),
        }
    }
    let status = child.wait().map_err(|e| format!("cargo is lost: {e}"))?;
    if !status.success() {
        return Err(format!("cargo build ended with {status}; its errors stand above"));
    }
    if let Some(fault) = fault {
        return Err(fault);
    }
    give_programs_to_tests(&mut built, &members);
    built.tests.sort();
    built.programs.sort();
    Ok(built)
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn read_message(line: &str, members: &Metadata, built: &mut Built) -> Result<(), String> {
    if !line.starts_with('{') {
        println!("{line}");
        return Ok(());
    }
    let message: Message =
        serde_json::from_str(line).map_err(|e| format!("cargo's message is not as expected: {e}"))?;
    let (Some(target), Some(profile), Some(executable)) =
        (message.target, message.profile, message.executable)
    else {
        return Ok(());
    };
    if message.reason != "compiler-artifact" {
        return Ok(());
    }
    let Some(package) = members.members().find(|package| package.id == message.package_id) else {
        return Ok(());
    };
    if profile.test {
        let source = target.src_path.strip_prefix(package.dir()).unwrap_or(&target.src_path);
        built.tests.push(TestBinary {
            package: package.name.clone(),
            source: source.display().to_string(),
            executable,
            dir: package.dir().to_owned(),
            version: package.version.clone(),
            programs: Vec::new(),
            threads: package.setting("test-threads"),
            limit: package.setting("time-limit-seconds"),
        });
    } else if target.kind.iter().any(|kind| kind == "bin") {
        built.programs.push((target.name, executable));
    }
    Ok(())
}

/// Integration tests find their own package's programs in the environment, as under cargo. Program names are unique in
/// the workspace: cargo puts all of them into one directory.
fn give_programs_to_tests(built: &mut Built, members: &Metadata) {
    let programs = std::mem::take(&mut built.programs);
    for test in &mut built.tests {
        let of_package = members.members().find(|package| package.name == test.package);
        let names = of_package.map(|package| package.program_names()).unwrap_or_default();
        test.programs = programs.iter().filter(|(name, _)| names.contains(&name.as_str())).cloned().collect();
    }
    built.programs = programs;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Metadata {
        serde_json::from_str(
            r#"{"workspace_root":"/w","workspace_members":["path+file:///w/app#0.1.0"],"packages":[
                {"name":"app","version":"0.1.0","id":"path+file:///w/app#0.1.0","source":null,"license":null,
                 "manifest_path":"/w/app/Cargo.toml","metadata":{"xtask":{"test-threads":1}},
                 "targets":[{"name":"prog","kind":["bin"]},{"name":"app","kind":["lib"]}]}]}"#,
        )
        .unwrap()
    }

    fn artifact(package: &str, kind: &str, name: &str, source: &str, test: bool) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"{package}","target":{{"kind":["{kind}"],"name":"{name}",
               "src_path":"{source}"}},"profile":{{"test":{test}}},"executable":"/t/{name}-{test}"}}"#
        )
    }

    #[test]
    fn tests_and_programs_are_told_apart() {
        let members = members();
        let id = "path+file:///w/app#0.1.0";
        let mut built = Built::default();
        for line in [
            artifact(id, "bin", "prog", "/w/app/src/main.rs", false),
            artifact(id, "test", "api", "/w/app/tests/api.rs", true),
            artifact("registry+x#serde@1.0.0", "bin", "foreign", "/x/main.rs", false),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
            r#"{"reason":"compiler-artifact","package_id":"x","target":{"kind":["lib"],"name":"x","src_path":"/x"},"profile":{"test":false},"executable":null}"#.to_owned(),
        ] {
            read_message(&line, &members, &mut built).unwrap();
        }
        give_programs_to_tests(&mut built, &members);
        assert_eq!(built.programs, [("prog".to_owned(), PathBuf::from("/t/prog-false"))]);
        assert_eq!(built.tests.len(), 1);
        assert_eq!(built.tests[0].source, "tests/api.rs");
        assert_eq!(built.tests[0].threads, Some(1));
        assert_eq!(built.tests[0].programs, built.programs);
        assert!(built.program("prog").is_ok());
        assert!(built.program("absent").is_err());
    }

    #[test]
    fn message_of_another_shape_is_an_error() {
        assert!(read_message(r#"{"no":"reason"}"#, &members(), &mut Built::default()).is_err());
    }
}
