//! Starting an agent on a Docker engine: what the server adds to the engine's own create and start.
//!
//! Invariants: only starts are timed, never a stop or a removal; what the reference makes has the configuration of the
//! container that the server made, as the engine itself tells it, but for what says whose it is: it belongs to another
//! installation, reaches no server and has a credential of nobody.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use aito_client::{Client, EventSocket};
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::process::Command;

use super::{
    load::{Address, Connection, Request},
    scenario::{About, Context, Figure, Measured, Scenario, Subject, Target},
    start::told,
    stats::Latencies,
};
use crate::{engine, wait};

/// The most starts of one measurement.
const MOST: usize = 50;
/// The fewest, however long they take, in a measurement of a second or more.
const FEWEST: usize = 5;
/// Starts that are compared with docker-compose.
const COMPOSED: usize = 3;
/// How long docker-compose may take for one thing.
const COMPOSING: Duration = Duration::from_secs(60);

/// The label that says whose a container is, and another installation than any.
const WHOSE: &str = "aito.installation";
/// Where a container sees the servers' sockets, and where its credential.
const SOCKETS: &str = "/run/aito/servers";
const OWN: &str = "/run/aito/agent";

/// How long a start takes.
pub(crate) const CONTAINER_START: About = About {
    name: "container_start",
    what: "POST /agents/ceo/start of a stopped agent until its answer, on PostgreSQL and a Docker engine: wish and \
           incarnation stored, container created and started, the container before the last removed",
    reference: "POST /containers/create and /containers/…/start at the engine's socket, with the same configuration, \
                one connection that stays open as the server's and the client's do; nothing is stored or removed",
    unit: "ms",
    target: Some(Target::AtMost(1.10)),
    on_servers: true,
    only_large: false,
    set_up: |context| Box::pin(set_up(context)),
};

async fn set_up(context: &Context) -> Result<Box<dyn Scenario>, String> {
    let subject = Subject::on_servers(context).await?;
    let client = subject.server.client();
    let socket = subject.sandbox.places().engine.clone();
    let mut events = listen(&client).await?;
    start_and_stop(&client, &mut events).await?;
    let installation = subject.sandbox.installation().ok_or("the installation has no id")?;
    let made = engine::all_containers(&socket, &format!("{WHOSE}={installation}"));
    let made = made.first().ok_or("the server made no container")?;
    let inspected = engine::call(&socket, "GET", &format!("/containers/{}/json", made.id), None).json();
    let twin = Twin::of(&inspected, subject.sandbox.root())?;
    let connection = Connection::open(&Address::Unix(socket.clone())).await?;
    Ok(Box::new(Starts { connection, twin, socket, client, subject }))
}

struct Starts {
    connection: Connection,
    twin: Twin,
    socket: PathBuf,
    client: Client,
    subject: Subject,
}

#[async_trait(?Send)]
impl Scenario for Starts {
    async fn measure_subject(&mut self, time: Duration) -> Result<Measured, String> {
        let mut events = listen(&self.client).await?;
        let mut latencies = Latencies::default();
        let whole = wait::stopwatch();
        while is_too_short(&latencies, whole(), time) {
            latencies.push(start_and_stop(&self.client, &mut events).await?);
        }
        Ok(measured(latencies))
    }

    async fn measure_reference(&mut self, time: Duration) -> Result<Measured, String> {
        let mut latencies = Latencies::default();
        let whole = wait::stopwatch();
        while is_too_short(&latencies, whole(), time) {
            self.twin.renew()?;
            let create = Request::post(&self.twin.create_path(), &self.twin.body.to_string(), None);
            let start = Request::post(&format!("/containers/{}/start", self.twin.name), "", None);
            let since = wait::stopwatch();
            self.connection.call(&create).await?;
            self.connection.call(&start).await?;
            latencies.push(since());
            self.twin.remove(&self.socket)?;
        }
        Ok(measured(latencies))
    }

    /// What docker-compose needs for the same, where there is one.
    async fn facts(&mut self) -> Result<Vec<Figure>, String> {
        let Some(mut compose) = Compose::find(&self.twin, &self.socket, self.subject.sandbox.root()).await
        else {
            return Ok(Vec::new());
        };
        let mut events = listen(&self.client).await?;
        let (mut ours, mut theirs) = (Latencies::default(), Latencies::default());
        // One more warms up.
        for round in 0..=COMPOSED {
            let started = start_and_stop(&self.client, &mut events).await?;
            self.twin.renew()?;
            let composed = compose.up_and_down().await?;
            if round > 0 {
                ours.push(started);
                theirs.push(composed);
            }
        }
        let (ours, theirs) = (ours.percentile_ms(50.0), theirs.percentile_ms(50.0));
        Ok(vec![
            Figure::new("docker-compose up -d of the same service, p50", theirs, "ms"),
            Figure::new("the server's start in turn with it, p50", ours, "ms"),
            Figure::new("start to docker-compose up -d", ours / theirs, ""),
        ])
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        engine::sweep(&self.socket, &self.twin.label());
    }
}

/// Whether a measurement that has taken so long goes on.
fn is_too_short(latencies: &Latencies, taken: Duration, time: Duration) -> bool {
    let fewest = if time < Duration::from_secs(1) { 1 } else { FEWEST };
    latencies.len() < fewest || (latencies.len() < MOST && taken < time)
}

fn measured(mut latencies: Latencies) -> Measured {
    let figures = vec![
        Figure::new("slowest", latencies.percentile_ms(100.0), "ms"),
        Figure::new("starts in one measurement", latencies.len() as f64, ""),
    ];
    Measured { value: latencies.percentile_ms(50.0), figures }
}

async fn listen(client: &Client) -> Result<EventSocket, String> {
    EventSocket::connect(client, &["event"], None).await.map_err(|why| why.to_string())
}

/// How long the start took. The stop comes when the agent was heard, and this ends when it has stopped.
async fn start_and_stop(client: &Client, events: &mut EventSocket) -> Result<Duration, String> {
    let since = wait::stopwatch();
    client.start("ceo").await.map_err(|why| why.to_string())?;
    let took = since();
    told(events, "agent_started").await?;
    client.stop("ceo").await.map_err(|why| why.to_string())?;
    told(events, "agent_stopped").await?;
    Ok(took)
}

/// A container like the server's that is not the server's.
struct Twin {
    name: String,
    /// As for `POST /containers/create`.
    body: Value,
    /// The directory that it sees as the one of its credential.
    own: PathBuf,
    user: (u32, u32),
}

impl Twin {
    /// From what the engine tells of a container; directories of its own lie below `root`.
    fn of(inspected: &Value, root: &Path) -> Result<Self, String> {
        let name = format!("twin-{}", root.file_name().unwrap_or_default().to_string_lossy());
        let (own, nobody) = (root.join("twin"), root.join("nobody"));
        for dir in [&own, &nobody] {
            fs::create_dir(dir).map_err(|why| format!("cannot make {}: {why}", dir.display()))?;
        }
        let body = body_of(inspected, &name, &own, &nobody)?;
        let user = user_of(&body)?;
        chown(&own, Some(user.0), Some(user.1)).map_err(|why| why.to_string())?;
        fs::set_permissions(&own, Permissions::from_mode(0o700)).map_err(|why| why.to_string())?;
        Ok(Self { name, body, own, user })
    }

    fn create_path(&self) -> String {
        format!("/containers/create?name={}", self.name)
    }

    fn label(&self) -> String {
        format!("{WHOSE}={}", self.name)
    }

    /// Gives it a credential once more: an agent takes its own away when it has read it.
    fn renew(&self) -> Result<(), String> {
        let file = self.own.join("credential");
        let written = fs::remove_file(&file).or_else(|why| match why.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(why),
        });
        written
            .and_then(|()| fs::write(&file, "nobody's"))
            .and_then(|()| chown(&file, Some(self.user.0), Some(self.user.1)))
            .and_then(|()| fs::set_permissions(&file, Permissions::from_mode(0o400)))
            .map_err(|why| format!("no credential for the reference: {why}"))
    }

    fn remove(&self, socket: &Path) -> Result<(), String> {
        let removed = engine::call(socket, "DELETE", &format!("/containers/{}?force=1&v=1", self.name), None);
        if removed.status == 204 { Ok(()) } else { Err(format!("not removed: {}", removed.json())) }
    }
}

/// The body of a create that makes what was inspected, for another installation.
fn body_of(inspected: &Value, whose: &str, own: &Path, nobody: &Path) -> Result<Value, String> {
    let mut body = inspected["Config"].clone();
    let config = body.as_object_mut().ok_or("the engine tells no configuration")?;
    // The engine's choice, from the container's id.
    config.remove("Hostname");
    config.insert("HostConfig".to_owned(), inspected["HostConfig"].clone());
    body["Labels"][WHOSE] = whose.into();
    let mounts = body["HostConfig"]["Mounts"].as_array_mut().ok_or("the container has no mounts")?;
    for (target, source) in [(OWN, own), (SOCKETS, nobody)] {
        let mount = mounts.iter_mut().find(|mount| mount["Target"] == target);
        mount.ok_or_else(|| format!("nothing is mounted at {target}"))?["Source"] =
            source.display().to_string().into();
    }
    Ok(body)
}

/// `uid:gid`.
fn user_of(body: &Value) -> Result<(u32, u32), String> {
    let ids = body["User"].as_str().and_then(|text| text.split_once(':'));
    ids.and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)))
        .ok_or_else(|| format!("{} is no user and group", body["User"]))
}

/// docker-compose with a project of one service.
struct Compose {
    program: &'static [&'static str],
    file: PathBuf,
    socket: PathBuf,
}

impl Compose {
    /// One of the two forms in which it is installed; `None` where neither is.
    async fn find(twin: &Twin, socket: &Path, root: &Path) -> Option<Self> {
        for program in [&["docker", "compose"][..], &["docker-compose"]] {
            let found = Self { program, file: root.join("compose.json"), socket: socket.to_owned() };
            if found.run(&["version"]).await.is_ok() {
                // JSON is YAML.
                fs::write(&found.file, service(&twin.body).to_string()).ok()?;
                return Some(found);
            }
        }
        None
    }

    /// How long the first took.
    async fn up_and_down(&mut self) -> Result<Duration, String> {
        let since = wait::stopwatch();
        self.project(&["up", "-d"]).await?;
        let took = since();
        self.project(&["down", "--timeout", "0"]).await?;
        Ok(took)
    }

    async fn project(&self, arguments: &[&str]) -> Result<(), String> {
        let file = self.file.display().to_string();
        let name = ["--project-name", "aito-twin", "--file", &file];
        self.run(&[&name, arguments].concat()).await
    }

    async fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new(self.program[0]);
        command.args(&self.program[1..]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        let ended = tokio::time::timeout(COMPOSING, command.output()).await;
        let shown = || format!("{} {}", self.program.join(" "), arguments.join(" "));
        let output = ended
            .map_err(|_| format!("{} does not end", shown()))?
            .map_err(|why| format!("cannot run {}: {why}", shown()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{}: {}", shown(), String::from_utf8_lossy(&output.stderr))),
        }
    }
}

/// A project whose one service is what the body of a create makes.
fn service(body: &Value) -> Value {
    let host = &body["HostConfig"];
    let mut service = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            service.insert(name.to_owned(), value);
        }
    };
    set("image", body["Image"].clone());
    set("user", body["User"].clone());
    set("environment", body["Env"].clone());
    set("labels", body["Labels"].clone());
    set("read_only", host["ReadonlyRootfs"].clone());
    set("cap_drop", host["CapDrop"].clone());
    set("security_opt", host["SecurityOpt"].clone());
    set("logging", json!({ "driver": host["LogConfig"]["Type"], "options": host["LogConfig"]["Config"] }));
    let tmpfs = host["Tmpfs"].as_object().into_iter().flatten();
    set(
        "tmpfs",
        tmpfs.map(|(at, options)| format!("{at}:{}", options.as_str().unwrap_or_default())).collect(),
    );
    let mounts = host["Mounts"].as_array().into_iter().flatten();
    let bind = |mount: &Value| {
        let read_only = mount["ReadOnly"].as_bool().unwrap_or(false);
        json!({ "type": "bind", "source": mount["Source"], "target": mount["Target"], "read_only": read_only })
    };
    set("volumes", mounts.map(bind).collect());
    set("networks", json!(["agents"]));
    json!({
        "version": "3.7",
        "services": { "ceo": service },
        "networks": { "agents": { "external": true, "name": host["NetworkMode"] } },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    fn inspected() -> Value {
        json!({
            "Id": "0123",
            "Config": {
                "Hostname": "0123", "Image": "aito-agent:latest", "User": "65532:65533", "Env": ["A=b"],
                "Labels": { WHOSE: "real", "aito.type": "ceo" },
            },
            "HostConfig": {
                "NetworkMode": "n1", "ReadonlyRootfs": true, "CapDrop": ["ALL"], "Tmpfs": { "/tmp": "rw,size=64m" },
                "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m" } },
                "Mounts": [
                    { "Type": "bind", "Source": "/s", "Target": SOCKETS, "ReadOnly": true },
                    { "Type": "bind", "Source": "/p.md", "Target": "/etc/aito/profile.md", "ReadOnly": true },
                    { "Type": "bind", "Source": "/c/real", "Target": OWN },
                ],
            },
        })
    }

    fn body() -> Value {
        body_of(&inspected(), "twin", Path::new("/t/twin"), Path::new("/t/nobody")).unwrap()
    }

    #[test]
    fn a_twin_is_the_same_but_for_whose_it_is() {
        let body = body();
        assert_eq!(body["Labels"], json!({ WHOSE: "twin", "aito.type": "ceo" }));
        assert_eq!((&body["Hostname"], &body["Env"]), (&Value::Null, &json!(["A=b"])));
        let mut host = inspected()["HostConfig"].clone();
        host["Mounts"][0]["Source"] = "/t/nobody".into();
        host["Mounts"][2]["Source"] = "/t/twin".into();
        assert_eq!(body["HostConfig"], host);
        assert_eq!(user_of(&body), Ok((65532, 65533)));
    }

    #[test]
    fn what_has_no_twin_is_told() {
        let mut other = inspected();
        other["HostConfig"]["Mounts"][2]["Target"] = "/elsewhere".into();
        let why = body_of(&other, "twin", Path::new("/a"), Path::new("/b")).unwrap_err();
        assert!(why.contains(OWN), "{why}");
        assert!(user_of(&json!({ "User": "somebody" })).unwrap_err().contains("somebody"));
    }

    #[test]
    fn a_service_is_what_the_engine_was_asked_for() {
        let project = service(&body());
        let service = &project["services"]["ceo"];
        assert_eq!(service["tmpfs"], json!(["/tmp:rw,size=64m"]));
        assert_eq!(
            service["volumes"][2],
            json!({
                "type": "bind", "source": "/t/twin", "target": OWN, "read_only": false
            })
        );
        assert_eq!(service["labels"][WHOSE], "twin");
        assert_eq!(project["networks"]["agents"]["name"], "n1");
        assert_eq!(service.get("security_opt"), None);
    }
}
