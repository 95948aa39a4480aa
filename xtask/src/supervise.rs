//! Runs a program under a time limit and hands over its output line by line.
//!
//! Invariants: the call returns in bounded time whatever the program does, also when something that it started keeps
//! its output open; what is left of its process group is killed before the call returns.

use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::clock::Stopwatch;

/// How long something that outlives the program may go on holding its output.
const GRACE: Duration = Duration::from_secs(10);

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status; nothing if it did not even end after being killed.
    pub status: Option<ExitStatus>,
    /// It was killed because its time was up.
    pub timed_out: bool,
    /// It left a process behind that went on holding its output.
    pub left_behind: bool,
}

/// Which of the two outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Normal,
    /// Standard error.
    Error,
}

enum Heard {
    Line(Output, String),
    Closed,
    Ended(ExitStatus),
}

/// Runs `command` until it ends or `limit` has passed. Lines that are not UTF-8 are made so.
pub fn run(command: &mut Command, limit: Duration, on_line: impl FnMut(Output, &str)) -> io::Result<Ended> {
    run_with_grace(command, limit, GRACE, on_line)
}

fn run_with_grace(
    command: &mut Command,
    limit: Duration,
    grace: Duration,
    mut on_line: impl FnMut(Output, &str),
) -> io::Result<Ended> {
    // At a terminal the program stays in its caller's process group, so that Ctrl-C reaches it.
    let own_group = !io::stdin().is_terminal();
    if own_group {
        command.process_group(0);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let victim = if own_group { format!("-{}", child.id()) } else { child.id().to_string() };
    let (sender, heard) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        listen(stdout, Output::Normal, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        listen(stderr, Output::Error, sender.clone());
    }
    thread::spawn(move || child.wait().map(|status| sender.send(Heard::Ended(status))));

    let mut ended = Ended { status: None, timed_out: false, left_behind: false };
    let mut open = 2;
    follow(&heard, limit, &mut open, &mut ended, &mut on_line);
    if ended.status.is_none() {
        ended.timed_out = true;
        kill(&victim);
        follow(&heard, grace, &mut open, &mut ended, &mut on_line);
    }
    if open > 0 && ended.status.is_some() {
        follow_to_end(&heard, grace, &mut open, &mut on_line);
        ended.left_behind = open > 0 && !ended.timed_out;
    }
    if own_group {
        kill(&victim);
    }
    Ok(ended)
}

/// Passes lines on until the program has ended or the time is up.
fn follow(
    heard: &Receiver<Heard>,
    limit: Duration,
    open: &mut usize,
    ended: &mut Ended,
    on_line: &mut impl FnMut(Output, &str),
) {
    let watch = Stopwatch::start();
    loop {
        match heard.recv_timeout(watch.left(limit)) {
            Ok(Heard::Line(output, line)) => on_line(output, &line),
            Ok(Heard::Closed) => *open -= 1,
            Ok(Heard::Ended(status)) => {
                ended.status = Some(status);
                return;
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Passes lines on until both outputs are closed or the time is up.
fn follow_to_end(
    heard: &Receiver<Heard>,
    limit: Duration,
    open: &mut usize,
    on_line: &mut impl FnMut(Output, &str),
) {
    let watch = Stopwatch::start();
    while *open > 0 {
        match heard.recv_timeout(watch.left(limit)) {
            Ok(Heard::Line(output, line)) => on_line(output, &line),
            Ok(Heard::Closed) => *open -= 1,
            Ok(Heard::Ended(_)) => {}
            Err(_) => return,
        }
    }
}

fn listen(source: impl Read + Send + 'static, output: Output, sender: Sender<Heard>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(source);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            if sender.send(Heard::Line(output, line)).is_err() {
                return;
            }
            bytes.clear();
        }
        // Nobody listens any more once the call has returned.
        let _ = sender.send(Heard::Closed);
    });
}

/// Kills a process, or with a minus sign a process group. The shell's own `kill` needs no further program and this
/// tool no system call crate; that there is nothing left to kill is fine.
pub fn kill(victim: &str) {
    let _ = Command::new("sh").args(["-c", "kill -s KILL -- \"$0\" 2>/dev/null", victim]).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_of_both_outputs_and_the_status_arrive() {
        let mut lines = Vec::new();
        let ended = run(&mut sh("echo one; echo two >&2; printf last; exit 3"), LONG, |output, line| {
            lines.push((output, line.to_owned()));
        })
        .unwrap();
        lines.sort_by(|a, b| a.1.cmp(&b.1));
        let expected = [
            (Output::Normal, "last".to_owned()),
            (Output::Normal, "one".to_owned()),
            (Output::Error, "two".to_owned()),
        ];
        assert_eq!(lines, expected);
        assert_eq!(ended.status.and_then(|status| status.code()), Some(3));
        assert!(!ended.timed_out && !ended.left_behind);
    }

    #[test]
    fn program_that_does_not_end_is_killed_with_what_it_started() {
        let watch = Stopwatch::start();
        let ended = run(&mut sh("sleep 50 & sleep 50"), SHORT, |_, _| {}).unwrap();
        assert!(ended.timed_out);
        assert!(ended.status.is_some(), "killed");
        assert!(watch.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn process_left_behind_is_noticed_and_does_not_hold_the_run() {
        let watch = Stopwatch::start();
        let ended = run_with_grace(&mut sh("sleep 50 & exit 0"), LONG, SHORT, |_, _| {}).unwrap();
        assert!(ended.left_behind);
        assert!(ended.status.is_some_and(|status| status.success()));
        assert!(watch.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn program_that_does_not_exist_is_an_error() {
        assert!(run(&mut Command::new("/nonexistent/program"), LONG, |_, _| {}).is_err());
    }
}
