//! What a container is given, what it may, and what the engine shows of it.

use std::{fs, os::unix::fs::MetadataExt as _, time::Duration};

use aito_contracts::{
    runtime::{READY, SOON, ended, key, printed},
    wait::until,
};
use aito_domain::{
    agent::Exit,
    ports::runtime::{ContainerRuntime, Secret, Started, Stopped},
    spec::{Limits, Mount},
};
use serde_json::json;

use crate::support::fixture::{Fixture, SLEEP, USER};

#[tokio::test]
async fn limits_and_confinement_are_what_the_engine_shows() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let mut start = fixture.script(&key, SLEEP);
    start.spec.limits =
        Limits { memory_bytes: Some(64 << 20), cpu_millis: Some(250), pids: Some(32), open_files: Some(77) };
    fixture.runtime.ensure_started(&start).await.unwrap();
    let shown = fixture.inspect(&key);
    let host = &shown["HostConfig"];
    for (field, wanted) in [
        ("Memory", json!(64 << 20)),
        ("MemorySwap", json!(64 << 20)),
        ("NanoCpus", json!(250_000_000)),
        ("PidsLimit", json!(32)),
        ("Ulimits", json!([{ "Name": "nofile", "Soft": 77, "Hard": 77 }])),
        ("CapDrop", json!(["ALL"])),
        ("CapAdd", json!(null)),
        ("SecurityOpt", json!(["no-new-privileges"])),
        ("Privileged", json!(false)),
        ("ReadonlyRootfs", json!(true)),
        ("Init", json!(false)),
        ("Tmpfs", json!({ "/tmp": "rw,nosuid,nodev,noexec,size=64m,mode=1777,uid=65532,gid=65532" })),
        ("LogConfig", json!({ "Type": "json-file", "Config": { "max-size": "10m", "max-file": "2" } })),
        ("RestartPolicy", json!({ "Name": "no", "MaximumRetryCount": 0 })),
    ] {
        assert_eq!(host[field], wanted, "{field}");
    }
    let config = &shown["Config"];
    assert_eq!((&config["StopSignal"], &config["Tty"]), (&json!("SIGTERM"), &json!(false)));
    assert_eq!(config["User"], format!("{USER}:{USER}"));
    assert_eq!(
        config["Labels"],
        json!({ "aito.installation": fixture.installation.to_string(), "aito.agent": key.agent_id.to_string(),
                "aito.type": "ceo", "aito.incarnation": "1", "aito.managed": "true" })
    );
    assert_eq!(fixture.runtime.unenforced(), [""; 0]);
}

#[tokio::test]
async fn the_agent_is_nobody_reads_only_and_gains_nothing() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let script = "id -u; id -g; touch /x 2>/dev/null || echo root is read-only
        touch /run/aito/servers/x 2>/dev/null || echo sockets are read-only
        echo x 2>/dev/null >> /etc/aito/profile.md || echo profile is read-only
        echo 'echo no' > /tmp/p; chmod +x /tmp/p; /tmp/p 2>/dev/null || echo tmp runs nothing
        grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status | tr -d '\\t'";
    fixture.run(&key, script).await;
    assert_eq!(ended(&*fixture.runtime, &key).await, Exit::Code(0));
    assert_eq!(
        fixture.texts(&key).await,
        [
            "65532",
            "65532",
            "root is read-only",
            "sockets are read-only",
            "profile is read-only",
            "tmp runs nothing",
            "CapEff:0000000000000000",
            "CapBnd:0000000000000000",
            "NoNewPrivs:1",
        ]
    );
}

#[tokio::test]
async fn the_credential_is_in_its_file_alone_until_the_agent_has_read_it() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let script = format!("until [ -e /tmp/go ] || [ -e /run/aito/servers/go ]; do sleep 0.05; done
        cat $AGENT_CREDENTIAL_FILE; echo; rm $AGENT_CREDENTIAL_FILE; ls -a /run/aito/agent; echo {READY}; {SLEEP}");
    let mut start = fixture.script(&key, &script);
    start.credential = Secret("a-very-secret-credential".to_owned());
    start.socket_dir = fixture.dir.path().join("sockets");
    fs::create_dir(&start.socket_dir).unwrap();
    fixture.runtime.ensure_started(&start).await.unwrap();

    let file = fixture.credential(&key);
    assert_eq!(fs::read_to_string(&file).unwrap(), "a-very-secret-credential");
    for (path, mode) in [(file.as_path(), 0o400), (file.parent().unwrap(), 0o700)] {
        let there = fs::metadata(path).unwrap();
        assert_eq!(
            (there.mode() & 0o777, there.uid(), there.gid()),
            (mode, USER, USER),
            "{}",
            path.display()
        );
    }
    let shown = fixture.inspect(&key);
    assert!(!shown.to_string().contains("very-secret"), "{shown}");

    fs::write(start.socket_dir.join("go"), "").unwrap();
    printed(&*fixture.runtime, &key, READY).await;
    assert_eq!(fixture.texts(&key).await, ["a-very-secret-credential", ".", "..", READY]);
    assert!(!file.exists());
    // Asked again, the server does not put it back.
    assert_eq!(fixture.runtime.ensure_started(&start).await.unwrap(), Started::AlreadyRunning);
    assert!(!file.exists());
    fixture.runtime.remove(&key).await.unwrap();
    assert_eq!(fs::read_dir(fixture.dir.path().join("credentials")).unwrap().count(), 0);
}

#[tokio::test]
async fn mounts_profile_and_sockets_are_where_they_are_said_to_be() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let dir = |name: &str, file: &str| {
        let dir = fixture.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(file), format!("{name} {file}\n")).unwrap();
        dir
    };
    let script = "cat $PROFILE_PATH $AGENT_PROFILE; ls $ORCHESTRATOR_SOCKET_DIR; cat /data/file
        touch /data/x 2>/dev/null || echo data is read-only";
    let mut start = fixture.script(&key, script);
    start.spec.profile = dir("profiles", "ceo.md").join("ceo.md");
    start.socket_dir = dir("sockets", "server.sock");
    start.spec.mounts = vec![Mount { source: dir("data", "file"), target: "/data".into(), read_only: true }];
    fixture.runtime.check(&start.spec).await.unwrap();
    fixture.runtime.ensure_started(&start).await.unwrap();
    assert_eq!(ended(&*fixture.runtime, &key).await, Exit::Code(0));
    let wanted = ["profiles ceo.md", "profiles ceo.md", "server.sock", "data file", "data is read-only"];
    assert_eq!(fixture.texts(&key).await, wanted);
}

#[tokio::test]
async fn who_uses_too_much_memory_is_killed_and_too_many_processes_are_not_made() {
    let fixture = Fixture::new();
    let (hog, forks) = (key("ceo", 1), key("dao", 1));
    let mut start = fixture.script(&hog, "exec tail /dev/zero");
    start.spec.limits = Limits { memory_bytes: Some(16 << 20), ..Limits::default() };
    fixture.runtime.ensure_started(&start).await.unwrap();
    let mut start = fixture.script(&forks, "for n in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; echo all");
    start.spec.limits = Limits { pids: Some(5), ..Limits::default() };
    fixture.runtime.ensure_started(&start).await.unwrap();
    assert_eq!(ended(&*fixture.runtime, &hog).await, Exit::Signal(9));
    assert_ne!(ended(&*fixture.runtime, &forks).await, Exit::Code(0));
    assert!(!fixture.texts(&forks).await.contains(&"all".to_owned()));
}

#[tokio::test]
async fn statistics_count_processes_and_processor_time() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let script =
        format!("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 3600 & echo {READY}; {SLEEP}");
    fixture.run(&key, &script).await;
    printed(&*fixture.runtime, &key, READY).await;
    let stats = until("two processes", SOON, async || {
        fixture.runtime.stats(&key).await.unwrap().filter(|stats| stats.processes == 2)
    })
    .await;
    assert!(stats.cpu > Duration::from_millis(20) && stats.cpu < SOON, "{stats:?}");
    assert!((10_000..64 << 20).contains(&stats.memory_bytes), "{stats:?}");
    let stopped = fixture.runtime.ensure_stopped(&key, Duration::ZERO).await.unwrap();
    assert_eq!(stopped, Stopped::Ended(Exit::Signal(9)));
    assert_eq!(fixture.runtime.stats(&key).await.unwrap(), None);
}
