//! Starts that fail at the engine or at their network.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use aito_contracts::runtime::{key, start};
use aito_domain::{
    agent::Exit,
    ports::runtime::{ContainerRuntime, RuntimeError, Started},
};
use serde_json::json;

use crate::{
    ID, container, engine, network, open,
    support::fake::{Fake, Reply, answer, refusal},
};

#[tokio::test]
async fn a_start_is_two_calls_and_what_runs_already_is_no_error() {
    let running = Arc::new(AtomicBool::new(false));
    let already = Arc::clone(&running);
    let fake = engine(move |request| {
        let again = already.load(Ordering::SeqCst) && request.ends_with("/start");
        again.then(|| Reply::Json(304, String::new()))
    });
    let (runtime, first) = (open(&fake), key("ceo", 1));
    assert_eq!(runtime.ensure_started(&start(&first)).await.unwrap(), Started::Now);
    let before = fake.asked().len();
    assert_eq!(runtime.ensure_started(&start(&key("ceo", 2))).await.unwrap(), Started::Now);
    let asked = fake.asked().split_off(before);
    assert_eq!(asked.len(), 2, "{asked:?}");
    running.store(true, Ordering::SeqCst);
    assert_eq!(runtime.ensure_started(&start(&first)).await.unwrap(), Started::AlreadyRunning);
}

/// What the directory of the credentials holds.
fn places(fake: &Fake) -> usize {
    std::fs::read_dir(fake.dir.path().join("credentials")).unwrap().count()
}

#[tokio::test]
async fn a_start_that_the_engine_fails_at_is_refused_with_its_words_and_leaves_nothing() {
    let full = "write /var/lib/docker/x: no space left on device";
    let cgroup = "OCI runtime create failed: unable to apply cgroup configuration: unknown";
    // What fails, with which words, and what the look after it finds.
    for (call, words, status) in [
        ("/create?", full, None),
        ("/create?", full, Some("created")),
        ("/start", cgroup, None),
        ("/start", cgroup, Some("created")),
        ("/start", cgroup, Some("exited")),
    ] {
        let fake = engine(move |request| {
            if request.contains(call) {
                return Some(refusal(500, words));
            }
            if request.starts_with("DELETE") {
                return Some(Reply::Json(204, String::new()));
            }
            let look = request.starts_with("GET /v1.41/containers/") && request.ends_with("/json");
            look.then(|| {
                status.map_or(refusal(404, "No such container"), |status| answer(&container(status, 128)))
            })
        });
        let started = open(&fake).ensure_started(&start(&key("ceo", 1))).await;
        assert!(
            matches!(&started, Err(RuntimeError::Refused(why)) if why.contains(words)),
            "{call} {status:?}: {started:?}"
        );
        let removed = fake.count(&format!("DELETE /v1.41/containers/{ID}"));
        assert_eq!((removed, places(&fake)), (usize::from(status.is_some()), 0), "{call} {status:?}");
    }
}

#[tokio::test]
async fn a_start_that_the_engine_calls_failed_is_taken_for_what_the_look_finds() {
    let ended = Started::AlreadyEnded(Exit::Code(3));
    for (call, status, wanted) in [
        ("/create?", "running", Some(Started::AlreadyRunning)),
        ("/create?", "exited", Some(ended)),
        ("/create?", "removing", None),
        ("/start", "running", Some(Started::Now)),
        ("/start", "removing", None),
    ] {
        let fake = engine(move |request| {
            if request.contains(call) {
                return Some(refusal(500, "context canceled"));
            }
            let look = request.starts_with("GET /v1.41/containers/") && request.ends_with("/json");
            look.then(|| answer(&container(status, 3)))
        });
        match (open(&fake).ensure_started(&start(&key("ceo", 1))).await, wanted) {
            (Ok(started), Some(wanted)) => assert_eq!(started, wanted, "{call} {status}"),
            (Err(RuntimeError::Unknown(_)), None) => {}
            (other, _) => panic!("{call} {status}: {other:?}"),
        }
        assert_eq!((fake.count("DELETE"), places(&fake)), (0, 1), "{call} {status}");
    }
    // Where the look fails as well, or a gateway speaks for the engine, nobody knows.
    for (call, code) in [("/create?", 500), ("/start", 500), ("/create?", 504), ("/start", 504)] {
        let fake = engine(move |request| {
            let look = code == 500 && request.starts_with("GET /v1.41/containers/");
            (look || request.contains(call)).then(|| refusal(code, "broken"))
        });
        let started = open(&fake).ensure_started(&start(&key("ceo", 1))).await;
        assert!(matches!(started, Err(RuntimeError::Unknown(_))), "{call} {code}: {started:?}");
        assert_eq!((fake.count("DELETE"), places(&fake)), (0, 1), "{call} {code}");
    }
}

#[tokio::test]
async fn a_network_that_disappeared_is_made_anew_and_the_container_too() {
    let failures = Arc::new(AtomicUsize::new(1));
    let left = Arc::clone(&failures);
    let fake = engine(move |request| {
        if request.ends_with("/start") && left.swap(0, Ordering::SeqCst) == 1 {
            return Some(refusal(404, "network net1 not found"));
        }
        request.starts_with("DELETE").then(|| Reply::Json(204, String::new()))
    });
    let (runtime, key) = (open(&fake), key("ceo", 1));
    assert_eq!(runtime.ensure_started(&start(&key)).await.unwrap(), Started::Now);
    assert_eq!(fake.count(&format!("DELETE /v1.41/containers/{ID}")), 1);
    assert_eq!((fake.count("POST /v1.41/containers/create"), fake.count("GET /v1.41/networks")), (2, 2));
}

#[tokio::test]
async fn of_racing_networks_the_oldest_is_kept_and_only_the_own_later_one_removed() {
    let looks = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&looks);
    let fake = engine(move |request| match request {
        list if list.starts_with("GET /v1.41/networks") => {
            if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                return Some(answer(&json!([])));
            }
            let mut both = network();
            let mut later = both[0].clone();
            later["Id"] = json!("net2");
            later["Created"] = json!("2026-01-02T00:00:00Z");
            both.as_array_mut().unwrap().insert(0, later);
            Some(answer(&both))
        }
        "POST /v1.41/networks/create" => Some(Reply::Json(201, json!({ "Id": "net2" }).to_string())),
        "DELETE /v1.41/networks/net2" => Some(Reply::Json(204, String::new())),
        _ => None,
    });
    open(&fake).ensure_started(&start(&key("ceo", 1))).await.unwrap();
    let removed: Vec<_> = fake.asked().into_iter().filter(|request| request.starts_with("DELETE")).collect();
    assert_eq!(removed, ["DELETE /v1.41/networks/net2"]);
}

#[tokio::test]
async fn a_foreign_network_of_that_name_is_a_conflict() {
    let fake = engine(|request| {
        let mut foreign = network();
        foreign[0]["Labels"] = json!({});
        request.starts_with("GET /v1.41/networks").then(|| answer(&foreign))
    });
    let error = open(&fake).ensure_started(&start(&key("ceo", 1))).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Conflict(why) if why.contains("network")), "{error:?}");
    assert_eq!(fake.count("POST"), 0);
}
