//! A server in a sandbox: its own data directory, sockets, configuration and port; on real servers also a database, a
//! prefix in Redis and containers of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use aito_client::{Client, Options, Token};
use rustix::process::Signal;

use crate::{engine, processes, servers, wait};

/// The agents that every installation has.
pub const AGENTS: [&str; 7] = ["ceo", "cmo", "cto", "cfo", "coo", "cco", "dao"];

/// Which adapters a server under test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// SQLite, the bus of one process, local processes.
    Embedded,
    /// PostgreSQL, Redis and a Docker engine: those of the test run ([`servers::address`]).
    Servers,
}

/// What a sandbox has on real servers.
#[derive(Debug, Clone)]
pub struct Places {
    /// Its database.
    pub database_url: String,
    /// Its Redis.
    pub redis_url: String,
    /// Its engine's socket.
    pub engine: PathBuf,
}

/// Directories of one installation under test.
pub struct Sandbox {
    dir: tempfile::TempDir,
    bin: PathBuf,
    places: Option<Places>,
    /// The sandbox of whose installation this is another server.
    shares: Option<PathBuf>,
    /// More environment for the server. It lets callers ask as much as a test wants, unless a test says otherwise.
    pub env: BTreeMap<String, String>,
    /// Whether callers on loopback need no credential.
    pub no_auth: bool,
}

impl Sandbox {
    /// An empty one, for the server at `bin`, with quick heartbeats and restarts for the seven agents.
    pub fn new(bin: impl Into<PathBuf>) -> Self {
        Self::of(Set::Embedded, bin)
    }

    /// An empty one on this set.
    pub fn of(set: Set, bin: impl Into<PathBuf>) -> Self {
        match set {
            Set::Embedded => Self::on(None, bin.into()),
            Set::Servers => Self::on_servers(
                &servers::address(servers::POSTGRES),
                &servers::address(servers::REDIS),
                Path::new(&servers::address(servers::ENGINE)),
                bin,
            ),
        }
    }

    /// An empty one on these servers; its database is made, and dropped with it.
    pub fn on_servers(postgres: &str, redis: &str, engine: &Path, bin: impl Into<PathBuf>) -> Self {
        let places = Places {
            database_url: postgres.to_owned(),
            redis_url: redis.to_owned(),
            engine: engine.to_owned(),
        };
        let mut sandbox = Self::on(Some(places), bin.into());
        let name = sandbox.name();
        let database_url = servers::create_database(postgres, &name);
        if let Some(places) = &mut sandbox.places {
            places.database_url = database_url;
        }
        sandbox.reach_servers(&name);
        sandbox
    }

    /// Another server of the same installation, with a data directory of its own.
    pub fn another_server(&self) -> Self {
        let places = self.places.clone().expect("several servers need servers to share");
        let mut other = Self::on(Some(places), self.bin.clone());
        other.shares = Some(self.root().to_owned());
        other.env.insert(
            "AITO_KEY_FILE".to_owned(),
            self.data_dir().join("installation.json").display().to_string(),
        );
        other.no_auth = self.no_auth;
        other.reach_servers(&self.name());
        fs::copy(self.config_file(), other.config_file()).unwrap();
        other
    }

    fn on(places: Option<Places>, bin: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("aito-").tempdir().unwrap();
        if places.is_some() {
            // Containers run as nobody in particular and may write here, where a test wants them to.
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut env: BTreeMap<_, _> =
            ["RATE", "BURST", "CONNECTIONS", "CONNECTIONS_PER_ADDRESS", "STREAMS_PER_CREDENTIAL"]
                .map(|name| (format!("AITO_LIMITS__{name}"), "1000000".to_owned()))
                .into();
        if places.is_none() {
            // An engine of this machine is none of a sandbox's.
            env.insert("DOCKER_HOST".to_owned(), "unix:///nonexistent/docker.sock".to_owned());
        }
        let sandbox = Self { dir, bin, places, shares: None, env, no_auth: true };
        let mut agents = String::new();
        for agent in AGENTS {
            agents += &format!("[agents.{agent}]\nheartbeat_interval = 1\ngrace = 5\n");
        }
        sandbox.configure(&agents);
        sandbox
    }

    fn name(&self) -> String {
        self.root().file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn reach_servers(&mut self, prefix: &str) {
        let Some(places) = self.places.clone() else { return };
        for (name, value) in [
            ("DATABASE_URL", places.database_url),
            ("REDIS_URL", places.redis_url),
            ("AITO_REDIS__PREFIX", format!("{prefix}:")),
            ("DOCKER_HOST", format!("unix://{}", places.engine.display())),
            ("AITO_RUNTIME", "docker".to_owned()),
        ] {
            self.env.insert(name.to_owned(), value);
        }
    }

    /// Writes the configuration anew; the socket directory always stands in it. On real servers every agent that it
    /// names also sees the sandbox, at the same place and writable, as a local process does.
    pub fn configure(&self, text: &str) {
        let mut config: toml::Table = text.parse().unwrap();
        config.insert("socket_dir".to_owned(), self.socket_dir().display().to_string().into());
        if self.places.is_some() {
            let here = self.root().display().to_string();
            let mount: toml::Table =
                [("source", here.clone().into()), ("target", here.into()), ("read_only", false.into())]
                    .map(|(key, value): (&str, toml::Value)| (key.to_owned(), value))
                    .into_iter()
                    .collect();
            let agents = config.get_mut("agents").and_then(toml::Value::as_table_mut);
            for agent in
                agents.into_iter().flat_map(|agents| agents.iter_mut()).filter_map(|(_, v)| v.as_table_mut())
            {
                agent.entry("mounts").or_insert_with(|| vec![mount.clone()].into());
            }
        }
        fs::write(self.config_file(), config.to_string()).unwrap();
    }

    /// Its database, Redis and engine, on real servers.
    ///
    /// # Panics
    /// On the embedded set.
    pub fn places(&self) -> &Places {
        self.places.as_ref().expect("the embedded set has none")
    }

    /// What its database answers to a statement, as text without headings.
    ///
    /// # Panics
    /// On the embedded set, and when the statement fails.
    pub fn sql(&self, statement: &str) -> String {
        servers::sql(&self.places().database_url, statement)
    }

    /// Whether its agents are containers.
    pub fn has_containers(&self) -> bool {
        self.places.is_some()
    }

    /// The installation's id, once a server has been started.
    pub fn installation(&self) -> Option<String> {
        let text = fs::read_to_string(self.data_dir().join("installation.json")).ok()?;
        let file: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(file["id"].as_str()?.to_owned())
    }

    /// The sandbox itself.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.root().join("data")
    }

    /// Where sockets lie: for all servers of an installation at one place.
    pub fn socket_dir(&self) -> PathBuf {
        self.shares.as_deref().unwrap_or(self.root()).join("s")
    }

    /// The socket for agents of a server that runs.
    pub fn socket(&self) -> PathBuf {
        let all = fs::read_dir(self.socket_dir()).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut sockets: Vec<_> = all.filter(|path| path.extension().is_some_and(|e| e == "sock")).collect();
        sockets.sort();
        sockets.into_iter().next().unwrap_or_else(|| self.socket_dir().join("server.sock"))
    }

    /// The configuration.
    pub fn config_file(&self) -> PathBuf {
        self.root().join("aito.toml")
    }

    /// The binary.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The first token of its installation, once a server has been started.
    pub fn first_token(&self) -> String {
        fs::read_to_string(self.data_dir().join("first-token")).unwrap().trim().to_owned()
    }

    /// A command of the binary with nothing of the caller's environment but the path.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.bin);
        command.env_clear().current_dir(self.root());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.root());
        command.envs(&self.env);
        command
    }

    /// `serve` with everything that makes it stay in the sandbox.
    pub fn serve(&self) -> Command {
        let mut command = self.command();
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(self.config_file());
        if self.no_auth {
            command.arg("--no-auth");
        }
        command.arg("--data-dir").arg(self.data_dir());
        command
    }

    /// Starts the server and waits until it says where it listens.
    pub async fn start(&self) -> Server {
        self.start_as(self.serve()).await
    }

    /// Starts the server by this command.
    pub async fn start_as(&self, mut command: Command) -> Server {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.root().join("server.log")).unwrap();
        let said = tempfile::NamedTempFile::new_in(self.root()).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(said.reopen().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|why| panic!("cannot run {}: {why}", self.bin.display()));
        let mut server = Server {
            child,
            address: String::new(),
            said: String::new(),
            log: self.root().join("server.log"),
        };
        let mut text = String::new();
        let address = wait::until("the server to say where it listens", wait::SOON, async || {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("the server ended ({status}) instead of serving:\n{}", server.log());
            }
            text.clear();
            said.reopen().unwrap().read_to_string(&mut text).unwrap();
            let line = text.lines().find(|line| line.starts_with("operators"))?;
            line.split_whitespace().nth(1).map(|url| url.trim_end_matches(',').to_owned())
        })
        .await;
        let whole = wait::until("the whole greeting", wait::SOON, async || {
            let mut text = String::new();
            said.reopen().unwrap().read_to_string(&mut text).unwrap();
            text.contains("runtime ").then_some(text)
        })
        .await;
        server.address = address;
        server.said = whole;
        server
    }

    /// Runs a command that is expected to end by itself, and gives its status, output and errors.
    pub fn run(&self, mut command: Command) -> (ExitStatus, String, String) {
        let out = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status, text(&out.stdout), text(&out.stderr))
    }

    /// The agents that run here: type, incarnation, process id.
    pub fn agents(&self) -> Vec<(String, u64, u32)> {
        let Some(places) = &self.places else { return processes::agents(&self.socket_dir()) };
        let Some(installation) = self.installation() else { return Vec::new() };
        let running = engine::containers(&places.engine, &format!("aito.installation={installation}"));
        running
            .into_iter()
            .filter_map(|container| {
                let label = |name: &str| container.labels.get(name).cloned();
                Some((label("aito.type")?, label("aito.incarnation")?.parse().ok()?, container.pid?))
            })
            .collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        processes::sweep(self.root());
        let (Some(places), None) = (&self.places, &self.shares) else { return };
        if let Some(installation) = self.installation() {
            engine::sweep(&places.engine, &format!("aito.installation={installation}"));
        }
        servers::drop_database(&places.database_url);
    }
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    address: String,
    said: String,
    log: PathBuf,
}

impl Server {
    /// `http://127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it printed at its start.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// What all servers of this sandbox have logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client for it.
    pub fn client(&self) -> Client {
        Client::new(self.address.parse().unwrap(), Options::default()).unwrap()
    }

    /// A client for it with this token.
    pub fn client_with(&self, token: &str) -> Client {
        let token = Some(Token::new(token).unwrap());
        Client::new(self.address.parse().unwrap(), Options { token, ..Options::default() }).unwrap()
    }

    /// Kills it as the system would.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop and waits for its end.
    pub async fn stop(mut self) -> ExitStatus {
        processes::signal(self.pid(), Signal::TERM);
        self.ended(Duration::from_secs(30)).await
    }

    /// Waits for its end.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let child = &mut self.child;
        wait::until("the server to end", within, async || child.try_wait().unwrap()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether it ended by this signal.
pub fn killed_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal.as_raw())
}
