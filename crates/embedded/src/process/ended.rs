//! Waiting for the end of a process without a thread.
//!
//! Invariant: the descriptor belongs to the wait alone, from before it is registered until after.
#![allow(unsafe_code)] // tokio takes a foreign descriptor only as a promise about its life

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Returns when the process of this pidfd has ended; it becomes readable then (pidfd_open(2)).
pub(crate) async fn ended(pidfd: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` stays open and the same until it is dropped, which only the `AsyncFd` that takes it does.
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    pidfd.readable().await.map(|_| ())
}
