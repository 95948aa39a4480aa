//! Bad input is refused with a reason that names the place, and nothing changes.

use aito_client::{Client, EventQuery, RawAnswer};
use aito_harness::Set;
use aito_harness::wait;
use serde_json::Value;

use crate::{SOON, as_agent, credential, get, post, refused, sandbox, sandbox_with_leaky_ceo};

pub(crate) async fn unknown_and_invalid_requests_are_refused(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    for path in [
        "/agents/xyz",
        "/agents/xyz/history",
        "/agents/xyz/events",
        "/agents/xyz/spec",
        "/agents/XYZ",
        "/agents/xyz/health",
        "/agents/xyz/logs",
        "/agents/xyz/stats",
        "/nowhere",
        "/agents/%00",
        "/agents/..%2f",
    ] {
        refused(&get(&client, path).await, 404);
    }
    for path in ["/agents/xyz/start", "/agents/xyz/stop", "/agents/xyz/restart"] {
        refused(&post(&client, path, "").await, 404);
    }
    for limit in ["0", "501", "abc", "-1", "1e3", "", "5.0", "99999999999999999999"] {
        for path in ["/events", "/agents/ceo/events", "/agents/ceo/history", "/agents"] {
            assert_eq!(
                refused(&get(&client, &format!("{path}?limit={limit}")).await, 422),
                ["?limit"],
                "{path} {limit}"
            );
        }
    }
    for (query, pointer) in [
        ("/agents?status=odd", "?status"),
        ("/agents?status=Active", "?status"),
        ("/agents?cursor=..", "?cursor"),
        ("/events?type=Bad-Type", "?type"),
        ("/events?cursor=x", "?cursor"),
        ("/events?limit=1&limit=2", "?limit"),
        ("/agents/ceo/history?cursor=x", "?cursor"),
        ("/agents/ceo/logs?tail=0", "?tail"),
        ("/agents/ceo/logs?since=yesterday", "?since"),
        ("/agents/ceo/logs?follow=maybe", "?follow"),
        ("/ready?scope=half", "?scope"),
        ("/ws?types=odd", "?types"),
        ("/ws?since=odd", "?since"),
    ] {
        assert_eq!(refused(&get(&client, query).await, 422), [pointer], "{query}");
    }
    // A position of another epoch is no cursor of this log.
    assert_eq!(refused(&get(&client, "/events?cursor=other-1").await, 422), ["?cursor"]);
    assert_eq!(refused(&get(&client, "/ws").await, 422), ["Upgrade"], "no handshake");
    // Both faults at once.
    assert_eq!(refused(&get(&client, "/agents?limit=0&status=odd").await, 422), ["?limit", "?status"]);
    refused(&get(&client, "/agents/ceo/logs").await, 404);
    refused(&get(&client, "/agents/ceo/stats").await, 409);
    let events = client.events(&EventQuery::default()).await.unwrap().events;
    let at_start = ["token_created", "agent_registered", "domain_added"];
    assert!(
        events.iter().all(|event| at_start.contains(&event.event_type.as_str())),
        "nothing may have changed: {events:?}"
    );
}

pub(crate) async fn wrong_methods_name_the_right_ones_and_later_paths_say_so(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    for (method, path, allow) in [
        ("DELETE", "/agents", "GET, HEAD"),
        ("GET", "/agents/ceo/start", "POST"),
        ("PUT", "/agents/ceo/history", "GET, HEAD, POST"),
        ("POST", "/events", "GET, HEAD"),
        ("POST", "/ws", "GET, HEAD"),
        ("DELETE", "/decisions", "GET, HEAD, POST"),
        ("DELETE", "/tasks", "GET, HEAD, POST"),
        ("DELETE", "/tasks/1", "GET, HEAD, PATCH"),
        ("GET", "/tasks/claim", "POST"),
        ("POST", "/settings", "GET, HEAD"),
        ("GET", "/settings/queue/delay_low", "POST"),
    ] {
        let answer = client.raw(method, path, &[], None).await.unwrap();
        refused(&answer, 405);
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    for (method, path) in [
        ("GET", "/decisions"),
        ("GET", "/decisions/pending"),
        ("GET", "/workers"),
        ("POST", "/knowledge"),
        ("POST", "/benchmark/run"),
        ("GET", "/scheduler/jobs"),
        ("GET", "/fleet"),
    ] {
        refused(&client.raw(method, path, &[], None).await.unwrap(), 501);
    }
    let head = client.raw("HEAD", "/agents", &[], None).await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
}

pub(crate) async fn bodies_are_checked_whole(set: Set) {
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    server.client().start("ceo").await.unwrap();
    let agent = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let beat = "/agents/ceo/heartbeat";
    for body in ["", "{", "x", "{} {}", "\u{0}"] {
        refused(&post(&agent, beat, body).await, 400);
    }
    for (body, pointers) in [
        (r#"{"loopCount":-1}"#, vec!["/loopCount"]),
        (r#"{"loopCount":"many"}"#, vec!["/loopCount"]),
        (r#"{"loopCount":1.5}"#, vec!["/loopCount"]),
        (r#"{"status":"dancing"}"#, vec!["/status"]),
        (r#"{"lastLoopAt":"noon"}"#, vec!["/lastLoopAt"]),
        (r#"{"loopCount":-1,"status":"x","lastLoopAt":"y"}"#, vec!["/loopCount", "/status", "/lastLoopAt"]),
        ("[]", vec![""]),
        ("1", vec![""]),
    ] {
        assert_eq!(refused(&post(&agent, beat, body).await, 422), pointers, "{body}");
    }
    let long = format!(r#"{{"currentFocus":"{}"}}"#, "x".repeat(501));
    assert_eq!(refused(&post(&agent, beat, &long).await, 422), ["/currentFocus"]);
    assert_eq!(refused(&post(&agent, beat, r#"{"currentFocus":"a\u0000b"}"#).await, 422), ["/currentFocus"]);
    let huge = format!(r#"{{"currentFocus":"{}"}}"#, "x".repeat(1 << 20));
    refused(&post(&agent, beat, &huge).await, 413);
    let plain = agent.raw("POST", beat, &[("content-type", "text/plain")], Some("{}".into())).await.unwrap();
    refused(&plain, 415);
    let history = "/agents/ceo/history";
    assert_eq!(refused(&post(&agent, history, "{}").await, 422), ["/actionType", "/summary"]);
    assert_eq!(
        refused(&post(&agent, history, r#"{"actionType":"dance","summary":" "}"#).await, 422),
        ["/actionType", "/summary"]
    );
    assert_eq!(
        refused(
            &post(&agent, history, r#"{"actionType":"idea","summary":"a\u0000","details":["\u0000"]}"#).await,
            422
        ),
        ["/summary", "/details"]
    );
    let detail = server.client().agent("ceo").await.unwrap();
    assert_eq!((detail.loop_count, detail.last_heartbeat), (0, None), "a refused heartbeat is not heard");
    // And a good one is.
    assert_eq!(post(&agent, beat, r#"{"loopCount":3,"unknown":true}"#).await.status, 200);
    let created = post(&agent, history, r#"{"actionType":"idea","summary":"s","details":{"a":1}}"#).await;
    assert_eq!(created.status, 201);
    assert!(created.header("location").unwrap().starts_with("/agents/ceo/history/"));
    assert_eq!(created.json().unwrap()["history"]["details"], serde_json::json!({"a": 1}));
}

pub(crate) async fn what_cannot_start_is_refused_by_name_and_nothing_changes(set: Set) {
    let sandbox = sandbox(set);
    sandbox.configure(
        "[agents.ceo]\nprofile = \"/nowhere/ceo.md\"\n\
         [agents.cmo]\ncommand = [\"/nowhere/program\"]\n\
         [agents.cto.secrets]\nKEY = { env = \"NOT_SET_ANYWHERE\" }\n",
    );
    let server = sandbox.start().await;
    let client = server.client();
    wait::until("all agents", SOON, async || {
        (client.agents(None).await.ok()?.agents.len() == 7).then_some(())
    })
    .await;
    for (agent, named) in
        [("ceo", "/nowhere/ceo.md"), ("cmo", "/nowhere/program"), ("cto", "NOT_SET_ANYWHERE")]
    {
        let answer = post(&client, &format!("/agents/{agent}/start"), "").await;
        refused(&answer, 422);
        let body: Value = answer.json().unwrap();
        assert!(body["error"].as_str().unwrap().contains(named), "{body}");
        let detail = client.agent(agent).await.unwrap();
        assert_eq!((detail.incarnation, detail.status), (0, aito_api::AgentStatus::Inactive));
    }
    let events = client.events(&EventQuery::default()).await.unwrap().events;
    // Beside the list of domains that every installation begins with.
    let others = events.iter().filter(|event| event.event_type != "domain_added").count();
    assert_eq!(others, 8, "seven agents, one token: {events:?}");
}

const ID: &str = "018f0000-0000-7000-8000-000000000000";

async fn call(client: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> RawAnswer {
    let mut headers = headers.to_vec();
    headers.push(("content-type", "application/json"));
    let body = (!body.is_empty()).then(|| body.into());
    client.raw(method, path, &headers, body).await.unwrap()
}

/// Everything that daily work changes, as it is now.
async fn state_of_work(client: &Client) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        "/tasks",
        "/agents/ceo/mailbox",
        "/agents/cmo/mailbox",
        "/agents/ceo/state",
        "/domains/whitelist",
        "/domains/approval-requests",
        "/settings",
        "/events?limit=1",
    ] {
        all.push(get(client, path).await.json().unwrap());
    }
    all
}

pub(crate) async fn bad_tasks_mail_notes_domains_and_settings_change_nothing(set: Set) {
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    credential(&sandbox, 1).await;
    let task = r#"{"title":"t","assignTo":"ceo","priority":"low"}"#;
    let task: Value = post(&client, "/tasks", task).await.json().unwrap();
    let task = format!("/tasks/{}", task["task"]["id"].as_str().unwrap());
    let before = state_of_work(&client).await;
    let (title, text, error) = ("x".repeat(501), "x".repeat(50_001), "x".repeat(10_001));
    let large = format!("\"{}\"", "x".repeat(65_535));
    for (method, path, body, pointers) in [
        ("POST", "/tasks", "{}".to_owned(), vec!["/title", "/priority", "/assignTo"]),
        (
            "POST",
            "/tasks",
            format!(r#"{{"title":"{title}","assignTo":"ceo","priority":"low"}}"#),
            vec!["/title"],
        ),
        (
            "POST",
            "/tasks",
            format!(r#"{{"title":"t","description":"{text}","assignTo":"ceo","priority":"low"}}"#),
            vec!["/description"],
        ),
        ("POST", "/tasks", r#"{"title":"t","assignTo":"ceo","priority":"High"}"#.into(), vec!["/priority"]),
        (
            "POST",
            "/tasks",
            r#"{"title":"t","assignTo":"ceo","priority":"low","dueDate":"2026-02-30T00:00:00Z"}"#.into(),
            vec!["/dueDate"],
        ),
        ("POST", "/tasks", r#"{"title":"t","assignTo":["ceo"],"priority":"low"}"#.into(), vec!["/assignTo"]),
        ("PATCH", &task, "{}".into(), vec![""]),
        ("PATCH", &task, r#"{"status":"completed"}"#.into(), vec!["/status"]),
        ("PATCH", &task, r#"{"unknown":1}"#.into(), vec![""]),
        ("POST", &format!("{task}/complete"), format!(r#"{{"result":{large}}}"#), vec!["/result"]),
        ("POST", &format!("{task}/fail"), "{}".into(), vec!["/error"]),
        ("POST", &format!("{task}/fail"), format!(r#"{{"error":"{error}"}}"#), vec!["/error"]),
        ("POST", &format!("{task}/cancel"), format!(r#"{{"reason":"{error}"}}"#), vec!["/reason"]),
        ("POST", "/tasks/claim", "{}".into(), vec!["/agent"]),
        ("POST", "/agents/ceo/message", "{}".into(), vec!["/message", "/priority"]),
        (
            "POST",
            "/agents/ceo/message",
            format!(r#"{{"message":"{error}","priority":"low"}}"#),
            vec!["/message"],
        ),
        ("POST", "/broadcast", "{}".into(), vec!["/message"]),
        ("PUT", "/agents/ceo/state/seen", "{}".into(), vec!["/value"]),
        ("PUT", "/agents/ceo/state/seen", format!(r#"{{"value":{large}}}"#), vec!["/value"]),
        ("PUT", "/agents/ceo/state/a%20b", r#"{"value":"\u0000"}"#.into(), vec!["?key", "/value"]),
        ("POST", "/domains/whitelist", "{}".into(), vec!["/domain", "/category"]),
        ("POST", "/domains/approval-requests", "{}".into(), vec!["/domain"]),
        (
            "POST",
            "/domains/approval-requests",
            r#"{"domain":"a.example.com","url":"https://b.example.com"}"#.into(),
            vec!["/url"],
        ),
        ("POST", "/settings/queue/delay_low", "{}".into(), vec!["/value"]),
        ("POST", "/settings/queue/delay_low", r#"{"value":null}"#.into(), vec!["/value"]),
        ("POST", "/settings/queue/delay_low", r#"{"value":86400001}"#.into(), vec!["/value"]),
        ("POST", "/settings/queue/delay_low", r#"{"value":"1"}"#.into(), vec!["/value"]),
        ("POST", "/settings/queue/delay_low", r#"{"value":1.5}"#.into(), vec!["/value"]),
        ("POST", "/settings/llm/routing_strategy", r#"{"value":"Claude only"}"#.into(), vec!["/value"]),
        ("POST", "/settings/agents/loop_interval_xyz", r#"{"value":1}"#.into(), vec!["?key"]),
        ("POST", "/settings/tasks/max_in_progress", r#"{"value":0}"#.into(), vec!["/value"]),
        ("POST", "/settings/governance/tiers", r#"{"value":1}"#.into(), vec!["?key"]),
        ("POST", "/settings/mine/a%20b", r#"{"value":1}"#.into(), vec!["?key"]),
    ] {
        let found = refused(&call(&client, method, path, &[], &body).await, 422);
        assert_eq!(found, pointers, "{method} {path} {}", &body[..body.len().min(80)]);
    }
    for name in [
        "com",
        "co.uk",
        "github.io",
        "1.2.3.4",
        "[::1]",
        "0x7f.1",
        "*.example.com",
        "https://example.com",
        "example.com/x",
        "u@example.com",
        "example.com:80",
        "a_b.example.com",
        "-a.example.com",
        "a..example.com",
        "",
        "localhost",
        "exa mple.com",
    ] {
        let body = serde_json::json!({"domain": name, "category": "c"}).to_string();
        for path in ["/domains/whitelist", "/domains/approval-requests"] {
            assert_eq!(refused(&post(&client, path, &body).await, 422), ["/domain"], "{path} {name}");
        }
        let query = serde_json::json!(name).as_str().unwrap().replace(' ', "%20").replace('+', "%2B");
        let check = get(&client, &format!("/domains/check?domain={query}")).await;
        assert_eq!(refused(&check, 422), ["?domain"], "{name}");
    }
    assert_eq!(refused(&get(&client, "/domains/check").await, 422), ["?domain"]);
    for limit in ["0", "501", "-1", "x", "", "1e1"] {
        for path in [
            "/tasks",
            "/agents/ceo/mailbox",
            "/agents/ceo/state",
            "/domains/whitelist",
            "/domains/approval-requests",
        ] {
            let answer = get(&client, &format!("{path}?limit={limit}")).await;
            assert_eq!(refused(&answer, 422), ["?limit"], "{path} {limit}");
        }
    }
    for (query, pointer) in [
        ("/tasks?offset=-1", "?offset"),
        ("/tasks?offset=100001", "?offset"),
        ("/tasks?cursor=", "?cursor"),
        ("/tasks?assignedTo=xyz", "?assignedTo"),
        ("/tasks?assignedTo=018f0000-0000-7000-8000-000000000000", "?assignedTo"),
        ("/tasks?status=Pending", "?status"),
        ("/agents/ceo/mailbox?wait=61", "?wait"),
        ("/agents/ceo/mailbox?wait=1&known=1,2", "?known"),
        ("/agents/ceo/mailbox?wait=-1", "?wait"),
        ("/agents/ceo/mailbox?cursor=OS4w", "?cursor"),
    ] {
        assert_eq!(refused(&get(&client, query).await, 422), [pointer], "{query}");
    }
    for (method, path, body) in [
        ("GET", format!("/tasks/{ID}"), ""),
        ("PATCH", format!("/tasks/{ID}"), r#"{"title":"t"}"#),
        ("POST", format!("/tasks/{ID}/complete"), ""),
        ("POST", format!("/tasks/{ID}/fail"), r#"{"error":"e"}"#),
        ("POST", format!("/tasks/{ID}/cancel"), ""),
        ("POST", format!("/agents/ceo/mailbox/{ID}/ack"), ""),
        ("POST", "/agents/xyz/message".into(), r#"{"message":"m","priority":"low"}"#),
        ("GET", "/agents/xyz/state".into(), ""),
        ("PUT", "/agents/xyz/state/seen".into(), r#"{"value":1}"#),
        ("DELETE", "/domains/example.com".into(), ""),
        ("DELETE", "/domains/com".into(), ""),
        ("POST", format!("/domains/approval-requests/{ID}/approve"), ""),
        ("POST", format!("/domains/approval-requests/{ID}/reject"), "null"),
    ] {
        refused(&call(&client, method, &path, &[], body).await, 404);
    }
    // Nobody speaks for an agent that was never started.
    refused(&call(&client, "PUT", "/agents/cmo/state/seen", &[], r#"{"value":1}"#).await, 409);
    refused(&post(&client, "/tasks/claim", r#"{"agent":"cmo"}"#).await, 409);
    refused(&post(&client, "/tasks", "{\"title\":").await, 400);
    assert_eq!(state_of_work(&client).await, before);
}

pub(crate) async fn what_is_repeated_with_its_key_is_done_once(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    wait::until("all agents", SOON, async || {
        (client.agents(None).await.ok()?.agents.len() == 7).then_some(())
    })
    .await;
    for (path, body, other, same) in [
        (
            "/tasks",
            r#"{"title":"t","assignTo":"ceo","priority":"low"}"#,
            r#"{"title":"u","assignTo":"ceo","priority":"low"}"#,
            "/task/id",
        ),
        (
            "/agents/ceo/message",
            r#"{"message":"m","priority":"low"}"#,
            r#"{"message":"n","priority":"low"}"#,
            "/message/id",
        ),
        (
            "/broadcast",
            r#"{"message":"m","priority":"low"}"#,
            r#"{"message":"m","priority":"high"}"#,
            "/broadcast/messages/0/id",
        ),
        (
            "/domains/whitelist",
            r#"{"domain":"example.com","category":"c"}"#,
            r#"{"domain":"example.org","category":"c"}"#,
            "/domain/id",
        ),
    ] {
        let once = async |body: &str| call(&client, "POST", path, &[("idempotency-key", "k-1")], body).await;
        let first = once(body).await;
        assert_eq!(first.status, 201, "{path}: {}", String::from_utf8_lossy(&first.body));
        let id = |answer: &RawAnswer| answer.json().unwrap().pointer(same).cloned().unwrap();
        let before = state_of_work(&client).await;
        for _ in 0..2 {
            let again = once(body).await;
            assert_eq!((again.status, id(&again)), (201, id(&first)), "{path}");
            assert_eq!(again.header("location"), first.header("location"), "{path}");
            assert_eq!(again.body, first.body, "{path}");
        }
        refused(&once(other).await, 409);
        let bad = call(&client, "POST", path, &[("idempotency-key", "a b")], body).await;
        assert_eq!(refused(&bad, 422), ["Idempotency-Key"], "{path}");
        assert_eq!(state_of_work(&client).await, before, "{path}");
        // Without a key, or with another, it is another.
        if path != "/domains/whitelist" {
            let second = call(&client, "POST", path, &[("idempotency-key", "k-2")], body).await;
            assert_ne!(id(&second), id(&first), "{path}");
        }
    }
    assert_eq!(get(&client, "/tasks").await.json().unwrap()["total"], 2);
}

pub(crate) async fn what_was_changed_since_is_not_overwritten(set: Set) {
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let made = post(&client, "/tasks", r#"{"title":"t","assignTo":"cmo","priority":"low"}"#).await;
    let task = made.header("location").unwrap().to_owned();
    let made = post(&client, "/domains/whitelist", r#"{"domain":"example.com","category":"c"}"#).await;
    let entry = made.header("location").unwrap().to_owned();
    let note = "/agents/ceo/state/seen";
    let setting = "/settings/queue/delay_low";
    for (method, path, one, two) in [
        ("PATCH", &*task, r#"{"title":"u"}"#, r#"{"title":"v"}"#),
        ("PUT", note, r#"{"value":1}"#, r#"{"value":2}"#),
        ("POST", setting, r#"{"value":1}"#, r#"{"value":2}"#),
    ] {
        let with =
            async |seen: &str, body: &str| call(&client, method, path, &[("if-match", seen)], body).await;
        let first = call(&client, method, path, &[], one).await;
        assert_eq!(first.status, 200, "{path}");
        let seen = first.header("etag").unwrap().to_owned();
        let before = state_of_work(&client).await;
        for past in ["\"0\"", "\"999\"", "W/\"1\"", "x", &format!("W/{seen}")] {
            refused(&with(past, two).await, 412);
        }
        assert_eq!(state_of_work(&client).await, before, "{path}");
        let second = with(&seen, two).await;
        assert_eq!(second.status, 200, "{path}");
        refused(&with(&seen, one).await, 412);
        assert_eq!(with("*", one).await.status, 200, "{path}");
    }
    // What was never written has the version 0, and is not there.
    let never = [("if-match", "\"0\"")];
    for (method, path) in [("PUT", "/agents/ceo/state/new"), ("POST", "/settings/mine/new")] {
        refused(&call(&client, method, path, &[("if-match", "*")], r#"{"value":1}"#).await, 412);
    }
    for status in [200, 412] {
        for (method, path) in [("PUT", "/agents/ceo/state/new"), ("POST", "/settings/mine/new")] {
            let answer = call(&client, method, path, &never, r#"{"value":1}"#).await;
            assert_eq!(answer.status, status, "{path}");
        }
    }
    for (path, pointer) in [
        ("/agents/ceo/state", "/state/0/etag"),
        ("/settings", "/settings/mine/new"),
        ("/settings", "/etags/mine/new"),
    ] {
        let body: Value = get(&client, path).await.json().unwrap();
        assert!(body.pointer(pointer).is_some_and(|one| one == "\"1\"" || one == 1), "{path}: {body}");
    }
    refused(&call(&client, "DELETE", &entry, &[("if-match", "\"9\"")], "").await, 412);
    let seen = made.header("etag").unwrap();
    assert_eq!(call(&client, "DELETE", &entry, &[("if-match", seen)], "").await.status, 200);
    refused(&call(&client, "DELETE", &entry, &[], "").await, 404);
}
