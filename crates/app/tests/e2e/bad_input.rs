//! Bad input is refused with a reason that names the place, and nothing changes.

use aito_client::EventQuery;
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
    assert!(
        events.iter().all(|event| ["token_created", "agent_registered"].contains(&event.event_type.as_str())),
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
    ] {
        let answer = client.raw(method, path, &[], None).await.unwrap();
        refused(&answer, 405);
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    for (method, path) in [
        ("GET", "/decisions"),
        ("POST", "/tasks"),
        ("GET", "/domains/whitelist"),
        ("GET", "/settings"),
        ("POST", "/benchmark/run"),
        ("GET", "/scheduler/jobs"),
        ("GET", "/fleet"),
        ("GET", "/events/stream"),
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
    assert_eq!(
        client.events(&EventQuery::default()).await.unwrap().events.len(),
        8,
        "seven agents, one token"
    );
}
