//! A private PostgreSQL.

use std::{
    fs,
    net::TcpStream,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use super::{Process, free_port, program, wait_until};
use crate::processes;

/// A PostgreSQL server on a loopback port; killed and removed when dropped.
pub struct Postgres {
    dir: tempfile::TempDir,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    port: u16,
    durable: bool,
    process: Process,
}

impl Postgres {
    /// A new, empty server. `durable`: with fsync, as in production; without it a crash of the machine, but not of
    /// the server, may lose data, and everything is quicker.
    pub fn start(durable: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("aito-pg-").tempdir().unwrap();
        // It refuses to run as root; Debian's package makes a user for it.
        let user = rustix::process::geteuid().is_root().then(|| user_ids("postgres"));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), mode).unwrap();
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let bin = newest_bin();
        let mut server = Self {
            process: Process { child: None, log: dir.path().join("log") },
            dir,
            bin,
            user,
            port: free_port(),
            durable,
        };
        let mut init = server.command("initdb");
        init.args(["-U", "aito", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(server.data());
        let done = init.stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "initdb failed: {}", String::from_utf8_lossy(&done.stderr));
        server.start_again();
        server
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.current_dir(self.dir.path()).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts it on the same data and port, after [`Self::kill`] or [`Self::stop`].
    pub fn start_again(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.dir.path());
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "max_connections=400", "-c", "shared_buffers=128MB", "-c", "max_wal_size=2GB"]);
        if !self.durable {
            command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        }
        self.process = Process::spawn(command, &self.dir.path().join("log"));
        let port = self.port;
        let (user, bin) = (self.user, self.bin.clone());
        self.process.until_ready("PostgreSQL", Duration::from_secs(60), || {
            // An open port is not yet a server that lets in.
            TcpStream::connect(("127.0.0.1", port)).is_ok() && {
                let mut ready = Command::new(bin.join("pg_isready"));
                if let Some((uid, gid)) = user {
                    ready.uid(uid).gid(gid);
                }
                ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
                ready.status().is_ok_and(|status| status.success())
            }
        });
    }

    /// Kills it as a crash would: the postmaster and every backend.
    pub fn kill(&mut self) {
        let leader = self.process.pid();
        // Stopped, it starts no further backend while those that there are are looked for.
        processes::signal(leader, Signal::STOP);
        let others: Vec<u32> =
            processes::all().iter().filter(|other| other.parent == leader).map(|other| other.pid).collect();
        for pid in &others {
            processes::signal(*pid, Signal::KILL);
        }
        self.process.end(Signal::KILL, Duration::from_secs(10));
        // One that still lives holds the shared memory, and keeps the next postmaster from starting.
        let within = Duration::from_secs(10);
        assert!(
            wait_until(within, || others.iter().all(|pid| processes::one(*pid).is_none())),
            "a backend lives on"
        );
    }

    /// Stops it in order; open connections are ended.
    pub fn stop(&mut self) {
        self.process.end(Signal::INT, Duration::from_secs(30));
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database of it; `postgres` is always there.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://aito@127.0.0.1:{}/{database}", self.port)
    }

    /// Its directory: `data` is the cluster, `log` what it said.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The directory of its programs, `psql` and `pgbench` among them.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Makes a database and gives its URL.
    pub fn database(&self, name: &str) -> String {
        create_database(&self.url("postgres"), name)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.process.runs() {
            self.process.end(Signal::QUIT, Duration::from_secs(10));
        }
    }
}

/// Makes a database on the server at `url` and gives the URL of the new one.
pub fn create_database(url: &str, name: &str) -> String {
    // Not the one on the path: Debian's is a script that first looks for the right one.
    let mut psql = Command::new(program("psql", &[newest_bin()]));
    psql.args([url, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &format!("CREATE DATABASE \"{name}\"")]);
    let done = psql.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "no database {name}: {}", String::from_utf8_lossy(&done.stderr));
    let (server, _) = url.rsplit_once('/').expect("a URL names a database");
    format!("{server}/{name}")
}

/// Runs a statement and gives what it yields, as text without headings.
///
/// # Panics
/// When it fails.
pub fn sql(url: &str, statement: &str) -> String {
    let mut psql = Command::new(program("psql", &[newest_bin()]));
    psql.args([url, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]);
    let done = psql.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{statement}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Drops the database of a URL, with whoever is connected to it; one that is gone, or a server that is, is fine.
pub fn drop_database(url: &str) {
    let Some((server, name)) = url.rsplit_once('/') else { return };
    let mut psql = Command::new(program("psql", &[newest_bin()]));
    let drop = format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)");
    psql.args([&format!("{server}/postgres"), "-X", "-q", "-c", &drop]);
    let _ = psql.stdin(Stdio::null()).output();
}

/// The directory of the newest installed server's programs, as Debian lays them out.
fn newest_bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut bins: Vec<_> = versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    bins.sort();
    match bins.pop() {
        Some((_, bin)) => bin,
        None => program("postgres", &[]).parent().expect("a program has a directory").to_owned(),
    }
}

/// User and group id of a name in passwd(5).
fn user_ids(name: &str) -> (u32, u32) {
    let all = fs::read_to_string("/etc/passwd").unwrap();
    let line = all.lines().find(|line| line.split(':').next() == Some(name));
    let fields: Vec<&str> = line.unwrap_or_else(|| panic!("there is no user {name}")).split(':').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}
