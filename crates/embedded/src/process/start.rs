//! Starts a supervisor and hears what became of it.
//!
//! Invariants: an order is handed over whole or not at all, and only a whole one is carried out; secrets travel on
//! the supervisor's standard input and nowhere else; the supervisor is handed to [`Watch`] before anything can
//! fail, so that it is always reaped.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aito_domain::{
    ports::runtime::{RuntimeError, Start},
    spec::AgentSpec,
};
use rustix::fs::{Access, access};
use tokio::runtime::Handle;

use super::{
    look::CREDENTIAL_FILE,
    os,
    place::AgentPlace,
    record::{LogLimits, Order, Reply},
    watch::Watch,
};

/// How long a supervisor may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The longest answer, in bytes.
const LONGEST_ANSWER: u64 = 64 << 10;

/// Variables of the server's own environment that an agent gets, where they are set; what the agent's
/// specification sets comes before them.
pub const INHERITED: [&str; 7] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER"];

/// The variable that tells an agent where the servers' sockets lie.
pub const SOCKET_DIR: &str = "ORCHESTRATOR_SOCKET_DIR";

/// The variables that tell an agent where its profile lies; the first is the older name.
pub const PROFILE: [&str; 2] = ["AGENT_PROFILE", "PROFILE_PATH"];

/// What came of one attempt.
pub(crate) enum Outcome {
    /// The supervisor answered.
    Answered(Reply),
    /// It ended without an answer.
    Silent,
}

/// The program that an agent runs, and how it is called.
pub(crate) struct Invocation {
    pub program: PathBuf,
    pub argv: Vec<String>,
}

/// Finds the agent's program, as `check` does.
pub(crate) fn invocation(spec: &AgentSpec, own: &Path) -> Result<Invocation, RuntimeError> {
    let Some(command) = &spec.command else {
        executable(own).map_err(|why| refused("the reference agent", own, why))?;
        return Ok(Invocation { program: own.to_owned(), argv: vec!["aito".to_owned(), "agent".to_owned()] });
    };
    let Some(name) = command.first().filter(|name| !name.is_empty()) else {
        return Err(RuntimeError::Refused("command: must name a program".to_owned()));
    };
    let path = Path::new(name);
    let program = if path.is_absolute() {
        executable(path).map_err(|why| refused("command", path, why))?;
        path.to_owned()
    } else if name.contains('/') {
        return Err(RuntimeError::Refused(format!("command: {name} must be absolute or a name on the PATH")));
    } else {
        on_path(name).ok_or_else(|| RuntimeError::Refused(format!("command: {name} is not on the PATH")))?
    };
    Ok(Invocation { program, argv: command.clone() })
}

/// Whether the agent's profile can be read.
pub(crate) fn profile(spec: &AgentSpec) -> Result<(), RuntimeError> {
    // Asked before it is opened: opening a pipe would wait for somebody who writes.
    let readable = std::fs::metadata(&spec.profile)
        .and_then(|found| if found.is_file() { Ok(()) } else { Err(io::Error::other("is no file")) })
        .and_then(|()| File::open(&spec.profile).map(drop));
    readable.map_err(|why| refused("profile", &spec.profile, why))
}

fn refused(field: &str, path: &Path, why: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Refused(format!("{field}: {}: {why}", path.display()))
}

fn executable(path: &Path) -> io::Result<()> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is no file"));
    }
    Ok(access(path, Access::EXEC_OK)?)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // A relative entry would mean another program after a change of directory.
    let places = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    places.map(|dir| dir.join(name)).find(|candidate| executable(candidate).is_ok())
}

/// What the supervisor is told.
pub(crate) fn order(start: &Start, invocation: Invocation, agent: &AgentPlace) -> Order {
    let credential = agent.incarnation(start.key.incarnation).credential();
    let mut env: Vec<(String, String)> = Vec::new();
    // A value that is no UTF-8 is left out.
    env.extend(INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))));
    env.extend(start.env.iter().map(|(name, value)| (name.clone(), value.0.clone())));
    let profile = start.spec.profile.to_string_lossy();
    env.extend(PROFILE.map(|name| (name.to_owned(), profile.clone().into_owned())));
    env.push((CREDENTIAL_FILE.to_owned(), credential.to_string_lossy().into_owned()));
    env.push((SOCKET_DIR.to_owned(), start.socket_dir.to_string_lossy().into_owned()));
    Order {
        agent_id: start.key.agent_id,
        agent_type: start.key.agent_type.clone(),
        incarnation: start.key.incarnation,
        place: agent.0.clone(),
        program: invocation.program,
        argv: invocation.argv,
        env,
        credential: start.credential.0.clone(),
        grace_ms: u64::try_from(start.spec.grace.as_millis()).unwrap_or(u64::MAX),
        memory_bytes: start.spec.limits.memory_bytes,
        open_files: start.spec.limits.open_files,
        log: LogLimits::default(),
    }
}

/// Starts a supervisor with this order and waits for its answer.
pub(crate) fn attempt(
    program: &Path,
    order: &Order,
    watch: &Arc<Watch>,
    runtime: &Handle,
) -> Result<Outcome, RuntimeError> {
    let text = serde_json::to_vec(order)
        .map_err(|error| RuntimeError::Refused(format!("the start cannot be passed on: {error}")))?;
    let mut command = Command::new(program);
    command.arg("shim").env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| RuntimeError::Unavailable(error.into()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    watch.adopt(runtime, child);

    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(RuntimeError::Unknown("a supervisor has no pipes".into()));
    };
    // A supervisor that died meanwhile is seen by its silence.
    let _ = stdin.write_all(&text);
    drop(stdin);
    let line = read_answer(stdout.into()).map_err(|error| RuntimeError::Unknown(error.into()))?;
    if line.is_empty() {
        return Ok(Outcome::Silent);
    }
    let reply = serde_json::from_slice(&line).map_err(|error| RuntimeError::Unknown(error.into()))?;
    Ok(Outcome::Answered(reply))
}

/// One line, or nothing if the other end was closed before.
fn read_answer(pipe: std::os::fd::OwnedFd) -> io::Result<Vec<u8>> {
    let deadline = os::monotonic() + ANSWER;
    let mut pipe = File::from(pipe).take(LONGEST_ANSWER);
    let mut line = Vec::new();
    let mut block = [0; 1024];
    loop {
        let left = deadline.saturating_sub(os::monotonic());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the supervisor does not answer"));
        }
        if !os::readable(pipe.get_ref(), left)? {
            continue;
        }
        let read = pipe.read(&mut block)?;
        line.extend_from_slice(&block[..read]);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return Ok(line);
        }
        if read == 0 {
            return Ok(Vec::new());
        }
    }
}
