//! A start that cannot be is refused in one message; the data directory says whose it is.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use aito_harness::{Sandbox, Set, wait};

use crate::{SOON, sandbox};

fn refused(sandbox: &Sandbox, command: Command) -> String {
    let (status, out, errors) = sandbox.run(command);
    assert_eq!(status.code(), Some(1), "{out}\n{errors}");
    errors
}

fn serve(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = sandbox.serve();
    command.args(args);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_start_says_where_it_listens_what_it_keeps_and_that_processes_are_trusted() {
    let sandbox = sandbox(Set::Embedded);
    let server = sandbox.start().await;
    for part in [
        "http://127.0.0.1:",
        "--no-auth",
        sandbox.socket_dir().to_str().unwrap(),
        "aito.sqlite3",
        sandbox.data_dir().to_str().unwrap(),
        "runtime    process, because",
        "local processes are trusted as you are; votes are not protected from them",
    ] {
        assert!(server.said().contains(part), "\"{part}\" is missing in:\n{}", server.said());
    }
    assert!(server.said().lines().count() <= 12, "{}", server.said());
    let key = fs::metadata(sandbox.data_dir().join("installation.json")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_to_everybody_is_for_loopback_only() {
    let sandbox = sandbox(Set::Embedded);
    let mut command = sandbox.command();
    command.args(["serve", "--no-auth", "--listen", "0.0.0.0:0", "--data-dir"]).arg(sandbox.data_dir());
    assert!(refused(&sandbox, command).contains("loopback"));
    assert!(!sandbox.data_dir().exists(), "a refused start leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_data_names_the_first() {
    let sandbox = sandbox(Set::Embedded);
    let server = sandbox.start().await;
    let why = refused(&sandbox, sandbox.serve());
    assert!(why.contains(&format!("process {}", server.pid())), "{why}");
    assert!(why.contains(sandbox.data_dir().to_str().unwrap()), "{why}");
    // The first one is not disturbed.
    server.client().health().await.unwrap();
    server.kill();
    sandbox.start().await.client().health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let sandbox = sandbox(Set::Embedded);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = sandbox.command();
    command.args(["serve", "--no-auth", "--listen", &address, "--data-dir"]).arg(sandbox.data_dir());
    let why = refused(&sandbox, command);
    assert!(why.contains(&address) && why.contains("in use"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_used_is_named() {
    let sandbox = sandbox(Set::Embedded);
    fs::write(sandbox.data_dir(), "a file").unwrap();
    let why = refused(&sandbox, sandbox.serve());
    assert!(why.contains("not a directory"), "{why}");
    let mut command = sandbox.command();
    // Nobody, not even root, can make a directory there.
    command.args(["serve", "--no-auth", "--listen", "127.0.0.1:0", "--data-dir", "/proc/aito"]);
    let why = refused(&sandbox, command);
    assert!(why.contains("/proc/aito"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_configuration_names_key_source_and_what_is_allowed() {
    let sandbox = sandbox(Set::Embedded);
    sandbox.configure("lisen = \"x\"\n");
    let why = refused(&sandbox, sandbox.serve());
    assert!(why.contains("lisen") && why.contains("aito.toml") && why.contains("listen"), "{why}");
    sandbox.configure("[agents.ceo]\ngrace = 0\n");
    let why = refused(&sandbox, sandbox.serve());
    assert!(why.contains("agents.ceo.grace") && why.contains("1 to 3600"), "{why}");
    sandbox.configure("");
    let mut command = sandbox.serve();
    command.env("AITO_WORKERS", "many");
    let why = refused(&sandbox, command);
    assert!(why.contains("workers") && why.contains("AITO_WORKERS"), "{why}");
    let mut command = serve(&sandbox, &["--runtime", "docker"]);
    command.env("DOCKER_HOST", "tcp://10.0.0.1:2375");
    let why = refused(&sandbox, command);
    assert!(why.contains("docker.host") && why.contains("unix://"), "{why}");
    let mut command = sandbox.serve();
    command.env("DATABASE_URL", "mysql://user:hunter2@localhost/x");
    let why = refused(&sandbox, command);
    assert!(why.contains("DATABASE_URL") && why.contains("postgres://") && !why.contains("hunter2"), "{why}");
    assert!(!sandbox.data_dir().exists(), "a refused start leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_shown_with_sources_and_without_secrets() {
    let sandbox = sandbox(Set::Embedded);
    sandbox.configure("workers = 3\n[agents.ceo.secrets]\nKEY = { env = \"THE_KEY\" }\n");
    let mut command = sandbox.command();
    command.arg("config").arg("--config").arg(sandbox.config_file());
    command.env("THE_KEY", "hunter2").env("ORCHESTRATOR_PORT", "8099");
    let (status, out, errors) = sandbox.run(command);
    assert!(status.success(), "{errors}");
    for (key, value, source) in [
        ("workers", "3", "aito.toml"),
        ("listen", "127.0.0.1:8099", "ORCHESTRATOR_PORT"),
        ("runtime", "auto", "defaults"),
        ("agents.ceo.secrets.KEY", "*** (env:THE_KEY)", "aito.toml"),
        ("agents.dao.loop_interval", "14400", "defaults"),
    ] {
        let line = out.lines().find(|line| line.split(" = ").next().unwrap().trim() == key);
        let line = line.unwrap_or_else(|| panic!("{key} is missing in:\n{out}"));
        assert!(line.contains(&format!("= {value}  #")) && line.contains(source), "{line}");
    }
    assert!(!out.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_a_server_that_is_none_ends_the_start() {
    let sandbox = sandbox(Set::Embedded);
    for (name, value, part) in [
        ("DATABASE_URL", "postgres://user:hunter2@localhost/x?sslmode=prefer", "prefer"),
        ("REDIS_URL", "http://:hunter2@localhost", "redis://"),
        ("AITO_KEY_FILE", "/nowhere/key", "key_file"),
    ] {
        let mut command = sandbox.serve();
        command.env(name, value);
        let why = refused(&sandbox, command);
        assert!(why.contains(part) && !why.contains("hunter2"), "{name}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_is_chosen_once_with_its_reason() {
    let mut on_engine = sandbox(Set::Servers);
    on_engine.env.remove("AITO_RUNTIME");
    let server = on_engine.start().await;
    assert!(
        server.said().contains("runtime    docker, because a Docker engine answers"),
        "{}",
        server.said()
    );
    drop(server);
    // The engine has gone, and stays what it was chosen to be.
    let engine = on_engine.env.insert("DOCKER_HOST".into(), "unix:///nonexistent/docker.sock".into());
    let server = on_engine.start().await;
    assert!(server.said().contains("runtime    docker, because as at the first start"), "{}", server.said());
    drop(server);
    let why = refused(&on_engine, serve(&on_engine, &["--runtime", "process"]));
    assert!(why.contains("docker") && why.contains("process") && why.contains("first start"), "{why}");

    let mut without_image = sandbox(Set::Servers);
    without_image.env.remove("AITO_RUNTIME");
    without_image.env.insert("AITO_DOCKER__IMAGE".into(), "no-such-image:1".into());
    without_image.env.remove("DATABASE_URL");
    assert_eq!(without_image.env.get("DOCKER_HOST"), engine.as_ref());
    let server = without_image.start().await;
    let reason = "runtime    process, because the Docker engine has no image no-such-image:1";
    assert!(server.said().contains(reason), "{}", server.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_belong_together_is_not_served() {
    let sandbox = sandbox(Set::Embedded);
    sandbox.start().await.kill();
    let file = sandbox.data_dir().join("installation.json");
    let db = sandbox.data_dir().join("aito.sqlite3");
    let original = fs::read_to_string(&file).unwrap();

    fs::remove_file(&file).unwrap();
    assert!(refused(&sandbox, sandbox.serve()).contains("installation.json"));

    let other = crate::sandbox(Set::Embedded);
    other.start().await.kill();
    fs::copy(other.data_dir().join("installation.json"), &file).unwrap();
    assert!(refused(&sandbox, sandbox.serve()).contains("do not belong together"));

    fs::write(&file, &original).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&sandbox, sandbox.serve()).contains("chmod 600"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();

    let away = sandbox.root().join("away");
    fs::rename(&db, &away).unwrap();
    let why = refused(&sandbox, sandbox.serve());
    assert!(why.contains("aito.sqlite3") && why.contains("restore"), "{why}");
    assert!(!db.exists(), "nothing is begun anew over a lost store");
    fs::rename(&away, &db).unwrap();

    let server = sandbox.start().await;
    server.client().start("ceo").await.unwrap();
    server.kill();
    let whole = fs::read(&db).unwrap();
    let log = fs::read(sandbox.data_dir().join("aito.sqlite3-wal")).unwrap();
    fs::remove_file(sandbox.data_dir().join("aito.sqlite3-wal")).unwrap();
    fs::write(&db, "").unwrap();
    let why = refused(&sandbox, sandbox.serve());
    assert!(why.contains("is empty") && why.contains("restore"), "{why}");
    for extra in ["aito.sqlite3-wal", "aito.sqlite3-shm"] {
        let _ = fs::remove_file(sandbox.data_dir().join(extra));
    }
    fs::write(&db, whole).unwrap();
    fs::write(sandbox.data_dir().join("aito.sqlite3-wal"), log).unwrap();
    sandbox.start().await.client().health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_something_else_is_left_alone() {
    let sandbox = sandbox(Set::Embedded);
    sandbox.start().await.kill();
    let db = sandbox.data_dir().join("aito.sqlite3");
    for extra in ["aito.sqlite3-wal", "aito.sqlite3-shm"] {
        let _ = fs::remove_file(sandbox.data_dir().join(extra));
    }
    fs::write(&db, "this is a shopping list, not a database, and long enough to have a header of its own")
        .unwrap();
    let why = refused(&sandbox, sandbox.serve());
    assert!(why.contains("aito.sqlite3"), "{why}");
    assert!(fs::read_to_string(&db).unwrap().contains("shopping list"), "what is not ours stays as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_cut_short_does_not_spoil_the_next() {
    // Whatever moment it is killed at, the next start serves.
    for millis in [0, 5, 10, 20, 30, 40, 60, 80] {
        let sandbox = sandbox(Set::Embedded);
        let mut child = sandbox
            .serve()
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait::pass(std::time::Duration::from_millis(millis)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let server = sandbox.start().await;
        let client = server.client();
        wait::until("all agents", SOON, async || {
            (client.agents(None).await.ok()?.agents.len() == 7).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_workers_are_as_configured() {
    let sandbox = sandbox(Set::Embedded);
    sandbox.configure("workers = 3\n[log]\nformat = \"json\"\n");
    let server = sandbox.start().await;
    server.client().start("ceo").await.unwrap();
    let log = server.log();
    assert!(log.contains("starting 3 workers"), "{log}");
    for line in log.lines() {
        let entry: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        assert!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
    }
    server.kill();
    let other = crate::sandbox(Set::Embedded);
    other.configure("[log]\nfilter = \"error\"\n");
    let server = other.start().await;
    server.client().start("ceo").await.unwrap();
    assert_eq!(server.log(), "", "nothing went wrong");
}

/// Agents in containers are other users, and look for servers there.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_directory_that_is_made_is_open_whatever_the_mask_of_the_process() {
    let sandbox = sandbox(Set::Embedded);
    assert!(!sandbox.socket_dir().exists());
    let serve = sandbox.serve();
    let mut masked = Command::new("/bin/sh");
    masked.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(serve.get_program()).args(serve.get_args());
    masked.env_clear().current_dir(sandbox.root());
    masked.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = sandbox.start_as(masked).await;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&sandbox.socket_dir()), mode(&sandbox.socket())), (0o755, 0o666));
    assert_eq!(mode(&sandbox.data_dir().join("aito.sqlite3")), 0o600);
    assert!(server.stop().await.success());
}
