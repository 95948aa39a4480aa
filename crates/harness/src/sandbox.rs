//! A server in a sandbox: its own data directory, sockets, configuration and port.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use aito_client::{Client, Options};
use rustix::process::Signal;

use crate::{processes, wait};

/// Directories of one installation under test.
pub struct Sandbox {
    dir: tempfile::TempDir,
    bin: PathBuf,
    /// More environment for the server.
    pub env: BTreeMap<String, String>,
}

impl Sandbox {
    /// An empty one, for the server at `bin`, with quick heartbeats and restarts for the seven agents.
    pub fn new(bin: impl Into<PathBuf>) -> Self {
        let dir = tempfile::Builder::new().prefix("aito-").tempdir().unwrap();
        let sandbox = Self { dir, bin: bin.into(), env: BTreeMap::new() };
        let mut agents = String::new();
        for agent in ["ceo", "cmo", "cto", "cfo", "coo", "cco", "dao"] {
            agents += &format!("[agents.{agent}]\nheartbeat_interval = 1\ngrace = 5\n");
        }
        sandbox.configure(&agents);
        sandbox
    }

    /// Writes the configuration anew; the socket directory always stands in it.
    pub fn configure(&self, text: &str) {
        let head = format!("socket_dir = \"{}\"\n", self.socket_dir().display());
        fs::write(self.config_file(), head + text).unwrap();
    }

    /// The sandbox itself.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.root().join("data")
    }

    /// Where sockets lie.
    pub fn socket_dir(&self) -> PathBuf {
        self.root().join("s")
    }

    /// The socket for agents.
    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join("server.sock")
    }

    /// The configuration.
    pub fn config_file(&self) -> PathBuf {
        self.root().join("aito.toml")
    }

    /// The binary.
    pub fn bin(&self) -> &Path {
        &self.bin
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
        command.args(["serve", "--no-auth", "--listen", "127.0.0.1:0", "--config"]).arg(self.config_file());
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
        processes::agents(&self.socket_dir())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        processes::sweep(self.root());
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
