//! Operators' tokens and those of identity providers: made, rotated, ended, lost, and what each lets in.
//!
//! Invariants: a secret is shown where it is made and nowhere else; an end counts on every server within a second; who
//! cannot be looked up is never told that the credential is wrong.

mod jwt;

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use aito_api::{NewToken, RotateToken, Timestamp, Token, TokenSecret};
use aito_client::{AuditQuery, Client, Page, RawAnswer};
use aito_domain::time::millis;
use aito_harness::{
    Sandbox, Set,
    sandbox::Server,
    servers::{self, Postgres},
    wait,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{SOON, as_agent, credential, get, post, refused, sandbox, sandbox_with_leaky_ceo};

/// Within what an end counts everywhere: a second, and what a busy machine needs to say so.
const EVERYWHERE: Duration = Duration::from_millis(1500);

/// A sandbox whose callers need a credential.
pub(crate) fn guarded(set: Set) -> Sandbox {
    let mut sandbox = sandbox(set);
    sandbox.no_auth = false;
    sandbox
}

/// Asks for a token.
pub(crate) fn wanted(name: &str, roles: &[&str]) -> NewToken {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    NewToken { name: Some(name.into()), roles, ..NewToken::default() }
}

/// Makes a token with these roles.
pub(crate) async fn make(admin: &Client, name: &str, roles: &[&str]) -> TokenSecret {
    admin.create_token(&wanted(name, roles)).await.unwrap()
}

/// So many milliseconds from now, as it is written.
pub(crate) fn in_millis(ahead: i64) -> String {
    Timestamp::from(millis(wait::wall_millis() + ahead)).to_string()
}

async fn listed(admin: &Client) -> Vec<Token> {
    admin.tokens(&Page::default()).await.unwrap().tokens
}

fn words(token: &Token) -> BTreeSet<&str> {
    token.roles.iter().map(String::as_str).collect()
}

/// The file's text, which only its owner can read.
fn private(path: &Path) -> String {
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    fs::read_to_string(path).unwrap().trim().to_owned()
}

async fn status(server: &Server, token: &str, path: &str) -> u16 {
    get(&server.client_with(token), path).await.status
}

pub(crate) async fn the_first_start_makes_one_token_for_its_owner_alone_and_no_later_start_another(set: Set) {
    let sandbox = guarded(set);
    let server = sandbox.start().await;
    let file = sandbox.data_dir().join("first-token");
    let secret = private(&file);
    assert!(server.said().contains(&format!("stands in {}", file.display())), "{}", server.said());
    assert!(server.said().contains("by token") && !server.said().contains(&secret), "{}", server.said());
    let first = server.client_with(&secret);
    let tokens = listed(&first).await;
    assert_eq!(tokens.len(), 1);
    assert_eq!((tokens[0].name.as_str(), tokens[0].created_by.as_str()), ("first", "system"));
    assert_eq!(words(&tokens[0]), ["admin", "human", "operator"].into());
    assert!(tokens[0].scopes.is_empty() && tokens[0].expires_at.is_none());
    refused(&get(&server.client(), "/agents").await, 401);
    let other = make(&first, "other", &["admin"]).await;
    assert!(server.stop().await.success());

    let server = sandbox.start().await;
    assert!(!server.said().contains("first-token"), "{}", server.said());
    assert_eq!(private(&file), secret);
    let other = server.client_with(&other.secret);
    assert_eq!(get(&server.client_with(&secret), "/agents").await.status, 200);
    // Ended by its owner it stays ended: nobody gets another one by a restart.
    other.revoke_token(tokens[0].id, None).await.unwrap();
    assert!(server.stop().await.success());
    let server = sandbox.start().await;
    assert!(!server.said().contains("first-token"), "{}", server.said());
    refused(&get(&server.client_with(&secret), "/agents").await, 401);
    assert!(!server.log().contains(&secret[38..]), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_start_at_once_make_one_first_token() {
    let mut first = guarded(Set::Servers);
    let key = first.root().join("key");
    fs::write(&key, "5a".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    first.env.insert("AITO_KEY_FILE".into(), key.display().to_string());
    let mut second = first.another_server();
    second.env.insert("AITO_KEY_FILE".into(), key.display().to_string());
    let (one, two) = tokio::join!(first.start(), second.start());
    let made: Vec<_> = [(&first, &one), (&second, &two)]
        .into_iter()
        .filter_map(|(sandbox, server)| {
            let file = sandbox.data_dir().join("first-token");
            assert_eq!(server.said().contains("first-token"), file.exists(), "{}", server.said());
            let left: Vec<_> = fs::read_dir(sandbox.data_dir()).unwrap().flatten().collect();
            let drafts = left.iter().filter(|entry| entry.path().extension().is_some_and(|e| e == "draft"));
            assert_eq!(drafts.count(), 0, "a secret that counts for nothing stays nowhere: {left:?}");
            file.exists().then(|| private(&file))
        })
        .collect();
    assert_eq!(made.len(), 1, "one of them made it");
    for server in [&one, &two] {
        assert_eq!(listed(&server.client_with(&made[0])).await.len(), 1);
    }
    assert_eq!(first.sql("SELECT count(*) FROM tokens").trim(), "1");
}

pub(crate) async fn a_lost_token_is_replaced_on_the_machine_beside_a_server_and_without_one(set: Set) {
    let sandbox = guarded(set);
    let recover = || {
        let mut command = sandbox.command();
        command.args(["token", "recover", "--config"]).arg(sandbox.config_file());
        command.arg("--data-dir").arg(sandbox.data_dir());
        sandbox.run(command)
    };
    let (status, _, why) = recover();
    assert!(!status.success() && why.contains("no installation"), "{why}");

    let mut running = Some(sandbox.start().await);
    let lost = sandbox.first_token();
    let file = sandbox.data_dir().join("recovered-token");
    let mut found = Vec::new();
    for (n, beside) in [(1, true), (2, false)] {
        if !beside {
            assert!(running.take().unwrap().stop().await.success());
        }
        let (status, said, why) = recover();
        let took = wait::stopwatch();
        assert!(status.success() && said.contains(&file.display().to_string()), "{said}{why}");
        let secret = private(&file);
        assert!(!said.contains(&secret[38..]) && !why.contains(&secret[38..]), "it is in the file alone");
        let server = match running.take() {
            Some(server) => server,
            None => sandbox.start().await,
        };
        let client = server.client_with(&secret);
        assert_eq!(get(&client, "/agents").await.status, 200);
        assert!(!beside || took() < EVERYWHERE, "it counted after {:?}", took());
        let tokens = listed(&client).await;
        let name = format!("recovered-{n}");
        let token = tokens.iter().find(|token| token.name == name).unwrap_or_else(|| panic!("{tokens:?}"));
        assert_eq!(words(token), ["admin", "human", "operator"].into());
        found.push(secret);
        running = Some(server);
    }
    let server = running.unwrap();
    // Who found one ends what was lost.
    let client = server.client_with(&found[0]);
    let first = listed(&client).await.into_iter().find(|token| token.name == "first").unwrap();
    client.revoke_token(first.id, None).await.unwrap();
    refused(&get(&server.client_with(&lost), "/agents").await, 401);
    let query = AuditQuery { operation: Some("tokens.recover".into()), ..AuditQuery::default() };
    let told = client.audit(&query).await.unwrap().audit;
    assert_eq!(told.len(), 2, "{told:?}");
    for (entry, name) in told.iter().zip(["recovered-2", "recovered-1"]) {
        let what = (entry.actor.as_str(), entry.source.as_str(), entry.outcome.as_str());
        assert_eq!(what, ("system", "local", "done"));
        assert!(entry.detail.contains(name), "{entry:?}");
    }
}

pub(crate) async fn a_token_lives_as_it_is_told_and_its_secret_is_shown_once(set: Set) {
    let sandbox = guarded(set);
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let answer =
        post(&admin, "/tokens", r#"{"name":"board","roles":["viewer"],"scopes":["seat:ceo"]}"#).await;
    let made: TokenSecret = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), Some(format!("/tokens/{}", made.token.id).as_str()));
    assert_eq!(answer.header("etag"), Some(made.token.etag.as_str()));
    assert_eq!(
        (words(&made.token), made.token.scopes.as_slice()),
        (["viewer"].into(), &["seat:ceo".to_owned()][..])
    );
    assert_eq!((made.token.created_by.as_str(), made.token.last_used_at), ("token:first", None));
    let id = made.token.id;
    let path = format!("/tokens/{id}");

    // Its use is shown, and nothing of its secret.
    let before = wait::wall_millis();
    assert_eq!(status(&server, &made.secret, "/agents").await, 200);
    refused(&post(&server.client_with(&made.secret), "/agents/ceo/start", "").await, 403);
    let list = get(&admin, "/tokens").await;
    let text = String::from_utf8(list.body.to_vec()).unwrap();
    for secret in [&made.secret, &sandbox.first_token()] {
        assert!(!text.contains(&secret[38..]) && !text.contains("hash"), "{text}");
    }
    let shown = listed(&admin).await.into_iter().find(|token| token.id == id).unwrap();
    let used = shown.last_used_at.unwrap().timestamp_millis();
    assert!((before..=wait::wall_millis()).contains(&used), "{shown:?}");

    // Another secret, both good for a while.
    let overlap = RotateToken { overlap: Some(2) };
    let rotated = admin.rotate_token(id, &overlap, Some(&made.token.etag)).await.unwrap();
    assert!(rotated.secret != made.secret && rotated.token.rotated_at.is_some());
    assert_ne!(rotated.token.etag, made.token.etag);
    for secret in [&made.secret, &rotated.secret] {
        assert_eq!(status(&server, secret, "/agents").await, 200);
    }
    wait::until("the overlap to end", SOON, async || {
        (status(&server, &made.secret, "/agents").await == 401).then_some(())
    })
    .await;
    let lasted = wait::wall_millis() - rotated.token.rotated_at.unwrap().timestamp_millis();
    assert!((2000..4000).contains(&lasted), "the old secret was good for {lasted} ms");
    assert_eq!(status(&server, &rotated.secret, "/agents").await, 200);

    // Who read an older state changes nothing.
    let matching = async |method: &str, path: &str, tag: &str| {
        admin.raw(method, path, &[("if-match", tag)], None).await.unwrap()
    };
    let rotate = format!("{path}/rotate");
    for old in [made.token.etag.as_str(), "\"99\"", &format!("W/{}", rotated.token.etag), "\"x\"", ""] {
        refused(&matching("POST", &rotate, old).await, 412);
        refused(&matching("DELETE", &path, old).await, 412);
    }
    assert_eq!(status(&server, &rotated.secret, "/agents").await, 200);
    let at_once = matching("POST", &rotate, &format!("\"99\", {}", rotated.token.etag)).await;
    assert_eq!(at_once.status, 200, "{at_once:?}");
    let third: TokenSecret = serde_json::from_slice(&at_once.body).unwrap();
    assert_eq!(at_once.header("etag"), Some(third.token.etag.as_str()));
    assert_eq!(status(&server, &rotated.secret, "/agents").await, 401, "without an overlap it ends at once");
    assert_eq!(status(&server, &third.secret, "/agents").await, 200);

    // The end, which can be said again.
    assert_eq!(matching("DELETE", &path, "*").await.status, 200);
    assert_eq!(status(&server, &third.secret, "/agents").await, 401);
    assert!(admin.revoke_token(id, None).await.unwrap().success);
    refused(&post(&admin, &rotate, "").await, 409);
    let ended = listed(&admin).await.into_iter().find(|token| token.id == id).unwrap();
    assert!(ended.revoked_at.is_some());
    for unknown in ["00000000-0000-0000-0000-000000000000", "x"] {
        refused(&post(&admin, &format!("/tokens/{unknown}/rotate"), "").await, 404);
        refused(&admin.raw("DELETE", &format!("/tokens/{unknown}"), &[], None).await.unwrap(), 404);
    }
}

pub(crate) async fn a_token_keeps_its_name_until_it_is_revoked_even_when_it_has_expired(set: Set) {
    let sandbox = guarded(set);
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let made = make(&admin, "board", &["viewer"]).await;
    admin.revoke_token(made.token.id, None).await.unwrap();
    let mut short = wanted("board", &["viewer"]);
    short.expires_at = Some(in_millis(2000));
    let short = admin.create_token(&short).await.unwrap();
    assert_eq!(status(&server, &short.secret, "/agents").await, 200);
    refused(&post(&admin, "/tokens", r#"{"name":"board"}"#).await, 409);
    wait::until("its time to be over", SOON, async || {
        (status(&server, &short.secret, "/agents").await == 401).then_some(())
    })
    .await;
    let late = wait::wall_millis() - short.token.expires_at.unwrap().timestamp_millis();
    assert!((0..2000).contains(&late), "it ended {late} ms after its time");
    refused(&post(&admin, &format!("/tokens/{}/rotate", short.token.id), "").await, 409);
    // Who asks for its name is told what to do, and not to come again later.
    let taken = post(&admin, "/tokens", r#"{"name":"board"}"#).await;
    refused(&taken, 409);
    let detail = taken.json().unwrap()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("expired") && detail.contains("revoke"), "{detail}");
    admin.revoke_token(short.token.id, None).await.unwrap();
    make(&admin, "board", &[]).await;
}

pub(crate) async fn every_fault_of_a_new_token_is_named_and_a_name_that_is_taken_is_a_conflict(set: Set) {
    let sandbox = guarded(set);
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let body = r#"{"name":" a/b","roles":["viewer","king"],"scopes":["seat:nobody","x"],"expiresAt":"2001-01-01T00:00:00Z"}"#;
    let pointers = refused(&post(&admin, "/tokens", body).await, 422);
    assert_eq!(pointers, ["/name", "/roles/1", "/scopes/0", "/scopes/1", "/expiresAt"]);
    let two = r#"{"name":"a","scopes":["seat:ceo","seat:dao"]}"#;
    assert_eq!(refused(&post(&admin, "/tokens", two).await, 422), ["/scopes/1"]);
    assert_eq!(refused(&post(&admin, "/tokens", "{}").await, 422), ["/name"]);
    assert_eq!(refused(&post(&admin, "/tokens", r#"{"name":"a","roles":"viewer"}"#).await, 422), ["/roles"]);
    refused(&post(&admin, "/tokens", "{").await, 400);
    refused(&admin.raw("POST", "/tokens", &[], Some("{}".into())).await.unwrap(), 415);
    let id = listed(&admin).await[0].id;
    for overlap in ["-1", "604801"] {
        let body = format!("{{\"overlap\":{overlap}}}");
        assert_eq!(refused(&post(&admin, &format!("/tokens/{id}/rotate"), &body).await, 422), ["/overlap"]);
    }
    for query in ["limit=0", "limit=501", "cursor=x"] {
        assert_eq!(refused(&get(&admin, &format!("/tokens?{query}")).await, 422).len(), 1, "{query}");
    }
    make(&admin, "a", &[]).await;
    refused(&post(&admin, "/tokens", r#"{"name":"a"}"#).await, 409);
    assert_eq!(listed(&admin).await.len(), 2, "nothing of what was refused was made");
    // Paged without a gap or a double.
    make(&admin, "b", &[]).await;
    let (mut names, mut cursor) = (BTreeSet::new(), None);
    loop {
        let page = admin.tokens(&Page { limit: Some(1), cursor }).await.unwrap();
        names.extend(page.tokens.into_iter().map(|token| token.name));
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "first"].map(str::to_owned).into());
}

async fn post_once(client: &Client, path: &str, body: &str, key: &str) -> RawAnswer {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    client.raw("POST", path, &headers, Some(body.into())).await.unwrap()
}

pub(crate) async fn a_making_that_is_repeated_makes_no_second_token_and_shows_no_secret(set: Set) {
    let sandbox = guarded(set);
    let server = sandbox.start().await;
    let first = sandbox.first_token();
    let admin = server.client_with(&first);
    let body = r#"{"name":"ci","roles":["operator"]}"#;
    let made = post_once(&admin, "/tokens", body, "k-1").await;
    assert_eq!(made.status, 201, "{made:?}");
    let made: TokenSecret = serde_json::from_slice(&made.body).unwrap();
    // With its name free again, only the key can keep a second one from being made.
    admin.revoke_token(made.token.id, None).await.unwrap();
    let again = post_once(&admin, "/tokens", body, "k-1").await;
    refused(&again, 409);
    let text = String::from_utf8(again.body.to_vec()).unwrap();
    assert!(text.contains(&made.token.id.to_string()) && !text.contains(&made.secret[38..]), "{text}");
    refused(&post_once(&admin, "/tokens", r#"{"name":"ci","roles":["viewer"]}"#, "k-1").await, 409);
    server.kill();
    let server = sandbox.start().await;
    let admin = server.client_with(&first);
    refused(&post_once(&admin, "/tokens", body, "k-1").await, 409);
    assert_eq!(listed(&admin).await.len(), 2);
    // Another caller's keys are another's.
    let second = make(&admin, "second", &["admin"]).await;
    let other = post_once(&server.client_with(&second.secret), "/tokens", body, "k-1").await;
    assert_eq!(other.status, 201, "{other:?}");
    for bad in ["", "a b", &"x".repeat(256)] {
        assert_eq!(refused(&post_once(&admin, "/tokens", body, bad).await, 422), ["Idempotency-Key"]);
    }
}

pub(crate) async fn a_row_that_is_repeated_gets_its_first_answer_and_keys_belong_to_caller_and_path(
    set: Set,
) {
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    let anyone = server.client();
    for agent in ["ceo", "cmo"] {
        anyone.start(agent).await.unwrap();
    }
    let ceo = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let row = r#"{"actionType":"task","summary":"paid"}"#;
    let id = |answer: &RawAnswer| {
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json().unwrap()["history"]["id"].as_str().unwrap().to_owned()
    };
    let first = post_once(&ceo, "/agents/ceo/history", row, "k").await;
    let again = post_once(&ceo, "/agents/ceo/history", row, "k").await;
    assert_eq!((id(&again), &again.body), (id(&first), &first.body));
    assert_eq!(again.header("location"), first.header("location"));
    let other = r#"{"actionType":"task","summary":"paid twice"}"#;
    refused(&post_once(&ceo, "/agents/ceo/history", other, "k").await, 409);
    let by_another = post_once(&anyone, "/agents/ceo/history", row, "k").await;
    let of_another = post_once(&anyone, "/agents/cmo/history", row, "k").await;
    let unkeyed = post(&ceo, "/agents/ceo/history", row).await;
    let ids: BTreeSet<_> = [&first, &by_another, &of_another, &unkeyed].into_iter().map(id).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    let rows = anyone.history("ceo", &Page::default()).await.unwrap().history;
    assert_eq!(rows.iter().filter(|row| row.summary == "paid").count(), 3, "{rows:?}");
}

pub(crate) async fn every_wrong_credential_gets_the_same_answer(set: Set) {
    let sandbox = guarded(set);
    let server = sandbox.start().await;
    let first = sandbox.first_token();
    let admin = server.client_with(&first);
    let ended = make(&admin, "ended", &["viewer"]).await;
    admin.revoke_token(ended.token.id, None).await.unwrap();
    let mut short = wanted("short", &["viewer"]);
    short.expires_at = Some(in_millis(1000));
    let short = admin.create_token(&short).await.unwrap();
    wait::until("its time to be over", SOON, async || {
        (status(&server, &short.secret, "/agents").await == 401).then_some(())
    })
    .await;
    let ticket = admin.ticket().await.unwrap().ticket;
    let other_secret = format!("{}{}", &first[..38], "A".repeat(43));
    let unknown = format!("aito_{}_{}", "0".repeat(32), "A".repeat(43));
    let not_configured = format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#));
    let bearers = [
        "nonsense",
        "aito_",
        &first[..first.len() - 1],
        &format!("{first}A"),
        &first.to_uppercase(),
        &other_secret,
        &unknown,
        &ended.secret,
        &short.secret,
        &ticket,
        &not_configured,
        "aito-agent.x.1.y",
    ]
    .map(|text| format!("Bearer {text}"));
    let others = [format!("Basic {first}"), first.clone(), "Bearer".to_owned(), String::new()];
    let mut seen = BTreeSet::new();
    for wrong in bearers.iter().chain(&others) {
        let answer = server.client().raw("GET", "/agents", &[("authorization", wrong)], None).await.unwrap();
        refused(&answer, 401);
        let mut headers = answer.headers.clone();
        // The names that pages may read stand in any order.
        let varying = ["x-request-id", "date", "access-control-expose-headers"];
        headers.retain(|(name, _)| !varying.contains(&name.as_str()) && !name.starts_with("ratelimit-"));
        headers.sort();
        seen.insert((String::from_utf8(answer.body.to_vec()).unwrap(), headers));
    }
    assert_eq!(seen.len(), 1, "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_and_fewer_rights_count_on_every_server_within_a_second() {
    let first = guarded(Set::Servers);
    let one = first.start().await;
    let second = first.another_server();
    let two = second.start().await;
    let admin = one.client_with(&first.first_token());
    let until = async |what: &str, secret: &str, wanted: u16| {
        let took = wait::stopwatch();
        // It is used without a pause, so that a server that only remembers would remember for ever.
        wait::until(what, SOON, async || (status(&two, secret, "/agents").await == wanted).then_some(()))
            .await;
        assert!(took() < EVERYWHERE, "{what} took {:?}", took());
    };
    let token = make(&admin, "a", &["viewer"]).await;
    until("its making", &token.secret, 200).await;
    let rotated = admin.rotate_token(token.token.id, &RotateToken::default(), None).await.unwrap();
    until("the end of the old secret", &token.secret, 401).await;
    until("the new secret", &rotated.secret, 200).await;
    first.sql("UPDATE tokens SET grants = '{\"roles\": [], \"seat\": null}' WHERE name = 'a'");
    until("the loss of its role", &rotated.secret, 403).await;
    let token = make(&admin, "b", &["viewer"]).await;
    until("its making", &token.secret, 200).await;
    admin.revoke_token(token.token.id, None).await.unwrap();
    until("its end", &token.secret, 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_looked_up_is_never_said_to_be_wrong() {
    let mut postgres = Postgres::start(false);
    let (redis, engine) = (servers::address(servers::REDIS), servers::address(servers::ENGINE));
    let mut sandbox = Sandbox::on_servers(
        &postgres.url("postgres"),
        &redis,
        Path::new(&engine),
        env!("CARGO_BIN_EXE_aito"),
    );
    sandbox.no_auth = false;
    let server = sandbox.start().await;
    let secret = sandbox.first_token();
    let client = server.client_with(&secret);
    let ticket = client.ticket().await.unwrap().ticket;
    postgres.kill();
    // What is read from memory needs no database, but who asks for it does.
    wait::until("its state to be too old", SOON, async || {
        let answer = get(&client, "/metrics").await;
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 503).then_some(())
    })
    .await;
    let unknown = format!("aito_{}_{}", "0".repeat(32), "A".repeat(43));
    let other_secret = format!("{}{}", &secret[..38], "A".repeat(43));
    for token in [&secret, &unknown, &other_secret] {
        let answer = get(&server.client_with(token), "/metrics").await;
        refused(&answer, 503);
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert!(answer.header("ratelimit-remaining").is_some(), "{answer:?}");
    }
    let with_ticket =
        aito_client::EventSocket::connect_with_ticket(&server.client(), &ticket, &[], None).await;
    assert_eq!(with_ticket.unwrap_err().status(), Some(503));
    // What is no token whatever the database says, is none.
    refused(&get(&server.client_with("aito_x"), "/metrics").await, 401);
    assert_eq!(get(&server.client(), "/health").await.status, 200);
    postgres.start_again();
    wait::until("the database to be used again", SOON, async || {
        let answer = get(&client, "/metrics").await;
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 200).then_some(())
    })
    .await;
    drop(server);
    drop(sandbox);
    drop(postgres);
}
