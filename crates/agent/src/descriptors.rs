//! Marks every descriptor that the agent itself inherited as close-on-exec, so that no child gets it.
//!
//! Invariant: descriptors that are opened later need nothing: the standard library and tokio open them
//! close-on-exec.
#![allow(
    unsafe_code,
    reason = "a descriptor that was inherited has no owner in this program, so only its number is at hand"
)]

use rustix::{
    fd::BorrowedFd,
    io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd},
};
use std::io;

/// Marks all open descriptors above standard error.
///
/// # Errors
/// `/proc/self/fd` cannot be read: then nothing is known about what a child would inherit.
pub(crate) fn close_on_exec() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) {
            open.push(number);
        }
    }
    for number in open.into_iter().filter(|number| *number > 2) {
        // SAFETY: the number is not negative. Should the descriptor have been closed since (as the directory's
        // own has), the kernel answers EBADF; should the number be in use again, its new owner opened it
        // close-on-exec already, so that setting the flag changes nothing. No owner is made: nothing is closed.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let marked =
            fcntl_getfd(descriptor).and_then(|flags| fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC));
        match marked {
            Ok(()) | Err(Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
