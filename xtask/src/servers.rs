//! The servers of a test run: a child of this tool that starts them, names them and holds them.
//!
//! Invariants: the child lives as long as its standard input is open, so it ends them also when this tool is killed;
//! starting and ending take bounded time; what it complained of stands in the error.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::supervise;
use crate::workspace;

/// How long all of them may take to start.
const START: Duration = Duration::from_secs(180);

/// How long all of them may take to end.
const END: Duration = Duration::from_secs(60);

/// How many lines of what the child complained of are told.
const LINES: usize = 30;

/// Running servers.
#[derive(Debug)]
pub struct Servers {
    /// Name and value of each variable by which tests find them.
    pub variables: Vec<(String, String)>,
    pid: u32,
    input: Option<ChildStdin>,
    ended: Receiver<ExitStatus>,
    complaints: Option<JoinHandle<String>>,
}

impl Servers {
    /// Starts `harness servers` and waits until all of them are ready; `program` goes into the test image.
    pub fn start(harness: &Path, program: &Path, root: &Path) -> Result<Self, String> {
        let mut command = Command::new(harness);
        command.arg("servers").arg("--bin").arg(program).current_dir(root).env("RUST_BACKTRACE", "0");
        Self::start_command(command, START)
    }

    fn start_command(mut command: Command, limit: Duration) -> Result<Self, String> {
        workspace::clean(&mut command);
        // A group of its own: at a terminal, Ctrl-C ends this tool, and that ends the child in order.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|e| format!("their holder does not start: {e}"))?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("their holder has no input or output".to_owned());
        };
        let pid = child.id();
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || child.wait().map(|status| sender.send(status)));
        let complaints = Some(thread::spawn(move || text_of(errors)));
        let mut servers = Self { variables: Vec::new(), pid, input: Some(input), ended, complaints };
        match servers.listen(output, limit) {
            Ok(()) => Ok(servers),
            Err(why) => Err(match servers.stop() {
                Ok(()) => why,
                Err(more) => format!("{why}: {more}"),
            }),
        }
    }

    /// Ends them. An error if their holder did not end well; it may have done so long before.
    pub fn stop(mut self) -> Result<(), String> {
        drop(self.input.take());
        let status = match self.ended.recv_timeout(END) {
            Ok(status) => Some(status),
            Err(_) => {
                supervise::kill(&self.pid.to_string());
                None
            }
        };
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        let text = self.complaints.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let told = lines[lines.len().saturating_sub(LINES)..].join("\n    ");
        // The first line stands in the summary, and the last complaint is what it died of.
        let last = lines.last().copied().unwrap_or("without a word");
        Err(match status {
            Some(status) => format!("their holder ended with {status}: {last}\n    {told}"),
            None => format!("their holder did not end within {} s: {last}\n    {told}", END.as_secs()),
        })
    }

    /// Reads `NAME=value` lines up to `ready`.
    fn listen(&mut self, output: impl Read + Send + 'static, limit: Duration) -> Result<(), String> {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let watch = Stopwatch::start();
        loop {
            match lines.recv_timeout(watch.left(limit)) {
                Ok(line) if line == "ready" => return Ok(()),
                Ok(line) => match line.split_once('=') {
                    Some((name, value)) => self.variables.push((name.to_owned(), value.to_owned())),
                    None => return Err(format!("their holder said `{line}`")),
                },
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("were not ready within {} s", limit.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => return Err("did not start".to_owned()),
            }
        }
    }
}

/// All that is said, as text.
fn text_of(mut source: impl Read) -> String {
    let mut bytes = Vec::new();
    // What was said before it broke off is worth telling.
    let _ = source.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(script: &str, limit: u64) -> Result<Servers, String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Servers::start_command(command, Duration::from_secs(limit))
    }

    #[test]
    fn servers_that_are_ready_are_named_and_end_with_their_input() {
        let servers = started("echo A=1; echo B=x=y; echo ready; read -r _; exit 0", 60).unwrap();
        assert_eq!(servers.variables, [("A".into(), "1".into()), ("B".into(), "x=y".into())]);
        assert_eq!(servers.stop(), Ok(()));
    }

    #[test]
    fn holder_that_fails_is_an_error_with_what_it_said() {
        let why = started("echo A=1; echo 'no engine: not root' >&2; exit 3", 60).unwrap_err();
        assert!(why.contains("did not start") && why.contains("no engine: not root"), "{why}");
        assert!(why.contains("exit status: 3"), "{why}");
    }

    #[test]
    fn silence_and_nonsense_are_errors() {
        let why = started("read -r _", 0).unwrap_err();
        assert!(why.contains("not ready within 0 s"), "{why}");
        let why = started("echo nonsense; read -r _", 60).unwrap_err();
        assert!(why.contains("said `nonsense`"), "{why}");
    }

    #[test]
    fn holder_that_dies_during_the_run_is_an_error_at_its_end() {
        let servers = started("echo ready; echo 'killed me' >&2; exit 9", 60).unwrap();
        let why = servers.stop().unwrap_err();
        assert!(why.contains("exit status: 9") && why.contains("killed me"), "{why}");
    }

    #[test]
    fn servers_that_are_let_go_end_too() {
        let mut servers = started("echo ready; read -r _; exit 5", 60).unwrap();
        let (_, never) = mpsc::channel();
        let ended = std::mem::replace(&mut servers.ended, never);
        drop(servers);
        assert_eq!(ended.recv_timeout(Duration::from_secs(60)).unwrap().code(), Some(5));
    }
}
