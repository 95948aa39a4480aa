//! Private servers for tests: PostgreSQL, Redis and a Docker engine, each with its own directory, on a Unix socket or
//! a free loopback port.
//!
//! Invariants: a server that is dropped is stopped, and with an engine its containers; one whose process dies without
//! dropping it is ended by its guard; nothing that runs on the machine already is used or touched. `cargo xtask test`
//! starts one of each for the whole run ([`Servers`]) and names them in the environment ([`POSTGRES`], [`REDIS`],
//! [`ENGINE`]); a test that has to kill its server starts one of its own.

mod engine;
mod guard;
mod postgres;
mod redis;
mod run;

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::Signal;

pub use engine::Engine;
pub use postgres::{Postgres, create_database, drop_database, sql};
pub use redis::Redis;
pub use run::Servers;

use guard::Guard;

use crate::{processes, wait};

/// The variable with the address of the run's PostgreSQL: a `postgres://` URL of a database in which others are made.
pub const POSTGRES: &str = "AITO_TEST_POSTGRES";
/// The variable with the address of the run's Redis: a `redis://` URL.
pub const REDIS: &str = "AITO_TEST_REDIS";
/// The variable with the path of the run's Docker engine's socket.
pub const ENGINE: &str = "AITO_TEST_ENGINE";

/// What the run's servers are reached by.
///
/// # Panics
/// When the variable is not set, that is outside of `cargo xtask test`.
pub fn address(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: this test runs under `cargo xtask test`"))
}

/// A free port of the loopback address, below those that the system gives to connections, so that a server which was
/// killed finds it free again. Somebody else may take it before it is used, which is then an error there.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side begin at places of their own.
    let start = std::process::id().wrapping_mul(61);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("below 30000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}

/// Asks until it is true; `false` when the time is over.
fn wait_until(within: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let took = wait::stopwatch();
    while took() < within {
        if probe() {
            return true;
        }
        wait::breathe();
    }
    false
}

/// A server process in the foreground with its output in a file.
struct Process {
    child: Option<Guarded>,
    log: PathBuf,
}

/// A child, and who ends it if this process does not; an engine has a guard of its own.
struct Guarded {
    child: Child,
    guard: Option<Guard>,
}

impl Process {
    /// Starts it. Its log lies in the directory that is its own and goes with it.
    fn spawn(command: Command, log: &Path) -> Self {
        let mut process = Self::spawn_unguarded(command, log);
        let dir = log.parent().expect("a log lies in a directory");
        if let Some(guarded) = &mut process.child {
            guarded.guard = Some(Guard::of_process(guarded.child.id(), dir));
        }
        process
    }

    fn spawn_unguarded(mut command: Command, log: &Path) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        // A group of its own: a Ctrl-C at the terminal is for the test run, which then ends this in order.
        command.process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|why| panic!("cannot run {program}: {why}"));
        Self { child: Some(Guarded { child, guard: None }), log: log.to_owned() }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").child.id()
    }

    fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|guarded| guarded.child.try_wait().unwrap().is_none())
    }

    /// Waits until it answers; panics with its log if it ends or takes too long.
    fn until_ready(&mut self, what: &str, within: Duration, mut probe: impl FnMut() -> bool) {
        let ready = wait_until(within, || !self.runs() || probe());
        if !ready || !self.runs() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            panic!("{what} did not come up:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }

    /// Sends a signal and waits for the end; kills what does not end in time.
    fn end(&mut self, signal: Signal, within: Duration) {
        let Some(Guarded { mut child, guard }) = self.child.take() else { return };
        // First the guard: the number of a process that is gone may be given to another one.
        drop(guard);
        processes::signal(child.id(), signal);
        if !wait_until(within, || child.try_wait().unwrap().is_some()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Finds a program in one of these directories or on the path.
fn program(name: &str, places: &[PathBuf]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = places
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path))
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: `cargo xtask setup` says how to get it"))
}
