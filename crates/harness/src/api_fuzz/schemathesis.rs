//! One call of schemathesis (4.32): its configuration, its command line, its end.
//!
//! Invariants: everything that it is told stands in the directory of the call, also the credential, which is on no
//! command line; it takes nothing from the environment; it never outlives the call.

use std::{
    fs,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    document::{Document, Operation},
    report::{EVENTS, OUTPUT, SUMMARY},
};
use crate::{Set, sandbox::AGENTS};

/// What each answer is held to.
const CHECKS: [&str; 10] = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    REJECTION,
    ACCEPTANCE,
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
];
/// The same where a credential is asked for.
const IGNORED_AUTH: &str = "ignored_auth";
/// That what the description does not allow is refused.
const REJECTION: &str = "negative_data_rejection";
/// That what the description allows is not refused as invalid.
const ACCEPTANCE: &str = "positive_data_acceptance";

/// What may be refused although the description allows it, because a description cannot say all that is wanted.
const UNSAYABLE: &[(&str, &str, &str)] = &[
    ("POST", "/tokens", "`expiresAt` lies in the future, and a seat is that of an agent that exists"),
    ("POST", "/agents/{type}/history", "`details` has so many bytes at most, and no text in it has a NUL"),
    ("GET", "/agents/{type}/history", CURSOR),
    ("GET", "/events", CURSOR),
    ("GET", "/agents/{type}/events", CURSOR),
    ("GET", "/ws", "it is a WebSocket handshake"),
    ("GET", "/agents/{type}/mailbox", CURSOR),
    ("GET", "/agents/{type}/state", CURSOR),
    ("PUT", "/agents/{type}/state/{key}", "`value` has so many bytes at most, and no text in it has a NUL"),
    ("GET", "/tasks", "`cursor` is one that an answer gave, and `assignedTo` an agent that exists"),
    ("POST", "/tasks", "`assignTo` is an agent that exists, and `dueDate` lies before the year 10000"),
    (
        "PATCH",
        "/tasks/{id}",
        "what is known is given, `assignTo` exists, `dueDate` lies before the year 10000",
    ),
    ("POST", "/tasks/claim", "`agent` is one that exists"),
    ("POST", "/tasks/{id}/complete", "`result` has so many bytes at most, and no text in it has a NUL"),
    ("GET", "/domains/whitelist", CURSOR),
    ("POST", "/domains/whitelist", DOMAIN),
    ("GET", "/domains/approval-requests", CURSOR),
    ("POST", "/domains/approval-requests", DOMAIN),
    ("GET", "/domains/check", DOMAIN),
    (
        "POST",
        "/settings/{category}/{key}",
        "what is known has values of its own, all others so many bytes at most",
    ),
    ("POST", "/settings/governance/{key}", "no key is known there"),
];
const CURSOR: &str = "`cursor` is one that an answer gave";
const DOMAIN: &str = "a domain is one that somebody can register, and `url` is its";
/// How a valid request may be answered everywhere: a key or a state that another call took is none of its faults.
const ACCEPTED: [&str; 6] = ["2xx", "401", "403", "404", "409", "412"];

/// How an invalid request may be answered: a text that is too long may make its path too long.
const REJECTED: [&str; 12] =
    ["400", "401", "403", "404", "405", "406", "409", "413", "414", "415", "422", "429"];

/// The configuration's name in the directory of a call.
const CONFIG: &str = "schemathesis.toml";

/// The description's name there.
const DESCRIPTION: &str = "openapi.json";

/// How long an answer may take, in seconds.
const ANSWER_SECONDS: u64 = 10;
/// The same for what is [`SLOW`]: more than the minute that a caller may wait for a message.
const SLOW_SECONDS: u64 = 75;
/// How long a stream of events is listened to, in seconds; it may well be silent.
const STREAM_SECONDS: u64 = 2;
/// After so many events a stream is left.
const STREAM_EVENTS: u64 = 2;
/// How often an agent that a case names is one that there is.
const KNOWN_AGENT: f64 = 0.9;

/// What waits for agents to start or to stop, measures them for a while, or waits for what comes.
const SLOW: [(&str, &str); 5] = [
    ("POST", "/agents/{type}/start"),
    ("POST", STOP),
    ("POST", "/agents/{type}/restart"),
    ("GET", "/agents/{type}/stats"),
    ("GET", MAILBOX),
];
const MAILBOX: &str = "/agents/{type}/mailbox";
const STOP: &str = "/agents/{type}/stop";
/// How many cases of chance these get at most where agents are containers, which take a second and more each time.
const FEW: u64 = 30;
/// Of the agents only these are stopped, so that others run when it is asked how they are.
const STOPPED: &[&str] = AGENTS.split_at(4).1;

const SETTING: &str = "/settings/{category}/{key}";
/// Categories of settings in which nothing is known, so that everything can be set.
const CATEGORIES: [&str; 2] = ["integrations", "mine"];
/// For how many seconds chance waits for messages.
const WAITS: [u64; 2] = [0, 1];

/// Which cases a call makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phases {
    /// Those of the description's examples and boundaries, those of chance, and sequences of calls.
    All,
    /// Those of chance alone.
    Chance,
}

/// One call.
pub(super) struct Call<'a> {
    pub(super) document: &'a Document,
    /// What is not tried, and why.
    pub(super) excluded: &'a [(Operation, &'static str)],
    pub(super) set: Set,
    /// The credential, where one is needed.
    pub(super) token: Option<&'a str>,
    pub(super) phases: Phases,
    /// At most so many cases of chance for each operation.
    pub(super) examples: u64,
    pub(super) seed: u64,
}

impl Call<'_> {
    /// Calls the program on the server at `address` with its reports in `dir`; nothing when it did not end in time.
    ///
    /// # Errors
    /// When it does not start, or `dir` cannot be written.
    pub(super) async fn run(
        &self,
        program: &Path,
        address: &str,
        dir: &Path,
        within: Duration,
    ) -> Result<Option<ExitStatus>, String> {
        let wrong = |why: std::io::Error| format!("cannot write into {}: {why}", dir.display());
        // Given to the child as paths that do not depend on where it runs.
        let dir = fs::canonicalize(dir).map_err(wrong)?;
        let config = toml::to_string(&self.config()).map_err(|why| why.to_string())?;
        fs::write(dir.join(CONFIG), config).map_err(wrong)?;
        fs::write(dir.join(DESCRIPTION), self.document.text()).map_err(wrong)?;
        let output = fs::File::create(dir.join(OUTPUT)).map_err(wrong)?;
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &dir).env("LC_ALL", "C.UTF-8").env("PYTHONUTF8", "1").current_dir(&dir);
        command.args(self.arguments(address));
        command.stdin(Stdio::null()).stdout(output.try_clone().map_err(wrong)?).stderr(output);
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| format!("cannot run {}: {why}", program.display()))?;
        match tokio::time::timeout(within, child.wait()).await {
            Ok(ended) => ended.map(Some).map_err(|why| format!("schemathesis is lost: {why}")),
            Err(_) => {
                // That it ended just now is as well.
                let _ = child.kill().await;
                Ok(None)
            }
        }
    }

    fn arguments(&self, address: &str) -> Vec<String> {
        let phases = match self.phases {
            Phases::All => "examples,coverage,fuzzing,stateful",
            Phases::Chance => "fuzzing",
        };
        let seed = self.seed.to_string();
        let checks = CHECKS.into_iter().chain(self.token.map(|_| IGNORED_AUTH));
        let checks = checks.collect::<Vec<_>>().join(",");
        // One worker: several would make the order of the calls a matter of chance that no seed decides.
        [
            "--config-file",
            CONFIG,
            "--no-color",
            "run",
            // As a file: from the server, the operation that serves it would be left out.
            DESCRIPTION,
            "--url",
            address.trim_end_matches('/'),
            "--phases",
            phases,
            "--checks",
            &checks,
            "--seed",
            &seed,
            "--workers",
            "1",
            "--continue-on-failure",
            "--report",
            "json,ndjson",
            "--report-json-path",
            SUMMARY,
            "--report-ndjson-path",
            EVENTS,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "cache": {"enabled": false},
            // A command that repeats a case needs all of it; what a token opens is gone when the run ends.
            "output": {"sanitization": {"enabled": false}},
            // A credential that is made up is refused, also where none is asked for.
            "generation": {
                "database": "none",
                "max-examples": self.examples,
                "with-security-parameters": self.token.is_some(),
            },
            "checks": {
                ACCEPTANCE: {"expected-statuses": ACCEPTED},
                REJECTION: {"expected-statuses": REJECTED},
            },
            "request-timeout": ANSWER_SECONDS,
            "max-stream-events": STREAM_EVENTS,
            "dictionaries": {
                "agents": {"values": AGENTS},
                "stopped": {"values": STOPPED},
                "waits": {"values": WAITS},
                "categories": {"values": CATEGORIES},
                "any-state": {"values": ["*"]},
            },
            "parameters": agent_of("agents"),
            "operations": self.operations(),
        });
        if let Some(token) = self.token {
            config["headers"] = json!({"Authorization": format!("Bearer {token}")});
        }
        config
    }

    /// What holds for single operations.
    fn operations(&self) -> Vec<Value> {
        let mut operations = Vec::new();
        for (operation, _) in self.excluded {
            operations.push(only(operation, json!({"enabled": false})));
        }
        for (method, path, _) in UNSAYABLE.iter().filter(|(method, path, _)| self.document.has(method, path))
        {
            let operation = Operation::new(method, path);
            operations
                .push(only(&operation, json!({"checks": accepted(&[&ACCEPTED[..], &["422"]].concat())})));
        }
        if self.document.has("POST", SETTING) {
            // Else nearly all are of known categories, or in a state that was never reached.
            let parameters = json!({
                "path.category": {"dictionary": "categories", "probability": 0.5},
                "header.If-Match": {"dictionary": "any-state", "probability": 0.5},
            });
            operations.push(only(&Operation::new("POST", SETTING), json!({"parameters": parameters})));
        }
        for operation in self.document.streams() {
            operations.push(only(operation, json!({"request-timeout": STREAM_SECONDS})));
        }
        for (method, path) in SLOW.into_iter().filter(|(method, path)| self.document.has(method, path)) {
            let mut setting = json!({"request-timeout": SLOW_SECONDS});
            if self.set == Set::Servers {
                setting["generation"] = json!({"max-examples": self.examples.min(FEW)});
            }
            if path == STOP {
                setting["parameters"] = agent_of("stopped");
            }
            if path == MAILBOX {
                setting["parameters"] = json!({"query.wait": {"dictionary": "waits", "probability": 1.0}});
            }
            operations.push(only(&Operation::new(method, path), setting));
        }
        operations
    }
}

/// How a valid request may be answered.
fn accepted(statuses: &[&str]) -> Value {
    json!({ACCEPTANCE: {"expected-statuses": statuses}})
}

/// That the agent in a path is mostly one of this dictionary.
fn agent_of(dictionary: &str) -> Value {
    json!({"path.type": {"dictionary": dictionary, "probability": KNOWN_AGENT}})
}

/// A setting for one operation. By its whole name: with a path and a method it would hold for everything that has the
/// one or the other.
fn only(operation: &Operation, mut setting: Value) -> Value {
    setting["include-name"] = json!(operation.to_string());
    setting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        let text = r#"{"paths":{"/logs":{"get":{"responses":{"200":{"content":{"text/event-stream":{}}}}}},
            "/tokens/{id}":{"delete":{}},"/agents/{type}/start":{"post":{}},"/agents/{type}/stop":{"post":{}}}}"#;
        Document::read(text).unwrap()
    }

    fn call<'a>(document: &'a Document, excluded: &'a [(Operation, &'static str)]) -> Call<'a> {
        let token = Some("aito_secret");
        Call { document, excluded, set: Set::Servers, token, phases: Phases::All, examples: 40, seed: 9 }
    }

    #[test]
    fn the_credential_is_in_the_configuration_and_on_no_command_line() {
        let document = document();
        let call = call(&document, &[]);
        assert!(call.arguments("http://127.0.0.1:1/").iter().all(|argument| !argument.contains("secret")));
        assert_eq!(call.config()["headers"]["Authorization"], "Bearer aito_secret");
        let none = Call { token: None, ..call };
        assert!(none.config().get("headers").is_none());
    }

    #[test]
    fn only_where_a_credential_is_asked_for_it_is_tried_without() {
        let document = document();
        let asked = call(&document, &[]);
        let checks = |call: &Call<'_>| call.arguments("http://127.0.0.1:1/").join(" ").contains(IGNORED_AUTH);
        let makes_up = |call: &Call<'_>| call.config()["generation"]["with-security-parameters"].clone();
        assert!(checks(&asked) && makes_up(&asked) == true);
        let open = Call { token: None, ..asked };
        assert!(!checks(&open) && makes_up(&open) == false);
    }

    #[test]
    fn what_a_description_cannot_say_is_excused_by_name_and_nothing_else_is() {
        let document = Document::read(r#"{"paths":{"/tokens":{"get":{},"post":{}}}}"#).unwrap();
        let config = call(&document, &[]).config();
        let everywhere = config["checks"][ACCEPTANCE]["expected-statuses"].as_array().unwrap();
        assert!(!everywhere.contains(&json!("422")));
        let operations = config["operations"].as_array().unwrap();
        assert_eq!(operations.len(), 1);
        assert_eq!(operations[0]["include-name"], "POST /tokens");
        let there = operations[0]["checks"][ACCEPTANCE]["expected-statuses"].as_array().unwrap();
        assert!(there.contains(&json!("422")) && there.len() == everywhere.len() + 1);
    }

    #[test]
    fn the_command_line_names_address_seed_and_phases() {
        let document = document();
        let all = call(&document, &[]);
        let has = |call: &Call<'_>, pair: [&str; 2]| {
            call.arguments("http://127.0.0.1:1/").windows(2).any(|found| found == pair)
        };
        assert!(has(&all, ["run", DESCRIPTION]) && has(&all, ["--url", "http://127.0.0.1:1"]));
        assert!(has(&all, ["--seed", "9"]));
        assert!(has(&all, ["--phases", "examples,coverage,fuzzing,stateful"]));
        assert!(has(&Call { phases: Phases::Chance, ..all }, ["--phases", "fuzzing"]));
    }

    #[test]
    fn the_configuration_is_one_that_toml_can_say() {
        let (document, excluded) = (document(), [(Operation::new("DELETE", "/tokens/{id}"), "because")]);
        let text = toml::to_string(&call(&document, &excluded).config()).unwrap();
        let back: toml::Table = text.parse().unwrap();
        assert_eq!(back["parameters"]["path.type"]["dictionary"].as_str(), Some("agents"));
        assert_eq!(back["generation"]["max-examples"].as_integer(), Some(40));
        let operations = back["operations"].as_array().unwrap();
        let of =
            |name: &str| operations.iter().find(|one| one["include-name"].as_str() == Some(name)).unwrap();
        assert_eq!(of("DELETE /tokens/{id}")["enabled"].as_bool(), Some(false));
        assert_eq!(of("GET /logs")["request-timeout"].as_integer(), Some(2));
        let stop = of("POST /agents/{type}/stop");
        assert_eq!(stop["generation"]["max-examples"].as_integer(), Some(30));
        assert_eq!(stop["parameters"]["path.type"]["dictionary"].as_str(), Some("stopped"));
        assert!(of("POST /agents/{type}/start").get("parameters").is_none());
    }
}
