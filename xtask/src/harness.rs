//! Hands over to the bench and chaos harness with the binary that it shall work on.
//!
//! Invariants: what is measured is a release build, what is killed is the very debug build that the tests use; the
//! harness takes this process's place, so its status and its signals are this tool's.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::compile;
use crate::workspace;

const HARNESS: &str = "aito-harness";
const PROGRAM: &str = "aito";

/// `cargo xtask bench`: returns only when the harness could not be started.
pub fn bench(root: &Path, arguments: &[String]) -> Result<(), String> {
    let built = compile::release(root, &["aito-app", "aito-harness"])?;
    hand_over("bench", built.program(HARNESS)?, built.program(PROGRAM)?, root, arguments)
}

/// `cargo xtask chaos`: returns only when the harness could not be started.
pub fn chaos(root: &Path, arguments: &[String]) -> Result<(), String> {
    let built = compile::workspace(root)?;
    hand_over("chaos", built.program(HARNESS)?, built.program(PROGRAM)?, root, arguments)
}

fn hand_over(
    what: &str,
    harness: &Path,
    program: &Path,
    root: &Path,
    arguments: &[String],
) -> Result<(), String> {
    let mut command = Command::new(harness);
    workspace::clean(&mut command);
    command.env("AITO_WORKSPACE", root).env("AITO_BIN", program);
    command.arg(what).arg("--bin").arg(program).args(arguments);
    Err(format!("{} does not start: {}", harness.display(), command.exec()))
}
