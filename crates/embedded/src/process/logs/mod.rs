//! An agent's log: lines in files that are rotated by size, written by the supervisor, read by the server.
//!
//! Invariants: the newest file is `log`, older ones are `log.1`, `log.2`, …; every line is whole UTF-8 text of at
//! most [`format::MAX_TEXT`] bytes; no reader holds more than one block of a file in memory.

pub(crate) mod format;
pub(crate) mod reader;
pub(crate) mod stream;
pub(crate) mod writer;

use std::path::{Path, PathBuf};

/// The file that is `age` rotations old; 0 is the one being written.
fn file(log: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return log.to_owned();
    }
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}
