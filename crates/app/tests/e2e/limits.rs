//! How much a caller may ask and how large it may be: what is too much is refused, and nobody else notices.

mod pages;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use aito_client::{Client, Endpoint, EventSocket, Options, RawAnswer};
use aito_harness::{Sandbox, Set, sandbox::Server, wait};
use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    SOON, as_agent, credential, get, leak, post, refused, sandbox, sandbox_with_leaky_ceo,
    tokens::{guarded, make},
};

/// What a client that is in nobody's way waits at most, on a busy machine.
const PROMPT: Duration = Duration::from_secs(3);
/// The largest body.
const MEBI: usize = 1 << 20;

fn with(mut sandbox: Sandbox, settings: &[(&str, &str)]) -> Sandbox {
    for (name, value) in settings {
        sandbox.env.insert(format!("AITO_{name}"), (*value).to_owned());
    }
    sandbox
}

/// A caller on the agents' socket without a credential.
fn nobody_nearby(sandbox: &Sandbox) -> Client {
    Client::new(Endpoint::unix(sandbox.socket()), Options::default()).unwrap()
}

/// A connection from this address of the machine.
async fn connection(server: &Server, from: &str) -> TcpStream {
    let to: SocketAddr = server.address().trim_start_matches("http://").parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

/// A request's head without its last line end.
fn head(request: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("{request} HTTP/1.1\r\nhost: 127.0.0.1\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text
}

/// The next answer on a connection; `None` when it ends without one.
async fn answer(stream: &mut TcpStream) -> Option<RawAnswer> {
    let (mut bytes, mut next) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut next).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&next[..n]),
        }
    };
    let text = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = text.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let pairs = lines.filter_map(|line| line.split_once(": "));
    let headers: Vec<_> = pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        let n = stream.read(&mut next).await.ok().filter(|n| *n > 0)?;
        body.extend_from_slice(&next[..n]);
    }
    Some(RawAnswer { status, headers, body: body.into() })
}

/// A request without a body on a connection that is kept; `None` when it was closed instead.
async fn ask_on(stream: &mut TcpStream, request: &str, headers: &[(&str, &str)]) -> Option<RawAnswer> {
    let _ = stream.write_all(format!("{}\r\n", head(request, headers)).as_bytes()).await;
    tokio::time::timeout(SOON, answer(stream)).await.expect("neither answered nor closed")
}

/// A request without a body on a connection of its own.
async fn ask(server: &Server, from: &str, request: &str, headers: &[(&str, &str)]) -> RawAnswer {
    ask_on(&mut connection(server, from).await, request, headers).await.expect("it was not answered")
}

/// Asks until it is too much.
async fn flood(mut once: impl AsyncFnMut() -> RawAnswer) -> RawAnswer {
    for _ in 0..200 {
        let answer = once().await;
        if answer.status == 429 {
            return answer;
        }
    }
    panic!("it was never too much");
}

fn number(answer: &RawAnswer, header: &str) -> u64 {
    let value = answer.header(header).unwrap_or_else(|| panic!("no {header}: {answer:?}"));
    value.parse().unwrap_or_else(|_| panic!("{header}: {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_back_and_nobody_else_is() {
    let sandbox = with(guarded(Set::Embedded), &[("LIMITS__RATE", "1"), ("LIMITS__BURST", "30")]);
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let (flooding, quiet) =
        (make(&admin, "flooding", &["viewer"]).await, make(&admin, "quiet", &["viewer"]).await);
    let (flooding, quiet) = (server.client_with(&flooding.secret), server.client_with(&quiet.secret));
    let good = get(&flooding, "/agents").await;
    assert_eq!(
        (good.status, number(&good, "ratelimit-limit"), number(&good, "ratelimit-remaining")),
        (200, 30, 29)
    );
    let answer = flood(async || get(&flooding, "/agents").await).await;
    refused(&answer, 429);
    assert_eq!(number(&answer, "ratelimit-remaining"), 0);
    assert!((1..=2).contains(&number(&answer, "retry-after")), "{answer:?}");
    assert!((1..=30).contains(&number(&answer, "ratelimit-reset")), "{answer:?}");
    refused(&post(&flooding, "/ws/tickets", "").await, 429);
    // Others of the same address have their own.
    for client in [&quiet, &admin] {
        let other = get(client, "/ready").await;
        assert!(other.status == 200 && number(&other, "ratelimit-remaining") > 10, "{other:?}");
    }
    assert_eq!(get(&server.client(), "/health").await.status, 200);
    assert_eq!(get(&nobody_nearby(&sandbox), "/health").await.status, 200);
    wait::until("its turn", SOON, async || (get(&flooding, "/agents").await.status == 200).then_some(()))
        .await;
    // Who has no credential is counted by where they are.
    let answer = flood(async || get(&nobody_nearby(&sandbox), "/agents").await).await;
    refused(&answer, 429);
    assert_eq!(get(&server.client(), "/health").await.status, 200);
}

/// Whether an answer is counted where nearly nothing is left. A little comes back each second.
fn is_spent(answer: &RawAnswer) -> bool {
    number(answer, "ratelimit-remaining") < 10
}

/// Whether an answer is the first, or nearly, that is counted where it is.
fn is_fresh(answer: &RawAnswer) -> bool {
    answer.status == 200 && number(answer, "ratelimit-remaining") > 25
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_charged_to_their_senders_address() {
    let sandbox = with(guarded(Set::Embedded), &[("LIMITS__RATE", "1"), ("LIMITS__BURST", "30")]);
    let server = sandbox.start().await;
    let first = format!("Bearer {}", sandbox.first_token());
    let unknown = format!("Bearer aito_{}_{}", "0".repeat(32), "A".repeat(43));
    let upgrade = [("upgrade", "websocket"), ("connection", "upgrade")];
    for (n, wrong) in ["Bearer nonsense", &unknown, "Basic eDp5"].into_iter().enumerate() {
        let from = format!("127.0.1.{}", n + 1);
        let once = async || ask(&server, &from, "GET /agents", &[("authorization", wrong)]).await;
        refused(&flood(once).await, 429);
        // It pays for what needs no credential, and for tickets, from the same account.
        assert!(is_spent(&ask(&server, &from, "GET /health", &[]).await));
        assert!(is_spent(&ask(&server, &from, "GET /ws?ticket=x", &upgrade).await));
        // Nobody elsewhere does.
        let from = format!("127.0.2.{}", n + 1);
        assert!(is_fresh(&ask(&server, &from, "GET /health", &[]).await));
        assert_eq!(ask(&server, &from, "GET /agents", &[("authorization", &first)]).await.status, 200);
    }
    let tickets = flood(async || ask(&server, "127.0.1.9", "GET /ws?ticket=x", &upgrade).await).await;
    refused(&tickets, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_an_address_is_believed_from_trusted_proxies_only() {
    let limits = [("LIMITS__RATE", "1"), ("LIMITS__BURST", "30")];
    let direct = with(sandbox(Set::Embedded), &limits);
    let server = direct.start().await;
    let mut n = 0;
    let answer = flood(async || {
        n += 1;
        ask(&server, "127.0.0.1", "GET /health", &[("x-forwarded-for", &format!("203.0.113.{n}"))]).await
    })
    .await;
    refused(&answer, 429);
    assert!(n < 100, "whoever names another address each time is still one");

    let behind = with(sandbox(Set::Embedded), &limits);
    let mut behind = with(behind, &[("TRUSTED_PROXIES", "127.0.0.1,192.0.2.0/24")]);
    behind.no_auth = false;
    let server = behind.start().await;
    let via =
        async |from: &str, said: &str| ask(&server, from, "GET /health", &[("x-forwarded-for", said)]).await;
    refused(&flood(async || via("127.0.0.1", "203.0.113.1").await).await, 429);
    assert!(is_fresh(&via("127.0.0.1", "203.0.113.2").await), "another caller of the same proxy");
    // What a caller puts before the proxy's word counts for nothing, and a chain of proxies is passed through.
    for said in ["203.0.113.1", "203.0.113.3, 203.0.113.1", "203.0.113.1, 192.0.2.7"] {
        assert!(is_spent(&via("127.0.0.1", said).await), "{said}");
    }
    assert!(is_fresh(&via("127.0.0.1", "203.0.113.3").await));
    // Who is no proxy is counted as who it is.
    assert!(is_fresh(&via("127.0.0.2", "203.0.113.1").await));
    refused(&flood(async || via("127.0.0.2", "203.0.113.4").await).await, 429);
    assert!(is_fresh(&via("127.0.0.1", "203.0.113.4").await));
    assert!(is_spent(&via("127.0.0.2", "203.0.113.5").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_and_all_together_have_so_many_connections_and_get_them_back() {
    let sandbox = with(
        sandbox(Set::Embedded),
        &[("LIMITS__CONNECTIONS", "5"), ("LIMITS__CONNECTIONS_PER_ADDRESS", "3")],
    );
    let server = sandbox.start().await;
    let opened = async |from: &str| {
        let mut stream = connection(&server, from).await;
        let answer = ask_on(&mut stream, "GET /health", &[]).await?;
        assert_eq!(answer.status, 200);
        Some(stream)
    };
    let mut own = Vec::new();
    for _ in 0..3 {
        own.push(opened("127.0.0.1").await.expect("it is let in"));
    }
    assert!(opened("127.0.0.1").await.is_none(), "the fourth of one address is ended");
    let _second = opened("127.0.0.2").await.expect("another address is let in");
    let _third = opened("127.0.0.3").await.expect("another address is let in");
    assert!(opened("127.0.0.4").await.is_none(), "the sixth of all is ended");
    assert_eq!(
        get(&nobody_nearby(&sandbox), "/health").await.status,
        200,
        "agents have connections of their own"
    );
    for stream in &mut own {
        assert_eq!(ask_on(stream, "GET /health", &[]).await.map(|answer| answer.status), Some(200));
    }
    own.pop();
    let back = wait::until("its connection back", SOON, async || opened("127.0.0.1").await).await;
    assert!(opened("127.0.0.1").await.is_none());
    drop((own, back));
    wait::until("all of them back", SOON, async || {
        let again = join_all((0..3).map(|_| opened("127.0.0.1"))).await;
        again.iter().all(Option::is_some).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_has_so_many_streams_and_gets_them_back() {
    let mut sandbox = with(sandbox(Set::Embedded), &[("LIMITS__STREAMS_PER_CREDENTIAL", "2")]);
    sandbox.no_auth = false;
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let viewer = make(&admin, "viewer", &["viewer"]).await;
    let client = server.client_with(&viewer.secret);
    let opened = async |client: &Client| EventSocket::connect(client, &[], None).await;
    let mut own = vec![opened(&client).await.unwrap(), opened(&client).await.unwrap()];
    assert_eq!(opened(&client).await.unwrap_err().status(), Some(429), "the third of one credential");
    let _other = opened(&admin).await.unwrap();
    own.pop();
    wait::until("its stream back", SOON, async || opened(&client).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_through_a_proxy_is_not_the_anonymous_caller() {
    let sandbox = sandbox(Set::Embedded);
    let server = sandbox.start().await;
    let client = server.client();
    assert_eq!(get(&client, "/metrics").await.status, 200);
    for name in ["x-forwarded-for", "forwarded", "x-real-ip", "via", "x-forwarded-host"] {
        let answer = client.raw("GET", "/metrics", &[(name, "10.0.0.7")], None).await.unwrap();
        refused(&answer, 401);
    }
    let mut both = self::sandbox(Set::Embedded);
    both.env.insert("AITO_TRUSTED_PROXIES".to_owned(), "127.0.0.1".to_owned());
    let (status, _, why) = both.run(both.serve());
    assert!(!status.success() && why.contains("trusted_proxies") && why.contains("--no-auth"), "{why}");
}

/// Sends a body in pieces of unsaid length.
async fn chunked(server: &Server, token: &str, body: &[u8]) -> RawAnswer {
    let mut stream = connection(server, "127.0.0.1").await;
    let headers =
        [("authorization", token), ("content-type", "application/json"), ("transfer-encoding", "chunked")];
    stream.write_all(format!("{}\r\n", head("POST /tokens", &headers)).as_bytes()).await.unwrap();
    for piece in body.chunks(MEBI / 8) {
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        // It may have been refused already.
        let _ = stream.write_all(&chunk).await;
    }
    if body.len() <= MEBI {
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    }
    tokio::time::timeout(SOON, answer(&mut stream)).await.unwrap().expect("it was not answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_addresses_and_headers_have_their_bounds() {
    let sandbox = guarded(Set::Embedded);
    let server = sandbox.start().await;
    let token = format!("Bearer {}", sandbox.first_token());
    let admin = server.client_with(&sandbox.first_token());
    let body = |name: &str, length: usize| {
        let start = format!("{{\"name\":\"{name}\",\"x\":\"");
        format!("{start}{}\"}}", "x".repeat(length - start.len() - 2))
    };
    assert_eq!(post(&admin, "/tokens", &body("whole", MEBI)).await.status, 201);
    assert_eq!(chunked(&server, &token, body("chunked", MEBI).as_bytes()).await.status, 201);
    refused(&chunked(&server, &token, body("larger", MEBI + 1).as_bytes()).await, 413);
    // One that says so is not even waited for, wherever it is sent.
    for path in ["/tokens", "/agents/ceo/start", "/nowhere"] {
        let length = (MEBI + 1).to_string();
        let headers = [
            ("authorization", token.as_str()),
            ("content-type", "application/json"),
            ("content-length", &length),
        ];
        refused(&ask(&server, "127.0.0.1", &format!("POST {path}"), &headers).await, 413);
    }

    let nested = |n: usize| format!("{{\"name\":\"d{n}\",\"x\":{}{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
    assert_eq!(post(&admin, "/tokens", &nested(64)).await.status, 201);
    refused(&post(&admin, "/tokens", &nested(65)).await, 400);
    refused(&post(&admin, "/tokens", &nested(100_000)).await, 400);

    let path = |length: usize| format!("/health?{}", "x".repeat(length - "/health?".len()));
    for client in [&server.client(), &nobody_nearby(&sandbox)] {
        assert_eq!(get(client, &path(8 << 10)).await.status, 200);
        refused(&get(client, &path((8 << 10) + 1)).await, 414);
        let (most, more) = ("x".repeat(31 << 10), "x".repeat(32 << 10));
        assert_eq!(client.raw("GET", "/health", &[("x-a", &most)], None).await.unwrap().status, 200);
        refused(&client.raw("GET", "/health", &[("x-a", &more)], None).await.unwrap(), 431);
        let part = "x".repeat(7 << 10);
        let many = ["x-a", "x-b", "x-c", "x-d", "x-e"].map(|name| (name, part.as_str()));
        refused(&client.raw("GET", "/health", &many, None).await.unwrap(), 431);
    }
    assert_eq!(
        admin.tokens(&aito_client::Page::default()).await.unwrap().tokens.len(),
        4,
        "no other was made"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_hold_nobody_up_and_a_head_that_does_not_come_is_given_up() {
    let sandbox = guarded(Set::Embedded);
    let server = sandbox.start().await;
    let token = format!("Bearer {}", sandbox.first_token());
    let mut heads = Vec::new();
    let mut bodies = Vec::new();
    for n in 0..64 {
        let mut slow = connection(&server, "127.0.0.1").await;
        slow.write_all(head("GET /health", &[]).as_bytes()).await.unwrap();
        heads.push(slow);
        let body = format!("{{\"name\":\"t{n}\"}}");
        let length = body.len().to_string();
        let headers = [
            ("authorization", token.as_str()),
            ("content-type", "application/json"),
            ("content-length", &length),
        ];
        let mut slow = connection(&server, "127.0.0.1").await;
        slow.write_all(format!("{}\r\n{}", head("POST /tokens", &headers), &body[..5]).as_bytes())
            .await
            .unwrap();
        bodies.push((slow, body));
    }
    let began = wait::stopwatch();
    let admin = server.client_with(&sandbox.first_token());
    for path in ["/agents", "/tokens", "/health", "/events"] {
        let took = wait::stopwatch();
        assert_eq!(get(&admin, path).await.status, 200);
        assert!(took() < PROMPT, "{path} took {:?}", took());
    }
    // What comes late but comes is taken.
    for (slow, body) in &mut bodies[..4] {
        slow.write_all(&body.as_bytes()[5..]).await.unwrap();
        assert_eq!(tokio::time::timeout(SOON, answer(slow)).await.unwrap().unwrap().status, 201);
    }
    let ends = heads.iter_mut().map(|slow| tokio::time::timeout(SOON, answer(slow)));
    for end in join_all(ends).await {
        let status = end.expect("half a head keeps a connection").map(|answer| answer.status);
        assert!([None, Some(408)].contains(&status), "{status:?}");
    }
    assert!(began() > Duration::from_secs(5), "a head may take a while: {:?}", began());
    assert_eq!(get(&admin, "/health").await.status, 200);
}

/// Seconds until the day of UTC ends.
fn until_midnight() -> u64 {
    let day = 24 * 3600;
    day - u64::try_from(wait::wall_millis()).unwrap() / 1000 % day
}

pub(crate) async fn an_agent_writes_so_much_history_a_day_and_no_other_pays_for_it(set: Set) {
    let limits = [("LIMITS__HISTORY_ROWS_PER_DAY", "5"), ("LIMITS__HISTORY_BYTES_PER_DAY", "1000")];
    let sandbox = with(sandbox(set), &limits);
    let cmos = leak(&sandbox).replace("/credential", "/cmos");
    sandbox.configure(&format!(
        "[agents.ceo]\ngrace = 1\ncommand = [\"/bin/sh\", \"-c\", '{}']\n\
         [agents.cmo]\ngrace = 1\ncommand = [\"/bin/sh\", \"-c\", '{cmos}']\n",
        leak(&sandbox)
    ));
    let server = sandbox.start().await;
    let anyone = server.client();
    for agent in ["ceo", "cmo"] {
        anyone.start(agent).await.unwrap();
    }
    let ceo = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let file = sandbox.root().join("cmos-1");
    let cmo = wait::until("the credential", SOON, async || std::fs::read_to_string(&file).ok()).await;
    let cmo = as_agent(&sandbox, cmo.trim());
    let write = async |client: &Client, agent: &str, bytes: usize| {
        let body = format!("{{\"actionType\":\"task\",\"summary\":\"{}\"}}", "x".repeat(bytes));
        post(client, &format!("/agents/{agent}/history"), &body).await
    };
    let spent = |answer: &RawAnswer, of_what: &str| {
        refused(answer, 429);
        let detail = answer.json().unwrap()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("ceo") && detail.contains(of_what), "{detail}");
        let off = until_midnight().abs_diff(number(answer, "retry-after"));
        assert!(off <= 5, "{off} s beside midnight: {answer:?}");
    };
    assert_eq!(write(&ceo, "ceo", 600).await.status, 201);
    spent(&write(&ceo, "ceo", 600).await, "1000 bytes");
    for _ in 0..4 {
        assert_eq!(write(&ceo, "ceo", 50).await.status, 201, "what fits is taken");
    }
    spent(&write(&ceo, "ceo", 1).await, "5 rows");
    // Others go on, and so does the agent with everything else.
    assert_eq!(write(&cmo, "cmo", 600).await.status, 201);
    assert_eq!(write(&anyone, "ceo", 600).await.status, 201, "people are not held to it");
    assert_eq!(post(&ceo, "/agents/ceo/heartbeat", "{}").await.status, 200);
    assert_eq!(get(&ceo, "/agents/ceo/history").await.status, 200);
    // A restart gives nothing back.
    server.kill();
    let _server = sandbox.start().await;
    spent(&write(&ceo, "ceo", 1).await, "5 rows");
    assert_eq!(write(&cmo, "cmo", 50).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_repeated_takes_nothing_of_the_day() {
    let sandbox = with(sandbox_with_leaky_ceo(Set::Embedded), &[("LIMITS__HISTORY_ROWS_PER_DAY", "2")]);
    let server = sandbox.start().await;
    server.client().start("ceo").await.unwrap();
    let ceo = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let once = async |key: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let body = r#"{"actionType":"task","summary":"paid"}"#;
        ceo.raw("POST", "/agents/ceo/history", &headers, Some(body.into())).await.unwrap()
    };
    let first = once("a").await;
    assert_eq!(first.status, 201);
    for _ in 0..3 {
        assert_eq!(once("a").await.body, first.body, "the first answer, as it was");
    }
    assert_eq!(once("b").await.status, 201);
    refused(&once("c").await, 429);
    assert_eq!(once("a").await.body, first.body, "what was stored is answered when the day is spent, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_no_credential_listens_on_loopback_only() {
    let sandbox = guarded(Set::Embedded);
    let serve = |more: &[&str]| {
        let mut command = sandbox.command();
        command.args(["serve", "--listen", "0.0.0.0:0", "--config"]).arg(sandbox.config_file());
        command.arg("--data-dir").arg(sandbox.data_dir()).args(more);
        command
    };
    let (status, _, why) = sandbox.run(serve(&["--no-auth"]));
    assert!(!status.success() && why.contains("loopback") && why.contains("--no-auth"), "{why}");
    let server = sandbox.start_as(serve(&[])).await;
    assert!(server.said().contains("by token; unencrypted"), "{}", server.said());
    let address = server.address().replace("0.0.0.0", "127.0.0.1");
    let nobody = Client::new(address.parse().unwrap(), Options::default()).unwrap();
    assert_eq!(get(&nobody, "/health").await.status, 200);
    refused(&get(&nobody, "/agents").await, 401);
    let first = format!("Bearer {}", sandbox.first_token());
    let answer = nobody.raw("GET", "/agents", &[("authorization", &first)], None).await.unwrap();
    assert_eq!(answer.status, 200);
}

/// A status, and the request without a body that gets it, with its headers.
type Case<'a> = (u16, &'a str, Vec<(&'a str, &'a str)>);

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_its_id_what_is_left_and_what_browsers_may_not() {
    let sandbox = guarded(Set::Embedded);
    let server = sandbox.start().await;
    let first = format!("Bearer {}", sandbox.first_token());
    let (length, long, large) =
        ((MEBI + 1).to_string(), format!("GET /{}", "x".repeat(9000)), "x".repeat(33 << 10));
    let json = ("content-type", "application/json");
    let by_first = ("authorization", first.as_str());
    let upgrade = ("upgrade", "websocket");
    let cases: Vec<Case<'_>> = vec![
        (200, "GET /health", vec![]),
        (200, "GET /metrics", vec![by_first]),
        (200, "GET /openapi.json", vec![]),
        (201, "POST /ws/tickets", vec![by_first]),
        (400, "POST /tokens", vec![by_first, json, ("content-length", "0")]),
        (401, "GET /agents", vec![]),
        (401, "GET /agents", vec![("authorization", "Bearer x")]),
        (401, "GET /ws?ticket=x", vec![upgrade, ("connection", "upgrade")]),
        (403, "POST /agents/ceo/heartbeat", vec![by_first, json]),
        (403, "POST /agents/ceo/stop", vec![by_first, ("origin", "https://evil.example")]),
        (403, "POST /agents/ceo/stop", vec![by_first, ("sec-fetch-site", "cross-site")]),
        (404, "GET /agents/nobody", vec![by_first]),
        (404, "GET /nowhere", vec![]),
        (405, "DELETE /agents", vec![by_first]),
        (413, "POST /tokens", vec![by_first, json, ("content-length", &length)]),
        (414, &long, vec![]),
        (415, "POST /tokens", vec![by_first, ("content-length", "0")]),
        (422, "GET /agents/ceo/logs?tail=0", vec![by_first]),
        (422, "GET /ws", vec![by_first]),
        (431, "GET /health", vec![("x-a", &large)]),
        (501, "GET /decisions", vec![by_first]),
    ];
    let mut ids = BTreeSet::new();
    let count = cases.len() + 2;
    let mut missing = Vec::new();
    let mut check = |what: &str, answer: &RawAnswer| {
        ids.insert(answer.header("x-request-id").unwrap_or_default().to_owned());
        for (name, value) in [
            ("x-content-type-options", Some("nosniff")),
            ("x-frame-options", Some("DENY")),
            ("referrer-policy", Some("no-referrer")),
            ("content-security-policy", None),
            ("cross-origin-resource-policy", Some("same-origin")),
            ("cache-control", None),
            ("ratelimit-limit", Some("1000000")),
            ("ratelimit-remaining", None),
            ("ratelimit-reset", None),
        ] {
            let said = answer.header(name);
            if said.is_none() || value.is_some_and(|value| said != Some(value)) {
                missing.push(format!("{what}: {name} is {said:?}"));
            }
        }
    };
    for (status, request, headers) in &cases {
        let answer = ask(&server, "127.0.0.1", request, headers).await;
        let what = format!("{status} {}", &request[..request.len().min(40)]);
        assert_eq!(answer.status, *status, "{what}: {answer:?}");
        check(&what, &answer);
    }
    let host = server.client().raw("GET", "/health", &[("host", "evil.example")], None).await.unwrap();
    refused(&host, 403);
    check("403 of another host", &host);
    let admin = server.client_with(&sandbox.first_token());
    check("HEAD", &admin.raw("HEAD", "/agents", &[], None).await.unwrap());
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(ids.len() == count && !ids.contains(""), "{ids:?}");
}
