//! A private Redis.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use super::{Process, free_port, program};

/// A Redis server on a loopback port, with nothing kept on disk; killed and removed when dropped.
pub struct Redis {
    dir: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
    process: Process,
}

impl Redis {
    /// A new, empty server.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A new, empty server with more arguments (`--name value` as redis-server takes them).
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut server = Self::prepare();
        server.arguments = ["--port", &server.port.to_string(), "--bind", "127.0.0.1", "--save", ""]
            .iter()
            .chain(&["--appendonly", "no", "--daemonize", "no", "--dir"])
            .chain(&[&*server.dir().to_string_lossy()])
            .chain(arguments)
            .map(|text| (*text).to_owned())
            .collect();
        server.start_again();
        server
    }

    /// A new sentinel; `lines` of its configuration say what it watches. It rewrites that file as it goes.
    pub fn start_sentinel(lines: &[&str]) -> Self {
        let mut server = Self::prepare();
        let file = server.dir().join("sentinel.conf");
        let place = format!("port {}\nbind 127.0.0.1\ndir {}\n", server.port, server.dir().display());
        fs::write(&file, place + &lines.join("\n") + "\n").unwrap();
        server.arguments = vec![file.to_string_lossy().into_owned(), "--sentinel".to_owned()];
        server.start_again();
        server
    }

    fn prepare() -> Self {
        let dir = tempfile::Builder::new().prefix("aito-redis-").tempdir().unwrap();
        let process = Process { child: None, log: dir.path().join("log") };
        Self { dir, port: free_port(), arguments: Vec::new(), process }
    }

    /// Starts it on the same port, after [`Self::kill`].
    pub fn start_again(&mut self) {
        let mut command = Command::new(program("redis-server", &[]));
        command.args(&self.arguments);
        self.process = Process::spawn(command, &self.dir.path().join("log"));
        let port = self.port;
        self.process.until_ready("Redis", Duration::from_secs(30), || ping(port));
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.process.end(Signal::KILL, Duration::from_secs(10));
    }

    /// Stops it from answering, without closing its connections, until [`Self::go_on`].
    pub fn freeze(&self) {
        crate::processes::signal(self.process.pid(), Signal::STOP);
    }

    /// Undoes [`Self::freeze`].
    pub fn go_on(&self) {
        crate::processes::signal(self.process.pid(), Signal::CONT);
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.end(Signal::KILL, Duration::from_secs(10));
    }
}

/// Whether a Redis answers there; an answer that asks for a password is one.
fn ping(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0; 5];
    let limit = Some(Duration::from_secs(1));
    stream.set_read_timeout(limit).is_ok()
        && stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && (answer.starts_with(b"+PONG") || answer.starts_with(b"-NOAU"))
}
