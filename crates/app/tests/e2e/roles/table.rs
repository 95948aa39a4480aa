//! The tables, as the HTTP contract writes them.
//!
//! Invariant: what is not named may not.

/// An operation, who may do it, and what it then answers.
///
/// Who: `public` everybody, `any` every credential, the roles by their names, `own` an agent for itself, `agent` every
/// agent. `seat` and `self` are the holder of the seat and the agent that stand in a body: nobody yet, since nothing
/// reads a body before its path is served.
pub(super) type Row = (&'static str, &'static str, &'static str, u16);

/// What the description has.
pub(super) const SERVED: &[Row] = &[
    ("GET", "/health", "public", 200),
    ("GET", "/ready", "public", 200),
    ("GET", "/openapi.json", "public", 200),
    ("GET", "/health/full", "viewer operator human", 200),
    ("GET", "/metrics", "viewer operator human", 200),
    ("GET", "/agents", "viewer operator human", 200),
    ("GET", "/agents/{type}", "viewer operator human", 200),
    ("GET", "/agents/{type}/health", "viewer operator human", 200),
    ("GET", "/agents/{type}/spec", "viewer operator human", 200),
    ("GET", "/agents/{type}/events", "viewer operator human", 200),
    ("GET", "/agents/{type}/logs", "viewer operator human", 200),
    ("GET", "/agents/{type}/stats", "viewer operator human", 200),
    ("GET", "/agents/{type}/history", "viewer operator human own", 200),
    ("POST", "/agents/{type}/history", "own", 201),
    ("POST", "/agents/{type}/heartbeat", "own", 200),
    ("POST", "/agents/{type}/start", "operator", 200),
    ("POST", "/agents/{type}/restart", "operator", 200),
    ("POST", "/agents/{type}/stop", "operator", 200),
    ("GET", "/containers", "viewer operator human", 200),
    ("GET", "/events", "viewer operator human", 200),
    ("GET", "/ws", "viewer operator human agent", 101),
    ("POST", "/ws/tickets", "any", 201),
    ("GET", "/tokens", "admin", 200),
    ("POST", "/tokens", "admin", 201),
    ("POST", "/tokens/{id}/rotate", "admin", 200),
    ("DELETE", "/tokens/{id}", "admin", 200),
    ("GET", "/audit", "admin", 200),
];

/// What the contract has and the description not yet: 501 for who may.
pub(super) const LATER: &[Row] = &[
    ("GET", "/agents/{type}/state", "viewer operator human own", 501),
    ("PUT", "/agents/{type}/state/{key}", "own", 501),
    ("POST", "/agents/{type}/message", "operator agent", 501),
    ("GET", "/agents/{type}/mailbox", "viewer operator human own", 501),
    ("POST", "/agents/{type}/mailbox/{id}/ack", "own", 501),
    ("GET", "/agents/{type}/usage", "viewer operator human", 501),
    ("POST", "/agents/{type}/think", "own", 501),
    ("POST", "/broadcast", "operator", 501),
    ("GET", "/fleet", "viewer operator human", 501),
    ("POST", "/fleet/stop", "admin", 501),
    ("POST", "/fleet/resume", "admin", 501),
    ("GET", "/events/stream", "viewer operator human", 501),
    ("GET", "/decisions", "viewer operator human agent", 501),
    ("GET", "/decisions/pending", "viewer operator human agent", 501),
    ("GET", "/decisions/escalated", "viewer operator human agent", 501),
    ("POST", "/decisions", "operator human agent", 501),
    ("GET", "/decisions/{id}", "viewer operator human agent", 501),
    ("GET", "/decisions/{id}/timeline", "viewer operator human agent", 501),
    ("POST", "/decisions/{id}/vote", "seat self", 501),
    ("POST", "/decisions/{id}/opinions", "self", 501),
    ("POST", "/decisions/{id}/escalate", "operator human agent", 501),
    ("POST", "/decisions/{id}/resolve", "human", 501),
    // Who proposed may; which of them did is the call's own to know.
    ("POST", "/decisions/{id}/withdraw", "operator human agent", 501),
    ("POST", "/decisions/{id}/tier", "operator human agent", 501),
    ("GET", "/escalations", "viewer operator human", 501),
    ("GET", "/tasks", "viewer operator human agent", 501),
    ("POST", "/tasks", "operator agent", 501),
    ("GET", "/tasks/{id}", "viewer operator human agent", 501),
    ("PATCH", "/tasks/{id}", "operator", 501),
    ("POST", "/tasks/claim", "self", 501),
    ("POST", "/tasks/{id}/complete", "operator agent", 501),
    ("POST", "/tasks/{id}/fail", "operator agent", 501),
    ("POST", "/tasks/{id}/cancel", "operator agent", 501),
    ("GET", "/domains/whitelist", "viewer operator human", 501),
    ("POST", "/domains/whitelist", "operator", 501),
    ("DELETE", "/domains/{domain}", "operator", 501),
    ("GET", "/domains/approval-requests", "viewer operator human", 501),
    ("POST", "/domains/approval-requests", "operator agent", 501),
    ("POST", "/domains/approval-requests/{id}/approve", "operator human", 501),
    ("POST", "/domains/approval-requests/{id}/reject", "operator human", 501),
    ("GET", "/domains/check", "viewer operator human agent", 501),
    ("GET", "/settings", "viewer operator human", 501),
    ("GET", "/settings/schema", "viewer operator human", 501),
    ("POST", "/settings/queue/{key}", "operator", 501),
    ("POST", "/settings/governance/{key}", "human", 501),
    ("POST", "/benchmark/run", "operator", 501),
    ("GET", "/benchmark/runs", "viewer operator human", 501),
    ("GET", "/benchmark/runs/{runId}", "viewer operator human", 501),
    ("DELETE", "/benchmark/runs/{runId}", "operator", 501),
    ("GET", "/scheduler/jobs", "viewer operator human", 501),
    ("PUT", "/scheduler/jobs", "operator", 501),
    ("POST", "/scheduler/jobs", "operator", 501),
    ("POST", "/scheduler/jobs/{id}/pause", "operator", 501),
    ("POST", "/scheduler/jobs/{id}/resume", "operator", 501),
    ("POST", "/scheduler/jobs/{id}/run", "operator", 501),
    ("GET", "/scheduler/jobs/{id}/runs", "viewer operator human", 501),
    ("GET", "/workers", "viewer operator human", 501),
    ("GET", "/dead-letters", "viewer operator human", 501),
    ("POST", "/dead-letters/{id}/replay", "operator", 501),
    ("GET", "/knowledge/search", "viewer operator human agent", 501),
    ("POST", "/knowledge", "operator agent", 501),
    ("GET", "/backlog/report", "viewer operator human", 501),
    ("GET", "/n/{secret}", "public", 501),
    ("POST", "/n/{secret}", "public", 501),
];

/// Requests with a body: one that is wrong in every value, with the places of its faults, and one of a wrong type.
pub(super) const BODIES: &[(&str, &str, &str, &[&str], &str)] = &[
    (
        "POST",
        "/agents/{type}/heartbeat",
        r#"{"loopCount":-1,"currentFocus":"a\u0000","lastLoopAt":"noon","status":"dancing"}"#,
        &["/currentFocus", "/lastLoopAt", "/loopCount", "/status"],
        r#"{"loopCount":"many"}"#,
    ),
    (
        "POST",
        "/agents/{type}/history",
        r#"{"actionType":"dance","summary":" ","details":["\u0000"]}"#,
        &["/actionType", "/details", "/summary"],
        r#"{"summary":1}"#,
    ),
    (
        "POST",
        "/tokens",
        r#"{"name":" x","roles":["viewer","root"],"scopes":["seat:xyz","all"],"expiresAt":"2001-01-01T00:00:00Z"}"#,
        &["/expiresAt", "/name", "/roles/1", "/scopes/0", "/scopes/1"],
        r#"{"roles":"viewer"}"#,
    ),
    ("POST", "/tokens/{id}/rotate", r#"{"overlap":604801}"#, &["/overlap"], r#"{"overlap":"long"}"#),
];

/// Queries that are wrong in every parameter that has a form, with the places of their faults.
pub(super) const QUERIES: &[(&str, &str, &[&str])] = &[
    ("/ready", "scope=half", &["?scope"]),
    ("/agents", "status=odd&limit=0&cursor=..", &["?cursor", "?limit", "?status"]),
    ("/agents/{type}/events", "limit=501&cursor=x", &["?cursor", "?limit"]),
    ("/agents/{type}/history", "limit=501&cursor=x", &["?cursor", "?limit"]),
    (
        "/agents/{type}/logs",
        "tail=5001&since=noon&follow=1&previous=no",
        &["?follow", "?previous", "?since", "?tail"],
    ),
    ("/containers", "limit=-1&cursor=x", &["?cursor", "?limit"]),
    ("/events", "limit=many&type=Odd&cursor=x", &["?cursor", "?limit", "?type"]),
    // Actor and operation are any text: what nobody did has no entries.
    ("/audit", "limit=0&cursor=x&outcome=good&actor=x&operation=x", &["?cursor", "?limit", "?outcome"]),
    ("/tokens", "limit=0&cursor=x", &["?cursor", "?limit"]),
    ("/ws", "types=odd&since=odd&ticket=odd", &["?since", "?types"]),
];
