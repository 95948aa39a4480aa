//! The `[agents.<type>]` tables: what an agent is started with. Images, commands and secrets come from here
//! only, never through the API.
//!
//! Invariants: the seven agents of the contract always exist; every value is checked before anything starts;
//! variables that the server sets itself cannot be set here.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use aito_domain::{
    id::AgentType,
    spec::{AgentSpec, Limits, Mount, RestartPolicy, SecretRef, Tier},
};
use serde::{Deserialize, Serialize};

/// Loop intervals of the seven in seconds, and whether one is a head (HTTP contract, Agents).
const BUILT_IN: [(&str, u64, Tier); 7] = [
    ("ceo", 1800, Tier::Head),
    ("dao", 14_400, Tier::Head),
    ("cmo", 7200, Tier::Clevel),
    ("cto", 3600, Tier::Clevel),
    ("cfo", 14_400, Tier::Clevel),
    ("coo", 3600, Tier::Clevel),
    ("cco", 43_200, Tier::Clevel),
];

/// What a container may use whose agent sets no bound of its own: enough for an agent and a command line tool that it
/// thinks with, and not the machine.
const CONTAINER_LIMITS: Limits =
    Limits { memory_bytes: Some(512 << 20), cpu_millis: Some(1000), pids: Some(256), open_files: None };

/// An agent's bounds in a container.
pub(crate) fn container_limits(own: Limits) -> Limits {
    Limits {
        memory_bytes: own.memory_bytes.or(CONTAINER_LIMITS.memory_bytes),
        cpu_millis: own.cpu_millis.or(CONTAINER_LIMITS.cpu_millis),
        pids: own.pids.or(CONTAINER_LIMITS.pids),
        open_files: own.open_files.or(CONTAINER_LIMITS.open_files),
    }
}

/// Set by the server for every agent.
const OWN_VARIABLES: [&str; 10] = [
    "AGENT_ID",
    "AGENT_TYPE",
    "AGENT_INCARNATION",
    "AGENT_PROFILE",
    "PROFILE_PATH",
    "LOOP_INTERVAL",
    "HEARTBEAT_INTERVAL",
    "AGENT_GRACE",
    "AGENT_CREDENTIAL_FILE",
    "ORCHESTRATOR_SOCKET_DIR",
];

/// One table as written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawAgent {
    name: Option<String>,
    tier: Option<Tier>,
    image: Option<String>,
    command: Option<Vec<String>>,
    mounts: Vec<RawMount>,
    loop_interval: Option<u64>,
    heartbeat_interval: Option<u64>,
    grace: Option<u64>,
    profile: Option<PathBuf>,
    env: BTreeMap<String, String>,
    secrets: BTreeMap<String, RawSecret>,
    limits: RawLimits,
    restart: RawRestart,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMount {
    source: PathBuf,
    target: PathBuf,
    /// Writing is what must be asked for.
    #[serde(default = "yes")]
    read_only: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSecret {
    env: Option<String>,
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    memory_mib: Option<u64>,
    cpus: Option<f64>,
    pids: Option<u32>,
    open_files: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRestart {
    initial_ms: Option<u64>,
    max_ms: Option<u64>,
    reset_after_ms: Option<u64>,
    crash_loop_after: Option<u32>,
}

/// A wrong value: its key below `agents.`, and what is allowed.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) key: String,
    pub(crate) what: String,
}

/// The specifications of all agents: the seven, as configured or by default, and every further one.
pub(crate) fn resolve(
    raw: &BTreeMap<String, RawAgent>,
    data_dir: &Path,
    image: &str,
) -> Result<Vec<AgentSpec>, Bad> {
    let mut names: Vec<&str> = BUILT_IN.iter().map(|(name, _, _)| *name).collect();
    names.extend(raw.keys().map(String::as_str).filter(|name| !AgentType::BUILT_IN.contains(name)));
    names.sort_unstable();
    let nothing = RawAgent::default();
    names.into_iter().map(|name| one(name, raw.get(name).unwrap_or(&nothing), data_dir, image)).collect()
}

fn one(name: &str, raw: &RawAgent, data_dir: &Path, image: &str) -> Result<AgentSpec, Bad> {
    let bad = |key: &str, what: String| Bad {
        key: format!("{name}{}{key}", if key.is_empty() { "" } else { "." }),
        what,
    };
    let agent_type: AgentType = name.parse().map_err(|why| bad("", format!("{why}")))?;
    let built_in = BUILT_IN.iter().find(|(known, _, _)| *known == name);
    let seconds = |key: &str, value: Option<u64>, default: u64, max: u64| match value.unwrap_or(default) {
        value if (1..=max).contains(&value) => Ok(Duration::from_secs(value)),
        value => Err(bad(key, format!("must be 1 to {max} seconds, not {value}"))),
    };
    if raw.command.as_ref().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
        return Err(bad("command", "must name a program first".into()));
    }
    if raw.image.as_ref().is_some_and(|image| !is_image(image)) {
        return Err(bad("image", "must name an image, such as aito-agent:latest or sha256:…".into()));
    }
    if raw.name.as_ref().is_some_and(|name| name.trim().is_empty() || name.chars().count() > 100) {
        return Err(bad("name", "must have 1 to 100 characters".into()));
    }
    for variable in raw.env.keys().chain(raw.secrets.keys()) {
        let key = if raw.env.contains_key(variable) { "env" } else { "secrets" };
        let good = variable.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && variable.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !good {
            return Err(bad(key, format!("\"{variable}\" is no name of a variable: letters, digits and _")));
        }
        if OWN_VARIABLES.contains(&variable.as_str()) {
            return Err(bad(key, format!("{variable} is set by the server itself")));
        }
        if key == "env" && raw.secrets.contains_key(variable) {
            return Err(bad("secrets", format!("{variable} stands in env too")));
        }
    }
    if let Some((variable, _)) = raw.env.iter().find(|(_, value)| value.contains('\0')) {
        return Err(bad("env", format!("the value of {variable} holds a NUL")));
    }
    let mut secrets = BTreeMap::new();
    for (variable, secret) in &raw.secrets {
        let reference = match (&secret.env, &secret.file) {
            (Some(env), None) if !env.is_empty() => SecretRef::Env(env.clone()),
            (None, Some(file)) if file.is_absolute() => SecretRef::File(file.clone()),
            _ => {
                let what = format!("{variable} must have either env = \"NAME\" or file = \"/absolute/path\"");
                return Err(bad("secrets", what));
            }
        };
        secrets.insert(variable.clone(), reference);
    }
    let profile = match &raw.profile {
        Some(path) if path.as_os_str().is_empty() => return Err(bad("profile", "must be a path".into())),
        Some(path) => std::path::absolute(path).map_err(|why| bad("profile", why.to_string()))?,
        None => data_dir.join("profiles").join(format!("{name}.md")),
    };
    Ok(AgentSpec {
        name: raw.name.clone().unwrap_or_else(|| format!("{} Agent", name.to_uppercase())),
        tier: raw.tier.unwrap_or_else(|| built_in.map_or(Tier::Clevel, |(_, _, tier)| *tier)),
        image: Some(raw.image.clone().unwrap_or_else(|| image.to_owned())),
        mounts: raw.mounts.iter().map(mount).collect::<Result<_, _>>().map_err(|what| bad("mounts", what))?,
        command: raw.command.clone(),
        loop_interval: seconds(
            "loop_interval",
            raw.loop_interval,
            built_in.map_or(3600, |(_, s, _)| *s),
            31_536_000,
        )?,
        heartbeat_interval: seconds("heartbeat_interval", raw.heartbeat_interval, 10, 3600)?,
        grace: seconds("grace", raw.grace, 10, 3600)?,
        profile,
        env: raw.env.clone(),
        secrets,
        limits: limits(&raw.limits).map_err(|(key, what)| bad(&format!("limits.{key}"), what))?,
        restart: restart(&raw.restart).map_err(|(key, what)| bad(&format!("restart.{key}"), what))?,
        agent_type,
    })
}

/// Whether an engine could know an image by this text: a name with a tag or digest, or an id.
pub(crate) fn is_image(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte))
}

fn mount(raw: &RawMount) -> Result<Mount, String> {
    for (what, path) in [("source", &raw.source), ("target", &raw.target)] {
        let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if !path.is_absolute() || !plain {
            return Err(format!("{what} must be an absolute path without .., not {}", path.display()));
        }
    }
    if raw.target == Path::new("/") {
        return Err("target must not be the root".to_owned());
    }
    Ok(Mount { source: raw.source.clone(), target: raw.target.clone(), read_only: raw.read_only })
}

fn limits(raw: &RawLimits) -> Result<Limits, (&'static str, String)> {
    if raw.memory_mib.is_some_and(|mib| !(16..=1 << 24).contains(&mib)) {
        return Err(("memory_mib", "must be 16 to 16777216 MiB".into()));
    }
    let cpu_millis = match raw.cpus {
        None => None,
        // Checked to be within bounds, so the cast keeps the value.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0.01 to 1024 fits
        Some(cpus) if (0.01..=1024.0).contains(&cpus) => Some((cpus * 1000.0).round() as u32),
        Some(_) => return Err(("cpus", "must be 0.01 to 1024 processors".into())),
    };
    if raw.pids.is_some_and(|pids| pids < 2) {
        return Err(("pids", "must be 2 or more".into()));
    }
    if raw.open_files.is_some_and(|files| files < 16) {
        return Err(("open_files", "must be 16 or more".into()));
    }
    Ok(Limits {
        memory_bytes: raw.memory_mib.map(|mib| mib << 20),
        cpu_millis,
        pids: raw.pids,
        open_files: raw.open_files,
    })
}

fn restart(raw: &RawRestart) -> Result<RestartPolicy, (&'static str, String)> {
    let default = RestartPolicy::default();
    let millis = |value: Option<u64>, default: Duration| value.map_or(default, Duration::from_millis);
    let policy = RestartPolicy {
        initial: millis(raw.initial_ms, default.initial),
        max: millis(raw.max_ms, default.max),
        reset_after: millis(raw.reset_after_ms, default.reset_after),
        crash_loop_after: raw.crash_loop_after.unwrap_or(default.crash_loop_after),
    };
    let day = Duration::from_secs(86_400);
    if policy.initial < Duration::from_millis(10) || policy.initial > day {
        return Err(("initial_ms", "must be 10 to 86400000".into()));
    }
    if policy.max < policy.initial || policy.max > day {
        return Err(("max_ms", "must be at least initial_ms and at most 86400000".into()));
    }
    if policy.crash_loop_after == 0 {
        return Err(("crash_loop_after", "must be 1 or more".into()));
    }
    Ok(policy)
}

/// Every value of a specification, for people; secrets are references.
pub(crate) fn describe(spec: &AgentSpec) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = vec![
        ("name".into(), spec.name.clone()),
        ("tier".into(), spec.tier.as_str().into()),
        ("loop_interval".into(), spec.loop_interval.as_secs().to_string()),
        ("heartbeat_interval".into(), spec.heartbeat_interval.as_secs().to_string()),
        ("grace".into(), spec.grace.as_secs().to_string()),
        ("profile".into(), spec.profile.display().to_string()),
        ("image".into(), spec.image.clone().unwrap_or_default()),
        ("command".into(), spec.command.as_ref().map_or("the reference agent".into(), |c| format!("{c:?}"))),
        ("limits.memory_mib".into(), bound(spec.limits.memory_bytes.map(|bytes| bytes >> 20), "512")),
        ("limits.cpus".into(), bound(spec.limits.cpu_millis.map(|millis| f64::from(millis) / 1000.0), "1")),
        ("limits.pids".into(), bound(spec.limits.pids, "256")),
        ("limits.open_files".into(), shown(spec.limits.open_files)),
        ("restart.initial_ms".into(), spec.restart.initial.as_millis().to_string()),
        ("restart.max_ms".into(), spec.restart.max.as_millis().to_string()),
        ("restart.reset_after_ms".into(), spec.restart.reset_after.as_millis().to_string()),
        ("restart.crash_loop_after".into(), spec.restart.crash_loop_after.to_string()),
    ];
    if !spec.mounts.is_empty() {
        let shown = |mount: &Mount| {
            let how = if mount.read_only { "read-only" } else { "writable" };
            format!("{} at {} ({how})", mount.source.display(), mount.target.display())
        };
        out.push(("mounts".into(), spec.mounts.iter().map(shown).collect::<Vec<_>>().join(", ")));
    }
    out.extend(spec.env.iter().map(|(name, value)| (format!("env.{name}"), value.clone())));
    out.extend(
        spec.secrets.iter().map(|(name, secret)| (format!("secrets.{name}"), format!("*** ({secret})"))),
    );
    out
}

/// A bound, or that there is none but for containers.
fn bound(value: Option<impl ToString>, in_container: &str) -> String {
    value.map_or_else(|| format!("none ({in_container} in a container)"), |value| value.to_string())
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_bounded_unless_its_agent_says_otherwise() {
        assert_eq!(container_limits(Limits::default()), CONTAINER_LIMITS);
        let own = Limits { memory_bytes: Some(1 << 30), pids: Some(9), ..Limits::default() };
        let limits = container_limits(own);
        assert_eq!(
            (limits.memory_bytes, limits.pids, limits.cpu_millis),
            (own.memory_bytes, own.pids, Some(1000))
        );
        let shown =
            describe(&one("ceo", &RawAgent::default(), Path::new("/d"), "i").unwrap_or_else(|_| panic!()));
        for (key, bounds) in [("limits.memory_mib", 512), ("limits.cpus", 1), ("limits.pids", 256)] {
            let text = shown.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
            assert_eq!(text, Some(format!("none ({bounds} in a container)").as_str()), "{key}");
        }
    }
}
