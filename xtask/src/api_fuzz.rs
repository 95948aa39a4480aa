//! `cargo xtask test --api-fuzz`: calls every operation of the real server's API with cases that schemathesis makes.
//!
//! Invariants: schemathesis has one version, in an environment below `target/` that nothing else uses; what is missing
//! for it is said before anything is built, and is a failure; the harness takes this process's place, so its status and
//! its signals are this tool's.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::compile;
use crate::workspace;

const HARNESS: &str = "aito-harness";
const PROGRAM: &str = "aito";

/// What is installed, and nothing else is good enough: another version makes other cases of the same seed.
const VERSION: &str = "4.32.5";

/// The oldest Python that it runs on: major and minor.
const OLDEST: (u32, u32) = (3, 11);

/// How an interpreter tells its version.
const TELL_VERSION: &str = "import sys; print(sys.version_info[0], sys.version_info[1])";

/// Returns only when the run could not be started.
pub fn run(root: &Path, arguments: &[String]) -> Result<(), String> {
    let schemathesis = provide(root)?;
    let built = compile::workspace(root)?;
    let (harness, program) = (built.program(HARNESS)?, built.program(PROGRAM)?);
    let mut command = Command::new(harness);
    workspace::clean(&mut command);
    command.current_dir(root).env("AITO_WORKSPACE", root);
    command.arg("api-fuzz").arg("--bin").arg(program).arg("--schemathesis").arg(schemathesis).args(arguments);
    Err(format!("{} does not start: {}", harness.display(), command.exec()))
}

/// The program `schemathesis` of the wanted version, installed if it is not there.
fn provide(root: &Path) -> Result<PathBuf, String> {
    let dir = root.join("target/schemathesis");
    let program = dir.join("bin/schemathesis");
    if installed(&program).is_ok() {
        return Ok(program);
    }
    let python = python()?;
    println!("    schemathesis {VERSION} is installed into {}", dir.display());
    // What an interrupted or older installation left is no ground to build on.
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|e| format!("{} cannot be removed: {e}", dir.display()))?;
    }
    let mut make = Command::new(&python);
    make.args(["-m", "venv"]).arg(&dir).stdin(Stdio::null());
    workspace::output(&mut make).map_err(|why| {
        format!("python3 cannot make an environment (Debian: apt-get install -y python3-venv): {why}")
    })?;
    let mut install = Command::new(dir.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    install.arg(format!("schemathesis=={VERSION}")).stdin(Stdio::null());
    workspace::output(&mut install).map_err(|why| {
        format!("schemathesis {VERSION} cannot be installed; is the Python package index reachable? {why}")
    })?;
    installed(&program)?;
    Ok(program)
}

/// Whether the program is there in the wanted version.
fn installed(program: &Path) -> Result<(), String> {
    let said = workspace::output(Command::new(program).arg("--version").stdin(Stdio::null()))?;
    if is_wanted(&said) { Ok(()) } else { Err(format!("schemathesis {VERSION} is wanted, not {said}")) }
}

fn is_wanted(said: &str) -> bool {
    said.split_whitespace().last() == Some(VERSION)
}

/// An interpreter that is new enough.
fn python() -> Result<PathBuf, String> {
    let (major, minor) = OLDEST;
    let wanted = format!("Python {major}.{minor} or newer is needed for schemathesis");
    let python = workspace::find_program("python3")
        .ok_or_else(|| format!("{wanted}; there is no python3 (Debian: apt-get install -y python3-venv)"))?;
    let said = workspace::output(Command::new(&python).args(["-c", TELL_VERSION]).stdin(Stdio::null()))?;
    if is_new_enough(&said) {
        Ok(python)
    } else {
        Err(format!("{wanted}; {} is {}", python.display(), said.trim().replace(' ', ".")))
    }
}

fn is_new_enough(said: &str) -> bool {
    let mut numbers = said.split_whitespace().map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_version_is_wanted() {
        assert!(is_wanted(&format!("schemathesis, version {VERSION}\n")));
        assert!(!is_wanted(&format!("schemathesis, version {VERSION}1")));
        assert!(!is_wanted("schemathesis, version 3.0.0"));
        assert!(!is_wanted(""));
    }

    #[test]
    fn versions_of_python_are_compared_as_numbers() {
        let (major, minor) = OLDEST;
        assert!(is_new_enough(&format!("{major} {minor}\n")));
        assert!(is_new_enough(&format!("{major} {}", minor + 90)));
        assert!(is_new_enough(&format!("{} 0", major + 1)));
        assert!(!is_new_enough(&format!("{major} {}", minor - 1)));
        assert!(!is_new_enough("2 70"));
        assert!(!is_new_enough("nonsense"));
    }

    #[test]
    fn a_program_that_is_not_there_is_not_installed() {
        assert!(installed(Path::new("/nonexistent/schemathesis")).is_err());
    }
}
