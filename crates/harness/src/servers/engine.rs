//! A private Docker engine.
//!
//! Invariants: everything of it, images and containers too, lies in one directory; its bridges, addresses and packet
//! filter lie in a network namespace of its own and its mounts in a mount namespace of its own, because every engine
//! empties the filter chains and removes the default bridge of the one before it; its containers are below one control
//! group. So any number of engines run side by side, and beside the machine's own. It needs root.
//!
//! A process outside, such as the server under test, reaches containers by files and sockets alone, which are where
//! they always are. What must be on the network of containers is run by [`Engine::in_its_network`].

use std::{
    ffi::OsStr,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use super::{Guard, Process, program, wait_until};
use crate::processes;

/// A Docker engine on a Unix socket; ended, with its containers, when dropped.
pub struct Engine {
    process: Process,
    arguments: Vec<String>,
    guard: Option<Guard>,
    dir: tempfile::TempDir,
}

impl Engine {
    /// A new engine without images. As installed without configuration: when it comes back after [`Self::kill`], it
    /// ends the containers that lived on.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A new engine without images, with more arguments (`--live-restore`, …) as dockerd takes them.
    pub fn start_with(arguments: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "a Docker engine needs root");
        // A short path: a socket's holds 107 bytes at the most, and containerd puts some below it.
        let dir = tempfile::Builder::new().prefix("aito-eng-").rand_bytes(6).tempdir_in("/tmp").unwrap();
        let guard = Guard::of_engine(&name_of(dir.path()), dir.path());
        let process = Process { child: None, log: dir.path().join("log") };
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut engine = Self { process, arguments, guard: Some(guard), dir };
        engine.start_again();
        engine
    }

    /// Starts it on the same data, after [`Self::kill`] or [`Self::stop`].
    pub fn start_again(&mut self) {
        let path = |name: &str| self.dir.path().join(name);
        // A dead engine's notes: it would wait for a containerd whose number belongs to somebody else by now.
        for note in ["pid", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(path(note));
        }
        let mut command = self.entering(&["--mount", "--net"], program("dockerd", &[]));
        command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid")).arg(format!("--host=unix://{}", self.socket().display()));
        command.arg(format!("--cgroup-parent=/{}", name_of(self.dir.path())));
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        // The engine's own default has room for thirty networks only.
        command.args(["--default-address-pool", "base=10.192.0.0/12,size=24"]);
        command.args(["--log-level=warn", "--shutdown-timeout=5"]).args(&self.arguments);
        let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        command.env_clear().env("PATH", places.join(":")).env("HOME", self.dir.path());
        self.process = Process::spawn_unguarded(command, &path("log"));
        let socket = self.socket();
        self.process.until_ready("the Docker engine", Duration::from_secs(60), || ping(&socket));
    }

    /// Kills the engine, and the containerd that it started, as a crash would: its containers live on without it.
    pub fn kill(&mut self) {
        let note = self.dir.path().join("exec/containerd/containerd.pid");
        let containerd = fs::read_to_string(note).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
        self.process.end(Signal::KILL, Duration::from_secs(10));
        if let Some(pid) = containerd {
            processes::signal(pid, Signal::KILL);
            let gone = wait_until(Duration::from_secs(10), || processes::one(pid).is_none());
            assert!(gone, "containerd, process {pid}, does not die");
        }
    }

    /// Stops it in order, which stops its containers: those that do not heed the signal after their own time.
    pub fn stop(&mut self) {
        self.process.end(Signal::TERM, Duration::from_secs(60));
    }

    /// Stops it from answering, without closing its connections, until [`Self::go_on`].
    pub fn freeze(&self) {
        processes::signal(self.process.pid(), Signal::STOP);
    }

    /// Undoes [`Self::freeze`].
    pub fn go_on(&self) {
        processes::signal(self.process.pid(), Signal::CONT);
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

    /// A command of a program that shares the engine's network, where the gateways of its networks are addresses of
    /// the machine, and nothing else with it.
    pub fn in_its_network(&self, program: impl AsRef<OsStr>) -> Command {
        self.entering(&["--net"], program)
    }

    fn entering(&self, namespaces: &[&str], program: impl AsRef<OsStr>) -> Command {
        let guard = self.guard.as_ref().expect("only the drop takes it");
        let mut command = Command::new("nsenter");
        command.args(["--target", &guard.pid().to_string()]).args(namespaces).arg("--").arg(program);
        command
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Nobody asks for an order at the end, and the guard knows all that is left, also of an engine that was killed.
        self.process.end(Signal::KILL, Duration::from_secs(10));
        if let Some(guard) = self.guard.take() {
            guard.act();
        }
    }
}

/// The engine's name: that of its directory.
fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
