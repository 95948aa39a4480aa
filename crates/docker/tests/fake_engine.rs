//! What the runtime makes of engines that are too old, too new, broken, slow, or no engines at all.

#![allow(clippy::unwrap_used)]

mod support;

mod fake_engine {
    mod host_paths;
    mod logs;
    mod starts;
}

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aito_contracts::runtime::{SOON, key, spec, start, within};
use aito_docker::{DockerEngine, DockerRuntime, OpenError, Options};
use aito_domain::{
    id::InstallationId,
    ports::runtime::{ContainerRuntime, Hint, LogQuery, RuntimeError, Stopped},
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use uuid::Uuid;

use support::{
    fake::{Fake, Reply, answer, refusal},
    fixture::{USER, options},
};

/// The limits of a call here, short enough to wait for.
const CALL: Duration = Duration::from_millis(200);

/// What a call must end in that may make three of them.
const BOUND: Duration = Duration::from_secs(2);

const ID: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

const OURS: InstallationId = InstallationId(Uuid::from_u128(7));

fn open(fake: &Fake) -> Arc<DockerRuntime> {
    let me = rustix::process::geteuid().as_raw();
    let options = options(&fake.socket(), fake.dir.path(), OURS, "agent:1");
    DockerRuntime::open(Options {
        uid: if me == 0 { USER } else { me },
        gid: if me == 0 { USER } else { rustix::process::getegid().as_raw() },
        call_timeout: CALL,
        start_timeout: CALL,
        network: None,
        ..options
    })
    .unwrap()
}

fn versions(newest: &str, oldest: &str) -> Reply {
    answer(&json!({ "ApiVersion": newest, "MinAPIVersion": oldest }))
}

/// The container of the key that all these tests use, in this state.
fn container(status: &str, exit: i32) -> Value {
    let key = key("ceo", 1);
    json!({
        "Id": ID,
        "Name": format!("/{}", key.name(OURS)),
        "State": { "Status": status, "ExitCode": exit, "Running": status == "running" },
        "Config": { "Tty": false, "Labels": {
            "aito.installation": OURS.to_string(),
            "aito.agent": key.agent_id.to_string(),
            "aito.type": "ceo",
            "aito.incarnation": "1",
        } },
        "Mounts": [],
    })
}

fn network() -> Value {
    let name = format!("aito-{}", &OURS.0.simple().to_string()[..12]);
    json!([{ "Id": "net1", "Name": name, "Created": "2026-01-01T00:00:00Z",
             "Labels": { "aito.installation": OURS.to_string() } }])
}

/// A good engine, but for what `other` answers.
fn engine(other: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static) -> Fake {
    Fake::start(move |request| {
        if let Some(reply) = other(request) {
            return reply;
        }
        let (method, path) = request.split_once(' ').unwrap();
        let path = path.split('?').next().unwrap();
        let path = path.strip_prefix("/v1.41").unwrap_or(path);
        match (method, path) {
            (_, "/version") => versions("1.41", "1.12"),
            (_, "/info") => answer(&json!({ "ID": "fake", "MemoryLimit": true, "SwapLimit": true,
                                            "CpuCfsQuota": true, "PidsLimit": true })),
            (_, "/_ping") => answer(&json!("OK")),
            (_, "/containers/json") => answer(&json!([])),
            (_, "/networks") => answer(&network()),
            ("POST", "/containers/create") => Reply::Json(201, json!({ "Id": ID }).to_string()),
            ("POST", _) if path.ends_with("/start") => Reply::Json(204, String::new()),
            ("GET", _) if path.ends_with("/json") => answer(&container("running", 0)),
            _ => refusal(404, "page not found"),
        }
    })
}

/// The error of every call that the greeting itself does not answer; none may take long.
async fn all_errors(runtime: &DockerRuntime) -> Vec<(&'static str, RuntimeError)> {
    let key = key("ceo", 1);
    let mut found = Vec::new();
    macro_rules! call {
        ($what:literal, $call:expr) => {
            match within($what, BOUND, $call).await {
                Ok(_) => panic!("{} worked", $what),
                Err(error) => found.push(($what, error)),
            }
        };
    }
    call!("check", runtime.check(&spec(&key.agent_type)));
    call!("ensure_started", runtime.ensure_started(&start(&key)));
    call!("ensure_stopped", runtime.ensure_stopped(&key, Duration::from_millis(1)));
    call!("remove", runtime.remove(&key));
    call!("list", runtime.list());
    call!("foreign", runtime.foreign());
    call!("logs", runtime.logs(&key, &LogQuery::default()));
    call!("stats", runtime.stats(&key));
    call!("watch", runtime.watch());
    call!("ping", runtime.ping());
    found
}

fn all_unavailable(errors: Vec<(&str, RuntimeError)>) {
    for (call, error) in errors {
        assert!(matches!(error, RuntimeError::Unavailable(_)), "{call}: {error:?}");
    }
}

#[tokio::test]
async fn the_newest_version_that_both_know_is_pinned_in_every_request() {
    for (newest, oldest, wanted) in [
        ("1.41", "1.12", "1.41"),
        ("1.52", "1.44", "1.44"),
        ("1.43", "1.24", "1.43"),
        ("1.60", "1.51", "1.51"),
    ] {
        let fake = Fake::start(move |request| match request {
            "GET /version" => versions(newest, oldest),
            request if request.contains("/containers/json") => answer(&json!([])),
            _ => refusal(404, "nothing here"),
        });
        let runtime = open(&fake);
        assert_eq!(runtime.list().await.unwrap(), []);
        runtime.foreign().await.unwrap();
        let asked = fake.asked();
        let prefix = format!("GET /v{wanted}/");
        assert!(asked[1..].iter().all(|request| request.starts_with(&prefix)), "{asked:?}");
        assert_eq!(fake.count("GET /version"), 1, "{asked:?}");
    }
}

#[tokio::test]
async fn an_engine_that_is_too_old_is_refused_by_its_version() {
    let fake = Fake::start(|_| versions("1.24", "1.12"));
    for (call, error) in all_errors(&open(&fake)).await {
        let RuntimeError::Refused(why) = error else { panic!("{call}: {error:?}") };
        assert!(why.contains("1.24") && why.contains("1.41"), "{why}");
    }
    let fake = Fake::start(|_| answer(&json!({ "ApiVersion": "banana" })));
    let error = open(&fake).list().await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Refused(why) if why.contains("banana")), "{error:?}");
}

#[tokio::test]
async fn no_engine_garbage_and_an_engine_that_never_answers_are_unavailable_in_time() {
    for reply in [
        Reply::Stalled(Vec::new()),
        Reply::Stalled(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"Api".to_vec()),
        Reply::Stalled(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()),
        Reply::Json(200, "<html>".to_owned()),
        Reply::Json(500, "broken".to_owned()),
        Reply::Broken(vec![b"{".to_vec()]),
    ] {
        let fake = Fake::start(move |_| reply.clone());
        let runtime = open(&fake);
        all_unavailable(all_errors(&runtime).await);
        let id = within("an id", BOUND, runtime.engine_id()).await.unwrap_err();
        all_unavailable(vec![("engine_id", id)]);
    }
    let fake = Fake::start(|_| answer(&json!({})));
    std::fs::remove_file(fake.socket()).unwrap();
    all_unavailable(all_errors(&open(&fake)).await);
}

#[tokio::test]
async fn an_engine_that_falls_silent_after_the_greeting_leaves_effects_unknown() {
    for silent in [Reply::Stalled(Vec::new()), Reply::Broken(vec![b"{\"Id".to_vec()])] {
        let effects = silent.clone();
        let fake = engine(move |request| {
            let effect = request.starts_with("POST") || request.starts_with("DELETE");
            effect.then(|| effects.clone())
        });
        let (runtime, key) = (open(&fake), key("ceo", 1));
        let started = within("a start", BOUND, runtime.ensure_started(&start(&key))).await;
        assert!(matches!(started, Err(RuntimeError::Unknown(_))), "{started:?}");
        for grace in [Duration::ZERO, Duration::from_millis(5)] {
            let stopped = within("a stop", BOUND, runtime.ensure_stopped(&key, grace)).await;
            assert!(matches!(stopped, Err(RuntimeError::Unknown(_))), "{stopped:?}");
        }
        let removed = within("a removal", BOUND, runtime.remove(&key)).await;
        assert!(matches!(removed, Err(RuntimeError::Unknown(_))), "{removed:?}");

        if matches!(silent, Reply::Broken(_)) {
            continue; // a stream that breaks later has begun all the same
        }
        let looks = silent.clone();
        let fake = engine(move |request| {
            let greeting = request == "GET /version" || request.ends_with("/info");
            (!greeting).then(|| looks.clone())
        });
        let errors = all_errors(&open(&fake)).await;
        all_unavailable(errors);
    }
}

#[tokio::test]
async fn opening_needs_no_engine_and_it_is_found_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("later");
    let runtime = DockerRuntime::open(options(&socket, dir.path(), OURS, "agent:1")).unwrap();
    assert!(matches!(runtime.list().await, Err(RuntimeError::Unavailable(_))));
    assert!(runtime.unenforced()[0].contains("not known"));
    let fake = engine(|_| None);
    std::os::unix::fs::symlink(fake.socket(), &socket).unwrap();
    assert_eq!(runtime.list().await.unwrap(), []);
    assert_eq!(runtime.unenforced(), [""; 0]);
    assert_eq!(runtime.engine_id().await.unwrap(), "docker:fake");
    for bad in ["credentials", "./credentials"] {
        let relative = Options { credentials_dir: bad.into(), ..options(&socket, dir.path(), OURS, "a") };
        assert!(matches!(DockerRuntime::open(relative), Err(OpenError::Relative(_))));
    }
}

#[tokio::test]
async fn an_engine_that_is_only_asked_gets_no_directory_and_no_change() {
    let fake = engine(|request| {
        let image = request == "GET /v1.41/images/agent/json";
        let found = if image { answer(&json!({ "Id": "x" })) } else { refusal(404, "No such image") };
        request.contains("/images/").then_some(found)
    });
    let asked = DockerEngine::at(fake.socket(), CALL).unwrap();
    asked.ping().await.unwrap();
    assert_eq!(asked.id().await.unwrap(), "docker:fake");
    assert!(asked.has_image("agent").await.unwrap() && !asked.has_image("other").await.unwrap());
    let socket_alone: Vec<_> = std::fs::read_dir(fake.dir.path()).unwrap().collect();
    assert_eq!(socket_alone.len(), 1, "{socket_alone:?}");
    assert!(fake.asked().iter().all(|request| request.starts_with("GET ")), "{:?}", fake.asked());

    let fake = Fake::start(|_| Reply::Stalled(Vec::new()));
    let asked = DockerEngine::at(fake.socket(), CALL).unwrap();
    let silent = within("a ping", BOUND, asked.ping()).await;
    assert!(matches!(silent, Err(RuntimeError::Unavailable(_))), "{silent:?}");
    assert!(matches!(DockerEngine::at("s".into(), CALL), Err(OpenError::Relative(_))));
}

#[tokio::test]
async fn a_directory_that_is_not_fit_for_credentials_is_refused_at_the_opening() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir.path().join("s"), dir.path(), OURS, "agent:1");
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &options.credentials_dir).unwrap();
    let named = options.credentials_dir.display().to_string();
    let Err(error) = DockerRuntime::open(options) else { panic!("it was opened") };
    assert!(matches!(error, OpenError::Unfit { .. }) && error.to_string().contains(&named), "{error}");
}

#[tokio::test]
async fn an_engine_that_was_replaced_is_asked_for_its_version_again() {
    let newer = Arc::new(AtomicBool::new(false));
    let replaced = Arc::clone(&newer);
    let fake = Fake::start(move |request| match (request, replaced.load(Ordering::SeqCst)) {
        ("GET /version", false) => versions("1.41", "1.12"),
        ("GET /version", true) => versions("1.50", "1.44"),
        (old, true) if old.contains("/v1.41/") => {
            refusal(400, "client version 1.41 is too old. Minimum 1.44")
        }
        (list, _) if list.contains("/containers/json") => answer(&json!([])),
        _ => refusal(404, "nothing here"),
    });
    let runtime = open(&fake);
    runtime.list().await.unwrap();
    newer.store(true, Ordering::SeqCst);
    assert!(matches!(runtime.list().await, Err(RuntimeError::Unavailable(_))));
    runtime.list().await.unwrap();
    assert!(fake.asked().last().unwrap().starts_with("GET /v1.44/"), "{:?}", fake.asked());
}

#[tokio::test]
async fn a_removal_that_somebody_else_began_is_waited_for() {
    let looks = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&looks);
    let fake = engine(move |request| {
        if request.starts_with("DELETE") {
            return Some(refusal(409, "removal of container x is already in progress"));
        }
        let look = request.starts_with(&format!("GET /v1.41/containers/{ID}/json"));
        (look && seen.fetch_add(1, Ordering::SeqCst) > 1).then(|| refusal(404, "No such container: x"))
    });
    within("a removal", SOON, open(&fake).remove(&key("ceo", 1))).await.unwrap();
    assert!(looks.load(Ordering::SeqCst) > 2);
}

#[tokio::test]
async fn a_container_that_was_never_started_is_removed_by_a_stop() {
    let gone = Arc::new(AtomicBool::new(false));
    let removed = Arc::clone(&gone);
    let fake = engine(move |request| {
        if request.starts_with("DELETE") {
            removed.store(true, Ordering::SeqCst);
            return Some(Reply::Json(204, String::new()));
        }
        request.contains("/json").then(|| {
            if removed.load(Ordering::SeqCst) { refusal(404, "x") } else { answer(&container("created", 0)) }
        })
    });
    let stopped = open(&fake).ensure_stopped(&key("ceo", 1), Duration::from_secs(1)).await.unwrap();
    assert_eq!(stopped, Stopped::NotThere);
    assert!(gone.load(Ordering::SeqCst));
}

#[tokio::test]
async fn hints_end_when_the_stream_breaks_and_can_be_asked_for_again() {
    let event = b"{\"Type\":\"container\",\"Action\":\"die\"}\n".to_vec();
    let fake = engine(move |request| {
        request.starts_with("GET /v1.41/events").then(|| Reply::Broken(vec![event.clone()]))
    });
    let runtime = open(&fake);
    for _ in 0..2 {
        let hints: Vec<Hint> =
            within("the end of the hints", SOON, runtime.watch().await.unwrap().collect()).await;
        assert_eq!(hints, [Hint]);
    }
}
