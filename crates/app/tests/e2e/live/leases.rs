//! Leases that end with their incarnation, times that pass, and what outlives restarts.

use std::time::Duration;

use aito_api::{CompleteTask, EditTask, NewMessage, NewTask, PutState, Task, Timestamp, WriteSetting};
use aito_client::{Client, EventQuery, Page};
use aito_harness::{Set, processes, wait};
use rustix::process::Signal;
use serde_json::json;
use uuid::Uuid;

use super::{Installation, claim, quiet, task};
use crate::{SOON, as_agent, credential, tokens::in_millis};

/// Within what the sweep does its work, on a busy machine.
const SWEPT: Duration = Duration::from_secs(5);

/// How often a change of a task was told, by the incarnation that it names.
async fn told(client: &Client, task: Uuid, change: &str) -> Vec<Option<u64>> {
    let page = Page { limit: Some(500), cursor: None };
    let query = EventQuery { event_type: Some("task_updated".to_owned()), page };
    let events = client.events(&query).await.unwrap().events;
    let task = task.to_string();
    let mut told: Vec<_> = events
        .iter()
        .filter(|event| event.payload["taskId"] == task && event.payload["change"] == change)
        .map(|event| event.payload["incarnation"].as_u64())
        .collect();
    told.reverse();
    told
}

async fn until_pending(client: &Client, id: Uuid) -> Task {
    wait::until("the task to wait again", SWEPT, async || {
        let task = client.task(id).await.ok()?;
        (task.status == "pending").then_some(task)
    })
    .await
}

pub(crate) async fn the_task_of_an_agent_that_ended_waits_again_without_a_claim(set: Set) {
    let sandbox = quiet(set);
    let servers = Installation::start(&sandbox).await;
    let (here, there) = (servers.here(), servers.there());
    here.start("ceo").await.unwrap();
    let made = task(&here, "left behind", "normal").await;
    let first = as_agent(&sandbox, &credential(&sandbox, 1).await);
    assert_eq!(claim(&first).await.unwrap().lease.unwrap().incarnation, 1);
    let (_, _, pid) = wait::until("its process", SOON, async || sandbox.agents().first().cloned()).await;
    processes::signal(pid, Signal::KILL);
    let waits = until_pending(&there, made.id).await;
    assert_eq!((waits.lease, waits.claims, waits.ended_at), (None, 1, None));
    // The credential of the next one is written when it runs.
    let second = as_agent(&sandbox, &credential(&sandbox, 2).await);
    let refused = first.complete_task(made.id, &CompleteTask::default()).await.unwrap_err();
    assert_eq!(refused.status(), Some(401), "{refused}");
    let unclaimed = second.complete_task(made.id, &CompleteTask::default()).await.unwrap_err();
    assert_eq!(unclaimed.status(), Some(409), "{unclaimed}");
    let again = claim(&second).await.unwrap();
    assert_eq!((again.id, again.claims, again.lease.unwrap().incarnation), (made.id, 2, 2));
    here.restart("ceo").await.unwrap();
    until_pending(&there, made.id).await;
    let third = as_agent(&sandbox, &credential(&sandbox, 3).await);
    assert_eq!(claim(&third).await.unwrap().id, made.id);
    here.stop("ceo").await.unwrap();
    until_pending(&there, made.id).await;
    assert_eq!(told(&there, made.id, "released").await, [Some(1), Some(2), Some(3)], "each once");
    assert_eq!(told(&there, made.id, "claimed").await, [Some(1), Some(2), Some(3)]);
}

pub(crate) async fn an_overdue_task_is_told_once(set: Set) {
    let sandbox = quiet(set);
    let servers = Installation::start(&sandbox).await;
    let there = servers.there();
    let until_overdue = async |id: Uuid, due: Timestamp| {
        let soon = wait::until("the task to be overdue", SOON, async || {
            let task = there.task(id).await.ok()?;
            task.overdue.then_some(task)
        })
        .await;
        let late = soon.updated_at.timestamp_millis() - due.timestamp_millis();
        assert!((0..5000).contains(&late), "it was told {late} ms after its time");
    };
    let mut new = NewTask::new("by then", "cfo", "normal");
    new.due_date = Some(in_millis(1500));
    let made = servers.here().create_task(&new, None).await.unwrap();
    assert!(!made.overdue);
    let mut never = new.clone();
    never.due_date = Some(in_millis(1500));
    let ended = servers.here().create_task(&never, None).await.unwrap();
    there.complete_task(ended.id, &CompleteTask::default()).await.unwrap();
    until_overdue(made.id, made.due_date.unwrap()).await;
    // Another time is another task to meet, and both servers look at it several times.
    let later = EditTask { due_date: Some(Some(in_millis(2500))), ..EditTask::default() };
    let edited = there.edit_task(made.id, &later, None).await.unwrap();
    assert!(!edited.overdue);
    until_overdue(made.id, edited.due_date.unwrap()).await;
    let third = task(&there, "a mark", "low").await;
    let mut mark = EditTask { due_date: Some(Some(in_millis(2500))), ..EditTask::default() };
    mark.title = Some("a later mark".to_owned());
    let third = there.edit_task(third.id, &mark, None).await.unwrap();
    until_overdue(third.id, third.due_date.unwrap()).await;
    assert_eq!(told(&there, made.id, "overdue").await, [None, None], "once for each time");
    assert_eq!(told(&there, ended.id, "overdue").await, [], "what has ended is not late");
    assert!(!there.task(ended.id).await.unwrap().overdue);
}

pub(crate) async fn a_task_for_an_agent_that_does_not_run_waits(set: Set) {
    let sandbox = quiet(set);
    let servers = Installation::start(&sandbox).await;
    let (here, there) = (servers.here(), servers.there());
    let made = task(&here, "when you are there", "high").await;
    let refused = there.claim_task("ceo").await.unwrap_err();
    assert_eq!(refused.status(), Some(409), "{refused}");
    let mails = there.mailbox("ceo", &Page::default(), 0).await.unwrap().messages;
    assert_eq!((mails.len(), mails[0].kind.as_str()), (1, "task"), "{mails:?}");
    let says = json!({"taskId": made.id, "title": "when you are there", "priority": "high"});
    assert_eq!(mails[0].payload, says);
    assert_eq!(there.task(made.id).await.unwrap().status, "pending");
    here.start("ceo").await.unwrap();
    assert_eq!(claim(&there).await.unwrap().id, made.id);
    here.stop("ceo").await.unwrap();
    until_pending(&there, made.id).await;
    let refused = there.claim_task("ceo").await.unwrap_err();
    assert_eq!(refused.status(), Some(409), "{refused}");
    here.start("ceo").await.unwrap();
    assert_eq!(claim(&there).await.unwrap().id, made.id);
}

pub(crate) async fn state_tasks_mail_and_settings_outlive_restarts(set: Set) {
    let sandbox = quiet(set);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    let first = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let plan = PutState::new(json!({"step": 3, "of": ["a", "b"]}));
    let kept = first.put_state("ceo", "plan", &plan, None).await.unwrap();
    first.put_state("ceo", "gone", &PutState::new(1), None).await.unwrap();
    first.put_state("ceo", "gone", &PutState::new(serde_json::Value::Null), None).await.unwrap();
    let made = task(&client, "go on with it", "urgent").await;
    let claimed = claim(&first).await.unwrap();
    let message = client.send_message("ceo", &NewMessage::new("go on", "low"), None).await.unwrap();
    client.write_setting("tasks", "max_in_progress", &WriteSetting::new(7)).await.unwrap();
    let settings = client.settings().await.unwrap();
    let before = client.state("ceo", &Page::default()).await.unwrap().state;
    assert_eq!(before, std::slice::from_ref(&kept));
    server.kill();

    let server = sandbox.start().await;
    let client = server.client();
    // The agent has lived on, and so has its lease.
    assert_eq!(client.task(made.id).await.unwrap(), claimed);
    assert_eq!(client.settings().await.unwrap(), settings);
    client.restart("ceo").await.unwrap();
    let second = as_agent(&sandbox, &credential(&sandbox, 2).await);
    assert_eq!(second.state("ceo", &Page::default()).await.unwrap().state, before, "its successor has it");
    let outdated = second.put_state("ceo", "plan", &PutState::new(4), Some("\"99\"")).await.unwrap_err();
    assert!(outdated.is_outdated(), "{outdated}");
    second.put_state("ceo", "plan", &PutState::new(4), Some(&kept.etag)).await.unwrap();
    let past = first.put_state("ceo", "plan", &PutState::new(5), None).await.unwrap_err();
    assert_eq!(past.status(), Some(401), "{past}");
    let mails = second.mailbox("ceo", &Page::default(), 0).await.unwrap().messages;
    assert!(mails.contains(&message), "{mails:?}");
    assert_eq!(claim(&second).await.unwrap().id, made.id);
    assert_eq!(second.state("ceo", &Page::default()).await.unwrap().state[0].value, 4);
}

pub(crate) async fn the_first_domains_are_on_the_list_once_and_stay_removed(set: Set) {
    let sandbox = quiet(set);
    let names = async |client: &Client| {
        let list = client.domains(&Page { limit: Some(500), cursor: None }).await.unwrap();
        assert!(list.advisory && list.next_cursor.is_none());
        list.domains.into_iter().map(|entry| entry.domain).collect::<Vec<_>>()
    };
    let servers = Installation::start(&sandbox).await;
    let first = names(&servers.here()).await;
    assert!(first.len() > 1, "{first:?}");
    for client in servers.both() {
        assert_eq!(names(&client).await, first, "a second server adds none");
    }
    let removed = &first[0];
    assert!(servers.there().check_domain(removed).await.unwrap().allowed);
    servers.here().remove_domain(removed).await.unwrap();
    drop(servers);
    let servers = Installation::start(&sandbox).await;
    for client in servers.both() {
        assert_eq!(names(&client).await, first[1..], "a later start brings nothing back");
        let check = client.check_domain(removed).await.unwrap();
        assert!(!check.allowed, "{check:?}");
    }
}
