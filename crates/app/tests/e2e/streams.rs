//! Streams that are open: who may open one, what is heard on it, and that it ends with what let it in.
//!
//! Invariant: a stream whose credential has ended is closed within 5 s, on every server.

use std::{collections::BTreeSet, fs, time::Duration};

use aito_api::{Frame, RotateToken};
use aito_client::{Client, Error, EventQuery, EventSocket, LogFollow, LogQuery, Page};
use aito_domain::{
    installation::InstallationKey,
    ticket::{Holder, Ticket, Tickets},
    token::TokenText,
};
use aito_harness::{Sandbox, Set, sandbox::Server, story, wait};
use serde_json::Value;

use crate::{
    SOON, as_agent, credential, get, post, refused, sandbox_with_leaky_ceo,
    tokens::{guarded, in_millis, make, wanted},
};

/// Within what an open stream follows the end of its credential.
const FOLLOWS: Duration = Duration::from_secs(5);

fn guarded_with_leaky_ceo(set: Set) -> Sandbox {
    let mut sandbox = sandbox_with_leaky_ceo(set);
    sandbox.no_auth = false;
    sandbox
}

/// A sandbox whose `ceo` says one line and lives.
fn guarded_with_talking_ceo(set: Set) -> Sandbox {
    let sandbox = guarded(set);
    sandbox.configure(
        "[agents.ceo]\ngrace = 1\ncommand = [\"/bin/sh\", \"-c\", \"echo one; exec sleep 1000\"]\n",
    );
    sandbox
}

async fn with_ticket(client: &Client, ticket: &str) -> Result<EventSocket, Option<u16>> {
    EventSocket::connect_with_ticket(client, ticket, &[], None).await.map_err(|why| why.status())
}

/// Reads on until the stream ends, which must be for its credential, before `within` is over.
async fn until_barred(mut socket: EventSocket, within: Duration) {
    let end = async {
        loop {
            match socket.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it was closed in good order, and so not for its credential"),
                Err(why) => break why,
            }
        }
    };
    let why = tokio::time::timeout(within, end).await.expect("the stream goes on");
    assert!(matches!(&why, Error::Problem(_)) && why.to_string().contains("closed with 1008"), "{why}");
}

async fn until_over(mut log: LogFollow, within: Duration) {
    let end = async { while let Ok(Some(_)) = log.next().await {} };
    tokio::time::timeout(within, end).await.expect("the log goes on");
}

/// Both kinds of stream, each with something heard already.
async fn listen(client: &Client) -> (EventSocket, LogFollow) {
    let mut socket = EventSocket::connect(client, &["agent_status"], None).await.unwrap();
    socket.next().await.unwrap().unwrap();
    let mut log = client.follow_logs("ceo", &LogQuery::default()).await.unwrap();
    assert_eq!(log.next().await.unwrap().unwrap().message, "one");
    (socket, log)
}

/// Frames until the one that `is_last` knows.
async fn frames_until(socket: &mut EventSocket, is_last: impl Fn(&Frame) -> bool) -> Vec<Frame> {
    let mut frames = Vec::new();
    loop {
        let frame = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        let last = is_last(&frame);
        frames.push(frame);
        if last {
            return frames;
        }
    }
}

/// The position before everything.
async fn beginning(client: &Client) -> String {
    let newest = wait::until("an event", SOON, async || {
        client.events(&EventQuery::default()).await.ok()?.events.into_iter().next()
    })
    .await;
    format!("{}-0", newest.position.rsplit_once('-').unwrap().0)
}

/// The first server, and on real servers another one of the same installation.
async fn all_servers(sandbox: &Sandbox, set: Set) -> (Vec<Server>, Option<Sandbox>) {
    let first = sandbox.start().await;
    match set {
        Set::Embedded => (vec![first], None),
        Set::Servers => {
            let second = sandbox.another_server();
            let server = second.start().await;
            (vec![first, server], Some(second))
        }
    }
}

pub(crate) async fn a_ticket_opens_one_socket_once_and_nothing_else(set: Set) {
    let sandbox = guarded(set);
    let (servers, _second) = all_servers(&sandbox, set).await;
    let (first, last) = (&servers[0], servers.last().unwrap());
    let holder = first.client_with(&sandbox.first_token());
    let nobody = last.client();
    EventSocket::connect(&holder, &[], None).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(EventSocket::connect(&nobody, &[], None).await.unwrap_err().status(), Some(401));

    // Made by one server, good at the other, and then at neither.
    let ticket = holder.ticket().await.unwrap();
    let left = ticket.expires_at.timestamp_millis() - wait::wall_millis();
    assert!((20_000..=30_000).contains(&left), "it is good for {left} ms");
    with_ticket(&nobody, &ticket.ticket).await.unwrap().next().await.unwrap().unwrap();
    for server in &servers {
        assert_eq!(with_ticket(&server.client(), &ticket.ticket).await.unwrap_err(), Some(401));
    }
    // Two at the same moment are one.
    let ticket = holder.ticket().await.unwrap().ticket;
    let (at_first, at_last) = (first.client(), last.client());
    let (a, b) = tokio::join!(with_ticket(&at_first, &ticket), with_ticket(&at_last, &ticket));
    assert_eq!([a.is_ok(), b.is_ok()].into_iter().filter(|good| *good).count(), 1);

    // It is a credential for nothing else, wherever it is put, and is not used up by being refused there.
    let ticket = holder.ticket().await.unwrap().ticket;
    let upgrade = [("upgrade", "websocket"), ("connection", "upgrade")];
    for path in [format!("/agents?ticket={ticket}"), format!("/tokens?ticket={ticket}")] {
        refused(&get(&nobody, &path).await, 401);
        refused(&nobody.raw("GET", &path, &upgrade, None).await.unwrap(), 401);
    }
    refused(&get(&nobody, &format!("/ws?ticket={ticket}")).await, 401);
    refused(&get(&last.client_with(&ticket), "/agents").await, 401);
    for changed in [&ticket[..ticket.len() - 2], &format!("{ticket}.x"), "aito-ticket.e30.AAAA", "x", ""] {
        assert_eq!(with_ticket(&nobody, changed).await.unwrap_err(), Some(401), "{changed}");
    }
    with_ticket(&nobody, &ticket).await.unwrap();
}

pub(crate) async fn a_ticket_ends_with_its_time_and_with_the_token_that_asked_for_it(set: Set) {
    let sandbox = guarded(set);
    let server = sandbox.start().await;
    let (admin, nobody) = (server.client_with(&sandbox.first_token()), server.client());
    let token = make(&admin, "board", &["viewer"]).await;
    let board = server.client_with(&token.secret);
    let ticket = board.ticket().await.unwrap().ticket;
    with_ticket(&nobody, &board.ticket().await.unwrap().ticket).await.unwrap();
    admin.revoke_token(token.token.id, None).await.unwrap();
    assert_eq!(with_ticket(&nobody, &ticket).await.unwrap_err(), Some(401));

    // Time is not waited for: with the installation's key a ticket of any time can be made.
    let file = fs::read_to_string(sandbox.data_dir().join("installation.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let key = file["key"].as_str().unwrap();
    let key = std::array::from_fn(|n| u8::from_str_radix(&key[2 * n..2 * n + 2], 16).unwrap());
    let epoch = file["epoch"].as_str().unwrap().parse().unwrap();
    let tickets =
        Tickets::new(&InstallationKey::new(key), file["id"].as_str().unwrap().parse().unwrap(), &epoch);
    let first: TokenText = sandbox.first_token().parse().unwrap();
    let until = |ahead: i64| {
        let until = wait::wall_millis() + ahead;
        let holder = Holder::Token(first.id, first.hash().tag());
        tickets.mint(&Ticket {
            number: "0e4c2a4e-6f3b-4d0c-9a51-62c3d4e5f607".parse().unwrap(),
            until,
            holder,
        })
    };
    assert_eq!(with_ticket(&nobody, &until(0)).await.unwrap_err(), Some(401));
    with_ticket(&nobody, &until(10_000)).await.unwrap();
}

pub(crate) async fn an_ended_token_loses_its_open_streams_within_5_s_and_no_other_does(set: Set) {
    let sandbox = guarded_with_talking_ceo(set);
    let (servers, _second) = all_servers(&sandbox, set).await;
    let first = sandbox.first_token();
    let admin = servers[0].client_with(&first);
    admin.start("ceo").await.unwrap();
    let ended = make(&admin, "ended", &["viewer"]).await;
    let stays = make(&admin, "stays", &["viewer"]).await;
    let (mut barred, mut open) = (Vec::new(), Vec::new());
    for server in &servers {
        let ticket = server.client_with(&ended.secret).ticket().await.unwrap().ticket;
        let by_ticket = with_ticket(&server.client(), &ticket).await.unwrap();
        barred.push((listen(&server.client_with(&ended.secret)).await, by_ticket));
        open.push(listen(&server.client_with(&stays.secret)).await);
    }
    admin.revoke_token(ended.token.id, None).await.unwrap();
    let took = wait::stopwatch();
    for ((socket, log), by_ticket) in barred {
        until_barred(socket, FOLLOWS.saturating_sub(took())).await;
        until_barred(by_ticket, FOLLOWS.saturating_sub(took())).await;
        until_over(log, FOLLOWS.saturating_sub(took())).await;
    }
    admin.restart("ceo").await.unwrap();
    for (mut socket, mut log) in open {
        frames_until(&mut socket, |frame| frame.position.is_some()).await;
        assert_eq!(tokio::time::timeout(SOON, log.next()).await.unwrap().unwrap().unwrap().message, "one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_loses_its_open_streams() {
    let sandbox = guarded_with_talking_ceo(Set::Embedded);
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    admin.start("ceo").await.unwrap();
    let mut short = wanted("short", &["viewer"]);
    short.expires_at = Some(in_millis(3000));
    let short = admin.create_token(&short).await.unwrap();
    let (socket, log) = listen(&server.client_with(&short.secret)).await;
    until_barred(socket, Duration::from_secs(3) + FOLLOWS).await;
    let late = wait::wall_millis() - short.token.expires_at.unwrap().timestamp_millis();
    assert!((0..5000).contains(&late), "it was closed {late} ms after its time");
    until_over(log, FOLLOWS).await;
}

pub(crate) async fn a_secret_that_was_rotated_away_loses_its_open_streams_within_5_s(set: Set) {
    let sandbox = guarded_with_talking_ceo(set);
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    admin.start("ceo").await.unwrap();
    let token = make(&admin, "leaked", &["viewer"]).await;
    let (socket, log) = listen(&server.client_with(&token.secret)).await;
    // Whoever has found the secret goes on listening otherwise, and a rotation would be no cure.
    let rotated = admin.rotate_token(token.token.id, &RotateToken::default(), None).await.unwrap();
    let (mut stays, _log) = listen(&server.client_with(&rotated.secret)).await;
    let took = wait::stopwatch();
    until_barred(socket, FOLLOWS).await;
    until_over(log, FOLLOWS.saturating_sub(took())).await;
    admin.restart("ceo").await.unwrap();
    frames_until(&mut stays, |frame| frame.position.is_some()).await;
}

pub(crate) async fn a_past_incarnation_loses_its_open_socket_within_5_s(set: Set) {
    let sandbox = guarded_with_leaky_ceo(set);
    let (servers, _second) = all_servers(&sandbox, set).await;
    let admin = servers[0].client_with(&sandbox.first_token());
    admin.start("ceo").await.unwrap();
    let first = credential(&sandbox, 1).await;
    let mut past = vec![EventSocket::connect(&as_agent(&sandbox, &first), &[], None).await.unwrap()];
    let mut tickets = Vec::new();
    for server in &servers {
        let ceo = server.client_with(&first);
        past.push(EventSocket::connect(&ceo, &[], None).await.unwrap());
        tickets.push((server.client(), ceo.ticket().await.unwrap().ticket));
    }
    admin.restart("ceo").await.unwrap();
    let took = wait::stopwatch();
    for socket in past {
        until_barred(socket, FOLLOWS.saturating_sub(took())).await;
    }
    for (nobody, ticket) in &tickets {
        assert_eq!(with_ticket(nobody, ticket).await.unwrap_err(), Some(401));
    }
    let again = EventSocket::connect(&as_agent(&sandbox, &first), &[], None).await;
    assert_eq!(again.unwrap_err().status(), Some(401));
    let second = as_agent(&sandbox, &credential(&sandbox, 2).await);
    let mut present = EventSocket::connect(&second, &[], None).await.unwrap();
    assert_eq!(present.next().await.unwrap().unwrap().payload["agentType"], "ceo");
}

pub(crate) async fn an_agent_hears_of_itself_only(set: Set) {
    let sandbox = guarded_with_leaky_ceo(set);
    let server = sandbox.start().await;
    let admin = server.client_with(&sandbox.first_token());
    admin.start("ceo").await.unwrap();
    let since = beginning(&admin).await;
    let ceo = as_agent(&sandbox, &credential(&sandbox, 1).await);
    let mut own = EventSocket::connect(&ceo, &[], Some(&since)).await.unwrap();
    let mut everything = EventSocket::connect(&admin, &[], Some(&since)).await.unwrap();
    admin.start("cmo").await.unwrap();
    admin.stop("cmo").await.unwrap();
    make(&admin, "other", &["viewer"]).await;
    let row = r#"{"actionType":"idea","summary":"the last word"}"#;
    assert_eq!(post(&ceo, "/agents/ceo/history", row).await.status, 201);
    let said = |frame: &Frame| frame.payload["eventType"] == "history_recorded";
    let heard = frames_until(&mut own, said).await;
    let all = frames_until(&mut everything, said).await;

    let statuses = |frames: &[Frame]| {
        let states = frames.iter().filter(|frame| frame.position.is_none());
        states.map(|frame| frame.payload["agentType"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(statuses(&heard), ["ceo"]);
    assert_eq!(statuses(&all).len(), 7);
    let id = admin.agent("ceo").await.unwrap().id.to_string();
    let positions = |frames: &[Frame], of: Option<&str>| {
        let events = frames.iter().filter(|frame| frame.frame_type == "event");
        let events = events.filter(|frame| of.is_none_or(|id| frame.payload["sourceAgent"] == id));
        events.map(|frame| frame.position.clone().unwrap()).collect::<Vec<_>>()
    };
    let expected = positions(&all, Some(&id));
    assert_eq!(positions(&heard, None), expected, "all that is about itself, and nothing else");
    assert!(expected.len() >= 2 && positions(&all, None).len() > expected.len() + 3);
    for frame in &heard {
        let text = frame.payload.to_string();
        assert!(!text.contains("cmo") && !text.contains("token_"), "{text}");
        assert!(frame.frame_type != "agent_status" || frame.payload["agentType"] == "ceo", "{text}");
    }
    // And reads no more of the log than that.
    for path in ["/events", "/agents/ceo/events", "/agents/cmo/events", "/agents/ceo/logs"] {
        refused(&get(&ceo, path).await, 403);
    }
}

pub(crate) async fn what_is_told_of_tokens_is_for_those_who_may_list_them(set: Set) {
    let sandbox = guarded(set);
    let server = sandbox.start().await;
    let first = server.client_with(&sandbox.first_token());
    let since = beginning(&first).await;
    let client =
        async |name: &str, roles: &[&str]| server.client_with(&make(&first, name, roles).await.secret);
    let viewer = client("viewer", &["viewer"]).await;
    let human = client("human", &["human", "operator"]).await;
    let both = client("both", &["admin", "viewer"]).await;
    let mut sockets = Vec::new();
    for (who, sees) in [(&viewer, false), (&human, false), (&both, true), (&first, true)] {
        sockets.push((EventSocket::connect(who, &["event"], Some(&since)).await.unwrap(), sees));
    }
    let made = make(&first, "made", &[]).await;
    first.rotate_token(made.token.id, &RotateToken::default(), None).await.unwrap();
    first.revoke_token(made.token.id, None).await.unwrap();
    first.start("ceo").await.unwrap();
    let kinds = |names: Vec<String>| {
        names.into_iter().filter(|name| name.starts_with("token_")).collect::<BTreeSet<_>>()
    };
    let told: BTreeSet<_> = ["token_created", "token_revoked", "token_rotated"].map(str::to_owned).into();
    for (mut socket, sees) in sockets {
        let frames = frames_until(&mut socket, |frame| frame.payload["eventType"] == "agent_starting").await;
        let names =
            frames.iter().map(|frame| frame.payload["eventType"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds(names), if sees { told.clone() } else { BTreeSet::new() });
    }
    // Asked one after the other: an answer that is shared is shared by those who see the same.
    for _ in 0..2 {
        for (who, sees) in [(&both, true), (&viewer, false), (&first, true), (&human, false)] {
            let events = who.events(&EventQuery::default()).await.unwrap().events;
            assert!(events.iter().any(|event| event.event_type == "agent_starting"));
            let names = events.into_iter().map(|event| event.event_type).collect();
            assert_eq!(kinds(names), if sees { told.clone() } else { BTreeSet::new() });
            for name in &told {
                let query = EventQuery { event_type: Some(name.clone()), page: Page::default() };
                assert_eq!(!who.events(&query).await.unwrap().events.is_empty(), sees, "{name}");
            }
        }
    }
    story::check(&story::whole_log(&first).await);
}
