//! The program inside images that are made from nothing but itself.

use std::path::Path;

use aito_harness::{
    engine,
    servers::{self, Postgres, Redis},
    wait,
};
use serde_json::{Value, json};

use crate::SOON;

const IMAGE: &str = "aito-test:latest";

/// A network with containers that have names on it; all removed when dropped.
struct Company {
    engine: std::path::PathBuf,
    label: String,
    network: String,
}

impl Company {
    fn new(name: &str) -> Self {
        let engine = std::path::PathBuf::from(servers::address(servers::ENGINE));
        let label = format!("aito-test={name}");
        let body = json!({ "Name": name, "Labels": { "aito-test": name } });
        let made = engine::call(&engine, "POST", "/networks/create", Some(&body));
        assert_eq!(made.status, 201, "{}", made.json());
        Self { engine, label, network: name.to_owned() }
    }

    /// Starts a container that others of the network reach by this name.
    fn run(&self, name: &str, entrypoint: &[&str], env: &[String], binds: &[String]) {
        let body = json!({
            "Image": IMAGE,
            "Entrypoint": entrypoint,
            "Env": env,
            "Labels": { "aito-test": self.network },
            "HostConfig": { "NetworkMode": self.network, "Binds": binds },
            "NetworkingConfig": { "EndpointsConfig": { (self.network.clone()): { "Aliases": [name] } } },
        });
        let path = format!("/containers/create?name={}-{name}", self.network);
        let made = engine::call(&self.engine, "POST", &path, Some(&body));
        assert_eq!(made.status, 201, "{name}: {}", made.json());
        let path = format!("/containers/{}-{name}/start", self.network);
        let started = engine::call(&self.engine, "POST", &path, None);
        assert_eq!(started.status, 204, "{name}: {}", started.json());
    }

    fn inspect(&self, name: &str) -> Value {
        engine::call(&self.engine, "GET", &format!("/containers/{}-{name}/json", self.network), None).json()
    }

    fn log(&self, name: &str) -> String {
        let path = format!("/containers/{}-{name}/logs?stdout=1&stderr=1", self.network);
        String::from_utf8_lossy(&engine::call(&self.engine, "GET", &path, None).body).into_owned()
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        engine::sweep(&self.engine, &self.label);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_servers_are_resolved_inside_an_image_made_from_nothing() {
    let postgres = Postgres::start(false);
    postgres.database("aito");
    let unix = tempfile::tempdir().unwrap();
    std::fs::set_permissions(unix.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let redis_socket = unix.path().join("redis");
    let redis =
        Redis::start_with(&["--unixsocket", redis_socket.to_str().unwrap(), "--unixsocketperm", "777"]);
    let company = Company::new("aito-names");
    let relay = Path::new(env!("CARGO_BIN_EXE_aito")).with_file_name("aito-harness");
    let at = |path: &Path| format!("{}:{}", path.display(), path.display());
    let run_relay = |name: &str, port: u16, socket: &Path, dir: &Path| {
        let listen = format!("0.0.0.0:{port}");
        let entry = ["/relay", "relay", "--listen", &listen, "--to", socket.to_str().unwrap()];
        company.run(name, &entry, &[], &[format!("{}:/relay:ro", relay.display()), at(dir)]);
    };
    let postgres_socket = postgres.dir().join(format!(".s.PGSQL.{}", postgres.port()));
    run_relay("db", 5432, &postgres_socket, postgres.dir());
    run_relay("cache", 6379, &redis_socket, unix.path());

    let env = [
        "DATABASE_URL=postgres://aito@db:5432/aito?sslmode=disable",
        "REDIS_URL=redis://cache:6379",
        "AITO_RUNTIME=process",
        "AITO_DATA_DIR=/data",
        &format!("AITO_SOCKET_DIR={}", unix.path().join("s").display()),
    ]
    .map(str::to_owned);
    company.run("server", &["/aito", "serve", "--no-auth"], &env, &[at(unix.path())]);
    let agents = || servers::sql(&postgres.url("aito"), "SELECT count(*) FROM agents");
    wait::until("the agents in the database that was named db", SOON, async || {
        // Before the first migration there is no such table.
        let there = servers::sql(&postgres.url("aito"), "SELECT to_regclass('agents') IS NOT NULL");
        (there.trim() == "t" && agents().trim() == "7").then_some(())
    })
    .await;
    let said = wait::until("the greeting", SOON, async || {
        let log = company.log("server");
        log.contains("runtime    process").then_some(log)
    })
    .await;
    assert!(said.contains("redis://cache:6379"), "{said}");
    wait::until("the server to listen on the bus that was named cache", SOON, async || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", redis.port())).ok()?;
        std::io::Write::write_all(&mut stream, b"PUBSUB CHANNELS\r\nQUIT\r\n").ok()?;
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).ok()?;
        answer.contains("hint:log").then_some(())
    })
    .await;

    // An agent that finds its server by name, over HTTP, and is told that its credential is nothing.
    let socket = wait::until("the server's socket", SOON, async || {
        let entries = std::fs::read_dir(unix.path().join("s")).ok()?.flatten().map(|entry| entry.path());
        entries.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "sock"))
    })
    .await;
    run_relay("front", 8080, &socket, unix.path());
    let credential = unix.path().join("credential");
    std::fs::write(&credential, "aito-agent.nobody.1.nothing").unwrap();
    let profile = unix.path().join("profile.md");
    std::fs::write(&profile, "# Nobody\n").unwrap();
    let env = [
        "AGENT_ID=01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
        "AGENT_TYPE=ceo".to_owned(),
        "AGENT_INCARNATION=1".to_owned(),
        "LOOP_INTERVAL=60".to_owned(),
        "ORCHESTRATOR_URL=http://front:8080".to_owned(),
        format!("AGENT_CREDENTIAL_FILE={}", credential.display()),
        format!("AGENT_PROFILE={}", profile.display()),
    ];
    company.run("agent", &["/aito", "agent"], &env, &[at(unix.path())]);
    let code = wait::until("the agent's end", SOON, async || {
        let state = company.inspect("agent")["State"].clone();
        (state["Status"] == "exited").then(|| state["ExitCode"].as_i64())
    })
    .await;
    assert_eq!(code, Some(77), "{}", company.log("agent"));
}
