//! What the supervisor does while the agent lives, and when it ends.
//!
//! Invariants: one poll loop, nothing in it waits for anything else; a pid is signalled only while it is an
//! unreaped child of this process, so that it cannot have been given to another.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::{fs::FileExt as _, net::UnixStream},
    },
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aito_domain::{agent::Exit, ports::runtime::LogChannel};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process, kill_process_group, wait,
        waitid, waitpid,
    },
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use super::{
    super::{
        logs::{format::Lines, writer::Writer},
        os::{self, monotonic, timespec, wall},
        place::{self, Place},
        record::Ended,
    },
    spawn::Running,
};

/// How long a line may wait for its end before it is shown without.
const PARTIAL_LINE: Duration = Duration::from_millis(300);

/// How long the record of the end is tried to be written before the supervisor gives up.
const RECORD_ATTEMPTS: u32 = 60;

/// Blocks read from a pipe after the agent's end; a pipe holds far less.
const LAST_BLOCKS: u32 = 256;

/// Bytes read from a pipe at once.
const BLOCK: usize = 64 << 10;

/// The signals that the supervisor answers; others that a terminal sends do nothing.
pub(super) struct Signals {
    wake: UnixStream,
    stop: Arc<AtomicBool>,
}

impl Signals {
    /// Handlers and not `SIG_IGN`: what is ignored stays ignored in the agent, a handler does not.
    pub(super) fn install() -> io::Result<Self> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGTERM, Arc::clone(&stop))?;
        for signal in [SIGTERM, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, waker.try_clone()?)?;
        }
        let ignored = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&ignored))?;
        }
        Ok(Self { wake, stop })
    }

    fn drain(&mut self) {
        let mut bytes = [0; 256];
        while matches!(self.wake.read(&mut bytes), Ok(read) if read > 0) {}
    }
}

/// Keeps the agent until it has ended and its end is recorded.
pub(super) fn run(running: Running, signals: Signals, grace: Duration) {
    let Running { child, log, place } = running;
    let Some(mut supervisor) = Supervisor::new(child, log, place, signals, grace) else {
        // Without its pipes the agent cannot be kept; ending takes it along.
        return;
    };
    let status = supervisor.keep();
    let status = supervisor.end_the_rest(status);
    supervisor.finish_log();
    supervisor.record(status);
}

struct Output {
    channel: LogChannel,
    pipe: Option<File>,
    lines: Lines,
    /// When an open line is shown as it is.
    due: Option<Duration>,
}

struct Supervisor {
    agent: Pid,
    outputs: [Output; 2],
    log: Writer,
    place: Place,
    signals: Signals,
    grace: Duration,
    /// When a requested stop becomes force.
    force_at: Option<Duration>,
}

impl Supervisor {
    fn new(mut child: Child, log: Writer, place: Place, signals: Signals, grace: Duration) -> Option<Self> {
        let agent = Pid::from_raw(i32::try_from(child.id()).ok()?)?;
        let stdout = output(LogChannel::Stdout, child.stdout.take()?.into())?;
        let stderr = output(LogChannel::Stderr, child.stderr.take()?.into())?;
        Some(Self { agent, outputs: [stdout, stderr], log, place, signals, grace, force_at: None })
    }

    /// Runs until the agent has ended; its status, if it was reaped on the way.
    fn keep(&mut self) -> Option<WaitStatus> {
        loop {
            self.wait();
            self.signals.drain();
            if self.signals.stop.swap(false, Ordering::SeqCst) {
                self.request_stop();
            }
            self.force_if_due();
            self.copy_output();
            if let Some(end) = self.agent_ended() {
                return end;
            }
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self) {
        let now = monotonic();
        let due = self.outputs.iter().filter_map(|output| output.due).chain(self.force_at).min();
        let timeout = due.map(|due| timespec(due.saturating_sub(now)));
        let mut fds = vec![PollFd::new(&self.signals.wake, PollFlags::IN)];
        fds.extend(
            self.outputs
                .iter()
                .filter_map(|output| output.pipe.as_ref())
                .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
        );
        // Interrupted by a signal is a reason to look, too.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// Asks the agent to end. Who wants it may have left the grace in a file; a later wish can only shorten it.
    fn request_stop(&mut self) {
        let said = fs::read_to_string(self.place.stop()).ok().and_then(|text| text.trim().parse().ok());
        let grace = said.map_or(self.grace, Duration::from_millis);
        let at = monotonic() + grace;
        self.force_at = Some(self.force_at.map_or(at, |earlier| earlier.min(at)));
        let _ = kill_process(self.agent, Signal::TERM);
    }

    fn force_if_due(&mut self) {
        if self.force_at.is_some_and(|at| at <= monotonic()) {
            self.force_at = None;
            // The rest follows once the agent is gone.
            let _ = kill_process(self.agent, Signal::KILL);
        }
    }

    fn copy_output(&mut self) {
        let (now, time) = (monotonic(), wall());
        for output in &mut self.outputs {
            output.copy(&mut self.log, now, time);
        }
        self.log.commit(time);
    }

    /// Whether the agent has ended; other descendants that came to this process are reaped.
    fn agent_ended(&self) -> Option<Option<WaitStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if matches!(waitid(WaitId::Pid(self.agent), options), Ok(Some(_))) {
            return Some(None);
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.agent => return Some(Some(status)),
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Kills everything that the agent started and left, and gives the agent's status.
    fn end_the_rest(&mut self, status: Option<WaitStatus>) -> Option<WaitStatus> {
        let mut status = status;
        if status.is_none() {
            // Not reaped yet, so its pid and group cannot be another's. One call for the whole group, which no
            // fork outruns.
            let _ = kill_process_group(self.agent, Signal::KILL);
            status = waitpid(Some(self.agent), WaitOptions::empty()).ok().flatten().map(|(_, status)| status);
        }
        // Whatever loses its parent becomes a child of this process: until there is none, something lives.
        loop {
            for pid in children() {
                let _ = kill_process(pid, Signal::KILL);
            }
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return status,
                Ok(None) => {
                    let _ = os::readable(&self.signals.wake, Duration::from_millis(20));
                    self.signals.drain();
                }
            }
        }
    }

    fn finish_log(&mut self) {
        let time = wall();
        for output in &mut self.outputs {
            // Nobody is left who could write, but for a stranger whom the agent gave its pipe: hence a bound.
            for _ in 0..LAST_BLOCKS {
                if !output.copy(&mut self.log, Duration::ZERO, time) {
                    break;
                }
                self.log.commit(time);
            }
            let channel = output.channel;
            output.lines.flush(|line| self.log.line(time, channel, line));
        }
        self.log.commit(time);
    }

    /// Writes down how the agent ended. On failure it tries for a minute, during which the lock is held and the
    /// incarnation counts as alive, and then leaves it to the server to find it lost.
    fn record(&self, status: Option<WaitStatus>) {
        let _ = fs::remove_dir_all(self.place.secret_dir());
        let ended = Ended { exit: exit_of(status), at: wall() };
        for _ in 0..RECORD_ATTEMPTS {
            if write_end(&self.place, &ended).is_ok() || !self.place.dir().exists() {
                return;
            }
            os::pause(Duration::from_secs(1));
        }
    }
}

fn output(channel: LogChannel, pipe: OwnedFd) -> Option<Output> {
    let flags = fcntl_getfl(&pipe).ok()?;
    fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).ok()?;
    Some(Output { channel, pipe: Some(pipe.into()), lines: Lines::default(), due: None })
}

impl Output {
    /// Takes what one read gives; whether there may be more.
    fn copy(&mut self, log: &mut Writer, now: Duration, time: aito_domain::time::Timestamp) -> bool {
        let channel = self.channel;
        let mut block = [0; BLOCK];
        let read = match &mut self.pipe {
            Some(pipe) => pipe.read(&mut block),
            None => return false,
        };
        match read {
            Ok(0) => self.pipe = None,
            Ok(read) => {
                let mut ended = false;
                self.lines.push(&block[..read], |line| {
                    ended = true;
                    log.line(time, channel, line);
                });
                let since_before = self.due.filter(|_| !ended);
                self.due = self.lines.is_open().then(|| since_before.unwrap_or(now + PARTIAL_LINE));
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.pipe = None,
        }
        if self.due.is_some_and(|due| due <= now) || self.pipe.is_none() {
            self.due = None;
            self.lines.flush(|line| log.line(time, channel, line));
        }
        false
    }
}

/// The children of this process, which has one thread.
fn children() -> Vec<Pid> {
    let own = std::process::id().cast_signed();
    let listed = fs::read_to_string(format!("/proc/self/task/{own}/children")).ok();
    let pids: Vec<i32> = match listed {
        Some(text) => text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        // A kernel without that file.
        None => os::all_processes()
            .unwrap_or_default()
            .iter()
            .filter(|stat| stat.parent == own)
            .map(|stat| stat.pid)
            .collect(),
    };
    pids.into_iter().filter_map(Pid::from_raw).collect()
}

fn exit_of(status: Option<WaitStatus>) -> Exit {
    let Some(status) = status else { return Exit::Lost("its end was not reported".to_owned()) };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Lost("its end is of no known kind".to_owned()),
    }
}

/// Writes into the room that was reserved at the start, which works on a full disk too; JSON may be followed by
/// blanks.
fn write_end(place: &Place, ended: &Ended) -> io::Result<()> {
    let bytes = serde_json::to_vec(ended)?;
    let reserved = place.running();
    match File::options().write(true).open(&reserved) {
        Ok(file) => {
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            fs::rename(&reserved, place.exit())?;
            // A name that is not durable yet is found lost after a power failure, which is true enough.
            let _ = place::sync_dir(place.dir());
            Ok(())
        }
        Err(_) => place::write_json(&place.exit(), ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_the_end_fits_into_its_reserved_room_and_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let place = place::AgentPlace(dir.path().to_owned()).incarnation(aito_domain::id::Incarnation(1));
        fs::create_dir(place.dir()).unwrap();
        fs::write(place.running(), [b' '; 512]).unwrap();
        let ended = Ended { exit: Exit::Signal(9), at: wall() };
        write_end(&place, &ended).unwrap();
        assert_eq!(fs::metadata(place.exit()).unwrap().len(), 512);
        assert_eq!(place::read_json::<Ended>(&place.exit()).unwrap(), Some(ended));
    }
}
