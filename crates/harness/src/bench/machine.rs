//! The machine on which something was measured, as far as a reader needs it to judge the figures.
//!
//! Invariant: a fact that cannot be read is told as unknown; it never stops a measurement.

use std::{fs, path::Path, time::Duration};

use serde::Serialize;

/// Facts, read once before anything is measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Of the directory for sandboxes: what a sync costs depends on it.
    pub(crate) file_system: String,
    /// `/proc/loadavg`: of 1, 5 and 15 minutes.
    pub(crate) load_before: String,
}

impl Machine {
    /// Looks at this machine (proc(5)).
    pub(crate) fn look(sandboxes: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
        let mounts = read("/proc/self/mountinfo");
        let sandboxes = fs::canonicalize(sandboxes).unwrap_or_else(|_| sandboxes.to_owned());
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: or_unknown(field(&read("/proc/cpuinfo"), "model name")),
            memory_mib: kibibytes(&read("/proc/meminfo"), "MemTotal").unwrap_or(0) / 1024,
            kernel: or_unknown(
                Some(read("/proc/sys/kernel/osrelease").trim().to_owned()).filter(|t| !t.is_empty()),
            ),
            file_system: or_unknown(file_system(&mounts, &sandboxes)),
            load_before: load_average(),
        }
    }

    /// In one line.
    pub(crate) fn line(&self, load_after: &str) -> String {
        format!(
            "{} cores, {}, {} MiB, Linux {}, sandboxes on {}, load average {} before and {load_after} after",
            self.cores, self.cpu, self.memory_mib, self.kernel, self.file_system, self.load_before
        )
    }
}

/// `/proc/loadavg`, the three averages.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let three: Vec<_> = text.split_whitespace().take(3).collect();
    if three.is_empty() { "unknown".to_owned() } else { three.join(" ") }
}

/// Resident memory of a process in KiB (`VmRSS`).
pub(crate) fn resident_kib(pid: u32) -> Result<u64, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|why| why.to_string())?;
    kibibytes(&text, "VmRSS").ok_or_else(|| format!("process {pid} tells no VmRSS"))
}

/// How long the living threads of a process have had a processor (the first figure of `schedstat`, in nanoseconds).
pub(crate) fn processor_time(pid: u32) -> Result<Duration, String> {
    let untold = |why: std::io::Error| format!("process {pid} does not tell its time: {why}");
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).map_err(untold)? {
        let path = thread.map_err(untold)?.path().join("schedstat");
        // A thread may end while it is looked at.
        let text = fs::read_to_string(path).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|figure| figure.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.split_whitespace().next()?.parse().ok()
}

/// The type of the file system that holds a path: of the longest mount point above it, the last of equals
/// (proc_pid_mountinfo(5): the fifth field is the mount point, the type follows a lone hyphen).
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let (Some(point), Some((_, after))) = (line.split(' ').nth(4), line.split_once(" - ")) else {
            continue;
        };
        if path.starts_with(point) && best.is_none_or(|(length, _)| point.len() >= length) {
            best = Some((point.len(), after.split(' ').next().unwrap_or_default()));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotalX: 1 kB\nMemTotal:       2048 kB\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(kibibytes(text, "MemTotal"), Some(2048));
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, "absent"), None);
    }

    #[test]
    fn the_nearest_mount_holds_a_path() {
        let mounts = "1 0 8:1 / / rw,relatime - ext4 /dev/a rw\n\
                      2 1 0:5 / /tmp rw shared:3 - tmpfs tmpfs rw\n\
                      3 1 0:6 / /tmp2 rw - xfs /dev/b rw\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x")).as_deref(), Some("tmpfs"));
        assert_eq!(file_system(mounts, Path::new("/tmp2")).as_deref(), Some("xfs"));
        assert_eq!(file_system(mounts, Path::new("/home")).as_deref(), Some("ext4"));
        assert_eq!(file_system("", Path::new("/home")), None);
    }

    #[test]
    fn this_machine_and_this_process_can_be_looked_at() {
        let machine = Machine::look(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory_mib > 0 && machine.kernel != "unknown", "{machine:?}");
        assert!(machine.line("0").contains(&machine.kernel));
        assert!(resident_kib(std::process::id()).unwrap() > 100);
        assert!(resident_kib(u32::MAX).is_err());
        assert!(processor_time(std::process::id()).unwrap() > Duration::ZERO);
        assert!(processor_time(u32::MAX).is_err());
    }
}
