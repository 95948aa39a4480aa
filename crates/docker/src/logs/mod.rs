//! A container's log.
//!
//! The engine keeps it as pieces of at most 16 KiB, each with its time, and sends them in frames that name the channel.
//! [`decode`] makes lines of them; [`read`] asks for them, and goes on asking while a log is followed.

mod decode;
mod read;

pub(crate) use read::open;
