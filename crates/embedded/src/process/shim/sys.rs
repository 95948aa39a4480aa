//! The two things that safe Rust has no words for: closing descriptors by number, and code between fork and exec.
//!
//! Invariant: the process has one thread, so that after a fork the child may use the allocator and the file
//! system like its parent.
#![allow(unsafe_code)] // descriptors that were inherited have no owner in this program; `pre_exec` is unsafe by nature

use std::{fs, io, os::unix::process::CommandExt as _, process::Command};

/// Closes every descriptor but standard input, output and error.
///
/// To be called at the beginning of a program only, before it has opened anything.
pub(super) fn close_inherited() -> io::Result<()> {
    let numbers: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // The descriptor by which the directory was read is in the list and closed by now.
        if fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok() {
            // SAFETY: the program has just begun and has opened nothing, so nothing in it owns this descriptor.
            unsafe { rustix::io::close(number) };
        }
    }
    Ok(())
}

/// Runs `child` in the new process just before its program is executed; its error is `spawn`'s.
pub(super) fn before_exec(
    command: &mut Command,
    child: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the supervisor has one thread (see the module), so no lock can be held by a thread that the fork
    // did not copy; `child` neither panics nor touches descriptors that it did not open itself.
    unsafe { command.pre_exec(child) };
}
