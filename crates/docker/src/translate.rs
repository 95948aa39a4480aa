//! What the engine says, in the domain's terms: whose a container is, its state, how it ended, what a failure means.
//!
//! Invariant: pure functions.

use std::time::Duration;

use aito_domain::{
    Cause,
    agent::Exit,
    fleet::{ContainerKey, ContainerState},
    id::{AgentType, Incarnation, InstallationId},
    ports::runtime::{Foreign, RuntimeError, Stats, Unenforced},
    time::Timestamp,
};
use serde_json::Value;

use crate::engine::{Fault, Info, Inspected, Labels, Listed};

/// Whose a container or network is: the installation's id.
pub(crate) const INSTALLATION: &str = "aito.installation";
/// The agent's id.
pub(crate) const AGENT: &str = "aito.agent";
/// The agent's type.
pub(crate) const TYPE: &str = "aito.type";
/// The number of the start.
pub(crate) const INCARNATION: &str = "aito.incarnation";
/// `true` on everything that such a control plane made.
pub(crate) const MANAGED: &str = "aito.managed";
/// On a container that only shows its image's files, never runs and lives for a moment: the installation's id.
pub(crate) const PROBE: &str = "aito.probe";

/// What the labels of a compose file's containers are called.
const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";

/// The labels of an incarnation's container.
pub(crate) fn labels(installation: InstallationId, key: &ContainerKey) -> [(&'static str, String); 5] {
    [
        (INSTALLATION, installation.to_string()),
        (AGENT, key.agent_id.to_string()),
        (TYPE, key.agent_type.to_string()),
        (INCARNATION, key.incarnation.to_string()),
        (MANAGED, "true".to_owned()),
    ]
}

/// The incarnation that a container is, if it is this installation's: label and exact name must both say so.
pub(crate) fn key_of(installation: InstallationId, name: &str, labels: &Labels) -> Option<ContainerKey> {
    let label = |name| labels.get(name).map(String::as_str);
    let key = ContainerKey {
        agent_id: label(AGENT)?.parse().ok()?,
        agent_type: label(TYPE)?.parse().ok()?,
        incarnation: Incarnation(label(INCARNATION)?.parse().ok()?),
    };
    let ours = label(INSTALLATION)?.parse() == Ok(installation) && key.name(installation) == name;
    ours.then_some(key)
}

/// Whether a container is the one of this key.
pub(crate) fn is_of(installation: InstallationId, key: &ContainerKey, found: &Inspected) -> bool {
    key_of(installation, &found.name, &found.labels).as_ref() == Some(key)
}

/// Where a container is in its life, as far as a listing tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Made, never started.
    Created,
    /// It has processes.
    Running,
    /// It ran and has ended.
    Ended,
    /// It is on its way out and will not be there soon.
    Leaving,
}

/// The engine's word for a state.
pub(crate) fn phase(state: &str) -> Phase {
    match state {
        "created" | "configured" => Phase::Created,
        "removing" => Phase::Leaving,
        // "dead": its removal failed half-way.
        "exited" | "dead" | "stopped" => Phase::Ended,
        // "running", "paused", "restarting", and what a later engine may add: what is not known to have ended lives.
        _ => Phase::Running,
    }
}

/// How a container ended.
///
/// The engine shows an end by a signal as 128 and its number, which a program can also exit with by itself. The main
/// process of a container is the first of its process namespace, which a signal without a handler ends only when the
/// kernel sends it: SIGKILL from outside, or a fault of its own. Those are told as signals. Anything else, such as
/// 143, comes from a program that handled the signal and chose that code.
pub(crate) fn exit(found: &Inspected) -> Exit {
    let code = i32::try_from(found.exit_code).unwrap_or(i32::MAX);
    match code - 128 {
        // SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGKILL, SIGSEGV, SIGSYS; signal(7).
        signal @ (4 | 5 | 7 | 8 | 9 | 11 | 31) => Exit::Signal(signal),
        _ => Exit::Code(code),
    }
}

/// What a container that was looked at is to the fleet; `None` when it is as good as gone.
pub(crate) fn state(found: &Inspected) -> Option<ContainerState> {
    match phase(&found.status) {
        Phase::Created => Some(ContainerState::Creating),
        Phase::Running => Some(ContainerState::Running),
        Phase::Ended => Some(ContainerState::Exited(exit(found))),
        Phase::Leaving => None,
    }
}

/// Whose a container is that is not ours, for people.
pub(crate) fn whose(installation: InstallationId, labels: &Labels) -> String {
    if let Some(other) = labels.get(INSTALLATION) {
        return if other.parse() == Ok(installation) {
            "labelled as this installation's, but under a name that it did not give".to_owned()
        } else {
            format!("another aito installation, {other}")
        };
    }
    if let Some(project) = labels.get(COMPOSE_PROJECT) {
        return format!("compose project {project}");
    }
    "no label of any installation".to_owned()
}

/// A container as a look-alike; `None` when it is ours or looks like none of such a company's agents.
pub(crate) fn foreign(installation: InstallationId, found: &Listed) -> Option<Foreign> {
    let name = found.names.iter().find(|name| !name.contains('/'))?;
    let label = |name| found.labels.get(name).map(String::as_str);
    if key_of(installation, name, &found.labels).is_some() || label(PROBE).is_some() {
        return None;
    }
    let service = label(COMPOSE_SERVICE).and_then(|service| service.strip_suffix("-agent"));
    let service = service.and_then(|service| service.parse::<AgentType>().ok()).filter(|_| {
        let project = label(COMPOSE_PROJECT).unwrap_or_default();
        [project, &found.image].iter().any(|text| text.contains("aito"))
    });
    let looks = name.starts_with("aito-")
        || label(MANAGED) == Some("true")
        || label(TYPE).is_some()
        || service.is_some();
    looks.then(|| Foreign {
        name: name.clone(),
        agent_type: label(TYPE)
            .map(str::to_owned)
            .or(service.map(|service| service.to_string()))
            .or_else(|| type_in(name)),
        running: phase(&found.state) == Phase::Running,
        whose: whose(installation, &found.labels),
    })
}

/// The type that a name like `aito-ceo` or `aito-ceo-k3v7qa` claims.
fn type_in(name: &str) -> Option<String> {
    let claimed = name.strip_prefix("aito-")?;
    let code = |code: &str| code.len() == 6 && code.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
    let claimed = match claimed.rsplit_once('-') {
        Some((before, last)) if code(last) => before,
        _ => claimed,
    };
    claimed.parse::<AgentType>().ok().map(|claimed| claimed.to_string())
}

/// What the engine's kernel cannot bound.
pub(crate) fn unenforced(info: Option<&Info>) -> Unenforced {
    let Some(info) = info else {
        return vec!["limits: whether they hold is not known, the engine has not answered yet".to_owned()];
    };
    let lines = [
        (info.memory, "memory: the engine cannot bound a container's memory"),
        (info.swap || !info.memory, "memory: the engine cannot bound swap, so an agent may use more in all"),
        (info.cpu, "cpu: the engine cannot bound a container's processor time"),
        (info.pids, "pids: the engine cannot bound a container's processes"),
    ];
    lines.into_iter().filter(|(holds, _)| !holds).map(|(_, line)| line.to_owned()).collect()
}

/// One reading of statistics; `None` when nothing runs. Memory is without the page cache that the kernel can take
/// back at once, as the engine's own tools show it (cgroup v1 and v2 name it differently).
pub(crate) fn stats(said: &Value, at: Timestamp) -> Option<Stats> {
    let processes = said["pids_stats"]["current"].as_u64().filter(|count| *count > 0)?;
    let memory = &said["memory_stats"];
    let detail = &memory["stats"];
    let cache = detail["total_inactive_file"].as_u64().or(detail["inactive_file"].as_u64()).unwrap_or(0);
    Some(Stats {
        at,
        cpu: Duration::from_nanos(said["cpu_stats"]["cpu_usage"]["total_usage"].as_u64().unwrap_or(0)),
        memory_bytes: memory["usage"].as_u64().unwrap_or(0).saturating_sub(cache),
        processes: u32::try_from(processes).unwrap_or(u32::MAX),
    })
}

/// What the failure of a call that only looks means.
pub(crate) fn looking(fault: Fault) -> RuntimeError {
    match fault {
        Fault::NoEngine(cause) | Fault::Lost(cause) => RuntimeError::Unavailable(cause),
        Fault::Unsuitable(why) => RuntimeError::Refused(why),
        Fault::Answer { status: 404, .. } => RuntimeError::NotFound,
        Fault::Answer { status, message } if status >= 500 => {
            RuntimeError::Unavailable(said(status, &message))
        }
        Fault::Answer { message, .. } => RuntimeError::Refused(message),
    }
}

/// What the failure of a call that changes something means.
pub(crate) fn acting(fault: Fault) -> RuntimeError {
    match fault {
        Fault::NoEngine(cause) => RuntimeError::Unavailable(cause),
        Fault::Lost(cause) => RuntimeError::Unknown(cause),
        Fault::Unsuitable(why) => RuntimeError::Refused(why),
        Fault::Answer { status: 404, .. } => RuntimeError::NotFound,
        Fault::Answer { status: 409, message } => RuntimeError::Conflict(message),
        Fault::Answer { status: 503, message } => RuntimeError::Unavailable(said(503, &message)),
        Fault::Answer { status, message } if status >= 500 => RuntimeError::Unknown(said(status, &message)),
        Fault::Answer { message, .. } => RuntimeError::Refused(message),
    }
}

/// [`acting`], after an earlier step of the same call was done.
pub(crate) fn acting_on(fault: Fault) -> RuntimeError {
    match acting(fault) {
        RuntimeError::Unavailable(cause) => RuntimeError::Unknown(cause),
        RuntimeError::NotFound => RuntimeError::Unknown("somebody removed the container meanwhile".into()),
        other => other,
    }
}

/// What the engine says when it failed at a create or start; a look then tells whether it did it all the same. `None`
/// for other faults, and for the word of a gateway before it (502, 504), behind which the engine may still be at it.
pub(crate) fn failed(fault: &Fault) -> Option<String> {
    match fault {
        Fault::Answer { status: 502 | 504, .. } => None,
        Fault::Answer { status, message } if *status >= 500 => Some(words(*status, message)),
        _ => None,
    }
}

fn said(status: u16, message: &str) -> Cause {
    words(status, message).into()
}

fn words(status: u16, message: &str) -> String {
    format!("the Docker engine answers {status}: {message}")
}

/// Why a create failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotCreated {
    /// A container has the name.
    NameTaken,
    /// The engine has no such image.
    NoImage,
    /// The network is gone, or there are two for a moment.
    NoNetwork,
    /// Anything else.
    Other,
}

/// Tells the failures of a create that have a remedy.
pub(crate) fn not_created(fault: &Fault) -> NotCreated {
    match fault {
        Fault::Answer { status: 409, message } if message.contains("is already in use") => {
            NotCreated::NameTaken
        }
        Fault::Answer { status: 400 | 404, message } if is_network(message) => NotCreated::NoNetwork,
        Fault::Answer { status: 404, .. } => NotCreated::NoImage,
        _ => NotCreated::Other,
    }
}

/// Why a start failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotStarted {
    /// The network is gone, which is a 404 as well, or there are two for a moment.
    NoNetwork,
    /// It cannot be started as it is; the engine's words.
    Never(String),
    /// Anything else.
    Other,
}

/// Tells the failures of a start that have a remedy or will never pass.
pub(crate) fn not_started(fault: &Fault) -> NotStarted {
    /// How the OCI runtime and the engine say that a program or a mount of the container is no good.
    const NEVER: [&str; 6] = [
        "executable file not found",
        "no such file or directory",
        "exec format error",
        "permission denied",
        "not a directory",
        "is a directory",
    ];
    match fault {
        Fault::Answer { status: 400 | 404, message } if is_network(message) => NotStarted::NoNetwork,
        Fault::Answer { status: 404, message } if message.contains("No such container") => NotStarted::Other,
        Fault::Answer { status, message }
            if *status == 400 || NEVER.iter().any(|words| message.contains(words)) =>
        {
            NotStarted::Never(message.clone())
        }
        _ => NotStarted::Other,
    }
}

fn is_network(message: &str) -> bool {
    message.contains("network ") && ["not found", "is ambiguous"].iter().any(|words| message.contains(words))
}

/// Labels as the map that the engine gives.
#[cfg(test)]
pub(crate) fn map(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests;
