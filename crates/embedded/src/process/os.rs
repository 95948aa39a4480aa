//! What the kernel says of processes, and signals that reach only the process that is meant.
//!
//! Invariants: a process is known by its pid together with its start time, so a reused pid is another process;
//! a zombie counts as dead; a signal goes through a pidfd that was verified after it was opened.
//!
//! Facts: proc(5) (fields of `/proc/<pid>/stat`), pidfd_open(2), pidfd_send_signal(2).

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use aito_domain::time::{Timestamp, millis};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

/// One process of this boot of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// The fields of `/proc/<pid>/stat` that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub pid: i32,
    pub state: char,
    pub parent: i32,
    pub session: i32,
    /// Clock ticks in user and kernel mode, its own.
    pub own_ticks: u64,
    /// The same of its children that ended and were waited for.
    pub reaped_ticks: u64,
    pub start: u64,
    pub rss_pages: u64,
}

impl Stat {
    /// Reads one line; the command's name in it may hold any character, `)` too.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let pid = head.split_once(' ')?.0.parse().ok()?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        // proc(5) counts from 1 and the tail begins with field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        let ticks = |number: usize| field(number)?.parse::<i64>().ok().map(|n| n.max(0).unsigned_abs());
        Some(Self {
            pid,
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            own_ticks: ticks(14)? + ticks(15)?,
            reaped_ticks: ticks(16)? + ticks(17)?,
            start: field(22)?.parse().ok()?,
            rss_pages: ticks(24)?,
        })
    }

    /// Whether it can still do something.
    pub(crate) fn lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Which process this is about.
    pub(crate) fn id(&self) -> ProcessId {
        ProcessId { pid: self.pid, start: self.start }
    }
}

/// The present state of whatever has this pid; `None` when nothing has.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    // The name of a process may be no UTF-8; the fields that matter are ASCII.
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Stat::parse(&String::from_utf8_lossy(&bytes))
}

/// This process itself.
pub(crate) fn own_id() -> io::Result<ProcessId> {
    let own = fs::read("/proc/self/stat")?;
    let stat = Stat::parse(&String::from_utf8_lossy(&own));
    stat.map(|stat| stat.id()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Every process that this one may see.
pub(crate) fn all_processes() -> io::Result<Vec<Stat>> {
    let entries = fs::read_dir("/proc")?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter_map(stat).collect())
}

/// Whether this very process still lives.
pub(crate) fn alive(id: ProcessId) -> bool {
    stat(id.pid).is_some_and(|stat| stat.start == id.start && stat.lives())
}

/// A descriptor of this very process; `None` when it does not live.
pub(crate) fn open(id: ProcessId) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(id.pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        // Verified after it was opened: from here on the descriptor cannot come to mean another process.
        Ok(fd) => Ok(alive(id).then_some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Signals this very process; `false` when it does not live.
pub(crate) fn signal(id: ProcessId, signal: Signal) -> io::Result<bool> {
    let Some(fd) = open(id)? else { return Ok(false) };
    match pidfd_send_signal(&fd, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Names the present boot of this machine.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Names this machine, the same after a reboot: machine-id(5), else the host's name.
pub(crate) fn machine_name() -> String {
    let id = fs::read_to_string(Path::new("/etc/machine-id")).unwrap_or_default();
    match id.trim() {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        id => id.to_owned(),
    }
}

/// Real time since boot. The supervisor is a program of its own and the time limits of I/O are real time, so
/// neither asks the `Clock` port.
pub(crate) fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.max(0).unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The wall clock, for what the supervisor writes down.
pub(crate) fn wall() -> Timestamp {
    let now = clock_gettime(ClockId::Realtime);
    millis(now.tv_sec * 1000 + now.tv_nsec / 1_000_000)
}

/// Lets real time pass on a thread that may block.
pub(crate) fn pause(length: Duration) {
    // Interrupted early is as good: every caller looks again.
    let _ = poll(&mut [], Some(&timespec(length)));
}

/// Waits until the descriptor can be read, or `within` has passed (`false`).
pub(crate) fn readable(fd: impl AsFd, within: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    match poll(&mut fds, Some(&timespec(within))) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A length of time as system calls take it.
pub(crate) fn timespec(length: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(length.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let line = "4242 (a) R 1 (b) S 7 4242 4200 0 -1 4194304 1 2 3 4 50 6 70 8 20 0 1 0 987654 1000 33 18446744073709551615\n";
        let stat = Stat::parse(line);
        let wanted = Stat {
            pid: 4242,
            state: 'S',
            parent: 7,
            session: 4200,
            own_ticks: 56,
            reaped_ticks: 78,
            start: 987_654,
            rss_pages: 33,
        };
        assert_eq!(stat, Some(wanted));
        assert!(wanted.lives() && !Stat { state: 'Z', ..wanted }.lives());
    }

    #[test]
    fn what_is_no_stat_line_is_none() {
        for text in ["", "1 (a", "x (a) S 1", "1 (a) S 1 2 3"] {
            assert_eq!(Stat::parse(text), None, "{text}");
        }
    }

    #[test]
    fn this_process_lives_and_one_with_its_pid_and_another_start_does_not() {
        let own = own_id().unwrap();
        assert!(alive(own));
        let other = ProcessId { start: own.start + 1, ..own };
        assert!(!alive(other));
        assert!(open(other).unwrap().is_none());
        assert!(!signal(other, Signal::KILL).unwrap());
    }
}
