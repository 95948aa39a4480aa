//! Looks whether something is on this machine and good for what it is needed for.
//!
//! Invariant: a probe changes nothing that outlives it; what it finds is said in one line, a version where there is one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::first_line;
use crate::workspace;

/// The tests' binary is linked statically, so a compiler alone is not enough: the static C library must be there.
pub fn static_link() -> Result<String, String> {
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

/// A tmpfs, in a namespace of its own.
pub fn mount_tmpfs() -> Result<String, String> {
    let script = "mount -t tmpfs -o size=64k none /tmp";
    workspace::output(Command::new("unshare").args(["-rm", "sh", "-c", script]))?;
    Ok("can be mounted in a namespace".to_owned())
}

/// Root, with the right to what an engine of one's own needs: a network and mounts of its own.
pub fn namespaces() -> Result<String, String> {
    let script = "mount -t tmpfs -o size=64k none /tmp";
    let own = ["--net", "--mount", "--propagation", "slave", "sh", "-c", script];
    workspace::output(Command::new("unshare").args(own)).map_err(|why| match is_root() {
        true => why,
        false => "this is not root".to_owned(),
    })?;
    Ok("a network and mounts of one's own can be made".to_owned())
}

/// The newest PostgreSQL server, where Debian puts it or on the path, with its tools beside it.
pub fn postgres() -> Result<String, String> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut bins: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    bins.sort();
    let on_path = || workspace::find_program("postgres")?.parent().map(Path::to_path_buf);
    let bin = bins.pop().map(|(_, bin)| bin).or_else(on_path).ok_or("postgres is not installed")?;
    let tools = ["initdb", "pg_isready", "psql", "pgbench"];
    if let Some(tool) = tools.into_iter().find(|tool| !bin.join(tool).is_file()) {
        return Err(format!("{tool} is not beside postgres in {}", bin.display()));
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if is_root() && !users.lines().any(|line| line.starts_with("postgres:")) {
        return Err("there is no user `postgres`, and as root PostgreSQL refuses to run".to_owned());
    }
    workspace::output(Command::new(bin.join("postgres")).arg("--version"))
}

/// Programs on the path or among those of the system; one of them tells its version.
pub fn all_of(programs: &[&str], versioned: &str) -> Result<String, String> {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| find(program).is_none()).collect();
    match find(versioned) {
        Some(path) if missing.is_empty() => workspace::output(Command::new(path).arg("--version")),
        _ => Err(format!("not installed: {}", missing.join(", "))),
    }
}

/// `sbin` is not on everybody's path.
fn find(program: &str) -> Option<PathBuf> {
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program));
    workspace::find_program(program).or_else(|| system.into_iter().find(|path| path.is_file()))
}

/// A busybox that runs in an image in which nothing else is.
pub fn busybox(path: &Path) -> Result<String, String> {
    let program = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    match wants_interpreter(&program) {
        Some(false) => workspace::output(Command::new(path).arg("--help")),
        Some(true) => Err(format!("{} is not linked statically", path.display())),
        None => Err(format!("{} is no 64-bit ELF program of this machine's byte order", path.display())),
    }
}

/// Whether an ELF program names a dynamic linker: one of its segments is `PT_INTERP` (3). Elf(5) has the offsets.
fn wants_interpreter(program: &[u8]) -> Option<bool> {
    let number = |at: usize, length: usize| {
        let bytes = program.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    // Class 2: 64 bits; data 1: the least significant byte first.
    if !program.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let kinds = (0..count).map(|segment| number(table.checked_add(segment * size)?, 4));
    kinds.into_iter().try_fold(false, |found, kind| Some(found || kind? == 3))
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_user(&status) == Some("0"))
}

fn effective_user(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_user_is_the_second_number() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t0\t0\t0\t0\n"), Some("0"));
        assert_eq!(effective_user("Name:\tx\n"), None);
    }

    #[test]
    fn programs_are_there_or_named() {
        assert!(all_of(&["sh", "cat"], "cat").is_ok_and(|version| !version.is_empty()));
        let why = all_of(&["sh", "no-such-program", "nor-this"], "sh").unwrap_err();
        assert_eq!(why, "not installed: no-such-program, nor-this");
    }

    /// A program of a header and these segments.
    fn elf(segments: &[u8]) -> Vec<u8> {
        let mut program = b"\x7fELF\x02\x01".to_vec();
        program.resize(64, 0);
        program[32] = 64;
        program[54] = 56;
        program[56] = u8::try_from(segments.len()).unwrap();
        for kind in segments {
            program.push(*kind);
            program.resize(program.len() + 55, 0);
        }
        program
    }

    #[test]
    fn dynamically_linked_programs_are_told_from_static_ones() {
        assert_eq!(wants_interpreter(&elf(&[1, 1, 4])), Some(false));
        assert_eq!(wants_interpreter(&elf(&[6, 3, 1])), Some(true));
        // Nothing, a script, one that is cut off.
        assert_eq!(wants_interpreter(b""), None);
        assert_eq!(wants_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(wants_interpreter(&elf(&[1, 3])[..100]), None);
        // This very test is linked to the C library like every other program of this machine.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(wants_interpreter(&own), Some(cfg!(not(target_feature = "crt-static"))));
    }
}
