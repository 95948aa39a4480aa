//! Mailboxes: at least once, at once, for the present incarnation alone, and never too full for tasks.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use aito_api::{NewMessage, PutState};
use aito_client::{Client, Page};
use aito_harness::{Server, Set, wait};
use futures_util::future::join_all;
use uuid::Uuid;

use super::{Installation, quiet, task};
use crate::{
    SOON, as_agent, credential,
    tokens::{guarded, make},
};

/// How many messages may wait for one agent.
const MOST: usize = 1000;
/// Within what a wait follows the end of its credential.
const FOLLOWS: Duration = Duration::from_secs(5);

async fn waiting(client: &Client) -> Vec<Uuid> {
    let mails = client.mailbox("ceo", &Page::default(), 0).await.unwrap().messages;
    mails.into_iter().map(|mail| mail.id).collect()
}

async fn send(client: &Client, priority: &str) -> Uuid {
    client.send_message("ceo", &NewMessage::new("hear this", priority), None).await.unwrap().id
}

pub(crate) async fn a_message_comes_again_until_it_is_acknowledged(set: Set) {
    let sandbox = quiet(set);
    let servers = Installation::start(&sandbox).await;
    let (here, there) = (servers.here(), servers.there());
    here.start("ceo").await.unwrap();
    let first = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let (heard, missed) = (send(&here, "urgent").await, send(&there, "normal").await);
    assert_eq!(waiting(&first).await, [heard, missed]);
    assert_eq!(waiting(&first).await, [heard, missed], "reading changes nothing");
    let acknowledged = first.acknowledge("ceo", heard).await.unwrap();
    assert!(acknowledged.acknowledged_at.is_some());
    let again = first.acknowledge("ceo", heard).await.unwrap();
    assert_eq!(again, acknowledged, "heard already is a success");
    assert_eq!(waiting(&first).await, [missed]);

    there.restart("ceo").await.unwrap();
    let second = as_agent(&sandbox, &credential(&sandbox, 2).await);
    assert_eq!(waiting(&second).await, [missed], "what the one before has not heard comes again");
    assert_eq!(first.acknowledge("ceo", missed).await.unwrap_err().status(), Some(401));
    assert_eq!(waiting(&there).await, [missed], "who is past acknowledges nothing");
    let strange = second.acknowledge("ceo", Uuid::from_u128(1)).await.unwrap_err();
    assert_eq!(strange.status(), Some(404));
    second.acknowledge("ceo", missed).await.unwrap();
    there.restart("ceo").await.unwrap();
    let third = as_agent(&sandbox, &credential(&sandbox, 3).await);
    assert!(waiting(&third).await.is_empty(), "what was heard does not come again");
}

pub(crate) async fn who_waits_is_woken_by_what_another_server_is_told(set: Set) {
    let sandbox = quiet(set);
    let servers = Installation::start(&sandbox).await;
    let (here, there) = (servers.here(), servers.there());
    here.start("ceo").await.unwrap();
    // It is not due for long, and so wakes nobody.
    let later = send(&here, "low").await;
    let mut took = Vec::new();
    for _ in 0..5 {
        let page = Page::default();
        let mut wait = std::pin::pin!(there.mailbox("ceo", &page, 30));
        // Until then it waits for sure.
        let early = tokio::time::timeout(Duration::from_millis(300), &mut wait).await;
        assert!(early.is_err(), "nothing is due: {early:?}");
        let since = wait::stopwatch();
        let (critical, woken) = tokio::join!(send(&here, "critical"), wait);
        took.push(since());
        let got: Vec<_> = woken.unwrap().messages.into_iter().map(|mail| mail.id).collect();
        assert_eq!(got, [critical, later], "the most urgent first");
        there.acknowledge("ceo", critical).await.unwrap();
    }
    took.sort();
    assert!(took[2] < Duration::from_millis(700), "what is critical took {took:?}");
}

/// Who works on a message for a while would otherwise ask in a circle.
pub(crate) async fn a_message_that_is_known_ends_no_wait(set: Set) {
    let sandbox = quiet(set);
    let servers = Installation::start(&sandbox).await;
    let (here, there) = (servers.here(), servers.there());
    let known = [send(&here, "critical").await, send(&here, "critical").await];
    let (page, took) = (Page::default(), wait::stopwatch());
    let list = there.mailbox_beyond("ceo", &page, 60, &known[..1]).await.unwrap();
    assert_eq!(list.messages.len(), 2, "one of them is not known, and both wait");
    assert!(took() < Duration::from_secs(30), "it was there at once");
    let nothing = there.mailbox_beyond("ceo", &page, 1, &known).await.unwrap();
    assert_eq!(nothing.messages, [], "both are known");
    let waits = (0..20).map(|_| there.mailbox_beyond("ceo", &page, 60, &known));
    let mut waits = std::pin::pin!(join_all(waits));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waits).await;
    assert!(early.is_err(), "{early:?}");
    let (third, woken) = tokio::join!(send(&here, "critical"), waits);
    for list in woken {
        let ids: Vec<_> = list.unwrap().messages.into_iter().map(|mail| mail.id).collect();
        assert_eq!(ids, [known[0], known[1], third]);
    }
}

/// One agent's own writes once kept its operator waiting until the database gave up.
pub(crate) async fn however_much_an_agent_writes_it_can_be_restarted(set: Set) {
    let sandbox = quiet(set);
    let servers = Installation::start(&sandbox).await;
    let there = servers.there();
    there.start("ceo").await.unwrap();
    for incarnation in 1..4 {
        let secret = credential(&sandbox, incarnation).await;
        let agents: Vec<_> = servers.servers.iter().map(|server| server.client_with(&secret)).collect();
        let written = AtomicUsize::new(0);
        let writes = (0..24_usize).map(|n| {
            let (agent, written) = (&agents[n % agents.len()], &written);
            async move {
                loop {
                    let note = PutState::new(n);
                    match agent.put_state("ceo", &format!("note-{n}"), &note, None).await {
                        Ok(_) => written.fetch_add(1, Ordering::AcqRel),
                        // It writes more at once than is stored.
                        Err(why) if why.status() == Some(429) => continue,
                        Err(why) => {
                            assert_eq!(why.status(), Some(401), "until the next one has begun: {why}");
                            return;
                        }
                    };
                }
            }
        });
        let restarted = async {
            let all_write = async || (written.load(Ordering::Acquire) > 48).then_some(());
            wait::until("the notes", SOON, all_write).await;
            let took = wait::stopwatch();
            there.restart("ceo").await.unwrap();
            took()
        };
        let (_, took) = tokio::join!(join_all(writes), restarted);
        assert!(took < Duration::from_secs(8), "it took {took:?}, and the store gives up after 10 s");
    }
}

pub(crate) async fn a_wait_ends_with_the_credential_that_waits(set: Set) {
    let mut sandbox = quiet(set);
    sandbox.no_auth = false;
    let servers = Installation::start(&sandbox).await;
    let admin = servers.servers[0].client_with(&sandbox.first_token());
    admin.start("ceo").await.unwrap();
    let first = credential(&sandbox, 1).await;
    let token = make(&admin, "waits", &["operator"]).await;
    let of = |secret: &str| servers.servers.iter().map(|server| server.client_with(secret)).collect();
    let (past, revoked): (Vec<Client>, Vec<Client>) = (of(&first), of(&token.secret));
    let page = Page::default();
    for (clients, by) in [(past, "restart"), (revoked, "revocation")] {
        let mut waits =
            std::pin::pin!(join_all(clients.iter().map(|client| client.mailbox("ceo", &page, 60))));
        let early = tokio::time::timeout(Duration::from_millis(500), &mut waits).await;
        assert!(early.is_err(), "{by}: nothing has happened yet: {early:?}");
        match by {
            "restart" => drop(admin.restart("ceo").await.unwrap()),
            _ => drop(admin.revoke_token(token.token.id, None).await.unwrap()),
        }
        let ended = tokio::time::timeout(FOLLOWS, waits).await.unwrap_or_else(|_| panic!("{by}: they go on"));
        for answer in ended {
            assert_eq!(answer.unwrap_err().status(), Some(401), "{by}");
        }
    }
    // Who may still ask is not cut off by that.
    let second = as_agent(&sandbox, &credential(&sandbox, 2).await);
    assert_eq!(second.mailbox("ceo", &page, 1).await.unwrap().messages, []);
}

pub(crate) async fn a_stopping_server_lets_nobody_wait(set: Set) {
    let sandbox = quiet(set);
    let mut servers = Installation::start(&sandbox).await;
    servers.here().start("ceo").await.unwrap();
    let last: Server = servers.servers.pop().unwrap();
    let client = last.client();
    let page = Page::default();
    let mut wait = std::pin::pin!(client.mailbox("ceo", &page, 60));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut wait).await;
    assert!(early.is_err(), "{early:?}");
    let took = wait::stopwatch();
    let (stopped, answer) = tokio::join!(last.stop(), wait);
    assert!(stopped.success() && took() < Duration::from_secs(10), "{stopped} after {:?}", took());
    assert_eq!(answer.unwrap().messages, []);
}

pub(crate) async fn a_full_mailbox_refuses_and_tasks_can_be_created(set: Set) {
    let sandbox = guarded(set);
    let servers = Installation::start(&sandbox).await;
    let here = servers.servers[0].client_with(&sandbox.first_token());
    let there = servers.last().client_with(&sandbox.first_token());
    // The last few one after the other: those that are under way at once may each see room.
    for (count, at_once) in [(MOST - 10, 10), (10, 1)] {
        for _ in 0..count / at_once {
            join_all((0..at_once).map(|_| send(&here, "low"))).await;
        }
    }
    for client in [&here, &there] {
        let full = client.send_message("ceo", &NewMessage::new("one more", "critical"), None).await;
        let full = full.unwrap_err();
        assert_eq!(full.status(), Some(409), "{full}");
        assert!(full.to_string().contains("full"), "{full}");
    }
    let made = task(&there, "it can be created", "critical").await;
    assert_eq!(there.task(made.id).await.unwrap(), made);
    let sent = there.broadcast(&NewMessage::new("to all", "normal"), None).await.unwrap();
    assert_eq!(sent.skipped, ["ceo"]);
    let to: BTreeSet<_> = sent.messages.iter().map(|mail| mail.agent_type.as_str()).collect();
    assert_eq!(to, BTreeSet::from(["cmo", "cto", "cfo", "coo", "cco", "dao"]));
    // By pages everything is there once, the oldest first of one priority.
    let mut seen = Vec::new();
    let mut page = Page { limit: Some(300), cursor: None };
    loop {
        let list = there.mailbox("ceo", &page, 0).await.unwrap();
        seen.extend(list.messages);
        match list.next_cursor {
            Some(next) => page.cursor = Some(next),
            None => break,
        }
    }
    let ids: BTreeSet<_> = seen.iter().map(|mail| mail.id).collect();
    // What tells of the task has room all the same, and presses most.
    assert_eq!((seen.len(), ids.len(), seen[0].kind.as_str()), (MOST + 1, MOST + 1, "task"));
    assert!(seen[1..].windows(2).all(|pair| pair[0].id < pair[1].id), "the oldest come first");
    let other = there.mailbox("cmo", &Page::default(), 0).await.unwrap().messages;
    assert_eq!((other.len(), other[0].kind.as_str()), (1, "broadcast"));
}

pub(crate) async fn a_mailbox_has_room_again_when_something_was_heard(set: Set) {
    let sandbox = quiet(set);
    let servers = Installation::start(&sandbox).await;
    let (here, there) = (servers.here(), servers.there());
    here.start("ceo").await.unwrap();
    for _ in 0..MOST / 10 {
        join_all((0..10).map(|_| send(&here, "low"))).await;
    }
    let message = NewMessage::new("one more", "low");
    assert_eq!(there.send_message("ceo", &message, None).await.unwrap_err().status(), Some(409));
    let heard = waiting(&there).await[0];
    there.acknowledge("ceo", heard).await.unwrap();
    here.send_message("ceo", &message, None).await.unwrap();
    assert_eq!(there.send_message("ceo", &message, None).await.unwrap_err().status(), Some(409));
    wait::until("the log to tell of it", SOON, async || {
        let heard = heard.to_string();
        let told = there.agent_events("ceo", &Page::default()).await.ok()?.events;
        told.iter()
            .any(|event| event.event_type == "message_acknowledged" && event.payload["messageId"] == heard)
            .then_some(())
    })
    .await;
}
