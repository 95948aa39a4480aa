//! The agent's configuration, from its environment.
//!
//! Invariants:
//! - [`Config::from_env`] is pure: variables in, configuration or all faults out.
//! - A variable with an empty value counts as not set.
//! - A fault names the variable and what is allowed; it never shows a value that may be a secret.

use aito_client::Endpoint;
use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

/// What a command that thinks always gets, besides what `THINKING_ENV` names.
pub const THINKING_ENV_ALWAYS: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];

/// What an agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `AGENT_ID`: a UUID, the same for all incarnations. Required.
    pub agent_id: uuid::Uuid,
    /// `AGENT_TYPE`: `^[a-z][a-z0-9-]{0,31}$`. Required.
    pub agent_type: String,
    /// `AGENT_INCARNATION`: 1 or more. Required.
    pub incarnation: u64,
    /// `AGENT_PROFILE`, else `PROFILE_PATH`: a Markdown file. Without one the profile is empty.
    pub profile: Option<PathBuf>,
    /// `LOOP_INTERVAL`: seconds from one loop to the next, 1 to a year; 3600 by default. The server's control
    /// channel changes it.
    pub loop_interval: Duration,
    /// `ORCHESTRATOR_SOCKET_DIR`, else `ORCHESTRATOR_URL`. One of them is required.
    pub server: ServerAddress,
    /// `AGENT_CREDENTIAL_FILE`: read and unlinked at the start. Without one the agent calls without credential.
    pub credential_file: Option<PathBuf>,
    /// `HEARTBEAT_INTERVAL`: seconds, 1 to 300; 10 by default.
    pub heartbeat_interval: Duration,
    /// `AGENT_GRACE`: seconds between SIGTERM and the end, 1 to 3600; 10 by default.
    pub grace: Duration,
    /// `THINKING` and what belongs to it.
    pub thinking: Thinking,
    /// `AGENT_IN_CONTAINER=1`, or running as process 1: the agent makes its memory unreadable for others.
    pub in_container: bool,
}

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// A directory of sockets, each `*.sock` a server of this installation.
    SocketDir(PathBuf),
    /// One server.
    Endpoint(Endpoint),
}

/// How the agent thinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// `THINKING=rules`, the default: deterministic rules, no model.
    Rules {
        /// `THINKING_RULES`: a TOML file; the shipped rules by default.
        path: Option<PathBuf>,
    },
    /// `THINKING=command`: a program.
    Command(Command),
}

/// A program that thinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// `THINKING_COMMAND`: a JSON array, the program first. Required.
    pub argv: Vec<String>,
    /// `THINKING_TIMEOUT`: seconds, 1 to 86400; 600 by default.
    pub timeout: Duration,
    /// `THINKING_OUTPUT_CAP`: bytes of standard output, 1 to 64 MiB; 1 MiB by default.
    pub output_cap: usize,
    /// Its whole environment: PATH, HOME, LANG, TMPDIR as far as set, and what `THINKING_ENV` names.
    pub env: Environment,
}

/// Variables for a child. Its `Debug` output shows names only: a value may be a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(pub BTreeMap<String, String>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// All that is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("wrong environment: {}", .0.join("; "))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] with one text per fault.
    pub fn from_env(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut env = Env {
            vars: vars.into_iter().filter(|(_, value)| !value.is_empty()).collect(),
            faults: Vec::new(),
        };
        let agent_id = env.parsed("AGENT_ID", "a UUID", |text| uuid::Uuid::parse_str(text).ok());
        let agent_type = env.parsed("AGENT_TYPE", "a slug: ^[a-z][a-z0-9-]{0,31}$", |text| {
            is_slug(text).then(|| text.to_owned())
        });
        let incarnation = env.number("AGENT_INCARNATION", 1, i64::MAX as u64, None);
        let loop_interval = env.seconds("LOOP_INTERVAL", 31_536_000, 3600);
        let heartbeat_interval = env.seconds("HEARTBEAT_INTERVAL", 300, 10);
        let grace = env.seconds("AGENT_GRACE", 3600, 10);
        let server = env.server();
        let thinking = env.thinking();
        let in_container = env.flag("AGENT_IN_CONTAINER");
        let profile = env.path("AGENT_PROFILE").or_else(|| env.path("PROFILE_PATH"));
        let credential_file = env.path("AGENT_CREDENTIAL_FILE");
        let whole = (agent_id, agent_type, incarnation, server, thinking);
        match whole {
            (Some(agent_id), Some(agent_type), Some(incarnation), Some(server), Some(thinking))
                if env.faults.is_empty() =>
            {
                Ok(Self {
                    agent_id,
                    agent_type,
                    incarnation,
                    profile,
                    loop_interval,
                    server,
                    credential_file,
                    heartbeat_interval,
                    grace,
                    thinking,
                    in_container,
                })
            }
            _ => Err(ConfigError(env.faults)),
        }
    }
}

fn is_slug(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && text.len() <= 32
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

struct Env {
    vars: BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Env {
    fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    fn fault<T>(&mut self, text: String) -> Option<T> {
        self.faults.push(text);
        None
    }

    /// A required value.
    fn parsed<T>(&mut self, name: &str, allowed: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        match self.get(name).map(|text| (parse(text), text)) {
            Some((Some(value), _)) => Some(value),
            Some((None, text)) => {
                let text = crate::log::one_line(text, 80);
                self.fault(format!("{name} is {text:?} (allowed: {allowed})"))
            }
            None => self.fault(format!("{name} is not set (allowed: {allowed})")),
        }
    }

    /// A whole number in a range, required when there is no default.
    fn number(&mut self, name: &str, min: u64, max: u64, default: Option<u64>) -> Option<u64> {
        if default.is_some() && self.get(name).is_none() {
            return default;
        }
        let allowed = format!("a whole number from {min} to {max}");
        self.parsed(name, &allowed, |text| text.parse().ok().filter(|number| (min..=max).contains(number)))
    }

    fn seconds(&mut self, name: &str, max: u64, default: u64) -> Duration {
        // After a fault the value is never used.
        Duration::from_secs(self.number(name, 1, max, Some(default)).unwrap_or(default))
    }

    fn flag(&mut self, name: &str) -> bool {
        if self.get(name).is_none() {
            return false;
        }
        let read = |text: &str| match text {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        };
        self.parsed(name, "1, true, 0 or false", read).unwrap_or_default()
    }

    fn server(&mut self) -> Option<ServerAddress> {
        if let Some(dir) = self.path("ORCHESTRATOR_SOCKET_DIR") {
            return Some(ServerAddress::SocketDir(dir));
        }
        if self.get("ORCHESTRATOR_URL").is_none() {
            return self.fault(
                "neither ORCHESTRATOR_SOCKET_DIR (a directory of *.sock) nor ORCHESTRATOR_URL \
                 (http://host:port or the path of a Unix socket) is set"
                    .to_owned(),
            );
        }
        self.parsed("ORCHESTRATOR_URL", "http://host:port or the path of a Unix socket", |text| {
            Endpoint::from_str(text).ok()
        })
        .map(ServerAddress::Endpoint)
    }

    fn thinking(&mut self) -> Option<Thinking> {
        match self.get("THINKING").unwrap_or("rules") {
            "rules" => Some(Thinking::Rules { path: self.path("THINKING_RULES") }),
            "command" => {
                let argv = self.parsed(
                    "THINKING_COMMAND",
                    "a JSON array of texts, the program first, for example [\"think\",\"--json\"]",
                    |text| {
                        let argv: Vec<String> = serde_json::from_str(text).ok()?;
                        let sound = argv.first().is_some_and(|program| !program.is_empty())
                            && argv.iter().all(|part| !part.contains('\0'));
                        sound.then_some(argv)
                    },
                );
                let timeout = self.seconds("THINKING_TIMEOUT", 86_400, 600);
                let output_cap = self.number("THINKING_OUTPUT_CAP", 1, 64 << 20, Some(1 << 20));
                let env = self.child_env();
                Some(Thinking::Command(Command {
                    argv: argv?,
                    timeout,
                    output_cap: usize::try_from(output_cap?).ok()?,
                    env: env?,
                }))
            }
            other => {
                let other = crate::log::one_line(other, 80);
                self.fault(format!("THINKING is {other:?} (allowed: rules, command)"))
            }
        }
    }

    fn child_env(&mut self) -> Option<Environment> {
        let named: Vec<String> = self
            .get("THINKING_ENV")
            .unwrap_or_default()
            .split(',')
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        let mut refused = Vec::new();
        for name in &named {
            let usual = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && !name.as_bytes()[0].is_ascii_digit();
            // The credential's place is nobody's business but the agent's, under whatever name it may come.
            let credential = name.to_ascii_uppercase().starts_with("AGENT_CREDENTIAL")
                || self.get(name).is_some_and(|value| Some(value) == self.get("AGENT_CREDENTIAL_FILE"));
            if !usual || credential {
                refused.push(crate::log::one_line(name, 80));
            }
        }
        if !refused.is_empty() {
            return self.fault(format!(
                "THINKING_ENV names {} (allowed: a comma list of variable names, none of which leads to the credential)",
                refused.join(", ")
            ));
        }
        let names = THINKING_ENV_ALWAYS.into_iter().chain(named.iter().map(String::as_str));
        let pairs = names.filter_map(|name| Some((name.to_owned(), self.get(name)?.to_owned())));
        Some(Environment(pairs.collect()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ID: &str = "01936f1e-5f3a-7c3c-9a51-0d2d5f9a1b2c";

    fn read(changes: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let base = [
            ("AGENT_ID", ID),
            ("AGENT_TYPE", "ceo"),
            ("AGENT_INCARNATION", "8"),
            ("ORCHESTRATOR_SOCKET_DIR", "/run/aito"),
            ("PATH", "/bin"),
        ];
        let vars: BTreeMap<_, _> = base.into_iter().chain(changes.iter().copied()).collect();
        Config::from_env(vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn the_least_is_enough() {
        let config = read(&[]).unwrap();
        assert_eq!(config.agent_id.to_string(), ID);
        assert_eq!((config.agent_type.as_str(), config.incarnation), ("ceo", 8));
        assert_eq!(config.server, ServerAddress::SocketDir("/run/aito".into()));
        assert_eq!(config.loop_interval, Duration::from_secs(3600));
        assert_eq!(config.heartbeat_interval, Duration::from_secs(10));
        assert_eq!(config.grace, Duration::from_secs(10));
        assert_eq!(config.thinking, Thinking::Rules { path: None });
        assert_eq!((config.profile, config.credential_file, config.in_container), (None, None, false));
    }

    #[test]
    fn everything_can_be_said() {
        let config = read(&[
            ("AGENT_PROFILE", "/p/a.md"),
            ("PROFILE_PATH", "/p/b.md"),
            ("LOOP_INTERVAL", "5"),
            ("ORCHESTRATOR_SOCKET_DIR", ""),
            ("ORCHESTRATOR_URL", "http://127.0.0.1:8080"),
            ("AGENT_CREDENTIAL_FILE", "/c/credential"),
            ("HEARTBEAT_INTERVAL", "2"),
            ("AGENT_GRACE", "3"),
            ("AGENT_IN_CONTAINER", "1"),
            ("THINKING", "command"),
            ("THINKING_COMMAND", r#"["think","--json"]"#),
            ("THINKING_TIMEOUT", "7"),
            ("THINKING_OUTPUT_CAP", "99"),
            ("THINKING_ENV", "MODEL_KEY, OTHER"),
            ("MODEL_KEY", "s3cret"),
            ("NOT_NAMED", "x"),
        ])
        .unwrap();
        assert_eq!(config.profile.as_deref(), Some("/p/a.md".as_ref()));
        assert_eq!(config.server, ServerAddress::Endpoint("http://127.0.0.1:8080".parse().unwrap()));
        assert!(config.in_container);
        let Thinking::Command(command) = &config.thinking else { panic!("not a command") };
        assert_eq!(command.argv, ["think", "--json"]);
        assert_eq!((command.timeout, command.output_cap), (Duration::from_secs(7), 99));
        let names: Vec<_> = command.env.0.keys().map(String::as_str).collect();
        assert_eq!(names, ["MODEL_KEY", "PATH"]);
        assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
    }

    #[test]
    fn the_predecessors_name_of_the_profile_is_heard() {
        assert_eq!(
            read(&[("PROFILE_PATH", "/p/b.md")]).unwrap().profile.as_deref(),
            Some("/p/b.md".as_ref())
        );
    }

    #[test]
    fn every_fault_names_its_variable_and_what_is_allowed() {
        for (name, value, allowed) in [
            ("AGENT_ID", "", "a UUID"),
            ("AGENT_ID", "7", "a UUID"),
            ("AGENT_TYPE", "", "a slug"),
            ("AGENT_TYPE", "CEO", "a slug"),
            ("AGENT_TYPE", "9a", "a slug"),
            ("AGENT_TYPE", "a-very-long-type-of-agent-indeed-x", "a slug"),
            ("AGENT_INCARNATION", "", "from 1"),
            ("AGENT_INCARNATION", "0", "from 1"),
            ("AGENT_INCARNATION", "-1", "from 1"),
            ("LOOP_INTERVAL", "0", "from 1"),
            ("LOOP_INTERVAL", "abc", "from 1"),
            ("LOOP_INTERVAL", "1.5", "from 1"),
            ("HEARTBEAT_INTERVAL", "301", "to 300"),
            ("AGENT_GRACE", "0", "to 3600"),
            ("AGENT_IN_CONTAINER", "maybe", "1, true, 0 or false"),
            ("ORCHESTRATOR_SOCKET_DIR", "", "ORCHESTRATOR_URL"),
            ("THINKING", "hard", "rules, command"),
            ("THINKING", "command", "THINKING_COMMAND is not set"),
        ] {
            let ConfigError(faults) = read(&[(name, value)]).unwrap_err();
            assert_eq!(faults.len(), 1, "{name}={value}: {faults:?}");
            assert!(faults[0].contains(name) && faults[0].contains(allowed), "{name}={value}: {faults:?}");
        }
        let url = [("ORCHESTRATOR_SOCKET_DIR", ""), ("ORCHESTRATOR_URL", "https://a/b")];
        assert!(read(&url).unwrap_err().to_string().contains("http://host:port"));
    }

    #[test]
    fn all_faults_come_at_once() {
        let error = read(&[("AGENT_ID", "x"), ("AGENT_TYPE", "X"), ("LOOP_INTERVAL", "0")]).unwrap_err();
        assert_eq!(error.0.len(), 3, "{error}");
    }

    #[test]
    fn faults_of_the_command() {
        for (name, value) in [
            ("THINKING_COMMAND", "think"),
            ("THINKING_COMMAND", "[]"),
            ("THINKING_COMMAND", r#"[""]"#),
            ("THINKING_COMMAND", r#"["a", 1]"#),
            ("THINKING_TIMEOUT", "0"),
            ("THINKING_OUTPUT_CAP", "0"),
            ("THINKING_ENV", "A B"),
            ("THINKING_ENV", "1A"),
            ("THINKING_ENV", "A=B"),
            ("THINKING_ENV", "OK,AGENT_CREDENTIAL_FILE"),
            ("THINKING_ENV", "agent_credential"),
            ("THINKING_ENV", "SAME_VALUE"),
        ] {
            let error = read(&[
                ("THINKING", "command"),
                ("THINKING_COMMAND", r#"["think"]"#),
                ("AGENT_CREDENTIAL_FILE", "/c/credential"),
                ("SAME_VALUE", "/c/credential"),
                (name, value),
            ])
            .unwrap_err();
            assert!(error.0.len() == 1 && error.0[0].contains(name), "{name}={value}: {error}");
        }
    }
}
