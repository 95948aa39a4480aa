//! What is not ours, and what must not reach each other.

use std::path::Path;

use aito_contracts::runtime::{READY, ended, key, printed};
use aito_docker::{DockerRuntime, Options};
use aito_domain::{
    agent::Exit,
    ports::runtime::{ContainerRuntime, LogQuery, RuntimeError},
};
use aito_harness::engine::call;
use serde_json::{Value, json};

use crate::support::fixture::{Fixture, GRACE, SLEEP, inspect};

/// A container that another hand made, removed when dropped.
struct Stranger<'a> {
    fixture: &'a Fixture,
    name: String,
    before: Value,
}

/// Removes a container whatever it does, if there is one.
fn remove(socket: &Path, name: &str) {
    call(socket, "DELETE", &format!("/containers/{name}?force=1&v=1"), None);
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        remove(&self.fixture.socket, &self.name);
    }
}

impl<'a> Stranger<'a> {
    fn new(fixture: &'a Fixture, name: &str, labels: Value, runs: bool) -> Self {
        remove(&fixture.socket, name);
        let body = json!({ "Image": fixture.image, "Cmd": ["sleep", "3600"], "Labels": labels,
                           "HostConfig": { "NetworkMode": "none" } });
        let path = format!("/containers/create?name={name}");
        assert_eq!(call(&fixture.socket, "POST", &path, Some(&body)).status, 201);
        if runs {
            let path = format!("/containers/{name}/start");
            assert_eq!(call(&fixture.socket, "POST", &path, None).status, 204);
        }
        let before = inspect(&fixture.socket, name);
        Self { fixture, name: name.to_owned(), before }
    }

    fn is_untouched(&self) {
        let now = inspect(&self.fixture.socket, &self.name);
        for field in ["Id", "State", "Name"] {
            assert_eq!(now[field], self.before[field], "{} {field}", self.name);
        }
    }
}

#[tokio::test]
async fn what_looks_like_ours_and_is_not_is_shown_and_touched_by_no_call() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let (name, own) = (fixture.name(&key), fixture.installation.to_string());
    let compose = json!({ "aito.managed": "true", "aito.type": "cmo",
                          "com.docker.compose.project": "shibc-aito", "com.docker.compose.service": "cmo-agent" });
    let ours_elsewhere = json!({ "aito.installation": own, "aito.agent": key.agent_id.to_string(),
                                 "aito.type": "ceo", "aito.incarnation": "1", "aito.managed": "true" });
    let strangers = [
        // The engine's own filter by name would find these two.
        Stranger::new(&fixture, &format!("my-{name}-old"), json!({}), false),
        Stranger::new(&fixture, &format!("{name}-2"), json!({}), true),
        Stranger::new(&fixture, &format!("x-{name}"), compose, true),
        Stranger::new(&fixture, &format!("{name}x"), ours_elsewhere, true),
    ];
    let runtime = &fixture.runtime;
    // Without a container of its own, and with one.
    for round in 0..2 {
        if round == 1 {
            fixture.run(&key, SLEEP).await;
            assert_eq!(runtime.list().await.unwrap().len(), 1);
        } else {
            assert_eq!(runtime.list().await.unwrap(), []);
            assert!(matches!(runtime.logs(&key, &LogQuery::default()).await, Err(RuntimeError::NotFound)));
        }
        runtime.check(&fixture.script(&key, SLEEP).spec).await.unwrap();
        runtime.stats(&key).await.unwrap();
        runtime.ensure_stopped(&key, GRACE).await.unwrap();
        runtime.remove(&key).await.unwrap();
        strangers.iter().for_each(Stranger::is_untouched);
    }
    let shown = runtime.foreign().await.unwrap();
    assert!(shown.is_sorted_by_key(|foreign| foreign.name.clone()));
    let found = |name: &str| shown.iter().find(|foreign| foreign.name == name);
    assert_eq!(found(&strangers[0].name), None, "its name begins otherwise, and it has no label");
    let plain = found(&strangers[1].name).unwrap();
    assert!(plain.running && plain.whose.contains("no label"), "{plain:?}");
    let compose = found(&strangers[2].name).unwrap();
    assert_eq!(compose.agent_type.as_deref(), Some("cmo"));
    assert_eq!(compose.whose, "compose project shibc-aito");
    let ours = found(&strangers[3].name).unwrap();
    assert!(ours.whose.contains("this installation"), "{ours:?}");
}

#[tokio::test]
async fn another_installations_agents_are_foreign() {
    let (one, two) = (Fixture::new(), Fixture::new());
    let key = key("dao", 3);
    one.run(&key, SLEEP).await;
    let shown = two.runtime.foreign().await.unwrap();
    let foreign = shown.iter().find(|foreign| foreign.name == one.name(&key)).unwrap();
    assert_eq!(foreign.agent_type.as_deref(), Some("dao"));
    assert!(foreign.running && foreign.whose.contains(&one.installation.to_string()), "{foreign:?}");
    let own = one.runtime.foreign().await.unwrap();
    assert!(own.iter().all(|foreign| foreign.name != one.name(&key)));
}

/// The name of the network that an installation makes for itself.
fn own_network(fixture: &Fixture) -> String {
    format!("aito-{}", &fixture.installation.0.simple().to_string()[..12])
}

/// Whether one agent reaches another one that listens; the network that the two were on.
async fn reaches(runtime: &DockerRuntime, fixture: &Fixture, from: u64) -> (bool, Value) {
    let (server, client) = (key("ceo", from), key("dao", from));
    let listen = "while :; do nc -l -p 8080 -e echo hello; done & ";
    // It does listen: it reaches itself by its own address.
    let ready = format!("until nc -w 1 $(hostname -i) 8080 </dev/null; do :; done; echo {READY}; {SLEEP}");
    let serve = fixture.script(&server, &format!("{listen}{ready}"));
    runtime.ensure_started(&serve).await.unwrap();
    printed(runtime, &server, READY).await;
    let networks = fixture.inspect(&server)["NetworkSettings"]["Networks"].clone();
    let (name, settings) = networks.as_object().unwrap().iter().next().unwrap();
    let address = settings["IPAddress"].as_str().unwrap();
    let ask = fixture.script(&client, &format!("nc -w 2 {address} 8080 </dev/null && exit 9; exit 3"));
    runtime.ensure_started(&ask).await.unwrap();
    let exit = ended(runtime, &client).await;
    for key in [&server, &client] {
        runtime.remove(key).await.unwrap();
    }
    assert!([Exit::Code(3), Exit::Code(9)].contains(&exit), "{exit:?}");
    let shown = call(&fixture.socket, "GET", &format!("/networks/{name}"), None);
    (exit == Exit::Code(9), shown.json())
}

#[tokio::test]
async fn agents_cannot_reach_each_other_over_their_network() {
    // The network of the installation itself, not the one that these tests share.
    let fixture = Fixture::new();
    let own = DockerRuntime::open(Options { network: None, ..fixture.options() }).unwrap();
    let (reached, shown) = reaches(&own, &fixture, 1).await;
    assert!(!reached);
    assert_eq!(shown["Name"], own_network(&fixture));
    assert_eq!(shown["Options"]["com.docker.network.bridge.enable_icc"], "false");
    assert_eq!(shown["Labels"]["aito.installation"], fixture.installation.to_string());

    // One that somebody else made and configuration names is used as it is: there they do.
    let name = format!("open-{}", own_network(&fixture));
    let made = call(&fixture.socket, "POST", "/networks/create", Some(&json!({ "Name": name })));
    assert_eq!(made.status, 201, "{}", made.json());
    let open = DockerRuntime::open(Options { network: Some(name.clone()), ..fixture.options() }).unwrap();
    let (reached, shown) = reaches(&open, &fixture, 2).await;
    assert!(reached);
    assert_eq!((&shown["Name"], &shown["Labels"]), (&json!(name), &json!({})));

    // A network that is gone is made again by the next start.
    let remove = |name: &str| call(&fixture.socket, "DELETE", &format!("/networks/{name}"), None).status;
    assert_eq!((remove(&name), remove(&own_network(&fixture))), (204, 204));
    own.ensure_started(&fixture.script(&key("ceo", 3), SLEEP)).await.unwrap();
    own.remove(&key("ceo", 3)).await.unwrap();
    assert_eq!(remove(&own_network(&fixture)), 204);
}

#[tokio::test]
async fn servers_that_make_the_network_at_once_end_with_one() {
    let fixture = Fixture::new();
    let calls = (0..6_u64).map(|n| {
        let options = Options { network: None, ..fixture.options() };
        let (runtime, start) =
            (DockerRuntime::open(options).unwrap(), fixture.script(&key("ceo", n + 1), SLEEP));
        tokio::spawn(async move { runtime.ensure_started(&start).await.unwrap() })
    });
    futures_util::future::join_all(calls.collect::<Vec<_>>())
        .await
        .into_iter()
        .for_each(|done| drop(done.unwrap()));
    let name = own_network(&fixture);
    let all = call(&fixture.socket, "GET", "/networks", None).json();
    let named: Vec<_> = all.as_array().unwrap().iter().filter(|network| network["Name"] == name).collect();
    assert_eq!(named.len(), 1);
    for n in 1..=6 {
        fixture.runtime.remove(&key("ceo", n)).await.unwrap();
    }
    let id = named[0]["Id"].as_str().unwrap();
    assert_eq!(call(&fixture.socket, "DELETE", &format!("/networks/{id}"), None).status, 204);
}
