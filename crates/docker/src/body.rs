//! An agent's start as the document that the engine creates its container from.
//!
//! Invariants: pure; only absolute paths are mounted; the credential is not in it; a value that the engine would
//! understand otherwise than it was meant is refused.

use std::path::Path;

use aito_domain::{
    id::InstallationId,
    ports::runtime::{PLACES, RuntimeError, Start},
    spec::{AgentSpec, Limits},
};
use serde_json::{Value, json};

use crate::translate::labels;

/// The variables that engine and image add to an agent's environment. `PATH`, and what else an image sets, is the
/// image's.
pub const ADDED: [&str; 3] = ["PATH", "HOSTNAME", "HOME"];

/// Where an agent sees the servers' sockets.
const SOCKETS: &str = "/run/aito/servers";
/// Where it sees what is its incarnation's alone.
const OWN: &str = "/run/aito/agent";
/// Where it sees its profile.
const PROFILE: &str = "/etc/aito/profile.md";
/// The name of the file with the credential in [`OWN`].
pub(crate) const CREDENTIAL: &str = "credential";

/// What every container of an installation has in common.
pub(crate) struct Common<'a> {
    pub(crate) installation: InstallationId,
    pub(crate) default_image: &'a str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The image that an agent runs.
pub(crate) fn image<'a>(spec: &'a AgentSpec, default: &'a str) -> &'a str {
    spec.image.as_deref().unwrap_or(default)
}

/// The body of `POST /containers/create`, but for the network. `own` is the incarnation's directory on the host.
///
/// # Errors
/// `Refused`, naming the field.
pub(crate) fn body(start: &Start, common: &Common<'_>, own: &Path) -> Result<Value, RuntimeError> {
    let spec = &start.spec;
    let mut body = json!({
        "Image": image(spec, common.default_image),
        "User": format!("{}:{}", common.uid, common.gid),
        "Env": environment(start)?,
        "Labels": labels(common.installation, &start.key)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::String(value)))
            .collect::<serde_json::Map<_, _>>(),
        "Tty": false,
        "OpenStdin": false,
        "StopSignal": "SIGTERM",
        "HostConfig": {
            "Init": false,
            "RestartPolicy": { "Name": "no" },
            "Privileged": false,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": true,
            // Not executable: what an agent may run is in its image or in what is mounted for it. The owner matters
            // where the image has a /tmp: the mode is that one's then.
            "Tmpfs": { "/tmp": format!(
                "rw,nosuid,nodev,noexec,size=64m,mode=1777,uid={},gid={}", common.uid, common.gid
            ) },
            "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m", "max-file": "2" } },
            "Mounts": mounts(start, own)?,
        },
    });
    for (name, value) in limits(&spec.limits) {
        body["HostConfig"][name] = value;
    }
    if let Some(command) = command(spec)? {
        body["Entrypoint"] = json!([]);
        body["Cmd"] = json!(command);
    }
    Ok(body)
}

/// The program and its arguments, if the specification has its own.
///
/// # Errors
/// `Refused` when it names no program.
pub(crate) fn command(spec: &AgentSpec) -> Result<Option<&[String]>, RuntimeError> {
    let Some(command) = &spec.command else { return Ok(None) };
    if command.first().is_none_or(String::is_empty) {
        return Err(refused("command", "names no program"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(refused("command", "has a NUL"));
    }
    Ok(Some(command))
}

/// Whether mounts and profile are such that the engine understands them as meant.
///
/// # Errors
/// `Refused`, naming the field and the path.
pub(crate) fn paths(spec: &AgentSpec) -> Result<(), RuntimeError> {
    absolute("profile", &spec.profile)?;
    for mount in &spec.mounts {
        absolute("mounts", &mount.source)?;
        let target = absolute("mounts", &mount.target)?;
        for own in [OWN, SOCKETS, PROFILE] {
            if Path::new(own).starts_with(target) || Path::new(target).starts_with(own) {
                return Err(refused("mounts", &format!("{target} would hide {own}")));
            }
        }
    }
    Ok(())
}

fn mounts(start: &Start, own: &Path) -> Result<Value, RuntimeError> {
    let spec = &start.spec;
    paths(spec)?;
    let bind = |source: &str, target: &str, read_only: bool| {
        // Of type bind: a source that is missing is refused then, where a plain bind would make a directory.
        json!({ "Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only })
    };
    let mut all = vec![
        bind(absolute("socket directory", &start.socket_dir)?, SOCKETS, true),
        bind(absolute("profile", &spec.profile)?, PROFILE, true),
        bind(absolute("credentials directory", own)?, OWN, false),
    ];
    for mount in &spec.mounts {
        let (source, target) = (absolute("mounts", &mount.source)?, absolute("mounts", &mount.target)?);
        all.push(bind(source, target, mount.read_only));
    }
    Ok(Value::Array(all))
}

fn absolute<'a>(field: &str, path: &'a Path) -> Result<&'a str, RuntimeError> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(refused(field, &format!("{shown} is not an absolute path")));
    }
    match path.to_str() {
        Some(text) if !text.contains('\0') => Ok(text),
        _ => Err(refused(field, &format!("{shown} is no text"))),
    }
}

/// The given environment and the places. A given variable with the name of a place gives way. What is secret among the
/// values is part of the container's configuration, which everybody who may ask the engine can read (`docker inspect`).
fn environment(start: &Start) -> Result<Vec<String>, RuntimeError> {
    let credential = format!("{OWN}/{CREDENTIAL}");
    let places = PLACES.map(|name| match name {
        "AGENT_CREDENTIAL_FILE" => (name, credential.as_str()),
        "ORCHESTRATOR_SOCKET_DIR" => (name, SOCKETS),
        _ => (name, PROFILE),
    });
    let mut all = Vec::with_capacity(start.env.len() + places.len());
    for (name, value) in &start.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(refused("env", &format!("\"{}\" is no name of a variable", name.escape_debug())));
        }
        if value.0.contains('\0') {
            return Err(refused("env", &format!("the value of {name} has a NUL")));
        }
        if !PLACES.contains(&name.as_str()) {
            all.push(format!("{name}={}", value.0));
        }
    }
    all.extend(places.map(|(name, value)| format!("{name}={value}")));
    Ok(all)
}

fn limits(limits: &Limits) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        // Memory and swap together: none of it is swap.
        all.extend([("Memory", json!(bytes)), ("MemorySwap", json!(bytes))]);
    }
    if let Some(millis) = limits.cpu_millis {
        all.push(("NanoCpus", json!(u64::from(millis) * 1_000_000)));
    }
    if let Some(pids) = limits.pids {
        all.push(("PidsLimit", json!(pids)));
    }
    if let Some(files) = limits.open_files {
        all.push(("Ulimits", json!([{ "Name": "nofile", "Soft": files, "Hard": files }])));
    }
    all
}

/// A refusal that names a field of the specification.
pub(crate) fn refused(field: &str, why: &str) -> RuntimeError {
    RuntimeError::Refused(format!("{field}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use aito_domain::{
        fleet::ContainerKey,
        id::{AgentId, Incarnation},
        ports::runtime::Secret,
        spec::{Mount, RestartPolicy, Tier},
    };
    use uuid::Uuid;

    use super::*;

    fn start() -> Start {
        let agent_type: aito_domain::id::AgentType = "ceo".parse().unwrap();
        Start {
            key: ContainerKey {
                agent_id: AgentId(Uuid::from_u128(1)),
                agent_type: agent_type.clone(),
                incarnation: Incarnation(3),
            },
            spec: AgentSpec {
                agent_type,
                name: "CEO".to_owned(),
                tier: Tier::Head,
                image: None,
                mounts: Vec::new(),
                command: None,
                loop_interval: Duration::from_secs(1),
                heartbeat_interval: Duration::from_secs(1),
                grace: Duration::from_secs(1),
                profile: "/profiles/ceo.md".into(),
                env: BTreeMap::new(),
                secrets: BTreeMap::new(),
                limits: Limits::default(),
                restart: RestartPolicy::default(),
            },
            env: vec![("A".to_owned(), Secret("b=c".to_owned()))],
            credential: Secret("very-secret".to_owned()),
            socket_dir: "/run/user/1/aito".into(),
        }
    }

    fn made(start: &Start) -> Result<Value, RuntimeError> {
        let installation = InstallationId(Uuid::from_u128(7));
        let common = Common { installation, default_image: "aito-agent:latest", uid: 65532, gid: 65533 };
        body(start, &common, Path::new("/var/lib/aito/agents/x/agent"))
    }

    fn why(start: &Start) -> String {
        match made(start) {
            Err(RuntimeError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_container_has_what_was_asked_and_never_the_credential() {
        let mut start = start();
        start.spec.limits = Limits {
            memory_bytes: Some(64 << 20),
            cpu_millis: Some(250),
            pids: Some(9),
            open_files: Some(77),
        };
        let made = made(&start).unwrap();
        assert!(!made.to_string().contains("very-secret"));
        assert_eq!((&made["User"], &made["Image"]), (&json!("65532:65533"), &json!("aito-agent:latest")));
        assert_eq!((made.get("Cmd"), made.get("Entrypoint")), (None, None));
        let host = &made["HostConfig"];
        assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(64 << 20), &json!(64 << 20)));
        assert_eq!((&host["NanoCpus"], &host["PidsLimit"]), (&json!(250_000_000), &json!(9)));
        assert_eq!(host["Ulimits"], json!([{ "Name": "nofile", "Soft": 77, "Hard": 77 }]));
        let targets: Vec<_> = host["Mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| (&mount["Target"], &mount["ReadOnly"]))
            .collect();
        let (no, yes) = (json!(false), json!(true));
        assert_eq!(targets, [(&json!(SOCKETS), &yes), (&json!(PROFILE), &yes), (&json!(OWN), &no)]);
    }

    #[test]
    fn an_own_command_replaces_the_images_entry_point() {
        let mut start = start();
        start.spec.command = Some(vec!["/bin/agent".to_owned(), "-x".to_owned()]);
        let made = made(&start).unwrap();
        assert_eq!((&made["Entrypoint"], &made["Cmd"]), (&json!([]), &json!(["/bin/agent", "-x"])));
        for bad in [vec![], vec![String::new()], vec!["a\0".to_owned()]] {
            start.spec.command = Some(bad);
            assert!(why(&start).starts_with("command"));
        }
    }

    #[test]
    fn the_places_are_as_the_agent_sees_them_and_win() {
        let mut start = start();
        start.env.push(("PROFILE_PATH".to_owned(), Secret("elsewhere".to_owned())));
        assert_eq!(
            made(&start).unwrap()["Env"],
            json!([
                "A=b=c",
                "AGENT_PROFILE=/etc/aito/profile.md",
                "PROFILE_PATH=/etc/aito/profile.md",
                "AGENT_CREDENTIAL_FILE=/run/aito/agent/credential",
                "ORCHESTRATOR_SOCKET_DIR=/run/aito/servers",
            ])
        );
        for (name, value) in [("", "x"), ("A=B", "x"), ("A", "\0")] {
            start.env = vec![(name.to_owned(), Secret(value.to_owned()))];
            assert!(why(&start).starts_with("env"));
        }
    }

    #[test]
    fn a_relative_path_or_one_that_hides_ours_is_refused() {
        let mount = |source: &str, target: &str| Mount {
            source: source.into(),
            target: target.into(),
            read_only: true,
        };
        for (mounts, wanted) in [
            (mount("./profiles", "/app/profiles"), "./profiles"),
            (mount("profiles", "/app/profiles"), "profiles"),
            (mount("/profiles", "app"), "app"),
            (mount("/x", "/run/aito"), "/run/aito/agent"),
            (mount("/x", "/"), "would hide"),
            (mount("/x", "/run/aito/agent/x"), "/run/aito/agent"),
        ] {
            let mut start = start();
            start.spec.mounts = vec![mounts];
            assert!(why(&start).contains(wanted), "{}", why(&start));
        }
        let mut start = start();
        start.spec.profile = "ceo.md".into();
        assert!(why(&start).contains("profile: ceo.md"));
    }
}
