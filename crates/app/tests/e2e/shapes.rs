//! The documented shapes, field by field, as the contract page writes them.

use aito_api::{AgentStatus, NewHistory};
use aito_harness::Set;
use serde_json::{Value, json};

use crate::{get, post, sandbox, until_status};

/// Every key of `documented` must be there, of the same JSON type; more may be.
fn has_shape(found: &Value, documented: &Value, at: &str) {
    match (found, documented) {
        (Value::Object(found), Value::Object(documented)) => {
            for (key, value) in documented {
                let found = found.get(key).unwrap_or_else(|| panic!("{at}/{key} is missing in {found:?}"));
                has_shape(found, value, &format!("{at}/{key}"));
            }
        }
        (Value::Array(found), Value::Array(documented)) if documented.is_empty() => {
            assert!(found.is_empty(), "{at} is not empty: {found:?}");
        }
        (Value::Array(found), Value::Array(documented)) => {
            let found = found.first().unwrap_or_else(|| panic!("{at} is empty"));
            has_shape(found, &documented[0], &format!("{at}/0"));
        }
        (Value::Bool(_), Value::Bool(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Null, Value::Null) => {}
        (Value::String(found), Value::String(documented)) if documented.ends_with('Z') => is_time(found, at),
        (Value::String(_), Value::String(_)) => {}
        _ => panic!("{at}: {found} is not of the type of {documented}"),
    }
}

/// RFC 3339, UTC, exactly three decimals.
fn is_time(text: &str, at: &str) {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z", "{at}");
}

const TIME: &str = "2025-12-20T10:00:00.000Z";

pub(crate) async fn documented_answers_have_their_documented_shapes(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    let started = post(&client, "/agents/ceo/start", "").await.json().unwrap();
    has_shape(
        &started,
        &json!({"success": true, "message": "Agent ceo started", "containerId": "aito-ceo-abc123"}),
        "",
    );
    let name = started["containerId"].as_str().unwrap();
    let code = name.strip_prefix("aito-ceo-").unwrap();
    assert!(code.len() == 6 && code.bytes().all(|b| b.is_ascii_alphanumeric()), "{name}");
    until_status(&client, "ceo", AgentStatus::Active).await;
    client.record_history("ceo", &NewHistory::new("decision", "Approved marketing campaign")).await.unwrap();

    let agent = json!({"id": "x", "type": "ceo", "name": "CEO Agent", "status": "active", "loopInterval": 1800,
        "lastHeartbeat": TIME, "containerStatus": "running"});
    let mut detail = agent.clone();
    for (key, value) in [
        ("profilePath", json!("/profiles/ceo.md")),
        ("loopCount", json!(42)),
        ("containerId", json!("x")),
        ("incarnation", json!(1)),
        ("health", json!("ok")),
        ("tier", json!("head")),
        ("restarts", json!(0)),
        ("stale", json!(false)),
    ] {
        detail[key] = value;
    }
    let event = json!({"id": "x", "eventType": "agent_started", "sourceAgent": "x",
        "payload": {"agentType": "ceo"}, "createdAt": TIME, "position": "e-1", "actor": "system"});
    for (path, shape) in [
        ("/health", json!({"status": "ok", "timestamp": TIME})),
        ("/ready", json!({"ready": true, "checks": {"database": "ok", "redis": "ok"}})),
        (
            "/health/full",
            json!({"status": "healthy", "uptime": 1, "components": {
            "database": {"status": "healthy", "latency": 5}, "redis": {"status": "healthy", "latency": 2},
            "runtime": {"status": "healthy", "latency": 0},
            "agents": {"ceo": {"status": "active", "lastHeartbeat": TIME}}}}),
        ),
        ("/agents", json!({"agents": [agent]})),
        ("/agents/ceo", detail),
        (
            "/agents/ceo/history",
            json!({"history": [{"id": "x", "actionType": "decision", "summary": "s", "createdAt": TIME}]}),
        ),
        ("/agents/ceo/events", json!({"events": [event]})),
        ("/events?type=agent_started", json!({"events": [event]})),
        ("/agents/ceo/spec", json!({"success": true, "spec": {"type": "ceo", "env": {}, "restart": {}}})),
        ("/agents/ceo/health", json!({"success": true, "health": {"type": "ceo", "health": "ok"}})),
        ("/agents/ceo/stats", json!({"success": true, "stats": {"memoryBytes": 1, "readAt": TIME}})),
        ("/agents/ceo/logs", json!({"logs": [{"at": TIME, "stream": "stdout", "message": "m"}]})),
    ] {
        let answer = get(&client, path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("x-request-id").is_some());
        has_shape(&answer.json().unwrap(), &shape, path);
    }
    let listed = get(&client, "/agents?status=active").await.json().unwrap();
    assert_eq!(listed["agents"].as_array().unwrap().len(), 1);
    let beat = post(&client, "/agents/ceo/heartbeat", "{\"loopCount\":5}").await.json().unwrap();
    has_shape(
        &beat,
        &json!({"loopInterval": 1800, "settingsVersion": 0, "desired": "running", "mailbox": 0}),
        "",
    );
    let stopped = post(&client, "/agents/ceo/stop", "").await.json().unwrap();
    assert_eq!(stopped, json!({"success": true, "message": "Agent ceo stopped"}));
}

pub(crate) async fn the_seven_agents_have_their_documented_intervals_and_tiers(set: Set) {
    let sandbox = sandbox(set);
    sandbox.configure("");
    let server = sandbox.start().await;
    let client = server.client();
    aito_harness::wait::until("all agents", crate::SOON, async || {
        (client.agents(None).await.ok()?.agents.len() == 7).then_some(())
    })
    .await;
    for (agent, interval, tier) in [
        ("ceo", 1800, "head"),
        ("dao", 14_400, "head"),
        ("cmo", 7200, "clevel"),
        ("cto", 3600, "clevel"),
        ("cfo", 14_400, "clevel"),
        ("coo", 3600, "clevel"),
        ("cco", 43_200, "clevel"),
    ] {
        let found = get(&client, &format!("/agents/{agent}")).await.json().unwrap();
        assert_eq!((&found["loopInterval"], &found["tier"]), (&json!(interval), &json!(tier)), "{agent}");
        assert_eq!(
            (&found["status"], &found["lastHeartbeat"], &found["containerId"]),
            (&json!("inactive"), &Value::Null, &Value::Null)
        );
    }
}

pub(crate) async fn metrics_are_text_that_a_scraper_reads_and_the_api_describes_itself(set: Set) {
    let sandbox = sandbox(set);
    let server = sandbox.start().await;
    let client = server.client();
    get(&client, "/agents").await;
    let metrics = get(&client, "/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(
        text.contains("aito_http_requests_total{method=\"GET\",route=\"/agents\",status=\"200\"} 1"),
        "{text}"
    );
    assert!(text.trim_end().ends_with("# EOF"));
    let api = get(&client, "/openapi.json").await.json().unwrap();
    assert_eq!(api["openapi"].as_str().map(|v| v.starts_with("3.1")), Some(true));
    assert_eq!(api["info"]["title"], "aito");
    for path in ["/agents/{type}/start", "/events", "/ws", "/agents/{type}/heartbeat"] {
        assert!(api["paths"].get(path).is_some(), "{path} is not described");
    }
}

/// What the server sends of tasks, mailboxes, notes, domains and settings: every field, each of its type; null where it
/// has no value.
pub(crate) async fn tasks_mail_notes_domains_and_settings_have_their_documented_shapes(set: Set) {
    let sandbox = sandbox(set);
    crate::roles::configure(&sandbox);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let ceo = crate::as_agent(&sandbox, &crate::roles::credential(&sandbox, "ceo", 1).await);
    let task = json!({"id": "x", "title": "Report", "description": "Two pages", "status": "pending",
        "priority": "high", "assignedTo": "ceo", "createdBy": "x", "actor": "agent:ceo", "dueDate": TIME,
        "result": null, "error": null, "overdue": false, "claims": 0, "lease": null, "endedAt": null,
        "etag": "\"1\"", "createdAt": TIME, "updatedAt": TIME});
    let with = |shape: &Value, changes: &[(&str, Value)]| {
        let mut shape = shape.clone();
        for (key, value) in changes {
            shape[*key] = value.clone();
        }
        shape
    };
    let mail = json!({"id": "x", "kind": "message", "from": "unauthenticated", "fromAgent": null,
        "priority": "low", "payload": {"message": "m"}, "createdAt": TIME, "dueAt": TIME, "expiresAt": TIME,
        "acknowledgedAt": null});
    let note = json!({"key": "seen", "value": 1, "updatedAt": TIME, "etag": "\"1\""});
    let entry = json!({"id": "x", "domain": "d.example.com", "category": "c", "description": "s",
        "isActive": true, "createdAt": TIME, "etag": "\"1\""});
    let request = json!({"id": "x", "domain": "r.example.com", "url": "https://r.example.com", "requestedBy": "x",
        "actor": "agent:ceo", "taskContext": null, "reason": "s", "category": null, "status": "pending",
        "createdAt": TIME, "decidedBy": null, "decidedAt": null, "decisionReason": null});
    let setting = json!({"category": "queue", "key": "delay_low", "value": 1, "description": null,
        "updatedAt": TIME, "updatedBy": "unauthenticated", "secret": false, "effective": true, "etag": "\"1\""});
    let lease = ("lease", json!({"incarnation": 1, "since": TIME}));
    let claimed = with(&task, &[lease]);
    let ended = [("endedAt", json!(TIME)), ("result", json!({"pages": 2}))];
    let message = json!({"message": "m", "priority": "low"});
    let sent = json!({"messages": [{"agentType": "ceo", "id": "x"}], "skipped": []});
    let new_task = json!({"title": "Report", "description": "Two pages", "assignTo": "ceo", "priority": "high",
        "dueDate": "2099-01-01T00:00:00Z"});
    let mut ids = std::collections::BTreeMap::new();
    for (method, path, body, status, shape) in [
        ("POST", "/tasks", new_task, 201, json!({"success": true, "task": task})),
        (
            "PATCH",
            "/tasks/{task}",
            json!({"priority": "urgent"}),
            200,
            json!({"success": true, "task": task}),
        ),
        (
            "POST",
            "/tasks/claim",
            json!({"agent": "ceo"}),
            200,
            json!({"success": true, "task": claimed, "reason": null}),
        ),
        ("GET", "/tasks/{task}", Value::Null, 200, json!({"success": true, "task": claimed})),
        (
            "POST",
            "/tasks/{task}/complete",
            json!({"result": {"pages": 2}}),
            200,
            json!({"success": true, "task": with(&task, &ended)}),
        ),
        (
            "POST",
            "/tasks/claim",
            json!({"agent": "ceo"}),
            200,
            json!({"success": true, "task": null, "reason": "x"}),
        ),
        (
            "GET",
            "/tasks",
            Value::Null,
            200,
            json!({"tasks": [with(&task, &ended)], "total": 1, "totalExact": true,
            "limit": 50, "offset": 0, "nextCursor": null}),
        ),
        (
            "POST",
            "/agents/ceo/message",
            message.clone(),
            201,
            json!({"success": true, "message": with(&mail, &[("fromAgent", json!("x"))])}),
        ),
        (
            "POST",
            "/agents/ceo/mailbox/{message}/ack",
            Value::Null,
            200,
            json!({"success": true,
            "message": with(&mail, &[("acknowledgedAt", json!(TIME)), ("fromAgent", json!("x"))])}),
        ),
        ("PUT", "/agents/ceo/state/seen", json!({"value": 1}), 200, json!({"success": true, "state": note})),
        ("GET", "/agents/ceo/state", Value::Null, 200, json!({"state": [note], "nextCursor": null})),
        (
            "PUT",
            "/agents/ceo/state/seen",
            json!({"value": null}),
            200,
            json!({"success": true, "state": with(&note, &[("value", Value::Null)])}),
        ),
        (
            "POST",
            "/domains/approval-requests",
            json!({"domain": "r.example.com", "url": "https://r.example.com",
            "reason": "s"}),
            201,
            json!({"success": true, "request": request}),
        ),
        (
            "GET",
            "/domains/check?domain=r.example.com",
            Value::Null,
            200,
            json!({"domain": "r.example.com", "allowed": false, "matchedBy": null, "advisory": true}),
        ),
    ] {
        let who = if method == "PATCH" { &client } else { &ceo };
        call(who, &client, &mut ids, (method, path, body), (status, &shape)).await;
    }
    for (method, path, body, status, shape) in [
        ("POST", "/broadcast", message, 201, json!({"success": true, "broadcast": sent})),
        (
            "GET",
            "/agents/ceo/mailbox",
            Value::Null,
            200,
            json!({"messages": [with(&mail, &[("payload", json!({"taskId": "x", "title": "Report", "priority": "high"}))])], "nextCursor": null}),
        ),
        (
            "GET",
            "/domains/approval-requests",
            Value::Null,
            200,
            json!({"requests": [request], "nextCursor": null}),
        ),
        (
            "POST",
            "/domains/approval-requests/{request}/reject",
            json!({"reason": "No"}),
            200,
            json!({"success": true, "request": with(&request, &[("decidedBy", json!("unauthenticated")),
                ("decidedAt", json!(TIME)), ("decisionReason", json!("No"))])}),
        ),
        (
            "POST",
            "/domains/whitelist",
            json!({"domain": "d.example.com", "category": "c", "description": "s"}),
            201,
            json!({"success": true, "domain": entry}),
        ),
        (
            "GET",
            "/domains/whitelist",
            Value::Null,
            200,
            json!({"domains": [entry], "nextCursor": null, "advisory": true}),
        ),
        (
            "GET",
            "/domains/check?domain=x.d.example.com",
            Value::Null,
            200,
            json!({"domain": "x.d.example.com", "allowed": true, "matchedBy": "d.example.com", "advisory": true}),
        ),
        ("DELETE", "/domains/d.example.com", Value::Null, 200, json!({"success": true})),
        (
            "POST",
            "/settings/queue/delay_low",
            json!({"value": 1}),
            200,
            json!({"success": true, "setting": setting}),
        ),
        (
            "GET",
            "/settings",
            Value::Null,
            200,
            json!({
                "settings": {"queue": {"delay_low": 1}, "llm": {"routing_strategy": "claude-only"}},
                "etags": {"queue": {"delay_low": "\"1\""}, "llm": {"routing_strategy": "\"0\""}},
                "version": 1,
            }),
        ),
    ] {
        call(&client, &client, &mut ids, (method, path, body), (status, &shape)).await;
    }
}

/// One call, its answer held against a shape; ids of what it made stand in for `{task}` and the like in later ones.
async fn call(
    who: &aito_client::Client,
    reader: &aito_client::Client,
    ids: &mut std::collections::BTreeMap<String, String>,
    (method, path, body): (&str, &str, Value),
    (status, shape): (u16, &Value),
) {
    let at = ids.iter().fold(path.to_owned(), |at, (name, id)| at.replace(&format!("{{{name}}}"), id));
    let body = (!body.is_null()).then(|| body.to_string().into_bytes());
    let answer = who.raw(method, &at, &[("content-type", "application/json")], body).await.unwrap();
    let found: Value = answer.json().unwrap();
    assert_eq!(answer.status, status, "{method} {at}: {found}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {at}");
    has_shape(&found, shape, path);
    for (name, object) in found.as_object().unwrap() {
        if let Some(id) = object["id"].as_str() {
            ids.insert(name.clone(), id.to_owned());
        }
        if let Some(etag) = answer.header("etag") {
            assert!(object["etag"].is_null() || object["etag"] == etag, "{method} {at}");
        }
    }
    if status == 201 {
        let location = answer.header("location").unwrap_or_else(|| panic!("{method} {at} names no place"));
        // Single messages and entries are changed there and read by their lists.
        let is_read = !location.contains("/mailbox/") && !location.starts_with("/domains/d.");
        let there = reader.raw("GET", location, &[], None).await.unwrap();
        assert_eq!(there.status == 200, is_read, "{location}: {}", there.status);
    }
}
