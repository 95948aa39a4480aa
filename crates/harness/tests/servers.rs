//! The private servers do what tests rely on: they come back after a crash, do not disturb each other, and leave
//! nothing behind.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use aito_harness::{
    engine, image,
    processes::{self, signal},
    servers::{Engine, Postgres, Redis},
    wait,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Any program does where an image wants one that no container of these tests runs.
const BUSYBOX: &str = "/bin/busybox";

/// What there is of a server, looked for in every place where it could be.
fn remains(dir: &Path) -> Vec<String> {
    let here = dir.display().to_string();
    let own = std::process::id();
    let of_processes = processes::all().into_iter().filter(|process| {
        process.pid != own && process.args.iter().chain(process.env.values()).any(|text| text.contains(&here))
    });
    let mut found: Vec<String> =
        of_processes.map(|process| format!("process {}: {:?}", process.pid, process.args)).collect();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&here)).map(|line| format!("mount {line}")));
    let name = dir.file_name().unwrap();
    let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let groups = groups.chain([PathBuf::from("/sys/fs/cgroup")]).map(|parent| parent.join(name));
    found.extend(groups.filter(|group| group.exists()).map(|group| format!("group {}", group.display())));
    if dir.exists() {
        found.push(format!("directory {here}"));
    }
    found
}

fn assert_gone(dir: &Path) {
    assert_eq!(remains(dir), Vec::<String>::new());
}

async fn until_gone(dir: &Path) {
    let mut last = Vec::new();
    let gone = async || {
        last = remains(dir);
        last.is_empty().then_some(())
    };
    wait::until(&format!("everything of {} to be gone", dir.display()), wait::SOON, gone).await;
}

fn sql(server: &Postgres, statement: &str) -> Result<String, String> {
    let mut psql = Command::new(server.bin().join("psql"));
    psql.args([&server.url("postgres"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]);
    let done = psql.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}

#[test]
fn postgres_comes_back_after_a_crash_with_its_data_and_leaves_nothing() {
    let mut server = Postgres::start(false);
    let dir = server.dir().to_owned();
    sql(&server, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").unwrap();
    let url = server.url("postgres");
    let mut waiting = Command::new(server.bin().join("psql"));
    let mut waiting =
        waiting.args([&url, "-X", "-c", "SELECT pg_sleep(600)"]).stderr(Stdio::null()).spawn().unwrap();

    server.kill();
    assert!(!waiting.wait().unwrap().success(), "its connection is gone");
    assert!(sql(&server, "SELECT 1").is_err(), "it is down");
    server.start_again();
    assert_eq!(sql(&server, "SELECT n FROM kept").unwrap(), "7");
    server.stop();
    server.start_again();
    assert_eq!(sql(&server, "SELECT n FROM kept").unwrap(), "7");
    assert_eq!(server.url("postgres"), url);
    drop(server);
    assert_gone(&dir);
}

#[test]
fn two_postgres_servers_are_two() {
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| Postgres::start(false));
        (Postgres::start(true), one.join().unwrap())
    });
    assert_ne!(one.port(), other.port());
    let url = one.database("mine");
    assert!(url.ends_with("/mine"), "{url}");
    assert_eq!(sql(&other, "SELECT count(*) FROM pg_database WHERE datname = 'mine'").unwrap(), "0");
    let dirs = [one.dir().to_owned(), other.dir().to_owned()];
    drop((one, other));
    dirs.iter().for_each(|dir| assert_gone(dir));
}

fn redis(port: u16, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn redis_comes_back_after_a_crash_and_leaves_nothing() {
    let mut server = Redis::start();
    let other = Redis::start();
    redis(server.port(), "SET a 1").unwrap();
    assert!(redis(other.port(), "GET a").unwrap().starts_with("$-1"), "two servers are two");
    server.kill();
    assert!(redis(server.port(), "GET a").is_err(), "it is down");
    server.start_again();
    assert!(redis(server.port(), "GET a").unwrap().starts_with("$-1"), "nothing was kept");
    let dirs = [server.dir().to_owned(), other.dir().to_owned()];
    drop((server, other));
    dirs.iter().for_each(|dir| assert_gone(dir));
}

fn runs(pid: u32) -> bool {
    processes::one(pid).is_some()
}

/// Calls an engine and gives its answer, which must be a success.
fn call(socket: &Path, method: &str, path: &str, body: Option<Value>) -> Value {
    let answer = engine::call(socket, method, path, body.as_ref());
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.json());
    answer.json()
}

/// Starts a container of the tests' image.
fn run(socket: &Path, name: &str, command: &[&str]) {
    let body = json!({ "Image": "aito-test:latest", "Entrypoint": command, "Labels": { "tests.of": name } });
    call(socket, "POST", &format!("/containers/create?name={name}"), Some(body));
    call(socket, "POST", &format!("/containers/{name}/start"), None);
}

/// State, process and exit code of a container.
fn state(socket: &Path, name: &str) -> (String, u32, i64) {
    let state = call(socket, "GET", &format!("/containers/{name}/json"), None)["State"].clone();
    let pid = u32::try_from(state["Pid"].as_u64().unwrap()).unwrap();
    (state["Status"].as_str().unwrap().to_owned(), pid, state["ExitCode"].as_i64().unwrap())
}

/// The process of a container that runs.
fn running(socket: &Path, name: &str) -> u32 {
    let (state, pid, _) = state(socket, name);
    assert!(state == "running" && runs(pid), "{name} is {state}, its process {pid}");
    pid
}

#[test]
fn engine_comes_back_after_a_crash_that_its_containers_outlive_and_leaves_nothing() {
    let mut engine = Engine::start();
    let (dir, socket) = (engine.dir().to_owned(), engine.socket());
    image::test_image(&socket, Path::new(BUSYBOX));
    run(&socket, "one", &["sleep", "600"]);
    let pid = running(&socket, "one");
    engine.kill();
    assert!(runs(pid), "the container lives on");
    assert!(UnixStream::connect(&socket).is_err(), "it is down");
    engine.start_again();
    let (after, ..) = state(&socket, "one");
    assert_ne!(after, "running", "an engine without live restore ends what its predecessor had");
    assert!(!runs(pid));
    call(&socket, "DELETE", "/containers/one", None);
    engine.stop();
    engine.start_again();

    // Killed for good, with a container that nobody but the engine knew.
    run(&socket, "two", &["sleep", "600"]);
    let pid = running(&socket, "two");
    engine.kill();
    assert!(runs(pid), "the container lives on");
    drop(engine);
    assert!(!runs(pid), "the container is gone with its engine");
    assert_gone(&dir);
}

#[test]
fn engine_with_live_restore_takes_its_containers_up_again() {
    let mut engine = Engine::start_with(&["--live-restore"]);
    let socket = engine.socket();
    image::test_image(&socket, Path::new(BUSYBOX));
    run(&socket, "one", &["sleep", "600"]);
    let pid = running(&socket, "one");
    engine.kill();
    engine.start_again();
    assert_eq!(running(&socket, "one"), pid);
    engine.stop();
    assert!(runs(pid), "an end in order spares it too");
    let dir = engine.dir().to_owned();
    drop(engine);
    assert!(!runs(pid));
    assert_gone(&dir);
}

/// What a program prints on the network of an engine, or without one on that of this machine.
fn said(engine: Option<&Engine>, program: &str, argument: &str) -> String {
    let mut command = engine.map_or_else(|| Command::new(program), |engine| engine.in_its_network(program));
    let done = command.arg(argument).output().unwrap();
    assert!(done.status.success(), "{program}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// The packet filter of an engine's network, without comments and counters.
fn rules(engine: &Engine) -> Vec<String> {
    let all = said(Some(engine), "iptables-save", "--table=filter");
    all.lines().filter(|line| line.starts_with('-')).map(str::to_owned).collect()
}

#[test]
fn engines_side_by_side_do_not_see_each_other() {
    let one = Engine::start();
    image::test_image(&one.socket(), Path::new(BUSYBOX));
    // Every engine that starts empties the chains in which this network's isolation stands.
    let network = json!({ "Name": "n", "Internal": true });
    call(&one.socket(), "POST", "/networks/create", Some(network.clone()));
    run(&one.socket(), "same-name", &["sleep", "600"]);
    let before = rules(&one);
    assert!(
        before.iter().any(|rule| rule.contains("DOCKER-ISOLATION") && rule.contains("br-")),
        "{before:?}"
    );

    let other = Engine::start();
    assert!(engine::all_containers(&other.socket(), "tests.of=same-name").is_empty());
    image::test_image(&other.socket(), Path::new(BUSYBOX));
    call(&other.socket(), "POST", "/networks/create", Some(network));
    run(&other.socket(), "same-name", &["sleep", "600"]);
    let dir = other.dir().to_owned();
    drop(other);
    assert_gone(&dir);

    assert_eq!(rules(&one), before, "another engine's start and end are not noticed");
    running(&one.socket(), "same-name");
    let bridge = |engine| said(engine, "cat", "/proc/net/dev");
    let of_engine = bridge(Some(&one));
    let name =
        of_engine.lines().find_map(|line| line.trim().split(':').next().filter(|n| n.starts_with("br-")));
    assert!(!bridge(None).contains(name.unwrap()), "its bridges are not this machine's");
    let dir = one.dir().to_owned();
    drop(one);
    assert_gone(&dir);
}

#[test]
fn images_hold_what_they_are_made_of() {
    let engine = Engine::start();
    let socket = engine.socket();
    let id = image::test_image(&socket, Path::new(BUSYBOX));
    for name in image::TEST_IMAGES {
        let made = call(&socket, "GET", &format!("/images/{name}/json"), None);
        assert_eq!(made["Id"], json!(id), "{name}");
        assert_eq!(made["Config"]["Entrypoint"], json!(["/aito", "agent"]));
    }
    for (name, command, code) in [
        ("links", "[ -x /aito ] && [ \"$(readlink /bin/wget)\" = busybox ] && env | grep -q ^PATH=/bin$", 0),
        ("writes", "echo x > /tmp/y && mv /tmp/y /tmp/z && cat /tmp/z && exit 7", 7),
        ("fails", "false", 1),
    ] {
        run(&socket, name, &["sh", "-c", command]);
        call(&socket, "POST", &format!("/containers/{name}/wait"), None);
        assert_eq!(state(&socket, name), ("exited".to_owned(), 0, code), "{name}");
    }
    let alone = image::agent_image(&socket, Path::new(BUSYBOX), "of.an/agent:7");
    let made = call(&socket, "GET", "/images/of.an/agent:7/json", None);
    assert_eq!((&made["Id"], &made["Config"]["Entrypoint"]), (&json!(alone), &json!(["/aito", "agent"])));
    assert_eq!(
        made["Size"].as_u64().unwrap(),
        fs::metadata(BUSYBOX).unwrap().len(),
        "nothing but the program"
    );
}

/// `aito-harness servers`, ready, and the directories of its servers.
struct Held {
    child: Child,
    variables: Vec<(String, String)>,
    dirs: Vec<PathBuf>,
}

fn held() -> Held {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aito-harness"));
    command.args(["servers", "--bin", BUSYBOX]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let lines: Vec<String> = lines.take_while(|line| line != "ready").collect();
    let variables =
        lines.iter().map(|line| line.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned()));
    let variables = variables.collect();
    // Each server has a guard, which is told its directory last.
    let guards = processes::all()
        .into_iter()
        .filter(|process| process.parent == child.id() && process.args.iter().any(|arg| arg == "aito-guard"));
    let dirs = guards.filter_map(|mut guard| guard.args.pop()).map(PathBuf::from).collect();
    let held = Held { child, variables, dirs };
    assert_eq!(held.dirs.len(), 3, "{:?}", held.dirs);
    held
}

#[test]
fn servers_of_a_run_end_with_the_input_of_their_holder() {
    let mut held = held();
    let value = |name: &str| held.variables.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let database = aito_harness::servers::create_database(&value("AITO_TEST_POSTGRES"), "made");
    assert!(database.starts_with("postgres://") && database.ends_with("/made"), "{database}");
    let port = value("AITO_TEST_REDIS").rsplit_once(':').unwrap().1.parse().unwrap();
    assert!(redis(port, "PING").unwrap().starts_with("+PONG"));
    let engine = PathBuf::from(value("AITO_TEST_ENGINE"));
    run(&engine, "one", &["sleep", "600"]);
    drop(held.child.stdin.take());
    assert!(held.child.wait().unwrap().success());
    held.dirs.iter().for_each(|dir| assert_gone(dir));
}

#[tokio::test]
async fn servers_of_a_run_end_when_their_holder_is_ended_by_a_signal_or_killed() {
    for number in [Signal::TERM, Signal::KILL] {
        let mut held = held();
        let (_, engine) = held.variables.iter().find(|(name, _)| name == "AITO_TEST_ENGINE").unwrap();
        let engine = Path::new(engine);
        run(engine, "one", &["sleep", "600"]);
        let pid = running(engine, "one");
        // Waiting for a child closes its input, which would end it as well.
        let _input = held.child.stdin.take();
        signal(held.child.id(), number);
        let status = held.child.wait().unwrap();
        if number == Signal::TERM {
            assert_eq!(status.code(), Some(128 + 15));
            held.dirs.iter().for_each(|dir| assert_gone(dir));
        }
        for dir in &held.dirs {
            until_gone(dir).await;
        }
        assert!(!runs(pid), "the container is gone too");
    }
}
