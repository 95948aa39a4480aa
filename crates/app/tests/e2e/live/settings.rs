//! Every known setting that something heeds is changed twice while the servers run.

use std::time::Duration;

use aito_api::{CompleteTask, NewMessage, Setting, WriteSetting};
use aito_client::{Client, Page};
use aito_harness::{Set, wait};
use serde_json::{Value, json};

use super::{Installation, beat, claim, quiet, task};
use crate::SOON;

/// Within what a setting takes effect on every server.
const EFFECT: Duration = Duration::from_secs(1);
/// The priorities, each with a delay that is allowed and never over in a test.
const LONG: [(&str, u64); 5] = [
    ("low", 86_400_000),
    ("normal", 3_600_000),
    ("high", 3_600_000),
    ("urgent", 3_600_000),
    ("critical", 60_000),
];

async fn set(client: &Client, category: &str, key: &str, value: impl Into<Value>) -> Setting {
    let setting = client.write_setting(category, key, &WriteSetting::new(value)).await.unwrap();
    assert_eq!((setting.category.as_str(), setting.key.as_str()), (category, key));
    setting
}

/// Sets it here, and waits until it counts there.
async fn set_everywhere(servers: &Installation, key: &str, value: u64) {
    let there = servers.there();
    let before = beat(&there).await.settings_version;
    set(&servers.here(), "tasks", key, value).await;
    wait::until("the setting's version to be told", EFFECT, async || {
        (beat(&there).await.settings_version > before).then_some(())
    })
    .await;
}

async fn waiting(client: &Client, wait: u32) -> Vec<aito_api::Mail> {
    client.mailbox("ceo", &Page { limit: Some(500), cursor: None }, wait).await.unwrap().messages
}

async fn acknowledge_all(client: &Client) {
    for mail in waiting(client, 0).await {
        client.acknowledge("ceo", mail.id).await.unwrap();
    }
}

pub(crate) async fn how_long_what_is_sent_may_wait_is_changed_live(set_of: Set) {
    let sandbox = quiet(set_of);
    let servers = Installation::start(&sandbox).await;
    let (here, there) = (servers.here(), servers.there());
    here.start("ceo").await.unwrap();
    for (priority, long) in LONG {
        let key = format!("delay_{priority}");
        let message = NewMessage::new("how long does it take?", priority);
        let sent_with = async |delay: u64, what: &str| {
            wait::until(what, EFFECT, async || {
                let mail = there.send_message("ceo", &message, None).await.unwrap();
                let delayed = mail.due_at.timestamp_millis() - mail.created_at.timestamp_millis();
                (delayed.unsigned_abs() == delay).then_some(mail)
            })
            .await
        };
        set(&here, "queue", &key, long).await;
        sent_with(long, "a long delay").await;
        // Those before it were due.
        acknowledge_all(&there).await;
        let mail = there.send_message("ceo", &message, None).await.unwrap();
        assert_eq!(waiting(&there, 0).await, std::slice::from_ref(&mail), "it can be read, due or not");
        assert_eq!(beat(&there).await.mailbox, 0, "{priority}: it is not due");
        let took = wait::stopwatch();
        assert_eq!(waiting(&there, 1).await, [], "{priority}: nobody is woken");
        assert!(took() >= Duration::from_secs(1), "{priority}: the wait was over after {:?}", took());

        set(&here, "queue", &key, 0).await;
        let due = sent_with(0, "no delay").await;
        let took = wait::stopwatch();
        let woken = waiting(&there, 30).await;
        assert!(took() < SOON, "{priority}: the wait took {:?}", took());
        // Who is woken gets all that waits.
        assert!([mail.id, due.id].iter().all(|id| woken.iter().any(|mail| mail.id == *id)), "{woken:?}");
        wait::until("the heartbeat to tell of it", SOON, async || {
            (beat(&there).await.mailbox > 0).then_some(())
        })
        .await;
        acknowledge_all(&there).await;
    }
}

pub(crate) async fn the_loop_interval_is_changed_live_and_versions_grow(set_of: Set) {
    let sandbox = quiet(set_of);
    let servers = Installation::start(&sandbox).await;
    let (here, there) = (servers.here(), servers.there());
    here.start("ceo").await.unwrap();
    assert_eq!(beat(&there).await.loop_interval, 1800, "as it is by default");
    let mut version = beat(&there).await.settings_version;
    for seconds in [7_u64, 604_800] {
        set(&here, "agents", "loop_interval_ceo", seconds).await;
        let answer = wait::until("the heartbeat's answer", EFFECT, async || {
            let answer = beat(&there).await;
            (answer.loop_interval == seconds).then_some(answer)
        })
        .await;
        assert!(answer.settings_version > version, "{answer:?} after {version}");
        version = answer.settings_version;
        let agents = there.agents(None).await.unwrap().agents;
        let shown: Vec<_> = agents
            .iter()
            .filter(|agent| agent.loop_interval == seconds)
            .map(|agent| agent.agent_type.as_str())
            .collect();
        assert_eq!(shown, ["ceo"]);
        assert_eq!(there.agent("ceo").await.unwrap().loop_interval, seconds);
        assert_eq!(there.settings().await.unwrap().version, version);
    }
}

pub(crate) async fn how_many_tasks_an_agent_may_hold_is_changed_live(set_of: Set) {
    let sandbox = quiet(set_of);
    let servers = Installation::start(&sandbox).await;
    let there = servers.there();
    servers.here().start("ceo").await.unwrap();
    for title in ["a", "b", "c", "d"] {
        task(&there, title, "normal").await;
    }
    set_everywhere(&servers, "max_in_progress", 1).await;
    let mut held = vec![claim(&there).await.unwrap()];
    assert_eq!(claim(&there).await.unwrap_err(), "at_limit");
    set_everywhere(&servers, "max_in_progress", 3).await;
    for _ in 0..2 {
        held.push(claim(&there).await.unwrap());
    }
    assert_eq!(claim(&there).await.unwrap_err(), "at_limit");
    let titles: Vec<_> = held.iter().map(|task| task.title.as_str()).collect();
    assert_eq!(titles, ["a", "b", "c"], "the oldest first");
    // A limit that is less than what is held takes nothing away.
    set_everywhere(&servers, "max_in_progress", 1).await;
    for task in &held {
        assert_eq!(claim(&there).await.unwrap_err(), "at_limit");
        there.complete_task(task.id, &CompleteTask::default()).await.unwrap();
    }
    assert_eq!(claim(&there).await.unwrap().title, "d");
}

pub(crate) async fn what_waiting_is_worth_is_changed_live(set_of: Set) {
    let sandbox = quiet(set_of);
    let servers = Installation::start(&sandbox).await;
    let there = servers.there();
    servers.here().start("ceo").await.unwrap();
    let old = task(&there, "old and low", "low").await;
    let two_steps = old.created_at.timestamp_millis() + 2000;
    wait::until("two seconds of waiting", SOON, async || (wait::wall_millis() >= two_steps).then_some(()))
        .await;
    set_everywhere(&servers, "age_step", 0).await;
    task(&there, "new and normal", "normal").await;
    assert_eq!(claim(&there).await.unwrap().title, "new and normal");
    set_everywhere(&servers, "age_step", 1).await;
    task(&there, "newer and high", "high").await;
    task(&there, "newest and urgent", "urgent").await;
    // Waiting has made it high, and of two such the older one is next; what is urgent it does not pass.
    let next = claim(&there).await.unwrap();
    assert_eq!(next.title, "newest and urgent");
    there.complete_task(next.id, &CompleteTask::default()).await.unwrap();
    let next = claim(&there).await.unwrap();
    assert_eq!((next.title.as_str(), next.priority.as_str()), ("old and low", "low"));
}

pub(crate) async fn a_setting_that_nothing_heeds_says_so(set_of: Set) {
    let sandbox = quiet(set_of);
    let servers = Installation::start(&sandbox).await;
    let (here, there) = (servers.here(), servers.there());
    let written = set(&here, "llm", "routing_strategy", "cheapest").await;
    assert!(!written.effective, "{written:?}");
    assert!(set(&here, "queue", "delay_low", 1).await.effective);
    let foreign = set(&here, "brand", "colour", "blue").await;
    assert!(!foreign.effective, "{foreign:?}");
    let shown = there.settings().await.unwrap().settings;
    assert_eq!(shown["llm"]["routing_strategy"], "cheapest");
    assert_eq!((&shown["brand"]["colour"], &shown["queue"]["delay_low"]), (&json!("blue"), &json!(1)));
    // Every setting that is said to take effect is changed by a test here, and no other is.
    let schema = there.settings_schema().await.unwrap();
    let mut heeded = Vec::new();
    for (category, keys) in schema["properties"].as_object().unwrap() {
        let keys = keys["properties"].as_object().unwrap();
        heeded.extend(
            keys.iter()
                .filter(|(_, schema)| schema["x-effective"] == true)
                .map(|(key, _)| format!("{category}.{key}"))
                .filter(|name| name == "agents.loop_interval_ceo" || !name.starts_with("agents.")),
        );
    }
    heeded.sort();
    let mut changed: Vec<_> = LONG.iter().map(|(priority, _)| format!("queue.delay_{priority}")).collect();
    changed.extend(["agents.loop_interval_ceo", "tasks.age_step", "tasks.max_in_progress"].map(String::from));
    changed.sort();
    assert_eq!(heeded, changed);
}
