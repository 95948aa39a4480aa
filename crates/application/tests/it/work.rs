//! Tasks, mailboxes and notes: what one server decides while another does the same, and what the dead leave behind.

use std::{sync::Arc, time::Duration};

use aito_application::{
    By, Error, Seen,
    mailbox::NewMessage,
    once::Once,
    quota::{Allowance, Quota},
    settings::NewValue,
    tasks::{Claim, Ending, NewTask, TaskView, Wanted},
};
use aito_contracts::wait;
use aito_domain::{
    agent::{Agent, Exit},
    event::{Actor, Payload, TaskChange},
    id::{AgentId, Incarnation, MailId, TaskId, Version},
    mailbox::{MAX_WAITING, MAX_WAITING_OF_AGENTS, MAX_WAITING_OF_ONE, MailKind},
    ports::{
        clock::Clock as _,
        ledger::Speaker,
        mailbox_store::MailboxStore,
        task_store::{TaskCursor, TaskStore as _},
    },
    task::{TaskStatus, next},
};
use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::support::{House, SOON, Server, operator, ty};

const SECOND: Duration = Duration::from_secs(1);

/// A house with started agents and a server in it.
async fn company() -> (House, Server) {
    company_in(House::new()).await
}

async fn company_in(house: House) -> (House, Server) {
    let server = house.server(&["ceo", "cmo"]).await;
    for name in ["ceo", "cmo"] {
        server.fleet.start(&ty(name), &operator()).await.unwrap();
    }
    (house, server)
}

fn wish(title: &str, priority: &str) -> NewTask {
    NewTask {
        title: title.to_owned(),
        assign_to: "cmo".to_owned(),
        priority: priority.to_owned(),
        ..NewTask::default()
    }
}

async fn create(server: &Server, title: &str, priority: &str) -> TaskView {
    let work = &server.work;
    work.tasks.create(wish(title, priority), None, &operator(), None, &work.quotas).await.unwrap()
}

/// As the present incarnation of an agent.
fn speaking(agent: &Agent) -> By {
    By::author(Actor::Agent(agent.agent_type.clone()))
        .speaking(Speaker { agent: agent.id, incarnation: agent.incarnation })
}

async fn claim(server: &Server, agent: &Agent) -> Claim {
    server.work.tasks.claim(agent.id, agent.incarnation, &speaking(agent)).await.unwrap()
}

async fn claimed(server: &Server, agent: &Agent) -> TaskView {
    match claim(server, agent).await {
        Claim::Task(view) => *view,
        other => panic!("{other:?}"),
    }
}

/// What was told of a task, in order.
async fn told(house: &House, task: TaskId) -> Vec<TaskChange> {
    let change = |payload| match payload {
        Payload::TaskUpdated(told) if told.task_id == task => Some(told.change),
        _ => None,
    };
    house.events().await.iter().filter_map(|event| change(event.payload())).collect()
}

async fn set(server: &Server, category: &str, key: &str, value: i64) {
    let new = NewValue { value: Some(json!(value)), description: None, secret: None };
    server.work.settings.write(category, key, new, None, &operator()).await.unwrap();
}

#[tokio::test]
async fn a_task_wakes_its_agent_in_the_same_commit_when_the_settings_say() {
    let (house, server) = company().await;
    let cmo = house.agent("cmo").await;
    let before = house.events().await.len();
    let view = create(&server, "Create Twitter Post", "high").await;
    assert_eq!((view.assignee.as_str(), view.task.version), ("cmo", Version(1)));
    let mails = server.work.mail.list(cmo.id, None, 10).await.unwrap();
    assert_eq!((mails.len(), mails[0].kind), (1, MailKind::Task));
    assert_eq!(mails[0].body["taskId"], view.task.id.to_string());
    assert_eq!(mails[0].wake_at - mails[0].created_at, chrono(30));
    assert_eq!(house.events().await.len(), before + 1, "one event tells of both");
    set(&server, "queue", "delay_high", 0).await;
    create(&server, "another", "high").await;
    let mails = server.work.mail.list(cmo.id, None, 10).await.unwrap();
    assert_eq!(mails[1].wake_at, mails[1].created_at, "what is set counts for what is sent from then on");
}

fn chrono(seconds: u64) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(Duration::from_secs(seconds)).unwrap()
}

#[tokio::test]
async fn a_claim_in_vain_writes_nothing() {
    let (house, server) = company().await;
    let cmo = house.agent("cmo").await;
    let before = house.events().await.len();
    for _ in 0..3 {
        assert_eq!(claim(&server, &cmo).await, Claim::NothingWaits);
    }
    for title in ["a", "b", "c"] {
        create(&server, title, "low").await;
    }
    for _ in 0..2 {
        claimed(&server, &cmo).await;
    }
    for _ in 0..3 {
        assert_eq!(claim(&server, &cmo).await, Claim::AtLimit);
    }
    assert_eq!(house.events().await.len(), before + 5);
}

#[tokio::test]
async fn claims_of_two_servers_at_once_take_each_task_once_in_order_and_never_too_many() {
    let house = House::automatic();
    let (a, b) = (house.server(&["cmo"]).await, house.server(&["cmo"]).await);
    a.fleet.start(&ty("cmo"), &operator()).await.unwrap();
    let cmo = house.agent("cmo").await;
    for (n, priority) in
        ["low", "critical", "normal", "high", "urgent", "low"].iter().cycle().take(18).enumerate()
    {
        create(&a, &n.to_string(), priority).await;
    }
    let mut done = Vec::new();
    while done.len() < 18 {
        let waiting = house.store.claimable(cmo.id).await.unwrap().unwrap();
        let rules = a.work.settings.current().await.unwrap().claim_rules();
        let best = next(&waiting.oldest, &rules, house.clock.now()).map(|task| task.id);
        let claims = (0..6).map(|n| claim(if n % 2 == 0 { &a } else { &b }, &cmo));
        let taken: Vec<_> = join_all(claims)
            .await
            .into_iter()
            .filter_map(|it| if let Claim::Task(view) = it { Some(view.task) } else { None })
            .collect();
        assert!((1..=2).contains(&taken.len()), "{}", taken.len());
        assert!(taken.iter().any(|task| Some(task.id) == best), "the best is among those that were taken");
        let held = house.store.claimable(cmo.id).await.unwrap().unwrap().held;
        assert_eq!(held.len(), taken.len());
        for task in taken {
            let (who, by) = (Some((cmo.id, cmo.incarnation)), speaking(&cmo));
            b.work.tasks.end(task.id, Ending::Complete(None), who, &by).await.unwrap();
            done.push(task.id);
        }
    }
    let mut once = done.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), 18, "none twice");
}

#[tokio::test]
async fn what_a_dead_incarnation_holds_waits_again_and_it_says_nothing_more_of_it() {
    let (house, server) = company().await;
    create(&server, "a", "normal").await;
    let past = house.agent("cmo").await;
    let task = claimed(&server, &past).await.task;
    server.fleet.restart(&ty("cmo"), &operator()).await.unwrap();
    let present = house.agent("cmo").await;
    // The credential was checked before the restart; the commit comes after it.
    let who = Some((past.id, past.incarnation));
    let late = server.work.tasks.end(task.id, Ending::Complete(None), who, &speaking(&past)).await;
    assert!(matches!(late, Err(Error::PastIncarnation { .. })), "{late:?}");
    let late = server.work.tasks.claim(past.id, past.incarnation, &speaking(&past)).await;
    assert!(matches!(late, Err(Error::PastIncarnation { .. })), "{late:?}");

    let again = claimed(&server, &present).await.task;
    assert_eq!((again.id, again.claims), (task.id, 2), "without waiting for the sweep");
    assert_eq!(told(&house, task.id).await, [TaskChange::Claimed, TaskChange::Released, TaskChange::Claimed]);
    let who = Some((present.id, present.incarnation));
    let (result, by) = (Some(json!({"n": 1})), speaking(&present));
    let done = server.work.tasks.end(task.id, Ending::Complete(result), who, &by).await.unwrap();
    assert_eq!(done.task.status(), TaskStatus::Completed);
}

#[tokio::test]
async fn the_sweep_takes_back_what_an_agent_holds_that_has_ended() {
    let (house, mut server) = company().await;
    create(&server, "a", "normal").await;
    let cmo = house.agent("cmo").await;
    let task = claimed(&server, &cmo).await.task;
    server.work.tasks.sweep().await.unwrap();
    assert_eq!(told(&house, task.id).await, [TaskChange::Claimed], "it lives");
    server.run();
    let key = aito_domain::fleet::ContainerKey::of(&cmo);
    house.engine.exit_now(&key, Exit::Code(1));
    house.until_status("cmo", aito_domain::agent::Status::Error).await;
    for _ in 0..2 {
        server.work.tasks.sweep().await.unwrap();
    }
    assert_eq!(told(&house, task.id).await, [TaskChange::Claimed, TaskChange::Released], "once");
    let dead = house.agent("cmo").await;
    let refused = server.work.tasks.claim(dead.id, dead.incarnation, &speaking(&dead)).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn that_a_task_is_overdue_is_told_once_by_however_many_servers() {
    // Who meets a conflict waits a moment.
    let (house, a) = company_in(House::automatic()).await;
    let b = house.server(&["ceo", "cmo"]).await;
    let due = aito_domain::time::after(house.clock.now(), SECOND);
    let new = NewTask { due_date: Some(due.to_rfc3339()), ..wish("a", "low") };
    let task = a.work.tasks.create(new, None, &operator(), None, &a.work.quotas).await.unwrap().task;
    let sweep = async || join_all([&a, &b].map(|server| server.work.tasks.sweep())).await;
    sweep().await;
    assert!(told(&house, task.id).await.is_empty());
    house.pass(SECOND);
    for _ in 0..3 {
        for swept in sweep().await {
            swept.unwrap();
        }
    }
    assert_eq!(told(&house, task.id).await, [TaskChange::Overdue]);
}

#[tokio::test]
async fn an_agent_sees_what_concerns_it_and_creates_nothing_critical() {
    let (house, server) = company().await;
    let (ceo, cmo) = (house.agent("ceo").await, house.agent("cmo").await);
    let (work, by) = (&server.work, speaking(&ceo));
    let refused = work.tasks.create(wish("a", "critical"), Some(&ceo), &by, None, &work.quotas).await;
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    let own = work.tasks.create(wish("a", "urgent"), Some(&ceo), &by, None, &work.quotas).await.unwrap();
    let other = create(&server, "b", "low").await;
    let seen = async |viewer: AgentId| {
        let page = work.tasks.list(&Wanted::default(), Some(viewer), None, 0, 10).await.unwrap();
        (page.tasks.into_iter().map(|view| view.task.id).collect::<Vec<_>>(), page.total.count)
    };
    assert_eq!(seen(ceo.id).await, (vec![own.task.id], 1));
    assert_eq!(seen(cmo.id).await, (vec![other.task.id, own.task.id], 2));
    assert!(matches!(work.tasks.get(other.task.id, Some(ceo.id)).await, Err(Error::NotFound(_))));
    // What it created it may cancel, and not say to be done.
    let who = Some((ceo.id, ceo.incarnation));
    let done = work.tasks.end(own.task.id, Ending::Complete(None), who, &by).await;
    assert!(matches!(done, Err(Error::Forbidden(_))), "{done:?}");
    let none = work.tasks.end(other.task.id, Ending::Cancel(None), who, &by).await;
    assert!(matches!(none, Err(Error::NotFound(_))), "{none:?}");
    let cancelled = work.tasks.end(own.task.id, Ending::Cancel(None), who, &by).await.unwrap();
    assert_eq!(cancelled.task.status(), TaskStatus::Cancelled);
}

#[tokio::test]
async fn a_repeated_creation_makes_one_task_and_wakes_once() {
    let (house, server) = company().await;
    let (work, cmo) = (&server.work, house.agent("cmo").await);
    let once = Once::new("token/1", "POST", "/tasks", "k");
    let make = async |title: &str| {
        work.tasks.create(wish(title, "low"), None, &operator(), Some(&once), &work.quotas).await
    };
    let first = make("a").await.unwrap();
    house.pass(SECOND);
    assert_eq!(make("a").await.unwrap(), first);
    assert!(matches!(make("b").await, Err(Error::Conflict(_))));
    assert_eq!(work.mail.list(cmo.id, None, 10).await.unwrap().len(), 1);
    assert_eq!(work.tasks.list(&Wanted::default(), None, None, 0, 10).await.unwrap().total.count, 1);
}

#[tokio::test]
async fn what_an_agent_creates_and_sends_a_day_is_bounded_and_what_fails_is_given_back() {
    let (house, server) = company().await;
    let (ceo, cmo) = (house.agent("ceo").await, house.agent("cmo").await);
    let two = Quota { rows: 2, bytes: 1000 };
    let quotas = house.quotas(Allowance { tasks: two, messages: two, state: two, ..Allowance::default() });
    let (work, by) = (&server.work, speaking(&ceo));
    let text = |text: &str| NewMessage { text: text.to_owned(), priority: "low".to_owned() };
    for n in 0..2 {
        let title = n.to_string();
        work.tasks.create(wish(&title, "low"), Some(&ceo), &by, None, &quotas).await.unwrap();
        work.mail.send(&cmo, text(&title), Some(&ceo), &by, None, Some(&quotas)).await.unwrap();
    }
    let task = work.tasks.create(wish("x", "low"), Some(&ceo), &by, None, &quotas).await;
    assert!(matches!(task, Err(Error::TooMany { .. })), "{task:?}");
    let message = work.mail.send(&cmo, text("x"), Some(&ceo), &by, None, Some(&quotas)).await;
    assert!(matches!(message, Err(Error::TooMany { .. })), "{message:?}");
    // Another server reads what this one's commits added up.
    let elsewhere = house.quotas(Allowance { tasks: two, ..Allowance::default() });
    let task = work.tasks.create(wish("x", "low"), Some(&ceo), &by, None, &elsewhere).await;
    assert!(matches!(task, Err(Error::TooMany { .. })), "{task:?}");
    // Removing what is not there stores nothing, and so costs nothing.
    for _ in 0..5 {
        work.notes.put(&ceo, "none", Some(json!(null)), None, &by, Some(&quotas)).await.unwrap();
    }
    for value in [1, 2] {
        work.notes.put(&ceo, "n", Some(json!(value)), None, &by, Some(&quotas)).await.unwrap();
    }
    let note = work.notes.put(&ceo, "n", Some(json!(3)), None, &by, Some(&quotas)).await;
    assert!(matches!(note, Err(Error::TooMany { .. })), "{note:?}");
    house.pass(Duration::from_secs(24 * 3600));
    work.notes.put(&ceo, "n", Some(json!(4)), None, &by, Some(&quotas)).await.unwrap();
}

#[tokio::test]
async fn who_waits_is_woken_when_the_first_message_is_due_and_gets_everything() {
    let house = House::automatic();
    let server = house.server(&["cmo"]).await;
    let (work, cmo) = (&server.work, house.agent("cmo").await);
    let send = async |priority: &str| {
        let new = NewMessage { text: "x".to_owned(), priority: priority.to_owned() };
        work.mail.send(&cmo, new, None, &operator(), None, None).await.unwrap()
    };
    let minute = Duration::from_secs(60);
    assert!(!work.mail.wait(cmo.id, &[], minute).await.unwrap(), "nothing is there");
    let low = send("low").await;
    assert!(!work.mail.wait(cmo.id, &[], minute).await.unwrap(), "it is not due for five minutes");
    assert_eq!(work.mail.due(cmo.id).await.unwrap(), 0);
    let urgent = send("urgent").await;
    assert!(work.mail.wait(cmo.id, &[], minute).await.unwrap());
    assert!(house.clock.now() >= urgent.wake_at && house.clock.now() < low.wake_at);
    let all = work.mail.list(cmo.id, None, 10).await.unwrap();
    assert_eq!(
        all.iter().map(|mail| mail.id).collect::<Vec<_>>(),
        [urgent.id, low.id],
        "the most urgent first"
    );
    assert!(!work.mail.wait(cmo.id, &[urgent.id], minute).await.unwrap(), "that one is known");
    send("critical").await;
    let before = house.clock.now();
    assert!(work.mail.wait(cmo.id, &[urgent.id], minute).await.unwrap());
    assert_eq!(house.clock.now(), before, "critical at once");
}

#[tokio::test]
async fn a_message_is_handed_out_until_its_agent_acknowledges_it_or_it_expires() {
    let (house, server) = company().await;
    let (work, cmo, ceo) = (&server.work, house.agent("cmo").await, house.agent("ceo").await);
    let new = NewMessage { text: "x".to_owned(), priority: "low".to_owned() };
    let mail = work.mail.send(&cmo, new.clone(), None, &operator(), None, None).await.unwrap();
    for _ in 0..2 {
        assert_eq!(work.mail.list(cmo.id, None, 10).await.unwrap(), std::slice::from_ref(&mail));
    }
    let (by, incarnation) = (speaking(&cmo), cmo.incarnation);
    let others = work.mail.acknowledge(&ceo, ceo.incarnation, mail.id, &speaking(&ceo)).await;
    assert!(matches!(others, Err(Error::NotFound(_))), "{others:?}");
    server.fleet.restart(&ty("cmo"), &operator()).await.unwrap();
    let past = work.mail.acknowledge(&cmo, incarnation, mail.id, &by).await;
    assert!(matches!(past, Err(Error::PastIncarnation { .. })), "{past:?}");
    let present = house.agent("cmo").await;
    let events = house.events().await.len();
    for _ in 0..2 {
        let heard =
            work.mail.acknowledge(&present, present.incarnation, mail.id, &speaking(&present)).await.unwrap();
        assert_eq!(heard.acknowledged.unwrap().incarnation, Incarnation(2));
    }
    assert_eq!(house.events().await.len(), events + 1, "the second one changes nothing");
    assert!(work.mail.list(cmo.id, None, 10).await.unwrap().is_empty());

    work.mail.send(&cmo, new, None, &operator(), None, None).await.unwrap();
    work.mail.forget().await.unwrap();
    assert_eq!(work.mail.list(cmo.id, None, 10).await.unwrap().len(), 1, "only what has expired is removed");
    house.pass(Duration::from_secs(7 * 24 * 3600));
    assert!(work.mail.list(cmo.id, None, 10).await.unwrap().is_empty());
    let stored: &dyn MailboxStore = &*house.store;
    assert!(stored.by_id(mail.id).await.unwrap().is_some());
    work.mail.forget().await.unwrap();
    assert_eq!(stored.by_id(mail.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_full_mailbox_refuses_messages_and_keeps_no_task_from_being_created() {
    let (house, server) = company().await;
    let (work, cmo) = (&server.work, house.agent("cmo").await);
    let new = || NewMessage { text: "x".to_owned(), priority: "low".to_owned() };
    let once = Once::new("token/1", "POST", "/agents/cmo/message", "k");
    let first = work.mail.send(&cmo, new(), None, &operator(), Some(&once), None).await.unwrap();
    for _ in 1..MAX_WAITING {
        work.mail.send(&cmo, new(), None, &operator(), None, None).await.unwrap();
    }
    let full = work.mail.send(&cmo, new(), None, &operator(), None, None).await;
    assert!(matches!(full, Err(Error::Conflict(_))), "{full:?}");
    let again = work.mail.send(&cmo, new(), None, &operator(), Some(&once), None).await.unwrap();
    assert_eq!(again.id, first.id, "what was sent before is told all the same");
    create(&server, "a", "critical").await;
    let due = house.store.due(cmo.id).await.unwrap();
    assert_eq!((due.waiting, due.due), (MAX_WAITING + 1, 1), "and wakes its agent all the same");
    let sent = work.mail.broadcast(new(), &operator(), None).await.unwrap();
    assert_eq!((sent.messages.len(), sent.skipped), (1, vec![ty("cmo")]));
}

#[tokio::test]
async fn no_agent_shuts_out_people_or_other_agents() {
    let (house, server) = company().await;
    let (work, ceo, cmo) = (&server.work, house.agent("ceo").await, house.agent("cmo").await);
    let new = || NewMessage { text: "x".to_owned(), priority: "low".to_owned() };
    for n in 0..MAX_WAITING_OF_AGENTS {
        create(&server, &n.to_string(), "low").await;
    }
    let send = async |from: Option<&Agent>| {
        let by = from.map_or_else(operator, speaking);
        work.mail.send(&cmo, new(), from, &by, None, None).await
    };
    for _ in 0..MAX_WAITING_OF_ONE {
        send(Some(&ceo)).await.unwrap();
    }
    let full = send(Some(&ceo)).await;
    assert!(matches!(&full, Err(Error::Conflict(why)) if why.contains("of yours")), "{full:?}");
    send(Some(&cmo)).await.unwrap();
    for _ in MAX_WAITING_OF_ONE + 1..MAX_WAITING_OF_AGENTS {
        send(None).await.unwrap();
    }
    assert!(matches!(send(Some(&cmo)).await, Err(Error::Conflict(_))));
    send(None).await.unwrap();
}

#[tokio::test]
async fn who_has_room_again_is_told_of_the_task_that_waits() {
    let (house, server) = company().await;
    let (work, cmo) = (&server.work, house.agent("cmo").await);
    for title in ["a", "b", "c"] {
        create(&server, title, "low").await;
    }
    let wakes = async || {
        let mails = work.mail.list(cmo.id, None, 10).await.unwrap();
        for mail in &mails {
            work.mail.acknowledge(&cmo, cmo.incarnation, mail.id, &speaking(&cmo)).await.unwrap();
        }
        mails.into_iter().map(|mail| mail.body["title"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(wakes().await, ["a", "b", "c"]);
    let (first, second) = (claimed(&server, &cmo).await.task, claimed(&server, &cmo).await.task);
    assert_eq!(claim(&server, &cmo).await, Claim::AtLimit);
    assert!(wakes().await.is_empty());
    let who = Some((cmo.id, cmo.incarnation));
    work.tasks.end(first.id, Ending::Complete(None), who, &speaking(&cmo)).await.unwrap();
    assert_eq!(wakes().await, ["c"]);
    claimed(&server, &cmo).await;
    work.tasks.end(second.id, Ending::Fail("no".into()), who, &speaking(&cmo)).await.unwrap();
    assert!(wakes().await.is_empty(), "none waits");
}

#[tokio::test]
async fn a_task_that_was_taken_back_wakes_its_agent_again() {
    let (house, server) = company().await;
    let (work, cmo) = (&server.work, house.agent("cmo").await);
    let task = create(&server, "a", "low").await.task;
    let mails = work.mail.list(cmo.id, None, 10).await.unwrap();
    work.mail.acknowledge(&cmo, cmo.incarnation, mails[0].id, &speaking(&cmo)).await.unwrap();
    claimed(&server, &cmo).await;
    server.fleet.restart(&ty("cmo"), &operator()).await.unwrap();
    assert!(work.mail.list(cmo.id, None, 10).await.unwrap().is_empty());
    work.tasks.sweep().await.unwrap();
    let mails = work.mail.list(cmo.id, None, 10).await.unwrap();
    assert_eq!((mails.len(), mails[0].kind), (1, MailKind::Task));
    assert_eq!(mails[0].body["taskId"], task.id.to_string());
}

#[tokio::test]
async fn who_created_a_task_or_works_on_it_is_told_how_others_ended_it() {
    let (house, server) = company().await;
    let (work, ceo, cmo) = (&server.work, house.agent("ceo").await, house.agent("cmo").await);
    let by = speaking(&ceo);
    let notices = async |agent: &Agent| {
        let mails = work.mail.list(agent.id, None, 50).await.unwrap();
        let notices = mails.into_iter().filter(|mail| mail.kind == MailKind::Notice);
        notices.map(|mail| mail.body["notice"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let make = async || {
        work.tasks.create(wish("a", "low"), Some(&ceo), &by, None, &work.quotas).await.unwrap();
        claimed(&server, &cmo).await.task
    };
    let who = Some((cmo.id, cmo.incarnation));
    let done = make().await;
    work.tasks.end(done.id, Ending::Complete(None), who, &speaking(&cmo)).await.unwrap();
    assert_eq!((notices(&ceo).await, notices(&cmo).await.len()), (vec!["task_completed".to_owned()], 0));
    let again = work.tasks.end(done.id, Ending::Complete(None), who, &speaking(&cmo)).await.unwrap();
    assert_eq!(again.task.version, Version(3), "said again, nothing changes");
    assert_eq!(notices(&ceo).await.len(), 1);
    let dropped = make().await;
    work.tasks.end(dropped.id, Ending::Cancel(None), Some((ceo.id, ceo.incarnation)), &by).await.unwrap();
    assert_eq!((notices(&ceo).await.len(), notices(&cmo).await), (1, vec!["task_cancelled".to_owned()]));
    let ended = make().await;
    work.tasks.end(ended.id, Ending::Fail("no".into()), None, &operator()).await.unwrap();
    assert_eq!((notices(&ceo).await.len(), notices(&cmo).await.len()), (2, 2));
}

#[tokio::test]
async fn a_page_of_large_tasks_ends_early_and_its_cursor_leads_on() {
    let (_house, server) = company().await;
    let text = "x".repeat(50_000);
    for n in 0..200 {
        let new = NewTask { description: Some(text.clone()), ..wish(&n.to_string(), "low") };
        server.work.tasks.create(new, None, &operator(), None, &server.work.quotas).await.unwrap();
    }
    let (mut titles, mut pages, mut before) = (Vec::new(), Vec::new(), None);
    loop {
        let page = server.work.tasks.list(&Wanted::default(), None, before, 0, 190).await.unwrap();
        assert_eq!(page.total.count, 200);
        let last = &page.tasks.last().unwrap().task;
        before = Some(TaskCursor { at: last.created_at, id: last.id });
        pages.push(page.tasks.len());
        titles.extend(page.tasks.into_iter().map(|view| view.task.title));
        if !page.goes_on {
            break;
        }
    }
    assert!(pages.len() == 3 && pages.iter().all(|rows| rows * 50_000 < 5 << 20), "{pages:?}");
    assert_eq!(titles, (0..200).rev().map(|n| n.to_string()).collect::<Vec<_>>());
    let some = server.work.tasks.list(&Wanted::default(), None, None, 130, 70).await.unwrap();
    assert_eq!((some.tasks.len(), some.goes_on), (70, false), "exactly to the end");
}

#[tokio::test]
async fn unknown_things_are_not_found() {
    let (house, server) = company().await;
    let (work, cmo) = (&server.work, house.agent("cmo").await);
    let id = Uuid::from_u128(9);
    assert!(matches!(work.tasks.get(TaskId(id), None).await, Err(Error::NotFound(_))));
    let mail = work.mail.acknowledge(&cmo, cmo.incarnation, MailId(id), &speaking(&cmo)).await;
    assert!(matches!(mail, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_note_is_written_from_the_state_that_was_seen_and_outlives_its_author() {
    let (house, server) = company().await;
    let (notes, cmo) = (&server.work.notes, house.agent("cmo").await);
    let put =
        async |value, seen: Option<&Seen>| notes.put(&cmo, "n", Some(value), seen, &operator(), None).await;
    let never = Seen::In(vec![Version(0)]);
    assert!(matches!(put(json!(1), Some(&Seen::Any)).await, Err(Error::Precondition(_))), "it is not there");
    let first = put(json!(1), Some(&never)).await.unwrap();
    assert_eq!(first.version, Version(1));
    assert!(matches!(put(json!(2), Some(&never)).await, Err(Error::Precondition(_))));
    assert_eq!(put(json!(2), Some(&Seen::In(vec![Version(1)]))).await.unwrap().version, Version(2));
    server.fleet.restart(&ty("cmo"), &operator()).await.unwrap();
    assert_eq!(notes.list(cmo.id, None, 10).await.unwrap()[0].value, Some(json!(2)));
    assert_eq!(put(json!(null), None).await.unwrap().value, None);
    assert!(notes.list(cmo.id, None, 10).await.unwrap().is_empty());
    assert!(matches!(put(json!(3), Some(&Seen::Any)).await, Err(Error::Precondition(_))), "it was removed");
    assert_eq!(put(json!(3), None).await.unwrap().version, Version(4), "no version comes twice");
}

#[tokio::test]
async fn heartbeats_tell_how_many_messages_are_due_and_how_often_to_loop() {
    let (house, server) = company().await;
    let cmo = house.agent("cmo").await;
    let beat = async || {
        let agent = house.agent("cmo").await;
        let incarnation = agent.incarnation;
        server
            .heartbeats
            .heard(agent, incarnation, aito_application::heartbeat::Beat::default())
            .await
            .unwrap()
    };
    assert_eq!((beat().await.mailbox, beat().await.settings_version), (0, 0));
    for priority in ["critical", "low"] {
        let new = NewMessage { text: "x".to_owned(), priority: priority.to_owned() };
        server.work.mail.send(&cmo, new, None, &operator(), None, None).await.unwrap();
    }
    house.pass(SECOND);
    assert_eq!(beat().await.mailbox, 1);
    set(&server, "agents", "loop_interval_cmo", 77).await;
    let control = beat().await;
    assert_eq!((control.loop_interval, control.settings_version), (Duration::from_secs(77), 1));
    assert_eq!(server.fleet.view(&ty("cmo")).await.unwrap().loop_interval, Some(Duration::from_secs(77)));
}

#[tokio::test]
async fn a_long_wait_hears_news_at_once() {
    let house = House::new();
    let server = house.server(&["cmo"]).await;
    let (mail, cmo) = (server.work.mail.clone(), house.agent("cmo").await);
    let waiting = tokio::spawn({
        let (mail, id) = (mail.clone(), cmo.id);
        async move { mail.wait(id, &[], Duration::from_secs(60)).await }
    });
    wait::until("it to wait", SOON, async || (house.clock.sleepers() == 1).then_some(())).await;
    let new = NewMessage { text: "x".to_owned(), priority: "critical".to_owned() };
    mail.send(&cmo, new, None, &operator(), None, None).await.unwrap();
    // Without anybody who tells news it looks once a second.
    let house = Arc::new(house);
    wait::until("it to be woken", SOON, async || {
        house.clock.advance_at_once(Duration::from_millis(100));
        waiting.is_finished().then_some(())
    })
    .await;
    assert!(waiting.await.unwrap().unwrap());
}
