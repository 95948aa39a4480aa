//! Two servers of one installation: what one does the other shows, and together they keep one fleet.

use aito_api::{AgentStatus, HealthState};
use aito_client::{EventQuery, EventSocket, Page};
use aito_harness::{Set, chaos, processes, story, wait};
use rustix::process::Signal;

use crate::{SOON, as_agent, credential, post, refused, sandbox, sandbox_with_leaky_ceo, until_status};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_does_the_other_shows() {
    let first = sandbox(Set::Servers);
    let one = first.start().await;
    let second = first.another_server();
    let two = second.start().await;
    let (a, b) = (one.client(), two.client());
    let mut live = EventSocket::connect(&b, &["event"], None).await.unwrap();
    let started = a.start("ceo").await.unwrap().container_id;
    let frame = tokio::time::timeout(SOON, live.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(frame.payload["eventType"], "agent_starting");
    until_status(&b, "ceo", AgentStatus::Active).await;
    assert_eq!(b.start("ceo").await.unwrap().container_id, started, "it runs already, whoever is asked");
    // Heartbeats go to one of the two; both know of them, and neither thinks that the agent is silent.
    let before = b.agent("ceo").await.unwrap().last_heartbeat;
    for client in [&a, &b] {
        wait::until("a later heartbeat", SOON, async || {
            let detail = client.agent("ceo").await.ok()?;
            (detail.last_heartbeat > before && detail.health == HealthState::Ok).then_some(())
        })
        .await;
    }
    // The server that started it is killed: the other one keeps it.
    one.kill();
    let (_, _, pid) = first.agents()[0];
    processes::signal(pid, Signal::KILL);
    wait::until("the second incarnation", SOON, async || {
        let detail = b.agent("ceo").await.ok()?;
        (detail.incarnation == 2 && detail.status == AgentStatus::Active).then_some(())
    })
    .await;
    let events = b.events(&EventQuery::default()).await.unwrap().events;
    let silent = events.iter().filter(|event| event.event_type == "agent_unreachable").count();
    assert_eq!(silent, 0, "{events:?}");
    let died = events.iter().filter(|event| event.event_type == "agent_error").count();
    assert_eq!(died, 1, "two servers that see one death make one event");
    // And comes back to the same installation, without a key of its own to be told.
    let again = first.start().await;
    assert_eq!(
        again.client().agents(None).await.unwrap().agents.len(),
        b.agents(None).await.unwrap().agents.len()
    );
    story::check(&story::whole_log(&again.client()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_joins_only_with_the_installations_key() {
    let first = sandbox(Set::Servers);
    let _one = first.start().await;
    let mut second = first.another_server();
    let key = second.env.remove("AITO_KEY_FILE").unwrap();
    let (status, _, why) = second.run(second.serve());
    assert!(!status.success() && why.contains("key_file"), "{why}");
    let wrong = second.root().join("wrong");
    std::fs::write(&wrong, "0".repeat(64)).unwrap();
    std::fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    second.env.insert("AITO_KEY_FILE".into(), wrong.display().to_string());
    let (status, _, why) = second.run(second.serve());
    assert!(!status.success() && why.contains("has the key"), "{why}");
    assert!(!second.data_dir().join("installation.json").exists(), "nothing of it stays");
    second.env.insert("AITO_KEY_FILE".into(), key);
    let two = second.start().await;
    assert_eq!(second.installation(), first.installation());
    drop(two);
    // From now on it has the key.
    second.env.remove("AITO_KEY_FILE");
    let _two = second.start().await;
    // The same data directory with another kind of store is nobody's.
    let mut alone = second.command();
    alone.env_remove("DATABASE_URL");
    alone.args(["serve", "--no-auth", "--listen", "127.0.0.1:0", "--config"]).arg(second.config_file());
    alone.arg("--data-dir").arg(first.root().join("other"));
    std::fs::create_dir(first.root().join("other")).unwrap();
    std::fs::copy(second.data_dir().join("installation.json"), first.root().join("other/installation.json"))
        .unwrap();
    std::fs::set_permissions(
        first.root().join("other/installation.json"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let (status, _, why) = second.run(alone);
    assert!(!status.success() && why.contains("PostgreSQL"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_incarnation_is_refused_by_every_server() {
    let first = sandbox_with_leaky_ceo(Set::Servers);
    let one = first.start().await;
    one.client().start("ceo").await.unwrap();
    let past = as_agent(&first, &credential(&first, 1).await);
    let second = first.another_server();
    let two = second.start().await;
    two.client().restart("ceo").await.unwrap();
    let token = format!("Bearer {}", credential(&first, 1).await);
    for client in [past, one.client(), two.client()] {
        let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
        let answer = client.raw("POST", "/agents/ceo/heartbeat", &headers, Some("{}".into())).await.unwrap();
        refused(&answer, 401);
    }
    refused(&post(&as_agent(&first, "nonsense"), "/agents/ceo/heartbeat", "{}").await, 401);
    let events = two.client().agent_events("ceo", &Page::default()).await.unwrap().events;
    assert!(
        events.iter().all(|event| event.event_type != "agent_started" || event.payload["incarnation"] == 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_of_two_servers() {
    let report = chaos::two_servers::run(&sandbox(Set::Servers), 20_261_125, 12).await;
    assert!(report.kills == 12 && report.acknowledged > 0, "{report:?}");
    println!("{report:?}");
}
