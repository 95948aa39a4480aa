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
        (Value::Array(found), Value::Array(documented)) => {
            let found = found.first().unwrap_or_else(|| panic!("{at} is empty"));
            has_shape(found, &documented[0], &format!("{at}/0"));
        }
        (Value::Bool(_), Value::Bool(_)) | (Value::Number(_), Value::Number(_)) => {}
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
