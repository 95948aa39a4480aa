//! Real servers that go and come back under a server of ours: nothing is lost, nothing is doubled, nobody lends a hand.
//!
//! Invariant: a server that is killed here belongs to the test alone.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aito_api::{AgentStatus, Check, ContainerStatus, NewHistory, SystemStatus};
use aito_client::{Client, Error, Page, ResumingEvents};
use aito_harness::{
    Sandbox, Set, engine, image,
    sandbox::AGENTS,
    servers::{self, Engine, Postgres, Redis},
    story, wait,
};

use crate::{SOON, get, post, refused, sandbox, until_status};

const BIN: &str = env!("CARGO_BIN_EXE_aito");

/// How long recovering may take: an engine that starts again looks after its containers first.
const RECOVERY: Duration = Duration::from_secs(60);

/// Waits until every agent is active with exactly one container that runs; gives their incarnations.
async fn all_active(
    sandbox: &Sandbox,
    client: &Client,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    wait::until("seven active agents with a container each", RECOVERY, async || {
        let mut running: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (agent, incarnation, _) in sandbox.agents() {
            running.entry(agent).or_default().push(incarnation);
        }
        let mut found = BTreeMap::new();
        for agent in AGENTS {
            let detail = client.agent(agent).await.ok()?;
            let one = running.get(agent).is_some_and(|all| *all == [detail.incarnation]);
            let later = after.get(agent).is_none_or(|before| detail.incarnation > *before);
            if detail.status != AgentStatus::Active || !one || !later || detail.stale {
                return None;
            }
            found.insert(agent.to_owned(), detail.incarnation);
        }
        Some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_may_crash_or_be_restarted_under_its_agents() {
    let mut engine = Engine::start();
    image::test_image(&engine.socket(), Path::new(BIN));
    let (postgres, redis) = (servers::address(servers::POSTGRES), servers::address(servers::REDIS));
    let sandbox = Sandbox::on_servers(&postgres, &redis, &engine.socket(), BIN);
    let server = sandbox.start().await;
    let client = server.client();
    for agent in AGENTS {
        client.start(agent).await.unwrap();
    }
    let first = all_active(&sandbox, &client, &BTreeMap::new()).await;

    engine.kill();
    // What needs the engine says so, with nothing done.
    let answer = post(&client, "/agents/ceo/restart", "").await;
    refused(&answer, 503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert!(answer.json().unwrap()["detail"].as_str().unwrap().contains("nothing was done"), "{answer:?}");
    wait::until("the last state, marked stale", SOON, async || {
        client.agent("ceo").await.ok()?.stale.then_some(())
    })
    .await;
    let detail = client.agent("ceo").await.unwrap();
    assert_eq!(
        (detail.status, detail.incarnation),
        (AgentStatus::Active, first["ceo"]),
        "its last state stands"
    );
    assert_eq!(client.health_full().await.unwrap().status, SystemStatus::Degraded);
    // Everything else works.
    client.record_history("ceo", &NewHistory::new("task", "while the engine was away")).await.unwrap();
    assert!(client.ready().await.unwrap().ready);
    assert!(!client.events(&aito_client::EventQuery::default()).await.unwrap().events.is_empty());

    engine.start_again();
    let second = all_active(&sandbox, &client, &first).await;
    engine.stop();
    engine.start_again();
    all_active(&sandbox, &client, &second).await;
    assert_eq!(client.health_full().await.unwrap().status, SystemStatus::Healthy);
    let told = story::check(&story::whole_log(&client).await);
    assert!(AGENTS.iter().all(|agent| told[*agent] == "active"), "{told:?}");
    drop(server);
    drop(sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sees_another_engine_does_not_supervise_until_it_is_accepted() {
    let sandbox = sandbox(Set::Servers);
    let server = sandbox.start().await;
    server.client().start("ceo").await.unwrap();
    until_status(&server.client(), "ceo", AgentStatus::Active).await;
    assert!(server.stop().await.success());
    sandbox.sql("UPDATE installation SET engine_id = 'another engine'");

    let server = sandbox.start().await;
    let client = server.client();
    for path in ["/agents/ceo/restart", "/agents/ceo/stop", "/agents/cmo/start"] {
        let answer = post(&client, path, "").await;
        refused(&answer, 503);
        let detail = answer.json().unwrap()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("another engine") && detail.contains("accept-engine"), "{detail}");
    }
    assert!(server.log().contains("does not supervise"), "{}", server.log());
    // What this engine lists is not taken for what runs.
    let ceo = client.agent("ceo").await.unwrap();
    assert_eq!((ceo.container_status, ceo.stale), (ContainerStatus::Unknown, true));
    for path in ["/agents/ceo/logs", "/agents/ceo/stats", "/containers"] {
        refused(&get(&client, path).await, 503);
    }
    assert_eq!(client.health_full().await.unwrap().status, SystemStatus::Degraded);
    assert_eq!(sandbox.agents().len(), 1, "the container is left alone");
    let mut accept = sandbox.command();
    accept.args(["installation", "accept-engine", "--config"]).arg(sandbox.config_file());
    accept.arg("--data-dir").arg(sandbox.data_dir());
    let (status, said, why) = sandbox.run(accept);
    assert!(status.success() && said.contains("another engine"), "{said}{why}");
    wait::until("the server to supervise again", SOON, async || client.restart("ceo").await.ok()).await;
    until_status(&client, "ceo", AgentStatus::Active).await;
    assert_eq!(sandbox.agents().len(), 1);
}

/// What the predecessor deleted because its name was similar, and what compose started for it.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_containers_are_shown_and_left_alone() {
    let sandbox = sandbox(Set::Servers);
    let socket = sandbox.places().engine.clone();
    let server = sandbox.start().await;
    let client = server.client();
    let ours = client.start("ceo").await.unwrap().container_id;
    let image =
        engine::call(&socket, "GET", &format!("/containers/{ours}/json"), None).json()["Image"].clone();
    let mark = sandbox.installation().unwrap();
    let similar = format!("{ours}-old");
    let composed = format!("aito-cto-{}-1", &mark[24..]);
    let labels = serde_json::json!({
        "com.docker.compose.project": "old-fleet", "com.docker.compose.service": "cto-agent", "of-test": mark,
    });
    for (name, labels) in [(&similar, serde_json::json!({ "of-test": mark })), (&composed, labels)] {
        let body = serde_json::json!({ "Image": image, "Labels": labels });
        let made = engine::call(&socket, "POST", &format!("/containers/create?name={name}"), Some(&body));
        assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    }
    let listed = client.containers().await.unwrap().containers;
    let named =
        |name: &str| listed.iter().find(|c| c.container_id == name).unwrap_or_else(|| panic!("{name}"));
    assert!(!named(&ours).foreign && named(&ours).present);
    for name in [&similar, &composed] {
        assert!(named(name).foreign && !named(name).present && named(name).incarnation.is_none(), "{name}");
    }
    assert!(named(&composed).whose.as_deref().is_some_and(|whose| whose.contains("old-fleet")));
    for _ in 0..2 {
        client.restart("ceo").await.unwrap();
    }
    client.stop("ceo").await.unwrap();
    client.start("cto").await.unwrap();
    client.stop("cto").await.unwrap();
    assert!(server.stop().await.success());
    assert_eq!(engine::all_containers(&socket, &format!("of-test={mark}")).len(), 2, "nobody touched them");
    engine::sweep(&socket, &format!("of-test={mark}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_exist_is_refused_by_name_and_nothing_changes() {
    let sandbox = sandbox(Set::Servers);
    sandbox.configure("[agents.cto]\nimage = \"no-such-image:7\"\n");
    let server = sandbox.start().await;
    let client = server.client();
    let before = client.events(&aito_client::EventQuery::default()).await.unwrap().events.len();
    let answer = post(&client, "/agents/cto/start", "").await;
    refused(&answer, 422);
    let detail = answer.json().unwrap()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("no-such-image:7"), "{detail}");
    assert_eq!(client.agent("cto").await.unwrap().status, AgentStatus::Inactive);
    let after = client.events(&aito_client::EventQuery::default()).await.unwrap().events.len();
    assert_eq!((after, sandbox.agents()), (before, Vec::new()));
    client.start("ceo").await.unwrap();
}

/// Where other servers could come, the machine is compared like an engine; a reinstalled one can be accepted like one.
#[tokio::test(flavor = "multi_thread")]
async fn local_processes_on_postgres_follow_a_machine_that_was_accepted() {
    let sandbox = sandbox(Set::Servers);
    // Local processes have no mounts.
    std::fs::write(sandbox.config_file(), "").unwrap();
    let serve = || {
        let mut serve = sandbox.serve();
        serve.args(["--runtime", "process"]);
        serve
    };
    assert!(sandbox.start_as(serve()).await.stop().await.success());
    sandbox.sql("UPDATE installation SET engine_id = 'process:another machine'");
    let server = sandbox.start_as(serve()).await;
    let client = server.client();
    let answer = post(&client, "/agents/ceo/start", "").await;
    refused(&answer, 503);
    let detail = answer.json().unwrap()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("another machine") && detail.contains("accept-engine"), "{detail}");
    let mut accept = sandbox.command();
    accept.args(["installation", "accept-engine", "--config"]).arg(sandbox.config_file());
    accept.arg("--data-dir").arg(sandbox.data_dir());
    let (status, said, why) = sandbox.run(accept);
    assert!(status.success() && said.contains("another machine"), "{said}{why}");
    wait::until("the server to supervise", SOON, async || client.start("ceo").await.ok()).await;
    until_status(&client, "ceo", AgentStatus::Active).await;
    client.stop("ceo").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_under_load_loses_nothing_that_was_answered() {
    let mut postgres = Postgres::start(false);
    let redis = servers::address(servers::REDIS);
    let engine = servers::address(servers::ENGINE);
    let sandbox = Sandbox::on_servers(&postgres.url("postgres"), &redis, Path::new(&engine), BIN);
    let server = sandbox.start().await;
    let client = server.client();
    client.start("ceo").await.unwrap();
    until_status(&client, "ceo", AgentStatus::Active).await;
    let newest = client.events(&aito_client::EventQuery::default()).await.unwrap().events[0].position.clone();
    let before_all = format!("{}-0", newest.rsplit_once('-').unwrap().0);
    let writing = Arc::new(AtomicBool::new(true));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (client, writing) = (client.clone(), writing.clone());
            tokio::spawn(async move {
                let (mut stored, mut refusals) = (Vec::new(), 0);
                for n in 0.. {
                    if !writing.load(Ordering::Relaxed) {
                        break;
                    }
                    let row = NewHistory::new("task", format!("{writer}: {n}"));
                    let key = format!("{writer}-{n}");
                    // As agents do: the same row with the same key until there is an answer.
                    loop {
                        match client.record_history_once("ceo", &row, &key).await {
                            Ok(_) => break stored.extend(row.summary),
                            Err(Error::Unavailable { status, retry_after, .. }) => {
                                assert!(
                                    status.is_none() || retry_after.is_some(),
                                    "503 says when to come again"
                                );
                                refusals += 1;
                                wait::pass(Duration::from_millis(20)).await;
                            }
                            Err(other) => panic!("a wrong answer: {other}"),
                        }
                    }
                }
                (stored, refusals)
            })
        })
        .collect();
    for _ in 0..2 {
        let rows = AtomicBool::new(false);
        wait::until("rows to be written", RECOVERY, async || {
            let page = Page { limit: Some(1), cursor: None };
            let some = client.history("ceo", &page).await.is_ok_and(|page| !page.history.is_empty());
            (some && rows.swap(true, Ordering::Relaxed)).then_some(())
        })
        .await;
        postgres.kill();
        refused(&get(&client, "/agents/ceo").await, 503);
        assert_eq!(get(&client, "/health").await.status, 200, "it lives without its database");
        let ready = get(&client, "/ready").await;
        assert_eq!(
            (ready.status, ready.json().unwrap()["checks"]["database"].as_str()),
            (503, Some("error"))
        );
        postgres.start_again();
        wait::until("the database to be used again", RECOVERY, async || client.agent("ceo").await.ok()).await;
    }
    writing.store(false, Ordering::Relaxed);
    let (mut stored, mut refusals) = (Vec::new(), 0);
    for writer in writers {
        let (rows, refused) = writer.await.unwrap();
        stored.extend(rows);
        refusals += refused;
    }
    assert!(refusals > 0 && !stored.is_empty(), "{refusals} refusals, {} rows", stored.len());
    let mut rows = Vec::new();
    let mut cursor = None;
    loop {
        let page = client.history("ceo", &Page { limit: Some(500), cursor }).await.unwrap();
        rows.extend(page.history.into_iter().map(|row| row.summary).filter(|text| text.contains(": ")));
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    rows.sort();
    stored.sort();
    assert_eq!(rows, stored, "each row that was answered is there, once, and no other");
    let log = story::whole_log(&client).await;
    story::check(&log);
    let mut events = ResumingEvents::new(client.clone(), &["event"], Some(before_all));
    let mut heard = Vec::new();
    while heard.len() < log.len() {
        match events.next().await.unwrap() {
            aito_client::Item::Frame(frame) => heard.extend(frame.position),
            aito_client::Item::Reset(reset) => panic!("{reset:?}"),
        }
    }
    assert_eq!(heard, log.into_iter().map(|event| event.position).collect::<Vec<_>>());
    drop(server);
    drop(sandbox);
    drop(postgres);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_everything_works_and_it_is_said() {
    let mut redis = Redis::start();
    let postgres = servers::address(servers::POSTGRES);
    let engine = servers::address(servers::ENGINE);
    let sandbox = Sandbox::on_servers(&postgres, &redis.url(), Path::new(&engine), BIN);
    let server = sandbox.start().await;
    let client = server.client();
    assert!(client.ready().await.unwrap().ready);
    for down in ["killed", "frozen"] {
        if down == "killed" {
            redis.kill()
        } else {
            redis.freeze()
        }
        let ready = wait::until("the bus to be missed", SOON, async || {
            let ready = get(&client, "/ready").await;
            (ready.status == 503).then_some(ready)
        })
        .await;
        let checks = ready.json().unwrap()["checks"].clone();
        assert_eq!(
            (checks["redis"].as_str(), checks["database"].as_str()),
            (Some("error"), Some("ok")),
            "{down}"
        );
        assert_eq!(get(&client, "/ready?scope=core").await.status, 200);
        assert_eq!(get(&client, "/health/full").await.status, 503);
        let mut live = aito_client::EventSocket::connect(&client, &["event"], None).await.unwrap();
        client.restart("ceo").await.unwrap();
        let frame = tokio::time::timeout(SOON, live.next()).await.unwrap().unwrap().unwrap();
        assert!(frame.position.is_some(), "events go on, {down}: {frame:?}");
        if down == "killed" {
            redis.start_again()
        } else {
            redis.go_on()
        }
        wait::until("the bus to be used again", SOON, async || {
            client.ready().await.ok()?.ready.then_some(())
        })
        .await;
    }
    assert_eq!(client.ready().await.unwrap().checks.redis, Some(Check::Ok));
    drop(server);
    drop(sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_may_come_up_in_any_order() {
    let mut postgres = Postgres::start(false);
    let mut redis = Redis::start();
    let nowhere = tempfile::tempdir().unwrap();
    let socket = nowhere.path().join("docker.sock");
    let sandbox = Sandbox::on_servers(&postgres.url("postgres"), &redis.url(), &socket, BIN);
    postgres.stop();
    redis.kill();
    let starting = sandbox.start();
    let (server, ()) = tokio::join!(starting, async {
        wait::until("the server to wait", SOON, async || {
            let log = std::fs::read_to_string(sandbox.root().join("server.log")).ok()?;
            log.contains("waiting for the database").then_some(())
        })
        .await;
        postgres.start_again();
    });
    let client = server.client();
    // No Redis and no engine yet: what needs neither works.
    wait::until("the seven agents", SOON, async || {
        (client.agents(None).await.ok()?.agents.len() == 7).then_some(())
    })
    .await;
    refused(&post(&client, "/agents/ceo/start", "").await, 503);
    redis.start_again();
    wait::until("the bus", SOON, async || client.ready().await.ok()?.ready.then_some(())).await;
    std::os::unix::fs::symlink(servers::address(servers::ENGINE), &socket).unwrap();
    wait::until("an engine", SOON, async || client.start("ceo").await.ok()).await;
    until_status(&client, "ceo", AgentStatus::Active).await;
    assert_eq!(sandbox.agents().len(), 1);
    assert!(
        !sandbox.sql("SELECT engine_id FROM installation").trim().is_empty(),
        "the first engine is recorded"
    );
    drop(server);
    engine::sweep(&socket, &format!("aito.installation={}", sandbox.installation().unwrap()));
    drop(sandbox);
    drop(postgres);
}
