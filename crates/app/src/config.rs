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
    workers: usize,
    log: RawLog,
    #[serde(default)]
    agents: BTreeMap<String, RawAgent>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    filter: String,
    format: LogFormat,
}

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) runtime: RuntimeChoice,
    pub(crate) no_auth: bool,
    /// `None`: chosen at the first start and recorded.
    pub(crate) socket_dir: Option<PathBuf>,
    pub(crate) workers: usize,
    pub(crate) log_filter: String,
    pub(crate) log_format: LogFormat,
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
        for (name, what) in [("DATABASE_URL", "Postgres"), ("REDIS_URL", "Redis")] {
            if env.contains_key(name) {
                return Err(format!(
                    "{name} from the environment: this version has no {what} adapter; unset it to use the \
                     embedded set (SQLite and an in-process bus)"
                ));
            }
        }
        let mut figment = Figment::from(Serialized::defaults(defaults(env)));
        figment = match &args.config {
            Some(file) if !file.is_file() => {
                return Err(format!("--config {}: there is no such file", file.display()));
            }
            Some(file) => figment.merge(Toml::file_exact(file)),
            None if Path::new(DEFAULT_FILE).is_file() => figment.merge(Toml::file_exact(DEFAULT_FILE)),
            None => figment,
        };
        // The older variable names a port only; the address, which says more, stands above it.
        let port = env.get_key_value("ORCHESTRATOR_PORT");
        let others = env.iter().filter(|(name, _)| *name != "ORCHESTRATOR_PORT");
        for (name, value) in port.into_iter().chain(others) {
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
        workers: std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(1, 64),
        log: RawLog { filter: "info".to_owned(), format: LogFormat::Text },
        agents: BTreeMap::new(),
    }
}

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

    /// `AITO_LISTEN`, `AITO_AGENTS__CEO__GRACE`; `ORCHESTRATOR_PORT` is the port of the default address.
    fn of_variable(name: &str, value: &str) -> Result<Option<Self>, String> {
        let source = || format!("{name} from the environment");
        if name == "ORCHESTRATOR_PORT" {
            let port: u16 = value
                .parse()
                .map_err(|_| format!("{}: must be a port, 0 to 65535, not \"{value}\"", source()))?;
            return Ok(Some(Self::new(source(), &["listen"], Value::from(format!("127.0.0.1:{port}")))));
        }
        let Some(key) = name.strip_prefix("AITO_") else { return Ok(None) };
        let key = key.to_ascii_lowercase();
        let path: Vec<&str> = key.split("__").collect();
        let parsed = match value.parse::<i64>() {
            _ if matches!(path[0], "listen" | "data_dir" | "socket_dir") => Value::from(value),
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
    if !(1..=64).contains(&raw.workers) {
        return Err(wrong("workers", "1 to 64"));
    }
    if raw.data_dir.as_os_str().is_empty() {
        return Err(wrong("data_dir", "a directory"));
    }
    if raw.socket_dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
        return Err(wrong("socket_dir", "an absolute path"));
    }
    if let Err(bad) = raw.log.filter.parse::<tracing_subscriber::filter::Targets>() {
        return Err(wrong("log.filter", &format!("a filter such as info or aito_http=debug,info ({bad})")));
    }
    let data_dir =
        std::path::absolute(&raw.data_dir).map_err(|e| wrong("data_dir", &format!("a usable path: {e}")))?;
    let agents = agents_config::resolve(&raw.agents, &data_dir).map_err(|bad| {
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
        ("workers", raw.workers.to_string()),
        ("log.filter", raw.log.filter.clone()),
        ("log.format", format!("{:?}", raw.log.format).to_lowercase()),
    ] {
        described.push((key.to_owned(), value, source(key)));
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
        workers: raw.workers,
        log_filter: raw.log.filter,
        log_format: raw.log.format,
        agents,
        described,
    })
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
            let why = load(args, &[]).expect_err(text);
            for part in parts {
                assert!(why.contains(part), "{text}: \"{part}\" is missing in: {why}");
            }
            assert!(!text.contains("secrets") || !why.contains("hunter2"), "a secret is shown: {why}");
            assert!(!why.contains("struct "), "{why}");
        }
        let why = load(ServeArgs::default(), &[("AITO_LISEN", "x")]).unwrap_err();
        assert!(why.contains("lisen") && why.contains("AITO_LISEN"), "{why}");
        let why = load(ServeArgs::default(), &[("ORCHESTRATOR_PORT", "x")]).unwrap_err();
        assert!(why.contains("ORCHESTRATOR_PORT") && why.contains("65535"), "{why}");
        assert!(load(ServeArgs::default(), &[("DATABASE_URL", "x")]).unwrap_err().contains("DATABASE_URL"));
        let open = ServeArgs { no_auth: true, listen: Some("0.0.0.0:80".into()), ..ServeArgs::default() };
        assert!(load(open, &[]).unwrap_err().contains("loopback"));
        let missing = ServeArgs { config: Some("/nowhere/x.toml".into()), ..ServeArgs::default() };
        assert!(load(missing, &[]).unwrap_err().contains("no such file"));
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
