//! Starts that meet something: a name that is taken, an image that is missing, a server that died half-way.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use aito_contracts::runtime::{Behaviour, READY, RuntimeFixture, ended, key, listed, printed, start, within};
use aito_docker::{DockerRuntime, Options};
use aito_domain::{
    agent::Exit,
    fleet::ContainerState,
    ports::runtime::{ContainerRuntime, RuntimeError, Started, Stopped},
    spec::Mount,
};
use aito_harness::engine::{all_containers, call};
use serde_json::json;

use crate::support::fixture::{Fixture, GRACE, SLEEP};

/// What a refusal says.
fn refused<T: std::fmt::Debug>(result: Result<T, RuntimeError>) -> String {
    match result {
        Err(RuntimeError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_that_something_foreign_holds_is_a_conflict_and_the_next_number_works() {
    let fixture = Fixture::new();
    let (taken, next) = (key("ceo", 1), key("ceo", 2));
    let name = fixture.name(&taken);
    let holder = json!({ "Image": fixture.image, "Cmd": ["sleep", "3600"] });
    let path = format!("/containers/create?name={name}");
    assert_eq!(call(&fixture.socket, "POST", &path, Some(&holder)).status, 201);
    let start = fixture.script(&taken, SLEEP);
    match fixture.runtime.ensure_started(&start).await {
        Err(RuntimeError::Conflict(why)) => assert!(why.contains(&name) && why.contains("no label"), "{why}"),
        other => panic!("{other:?}"),
    }
    // It is nothing of ours, whatever is asked.
    assert_eq!(fixture.runtime.ensure_stopped(&taken, GRACE).await.unwrap(), Stopped::NotThere);
    fixture.runtime.remove(&taken).await.unwrap();
    assert_eq!(fixture.runtime.list().await.unwrap(), []);
    assert_eq!(fixture.inspect(&taken)["State"]["Status"], "created");
    assert!(!fixture.credential(&taken).exists());
    fixture.run(&next, SLEEP).await;
    call(&fixture.socket, "DELETE", &format!("/containers/{name}?force=1"), None);
}

#[tokio::test]
async fn a_relative_path_is_refused_and_nothing_is_made() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let mut start = fixture.script(&key, SLEEP);
    start.spec.mounts =
        vec![Mount { source: "./profiles".into(), target: "/app/profiles".into(), read_only: true }];
    assert!(refused(fixture.runtime.check(&start.spec).await).contains("./profiles"));
    assert!(refused(fixture.runtime.ensure_started(&start).await).contains("./profiles"));
    assert_eq!(fixture.runtime.list().await.unwrap(), []);
    assert!(!fixture.credential(&key).exists());
}

#[tokio::test]
async fn a_missing_image_profile_or_mount_is_named_and_leaves_nothing() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let mut image = fixture.script(&key, SLEEP);
    image.spec.image = Some("nobody/has-this:7".to_owned());
    let mut profile = fixture.script(&key, SLEEP);
    profile.spec.profile = "/nonexistent/profile.md".into();
    let mut mount = fixture.script(&key, SLEEP);
    mount.spec.mounts =
        vec![Mount { source: "/nonexistent/dir".into(), target: "/x".into(), read_only: false }];
    for (start, wanted) in
        [(image, "nobody/has-this:7"), (profile, "/nonexistent/profile.md"), (mount, "/nonexistent/dir")]
    {
        assert!(refused(fixture.runtime.check(&start.spec).await).contains(wanted));
        let why = refused(fixture.runtime.ensure_started(&start).await);
        assert!(why.contains(wanted), "{why}");
        assert_eq!(fixture.runtime.list().await.unwrap(), []);
        assert!(!fixture.dir.path().join("credentials").join(fixture.name(&key)).exists());
    }
    assert!(!std::path::Path::new("/nonexistent").exists());
}

#[tokio::test]
async fn an_image_that_exits_at_once_has_ended_and_is_not_started_again() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    // Without a command of its own the image's program runs.
    let start = start(&key);
    fixture.runtime.check(&start.spec).await.unwrap();
    assert_eq!(fixture.runtime.ensure_started(&start).await.unwrap(), Started::Now);
    assert_eq!(ended(&*fixture.runtime, &key).await, Exit::Code(5));
    let again = fixture.runtime.ensure_started(&start).await.unwrap();
    assert_eq!(again, Started::AlreadyEnded(Exit::Code(5)));
}

#[tokio::test]
async fn many_servers_that_start_a_short_life_at_once_start_it_once() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let out = fixture.dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let mut start = fixture.script(&key, "echo started >> /out/starts");
    start.spec.mounts = vec![Mount { source: out.clone(), target: "/out".into(), read_only: false }];
    let calls = (0..8).map(|_| {
        let (runtime, start) = (DockerRuntime::open(fixture.options()).unwrap(), start.clone());
        tokio::spawn(async move { runtime.ensure_started(&start).await.unwrap() })
    });
    let answers = futures_util::future::join_all(calls.collect::<Vec<_>>()).await;
    let now = answers.iter().filter(|answer| *answer.as_ref().unwrap() == Started::Now).count();
    assert_eq!(now, 1, "{answers:?}");
    ended(&*fixture.runtime, &key).await;
    assert_eq!(fs::read_to_string(out.join("starts")).unwrap(), "started\n");
}

#[tokio::test]
async fn a_container_that_a_dead_server_made_and_did_not_start_is_started_with_its_credential() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let start = fixture.script(&key, &format!("cat $AGENT_CREDENTIAL_FILE; echo; echo {READY}; {SLEEP}"));
    // What a server leaves that dies between the two calls: the container as it makes it, and an empty directory.
    fixture.runtime.ensure_started(&start).await.unwrap();
    let made = fixture.inspect(&key);
    fixture.runtime.remove(&key).await.unwrap();
    let mut body = made["Config"].clone();
    body["HostConfig"] = made["HostConfig"].clone();
    let own = fixture.credential(&key).parent().unwrap().to_owned();
    fs::create_dir_all(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(65_532), Some(65_532)).unwrap();
    let path = format!("/containers/create?name={}", fixture.name(&key));
    let made = call(&fixture.socket, "POST", &path, Some(&body));
    assert_eq!(made.status, 201, "{}", made.json());

    assert_eq!(listed(&*fixture.runtime, &key).await, Some(ContainerState::Creating));
    assert_eq!(fixture.runtime.ensure_started(&start).await.unwrap(), Started::Now);
    printed(&*fixture.runtime, &key, READY).await;
    assert_eq!(fixture.texts(&key).await, ["a-credential", READY]);
}

#[tokio::test]
async fn a_stop_of_whole_seconds_is_the_engines_own() {
    let fixture = Fixture::new();
    let (asks, forces) = (key("ceo", 1), key("dao", 1));
    fixture.run(&asks, &format!("echo {READY}; {SLEEP}")).await;
    let start = RuntimeFixture::start(&fixture, &forces, Behaviour::IgnoresTerm);
    fixture.runtime.ensure_started(&start).await.unwrap();
    for key in [&asks, &forces] {
        printed(&*fixture.runtime, key, READY).await;
    }
    let stop = |key| fixture.runtime.ensure_stopped(key, Duration::from_secs(1));
    assert_eq!(within("a stop", GRACE, stop(&asks)).await.unwrap(), Stopped::Ended(Exit::Code(143)));
    assert_eq!(within("a stop", GRACE, stop(&forces)).await.unwrap(), Stopped::Ended(Exit::Signal(9)));
}

#[tokio::test]
async fn a_program_is_looked_for_where_the_container_will_see_it() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let mut start = fixture.script(&key, "");
    let mut check = async |program: &str, mounts: Vec<Mount>| {
        start.spec.command = Some(vec![program.to_owned()]);
        start.spec.mounts = mounts;
        fixture.runtime.check(&start.spec).await
    };
    check("/bin/sh", Vec::new()).await.unwrap();
    // Asked a second time it needs no container, and a name without a path is the container's to find.
    check("/bin/sh", Vec::new()).await.unwrap();
    check("sh", Vec::new()).await.unwrap();
    let tool = fixture.dir.path().join("tool");
    fs::write(&tool, "#!/bin/sh\n").unwrap();
    let dir = |source: &std::path::Path, target: &str| {
        vec![Mount { source: source.to_owned(), target: target.into(), read_only: true }]
    };
    check("/opt/tool", dir(fixture.dir.path(), "/opt")).await.unwrap();
    check("/opt/tool", dir(&tool, "/opt/tool")).await.unwrap();
    assert!(refused(check("/opt/other", dir(fixture.dir.path(), "/opt")).await).contains("/other"));
    assert!(refused(check("/opt/tool", Vec::new()).await).contains("/opt/tool"));
    let probes = all_containers(&fixture.socket, &format!("aito.probe={}", fixture.installation));
    assert!(probes.is_empty(), "{probes:?}");
}

#[tokio::test]
async fn leftovers_of_dead_servers_are_swept_when_they_are_old() {
    let fixture = Fixture::new();
    let place = fixture.dir.path().join("credentials/aito-ceo-aaaaaa/agent");
    fs::create_dir_all(&place).unwrap();
    let probe =
        json!({ "Image": fixture.image, "Labels": { "aito.probe": fixture.installation.to_string() } });
    assert_eq!(call(&fixture.socket, "POST", "/containers/create", Some(&probe)).status, 201);
    let probes = || all_containers(&fixture.socket, &format!("aito.probe={}", fixture.installation)).len();
    fixture.runtime.list().await.unwrap();
    assert!(place.exists() && probes() == 1, "they may be in use");
    // Eleven minutes later.
    let later = aito_contracts::clock::ManualClock::at(aito_domain::time::after(
        crate::support::fixture::present(),
        Duration::from_secs(660),
    ));
    let options = Options { clock: Arc::new(later), ..fixture.options() };
    DockerRuntime::open(options).unwrap().list().await.unwrap();
    assert!(!place.parent().unwrap().exists() && probes() == 0);
}
