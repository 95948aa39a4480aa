//! The documented examples, run by the program that documents and scrapers use: `curl`.
//!
//! Invariants: a command is run as it is documented, with the server's address and real ids put in; every field of a
//! documented answer is there with its documented type and form. Decisions and benchmarks are not served yet: that their
//! examples answer 501 is asserted below, so that a path that begins to be served fails here until the tests of its own
//! area have taken its examples over.

mod curl;
mod work;

use std::collections::{BTreeMap, BTreeSet};

use aito_api::AgentStatus;
use aito_harness::{Sandbox, Server, Set, wait};
use serde_json::{Value, json};

use self::curl::Curl;
use crate::{SOON, credential, sandbox, sandbox_with_leaky_ceo, until_status};

/// What a value must be.
enum Form {
    /// This, exactly.
    Is(Value),
    /// One of these words.
    Word(&'static [&'static str]),
    Uuid,
    /// RFC 3339, UTC, exactly three decimals.
    Time,
    TimeOrNull,
    /// A whole number, 0 or more.
    Count,
    /// Text that is not empty and ends so.
    Ends(&'static str),
    /// `aito-<type>-<6 characters>`.
    Container(&'static str),
}

const TYPES: &[&str] = &["ceo", "cmo", "cto", "cfo", "coo", "cco", "dao"];
const STATUSES: &[&str] = &["inactive", "starting", "active", "stopping", "error"];
const CONTAINER: &[&str] = &["running", "exited", "missing", "unknown"];

/// A call, its documented answer word for word, and what each of its values means.
struct Example {
    call: (&'static str, &'static str),
    documented: &'static str,
    forms: Vec<(&'static str, Form)>,
}

fn example(
    method: &'static str,
    path: &'static str,
    documented: &'static str,
    forms: impl IntoIterator<Item = (&'static str, Form)>,
) -> Example {
    Example { call: (method, path), documented, forms: forms.into_iter().collect() }
}

/// Answers while `ceo` and `cmo` are active.
fn examples() -> Vec<Example> {
    use Form::{Container, Count, Ends, Is, Time, TimeOrNull, Uuid, Word};
    let is = |value: Value| Is(value);
    let events = r#"{"events":[{"id":"evt-123","eventType":"agent_started","sourceAgent":"abc-123",
        "payload":{"agentType":"ceo"},"createdAt":"2025-12-20T10:00:00.000Z"}]}"#;
    let event = |agents: &'static [&'static str]| {
        [
            ("/events/*/id", Uuid),
            ("/events/*/eventType", Is(json!("agent_started"))),
            ("/events/*/sourceAgent", Uuid),
            ("/events/*/payload/agentType", Word(agents)),
            ("/events/*/createdAt", Time),
        ]
    };
    vec![
        example(
            "GET",
            "/health",
            r#"{"status":"ok","timestamp":"2025-12-20T10:00:00.000Z"}"#,
            [("/status", is(json!("ok"))), ("/timestamp", Time)],
        ),
        example(
            "GET",
            "/ready",
            r#"{"ready":true,"checks":{"database":"ok","redis":"ok"}}"#,
            [
                ("/ready", is(json!(true))),
                ("/checks/database", is(json!("ok"))),
                ("/checks/redis", is(json!("ok"))),
            ],
        ),
        example(
            "GET",
            "/health/full",
            r#"{"status":"healthy","uptime":86400,"components":{"database":{"status":"healthy","latency":5},
                "redis":{"status":"healthy","latency":2},"agents":{"ceo":{"status":"active","lastHeartbeat":"..."},
                "cmo":{"status":"active","lastHeartbeat":"..."}}}}"#,
            [
                ("/status", is(json!("healthy"))),
                ("/uptime", Count),
                ("/components/database/status", is(json!("healthy"))),
                ("/components/database/latency", Count),
                ("/components/redis/status", is(json!("healthy"))),
                ("/components/redis/latency", Count),
                ("/components/agents/ceo/status", is(json!("active"))),
                ("/components/agents/ceo/lastHeartbeat", Time),
                ("/components/agents/cmo/status", is(json!("active"))),
                ("/components/agents/cmo/lastHeartbeat", Time),
            ],
        ),
        example(
            "GET",
            "/agents",
            LIST,
            [
                ("/agents/*/id", Uuid),
                ("/agents/*/type", Word(TYPES)),
                ("/agents/*/name", Ends(" Agent")),
                ("/agents/*/status", Word(STATUSES)),
                ("/agents/*/loopInterval", Count),
                ("/agents/*/lastHeartbeat", TimeOrNull),
                ("/agents/*/containerStatus", Word(CONTAINER)),
            ],
        ),
        example(
            "GET",
            "/agents?status=active",
            LIST,
            [
                ("/agents/*/id", Uuid),
                ("/agents/*/type", Word(&["ceo", "cmo"])),
                ("/agents/*/name", Ends(" Agent")),
                ("/agents/*/status", is(json!("active"))),
                ("/agents/*/loopInterval", Count),
                ("/agents/*/lastHeartbeat", Time),
                ("/agents/*/containerStatus", is(json!("running"))),
            ],
        ),
        example(
            "GET",
            "/agents/ceo",
            r#"{"id":"abc-123","type":"ceo","name":"CEO Agent","status":"active","profilePath":"/profiles/ceo.md",
                "loopInterval":1800,"lastHeartbeat":"2025-12-20T10:00:00.000Z","loopCount":42,
                "lastLoopAt":"2025-12-20T09:30:00.000Z","currentFocus":"strategic planning",
                "containerStatus":"running","containerId":"aito-ceo-abc123"}"#,
            [
                ("/id", Uuid),
                ("/type", is(json!("ceo"))),
                ("/name", is(json!("CEO Agent"))),
                ("/status", is(json!("active"))),
                ("/profilePath", Ends("ceo.md")),
                ("/loopInterval", is(json!(1800))),
                ("/lastHeartbeat", Time),
                ("/loopCount", is(json!(42))),
                ("/lastLoopAt", is(json!("2025-12-20T09:30:00.000Z"))),
                ("/currentFocus", is(json!("strategic planning"))),
                ("/containerStatus", is(json!("running"))),
                ("/containerId", Container("ceo")),
            ],
        ),
        example(
            "GET",
            "/agents/ceo/history?limit=50",
            r#"{"history":[{"id":"hist-123","actionType":"decision","summary":"Approved marketing campaign",
                "createdAt":"2025-12-20T09:00:00.000Z"}]}"#,
            [
                ("/history/*/id", Uuid),
                ("/history/*/actionType", is(json!("decision"))),
                ("/history/*/summary", is(json!("Approved marketing campaign"))),
                ("/history/*/createdAt", Time),
            ],
        ),
        example("GET", "/events?limit=100&type=agent_started", events, event(&["ceo", "cmo"])),
        // Of one agent there is no filter by type; its newest event is that it has started.
        example("GET", "/agents/cmo/events?limit=1", events, event(&["cmo"])),
        // The container is there already, and a start of what runs is a success.
        example(
            "POST",
            "/agents/ceo/start",
            STARTED,
            [
                ("/success", is(json!(true))),
                ("/message", is(json!("Agent ceo started"))),
                ("/containerId", Container("ceo")),
            ],
        ),
        example(
            "POST",
            "/agents/ceo/restart",
            STARTED,
            [
                ("/success", is(json!(true))),
                ("/message", is(json!("Agent ceo restarted"))),
                ("/containerId", Container("ceo")),
            ],
        ),
        example(
            "POST",
            "/agents/ceo/stop",
            r#"{"success":true,"message":"Agent ceo stopped"}"#,
            [("/success", is(json!(true))), ("/message", is(json!("Agent ceo stopped")))],
        ),
    ]
}

const LIST: &str = r#"{"agents":[{"id":"abc-123","type":"ceo","name":"CEO Agent","status":"active",
    "loopInterval":1800,"lastHeartbeat":"2025-12-20T10:00:00.000Z","containerStatus":"running"}]}"#;
const STARTED: &str = r#"{"success":true,"message":"Agent ceo started","containerId":"aito-ceo-abc123"}"#;

/// The documented uses, word for word, with what they answer to who may do everything, and to an operator.
const USES: &[(&str, u16, u16)] = &[
    ("curl -X POST http://localhost:8080/agents/cmo/start", 200, 200),
    ("curl http://localhost:8080/decisions/pending", 501, 501),
    (
        "curl -X POST http://localhost:8080/decisions/dec-123/vote \\\n  \
         -H \"Content-Type: application/json\" \\\n  \
         -d '{\"voterType\": \"ceo\", \"vote\": \"approve\"}'",
        501,
        // A seat is part of no role.
        403,
    ),
    (
        "curl -X POST http://localhost:8080/settings/queue/delay_critical \\\n  \
         -H \"Content-Type: application/json\" \\\n  \
         -d '{\"value\": 0}'",
        200,
        200,
    ),
];

/// The other documented calls whose paths are not served yet.
const NOT_YET: &[(&str, &str)] = &[
    ("GET", "/decisions?status=pending&limit=50&offset=0"),
    ("POST", "/decisions/dec-123/escalate"),
    ("POST", "/benchmark/run"),
    ("GET", "/benchmark/runs"),
    ("GET", "/benchmark/runs/bench-123"),
];

pub(crate) async fn the_documented_examples_work_as_they_stand(set: Set) {
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    let nothing = Curl { at: server.address().to_owned(), token: None };
    run(&sandbox, &server, &nothing, &nothing, |open, _| open).await;
    // What only a human may is open here too.
    assert_eq!(nothing.ask("POST", "/decisions/dec-123/resolve").status, 501);
}

pub(crate) async fn the_documented_examples_work_with_a_token(set: Set) {
    let mut sandbox = sandbox_with_leaky_ceo(set);
    sandbox.no_auth = false;
    let server = sandbox.start().await;
    let with = |token: String| Curl { at: server.address().to_owned(), token: Some(token) };
    let first = with(sandbox.first_token());
    let viewer = with(first.made("dashboard", "viewer"));
    let operator = with(first.made("ops", "operator"));
    run(&sandbox, &server, &viewer, &operator, |_, operator| operator).await;
    let human = with(first.made("owner", "human"));
    assert_eq!(human.ask("POST", "/decisions/dec-123/resolve").status, 501);
    // Without the token none of it works but what is public.
    let nothing = Curl { at: server.address().to_owned(), token: None };
    for Example { call: (method, path), .. } in examples() {
        let public = ["/health", "/ready"].contains(&path);
        assert_eq!(nothing.ask(method, path).status, if public { 200 } else { 401 }, "{method} {path}");
    }
    for (command, ..) in USES {
        assert_eq!(nothing.run(command).status, 401, "{command}");
    }
    work::is_for_nobody(&nothing);
}

async fn run(
    sandbox: &Sandbox,
    server: &Server,
    reads: &Curl,
    acts: &Curl,
    wanted: impl Fn(u16, u16) -> u16,
) {
    let client = match &reads.token {
        Some(token) => server.client_with(token),
        None => server.client(),
    };
    wait::until("all agents", SOON, async || {
        (client.agents(None).await.ok()?.agents.len() == 7).then_some(())
    })
    .await;
    // As it is documented: one agent is started with nothing but this.
    let started = acts.run(USES[0].0).json();
    assert_eq!(started["message"], "Agent cmo started");
    assert_eq!(acts.ask("POST", "/agents/ceo/start").status, 200);
    // What the agent says of itself, as the examples show it.
    let itself = Curl { at: "http://localhost".to_owned(), token: Some(credential(sandbox, 1).await) };
    for (path, body, status) in [
        (
            "/agents/ceo/heartbeat",
            json!({"loopCount": 42, "currentFocus": "strategic planning", "lastLoopAt": "2025-12-20T09:30:00Z"}),
            200,
        ),
        (
            "/agents/ceo/history",
            json!({"actionType": "decision", "summary": "Approved marketing campaign"}),
            201,
        ),
    ] {
        let said = itself.run(&format!(
            "curl --unix-socket {} -X POST http://localhost:8080{path} -H 'Content-Type: application/json' -d '{body}'",
            sandbox.socket().display()
        ));
        assert_eq!(said.status, status, "{}", said.body);
    }
    for agent in ["ceo", "cmo"] {
        until_status(&client, agent, AgentStatus::Active).await;
    }
    let mut names = BTreeMap::new();
    for example in examples() {
        let (method, path) = example.call;
        let caller = if method == "GET" { reads } else { acts };
        let answer = caller.ask(method, path);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {path}");
        let body = answer.json();
        example.check(&body);
        names.insert(path, body["containerId"].clone());
        if path == "/agents" {
            let found: Vec<_> =
                body["agents"].as_array().unwrap().iter().map(|agent| &agent["type"]).collect();
            assert_eq!(
                found,
                TYPES.iter().map(|name| json!(name)).collect::<Vec<_>>().iter().collect::<Vec<_>>()
            );
        }
    }
    assert_eq!(names["/agents/ceo"], names["/agents/ceo/start"], "what runs is not started again");
    assert_ne!(names["/agents/ceo/start"], names["/agents/ceo/restart"], "new at every restart");
    for (command, open, operator) in USES {
        let answer = acts.run(command);
        assert_eq!(answer.status, wanted(*open, *operator), "{command}: {}", answer.body);
    }
    work::run(reads, acts);
    for (method, path) in NOT_YET {
        let answer = acts.ask(method, path);
        assert_eq!(
            answer.status, 501,
            "{method} {path} is served: its example belongs to the tests of its area"
        );
    }
}

/// Listeners were let in without a credential, pages of every site could read, nobody was ever slowed down, and what
/// was signed with a known key passed for a credential.
pub(crate) async fn sockets_want_a_credential_other_sites_get_nothing_and_floods_are_slowed(set: Set) {
    let mut sandbox = sandbox(set);
    sandbox.no_auth = false;
    let server = sandbox.start().await;
    let nothing = Curl { at: server.address().to_owned(), token: None };
    let first = Curl { at: server.address().to_owned(), token: Some(sandbox.first_token()) };
    let viewer = Curl { at: server.address().to_owned(), token: Some(first.made("dashboard", "viewer")) };
    let handshake = "-m 2 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
                     -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='";
    let socket = format!("curl {handshake} http://localhost:8080/ws");
    assert_eq!(nothing.run(&socket).status, 401);
    assert_eq!(viewer.run(&socket).status, 101);
    for ticket in ["", "x", "aito-ticket.x.y"] {
        assert_eq!(
            nothing.run(&format!("curl {handshake} 'http://localhost:8080/ws?ticket={ticket}'")).status,
            401
        );
    }
    // {"alg":"HS256","typ":"JWT"} and {"alg":"none"} with {"role":"anon"}: nobody was told to believe any key.
    for forged in [
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoiYW5vbiJ9.dGhlIHNpZ25hdHVyZSBvZiBub2JvZHkgYXQgYWxsLi4u",
        "eyJhbGciOiJub25lIn0.eyJyb2xlIjoiYW5vbiJ9.",
    ] {
        let curl = Curl { at: server.address().to_owned(), token: Some(forged.to_owned()) };
        assert_eq!(curl.ask("GET", "/agents").status, 401);
        assert_eq!(curl.run(&socket).status, 401);
    }
    let other = "-H 'Origin: https://evil.example'";
    let preflight = format!(
        "curl -X OPTIONS {other} -H 'Access-Control-Request-Method: POST' \
         -H 'Access-Control-Request-Headers: authorization' http://localhost:8080/agents/ceo/start"
    );
    for (curl, command) in [
        (&nothing, format!("curl {other} http://localhost:8080/health")),
        (&nothing, format!("curl {other} http://localhost:8080/agents")),
        (&nothing, preflight.clone()),
        (&viewer, format!("curl {other} http://localhost:8080/agents")),
        (&viewer, format!("curl -X POST {other} http://localhost:8080/agents/ceo/start")),
        (&viewer, format!("curl {other} {handshake} http://localhost:8080/ws")),
    ] {
        let answer = curl.run(&command);
        assert_eq!(answer.header("access-control-allow-origin"), None, "{command}");
        assert_eq!(answer.header("access-control-allow-credentials"), None, "{command}");
    }
    assert_eq!(viewer.run(&format!("curl {other} {handshake} http://localhost:8080/ws")).status, 403);
    assert_eq!(
        viewer.run(&format!("curl -X POST {other} http://localhost:8080/agents/ceo/start")).status,
        403
    );
    drop(server);

    // Bounds are there without anybody setting them, and they are kept.
    sandbox.env.retain(|name, _| !name.starts_with("AITO_LIMITS__"));
    let server = sandbox.start().await;
    let bounded = Curl { at: server.address().to_owned(), token: viewer.token.clone() };
    let limit: u32 = bounded.ask("GET", "/agents").header("ratelimit-limit").unwrap().parse().unwrap();
    assert!(limit < 10_000, "{limit}");
    drop(server);
    sandbox.env.extend([
        ("AITO_LIMITS__RATE".to_owned(), "1".to_owned()),
        ("AITO_LIMITS__BURST".to_owned(), "5".to_owned()),
    ]);
    for token in [viewer.token.clone(), None] {
        // Another server each time: looking a token up counts for the address as well.
        let server = sandbox.start().await;
        let curl = Curl { at: server.address().to_owned(), token };
        // In one run of the program, so that all are asked within a second.
        let statuses = curl.statuses("/agents", 20);
        let let_in = if curl.token.is_some() { "200" } else { "401" };
        assert!(statuses.iter().all(|status| [let_in, "429"].contains(&status.as_str())), "{statuses:?}");
        assert_eq!(statuses[..5], vec![let_in; 5], "{statuses:?}");
        assert!(statuses.contains(&"429".to_owned()), "{statuses:?}");
        let refused = wait::until("a refusal", SOON, async || {
            let answer = curl.ask("GET", "/agents");
            (answer.status == 429).then_some(answer)
        })
        .await;
        assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        assert_eq!(refused.json()["status"], 429);
    }
}

/// A scraper shows a plain bearer token; it was refused because it was no user's.
pub(crate) async fn a_scraper_reads_metrics_with_a_viewers_token_and_nobody_without(set: Set) {
    let mut sandbox = sandbox(set);
    sandbox.no_auth = false;
    let server = sandbox.start().await;
    let curl = |token| Curl { at: server.address().to_owned(), token };
    let first = curl(Some(sandbox.first_token()));
    let scraper = curl(Some(first.made("prometheus", "viewer")));
    let accept =
        "-H 'Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4'";
    let read = scraper.run(&format!("curl {accept} http://localhost:8080/metrics"));
    assert_eq!(read.status, 200);
    assert!(read.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(read.body.contains("# TYPE aito_http_requests counter"), "{}", read.body);
    assert!(read.body.ends_with("# EOF\n"));
    assert_eq!(curl(None).ask("GET", "/metrics").status, 401);
    let nothing = curl(Some(first.made("nothing", "")));
    let refused = nothing.ask("GET", "/metrics");
    assert_eq!(refused.status, 403);
    assert!(refused.json()["scope"].as_str().unwrap().contains("the role viewer"), "{}", refused.body);
}

/// An id that was no UUID was a failure of the server, and some answers were written in another case than the rest.
pub(crate) async fn ids_of_any_form_are_unknown_and_json_is_camel_case_everywhere(set: Set) {
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    let curl = Curl { at: server.address().to_owned(), token: None };
    assert_eq!(curl.ask("POST", "/agents/ceo/start").status, 200);
    credential(&sandbox, 1).await;
    for id in [
        "dec-123",
        "1",
        "0",
        "-1",
        "null",
        "undefined",
        "%00",
        "%27%20OR%201=1",
        "%F0%9F%92%A9",
        &"9".repeat(400),
    ] {
        for (method, path) in [
            ("DELETE", "/tokens/{}"),
            ("POST", "/tokens/{}/rotate"),
            ("GET", "/agents/{}"),
            ("GET", "/tasks/{}"),
            ("POST", "/tasks/{}/complete"),
            ("POST", "/tasks/{}/cancel"),
            ("DELETE", "/domains/{}"),
            ("POST", "/domains/approval-requests/{}/approve"),
            ("POST", "/domains/approval-requests/{}/reject"),
            ("POST", "/agents/ceo/mailbox/{}/ack"),
        ] {
            let answer = curl.ask(method, &path.replace("{}", id));
            assert_eq!((answer.status, &answer.json()["status"]), (404, &json!(404)), "{method} {path} {id}");
        }
        assert_eq!(curl.ask("GET", &format!("/decisions/{id}")).status, 501, "{id}");
    }
    for made in work::all_made(&curl) {
        assert_camel(&made, "what was made");
    }
    for path in [
        "/health",
        "/ready",
        "/health/full",
        "/agents",
        "/agents/ceo",
        "/agents/ceo/health",
        "/agents/ceo/spec",
        "/agents/ceo/stats",
        "/agents/ceo/logs",
        "/agents/ceo/history",
        "/agents/ceo/events",
        "/containers",
        "/events",
        "/tokens",
        "/audit",
        "/tasks",
        "/agents/ceo/state",
        "/agents/ceo/mailbox",
        "/domains/whitelist",
        "/domains/approval-requests?status=approved",
        "/domains/check?domain=example.com",
        "/settings",
        // And refusals.
        "/nowhere",
        "/agents?limit=0",
        "/decisions",
    ] {
        let answer = curl.ask("GET", path);
        assert!([200, 404, 422, 501].contains(&answer.status), "{path}: {}", answer.body);
        assert_camel(&answer.json(), path);
    }
    let made = curl.made_whole("dashboard", "viewer");
    assert_camel(&made, "POST /tokens");
    assert_camel(&curl.ask("POST", "/ws/tickets").json(), "POST /ws/tickets");
    assert_camel(&curl.ask("POST", "/agents/ceo/restart").json(), "POST restart");
    // What an answer may have beyond those above stands in the description.
    let document = curl.ask("GET", "/openapi.json").json();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert!(schemas.len() > 10);
    for (name, schema) in schemas {
        for property in schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key) {
            assert!(is_camel(property), "{property} of {name}");
        }
    }
}

impl Example {
    fn check(&self, found: &Value) {
        let documented: Value = serde_json::from_str(self.documented).unwrap();
        let mut leaves = BTreeSet::new();
        collect_leaves(&documented, "", &mut leaves);
        let named: BTreeSet<String> = self.forms.iter().map(|(pointer, _)| (*pointer).to_owned()).collect();
        assert_eq!(named, leaves, "every documented field, and no other");
        for (pointer, form) in &self.forms {
            let values = all_at(found, pointer);
            assert!(!values.is_empty(), "{:?}: {pointer} is missing in {found}", self.call);
            for value in values {
                assert!(form.fits(value), "{:?}: {pointer} is {value}", self.call);
            }
        }
    }
}

/// The places of all values that hold no others; `*` stands for each of a list.
fn collect_leaves(value: &Value, at: &str, leaves: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| collect_leaves(value, &format!("{at}/{key}"), leaves));
        }
        Value::Array(all) => all.iter().for_each(|value| collect_leaves(value, &format!("{at}/*"), leaves)),
        _ => _ = leaves.insert(at.to_owned()),
    }
}

/// Every value at a place; empty when one of them is missing.
fn all_at<'a>(value: &'a Value, pointer: &str) -> Vec<&'a Value> {
    let Some((before, after)) = pointer.split_once("/*") else {
        return value.pointer(pointer).into_iter().collect();
    };
    let all = value.pointer(before).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let found: Vec<_> = all.iter().map(|one| all_at(one, after)).collect();
    if found.iter().any(Vec::is_empty) { Vec::new() } else { found.concat() }
}

impl Form {
    fn fits(&self, value: &Value) -> bool {
        let text = value.as_str();
        match self {
            Self::Is(wanted) => value == wanted,
            Self::Word(words) => text.is_some_and(|text| words.contains(&text)),
            Self::Uuid => text.is_some_and(|text| uuid::Uuid::parse_str(text).is_ok() && text.len() == 36),
            Self::Time => text.is_some_and(is_time),
            Self::TimeOrNull => value.is_null() || text.is_some_and(is_time),
            Self::Count => value.is_u64(),
            Self::Ends(end) => text.is_some_and(|text| text.len() > end.len() && text.ends_with(end)),
            Self::Container(agent) => text
                .and_then(|text| text.strip_prefix(&format!("aito-{agent}-")))
                .is_some_and(|code| code.len() == 6 && code.bytes().all(|b| b.is_ascii_alphanumeric())),
        }
    }
}

fn is_time(text: &str) -> bool {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    form == "0000-00-00T00:00:00.000Z"
}

/// Every key of an answer; what a map's keys name (agents, variables) is data and of no case.
fn assert_camel(value: &Value, at: &str) {
    match value {
        Value::Object(fields) => {
            let maps = ["/components/agents", "/spec/env", "/settings/settings", "/settings/etags"];
            let within = ["/settings/settings/", "/settings/etags/"];
            let is_map =
                maps.iter().any(|map| at.ends_with(map)) || within.iter().any(|map| at.contains(map));
            for (key, value) in fields {
                assert!(is_map || is_camel(key), "{key} at {at}");
                assert_camel(value, &format!("{at}/{key}"));
            }
        }
        Value::Array(all) => all.iter().for_each(|value| assert_camel(value, &format!("{at}/*"))),
        _ => {}
    }
}

fn is_camel(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_lowercase()) && key.bytes().all(|b| b.is_ascii_alphanumeric())
}
