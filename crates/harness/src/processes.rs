//! Looks at the processes of this machine through /proc (Linux), to see what really runs.
//!
//! Invariant: zombies do not count as running.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};

/// A running process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment at its start; empty when it cannot be read.
    pub env: BTreeMap<String, String>,
}

/// Every running process.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(one).collect()
}

/// The process with an id, if it runs.
pub fn one(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; what follows the last one is regular.
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*rest.first()?, "Z" | "X") {
        return None;
    }
    let strings = |name: &str| -> Vec<String> {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        bytes
            .split(|b| *b == 0)
            .filter(|s| !s.is_empty())
            .map(|s| String::from_utf8_lossy(s).into_owned())
            .collect()
    };
    let env = strings("environ")
        .into_iter()
        .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        .collect();
    Some(Process { pid, parent: rest.get(1)?.parse().ok()?, args: strings("cmdline"), env })
}

/// The agents that run in a sandbox, by type and incarnation: the processes whose parent is a shim.
pub fn agents(socket_dir: &Path) -> Vec<(String, u64, u32)> {
    let here = socket_dir.display().to_string();
    let all = all();
    let shims: Vec<u32> =
        all.iter().filter(|p| p.args.iter().any(|arg| arg == "shim")).map(|p| p.pid).collect();
    all.iter()
        .filter(|p| p.env.get("ORCHESTRATOR_SOCKET_DIR") == Some(&here) && shims.contains(&p.parent))
        .filter_map(|p| {
            Some((p.env.get("AGENT_TYPE")?.clone(), p.env.get("AGENT_INCARNATION")?.parse().ok()?, p.pid))
        })
        .collect()
}

/// Sends a signal; a process that is gone already is fine.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills everything that belongs to a sandbox: by environment, or by a file of it that is open.
pub fn sweep(root: &Path) {
    let here = root.display().to_string();
    let own = std::process::id();
    for round in 0..20 {
        let found: Vec<u32> = all()
            .into_iter()
            .filter(|p| {
                p.pid != own && (p.env.values().any(|value| value.starts_with(&here)) || holds(p.pid, root))
            })
            .map(|p| p.pid)
            .collect();
        if found.is_empty() {
            return;
        }
        for pid in found {
            signal(pid, Signal::KILL);
        }
        std::thread::yield_now();
        if round > 10 {
            // Killed processes take a moment to go; look through /proc costs that moment.
            let _ = all();
        }
    }
}

fn holds(pid: u32, root: &Path) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target: PathBuf| target.starts_with(root)))
}
