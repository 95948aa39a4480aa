//! Planted secrets: a tour through everything uses each of them, and afterwards they stand nowhere they could be read.
//!
//! Invariants: every canary is used in the way it is meant for before it is searched; what is searched is proven to be
//! what it should be by a mark that is no secret and must be found there; the one answer that shows a secret may show
//! that one and no other.

mod settings;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use aito_api::{TicketCreated, TokenSecret};
use aito_client::{Client, Page, RawAnswer};
use aito_harness::{
    Sandbox, Server, Set,
    canaries::{Canaries, base64url, from_base64url, from_hex, random},
    database, processes, servers, wait,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{SOON, as_agent, credential, leak, sandbox};

/// What nobody may read, and what everybody may.
struct Planted {
    secrets: Canaries,
    marks: Canaries,
}

/// What was seen, piece by piece: where, and what.
type Seen = Vec<(String, Vec<u8>)>;

/// A sandbox with secrets wherever configuration takes some.
struct Scene {
    sandbox: Sandbox,
    planted: Planted,
    /// Of the identity provider.
    jwt_secret: String,
    /// A mark that agents' histories are given.
    history: String,
    /// A mark that agents are busy with, of which events tell.
    focus: String,
    /// A mark in paths.
    path: String,
    /// A mark that a setting has.
    setting: String,
    /// On real servers, a Redis of its own with a password, and who hears all that is published there.
    _redis: Option<(servers::Redis, Listener)>,
    published: std::path::PathBuf,
}

/// `redis-cli`, hearing everything; ended when dropped.
struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scene {
    fn set_up(set: Set) -> Self {
        let mut planted = Planted { secrets: Canaries::default(), marks: Canaries::default() };
        let mut secret = |name: &str| {
            let text = random();
            planted.secrets.plant(name, &text);
            text
        };
        let (mut sandbox, redis) = match set {
            Set::Embedded => (sandbox(set), None),
            Set::Servers => {
                let password = secret("the password of Redis");
                let redis = servers::Redis::start_with(&["--requirepass", &password]);
                let url = format!("redis://:{password}@127.0.0.1:{}", redis.port());
                let postgres = servers::address(servers::POSTGRES);
                let engine = servers::address(servers::ENGINE);
                let bin = env!("CARGO_BIN_EXE_aito");
                let mut sandbox = Sandbox::on_servers(&postgres, &url, Path::new(&engine), bin);
                let database = &sandbox.places().database_url;
                let with_password = format!("postgres://aito:{}@", secret("the password of PostgreSQL"));
                let url = database.replacen("postgres://aito@", &with_password, 1);
                assert_ne!(url, *database);
                sandbox.env.insert("DATABASE_URL".into(), url);
                (sandbox, Some((redis, password)))
            }
        };
        sandbox.no_auth = false;
        let file = sandbox.root().join("secret-file");
        fs::write(&file, secret("a secret of an agent in a file")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let jwt_secret = secret("the secret of the identity provider");
        for (name, value) in [
            ("SECRET_OF_CEO", secret("a secret of an agent in the environment")),
            ("NOBODY_ASKED", secret("a variable of the server's environment")),
            ("AITO_AUTH__JWT__SECRET", jwt_secret.clone()),
            ("AITO_AUTH__JWT__ISSUER", "https://login.example".into()),
            ("AITO_AUTH__JWT__AUDIENCE", "aito".into()),
            ("AITO_LOG__FILTER", "debug".into()),
        ] {
            sandbox.env.insert(name.into(), value);
        }
        let [history, focus, path, setting, name] =
            ["a history row", "a focus", "a path", "a setting", "an agent's name"].map(|name| {
                let text = random();
                planted.marks.plant(name, &text);
                text
            });
        let root = sandbox.root().display().to_string();
        let given = format!("printf %s \"$BY_ENV $BY_FILE\" >{root}/given");
        sandbox.configure(&format!(
            "[agents.ceo]\ngrace = 1\ncommand = [\"/bin/sh\", \"-c\", '{given}; {}']\n\
             [agents.ceo.secrets]\nBY_ENV = {{ env = \"SECRET_OF_CEO\" }}\nBY_FILE = {{ file = \"{}\" }}\n\
             [agents.cmo]\nname = \"{name}\"\n",
            leak(&sandbox),
            file.display(),
        ));
        let published = sandbox.root().join("published");
        let redis = redis.map(|(redis, password)| {
            let listener = listen(&redis, &password, &published);
            (redis, listener)
        });
        Self { planted, jwt_secret, history, focus, path, setting, _redis: redis, published, sandbox }
    }

    fn secret(&mut self, name: &str) -> String {
        let text = random();
        self.planted.secrets.plant(name, &text);
        text
    }

    /// The secret part of a token, which its id is not.
    fn token(&mut self, name: &str, token: &str) {
        let (_, secret) = token.strip_prefix("aito_").and_then(|rest| rest.split_once('_')).unwrap();
        self.planted.secrets.plant_bytes(name, secret, &from_base64url(secret));
    }

    /// What follows the last point: the code of a credential or ticket, the signature of a JSON Web Token.
    fn code(&mut self, name: &str, text: &str) {
        let (_, code) = text.rsplit_once('.').unwrap();
        self.planted.secrets.plant_bytes(name, code, &from_base64url(code));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command();
        command.args(arguments).arg("--config").arg(self.sandbox.config_file());
        command.arg("--data-dir").arg(self.sandbox.data_dir());
        command
    }
}

fn listen(redis: &servers::Redis, password: &str, to: &Path) -> Listener {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &redis.port().to_string(), "PSUBSCRIBE", "*"]).env("REDISCLI_AUTH", password);
    command.stdin(Stdio::null()).stdout(fs::File::create(to).unwrap());
    Listener(command.spawn().unwrap())
}

/// A JSON Web Token for somebody who may read and operate, signed with this secret (RFC 7515, HS256).
fn signed(secret: &str) -> String {
    let until = wait::wall_millis() / 1000 + 600;
    let claims = json!({"iss": "https://login.example", "aud": "aito", "sub": "ada", "exp": until,
        "roles": ["viewer", "operator"]});
    let said =
        [json!({"alg": "HS256", "typ": "JWT"}), claims].map(|part| base64url(part.to_string().as_bytes()));
    let said = said.join(".");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("said");
    fs::write(&file, &said).unwrap();
    let mut openssl = Command::new("openssl");
    openssl
        .args(["dgst", "-sha256", "-mac", "HMAC", "-macopt", &format!("key:{secret}"), "-binary"])
        .arg(&file);
    let done = openssl.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    format!("{said}.{}", base64url(&done.stdout))
}

/// Everything of an answer.
fn bytes(answer: &RawAnswer) -> Vec<u8> {
    let mut all = answer.status.to_string().into_bytes();
    for (name, value) in &answer.headers {
        all.extend(format!("\n{name}: {value}").into_bytes());
    }
    all.extend(b"\n\n");
    all.extend(&answer.body);
    all
}

/// One call after the other, every answer kept.
struct Tour {
    seen: Seen,
    /// Answers that show a secret: with the name of that one.
    showing: Vec<(String, Vec<u8>)>,
}

impl Tour {
    async fn call(
        &mut self,
        client: &Client,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        status: u16,
    ) -> RawAnswer {
        let mut headers = headers.to_vec();
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        let body = (!body.is_empty()).then(|| body.into());
        let answer = client.raw(method, path, &headers, body).await.unwrap();
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, status, "{method} {path}: {text}");
        self.seen.push((format!("the answer to {method} {path}"), bytes(&answer)));
        answer
    }

    /// The same for a call whose answer shows a secret.
    async fn shown<T: serde::de::DeserializeOwned>(
        &mut self,
        client: &Client,
        path: &str,
        name: &str,
        body: &str,
        status: u16,
    ) -> T {
        let answer = self.call(client, "POST", path, &[], body, status).await;
        let (_, bytes) = self.seen.pop().unwrap();
        self.showing.push((name.to_owned(), bytes));
        serde_json::from_slice(&answer.body).unwrap()
    }
}

/// A WebSocket whose bytes are kept as they come, which for text from a server is the text itself (RFC 6455, 5.2).
async fn socket(server: &Server, query: &str, headers: &[(&str, &str)]) -> Arc<Mutex<Vec<u8>>> {
    let address = server.address().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = format!(
        "GET /ws{query} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).await.unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = heard.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            into.lock().unwrap().extend(&buffer[..n]);
        }
    });
    let status = wait::until("the handshake", SOON, async || {
        let text = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
        text.contains("\r\n\r\n").then_some(text)
    })
    .await;
    assert!(status.starts_with("HTTP/1.1 101 ") || status.starts_with("HTTP/1.1 401 "), "{status}");
    heard
}

/// Uses every secret on one server; `n` tells one run from the other.
async fn go(scene: &mut Scene, server: &Server, n: u32, tour: &mut Tour) {
    let first = scene.sandbox.first_token();
    let admin = server.client_with(&first);
    let named =
        |name: &str, roles: &[&str]| json!({"name": format!("{name}{n}"), "roles": roles}).to_string();
    // Tokens: made, used, rotated, ended, used again; recovered on the machine.
    let label = format!("the secret of a token, run {n}");
    let made: TokenSecret =
        tour.shown(&admin, "/tokens", &label, &named("made", &["viewer", "operator"]), 201).await;
    scene.token(&label, &made.secret);
    let ops = server.client_with(&made.secret);
    tour.call(&ops, "GET", "/agents", &[], "", 200).await;
    let label = format!("the secret of a token after its rotation, run {n}");
    let path = format!("/tokens/{}/rotate", made.token.id);
    let rotated: TokenSecret = tour.shown(&admin, &path, &label, r#"{"overlap": 600}"#, 200).await;
    scene.token(&label, &rotated.secret);
    tour.call(&ops, "GET", "/agents", &[], "", 200).await;
    let ops = server.client_with(&rotated.secret);
    tour.call(&ops, "GET", "/containers", &[], "", 200).await;
    let label = format!("the secret of a token that was revoked, run {n}");
    let gone: TokenSecret = tour.shown(&admin, "/tokens", &label, &named("gone", &["admin"]), 201).await;
    scene.token(&label, &gone.secret);
    let path = format!("/tokens/{}", gone.token.id);
    tour.call(&server.client_with(&gone.secret), "DELETE", &path, &[], "", 200).await;
    let end = server.client_with(&gone.secret);
    wait::until("the token to be gone", SOON, async || end.tokens(&Page::default()).await.err()).await;
    tour.call(&end, "GET", "/tokens", &[], "", 401).await;
    let (status, said, why) = scene.sandbox.run(scene.command(&["token", "recover"]));
    assert!(status.success(), "{why}");
    tour.seen.push(("aito token recover".into(), format!("{said}{why}").into_bytes()));
    let recovered = fs::read_to_string(scene.sandbox.data_dir().join("recovered-token")).unwrap();
    scene.token(&format!("the secret of a recovered token, run {n}"), recovered.trim());
    tour.call(&server.client_with(recovered.trim()), "GET", "/tokens", &[], "", 200).await;

    // An agent with its credential and its secrets.
    tour.call(&ops, "POST", "/agents/ceo/restart", &[], "", 200).await;
    let own = credential(&scene.sandbox, u64::from(n)).await;
    scene.code(&format!("the credential of an agent, run {n}"), &own);
    let agent = as_agent(&scene.sandbox, &own);
    let beat = json!({"currentFocus": format!("{}, run {n}", scene.focus)}).to_string();
    tour.call(&agent, "POST", "/agents/ceo/heartbeat", &[], &beat, 200).await;
    tour.call(&agent, "GET", "/agents/cmo/history", &[], "", 403).await;
    let row = json!({"actionType": "idea", "summary": scene.history, "details": {"why": n}}).to_string();
    tour.call(&agent, "POST", "/agents/ceo/history", &[("idempotency-key", &format!("k{n}"))], &row, 201)
        .await;

    // Tickets, used and then used once more.
    let label = format!("a ticket, run {n}");
    let ticket: TicketCreated = tour.shown(&ops, "/ws/tickets", &label, "", 201).await;
    let ticket = ticket.ticket.ticket;
    scene.code(&label, &ticket);
    let position = admin_position(&ops).await;
    let query = format!("?since={position}&ticket={ticket}");
    let heard = socket(server, &query, &[]).await;
    let bearer = format!("Bearer {first}");
    let protocol = scene.secret(&format!("a secret in Sec-WebSocket-Protocol, run {n}"));
    let more = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", &*protocol)];
    let heard_too = socket(server, &format!("?since={position}"), &more).await;
    let refused = socket(server, &query, &[]).await;
    let mut forged = ticket.clone();
    let code = scene.secret(&format!("the code of a forged ticket, run {n}"));
    forged.replace_range(ticket.rfind('.').unwrap() + 1.., &code);
    let refused_too = socket(server, &format!("?ticket={forged}"), &[]).await;
    for (what, socket) in [("used up", &refused), ("forged", &refused_too)] {
        let answer = socket.lock().unwrap().clone();
        assert!(answer.starts_with(b"HTTP/1.1 401 "), "{what}");
    }

    // Somebody of the identity provider.
    let jwt = signed(&scene.jwt_secret);
    scene.code(&format!("the signature of a JSON Web Token, run {n}"), &jwt);
    tour.call(&server.client_with(&jwt), "GET", "/agents", &[], "", 200).await;
    let signature = scene.secret(&format!("the signature of a wrong JSON Web Token, run {n}"));
    let wrong = format!("{}.{signature}", jwt.rsplit_once('.').unwrap().0);
    // Why it was refused is logged, with the path of the request.
    tour.call(&server.client_with(&wrong), "GET", &format!("/agents/{}", scene.path), &[], "", 401).await;

    mistakes(scene, server, n, tour, &ops, &own).await;
    settings::go(scene, n, tour, &ops).await;
    reads(scene, &admin, &ops, tour).await;

    // What was heard, up to what the agent is at in this run.
    for (what, heard) in
        [("by ticket", heard), ("by token", heard_too), ("refused", refused), ("forged", refused_too)]
    {
        let mark = format!("{}, run {n}", scene.focus);
        let listens = !["refused", "forged"].contains(&what);
        let all = wait::until("the event to be heard", SOON, async || {
            let all = heard.lock().unwrap().clone();
            (!listens || all.windows(mark.len()).any(|part| part == mark.as_bytes())).then_some(all)
        })
        .await;
        tour.seen.push((format!("a WebSocket {what}"), all));
    }
}

/// The place before the first event.
async fn admin_position(client: &Client) -> String {
    let newest = client.events(&aito_client::EventQuery::default()).await.unwrap().events[0].position.clone();
    format!("{}-0", newest.rsplit_once('-').unwrap().0)
}

/// Secrets of whoever calls, put where they do not belong.
async fn mistakes(scene: &mut Scene, server: &Server, n: u32, tour: &mut Tour, ops: &Client, own: &str) {
    let (nobody, admin) = (server.client(), server.client_with(&scene.sandbox.first_token()));
    let mut secret = |name: &str| scene.secret(&format!("{name}, run {n}"));
    let code = secret("the code of a forged credential");
    let forged = format!("{}.{code}", own.rsplit_once('.').unwrap().0);
    let password = secret("a password for Basic");
    let basic = base64url(format!("user:{password}").as_bytes());
    for (text, path) in [
        (format!("Bearer {}", secret("a wrong credential")), "/agents"),
        (format!("Bearer aito_{}_{}abc", "0".repeat(32), secret("the secret of no token")), "/agents"),
        (format!("Bearer {forged}"), "/agents/ceo/history"),
        (format!("Basic {basic}"), "/agents"),
        (format!("Digest {}", secret("a credential of another scheme")), "/agents"),
        (secret("a credential without a scheme"), "/agents"),
        (format!("Bearer {}", secret("a credential for an unknown path")), "/nowhere/at/all"),
        (format!("Bearer {}", secret("a credential for what needs none")), "/health"),
    ] {
        // Where nobody needs a credential, a wrong one does no harm.
        let status = if path == "/health" { 200 } else { 401 };
        tour.call(&nobody, "GET", path, &[("authorization", &text)], "", status).await;
    }
    for (name, status) in
        [("cookie", 200), ("x-api-key", 200), ("proxy-authorization", 200), ("x-aito-token", 200)]
    {
        let value = format!("session={}", secret(&format!("a secret in {name}")));
        tour.call(ops, "GET", "/agents", &[(name, &value)], "", status).await;
    }
    for path in ["/agents", "/events", "/nowhere", "/agents/ceo/logs", "/ws", "/health"] {
        let token = secret(&format!("a secret in the query of {path}"));
        let path = format!("{path}?token={token}");
        let answer = nobody.raw("GET", &path, &[], None).await.unwrap();
        tour.seen.push((format!("the answer to GET {path} of nobody").replace(&token, "…"), bytes(&answer)));
        let answer = ops.raw("GET", &path, &[], None).await.unwrap();
        tour.seen.push((format!("the answer to GET {path}").replace(&token, "…"), bytes(&answer)));
    }
    for (what, path, body) in [
        ("a body cut off", "/tokens", "{\"name\": \"x\", \"password\": \"SECRET"),
        ("a body that is no JSON", "/tokens", "password=SECRET"),
        ("a body of a text", "/tokens", "\"SECRET\""),
        ("a field that is not known", "/tokens", "{\"name\": \" \", \"password\": \"SECRET\"}"),
        ("a field of another type", "/tokens", "{\"name\": \"x\", \"roles\": \"SECRET\"}"),
        ("a list of wrong words", "/tokens", "{\"name\": \"x\", \"roles\": [\"SECRET\"]}"),
        ("a wrong scope", "/tokens", "{\"name\": \"x\", \"scopes\": [\"SECRET\"]}"),
        ("a time that is none", "/tokens", "{\"name\": \"x\", \"expiresAt\": \"SECRET\"}"),
        ("a body after another", "/tokens", "{} SECRET"),
    ] {
        let body = body.replace("SECRET", &secret(what));
        let headers = [("content-type", "application/json")];
        let answer = admin.raw("POST", path, &headers, Some(body.into())).await.unwrap();
        assert!((400..500).contains(&answer.status), "{what}: {}", answer.status);
        tour.seen.push((format!("the answer to {what}"), bytes(&answer)));
    }
}

/// Everything that can be read.
async fn reads(scene: &Scene, admin: &Client, ops: &Client, tour: &mut Tour) {
    for path in [
        "/health",
        "/ready",
        "/health/full",
        "/metrics",
        "/openapi.json",
        "/agents",
        "/agents/ceo",
        "/agents/ceo/health",
        "/agents/ceo/spec",
        "/agents/ceo/history",
        "/agents/ceo/events",
        "/agents/ceo/logs",
        "/agents/ceo/stats",
        "/agents/cmo/spec",
        "/containers",
    ] {
        tour.call(ops, "GET", path, &[], "", 200).await;
    }
    tour.call(ops, "POST", &format!("/agents/{}/start", scene.path), &[], "", 404).await;
    tour.call(admin, "GET", "/tokens?limit=500", &[], "", 200).await;
    wait::until("the refusals to be in the audit", SOON, async || {
        let audit = admin.raw("GET", "/audit?limit=500&outcome=refused", &[], None).await.ok()?;
        scene.planted.marks.in_bytes(&audit.body).contains("a path (plain)").then_some(())
    })
    .await;
    // An admin sees the events of tokens too.
    for list in ["/events", "/audit"] {
        let mut cursor = String::new();
        loop {
            let page = tour.call(admin, "GET", &format!("{list}?limit=200{cursor}"), &[], "", 200).await;
            match page.json().unwrap()["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
}

/// Files of the data directory that hold a secret by design, for their owner alone: the last one until the agent has
/// read and removed it.
const FOR_THEIR_OWNER: [&str; 4] =
    ["installation.json", "first-token", "recovered-token", "secret/credential"];

/// Every other file below.
fn files(dir: &Path, into: &mut Seen) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, into);
        } else if FOR_THEIR_OWNER.iter().any(|name| path.ends_with(name)) {
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} is open to others: {mode:o}", path.display());
        } else {
            into.extend(fs::read(&path).ok().map(|bytes| (path.display().to_string(), bytes)));
        }
    }
}

pub(crate) async fn no_planted_secret_comes_out_again(set: Set) {
    let mut scene = Scene::set_up(set);
    let mut tour = Tour { seen: Vec::new(), showing: Vec::new() };
    let mut greetings = String::new();
    for (n, format) in [(1, "text"), (2, "json")] {
        scene.sandbox.env.insert("AITO_LOG__FORMAT".into(), format.into());
        let server = scene.sandbox.start().await;
        if n == 1 {
            scene.token("the secret of the first token", &scene.sandbox.first_token());
            let file = fs::read_to_string(scene.sandbox.data_dir().join("installation.json")).unwrap();
            let file: BTreeMap<String, serde_json::Value> = serde_json::from_str(&file).unwrap();
            let key = file["key"].as_str().unwrap().to_owned();
            scene.planted.secrets.plant_bytes("the installation's key", &key, &from_hex(&key));
        }
        go(&mut scene, &server, n, &mut tour).await;
        greetings += server.said();
        // What stands in command lines is everybody's on the machine.
        let own = scene.sandbox.bin().display().to_string();
        let commands = processes::all().into_iter().filter(|process| process.args.first() == Some(&own));
        let commands: String = commands.map(|process| process.args.join(" ") + "\n").collect();
        tour.seen.push(("command lines".into(), commands.into_bytes()));
        // While it runs, the newest rows of SQLite are in the file beside.
        let dump = database::dump(&scene.sandbox);
        tour.seen.extend(dump.into_iter().map(|(part, bytes)| (format!("the database: {part}"), bytes)));
        let given = fs::read_to_string(scene.sandbox.root().join("given")).unwrap();
        let [env, file] = given.split(' ').collect::<Vec<_>>()[..] else {
            panic!("the agent got its secrets")
        };
        let found = scene.planted.secrets.in_bytes(format!("{env} {file}").as_bytes());
        assert_eq!(found.len(), 2, "{found:?}");
        if n == 1 {
            server.kill();
        } else {
            assert!(server.stop().await.success());
        }
    }
    tour.seen.push(("the log".into(), fs::read(scene.sandbox.root().join("server.log")).unwrap()));
    tour.seen.push(("the greeting".into(), greetings.into_bytes()));
    for arguments in [&["config"][..], &["audit", "verify"]] {
        let (status, said, why) = scene.sandbox.run(scene.command(arguments));
        assert!(status.success(), "{why}");
        tour.seen.push((format!("aito {}", arguments.join(" ")), format!("{said}{why}").into_bytes()));
    }
    if let Ok(published) = fs::read(&scene.published) {
        assert!(!published.is_empty());
        tour.seen.push(("Redis".into(), published));
    }
    files(&scene.sandbox.data_dir(), &mut tour.seen);

    let Planted { secrets, marks } = &scene.planted;
    assert!(secrets.len() >= 20, "{}", secrets.len());
    let mut found = Vec::new();
    for (place, bytes) in &tour.seen {
        found.extend(secrets.in_bytes(bytes).into_iter().map(|canary| format!("{canary} in {place}")));
    }
    for (name, bytes) in &tour.showing {
        let shown = secrets.in_bytes(bytes);
        assert!(shown.contains(&format!("{name} (plain)")), "{name} is not shown where it should be");
        let others = shown.into_iter().filter(|canary| !canary.starts_with(&format!("{name} (")));
        found.extend(others.map(|canary| format!("{canary} in the answer that shows {name}")));
    }
    assert!(found.is_empty(), "found again:\n{}", found.join("\n"));

    // What was searched is what it should be, and who searches finds.
    let holds = |place: &str, mark: &str| {
        let mark = format!("{mark} (plain)");
        let found =
            tour.seen.iter().any(|(p, bytes)| p.contains(place) && marks.in_bytes(bytes).contains(&mark));
        assert!(found, "\"{mark}\" is not found in {place}");
    };
    for (place, mark) in [
        ("the database: ", "a history row"),
        ("the database: ", "a focus"),
        ("the database: ", "a setting"),
        ("GET /settings", "a setting"),
        ("GET /events?", "a focus"),
        ("GET /agents/ceo/history", "a history row"),
        ("a WebSocket by ticket", "a focus"),
        ("a WebSocket by token", "a focus"),
        ("GET /audit?", "a path"),
        ("the database: ", "a path"),
        ("the log", "a path"),
        ("aito config", "an agent's name"),
        ("GET /agents/cmo/spec", "an agent's name"),
    ] {
        holds(place, mark);
    }
    if set == Set::Embedded {
        holds("aito.sqlite3", "a history row");
    }
    let (_, log) = tour.seen.iter().find(|(place, _)| place == "the log").unwrap();
    let log = String::from_utf8_lossy(log);
    let (json, text): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| line.starts_with('{'));
    for lines in [json, text] {
        assert!(lines.iter().any(|line| line.contains("DEBUG") || line.contains("\"level\":\"DEBUG\"")));
        assert!(lines.iter().any(|line| line.contains(&scene.path)));
    }
    let metrics = tour.seen.iter().find(|(place, _)| place.ends_with("GET /metrics")).unwrap();
    assert!(String::from_utf8_lossy(&metrics.1).contains("aito_events_written_total"));
}
