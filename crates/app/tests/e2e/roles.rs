//! Who may do what: every operation of the API, asked by everybody.
//!
//! Invariants: the tables are written from the HTTP contract (sections Roles and Conventions), not from the
//! code; an operation without a row fails, and so does a row without an operation; a refusal has no effect.

mod table;

use std::collections::{BTreeMap, BTreeSet};

use aito_api::ProblemKind;
use aito_client::{Client, Endpoint, Options, RawAnswer};
use aito_harness::{Sandbox, Server, Set, wait};
use serde_json::{Value, json};

use self::table::{BODIES, LATER, QUERIES, Row, SERVED};
use crate::{SOON, as_agent, get, post, refused, sandbox};

const ID: &str = "018f0000-0000-7000-8000-000000000000";
const TYPES: [&str; 2] = ["ceo", "cmo"];

pub(crate) async fn every_operation_is_for_those_whom_the_contract_names(set: Set) {
    let mut sandbox = sandbox(set);
    sandbox.no_auth = false;
    configure(&sandbox);
    let server = sandbox.start().await;
    let company = Company::founded(&sandbox, &server).await;
    assert_complete(&get(&server.client(), "/openapi.json").await.json().unwrap());
    let tokens_before = company.tokens().await;
    company.ask_all().await;
    // What was refused had no effect: the token that all of it was aimed at is as it was, and each that is new was
    // made by one who may.
    let victim = server.client_with(&company.victim.secret);
    assert_eq!(get(&victim, "/agents").await.status, 200);
    let mine = |tokens: &BTreeMap<String, Value>| tokens[&company.victim.id]["etag"].clone();
    let tokens = company.tokens().await;
    assert_eq!(mine(&tokens), mine(&tokens_before));
    let by_test = |tokens: &BTreeMap<String, Value>| {
        tokens.values().filter(|token| token["createdBy"] == "token:first").count()
    };
    // Two callers may make, rotate and end tokens: the admin and the first token, who made each for those to come.
    let made_by_admin = tokens.values().filter(|token| token["createdBy"] == "token:admin").count();
    assert_eq!((made_by_admin, by_test(&tokens) - by_test(&tokens_before)), (1, 5));
    for agent in TYPES {
        let found = get(&victim, &format!("/agents/{agent}")).await.json().unwrap();
        assert_eq!(found["incarnation"], if agent == "ceo" { 2 } else { 1 }, "{found}");
        let history = get(&victim, &format!("/agents/{agent}/history")).await.json().unwrap();
        assert_eq!(history["history"].as_array().unwrap().len(), 1, "only its own: {history}");
        let notes = get(&victim, &format!("/agents/{agent}/state")).await.json().unwrap();
        assert_eq!(notes["state"][0]["etag"], "\"1\"", "written once, by itself: {notes}");
    }
    // The operator and the first token set one setting each; nobody else did.
    assert_eq!(get(&victim, "/settings").await.json().unwrap()["version"], 2);
}

pub(crate) async fn where_no_credential_is_asked_for_all_may_all_and_agents_stay_themselves(set: Set) {
    let sandbox = sandbox(set);
    configure(&sandbox);
    let server = sandbox.start().await;
    let first = server.client();
    until_all_agents(&first).await;
    for agent in TYPES {
        first.start(agent).await.unwrap();
    }
    let viewer = make(&first, "viewer", &["viewer"], None).await;
    let ceo = credential(&sandbox, "ceo", 1).await;
    let callers = [
        ("nobody", Shows::Open, server.client()),
        ("nobody at the agents' socket", Shows::Nothing, nobody(&sandbox)),
        ("garbage", Shows::Wrong(ProblemKind::Unauthorized), server.client_with("nonsense")),
        ("viewer", Shows::Token(&["viewer"]), server.client_with(&viewer.secret)),
        ("ceo", Shows::Agent("ceo"), server.client_with(&ceo)),
    ];
    let callers = callers.map(|(name, shows, client)| Caller { name, shows, client }).into();
    Company { callers, first, victim: viewer }.ask_all().await;
}

pub(crate) async fn the_page_of_the_description_is_everybodys(set: Set) {
    let mut sandbox = sandbox(set);
    sandbox.no_auth = false;
    let server = sandbox.start().await;
    for client in [server.client(), nobody(&sandbox)] {
        let page = get(&client, "/docs/").await;
        assert_eq!(page.status, 200);
        assert!(page.header("content-type").unwrap().starts_with("text/html"));
        refused(&get(&client, "/docs/nowhere").await, 404);
    }
}

pub(crate) async fn every_operation_refuses_what_is_wrong_as_documented(set: Set) {
    let sandbox = sandbox(set);
    configure(&sandbox);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let document = get(&client, "/openapi.json").await.json().unwrap();
    assert_complete(&document);
    let whitelist = get(&client, "/domains/whitelist").await.json().unwrap();
    other_methods_are_405(&client).await;
    unknown_objects_are_404(&client).await;
    wrong_bodies_say_where(&client, &document).await;
    wrong_queries_say_where(&client, &document).await;
    for (method, path, ..) in LATER {
        let answer = client.raw(method, &path_of(path, "ceo", "dec-123"), &[], None).await.unwrap();
        refused(&answer, 501);
    }
    let events = get(&client, "/events?type=token_created").await.json().unwrap();
    assert_eq!(get(&client, "/tokens").await.json().unwrap()["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(events["events"].as_array().unwrap().len(), 1, "the first only: {events}");
    assert_eq!(get(&client, "/agents/ceo/history").await.json().unwrap()["history"], json!([]));
    assert_eq!(client.agent("ceo").await.unwrap().last_heartbeat, None);
    assert_eq!(get(&client, "/domains/whitelist").await.json().unwrap(), whitelist);
    for (path, pointer, nothing) in [
        ("/tasks", "/total", json!(0)),
        ("/settings", "/version", json!(0)),
        ("/agents/ceo/mailbox", "/messages", json!([])),
        ("/agents/ceo/state", "/state", json!([])),
        ("/domains/approval-requests", "/requests", json!([])),
    ] {
        let body: Value = get(&client, path).await.json().unwrap();
        assert_eq!(body.pointer(pointer), Some(&nothing), "{path}");
    }
}

/// By method and path, what the description has.
fn described(document: &Value) -> BTreeMap<(String, String), Value> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        item.iter().map(move |(method, it)| ((method.to_uppercase(), path.clone()), it.clone()))
    });
    operations.collect()
}

fn assert_complete(document: &Value) {
    let owned = |rows: &[Row]| rows.iter().map(|row| (row.0.to_owned(), row.1.to_owned())).collect();
    let rows: BTreeSet<(String, String)> = owned(SERVED);
    let described: BTreeSet<_> = described(document).into_keys().collect();
    assert_eq!(rows, described, "the table and the description");
    let later: BTreeSet<(String, String)> = owned(LATER);
    assert_eq!(later.intersection(&described).next(), None, "served already");
    assert_eq!((rows.len(), later.len()), (SERVED.len(), LATER.len()), "a row twice");
}

async fn other_methods_are_405(client: &Client) {
    let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (method, path, ..) in SERVED.iter().chain(LATER) {
        let methods = known.entry(path).or_default();
        methods.insert(method);
        if *method == "GET" {
            methods.insert("HEAD");
        }
    }
    for (path, methods) in known {
        let at = path_of(path, "ceo", ID);
        let allow = |answer: &RawAnswer| -> BTreeSet<String> {
            answer.header("allow").unwrap_or_default().split(", ").map(str::to_owned).collect()
        };
        let wanted: BTreeSet<String> = methods.iter().map(|method| (*method).to_owned()).collect();
        for other in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            if methods.contains(other) {
                continue;
            }
            let answer = client.raw(other, &at, &[], None).await.unwrap();
            assert_eq!((answer.status, allow(&answer)), (405, wanted.clone()), "{other} {path}");
            if other != "HEAD" {
                refused(&answer, 405);
            }
        }
        let answer = client.raw("OPTIONS", &at, &[], None).await.unwrap();
        assert_eq!((answer.status, allow(&answer)), (204, wanted), "OPTIONS {path}");
    }
}

async fn unknown_objects_are_404(client: &Client) {
    for row in SERVED {
        let (method, path, ..) = row;
        for unknown in [ID, "xyz", "CEO", "dec-123", "1", "%00", "a%20b", "..%2fceo"] {
            // What is set where nobody knows it is stored: no setting is an unknown one.
            if path.contains('{') && !path.starts_with("/settings/") {
                let at = path_of(&path.replace("{domain}", unknown), unknown, unknown);
                let answer = send(client, row, &at, "ceo", "unknown").await;
                refused(&answer, 404);
            }
        }
        let below = format!("{}/no/where/here", path_of(path, "ceo", ID));
        refused(&client.raw(method, &below, &[], None).await.unwrap(), 404);
    }
}

async fn wrong_bodies_say_where(client: &Client, document: &Value) {
    let with_body = described(document).into_iter().filter(|(_, it)| it.get("requestBody").is_some());
    let with_body: BTreeSet<_> = with_body.map(|(at, _)| at).collect();
    let rows: BTreeSet<_> = BODIES.iter().map(|row| (row.0.to_owned(), row.1.to_owned())).collect();
    assert_eq!(rows, with_body, "the bodies and the description");
    let token = get(client, "/tokens").await.json().unwrap()["tokens"][0]["id"].clone();
    for (method, path, invalid, pointers, mistyped) in BODIES {
        let at = path_of(path, "ceo", token.as_str().unwrap());
        let send = async |kind: &str, body: &str| {
            client.raw(method, &at, &[("content-type", kind)], Some(body.into())).await.unwrap()
        };
        for garbage in ["{", "x", "{} {}", "\u{0}", "{'a':1}", "{\"a\":\"\u{1}\"}"] {
            refused(&send("application/json", garbage).await, 400);
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""] {
            refused(&send(kind, "{}").await, 415);
        }
        let mut found = refused(&send("application/json", invalid).await, 422);
        found.sort();
        assert_eq!(found, *pointers, "{path} {invalid}");
        let mistyped_at = refused(&send("application/json; charset=utf-8", mistyped).await, 422);
        assert_eq!(mistyped_at.len(), 1, "the first that was met: {path} {mistyped_at:?}");
        assert_eq!(refused(&send("application/json", "[]").await, 422), [""], "{path}");
        refused(&send("application/json", &format!("\"{}\"", "x".repeat(1 << 20))).await, 413);
    }
}

async fn wrong_queries_say_where(client: &Client, document: &Value) {
    let mut with_query = BTreeSet::new();
    for ((_, path), operation) in described(document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] == "query" {
                let name = parameter["name"].as_str().unwrap();
                let row = QUERIES.iter().find(|row| row.0 == path);
                let query = row.unwrap_or_else(|| panic!("no row for the query of {path}")).1;
                assert!(query.split('&').any(|pair| pair.starts_with(&format!("{name}="))), "{path} {name}");
                with_query.insert(path.clone());
            }
        }
    }
    assert_eq!(with_query, QUERIES.iter().map(|row| row.0.to_owned()).collect());
    for (path, query, pointers) in QUERIES {
        let at = format!("{}?{query}", path_of(path, "ceo", ID));
        let mut found = refused(&get(client, &at).await, 422);
        found.sort();
        assert_eq!(found, *pointers, "{at}");
    }
}

/// Two agents that hand their credentials out, and one to be started and stopped.
pub(crate) fn configure(sandbox: &Sandbox) {
    let to = sandbox.root().display();
    let mut text =
        "[agents.cto]\ngrace = 1\ncommand = [\"/bin/sh\", \"-c\", \"exec sleep 1000\"]\n".to_owned();
    for agent in TYPES {
        let file = format!("{to}/{agent}-");
        text += &format!(
            "[agents.{agent}]\ngrace = 1\ncommand = [\"/bin/sh\", \"-c\", '''cp \"$AGENT_CREDENTIAL_FILE\" {file}new; \
             mv {file}new {file}$AGENT_INCARNATION; exec sleep 1000''']\n"
        );
    }
    sandbox.configure(&text);
}

pub(crate) async fn credential(sandbox: &Sandbox, agent: &str, incarnation: u64) -> String {
    let file = sandbox.root().join(format!("{agent}-{incarnation}"));
    wait::until("the credential", SOON, async || std::fs::read_to_string(&file).ok()).await.trim().to_owned()
}

async fn until_all_agents(client: &Client) {
    wait::until("all agents", SOON, async || {
        (client.agents(None).await.ok()?.agents.len() == 7).then_some(())
    })
    .await;
}

fn nobody(sandbox: &Sandbox) -> Client {
    Client::new(Endpoint::unix(sandbox.socket()), Options::default()).unwrap()
}

/// What a caller shows.
enum Shows {
    Nothing,
    /// Nothing, where nobody is asked for anything.
    Open,
    /// What is nobody's, or nobody's any more.
    Wrong(ProblemKind),
    /// A token that holds these roles and scopes.
    Token(&'static [&'static str]),
    /// The present credential of an agent.
    Agent(&'static str),
}

struct Caller {
    name: &'static str,
    shows: Shows,
    client: Client,
}

struct Made {
    id: String,
    secret: String,
}

/// A server with everybody who could call it.
struct Company {
    callers: Vec<Caller>,
    first: Client,
    /// The token at which everything is aimed that must be refused.
    victim: Made,
}

impl Company {
    async fn founded(sandbox: &Sandbox, server: &Server) -> Self {
        let first = server.client_with(&sandbox.first_token());
        until_all_agents(&first).await;
        let mut callers = Vec::new();
        let mut add = |name, shows, client| callers.push(Caller { name, shows, client });
        for (name, holds) in [
            ("viewer", &["viewer"][..]),
            ("operator", &["operator"]),
            ("human", &["human"]),
            ("admin", &["admin"]),
            ("nothing", &[]),
            ("seat-ceo", &["seat:ceo"]),
            ("seat-dao", &["seat:dao"]),
            ("seat-cmo", &["seat:cmo"]),
            ("seat-cto", &["seat:cto"]),
            ("seat-cfo", &["seat:cfo"]),
            ("seat-coo", &["seat:coo"]),
            ("seat-cco", &["seat:cco"]),
            ("viewer-and-seat", &["viewer", "seat:ceo"]),
        ] {
            let made = make(&first, name, holds, None).await;
            add(name, Shows::Token(holds), server.client_with(&made.secret));
        }
        add("first", Shows::Token(&["admin", "operator", "human"]), first.clone());
        add("nobody", Shows::Nothing, server.client());
        add("nobody at the agents' socket", Shows::Nothing, nobody(sandbox));

        let wrong = || Shows::Wrong(ProblemKind::Unauthorized);
        let victim = make(&first, "victim", &["viewer"], None).await;
        add("garbage", wrong(), server.client_with("nonsense"));
        let last = if victim.secret.ends_with('A') { "E" } else { "A" };
        let changed = format!("{}{last}", &victim.secret[..victim.secret.len() - 1]);
        add("another secret", wrong(), server.client_with(&changed));
        let revoked = make(&first, "revoked", &["admin", "operator", "human"], None).await;
        let path = format!("/tokens/{}", revoked.id);
        assert_eq!(first.raw("DELETE", &path, &[], None).await.unwrap().status, 200);
        add("revoked", wrong(), server.client_with(&revoked.secret));
        let soon = aito_domain::time::millis(wait::wall_millis() + 4000);
        let soon = aito_api::timestamp::to_string(&soon);
        let expired = make(&first, "expired", &["admin", "operator", "human"], Some(&soon)).await;
        add("expired", wrong(), server.client_with(&expired.secret));

        for agent in TYPES {
            first.start(agent).await.unwrap();
        }
        let past = credential(sandbox, "ceo", 1).await;
        first.restart("ceo").await.unwrap();
        add("past incarnation", Shows::Wrong(ProblemKind::PastIncarnation), as_agent(sandbox, &past));
        add("ceo", Shows::Agent("ceo"), as_agent(sandbox, &credential(sandbox, "ceo", 2).await));
        add("cmo", Shows::Agent("cmo"), as_agent(sandbox, &credential(sandbox, "cmo", 1).await));
        for ended in [&expired.secret, &revoked.secret] {
            let client = server.client_with(ended);
            wait::until("a token's end", SOON, async || {
                (get(&client, "/agents").await.status == 401).then_some(())
            })
            .await;
        }
        Self { callers, first, victim }
    }

    async fn tokens(&self) -> BTreeMap<String, Value> {
        let listed = get(&self.first, "/tokens?limit=500").await.json().unwrap();
        let listed = listed["tokens"].as_array().unwrap().clone();
        listed.into_iter().map(|token| (token["id"].as_str().unwrap().to_owned(), token)).collect()
    }

    async fn ask_all(&self) {
        for row in SERVED.iter().chain(LATER) {
            for caller in &self.callers {
                for object in objects(row, caller) {
                    self.ask(row, caller, object).await;
                }
            }
        }
    }

    /// One call, and its answer held against the table.
    async fn ask(&self, row: &Row, caller: &Caller, agent: &str) {
        let (method, path, _, done) = *row;
        let denial = denial(row, caller, agent);
        let id = match &denial {
            None => self.object(row, caller, agent).await,
            Some(_) => self.victim.id.clone(),
        };
        let at = path_of(path, agent, &id);
        let asked = if path == "/domains/check" { format!("{at}?domain=example.com") } else { at.clone() };
        // What goes on for ever is asked for its head.
        let answer = match path {
            "/events/stream" if denial.is_none() => {
                caller.client.raw("HEAD", &asked, &[], None).await.unwrap()
            }
            _ => send(&caller.client, row, &asked, agent, caller.name).await,
        };
        let what = format!("{method} {at} by {}", caller.name);
        for header in ["x-request-id", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
            assert!(answer.header(header).is_some(), "{what}: {header} is missing");
        }
        let status = denial.as_ref().map_or(done, |(kind, _)| kind.status());
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, status, "{what}: {said}");
        if let Some((kind, missing)) = denial {
            refused(&answer, status);
            let body: Value = answer.json().unwrap();
            // The path of a notice is a secret and told nowhere.
            let told = if at.starts_with("/n/") { "/n/…" } else { &*at };
            assert_eq!((&body["type"], &body["instance"]), (&json!(kind.type_uri()), &json!(told)), "{what}");
            if status == 401 {
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what}");
            }
            assert_eq!(named(&body), missing, "{what}: {body}");
        }
        // Asking for the head of an answer is asking for the answer.
        if method == "GET" && path != "/ws" {
            let head = caller.client.raw("HEAD", &asked, &[], None).await.unwrap();
            assert_eq!((head.status, head.body.len()), (status, 0), "HEAD {what}");
        }
    }

    /// The id of what a caller is let do it to, made for this call alone.
    async fn object(&self, row: &Row, caller: &Caller, agent: &str) -> String {
        let (method, path, ..) = *row;
        let last = path.rsplit('/').next().unwrap();
        match path {
            _ if path.starts_with("/tokens/{id}") => {
                make(&self.first, &format!("for-{}-{method}", caller.name), &[], None).await.id
            }
            _ if path.starts_with("/tasks/{id}") => self.task(caller, last).await,
            _ if path.starts_with("/domains/approval-requests/{id}") => {
                let domain = format!("{}-{last}.example.net", caller.name);
                self.made("/domains/approval-requests", &json!({"domain": domain}), "/request/id").await
            }
            "/agents/{type}/mailbox/{id}/ack" => {
                let message = json!({"message": "m", "priority": "low"});
                self.made(&format!("/agents/{agent}/message"), &message, "/message/id").await
            }
            "/domains/{domain}" => {
                let domain = json!({"domain": "example.com", "category": "c"});
                self.made("/domains/whitelist", &domain, "/domain/id").await
            }
            _ => self.victim.id.clone(),
        }
    }

    /// A task that an agent works on, or of ceo for everybody else.
    async fn task(&self, caller: &Caller, ending: &str) -> String {
        let itself = match caller.shows {
            Shows::Agent(itself) => Some(itself),
            _ => None,
        };
        let assignee = itself.unwrap_or("ceo");
        // What came before is in the way of a claim.
        let listed = get(&self.first, &format!("/tasks?assignedTo={assignee}&limit=500")).await;
        for task in listed.json().unwrap()["tasks"].as_array().unwrap() {
            if ["pending", "in_progress"].contains(&task["status"].as_str().unwrap()) {
                let path = format!("/tasks/{}/cancel", task["id"].as_str().unwrap());
                assert_eq!(post(&self.first, &path, "{}").await.status, 200);
            }
        }
        let task = json!({"title": "t", "assignTo": assignee, "priority": "critical"});
        let id = self.made("/tasks", &task, "/task/id").await;
        if let (Some(itself), "complete" | "fail") = (itself, ending) {
            let claimed = post(&caller.client, "/tasks/claim", &json!({"agent": itself}).to_string()).await;
            assert_eq!(claimed.json().unwrap()["task"]["id"], json!(id));
        }
        id
    }

    /// The id of something new that the first token makes.
    async fn made(&self, path: &str, body: &Value, id: &str) -> String {
        let answer = post(&self.first, path, &body.to_string()).await;
        let made: Value = answer.json().unwrap();
        assert_eq!(answer.status, 201, "{path} {body}: {made}");
        made.pointer(id).unwrap().as_str().unwrap().to_owned()
    }
}

/// The agents that a row is tried on: an agent itself and another; who may start and stop one does it to one that
/// nobody else needs.
fn objects(row: &Row, caller: &Caller) -> &'static [&'static str] {
    let moves = ["/start", "/stop", "/restart"].iter().any(|end| row.1.ends_with(end));
    match &caller.shows {
        Shows::Agent(_) if row.2 == "named" => &TYPES,
        _ if !row.1.contains("{type}") => &["ceo"],
        Shows::Agent(_) => &TYPES,
        _ if moves && denial(row, caller, "ceo").is_none() => &["cto"],
        _ => &["ceo"],
    }
}

/// How the contract denies it, and what must be named as missing; `None`: the caller may.
fn denial(row: &Row, caller: &Caller, agent: &str) -> Option<(ProblemKind, BTreeSet<String>)> {
    let may: Vec<&str> = row.2.split(' ').collect();
    let own = may.contains(&"own") || may.contains(&"named");
    match &caller.shows {
        Shows::Open => return None,
        // Whether it lives and is ready is told whatever is shown.
        Shows::Wrong(_) if ["/health", "/ready"].contains(&row.1) => return None,
        Shows::Wrong(kind) => return Some((*kind, BTreeSet::new())),
        _ if may.contains(&"public") => return None,
        Shows::Nothing => return Some((ProblemKind::Unauthorized, BTreeSet::new())),
        _ if may.contains(&"any") => return None,
        Shows::Token(holds) if holds.iter().any(|held| may.contains(held)) => return None,
        Shows::Agent(_) if may.contains(&"agent") => return None,
        Shows::Agent(itself) if own && *itself == agent => return None,
        Shows::Agent(itself) if own => {
            return Some((
                ProblemKind::Forbidden,
                [format!("agent {itself}"), format!("for {agent}")].into(),
            ));
        }
        Shows::Token(_) | Shows::Agent(_) => {}
    }
    let roles = may.iter().filter(|word| ["viewer", "operator", "human", "admin"].contains(*word));
    let mut missing: BTreeSet<String> = roles.map(|role| format!("the role {role}")).collect();
    if may.contains(&"seat") {
        missing.insert("the scope seat:<type>".to_owned());
    }
    if missing.is_empty() {
        missing.insert("the credential of the agent itself".to_owned());
    }
    Some((ProblemKind::Forbidden, missing))
}

/// What a refusal names: the scopes of which one would do, which its text repeats, or whose the object is.
fn named(body: &Value) -> BTreeSet<String> {
    let detail = body["detail"].as_str().unwrap();
    if let Some(scope) = body["scope"].as_str() {
        assert!(detail.contains(scope), "{body}");
        return scope.split(" or ").map(str::to_owned).collect();
    }
    // `agent ceo may do this for itself only, not for cmo`
    let Some((who, whose)) = detail.split_once(" may do this for itself only, not ") else {
        return BTreeSet::new();
    };
    [who.to_owned(), whose.to_owned()].into()
}

async fn make(first: &Client, name: &str, holds: &[&str], expires_at: Option<&str>) -> Made {
    let (scopes, roles): (Vec<&str>, Vec<&str>) =
        holds.iter().copied().partition(|held| held.starts_with("seat:"));
    let wish = json!({"name": name, "roles": roles, "scopes": scopes, "expiresAt": expires_at});
    let answer = post(first, "/tokens", &wish.to_string()).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    let body: Value = answer.json().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Made { id: text(&body["token"]["id"]), secret: text(&body["secret"]) }
}

fn path_of(path: &str, agent: &str, id: &str) -> String {
    let path = path.replace("{type}", agent).replace("{id}", id).replace("{runId}", id);
    let path = path.replace("{category}", "queue").replace("{key}", "delay_high");
    path.replace("{domain}", "example.com").replace("{secret}", "s3cret")
}

/// The call of a row as one who may would make it.
async fn send(client: &Client, row: &Row, at: &str, agent: &str, who: &str) -> RawAnswer {
    let kind = [("content-type", "application/json")];
    let handshake = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let message = json!({"message": "m", "priority": "low"});
    let body = match (row.0, row.1) {
        ("POST", "/agents/{type}/heartbeat") => Some(json!({})),
        ("POST", "/agents/{type}/history") => Some(json!({"actionType": "idea", "summary": "s"})),
        ("PUT", "/agents/{type}/state/{key}") => Some(json!({"value": 1})),
        ("POST", "/agents/{type}/message" | "/broadcast") => Some(message),
        ("POST", "/tokens") => Some(json!({"name": format!("by {who}")})),
        ("POST", "/tasks") => Some(json!({"title": "t", "assignTo": "ceo", "priority": "low"})),
        ("PATCH", "/tasks/{id}") => Some(json!({"title": "another"})),
        ("POST", "/tasks/claim") => Some(json!({"agent": agent})),
        ("POST", "/tasks/{id}/fail") => Some(json!({"error": "e"})),
        ("POST", "/domains/whitelist") => {
            Some(json!({"domain": format!("{who}.example.org"), "category": "c"}))
        }
        ("POST", "/domains/approval-requests") => {
            Some(json!({"domain": format!("wish-of-{who}.example.org")}))
        }
        ("POST", "/settings/{category}/{key}" | "/settings/governance/{key}") => {
            Some(json!({"value": 30_000}))
        }
        _ => None,
    };
    let headers = match row.1 {
        "/ws" => &handshake[..],
        _ if body.is_some() => &kind[..],
        _ => &[],
    };
    let body = body.map(|body| body.to_string().into_bytes());
    client.raw(row.0, at, headers, body).await.unwrap()
}
