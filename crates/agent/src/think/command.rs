//! Thinking by any program: context as JSON on standard input, a JSON list of actions from standard output.
//!
//! Invariants:
//! - The program is the leader of a process group of its own. Whenever the call ends, by an answer, an error, the
//!   time limit or because its future is dropped, the whole group is killed, before its leader is reaped, so
//!   that the number of the group cannot belong to anyone else. (What leaves the group on purpose is the
//!   runtime's to end.)
//! - Its environment is exactly the configured one; it inherits no descriptor but the three pipes.
//! - It can make the agent remember at most the output cap plus 8 KiB of standard error. What it writes to
//!   standard error goes into the agent's log, at most 100 lines per call.

use super::{Context, Think, ThinkError};
use crate::{config, log::Log, time};
use async_trait::async_trait;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde_json::Value;
use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    signal::unix::{SignalKind, signal},
};

const MAX_STDERR_LINES: usize = 100;
const MAX_STDERR_LINE: u64 = 8 << 10;
/// How long to wait for the rest of the output when the program has ended but something outside its group
/// still holds the pipe.
const DRAIN: Duration = Duration::from_millis(500);

/// A program as the thinker.
#[derive(Debug)]
pub struct CommandThinker {
    config: config::Command,
    log: Log,
}

impl CommandThinker {
    /// Thinks with the configured program; its standard error goes to `log`.
    pub fn new(config: config::Command, log: Log) -> Self {
        Self { config, log }
    }

    async fn ask(&self, context: &Context) -> Result<Vec<Value>, ThinkError> {
        let question = serde_json::to_vec(context).map_err(|error| ThinkError::Talk(error.into()))?;
        let mut group = Group::spawn(&self.config)?;
        let pipes = (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(ThinkError::Talk(io::ErrorKind::BrokenPipe.into()));
        };
        let mut answer = Vec::new();
        let status = {
            let reading = read_capped(stdout, self.config.output_cap, &mut answer);
            let talking = async {
                let ((), (), read) = tokio::join!(write(stdin, &question), self.pass_on(stderr), reading);
                read
            };
            tokio::pin!(talking);
            let mut done = false;
            loop {
                tokio::select! {
                    read = &mut talking, if !done => {
                        read?;
                        done = true;
                    }
                    ended = group.ended() => {
                        ended.map_err(ThinkError::Talk)?;
                        break;
                    }
                }
            }
            let status = group.kill_and_reap().await.map_err(ThinkError::Talk)?;
            if !done && let Some(read) = time::within(DRAIN, talking).await {
                read?;
            }
            status
        };
        if !status.success() {
            return Err(ThinkError::Failed(describe(status)));
        }
        match serde_json::from_slice(&answer) {
            Ok(Value::Array(list)) => Ok(list),
            Ok(_) => Err(ThinkError::NotAList("another kind of JSON".to_owned())),
            Err(error) => Err(ThinkError::NotAList(error.to_string())),
        }
    }

    /// Logs standard error line by line; what is too much is read and dropped, so that the program never waits.
    async fn pass_on(&self, stderr: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(stderr);
        for count in 0.. {
            let mut line = Vec::new();
            match (&mut reader).take(MAX_STDERR_LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) if count < MAX_STDERR_LINES => {
                    self.log.line(format!("thinking says: {}", String::from_utf8_lossy(&line)));
                }
                Ok(_) if count == MAX_STDERR_LINES => self.log.line("thinking says more; left out"),
                Ok(_) => {}
            }
        }
    }
}

#[async_trait]
impl Think for CommandThinker {
    fn describe(&self) -> String {
        format!("command {}", self.config.argv.first().map_or("", String::as_str))
    }

    async fn think(&self, context: &Context) -> Result<Vec<Value>, ThinkError> {
        time::within(self.config.timeout, self.ask(context))
            .await
            .unwrap_or(Err(ThinkError::TimedOut(self.config.timeout)))
    }
}

/// A program that reads only part of its question, or nothing, is fine.
async fn write(mut stdin: ChildStdin, question: &[u8]) {
    let _ = stdin.write_all(question).await;
    let _ = stdin.shutdown().await;
}

async fn read_capped(
    stdout: impl AsyncRead + Unpin,
    cap: usize,
    answer: &mut Vec<u8>,
) -> Result<(), ThinkError> {
    stdout.take(cap as u64 + 1).read_to_end(answer).await.map_err(ThinkError::Talk)?;
    if answer.len() > cap { Err(ThinkError::TooMuchOutput(cap)) } else { Ok(()) }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// A running process group; dropping it kills it.
struct Group {
    leader: Pid,
    reaped: bool,
    /// Tells that some child changed its state.
    changes: tokio::signal::unix::Signal,
    child: Child,
}

impl Group {
    fn spawn(config: &config::Command) -> Result<Self, ThinkError> {
        let (program, arguments) = config
            .argv
            .split_first()
            .ok_or_else(|| ThinkError::Start(io::Error::other("the command is empty")))?;
        // Before the child exists, so that no change of its state is missed.
        let changes = signal(SignalKind::child()).map_err(ThinkError::Start)?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(&config.env.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(ThinkError::Start)?;
        let leader = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or_else(|| ThinkError::Start(io::Error::other("the child has no process id")))?;
        Ok(Self { leader, reaped: false, changes, child })
    }

    /// Ends when the leader has; it is not reaped by that.
    async fn ended(&mut self) -> io::Result<()> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(self.leader), look)?.is_none() {
            self.changes.recv().await;
        }
        Ok(())
    }

    async fn kill_and_reap(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        let status = self.child.wait().await?;
        self.reaped = true;
        Ok(status)
    }

    fn kill(&self) {
        if !self.reaped {
            // An error means that nobody of the group is left.
            let _ = kill_process_group(self.leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
