//! A private Docker engine.
//!
//! Invariants: everything of it, images and containers too, lies in one directory; it has no bridge of its own, only
//! the networks that its users make. It needs root.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use super::{Process, program, wait_until};

/// A Docker engine on a Unix socket; stopped, with its containers, when dropped.
pub struct Engine {
    dir: tempfile::TempDir,
    process: Process,
}

impl Engine {
    /// A new engine without images.
    pub fn start() -> Self {
        // A short path: a socket's holds 107 bytes at the most, and containerd puts some below it.
        let dir = tempfile::Builder::new().prefix("aito-eng-").rand_bytes(4).tempdir_in("/tmp").unwrap();
        let mut engine = Self { process: Process { child: None, log: dir.path().join("log") }, dir };
        engine.start_again();
        engine
    }

    /// Starts it on the same data, after [`Self::kill`] or [`Self::stop`].
    pub fn start_again(&mut self) {
        let path = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(program("dockerd", &[]));
        command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
        command
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()));
        command.args(["--bridge=none", "--log-level=warn", "--shutdown-timeout=5"]);
        let _ = fs::remove_file(path("pid"));
        let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        command.env_clear().env("PATH", places.join(":")).env("HOME", self.dir.path());
        self.process = Process::spawn(command, &path("log"));
        let socket = self.socket();
        self.process.until_ready("the Docker engine", Duration::from_secs(60), || ping(&socket));
    }

    /// Kills the engine as a crash would: its containers live on without it.
    pub fn kill(&mut self) {
        self.process.end(Signal::KILL, Duration::from_secs(10));
        // The containerd that it started goes on, and would be found by the next one; a crash of both is the worse one.
        self.kill_containerd();
    }

    /// Stops it in order, which stops its containers.
    pub fn stop(&mut self) {
        self.process.end(Signal::TERM, Duration::from_secs(60));
    }

    /// Stops it from answering, without closing its connections, until [`Self::go_on`].
    pub fn freeze(&self) {
        crate::processes::signal(self.process.pid(), Signal::STOP);
    }

    /// Undoes [`Self::freeze`].
    pub fn go_on(&self) {
        crate::processes::signal(self.process.pid(), Signal::CONT);
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.process.log).unwrap_or_default()
    }

    fn kill_containerd(&self) {
        let mark = self.dir.path().join("exec/containerd").display().to_string();
        let of_ours = || {
            crate::processes::all()
                .into_iter()
                .filter(|process| process.args.iter().any(|arg| arg.starts_with(&mark)))
                .filter(|process| process.args.first().is_some_and(|name| name.ends_with("containerd")))
                .map(|process| process.pid)
        };
        wait_until(Duration::from_secs(5), || {
            let mut left = 0;
            for pid in of_ours() {
                crate::processes::signal(pid, Signal::KILL);
                left += 1;
            }
            left == 0
        });
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.process.runs() {
            // Containers of a killed engine live on: only an engine can end them.
            self.start_again();
        }
        self.process.end(Signal::TERM, Duration::from_secs(60));
        self.kill_containerd();
        // What it mounted must go before the directory can.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let here = self.dir.path().display().to_string();
        for place in
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|place| place.starts_with(&here))
        {
            let _ = Command::new("umount").args(["-l", place]).status();
        }
    }
}

fn ping(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let limit = Some(Duration::from_secs(2));
    let mut answer = [0; 12];
    stream.set_read_timeout(limit).is_ok()
        && stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.ends_with(b"200")
}
