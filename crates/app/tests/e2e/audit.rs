//! The audit from outside: every attempt is told once, the chain is whole, and what is done to it shows.

use std::{path::Path, process::ExitStatus};

use aito_api::{AuditEntry, NewToken, TokenSecret};
use aito_client::{AuditQuery, Client, Page, RawAnswer};
use aito_domain::{
    audit::{self, Head, Outcome, Seal},
    id::AuditId,
    time::millis,
};
use aito_harness::{Sandbox, Server, Set, database, wait};

use crate::{SOON, as_agent, credential, sandbox, sandbox_with_leaky_ceo};

/// A sandbox whose server asks for tokens.
fn guarded(mut sandbox: Sandbox) -> Sandbox {
    sandbox.no_auth = false;
    sandbox
}

async fn new_token(admin: &Client, name: &str, roles: &[&str]) -> TokenSecret {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    admin.create_token(&NewToken { name: Some(name.to_owned()), roles, ..NewToken::default() }).await.unwrap()
}

/// A call with a request id of its own; a body goes as JSON.
async fn call(client: &Client, method: &str, path: &str, id: &str, body: &str) -> RawAnswer {
    let headers = [("x-request-id", id), ("content-type", "application/json")];
    let body = (!body.is_empty()).then(|| body.into());
    client.raw(method, path, &headers, body).await.unwrap()
}

/// Every entry that passes the filter, oldest first, read by pages of `limit`.
async fn entries(client: &Client, filter: &AuditQuery, limit: u32) -> Vec<AuditEntry> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page = Page { limit: Some(limit), cursor };
        let list = client.audit(&AuditQuery { page, ..filter.clone() }).await.unwrap();
        all.extend(list.audit);
        cursor = list.next_cursor;
        if cursor.is_none() {
            all.reverse();
            return all;
        }
    }
}

async fn whole(client: &Client) -> Vec<AuditEntry> {
    entries(client, &AuditQuery::default(), 500).await
}

/// Waits until the call with this request id is told; gives the one entry about it.
async fn told(client: &Client, id: &str) -> AuditEntry {
    let what = format!("the entry about {id}");
    let mut found = wait::until(&what, SOON, async || {
        let all = whole(client).await;
        let mine: Vec<_> = all.into_iter().filter(|entry| entry.request_id == id).collect();
        (!mine.is_empty()).then_some(mine)
    })
    .await;
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Waits until everything is sealed; gives it in the order of the chain, which must have no hole.
async fn sealed(client: &Client) -> Vec<AuditEntry> {
    let mut all = wait::until("everything to be sealed", SOON, async || {
        let all = whole(client).await;
        all.iter().all(|entry| entry.n.is_some()).then_some(all)
    })
    .await;
    all.sort_by_key(|entry| entry.n);
    for (place, entry) in (1..).zip(&all) {
        assert_eq!(entry.n, Some(place), "{entry:?}");
        let seal = entry.seal.as_deref().unwrap();
        assert!(seal.len() == 64 && seal.bytes().all(|b| b"0123456789abcdef".contains(&b)), "{seal}");
    }
    all
}

pub(crate) async fn every_change_has_one_entry_and_nothing_else_has(set: Set) {
    let sandbox = guarded(sandbox_with_leaky_ceo(set));
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let made = call(&admin, "POST", "/tokens", "r-make", r#"{"name":"ops","roles":["operator"]}"#).await;
    assert_eq!(made.status, 201);
    let made: TokenSecret = serde_json::from_slice(&made.body).unwrap();
    let ops = server.client_with(&made.secret);
    let (credential_of_ops, path) =
        (format!("token/{}", made.token.id), format!("/tokens/{}", made.token.id));
    let tokens = admin.tokens(&Page::default()).await.unwrap().tokens;
    let first = tokens.iter().find(|token| token.name == "first").unwrap();
    let credential_of_admin = format!("token/{}", first.id);
    let rotate = format!("{path}/rotate");
    let mut expected = vec![("token:first", "tokens.create", "/tokens", "r-make", "done")];
    let mut status = Vec::new();
    for (id, verb, outcome) in [
        ("r-start", "start", "done"),
        ("r-start-again", "start", "unchanged"),
        ("r-restart", "restart", "done"),
        ("r-stop", "stop", "done"),
        ("r-stop-again", "stop", "unchanged"),
        ("r-start-last", "start", "done"),
    ] {
        let object: &str = match verb {
            "start" => "/agents/ceo/start",
            "stop" => "/agents/ceo/stop",
            _ => "/agents/ceo/restart",
        };
        let operation: &str = match verb {
            "start" => "agents.start",
            "stop" => "agents.stop",
            _ => "agents.restart",
        };
        status.push(call(&ops, "POST", object, id, "").await.status);
        expected.push(("token:ops", operation, object, id, outcome));
    }
    // What an agent says of itself, and what is only read, is not the audit's.
    let agent = as_agent(&sandbox, &credential(&sandbox, 3).await);
    for n in 0..3 {
        assert_eq!(
            call(&agent, "POST", "/agents/ceo/heartbeat", &format!("r-beat-{n}"), "{}").await.status,
            200
        );
        let row = r#"{"actionType":"idea","summary":"s"}"#;
        assert_eq!(call(&agent, "POST", "/agents/ceo/history", &format!("r-row-{n}"), row).await.status, 201);
    }
    for path in ["/agents", "/events", "/metrics", "/agents/ceo/logs"] {
        assert_eq!(call(&ops, "GET", path, "r-read", "").await.status, 200, "{path}");
    }
    for path in ["/tokens", "/audit"] {
        assert_eq!(call(&admin, "GET", path, "r-read", "").await.status, 200, "{path}");
    }
    for (method, path, operation, id, outcome) in [
        ("POST", &rotate, "tokens.rotate", "r-rotate", "done"),
        ("DELETE", &path, "tokens.revoke", "r-revoke", "done"),
        ("DELETE", &path, "tokens.revoke", "r-revoke-again", "unchanged"),
    ] {
        status.push(call(&admin, method, path, id, "").await.status);
        expected.push(("token:first", operation, path, id, outcome));
    }
    assert!(status.iter().all(|status| *status == 200), "{status:?}");
    for (actor, operation, object, id, outcome) in &expected {
        let entry = told(&admin, id).await;
        let credential = if *actor == "token:ops" { &*credential_of_ops } else { &*credential_of_admin };
        assert_eq!(
            [&entry.actor, &entry.credential, &entry.operation, &entry.object, &entry.source, &entry.outcome],
            [*actor, credential, *operation, *object, "127.0.0.1", *outcome],
            "{id}"
        );
        assert_eq!(entry.times, 1);
    }
    let all = sealed(&admin).await;
    let others: Vec<_> =
        all.iter().filter(|entry| expected.iter().all(|e| e.3 != entry.request_id)).collect();
    // Only the first start's own: it made the first token.
    assert_eq!(others.len(), 1, "{others:?}");
    let own = others[0];
    assert_eq!(
        [&own.actor, &own.operation, &own.source, &own.outcome],
        ["system", "tokens.create", "local", "done"]
    );
}

pub(crate) async fn a_refused_attempt_is_told_with_its_status(set: Set) {
    let sandbox = guarded(sandbox_with_leaky_ceo(set));
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let made = new_token(&admin, "eyes", &["viewer"]).await;
    let eyes = server.client_with(&made.secret);
    admin.start("ceo").await.unwrap();
    let detail = admin.agent("ceo").await.unwrap();
    let agent = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let (nobody, wrong) = (server.client(), server.client_with("aito-agent.x.1.y"));
    let (viewer, own) = (format!("token/{}", made.token.id), format!("agent/{}/1", detail.id));
    let bad = r#"{"name":" "}"#;
    for (id, client, method, path, body, status, [actor, credential, operation, source]) in [
        ("a", &wrong, "GET", "/agents", "", 401, ["nobody", "none", "login", "127.0.0.1"]),
        ("b", &nobody, "POST", "/agents/ceo/stop", "", 401, ["nobody", "none", "agents.stop", "127.0.0.1"]),
        (
            "c",
            &eyes,
            "POST",
            "/agents/ceo/stop",
            "",
            403,
            ["token:eyes", viewer.as_str(), "agents.stop", "127.0.0.1"],
        ),
        ("d", &eyes, "GET", "/audit", "", 403, ["token:eyes", viewer.as_str(), "audit.read", "127.0.0.1"]),
        (
            "e",
            &admin,
            "POST",
            "/agents/nobody/start",
            "",
            404,
            ["token:first", "", "agents.start", "127.0.0.1"],
        ),
        ("f", &admin, "POST", "/tokens", bad, 422, ["token:first", "", "tokens.create", "127.0.0.1"]),
        (
            "g",
            &agent,
            "POST",
            "/agents/cmo/heartbeat",
            "{}",
            403,
            ["agent:ceo", own.as_str(), "agents.heartbeat", "unix"],
        ),
        (
            "h",
            &agent,
            "POST",
            "/agents/ceo/stop",
            "",
            403,
            ["agent:ceo", own.as_str(), "agents.stop", "unix"],
        ),
    ] {
        let id = format!("refused-{id}");
        assert_eq!(call(client, method, path, &id, body).await.status, status, "{id}");
        let entry = told(&admin, &id).await;
        assert_eq!([&entry.actor, &entry.operation, &entry.source], [actor, operation, source], "{id}");
        assert!(credential.is_empty() || entry.credential == credential, "{entry:?}");
        assert_eq!((&*entry.object, &*entry.outcome, entry.times), (path, "refused", 1), "{id}");
        assert!(entry.detail.starts_with(&status.to_string()), "{entry:?}");
    }
    sealed(&admin).await;
}

pub(crate) async fn a_flood_of_refusals_is_a_handful_of_entries(set: Set) {
    let sandbox = guarded(sandbox(set));
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let took = wait::stopwatch();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let wrong = server.client_with("nonsense");
            tokio::spawn(async move {
                for _ in 0..250 {
                    assert_eq!(wrong.raw("GET", "/agents", &[], None).await.unwrap().status, 401);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let seconds = took().as_secs();
    let filter = AuditQuery { operation: Some("login".into()), ..AuditQuery::default() };
    let found = wait::until("all refusals to be counted", SOON, async || {
        let found = entries(&admin, &filter, 500).await;
        (found.iter().map(|entry| entry.times).sum::<u64>() >= 2000).then_some(found)
    })
    .await;
    assert_eq!(found.iter().map(|entry| entry.times).sum::<u64>(), 2000);
    // Alike ones are told once a second.
    assert!(found.len() as u64 <= seconds + 2, "{} entries in {seconds} s", found.len());
    sealed(&admin).await;
}

pub(crate) async fn lists_are_filtered_and_paged_without_gap_or_double(set: Set) {
    let sandbox = guarded(sandbox(set));
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let other = new_token(&admin, "other", &["admin"]).await;
    let by_other = server.client_with(&other.secret);
    for n in 0..11 {
        let made = new_token(if n % 2 == 0 { &admin } else { &by_other }, &format!("t{n}"), &[]).await;
        if n % 3 == 0 {
            by_other.revoke_token(made.token.id, None).await.unwrap();
        }
    }
    assert_eq!(call(&by_other, "POST", "/agents/ceo/start", "no", "").await.status, 403);
    told(&admin, "no").await;
    let all = sealed(&admin).await;
    assert_eq!(all.len(), 1 + 1 + 11 + 4 + 1);
    let text = |value: &str| Some(value.to_owned());
    let any = AuditQuery::default();
    for filter in [
        any.clone(),
        AuditQuery { actor: text("token:other"), ..any.clone() },
        AuditQuery { operation: text("tokens.revoke"), ..any.clone() },
        AuditQuery { outcome: text("refused"), ..any.clone() },
        AuditQuery { actor: text("token:other"), operation: text("tokens.create"), ..any.clone() },
        AuditQuery { actor: text("token:first"), outcome: text("refused"), ..any.clone() },
        AuditQuery { actor: text("token:OTHER"), ..any.clone() },
    ] {
        let passes =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let mut wanted: Vec<_> = all
            .iter()
            .filter(|entry| {
                passes(&filter.actor, &entry.actor) && passes(&filter.operation, &entry.operation)
            })
            .filter(|entry| passes(&filter.outcome, &entry.outcome))
            .cloned()
            .collect();
        wanted.sort_by_key(|entry| entry.id);
        for limit in [1, 3, 500] {
            assert_eq!(entries(&admin, &filter, limit).await, wanted, "{filter:?} by {limit}");
        }
    }
    // What comes while somebody reads does not shift the pages.
    let mut read = Vec::new();
    let mut cursor = None;
    for n in 0.. {
        let page = Page { limit: Some(4), cursor };
        let list = admin.audit(&AuditQuery { page, ..any.clone() }).await.unwrap();
        read.extend(list.audit.into_iter().map(|entry| entry.id));
        new_token(&admin, &format!("later{n}"), &[]).await;
        cursor = list.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let mut known: Vec<_> = all.iter().map(|entry| entry.id).collect();
    known.sort();
    read.reverse();
    assert_eq!(read, known);
    for bad in ["outcome=well", "cursor=x", "limit=0", "limit=501"] {
        let answer = admin.raw("GET", &format!("/audit?{bad}"), &[], None).await.unwrap();
        assert_eq!(answer.status, 422, "{bad}");
    }
}

pub(crate) async fn a_killed_server_has_told_of_every_change_that_it_acknowledged(set: Set) {
    let sandbox = guarded(sandbox(set));
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        let server = sandbox.start().await;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let admin = server.client_with(&sandbox.first_token());
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    for n in 0.. {
                        let id = format!("{round}-{writer}-{n}");
                        let body = format!(r#"{{"name":"t{id}"}}"#);
                        let headers = [("x-request-id", &*id), ("content-type", "application/json")];
                        match admin.raw("POST", "/tokens", &headers, Some(body.into())).await {
                            Ok(answer) if answer.status == 201 => done.push(id),
                            // Cut off by the kill: it may have happened or not.
                            _ => break,
                        }
                    }
                    done
                })
            })
            .collect();
        let admin = server.client_with(&sandbox.first_token());
        wait::until("some changes", SOON, async || {
            let page = Page { limit: Some(20 * (round + 1) + 1), cursor: None };
            let list = admin.audit(&AuditQuery { page, ..AuditQuery::default() }).await.ok()?;
            (list.audit.len() > 20 * (round as usize + 1)).then_some(())
        })
        .await;
        server.kill();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
    }
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    let all = sealed(&admin).await;
    let about: Vec<&str> = all.iter().map(|entry| &*entry.request_id).collect();
    assert!(acknowledged.len() >= 30, "{}", acknowledged.len());
    for id in &acknowledged {
        assert_eq!(about.iter().filter(|told| *told == id).count(), 1, "{id}");
    }
    // And the other way round: what is told of was done.
    let tokens = database::sql(&sandbox, "SELECT count(*) FROM tokens");
    let made = all.iter().filter(|entry| entry.operation == "tokens.create" && entry.outcome == "done");
    assert_eq!(made.count().to_string(), tokens.trim());
    verified(&sandbox, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_seal_one_chain() {
    let first = guarded(sandbox(Set::Servers));
    let one = first.start().await;
    let second = first.another_server();
    let two = second.start().await;
    let token = first.first_token();
    let writers: Vec<_> = [&one, &two]
        .into_iter()
        .enumerate()
        .map(|(which, server): (usize, &Server)| {
            let (admin, wrong) = (server.client_with(&token), server.client_with("nonsense"));
            tokio::spawn(async move {
                // For as long as each has sealed several times beside the other.
                let took = wait::stopwatch();
                let mut n = 0;
                while took().as_secs() < 3 {
                    new_token(&admin, &format!("s{which}-{n}"), &[]).await;
                    assert_eq!(wrong.raw("GET", "/agents", &[], None).await.unwrap().status, 401);
                    n += 1;
                }
                n
            })
        })
        .collect();
    let (mut made, mut here) = (0, 0);
    for writer in writers {
        here = writer.await.unwrap();
        made += here;
    }
    assert!(here > 0 && made > here, "both wrote");
    let admin = one.client_with(&token);
    // Each call with a good token stood beside one with a wrong one.
    wait::until("the refusals of both", SOON, async || {
        let filter = AuditQuery { operation: Some("login".into()), ..AuditQuery::default() };
        let told: u64 = entries(&admin, &filter, 500).await.iter().map(|entry| entry.times).sum();
        (told == made as u64).then_some(())
    })
    .await;
    let all = sealed(&admin).await;
    assert_eq!(all.iter().filter(|entry| entry.operation == "tokens.create").count(), made + 1);
    assert_eq!(all, sealed(&two.client_with(&token)).await, "both show the same chain");
    for sandbox in [&first, &second] {
        verified(sandbox, None);
    }
    assert!(one.stop().await.success() && two.stop().await.success());
    for sandbox in [&first, &second] {
        let said = verified(sandbox, None);
        assert!(said.contains(&format!("{} entries", all.len())), "{said}");
    }
}

/// `aito audit verify`: status, output, errors.
fn verify(sandbox: &Sandbox, heads: Option<&Path>) -> (ExitStatus, String, String) {
    let mut command = sandbox.command();
    command.args(["audit", "verify", "--config"]).arg(sandbox.config_file());
    command.arg("--data-dir").arg(sandbox.data_dir());
    if let Some(heads) = heads {
        command.arg("--heads").arg(heads);
    }
    sandbox.run(command)
}

fn verified(sandbox: &Sandbox, heads: Option<&Path>) -> String {
    let (status, said, why) = verify(sandbox, heads);
    assert!(status.success() && said.starts_with("the audit is whole: "), "{status}: {said}{why}");
    said
}

/// It must be found broken; gives what is said of it.
fn broken(sandbox: &Sandbox, heads: Option<&Path>) -> String {
    let (status, said, why) = verify(sandbox, heads);
    assert_eq!((status.code(), &*said), (Some(1), ""), "{why}");
    why
}

pub(crate) async fn the_chain_is_verified_beside_a_running_server_and_without_one(set: Set) {
    let sandbox = guarded(sandbox(set));
    let none = broken(&sandbox, None);
    assert!(none.contains("holds no installation"), "{none}");
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    verified(&sandbox, None);
    let writing = tokio::spawn(async move {
        for n in 0..60 {
            new_token(&admin, &format!("t{n}"), &[]).await;
        }
        admin
    });
    let mut looks = 0;
    while !writing.is_finished() || looks < 3 {
        tokio::task::block_in_place(|| verified(&sandbox, None));
        looks += 1;
    }
    let admin = writing.await.unwrap();
    let all = sealed(&admin).await;
    assert_eq!(all.len(), 61);
    assert!(server.stop().await.success());
    let said = verified(&sandbox, None);
    let last = all.last().unwrap();
    assert!(said.contains("61 entries") && said.contains("unsealed    0 "), "{said}");
    assert!(said.contains(&format!("61 {}", last.seal.as_deref().unwrap())), "{said}");
    // A stop exports the head, and a copy of the file is as good as the file.
    let copy = sandbox.root().join("heads");
    std::fs::copy(sandbox.data_dir().join("audit-heads.jsonl"), &copy).unwrap();
    let exported = std::fs::read_to_string(&copy).unwrap();
    let end = format!("\"n\":61,\"seal\":\"{}\"", last.seal.as_deref().unwrap());
    assert!(exported.lines().last().unwrap().contains(&end), "{exported}");
    let count = exported.lines().count();
    let said = verified(&sandbox, Some(&copy));
    assert!(said.contains(&format!("{count} of {count} heads")), "{said}");
    // Not a file of heads, none at all, and heads that another installation or nobody signed.
    assert!(broken(&sandbox, Some(&sandbox.root().join("nowhere"))).contains("nowhere"));
    std::fs::write(&copy, format!("{exported}x\n")).unwrap();
    assert!(broken(&sandbox, Some(&copy)).contains(&format!("line {}", count + 1)));
    std::fs::write(&copy, exported.replacen("\"n\":61", "\"n\":60", 1)).unwrap();
    assert!(broken(&sandbox, Some(&copy)).contains("the signature of the head 60 "));
}

pub(crate) async fn a_chain_that_was_tampered_with_is_found_out(set: Set) {
    let sandbox = guarded(sandbox(set));
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    for n in 0..8 {
        new_token(&admin, &format!("t{n}"), &[]).await;
    }
    let all = sealed(&admin).await;
    assert!(server.stop().await.success());
    let own = sandbox.data_dir().join("audit-heads.jsonl");
    let (copy, none) = (sandbox.root().join("copy"), sandbox.root().join("none"));
    std::fs::copy(&own, &copy).unwrap();
    std::fs::write(&none, "").unwrap();
    let do_sql = |statements: &str| database::sql(&sandbox, statements);
    do_sql("CREATE TABLE kept AS SELECT * FROM audit; CREATE TABLE kept_head AS SELECT * FROM audit_head;");
    let restore = "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept;
        DELETE FROM audit_head; INSERT INTO audit_head SELECT * FROM kept_head;";
    let cut = "DELETE FROM audit WHERE n > 5; UPDATE audit_head SET n = 5;
        UPDATE audit_head SET seal = (SELECT seal FROM audit WHERE n = 5);";
    let remade = remade(set, &all);
    // What was done, what a look without any exported head says of it, and what the exported ones say.
    let changed = "entry 3 was changed";
    let anew = "that was exported is not the chain's: the chain was made anew";
    for (statements, alone, with_heads) in [
        ("UPDATE audit SET actor = 'token:nobody' WHERE n = 3", Some(changed), changed),
        ("UPDATE audit SET times = 2 WHERE n = 3", Some(changed), changed),
        ("DELETE FROM audit WHERE n = 3", Some("entry 3 is missing: 4 follows"), "entry 3 is missing"),
        (
            "DELETE FROM audit WHERE n > 5",
            Some("the chain ends at 5, and its head says 9"),
            "the chain ends at 5",
        ),
        (cut, None, "the chain ends at 5, and its head says "),
        (&remade, None, anew),
    ] {
        do_sql(statements);
        match alone {
            Some(said) => assert!(broken(&sandbox, Some(&none)).contains(said), "{statements}"),
            // In itself it is in order: only what was kept elsewhere tells.
            None => _ = verified(&sandbox, Some(&none)),
        }
        let said = broken(&sandbox, Some(&copy));
        assert!(said.contains(with_heads), "{statements}: {said}");
        assert_eq!(broken(&sandbox, None), said, "the file that lies beside says the same");
        do_sql(restore);
    }
    verified(&sandbox, None);
    // Who also empties the file that lies beside is found out by the copy alone.
    do_sql(&remade);
    std::fs::write(&own, "").unwrap();
    verified(&sandbox, None);
    assert!(broken(&sandbox, Some(&copy)).contains(anew));
}

/// Statements that put somebody else into the third entry and make the chain anew from there.
fn remade(set: Set, all: &[AuditEntry]) -> String {
    let bytes = |seal: Seal| match set {
        Set::Embedded => format!("X'{seal}'"),
        Set::Servers => format!("'\\x{seal}'"),
    };
    let mut head = Head::NONE;
    let mut statements = "UPDATE audit SET actor = 'token:nobody' WHERE n = 3;".to_owned();
    for entry in all {
        let seal: Seal = entry.seal.as_deref().unwrap().parse().unwrap();
        let mut entry = in_domain(entry);
        let honest = head.then(&entry);
        assert!(honest.n > 3 || honest.seal == seal, "a seal is what it is documented to be");
        if honest.n == 3 {
            entry.actor = "token:nobody".to_owned();
        }
        head = head.then(&entry);
        statements += &format!("UPDATE audit SET seal = {} WHERE n = {};", bytes(head.seal), head.n);
    }
    statements += &format!("UPDATE audit_head SET seal = {};", bytes(head.seal));
    statements
}

fn in_domain(entry: &AuditEntry) -> audit::AuditEntry {
    audit::AuditEntry {
        id: AuditId(entry.id),
        at: millis(entry.at.timestamp_millis()),
        actor: entry.actor.clone(),
        credential: entry.credential.clone(),
        operation: entry.operation.clone(),
        object: entry.object.clone(),
        source: entry.source.clone(),
        request_id: entry.request_id.clone(),
        outcome: Outcome::parse(&entry.outcome).unwrap(),
        detail: entry.detail.clone(),
        times: entry.times,
    }
}

/// Old entries go after days of real time, which no test waits for here: a sealed one cannot be put in with an older
/// time. What a store forgets, and that a checkpoint stands for it, is in its contract.
#[test]
fn how_long_it_is_kept_is_checked_at_the_start() {
    for (value, good) in
        [("0", true), ("1", true), ("36500", true), ("36501", false), ("-1", false), ("a", false)]
    {
        let mut sandbox = guarded(sandbox(Set::Embedded));
        sandbox.env.insert("AITO_AUDIT__KEEP_DAYS".to_owned(), value.to_owned());
        let mut command = sandbox.command();
        command.args(["config", "--config"]).arg(sandbox.config_file());
        let (status, said, why) = sandbox.run(command);
        assert_eq!(status.success(), good, "{value}: {why}");
        let shown = said.lines().find(|line| line.starts_with("audit.keep_days")).unwrap_or(&why);
        assert!(shown.contains("AITO_AUDIT__KEEP_DAYS") && shown.contains("audit.keep_days"), "{shown}");
        assert!(!good || shown.contains(value), "{shown}");
    }
}
