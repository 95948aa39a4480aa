//! The documented examples of tasks, domains and settings.
//!
//! Invariant: each is called as it is documented, body and all, and its answer held against the documented fields.

use serde_json::{Value, json};

use super::{Example, Form, curl::Curl, example};

/// The fields of a task, as tasks are documented.
const TASK: &str = r#"{"success":true,"task":{"id":"task-123","title":"Create Twitter Post",
    "description":"Post about new partnership","status":"pending","priority":"high","assignedTo":"cmo",
    "createdBy":null,"dueDate":null,"result":null,"createdAt":"2025-12-20T10:00:00.000Z",
    "updatedAt":"2025-12-20T10:00:00.000Z"}}"#;
const NEW_TASK: &str = r#"{"title": "Create Twitter Post", "description": "Post about new partnership",
    "assignTo": "cmo", "priority": "high"}"#;
const NEW_DOMAIN: &str =
    r#"{"domain": "dexscreener.com", "category": "crypto_data", "description": "DEX analytics"}"#;
const SETTINGS: &str = r#"{"settings":{"queue":{"delay_critical":0,"delay_urgent":5000},
    "agents":{"loop_interval_ceo":1800},"llm":{"routing_strategy":"claude-only"}}}"#;

/// A call with a documented body; an empty one is none.
fn call(curl: &Curl, method: &str, path: &str, body: &str, status: u16) -> Value {
    let body = match body {
        "" => String::new(),
        body => format!(" -H 'Content-Type: application/json' -d '{body}'"),
    };
    let answer = curl.run(&format!("curl -X {method} 'http://localhost:8080{path}'{body}"));
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {path}");
    if status == 201 {
        assert!(answer.header("location").is_some_and(|at| at.starts_with('/')), "{method} {path}");
    }
    answer.json()
}

/// A task with its documented fields, and what each must be.
fn task() -> Example {
    let is = |value: Value| Form::Is(value);
    let forms = [
        ("/success", is(json!(true))),
        ("/task/id", Form::Uuid),
        ("/task/title", is(json!("Create Twitter Post"))),
        ("/task/description", is(json!("Post about new partnership"))),
        ("/task/status", is(json!("pending"))),
        ("/task/priority", is(json!("high"))),
        ("/task/assignedTo", is(json!("cmo"))),
        ("/task/createdBy", is(Value::Null)),
        ("/task/dueDate", is(Value::Null)),
        ("/task/result", is(Value::Null)),
        ("/task/createdAt", Form::Time),
        ("/task/updatedAt", Form::Time),
    ];
    example("POST", "/tasks", TASK, forms)
}

pub(super) fn run(reads: &Curl, acts: &Curl) {
    tasks(reads, acts);
    domains(reads, acts);
    settings(reads, acts);
}

fn tasks(reads: &Curl, acts: &Curl) {
    let made = call(acts, "POST", "/tasks", NEW_TASK, 201);
    task().check(&made);
    for path in ["/tasks", "/tasks?status=pending", "/tasks?assignedTo=cmo"] {
        let found = call(reads, "GET", path, "", 200);
        assert_eq!(found["tasks"].as_array().map(Vec::len), Some(1), "{path}");
        task().check(&json!({"success": true, "task": found["tasks"][0]}));
        assert_eq!(found["tasks"][0]["id"], made["task"]["id"]);
        assert_eq!((&found["total"], &found["limit"], &found["offset"]), (&json!(1), &json!(50), &json!(0)));
    }
    for path in ["/tasks?status=completed", "/tasks?assignedTo=ceo"] {
        assert_eq!(call(reads, "GET", path, "", 200)["tasks"], json!([]), "{path}");
    }
}

fn domains(reads: &Curl, acts: &Curl) {
    let entry = |domain: &'static str| {
        [
            ("/domains/*/id", Form::Uuid),
            ("/domains/*/domain", Form::Ends(domain)),
            ("/domains/*/category", Form::Ends("")),
            ("/domains/*/description", Form::Ends("")),
            ("/domains/*/isActive", Form::Is(json!(true))),
        ]
    };
    let documented = r#"{"domains":[{"id":"dom-123","domain":"coingecko.com","category":"crypto_data",
        "description":"CoinGecko API","isActive":true}]}"#;
    let made = call(acts, "POST", "/domains/whitelist", NEW_DOMAIN, 201);
    let of_made = json!({"domains": [made["domain"]]});
    example("POST", "/domains/whitelist", documented, entry(".com")).check(&of_made);
    assert_eq!(made["success"], true);
    assert_eq!(
        (&made["domain"]["domain"], &made["domain"]["category"]),
        (&json!("dexscreener.com"), &json!("crypto_data"))
    );
    assert_eq!(made["domain"]["description"], "DEX analytics");
    let listed = call(reads, "GET", "/domains/whitelist", "", 200);
    example("GET", "/domains/whitelist", documented, entry("")).check(&listed);
    let removed = call(acts, "DELETE", "/domains/dexscreener.com", "", 200);
    assert_eq!(removed, json!({"success": true}));
    // Requests are documented by what they answer.
    let request = r#"{"requests":[{"id":"req-123","domain":"dexscreener.com","url":"https://dexscreener.com/x",
        "requestedBy":null,"taskContext":"Find pairs","reason":"Prices","status":"pending",
        "createdAt":"2025-12-20T10:00:00.000Z"}]}"#;
    let wish = r#"{"domain": "dexscreener.com", "url": "https://dexscreener.com/x", "taskContext": "Find pairs",
        "reason": "Prices"}"#;
    for (decision, word) in [("reject", "rejected"), ("approve", "approved")] {
        let asked = call(acts, "POST", "/domains/approval-requests", wish, 201);
        let listed = call(reads, "GET", "/domains/approval-requests", "", 200);
        let is = |value: Value| Form::Is(value);
        let forms = [
            ("/requests/*/id", Form::Uuid),
            ("/requests/*/domain", is(json!("dexscreener.com"))),
            ("/requests/*/url", is(json!("https://dexscreener.com/x"))),
            ("/requests/*/requestedBy", is(Value::Null)),
            ("/requests/*/taskContext", is(json!("Find pairs"))),
            ("/requests/*/reason", is(json!("Prices"))),
            ("/requests/*/status", is(json!("pending"))),
            ("/requests/*/createdAt", Form::Time),
        ];
        example("GET", "/domains/approval-requests", request, forms).check(&listed);
        let id = asked["request"]["id"].as_str().unwrap();
        let decided = call(acts, "POST", &format!("/domains/approval-requests/{id}/{decision}"), "", 200);
        assert_eq!((&decided["success"], &decided["request"]["status"]), (&json!(true), &json!(word)));
    }
}

fn settings(reads: &Curl, acts: &Curl) {
    let documented: Value = serde_json::from_str(SETTINGS).unwrap();
    let found = call(reads, "GET", "/settings", "", 200);
    for (category, keys) in documented["settings"].as_object().unwrap() {
        for (key, value) in keys.as_object().unwrap() {
            assert_eq!(&found["settings"][category][key], value, "{category}.{key}");
        }
    }
    let body = r#"{"value": 1800, "description": "CEO loops every 30 minutes"}"#;
    let set = call(acts, "POST", "/settings/agents/loop_interval_ceo", body, 200);
    let documented = r#"{"success":true,"setting":{"category":"agents","key":"loop_interval_ceo","value":1800,
        "description":"CEO loops every 30 minutes","updatedAt":"2025-12-20T10:00:00.000Z"}}"#;
    let is = |value: Value| Form::Is(value);
    let forms = [
        ("/success", is(json!(true))),
        ("/setting/category", is(json!("agents"))),
        ("/setting/key", is(json!("loop_interval_ceo"))),
        ("/setting/value", is(json!(1800))),
        ("/setting/description", is(json!("CEO loops every 30 minutes"))),
        ("/setting/updatedAt", Form::Time),
    ];
    example("POST", "/settings/agents/loop_interval_ceo", documented, forms).check(&set);
}

/// Without a token none of it works.
pub(super) fn is_for_nobody(nothing: &Curl) {
    for (method, path) in [
        ("GET", "/tasks"),
        ("POST", "/tasks"),
        ("GET", "/domains/whitelist"),
        ("POST", "/domains/whitelist"),
        ("DELETE", "/domains/dexscreener.com"),
        ("GET", "/domains/approval-requests"),
        ("POST", "/domains/approval-requests/dom-123/approve"),
        ("POST", "/domains/approval-requests/dom-123/reject"),
        ("GET", "/settings"),
    ] {
        assert_eq!(nothing.ask(method, path).status, 401, "{method} {path}");
    }
}

/// One answer of everything that makes or changes something, while ceo runs.
pub(super) fn all_made(curl: &Curl) -> Vec<Value> {
    let message = r#"{"message": "Look here", "priority": "low"}"#;
    let for_ceo = r#"{"title": "Look there", "assignTo": "ceo", "priority": "low"}"#;
    let task = call(curl, "POST", "/tasks", for_ceo, 201);
    let at = format!("/tasks/{}", task["task"]["id"].as_str().unwrap());
    let mail = call(curl, "POST", "/agents/ceo/message", message, 201);
    let ack = format!("/agents/ceo/mailbox/{}/ack", mail["message"]["id"].as_str().unwrap());
    vec![
        call(curl, "PATCH", &at, r#"{"priority": "high"}"#, 200),
        call(curl, "POST", "/tasks/claim", r#"{"agent": "ceo"}"#, 200),
        call(curl, "POST", &format!("{at}/complete"), r#"{"result": {"posts": 1}}"#, 200),
        call(curl, "POST", &ack, "", 200),
        call(curl, "POST", "/broadcast", message, 201),
        call(curl, "PUT", "/agents/ceo/state/seen", r#"{"value": [1]}"#, 200),
        call(curl, "POST", "/domains/whitelist", NEW_DOMAIN, 201),
        call(curl, "POST", "/domains/approval-requests", r#"{"domain": "example.com"}"#, 201),
        call(curl, "POST", "/settings/queue/delay_low", r#"{"value": 1000}"#, 200),
        task,
        mail,
    ]
}
