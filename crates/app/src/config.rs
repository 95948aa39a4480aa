//! Configuration: defaults, then `aito.toml`, then the environment, then flags; every value knows its source.
//!
//! Invariants: a key that does not exist or a value that is not allowed stops the start with one message that
//! names key, source and what is allowed; every key here has a consumer; figment is named in this file only.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
};

use aito_domain::spec::AgentSpec;
use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format as _, Serialized, Toml},
    value::{Dict, Map, Value},
};
use serde::{Deserialize, Serialize};

use crate::{
    ServeArgs,
    agents_config::{self, RawAgent},
    guard_config::{self, GuardConfig, RawAudit, RawAuth, RawGuard, RawLimits},
};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "aito.toml";

/// Where agents shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RuntimeChoice {
    /// What fits this machine.
    Auto,
    /// Local processes.
    Process,
    /// A Docker engine.
    Docker,
}

/// How the server's own log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    listen: String,
    data_dir: PathBuf,
    runtime: RuntimeChoice,
    no_auth: bool,
    socket_dir: Option<PathBuf>,
    key_file: Option<PathBuf>,
    database_url: Option<String>,
    redis: RawRedis,
    docker: RawDocker,
    workers: usize,
    log: RawLog,
    hosts: Vec<String>,
    cors_origins: Vec<String>,
    trusted_proxies: Vec<String>,
    limits: RawLimits,
    audit: RawAudit,
    auth: RawAuth,
    #[serde(default)]
    agents: BTreeMap<String, RawAgent>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRedis {
    url: Option<String>,
    prefix: String,
    sentinels: Vec<String>,
    master_name: Option<String>,
    user: Option<String>,
    password: Option<String>,
    sentinel_password: Option<String>,
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDocker {
    host: String,
    image: String,
    network: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    filter: String,
    format: LogFormat,
}

/// How to reach Redis.
#[derive(Clone)]
pub(crate) struct RedisConfig {
    pub(crate) server: RedisServer,
    /// Stands before every channel and key.
    pub(crate) prefix: String,
    /// Instead of those in the URL.
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// Of the sentinels themselves.
    pub(crate) sentinel_password: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
}

/// Where Redis is. May hold a password, so it is not printed.
#[derive(Clone)]
pub(crate) enum RedisServer {
    /// At an address.
    At(String),
    /// Wherever these sentinels say.
    Sentinels {
        /// `host:port` each.
        sentinels: Vec<String>,
        /// What they call it.
        master_name: String,
    },
}

/// How to reach a Docker engine and what to do on it.
#[derive(Debug, Clone)]
pub(crate) struct DockerConfig {
    /// The engine's socket; `Err`: what is wrong with the configured address, said when an engine is needed.
    pub(crate) socket: Result<PathBuf, String>,
    /// The image of agents that name none.
    pub(crate) image: String,
    /// The agents' network; `None`: one of the installation's own.
    pub(crate) network: Option<String>,
}

/// The whole configuration, checked.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) runtime: RuntimeChoice,
    pub(crate) no_auth: bool,
    /// `None`: chosen at the first start and recorded.
    pub(crate) socket_dir: Option<PathBuf>,
    /// Where the installation's key stands, for a server that joins one.
    pub(crate) key_file: Option<PathBuf>,
    /// PostgreSQL; `None`: SQLite in the data directory. May hold a password.
    pub(crate) database_url: Option<String>,
    /// `None`: the bus of this process.
    pub(crate) redis: Option<RedisConfig>,
    pub(crate) docker: DockerConfig,
    pub(crate) workers: usize,
    pub(crate) log_filter: String,
    pub(crate) log_format: LogFormat,
    pub(crate) guard: GuardConfig,
    pub(crate) agents: Vec<AgentSpec>,
    /// Key, value and source of everything that was set, for `aito config`.
    described: Vec<(String, String, String)>,
}

/// The environment that configuration reads, taken once.
pub(crate) fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

impl Config {
    /// Puts all sources together and checks everything.
    pub(crate) fn load(args: &ServeArgs, env: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut figment = Figment::from(Serialized::defaults(defaults(env)));
        figment = match &args.config {
            Some(file) if !file.is_file() => {
                return Err(format!("--config {}: there is no such file", file.display()));
            }
            Some(file) => figment.merge(Toml::file_exact(file)),
            None if Path::new(DEFAULT_FILE).is_file() => figment.merge(Toml::file_exact(DEFAULT_FILE)),
            None => figment,
        };
        // Names that others use too, or that say less, yield to this program's own.
        let (own, shared): (Vec<_>, Vec<_>) = env.iter().partition(|(name, _)| name.starts_with("AITO_"));
        for (name, value) in shared.into_iter().chain(own) {
            if let Some(layer) = Layer::of_variable(name, value)? {
                figment = figment.merge(layer);
            }
        }
        for layer in Layer::of_flags(args) {
            figment = figment.merge(layer);
        }
        let raw: Raw = figment.extract().map_err(|error| explain(&error))?;
        check(raw, &figment)
    }

    /// Every value with its source, one a line.
    pub(crate) fn describe(&self) -> String {
        let width = self.described.iter().map(|(key, _, _)| key.len()).max().unwrap_or(0);
        let mut out = String::new();
        for (key, value, source) in &self.described {
            // Writing into a string does not fail.
            let _ = writeln!(out, "{key:width$} = {value}  # {source}");
        }
        out
    }
}

fn defaults(env: &BTreeMap<String, String>) -> Raw {
    let data_dir = match (env.get("XDG_DATA_HOME"), env.get("HOME")) {
        (Some(dir), _) if !dir.is_empty() => Path::new(dir).join("aito"),
        (_, Some(home)) if !home.is_empty() => Path::new(home).join(".local/share/aito"),
        _ => PathBuf::from("/var/lib/aito"),
    };
    Raw {
        listen: "127.0.0.1:8080".to_owned(),
        data_dir,
        runtime: RuntimeChoice::Auto,
        no_auth: false,
        socket_dir: None,
        key_file: None,
        database_url: None,
        redis: RawRedis {
            url: None,
            prefix: String::new(),
            sentinels: Vec::new(),
            master_name: None,
            user: None,
            password: None,
            sentinel_password: None,
            ca_file: None,
        },
        docker: RawDocker {
            host: "unix:///var/run/docker.sock".to_owned(),
            image: "aito-agent:latest".to_owned(),
            network: None,
        },
        workers: std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(1, 64),
        log: RawLog { filter: "info".to_owned(), format: LogFormat::Text },
        hosts: Vec::new(),
        cors_origins: Vec::new(),
        trusted_proxies: Vec::new(),
        limits: RawLimits::default(),
        audit: RawAudit::default(),
        auth: RawAuth::default(),
        agents: BTreeMap::new(),
    }
}

/// Variables that mean the same to other programs, and the keys that they set.
const SHARED: [(&str, &[&str]); 5] = [
    ("DATABASE_URL", &["database_url"]),
    ("REDIS_URL", &["redis", "url"]),
    ("REDIS_MASTER_NAME", &["redis", "master_name"]),
    ("REDIS_PASSWORD", &["redis", "password"]),
    ("DOCKER_HOST", &["docker", "host"]),
];

/// Keys whose values are texts, also when they look like numbers.
const TEXTS: [&str; 7] = ["listen", "data_dir", "socket_dir", "key_file", "database_url", "redis", "docker"];

/// Of those of `auth`, the one that is a number.
const LEEWAY: [&str; 3] = ["auth", "jwt", "leeway"];

/// One value from the environment or a flag, as a layer of its own, so that its source can be named.
struct Layer {
    source: String,
    dict: Dict,
}

impl Layer {
    fn new(source: String, path: &[&str], value: Value) -> Self {
        let (first, rest) = (path[0], &path[1..]);
        let inner =
            rest.iter().rev().fold(value, |value, key| Value::from(Dict::from([((*key).to_owned(), value)])));
        Self { source, dict: Dict::from([(first.to_owned(), inner)]) }
    }

    /// `AITO_LISTEN`, `AITO_AGENTS__CEO__GRACE`; `ORCHESTRATOR_PORT` is the port of the default address, and some
    /// variables mean the same everywhere ([`SHARED`]).
    fn of_variable(name: &str, value: &str) -> Result<Option<Self>, String> {
        let source = || format!("{name} from the environment");
        if let Some((_, path)) = SHARED.iter().find(|(shared, _)| *shared == name) {
            // Set and empty is a common way to unset.
            return Ok((!value.is_empty()).then(|| Self::new(source(), path, Value::from(value))));
        }
        if name == "REDIS_SENTINELS" {
            let all: Vec<&str> = value.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
            let layer = Self::new(source(), &["redis", "sentinels"], Value::from(all));
            return Ok((!value.is_empty()).then_some(layer));
        }
        if name == "ORCHESTRATOR_PORT" {
            let port: u16 = value
                .parse()
                .map_err(|_| format!("{}: must be a port, 0 to 65535, not \"{value}\"", source()))?;
            return Ok(Some(Self::new(source(), &["listen"], Value::from(format!("127.0.0.1:{port}")))));
        }
        let Some(key) = name.strip_prefix("AITO_") else { return Ok(None) };
        let key = key.to_ascii_lowercase();
        let path: Vec<&str> = key.split("__").collect();
        if name == crate::watch::TOKEN_VARIABLE {
            // What the client's commands go by; a server has no use for it.
            return Ok(None);
        }
        let parsed = match value.parse::<i64>() {
            _ if TEXTS.contains(&path[0]) || (path[0] == "auth" && path != LEEWAY) => Value::from(value),
            _ if guard_config::LISTS.contains(&path[0]) => {
                let all: Vec<&str> = value.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
                Value::from(all)
            }
            Ok(number) => Value::from(number),
            Err(_) => match value {
                "true" => Value::from(true),
                "false" => Value::from(false),
                text => Value::from(text),
            },
        };
        Ok(Some(Self::new(source(), &path, parsed)))
    }

    fn of_flags(args: &ServeArgs) -> Vec<Self> {
        let flag = |name: &str, key: &str, value: Value| {
            Self::new(format!("{name} on the command line"), &[key], value)
        };
        let path = |path: &Path| Value::from(path.display().to_string());
        let mut layers = Vec::new();
        layers.extend(args.listen.as_ref().map(|v| flag("--listen", "listen", Value::from(v.as_str()))));
        layers.extend(args.data_dir.as_ref().map(|v| flag("--data-dir", "data_dir", path(v))));
        layers.extend(args.runtime.as_ref().map(|v| flag("--runtime", "runtime", Value::from(v.as_str()))));
        layers.extend(args.no_auth.then(|| flag("--no-auth", "no_auth", Value::from(true))));
        layers
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

/// One line: key, source, what is allowed.
fn explain(error: &figment::Error) -> String {
    use figment::error::Kind;
    let source = error.metadata.as_ref().map_or_else(|| "the configuration".to_owned(), source_name);
    let mut path = error.path.join(".");
    let what = match &error.kind {
        Kind::UnknownField(name, allowed) => {
            if !path.is_empty() && !path.ends_with(name.as_str()) {
                let _ = write!(path, ".{name}");
            } else if path.is_empty() {
                path.clone_from(name);
            }
            format!("there is no such key; there are {}", allowed.join(", "))
        }
        // What was found there may be the secret itself, which belongs in no log.
        _ if error.path.first().is_some_and(|segment| segment == "auth") => {
            "not what this key takes; the values of auth are not shown".to_owned()
        }
        _ if error.path.get(2).is_some_and(|segment| segment == "secrets") => {
            "a secret is named, not written down: { env = \"NAME\" } or { file = \"/absolute/path\" }"
                .to_owned()
        }
        // The reader's names for tables are names in this program, which mean nothing to a caller.
        Kind::InvalidType(found, expected) if expected.starts_with("struct ") => {
            format!("must be a table, not {found}")
        }
        kind => kind.to_string(),
    };
    if path.is_empty() { format!("{source}: {what}") } else { format!("{path} from {source}: {what}") }
}

fn source_name(metadata: &Metadata) -> String {
    match &metadata.source {
        Some(figment::Source::File(path)) => path.display().to_string(),
        Some(figment::Source::Code(_)) => "the defaults".to_owned(),
        _ => metadata.name.trim_end_matches(" from the environment").to_owned(),
    }
}

fn check(raw: Raw, figment: &Figment) -> Result<Config, String> {
    let source =
        |key: &str| figment.find_metadata(key).map_or_else(|| "the defaults".to_owned(), source_name);
    let wrong = |key: &str, allowed: &str| format!("{key} from {}: must be {allowed}", source(key));
    let listen = raw.listen.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(|| {
        wrong("listen", &format!("an address and a port such as 127.0.0.1:8080, not \"{}\"", raw.listen))
    })?;
    if raw.no_auth && !listen.ip().is_loopback() {
        return Err(wrong("listen", &format!("a loopback address together with --no-auth, not {listen}")));
    }
    if raw.no_auth && !raw.trusted_proxies.is_empty() {
        let allowed =
            "empty together with --no-auth: whoever a proxy speaks for would need no credential either";
        return Err(wrong("trusted_proxies", allowed));
    }
    if !(1..=64).contains(&raw.workers) {
        return Err(wrong("workers", "1 to 64"));
    }
    if raw.data_dir.as_os_str().is_empty() {
        return Err(wrong("data_dir", "a directory"));
    }
    for (key, path) in
        [("socket_dir", &raw.socket_dir), ("key_file", &raw.key_file), ("redis.ca_file", &raw.redis.ca_file)]
    {
        if path.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(wrong(key, "an absolute path"));
        }
    }
    if raw.database_url.as_ref().is_some_and(|url| !is_postgres(url)) {
        return Err(wrong("database_url", "a URL that begins with postgres:// or postgresql://"));
    }
    let redis = redis(&raw.redis).map_err(|(key, allowed)| wrong(key, allowed))?;
    if !agents_config::is_image(&raw.docker.image) {
        return Err(wrong("docker.image", "an image, such as aito-agent:latest or sha256:…"));
    }
    let socket = raw.docker.host.strip_prefix("unix://").map(PathBuf::from).filter(|path| path.is_absolute());
    let socket = socket.ok_or_else(|| {
        wrong("docker.host", &format!("unix:// and the absolute path of a socket, not {}", raw.docker.host))
    });
    if raw.runtime == RuntimeChoice::Docker {
        socket.clone()?;
    }
    if let Err(bad) = raw.log.filter.parse::<tracing_subscriber::filter::Targets>() {
        return Err(wrong("log.filter", &format!("a filter such as info or aito_http=debug,info ({bad})")));
    }
    let data_dir =
        std::path::absolute(&raw.data_dir).map_err(|e| wrong("data_dir", &format!("a usable path: {e}")))?;
    let guard = guard_config::check(&RawGuard {
        hosts: &raw.hosts,
        cors_origins: &raw.cors_origins,
        trusted_proxies: &raw.trusted_proxies,
        limits: &raw.limits,
        audit: &raw.audit,
        auth: &raw.auth,
    })
    .map_err(|(key, allowed)| wrong(key, &allowed))?;
    let agents = agents_config::resolve(&raw.agents, &data_dir, &raw.docker.image).map_err(|bad| {
        format!("agents.{} from {}: {}", bad.key, source(&format!("agents.{}", bad.key)), bad.what)
    })?;
    let mut described = Vec::new();
    for (key, value) in [
        ("listen", listen.to_string()),
        ("data_dir", data_dir.display().to_string()),
        ("runtime", format!("{:?}", raw.runtime).to_lowercase()),
        ("no_auth", raw.no_auth.to_string()),
        (
            "socket_dir",
            raw.socket_dir
                .as_ref()
                .map_or("chosen at the first start".to_owned(), |d| d.display().to_string()),
        ),
        ("key_file", shown(raw.key_file.as_ref().map(|path| path.display()), "made at the first start")),
        ("database_url", raw.database_url.as_deref().map_or("none: SQLite".to_owned(), masked)),
        ("redis.url", raw.redis.url.as_deref().map_or("none".to_owned(), masked)),
        ("redis.prefix", format!("\"{}\"", raw.redis.prefix)),
        ("redis.sentinels", raw.redis.sentinels.join(",")),
        ("redis.user", shown(raw.redis.user.as_ref(), "as in the URL")),
        ("redis.password", shown(raw.redis.password.as_ref().map(|_| "***"), "as in the URL")),
        ("redis.sentinel_password", shown(raw.redis.sentinel_password.as_ref().map(|_| "***"), "none")),
        ("redis.master_name", shown(raw.redis.master_name.as_ref(), "none")),
        (
            "redis.ca_file",
            shown(raw.redis.ca_file.as_ref().map(|path| path.display()), "the usual authorities"),
        ),
        ("docker.host", raw.docker.host.clone()),
        ("docker.image", raw.docker.image.clone()),
        ("docker.network", shown(raw.docker.network.as_ref(), "the installation's own")),
        ("workers", raw.workers.to_string()),
        ("log.filter", raw.log.filter.clone()),
        ("log.format", format!("{:?}", raw.log.format).to_lowercase()),
    ] {
        described.push((key.to_owned(), value, source(key)));
    }
    for (key, value) in &guard.described {
        described.push(((*key).to_owned(), value.clone(), source(key)));
    }
    for spec in &agents {
        for (key, value) in agents_config::describe(spec) {
            let key = format!("agents.{}.{key}", spec.agent_type);
            let source = source(&key);
            described.push((key, value, source));
        }
    }
    Ok(Config {
        listen,
        data_dir,
        runtime: raw.runtime,
        no_auth: raw.no_auth,
        socket_dir: raw.socket_dir,
        key_file: raw.key_file,
        database_url: raw.database_url,
        redis,
        docker: DockerConfig { socket, image: raw.docker.image, network: raw.docker.network },
        workers: raw.workers,
        log_filter: raw.log.filter,
        log_format: raw.log.format,
        guard,
        agents,
        described,
    })
}

fn is_postgres(url: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
}

/// Where Redis is, or the key that is wrong and what is allowed.
fn redis(raw: &RawRedis) -> Result<Option<RedisConfig>, (&'static str, &'static str)> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_:".contains(c);
    if raw.prefix.len() > 64 || !raw.prefix.chars().all(fine) {
        return Err(("redis.prefix", "at most 64 letters, digits, -, _ and :"));
    }
    let server = match (&raw.url, raw.sentinels.is_empty(), &raw.master_name) {
        (None, true, None) => return Ok(None),
        (Some(url), true, None) => RedisServer::At(url.clone()),
        (None, false, Some(name)) => {
            RedisServer::Sentinels { sentinels: raw.sentinels.clone(), master_name: name.clone() }
        }
        (Some(_), ..) => {
            return Err(("redis.url", "the only one, without redis.sentinels and redis.master_name"));
        }
        (None, false, None) => return Err(("redis.master_name", "set together with redis.sentinels")),
        (None, true, Some(_)) => {
            return Err(("redis.sentinels", "host:port, at least one, with redis.master_name"));
        }
    };
    Ok(Some(RedisConfig {
        server,
        prefix: raw.prefix.clone(),
        user: raw.user.clone(),
        password: raw.password.clone(),
        sentinel_password: raw.sentinel_password.clone(),
        ca_file: raw.ca_file.clone(),
    }))
}

fn shown(value: Option<impl std::fmt::Display>, otherwise: &str) -> String {
    value.map_or_else(|| otherwise.to_owned(), |value| value.to_string())
}

/// A URL without its password, as far as one can be told; without one it is shown whole.
pub(crate) fn masked(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => format!("{}:***@{host}", user.split(':').next().unwrap_or_default()),
        None => authority.to_owned(),
    };
    // A password may stand in the query too.
    let path = path.split_once('?').map_or(path.to_owned(), |(path, _)| format!("{path}?***"));
    format!("{scheme}://{authority}{path}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    fn load(args: ServeArgs, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load(&args, &env)
    }

    fn file(text: &str) -> (tempfile::TempDir, ServeArgs) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        (dir, ServeArgs { config: Some(path), ..ServeArgs::default() })
    }

    #[test]
    fn flags_stand_above_environment_above_file_above_defaults() {
        assert_eq!(load(ServeArgs::default(), &[]).unwrap().listen.to_string(), "127.0.0.1:8080");
        let (_dir, args) = file("listen = \"127.0.0.1:1\"\nruntime = \"process\"\n[agents.ceo]\ngrace = 3\n");
        let from_file = load(args.clone(), &[]).unwrap();
        assert_eq!((from_file.listen.port(), from_file.runtime), (1, RuntimeChoice::Process));
        assert_eq!(load(args.clone(), &[("ORCHESTRATOR_PORT", "2")]).unwrap().listen.port(), 2);
        // The port alone yields to the address.
        let both =
            [("ORCHESTRATOR_PORT", "2"), ("AITO_LISTEN", "127.0.0.1:3"), ("AITO_AGENTS__CEO__GRACE", "4")];
        let config = load(args.clone(), &both).unwrap();
        assert_eq!(config.listen.port(), 3);
        let ceo = config.agents.iter().find(|spec| spec.agent_type.as_str() == "ceo").unwrap();
        assert_eq!(ceo.grace.as_secs(), 4);
        let flagged = load(ServeArgs { listen: Some("127.0.0.1:5".into()), ..args }, &both).unwrap();
        assert_eq!(flagged.listen.port(), 5);
        let text = flagged.describe();
        assert!(
            text.contains("# --listen on the command line") && text.contains("AITO_AGENTS__CEO__GRACE"),
            "{text}"
        );
    }

    #[test]
    fn wrong_keys_and_values_name_key_source_and_what_is_allowed() {
        for (text, parts) in [
            ("lisen = 1", vec!["lisen", "x.toml", "there is no such key", "listen"]),
            ("listen = \"nowhere\"", vec!["listen", "x.toml", "address and a port"]),
            ("workers = 0", vec!["workers", "x.toml", "1 to 64"]),
            ("runtime = \"podman\"", vec!["runtime", "x.toml", "auto"]),
            ("[agents.ceo]\nspeed = 1", vec!["agents.ceo.speed", "x.toml", "no such key"]),
            ("[agents.CEO]", vec!["agents.CEO", "a-z"]),
            ("[agents.all]", vec!["agents.all", "addresses a group"]),
            ("[agents.ceo]\nloop_interval = 0", vec!["agents.ceo.loop_interval", "x.toml", "1 to"]),
            ("[agents.ceo]\nprofile = \"\"", vec!["agents.ceo.profile"]),
            ("[agents.ceo.env]\n\"A B\" = \"1\"", vec!["agents.ceo.env"]),
            ("[agents.ceo.env]\nAGENT_ID = \"1\"", vec!["agents.ceo.env", "AGENT_ID"]),
            ("[agents.ceo.secrets]\nX = { env = \"A\", file = \"/b\" }", vec!["agents.ceo.secrets"]),
            ("[agents.ceo.secrets]\nX = \"hunter2\"", vec!["agents.ceo.secrets.X", "x.toml", "env ="]),
            ("[agents.ceo.secrets]\nX = { env = [\"hunter2\"] }", vec!["agents.ceo.secrets.X", "file ="]),
            ("agents = { ceo = \"hunter2\" }", vec!["agents.ceo", "x.toml", "must be a table"]),
            ("[log]\nfilter = \"loud=very\"", vec!["log.filter", "x.toml"]),
        ] {
            let (_dir, args) = file(text);
            let why = load(args, &[]).err().unwrap_or_else(|| panic!("{text} was taken"));
            for part in parts {
                assert!(why.contains(part), "{text}: \"{part}\" is missing in: {why}");
            }
            assert!(!text.contains("secrets") || !why.contains("hunter2"), "a secret is shown: {why}");
            assert!(!why.contains("struct "), "{why}");
        }
        let why = load(ServeArgs::default(), &[("AITO_LISEN", "x")]).err().unwrap();
        assert!(why.contains("lisen") && why.contains("AITO_LISEN"), "{why}");
        let why = load(ServeArgs::default(), &[("ORCHESTRATOR_PORT", "x")]).err().unwrap();
        assert!(why.contains("ORCHESTRATOR_PORT") && why.contains("65535"), "{why}");
        for (name, value, allowed) in [
            ("DATABASE_URL", "mysql://hunter2@x", "postgres://"),
            ("REDIS_MASTER_NAME", "main", "redis.sentinels"),
            ("REDIS_SENTINELS", "a:1,b:2", "redis.master_name"),
            ("AITO_REDIS__PREFIX", "a b", "letters"),
            ("AITO_DOCKER__IMAGE", "no image", "aito-agent:latest"),
        ] {
            let why = load(ServeArgs::default(), &[(name, value)]).err().unwrap();
            assert!(why.contains(allowed) && !why.contains("hunter2"), "{name}: {why}");
        }
        let remote = [("DOCKER_HOST", "tcp://10.0.0.1:2375")];
        assert!(
            load(ServeArgs::default(), &remote).unwrap().docker.socket.unwrap_err().contains("DOCKER_HOST")
        );
        let docker = ServeArgs { runtime: Some("docker".into()), ..ServeArgs::default() };
        assert!(load(docker, &remote).err().unwrap().contains("unix://"));
        let open = ServeArgs { no_auth: true, listen: Some("0.0.0.0:80".into()), ..ServeArgs::default() };
        assert!(load(open, &[]).err().unwrap().contains("loopback"));
        let missing = ServeArgs { config: Some("/nowhere/x.toml".into()), ..ServeArgs::default() };
        assert!(load(missing, &[]).err().unwrap().contains("no such file"));
    }

    #[test]
    fn servers_are_found_where_other_programs_find_them_and_passwords_are_masked() {
        let env = [
            ("DATABASE_URL", "postgres://aito:hunter2@db/aito?password=hunter2"),
            ("REDIS_URL", "rediss://:hunter2@cache:6380/1"),
            ("AITO_REDIS__PREFIX", "42"),
            ("DOCKER_HOST", "unix:///run/user/1000/docker.sock"),
        ];
        let config = load(ServeArgs::default(), &env).unwrap();
        assert_eq!(config.database_url.as_deref(), Some(env[0].1));
        let redis = config.redis.clone().unwrap();
        assert!(matches!(redis.server, RedisServer::At(url) if url == env[1].1));
        assert_eq!(redis.prefix, "42");
        assert_eq!(config.docker.socket, Ok("/run/user/1000/docker.sock".into()));
        let text = config.describe();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(
            text.contains("postgres://aito:***@db/aito?***") && text.contains("# DATABASE_URL"),
            "{text}"
        );
        let own = [("DATABASE_URL", "postgres://a/x"), ("AITO_DATABASE_URL", "postgres://b/y")];
        let config = load(ServeArgs::default(), &own).unwrap();
        assert_eq!(config.database_url.as_deref(), Some("postgres://b/y"));
        let sentinels = [("REDIS_SENTINELS", "a:1, b:2"), ("REDIS_MASTER_NAME", "main")];
        let server = load(ServeArgs::default(), &sentinels).unwrap().redis.unwrap().server;
        let RedisServer::Sentinels { sentinels, master_name } = server else { panic!("no sentinels") };
        assert_eq!((sentinels, master_name.as_str()), (vec!["a:1".to_owned(), "b:2".to_owned()], "main"));
    }

    #[test]
    fn images_and_mounts_come_from_configuration() {
        let (_dir, args) = file(
            "[docker]\nimage = \"company/agent:2\"\n[agents.cto]\nimage = \"special@sha256:00\"\n\
             mounts = [{ source = \"/srv/a\", target = \"/a\" }, { source = \"/srv/b\", target = \"/b\", read_only = false }]\n",
        );
        let config = load(args, &[]).unwrap();
        let spec = |name: &str| config.agents.iter().find(|spec| spec.agent_type.as_str() == name).unwrap();
        assert_eq!(spec("ceo").image.as_deref(), Some("company/agent:2"));
        assert_eq!(spec("cto").image.as_deref(), Some("special@sha256:00"));
        let how: Vec<_> = spec("cto").mounts.iter().map(|mount| mount.read_only).collect();
        assert_eq!(how, [true, false], "writing is what must be asked for");
        for (text, part) in [
            ("mounts = [{ source = \"profiles\", target = \"/a\" }]", "absolute"),
            ("mounts = [{ source = \"/a/../b\", target = \"/a\" }]", "absolute"),
            ("mounts = [{ source = \"/a\", target = \"/\" }]", "root"),
            ("image = \"-x\"", "must name an image"),
        ] {
            let (_dir, args) = file(&format!("[agents.ceo]\n{text}\n"));
            let why = load(args, &[]).err().unwrap();
            assert!(why.contains(part) && why.contains("agents.ceo"), "{text}: {why}");
        }
    }

    #[test]
    fn more_agents_come_from_configuration_and_the_seven_are_always_there() {
        let (_dir, args) =
            file("[agents.risk-officer]\nname = \"Risk\"\nloop_interval = 60\ncommand = [\"/bin/true\"]\n");
        let config = load(args, &[]).unwrap();
        let types: Vec<_> = config.agents.iter().map(|spec| spec.agent_type.as_str()).collect();
        assert_eq!(types, ["cco", "ceo", "cfo", "cmo", "coo", "cto", "dao", "risk-officer"]);
    }
}
