//! The Docker engine: every call that this adapter makes, in own terms. The only place that names docker-api.
//!
//! docker-api makes the calls that it makes well (list, inspect, start, stop, kill, wait, remove, networks, images,
//! info); [`wire`] makes the others raw on the same transport: create with every field, one-shot statistics, events,
//! logs, version and ping.
//!
//! Invariants: every call ends within a time limit; ids and names are checked before they become part of a path; the
//! API version is asked for once and pinned in every request, and asked for again after the engine was away.

mod fault;
mod version;
mod wire;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use docker_api::{
    Docker,
    models::{ContainerInspect200Response, ContainerSummary, MountPoint, SystemInfo},
    opts::{
        ContainerFilter, ContainerListOpts, ContainerRemoveOpts, ContainerStopOpts, NetworkCreateOpts,
        NetworkFilter, NetworkListOpts,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

pub(crate) use fault::Fault;
use version::Version;
pub(crate) use wire::Chunks;

/// Labels of a container or network.
pub(crate) type Labels = HashMap<String, String>;

/// How long calls may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    /// What only looks, and short effects.
    pub(crate) call: Duration,
    /// Creating, starting, ending and removing.
    pub(crate) start: Duration,
}

/// A container in a listing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listed {
    pub(crate) id: String,
    /// Its names without the slash; more than one only where links give it others.
    pub(crate) names: Vec<String>,
    pub(crate) labels: Labels,
    pub(crate) image: String,
    /// Such as `running`.
    pub(crate) state: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
}

/// A container, looked at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inspected {
    pub(crate) id: String,
    pub(crate) name: String,
    /// What its processes take for the host's name.
    pub(crate) hostname: String,
    pub(crate) labels: Labels,
    pub(crate) tty: bool,
    /// Such as `running`.
    pub(crate) status: String,
    pub(crate) exit_code: i64,
    pub(crate) oom_killed: bool,
    pub(crate) mounts: Vec<Mounted>,
}

/// A mount of a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mounted {
    /// Such as `bind`.
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) destination: String,
}

/// A network in a listing.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) created: Option<DateTime<Utc>>,
}

/// An image of this engine.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) id: String,
    /// Whether it names a program of its own.
    pub(crate) has_program: bool,
}

/// What the engine says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Info {
    pub(crate) id: String,
    pub(crate) memory: bool,
    pub(crate) swap: bool,
    pub(crate) cpu: bool,
    pub(crate) pids: bool,
}

/// Which part of a log is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogPart {
    /// The last so many pieces; all when `None`.
    pub(crate) tail: Option<u64>,
    /// From then on, nanoseconds counted.
    pub(crate) since: Option<DateTime<Utc>>,
    /// Go on with what is written.
    pub(crate) follow: bool,
}

/// What was agreed with an engine that answered.
struct Session {
    docker: Docker,
    /// `/v1.41`.
    prefix: String,
}

/// A Docker engine on a Unix socket; connected to when it is needed.
pub(crate) struct Engine {
    socket: PathBuf,
    limits: TimeLimits,
    wire: wire::Wire,
    session: Mutex<Option<Arc<Session>>>,
    info: Mutex<Option<Info>>,
}

impl Engine {
    pub(crate) fn new(socket: PathBuf, limits: TimeLimits) -> Self {
        let wire = wire::Wire::new(socket.clone());
        Self { socket, limits, wire, session: Mutex::default(), info: Mutex::default() }
    }

    pub(crate) fn limits(&self) -> TimeLimits {
        self.limits
    }

    /// Containers, whatever their state; only those with all of these labels.
    pub(crate) async fn list(&self, labels: &[(&str, &str)]) -> Result<Vec<Listed>, Fault> {
        let filter =
            labels.iter().map(|(key, value)| ContainerFilter::Label((*key).to_owned(), (*value).to_owned()));
        let wanted = ContainerListOpts::builder().all(true);
        let wanted = if labels.is_empty() { wanted } else { wanted.filter(filter) }.build();
        let found = self.call(async |session| Ok(session.docker.containers().list(&wanted).await?)).await?;
        Ok(found.into_iter().map(listed).collect())
    }

    /// A container by its exact name or id.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Option<Inspected>, Fault> {
        let name = segment(name)?;
        let found =
            self.call(async |session| Ok(session.docker.containers().get(name).inspect().await?)).await;
        absent(found.map(inspected))
    }

    /// Creates a container and gives its id.
    pub(crate) async fn create(&self, name: Option<&str>, body: &Value) -> Result<String, Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        let query = match name {
            Some(name) => format!("?name={}", segment(name)?),
            None => String::new(),
        };
        let body = serde_json::to_vec(body).map_err(|error| Fault::NoEngine(error.into()))?;
        let made = async |session: Arc<Session>| {
            let path = format!("{}/containers/create{query}", session.prefix);
            decode::<Created>(&self.wire.post(&path, body).await?)
        };
        Ok(self.within(self.limits.start, made).await?.id)
    }

    /// Starts a container; `false` when it runs already.
    pub(crate) async fn start(&self, id: &str) -> Result<bool, Fault> {
        let id = segment(id)?;
        let done = async |session: Arc<Session>| Ok(session.docker.containers().get(id).start().await?);
        unmodified(self.within(self.limits.start, done).await)
    }

    /// Asks a container to end and forces it after so many seconds; `false` when it has ended already.
    pub(crate) async fn stop(&self, id: &str, seconds: u64) -> Result<bool, Fault> {
        let id = segment(id)?;
        let grace = Duration::from_secs(seconds);
        let how = ContainerStopOpts::builder().wait(grace).build();
        let done = async |session: Arc<Session>| Ok(session.docker.containers().get(id).stop(&how).await?);
        unmodified(self.within(grace.saturating_add(self.limits.start), done).await)
    }

    /// Sends a signal; that it does not run is the engine's 409.
    pub(crate) async fn kill(&self, id: &str, signal: &str) -> Result<(), Fault> {
        let id = segment(id)?;
        self.call(async |session| Ok(session.docker.containers().get(id).kill(Some(signal)).await?)).await
    }

    /// Waits until a container does not run, at most so long; `false` when it still runs then.
    pub(crate) async fn wait(&self, id: &str, at_most: Duration) -> Result<bool, Fault> {
        let id = segment(id)?;
        let session = self.within(self.limits.call, async |session| Ok(session)).await?;
        match timeout(at_most, session.docker.containers().get(id).wait()).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(self.noticed(error.into())),
            Err(_too_long) => Ok(false),
        }
    }

    /// Removes a container with its anonymous volumes, also while it runs; `false` when there is none.
    pub(crate) async fn remove(&self, id: &str) -> Result<bool, Fault> {
        let id = segment(id)?;
        let how = ContainerRemoveOpts::builder().force(true).volumes(true).build();
        let done = async |session: Arc<Session>| Ok(session.docker.containers().get(id).remove(&how).await?);
        Ok(absent(self.within(self.limits.start, done).await)?.is_some())
    }

    /// Networks whose name contains this one.
    pub(crate) async fn networks_like(&self, name: &str) -> Result<Vec<Network>, Fault> {
        let wanted = NetworkListOpts::builder().filter([NetworkFilter::Name(name.to_owned())]).build();
        let found = self.call(async |session| Ok(session.docker.networks().list(&wanted).await?)).await?;
        let network = |network: docker_api::models::Network| {
            Some(Network {
                id: network.id?,
                name: network.name?,
                labels: network.labels.unwrap_or_default(),
                created: network.created,
            })
        };
        Ok(found.into_iter().filter_map(network).collect())
    }

    /// Creates a bridge network and gives its id.
    pub(crate) async fn create_network(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        options: &[(&str, &str)],
    ) -> Result<String, Fault> {
        let wanted = NetworkCreateOpts::builder(name)
            .check_duplicate(true)
            .driver("bridge")
            .labels(labels.iter().copied())
            .options(options.iter().copied())
            .build();
        let made = async |session: Arc<Session>| {
            Ok(session.docker.networks().create(&wanted).await?.id().to_string())
        };
        self.within(self.limits.start, made).await
    }

    /// Removes a network; `false` when there is none.
    pub(crate) async fn remove_network(&self, id: &str) -> Result<bool, Fault> {
        let id = segment(id)?;
        let done = self.call(async |session| Ok(session.docker.networks().get(id).delete().await?)).await;
        Ok(absent(done)?.is_some())
    }

    /// An image by name, digest or id.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<Image>, Fault> {
        let name = image_segment(name)?;
        let found = self.call(async |session| Ok(session.docker.images().get(name).inspect().await?)).await;
        let image = |image: docker_api::models::ImageInspect| {
            let has = |words: Option<Vec<String>>| words.is_some_and(|words| !words.is_empty());
            Image {
                id: image.id.unwrap_or_default(),
                has_program: image.config.is_some_and(|config| has(config.cmd) || has(config.entrypoint)),
            }
        };
        absent(found.map(image))
    }

    /// Whether a container's files hold this path.
    pub(crate) async fn has_file(&self, id: &str, path: &str) -> Result<bool, Fault> {
        let id = segment(id)?;
        let found =
            self.call(async |session| Ok(session.docker.containers().get(id).stat_file(path).await?));
        Ok(absent(found.await)?.is_some())
    }

    /// One reading of a container's statistics, as the engine gives it; `None` when there is no container.
    pub(crate) async fn stats(&self, id: &str) -> Result<Option<Value>, Fault> {
        let id = segment(id)?;
        let read = async |session: Arc<Session>| {
            let path = format!("{}/containers/{id}/stats?stream=false&one-shot=true", session.prefix);
            decode(&self.wire.get(&path).await?)
        };
        absent(self.call(read).await)
    }

    /// Ends and beginnings of containers with this label, as they happen; also those since the given time that the
    /// engine remembers.
    pub(crate) async fn events(&self, label: (&str, &str), since: i64) -> Result<Chunks, Fault> {
        let filters = serde_json::json!({
            "type": ["container"],
            "label": [format!("{}={}", label.0, label.1)],
            "event": ["start", "die", "stop", "kill", "oom", "destroy"],
        });
        let filters = escaped(&filters.to_string());
        let opened = async |session: Arc<Session>| {
            let path = format!("{}/events?since={since}&filters={filters}", session.prefix);
            self.wire.stream(&path).await
        };
        self.call(opened).await
    }

    /// A container's log with times; `None` when there is no container.
    pub(crate) async fn log(&self, id: &str, part: &LogPart) -> Result<Option<Chunks>, Fault> {
        let id = segment(id)?;
        let mut query = format!("stdout=1&stderr=1&timestamps=1&follow={}", u8::from(part.follow));
        if let Some(tail) = part.tail {
            query.push_str(&format!("&tail={tail}"));
        }
        if let Some(since) = part.since {
            query.push_str(&format!("&since={}.{:09}", since.timestamp(), since.timestamp_subsec_nanos()));
        }
        let opened = async |session: Arc<Session>| {
            self.wire.stream(&format!("{}/containers/{id}/logs?{query}", session.prefix)).await
        };
        absent(self.call(opened).await)
    }

    /// Whether it answers.
    pub(crate) async fn ping(&self) -> Result<(), Fault> {
        self.call(async |session| self.wire.get(&format!("{}/_ping", session.prefix)).await.map(|_| ())).await
    }

    /// What it says of itself, asked anew.
    pub(crate) async fn info(&self) -> Result<Info, Fault> {
        let info = info(self.call(async |session| Ok(session.docker.info().await?)).await?);
        *self.known() = Some(info.clone());
        Ok(info)
    }

    /// What it last said of itself.
    pub(crate) fn known_info(&self) -> Option<Info> {
        self.known().clone()
    }

    fn known(&self) -> MutexGuard<'_, Option<Info>> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agreed(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T>(&self, ask: impl AsyncFnOnce(Arc<Session>) -> Result<T, Fault>) -> Result<T, Fault> {
        self.within(self.limits.call, ask).await
    }

    /// One call, with the agreement on a version before it where there is none, within a time.
    async fn within<T>(
        &self,
        limit: Duration,
        ask: impl AsyncFnOnce(Arc<Session>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let asked = AtomicBool::new(false);
        let whole = async {
            let session = self.session().await.map_err(before)?;
            asked.store(true, Ordering::Relaxed);
            ask(session).await
        };
        let answer = timeout(limit, whole).await.unwrap_or_else(|_too_long| Err(Fault::too_late()));
        answer.map_err(|fault| {
            let fault = self.noticed(fault);
            if asked.load(Ordering::Relaxed) { fault } else { before(fault) }
        })
    }

    /// An engine that was away may be another one when it is back.
    fn noticed(&self, fault: Fault) -> Fault {
        let other_version = matches!(&fault, Fault::Answer { status: 400, message }
            if message.starts_with("client version "));
        if other_version || matches!(fault, Fault::NoEngine(_) | Fault::Lost(_)) {
            *self.agreed() = None;
        }
        if let (true, Fault::Answer { message, .. }) = (other_version, &fault) {
            return Fault::NoEngine(message.clone().into());
        }
        fault
    }

    async fn session(&self) -> Result<Arc<Session>, Fault> {
        if let Some(session) = &*self.agreed() {
            return Ok(Arc::clone(session));
        }
        #[derive(Deserialize)]
        struct Versions {
            #[serde(rename = "ApiVersion")]
            newest: String,
            #[serde(rename = "MinAPIVersion", default)]
            oldest: String,
        }
        let versions: Versions = decode(&self.wire.get("/version").await?)?;
        let newest = Version::parse(&versions.newest).ok_or_else(|| {
            Fault::Unsuitable(format!(
                "what answers is no Docker engine: it speaks API \"{}\"",
                versions.newest
            ))
        })?;
        let chosen = version::choose(newest, Version::parse(&versions.oldest)).map_err(Fault::Unsuitable)?;
        if chosen > version::NEWEST {
            tracing::warn!(%chosen, newest_tested = %version::NEWEST, "the Docker engine is newer than what this was tested with");
        }
        let spoken = (usize::from(chosen.major), usize::from(chosen.minor));
        let session =
            Session { docker: Docker::unix_versioned(&self.socket, spoken), prefix: format!("/v{chosen}") };
        // Said once for every time that it comes up, so that what it cannot enforce can be told without asking.
        match session.docker.info().await {
            Ok(said) => *self.known() = Some(info(said)),
            Err(error) => tracing::warn!(%error, "the Docker engine does not say what it can enforce"),
        }
        let session = Arc::new(session);
        *self.agreed() = Some(Arc::clone(&session));
        Ok(session)
    }
}

/// A failure before the call itself was made: the engine did nothing.
fn before(fault: Fault) -> Fault {
    match fault {
        Fault::Lost(cause) => Fault::NoEngine(cause),
        Fault::Answer { status, message } => Fault::NoEngine(
            format!("the Docker engine answers {status} when asked for its version: {message}").into(),
        ),
        other => other,
    }
}

/// What is fit to stand in a path as a container's or network's name or id.
fn segment(text: &str) -> Result<&str, Fault> {
    let mut bytes = text.bytes();
    let good = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if good { Ok(text) } else { Err(unfit(text)) }
}

/// [`segment`] for an image's name, which may have a registry, a tag and a digest.
fn image_segment(text: &str) -> Result<&str, Fault> {
    let mut bytes = text.bytes();
    let good = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-/:@".contains(&byte))
        && !text.split('/').any(|part| part.is_empty() || part.starts_with('.'));
    if good { Ok(text) } else { Err(unfit(text)) }
}

/// The answer that an engine would give to it.
fn unfit(text: &str) -> Fault {
    Fault::Answer { status: 400, message: format!("\"{}\" is no name of the engine's", text.escape_debug()) }
}

/// Percent-encoded for a query (RFC 3986).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn decode<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Fault> {
    Ok(serde_json::from_slice(answer)?)
}

/// Nothing there is no failure.
fn absent<T>(answer: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(fault) if fault.is(404) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// "Not modified" is no failure: it was so already.
fn unmodified(answer: Result<(), Fault>) -> Result<bool, Fault> {
    match answer {
        Ok(()) => Ok(true),
        Err(fault) if fault.is(304) => Ok(false),
        Err(fault) => Err(fault),
    }
}

fn listed(found: ContainerSummary) -> Listed {
    let names = found.names.unwrap_or_default();
    Listed {
        id: found.id.unwrap_or_default(),
        names: names.iter().map(|name| name.trim_start_matches('/').to_owned()).collect(),
        labels: found.labels.unwrap_or_default(),
        image: found.image.unwrap_or_default(),
        state: found.state.unwrap_or_default(),
        created: found.created.unwrap_or_default(),
    }
}

fn inspected(found: ContainerInspect200Response) -> Inspected {
    let config = found.config.map(|config| (config.hostname, config.labels, config.tty));
    let (hostname, labels, tty) = config.unwrap_or_default();
    let state = found.state.as_ref();
    let mounted = |mount: MountPoint| Mounted {
        kind: mount.type_.unwrap_or_default(),
        source: mount.source.unwrap_or_default(),
        destination: mount.destination.unwrap_or_default(),
    };
    Inspected {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        hostname: hostname.unwrap_or_default(),
        labels: labels.unwrap_or_default(),
        tty: tty.unwrap_or_default(),
        status: state.and_then(|state| state.status.clone()).unwrap_or_default(),
        exit_code: state
            .and_then(|state| state.exit_code)
            .and_then(|code| i64::try_from(code).ok())
            .unwrap_or_default(),
        oom_killed: state.and_then(|state| state.oom_killed).unwrap_or_default(),
        mounts: found.mounts.unwrap_or_default().into_iter().map(mounted).collect(),
    }
}

fn info(said: SystemInfo) -> Info {
    Info {
        id: said.id.unwrap_or_default(),
        memory: said.memory_limit.unwrap_or_default(),
        swap: said.swap_limit.unwrap_or_default(),
        cpu: said.cpu_cfs_quota.unwrap_or_default(),
        pids: said.pids_limit.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_a_request_is_no_name() {
        for good in ["aito-ceo-abc234", "a", "9f", "A_b.c-d"] {
            assert_eq!(segment(good).ok(), Some(good));
        }
        for bad in ["", "json?all=1&x=", "a/b", "../x", "-a", ".a", "a b", "a%20", "ä", "a\n"] {
            assert!(segment(bad).unwrap_err().is(400), "{bad}");
        }
        for good in ["aito-agent:latest", "registry:5000/a/b:1", "a@sha256:0f", "sha256:0f"] {
            assert_eq!(image_segment(good).ok(), Some(good));
        }
        for bad in ["", "a?b", "a/../b", "a//b", "/a", "a b", "a#", "a/"] {
            assert!(image_segment(bad).unwrap_err().is(400), "{bad}");
        }
        assert_eq!(escaped(r#"{"a b":1}"#), "%7B%22a%20b%22%3A1%7D");
    }

    #[test]
    fn what_fails_before_the_call_did_nothing() {
        for fault in [Fault::too_late(), Fault::Answer { status: 500, message: "broken".to_owned() }] {
            assert!(matches!(before(fault), Fault::NoEngine(_)));
        }
        assert!(matches!(before(Fault::Unsuitable(String::new())), Fault::Unsuitable(_)));
        assert_eq!(unmodified(Err(Fault::Answer { status: 304, message: String::new() })).ok(), Some(false));
        assert_eq!(absent::<()>(Err(Fault::Answer { status: 404, message: String::new() })).ok(), Some(None));
    }
}
