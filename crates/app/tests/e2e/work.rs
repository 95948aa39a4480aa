//! Daily work: tasks, mailboxes, domains, settings, each held against what went wrong with it before.
//!
//! Invariants: what was acknowledged is there after everything that can be killed was killed; what an agent is refused
//! has no effect.

use std::collections::BTreeSet;

use aito_client::{Client, RawAnswer};
use aito_harness::{Set, processes, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{SOON, as_agent, credential, get, post, refused, roles, sandbox, sandbox_with_leaky_ceo};

/// The body of an answer that must have this status.
fn told(answer: &RawAnswer, status: u16) -> Value {
    let body: Value = answer.json().unwrap();
    assert_eq!(answer.status, status, "{body}");
    body
}

async fn read(client: &Client, path: &str) -> Value {
    told(&get(client, path).await, 200)
}

async fn send(client: &Client, path: &str, body: &Value, status: u16) -> Value {
    told(&post(client, path, &body.to_string()).await, status)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// The id of a new task.
async fn task(client: &Client, assignee: &str, priority: &str) -> String {
    let new = json!({"title": format!("a {priority} task"), "assignTo": assignee, "priority": priority});
    text(&send(client, "/tasks", &new, 201).await["task"]["id"])
}

async fn claim(agent: &Client, itself: &str) -> Value {
    send(agent, "/tasks/claim", &json!({"agent": itself}), 200).await
}

/// Events of a type, the oldest first.
async fn events(client: &Client, event_type: &str) -> Vec<Value> {
    let listed = read(client, &format!("/events?type={event_type}&limit=500")).await;
    listed["events"].as_array().unwrap().iter().rev().cloned().collect()
}

/// A task that was created with a token could not be stored, and if one was stored, nobody was woken.
pub(crate) async fn a_task_of_a_token_is_stored_and_wakes_its_agent(set: Set) {
    let mut sandbox = sandbox_with_leaky_ceo(set);
    sandbox.no_auth = false;
    let server = sandbox.start().await;
    let first = server.client_with(&sandbox.first_token());
    let made = send(&first, "/tokens", &json!({"name": "ops", "roles": ["operator"]}), 201).await;
    let ops = server.client_with(&text(&made["secret"]));
    ops.start("ceo").await.unwrap();
    let agent = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let waiting = agent.clone();
    let waiting = tokio::spawn(async move { get(&waiting, "/agents/ceo/mailbox?wait=25").await });
    let new = json!({"title": "Look at this", "assignTo": "ceo", "priority": "critical"});
    let answer = post(&ops, "/tasks", &new.to_string()).await;
    let made = told(&answer, 201)["task"].clone();
    let path = format!("/tasks/{}", text(&made["id"]));
    assert_eq!(answer.header("location"), Some(&*path));
    assert_eq!(answer.header("etag"), made["etag"].as_str());
    assert_eq!((&made["actor"], &made["createdBy"]), (&json!("token:ops"), &Value::Null));
    assert_eq!((&made["status"], &made["assignedTo"]), (&json!("pending"), &json!("ceo")));
    let woken = told(&tokio::time::timeout(SOON, waiting).await.unwrap().unwrap(), 200);
    let mail = &woken["messages"][0];
    assert_eq!((&mail["kind"], &mail["from"]), (&json!("task"), &json!("token:ops")), "{woken}");
    assert_eq!(
        mail["payload"],
        json!({"taskId": made["id"], "title": "Look at this", "priority": "critical"})
    );
    assert_eq!(send(&agent, "/agents/ceo/heartbeat", &json!({}), 200).await["mailbox"], 1);
    assert_eq!(claim(&agent, "ceo").await["task"]["id"], made["id"]);
    // What is no agent is no assignee, and nothing is assigned by itself.
    for nobody in [json!("clevel"), json!("head"), json!("CEO"), json!("xyz"), json!(""), Value::Null] {
        let new = json!({"title": "t", "assignTo": nobody, "priority": "low"});
        assert_eq!(refused(&post(&ops, "/tasks", &new.to_string()).await, 422), ["/assignTo"], "{nobody}");
    }
    assert_eq!(read(&ops, "/tasks").await["total"], 1);
    assert_eq!(events(&ops, "task_created").await.len(), 1);
}

/// Looking for the next task took it away, and whoever died with it took it along.
pub(crate) async fn claiming_and_reading_lose_no_task(set: Set) {
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let first = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let low = task(&client, "ceo", "low").await;
    let urgent = task(&client, "ceo", "urgent").await;
    for _ in 0..3 {
        let mailbox = read(&first, "/agents/ceo/mailbox").await;
        let named: Vec<String> = mailbox["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mail| text(&mail["payload"]["taskId"]))
            .collect();
        assert_eq!(named, [urgent.clone(), low.clone()]);
        assert_eq!(read(&first, "/tasks?status=pending").await["total"], 2);
    }
    let claimed = claim(&first, "ceo").await["task"].clone();
    assert_eq!(
        (&claimed["id"], &claimed["claims"], &claimed["lease"]["incarnation"]),
        (&json!(urgent), &json!(1), &json!(1))
    );
    server.kill();
    let server = sandbox.start().await;
    let client = server.client();
    let path = format!("/tasks/{urgent}");
    assert_eq!(read(&client, &path).await["task"], claimed, "a killed server forgets nothing");

    let (_, _, pid) = sandbox.agents()[0];
    processes::signal(pid, Signal::KILL);
    let second = as_agent(&sandbox, &credential(&sandbox, 2).await);
    let back = wait::until("the task to come back", SOON, async || {
        let task = read(&client, &path).await["task"].clone();
        (task["status"] == "pending").then_some(task)
    })
    .await;
    assert_eq!((&back["lease"], &back["claims"]), (&Value::Null, &json!(1)));
    assert_eq!(read(&client, "/tasks?status=pending").await["total"], 2);
    let complete = format!("{path}/complete");
    refused(&post(&first, &complete, "{}").await, 401);
    refused(&post(&second, &complete, "{}").await, 409);
    let again = claim(&second, "ceo").await["task"].clone();
    assert_eq!(
        (&again["id"], &again["claims"], &again["lease"]["incarnation"]),
        (&json!(urgent), &json!(2), &json!(2))
    );
    let done = send(&second, &complete, &json!({"result": {"posts": 3}}), 200).await["task"].clone();
    assert_eq!((&done["status"], &done["result"]), (&json!("completed"), &json!({"posts": 3})));
    assert_eq!(claim(&second, "ceo").await["task"]["id"], json!(low));
    let nothing = claim(&second, "ceo").await;
    assert_eq!((&nothing["task"], &nothing["reason"]), (&Value::Null, &json!("nothing_waits")));
    let listed = read(&client, "/agents/ceo/events?limit=500").await;
    let of_task =
        listed["events"].as_array().unwrap().iter().rev().filter(|e| e["payload"]["taskId"] == json!(urgent));
    let lived: Vec<String> = of_task
        .map(|event| match event["payload"]["change"].as_str() {
            Some(change) => change.to_owned(),
            None => text(&event["eventType"]),
        })
        .collect();
    assert_eq!(lived, ["task_created", "claimed", "released", "claimed", "task_completed"]);
}

/// What was sent lay under one name, the agent was woken under another, and looked under a third.
pub(crate) async fn an_agent_has_one_mailbox_for_all_that_reaches_it(set: Set) {
    let sandbox = sandbox(set);
    roles::configure(&sandbox);
    let server = sandbox.start().await;
    let client = server.client();
    for agent in ["ceo", "cmo"] {
        client.start(agent).await.unwrap();
    }
    let ceo = as_agent(&sandbox, &roles::credential(&sandbox, "ceo", 1).await);
    let cmo = as_agent(&sandbox, &roles::credential(&sandbox, "cmo", 1).await);
    let message = |priority: &str| json!({"message": "Hear me", "priority": priority});
    let low = send(&client, "/agents/ceo/message", &message("low"), 201).await["message"].clone();
    let broadcast = send(&client, "/broadcast", &message("urgent"), 201).await["broadcast"].clone();
    assert_eq!(
        (broadcast["messages"].as_array().map(Vec::len), &broadcast["skipped"]),
        (Some(7), &json!([]))
    );
    let high = task(&client, "ceo", "high").await;
    let normal = send(&cmo, "/agents/ceo/message", &message("normal"), 201).await["message"].clone();
    assert_eq!(normal["from"], "agent:cmo");
    assert_eq!(normal["fromAgent"], read(&client, "/agents/cmo").await["id"]);
    let whole = read(&ceo, "/agents/ceo/mailbox").await["messages"].as_array().unwrap().clone();
    let kinds: Vec<String> = whole.iter().map(|mail| text(&mail["kind"])).collect();
    assert_eq!(kinds, ["broadcast", "task", "message", "message"], "the most urgent first");
    assert_eq!(whole[1]["payload"]["taskId"], json!(high));
    assert_eq!((&whole[2], &whole[3]), (&normal, &low));
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = read(&ceo, &format!("/agents/ceo/mailbox?limit=1{cursor}")).await;
        paged.extend(page["messages"].as_array().unwrap().clone());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, whole);
    assert_eq!(read(&cmo, "/agents/cmo/mailbox").await["messages"].as_array().map(Vec::len), Some(1));
    // There is no other name under which it would lie.
    let id = text(&read(&client, "/agents/ceo").await["id"]);
    for other in [&*id, "CEO", "head", "clevel"] {
        refused(&post(&client, &format!("/agents/{other}/message"), &message("low").to_string()).await, 404);
        refused(&get(&client, &format!("/agents/{other}/mailbox")).await, 404);
    }
    for named in ["ceo", &id] {
        assert_eq!(read(&client, &format!("/tasks?assignedTo={named}")).await["total"], 1, "{named}");
    }
    // It waits until it was heard, by whoever it is for.
    let mine = format!("/agents/ceo/mailbox/{}/ack", text(&whole[0]["id"]));
    refused(&post(&cmo, &mine, "").await, 403);
    refused(&post(&cmo, &mine.replace("ceo", "cmo"), "").await, 404);
    let heard = told(&post(&ceo, &mine, "").await, 200);
    assert!(heard["message"]["acknowledgedAt"].is_string());
    assert_eq!(told(&post(&ceo, &mine, "").await, 200), heard, "heard already");
    assert_eq!(read(&ceo, "/agents/ceo/mailbox").await["messages"], json!(whole[1..]));
    client.restart("ceo").await.unwrap();
    refused(&post(&ceo, &mine, "").await, 401);
    let second = as_agent(&sandbox, &roles::credential(&sandbox, "ceo", 2).await);
    assert_eq!(read(&second, "/agents/ceo/mailbox").await["messages"], json!(whole[1..]));
}

/// Settings that had a path of their own were hidden behind the one for all of them.
pub(crate) async fn no_path_of_settings_hides_another(set: Set) {
    let mut sandbox = sandbox(set);
    sandbox.no_auth = false;
    let server = sandbox.start().await;
    let first = server.client_with(&sandbox.first_token());
    let made = send(&first, "/tokens", &json!({"name": "ops", "roles": ["operator"]}), 201).await;
    let ops = server.client_with(&text(&made["secret"]));
    let answer = get(&ops, "/settings/schema").await;
    let schema = told(&answer, 200);
    assert_eq!(answer.header("content-type"), Some("application/schema+json"));
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let settings = read(&ops, "/settings").await["settings"].clone();
    let mut known = 0;
    for (category, of_category) in schema["properties"].as_object().unwrap() {
        for (key, one) in of_category["properties"].as_object().unwrap() {
            let what = format!("{category}.{key}");
            assert_eq!(one["default"], settings[category][key], "{what}");
            assert!(one["description"].is_string() && one["x-effective"].is_boolean(), "{what}");
            let set =
                send(&ops, &format!("/settings/{category}/{key}"), &json!({"value": one["default"]}), 200)
                    .await;
            assert_eq!(set["setting"]["effective"], one["x-effective"], "{what}");
            known += 1;
        }
    }
    assert!(known >= 5 + 7 + 3, "{known}");
    for (path, pointer) in [
        ("/settings/queue/delays", "?key"),
        ("/settings/agents/intervals", "?key"),
        ("/settings/llm/config", "?key"),
        ("/settings/queue/schema", "?key"),
        ("/settings/Queue/delay_low", "?category"),
    ] {
        assert_eq!(refused(&post(&ops, path, r#"{"value":1}"#).await, 422), [pointer], "{path}");
        refused(&get(&ops, path).await, 405);
    }
    // What nobody knows is kept and said to have no effect, also where it is called like a path.
    for category in ["schema", "integrations"] {
        let path = format!("/settings/{category}/governance");
        let set = send(&ops, &path, &json!({"value": {"a": [1]}, "description": "mine"}), 200).await;
        assert_eq!(set["setting"]["effective"], false);
        let stored = &read(&ops, "/settings").await["settings"][category]["governance"];
        assert_eq!(stored, &json!({"a": [1]}));
    }
    assert_eq!(told(&get(&ops, "/settings/schema").await, 200), schema);
    // The rules of votes are not the operator's, however their path is written.
    for path in ["/settings/governance/tiers", "/settings/%67overnance/tiers", "/settings/governance/%74iers"]
    {
        let denied = post(&ops, path, r#"{"value":1}"#).await;
        refused(&denied, 403);
        assert_eq!(denied.json().unwrap()["scope"], "the role human", "{path}");
    }
}

/// A secret was one by its name only: it was shown to all who could read, and written into the log.
pub(crate) async fn a_secret_setting_is_shown_to_nobody(set: Set) {
    let mut sandbox = sandbox(set);
    sandbox.env.insert("AITO_LOG__FILTER".into(), "debug".into());
    let server = sandbox.start().await;
    let client = server.client();
    let value = "hunter2-hunter2";
    let mut answers = Vec::new();
    for (path, body) in [
        ("/settings/integrations/api_token", json!({"value": value})),
        ("/settings/integrations/login", json!({"value": {"user": "u", "pass": value}, "secret": true})),
        ("/settings/integrations/login", json!({"value": [value]})),
    ] {
        let answer = post(&client, path, &body.to_string()).await;
        let set = told(&answer, 200)["setting"].clone();
        assert_eq!((&set["value"], &set["secret"]), (&json!("***"), &json!(true)), "{path}");
        answers.push(answer);
    }
    for (path, body, pointer) in [
        ("/settings/integrations/api_token", json!({"value": "***"}), "/value"),
        ("/settings/queue/delay_low", json!({"value": value}), "/value"),
        ("/settings/queue/delay_low", json!({"value": 1, "secret": true}), "/secret"),
        ("/settings/integrations/api_token", json!({"value": format!("{value}\0")}), "/value"),
        ("/settings/integrations/api_token", json!({"value": value, "secret": value}), "/secret"),
    ] {
        let answer = post(&client, path, &body.to_string()).await;
        assert_eq!(refused(&answer, 422), [pointer], "{path}");
        answers.push(answer);
    }
    let listed = get(&client, "/settings").await;
    let of_category = &told(&listed, 200)["settings"]["integrations"];
    assert_eq!(of_category, &json!({"api_token": "***", "login": "***"}));
    answers.push(listed);
    assert_eq!(events(&client, "settings_updated").await.len(), 3);
    for path in ["/settings/schema", "/events?limit=500", "/audit?limit=500", "/metrics"] {
        answers.push(get(&client, path).await);
    }
    let audit = String::from_utf8_lossy(&answers[answers.len() - 2].body).into_owned();
    assert!(audit.contains("/settings/integrations/api_token"), "{audit}");
    for answer in &answers {
        let shown = String::from_utf8_lossy(&answer.body);
        assert!(answer.status < 500 && !shown.contains("hunter2"), "{shown}");
    }
    let log = server.log();
    assert!(!log.is_empty() && !log.contains("hunter2"), "{log}");
    // Who says that it is none may see what is set from then on.
    let open = json!({"value": "plain", "secret": false});
    let set = send(&client, "/settings/integrations/login", &open, 200).await;
    assert_eq!((&set["setting"]["value"], &set["setting"]["secret"]), (&json!("plain"), &json!(false)));
}

/// An approval and its entry were two steps, between which a crash could fall, and names were compared by their ends.
pub(crate) async fn an_approval_and_its_entry_are_one_and_names_are_covered_by_labels(set: Set) {
    let sandbox = sandbox_with_leaky_ceo(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let agent = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let wish =
        json!({"domain": "Data.Example.COM.", "url": "https://api.data.example.com/v1", "reason": "Prices"});
    let request = send(&agent, "/domains/approval-requests", &wish, 201).await["request"].clone();
    assert_eq!((&request["domain"], &request["actor"]), (&json!("data.example.com"), &json!("agent:ceo")));
    assert_eq!(request["requestedBy"], read(&client, "/agents/ceo").await["id"]);
    let again = send(&agent, "/domains/approval-requests", &wish, 200).await;
    assert_eq!(again["request"], request, "asked already");
    assert_eq!(read(&client, "/domains/check?domain=data.example.com").await["allowed"], false);
    let path = format!("/domains/approval-requests/{}", text(&request["id"]));
    // However many approve it at once.
    let approvals: Vec<_> = (0..8)
        .map(|_| {
            let (client, path) = (client.clone(), format!("{path}/approve"));
            tokio::spawn(async move { post(&client, &path, "").await })
        })
        .collect();
    for approval in approvals {
        assert_eq!(told(&approval.await.unwrap(), 200)["request"]["status"], "approved");
    }
    let ours = async |event_type: &str, of: &str| {
        let all = events(&client, event_type).await;
        all.into_iter().filter(|event| event["payload"]["domain"] == of).collect::<Vec<_>>()
    };
    let approved = ours("domain_approved", "data.example.com").await;
    let added = ours("domain_added", "data.example.com").await;
    assert_eq!((approved.len(), added.len()), (1, 1));
    let place = |event: &Value| text(&event["position"]).rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    assert_eq!(place(&added[0]), place(&approved[0]) + 1, "of one commit");
    refused(&post(&client, &format!("{path}/reject"), "").await, 409);
    let notice = read(&agent, "/agents/ceo/mailbox").await["messages"][0]["payload"].clone();
    assert_eq!((&notice["notice"], &notice["requestId"]), (&json!("domain_approved"), &request["id"]));
    for (name, allowed) in [
        ("data.example.com", true),
        ("DATA.example.com.", true),
        ("a.b.data.example.com", true),
        ("notdata.example.com", false),
        ("data.example.com.example.org", false),
        ("example.com", false),
        ("other.example.com", false),
    ] {
        let check = read(&agent, &format!("/domains/check?domain={name}")).await;
        let matched = if allowed { json!("data.example.com") } else { Value::Null };
        assert_eq!((&check["allowed"], &check["matchedBy"]), (&json!(allowed), &matched), "{name}");
    }
    refused(&post(&agent, "/domains/approval-requests", r#"{"domain":"x.data.example.com"}"#).await, 409);
    // What was rejected is not on the list, and may be asked for again.
    for _ in 0..2 {
        let wish = json!({"domain": "rejected.example.com"});
        let request = send(&agent, "/domains/approval-requests", &wish, 201).await["request"].clone();
        let path = format!("/domains/approval-requests/{}/reject", text(&request["id"]));
        assert_eq!(
            send(&client, &path, &json!({"reason": "No"}), 200).await["request"]["decisionReason"],
            "No"
        );
    }
    assert_eq!(ours("domain_added", "rejected.example.com").await.len(), 0);
    assert_eq!(read(&client, "/domains/approval-requests").await["requests"], json!([]));

    // A crash among many approvals leaves none halfway.
    let mut paths = Vec::new();
    for n in 0..16 {
        let wish = json!({"domain": format!("d{n}.example.net")});
        let request = send(&client, "/domains/approval-requests", &wish, 201).await;
        paths.push(format!("/domains/approval-requests/{}/approve", text(&request["request"]["id"])));
    }
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    for path in paths {
        let (client, said) = (client.clone(), said.clone());
        tokio::spawn(async move {
            if let Ok(answer) = client.raw("POST", &path, &[], None).await
                && answer.status == 200
            {
                let _ = said.send(text(&answer.json().unwrap()["request"]["domain"]));
            }
        });
    }
    drop(said);
    let mut acknowledged = BTreeSet::from([heard.recv().await.unwrap()]);
    server.kill();
    while let Some(domain) = heard.recv().await {
        acknowledged.insert(domain);
    }
    let server = sandbox.start().await;
    let client = server.client();
    let named = |list: &Value| -> BTreeSet<String> {
        let names = list.as_array().unwrap().iter().map(|one| text(&one["domain"]));
        names.filter(|name| name.ends_with(".example.net")).collect()
    };
    let approved =
        named(&read(&client, "/domains/approval-requests?status=approved&limit=500").await["requests"]);
    let pending = named(&read(&client, "/domains/approval-requests?limit=500").await["requests"]);
    assert_eq!(named(&read(&client, "/domains/whitelist").await["domains"]), approved);
    assert!(approved.is_superset(&acknowledged), "{approved:?} {acknowledged:?}");
    assert_eq!(approved.len() + pending.len(), 16);
    for event_type in ["domain_approved", "domain_added"] {
        let told: Vec<Value> =
            events(&client, event_type).await.iter().map(|e| e["payload"].clone()).collect();
        assert_eq!(named(&json!(told)), approved, "{event_type}");
    }
}

pub(crate) async fn agents_see_and_do_what_concerns_them_and_nothing_else(set: Set) {
    let sandbox = sandbox(set);
    roles::configure(&sandbox);
    let server = sandbox.start().await;
    let client = server.client();
    for agent in ["ceo", "cmo"] {
        client.start(agent).await.unwrap();
    }
    let ceo = as_agent(&sandbox, &roles::credential(&sandbox, "ceo", 1).await);
    let cmo = as_agent(&sandbox, &roles::credential(&sandbox, "cmo", 1).await);
    let strange = task(&client, "ceo", "high").await;
    let shared = task(&ceo, "cmo", "low").await;
    let made = read(&client, &format!("/tasks/{shared}")).await["task"].clone();
    assert_eq!(made["actor"], "agent:ceo");
    assert_eq!(made["createdBy"], read(&client, "/agents/ceo").await["id"]);
    // What is of others is not there.
    for (path, body) in [("", ""), ("/complete", "{}"), ("/fail", r#"{"error":"e"}"#), ("/cancel", "{}")] {
        let at = format!("/tasks/{strange}{path}");
        let answer = if path.is_empty() { get(&cmo, &at).await } else { post(&cmo, &at, body).await };
        refused(&answer, 404);
    }
    for (who, query, wanted) in [
        (&cmo, "", vec![&shared]),
        (&cmo, "?assignedTo=cmo", vec![&shared]),
        (&cmo, "?assignedTo=ceo", vec![]),
        (&ceo, "", vec![&shared, &strange]),
        (&ceo, "?status=completed", vec![]),
        (&client, "", vec![&shared, &strange]),
    ] {
        let listed = read(who, &format!("/tasks{query}")).await;
        let ids: Vec<String> =
            listed["tasks"].as_array().unwrap().iter().map(|task| text(&task["id"])).collect();
        assert_eq!(
            (ids.iter().collect::<Vec<_>>(), &listed["total"]),
            (wanted.clone(), &json!(wanted.len())),
            "{query}"
        );
    }
    // Who created a task may say that it is not wanted any more, and no more than that.
    let at = format!("/tasks/{shared}");
    refused(&post(&ceo, &format!("{at}/complete"), "{}").await, 403);
    refused(&post(&ceo, &format!("{at}/fail"), r#"{"error":"e"}"#).await, 403);
    refused(&post(&cmo, &format!("{at}/complete"), "{}").await, 409);
    let patch =
        cmo.raw("PATCH", &at, &[("content-type", "application/json")], Some(b"{}".to_vec())).await.unwrap();
    refused(&patch, 403);
    let critical = json!({"title": "t", "assignTo": "cmo", "priority": "critical"}).to_string();
    refused(&post(&ceo, "/tasks", &critical).await, 403);
    refused(&post(&cmo, "/tasks/claim", r#"{"agent":"ceo"}"#).await, 403);
    for (path, body) in [
        ("/broadcast", r#"{"message":"m"}"#),
        ("/domains/whitelist", r#"{"domain":"example.com","category":"c"}"#),
        ("/settings/queue/delay_low", r#"{"value":0}"#),
        ("/settings/governance/tiers", r#"{"value":0}"#),
    ] {
        refused(&post(&ceo, path, body).await, 403);
    }
    for path in [
        "/agents/cmo/state",
        "/agents/cmo/mailbox",
        "/settings",
        "/domains/whitelist",
        "/domains/approval-requests",
    ] {
        refused(&get(&ceo, path).await, 403);
    }
    for id in [&shared, &strange] {
        assert_eq!(read(&client, &format!("/tasks/{id}")).await["task"]["status"], "pending");
    }
    assert_eq!(events(&client, "task_created").await.len(), 2);
    assert_eq!(read(&client, "/settings").await["version"], 0);
    // And what is theirs they may.
    assert_eq!(claim(&cmo, "cmo").await["task"]["id"], json!(shared));
    assert_eq!(
        send(&ceo, &format!("{at}/cancel"), &json!({"reason": "Off"}), 200).await["task"]["status"],
        "cancelled"
    );
    refused(&post(&cmo, &format!("{at}/complete"), "{}").await, 409);
    assert_eq!(claim(&ceo, "ceo").await["task"]["id"], json!(strange));
    let failed = send(&ceo, &format!("/tasks/{strange}/fail"), &json!({"error": "Cannot"}), 200).await;
    assert_eq!((&failed["task"]["status"], &failed["task"]["error"]), (&json!("failed"), &json!("Cannot")));
    refused(&post(&client, &format!("/tasks/{strange}/complete"), "{}").await, 409);
}
