//! Ends a server whose owner was killed, and so could not do it.
//!
//! Invariant: a guard is a shell that waits for the end of its standard input, which only its owner holds; it is in a
//! process group of its own, so that what kills the owner's group spares it, and holds no output of the owner.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::wait_until;

/// Ends a process (`$1`) in order, or after ten seconds by force, and removes its directory (`$2`).
const PROCESS: &str = r#"
read -r _
kill -s INT "$1"
for round in 0 1 2 3 4 5 6 7 8 9; do
    for tenth in 0 1 2 3 4 5 6 7 8 9; do
        kill -s 0 "$1" 2>/dev/null || break 2
        sleep 0.1
    done
done
kill -s KILL "$1" 2>/dev/null
rm -rf "$2"
"#;

/// Makes the surroundings of an engine, says so, and in the end ends everything in them: whatever lives in this mount
/// namespace (the engine, containerd, shims) or in a control group below the engine's (`$1`, also the name of its
/// directory; containers), then mounts, control groups and the directory (`$2`).
const ENGINE: &str = r#"
set -e
ip link set lo up 2>/dev/null || busybox ip link set lo up
# Where an engine keeps things outside of the directories that it is given.
for place in /run/containerd /run/docker /etc/docker; do
    mkdir -p "$place"
    mount -t tmpfs aito "$place"
done
echo ready
set +e
read -r _
# A paused container dies only after it has been thawed.
for state in /sys/fs/cgroup/freezer/"$1"/*/freezer.state; do
    [ -e "$state" ] && echo THAWED >"$state"
done
quiet=0
for round in 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9; do
    quiet=$((quiet + 1))
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        if [ "$pid" != "$$" ] && [ "$process/ns/mnt" -ef "/proc/$$/ns/mnt" ]; then
            kill -s KILL "$pid" && quiet=0
        fi
    done 2>/dev/null
    for list in "/sys/fs/cgroup/$1"/*/cgroup.procs /sys/fs/cgroup/*/"$1"/*/cgroup.procs; do
        [ -e "$list" ] || continue
        while read -r pid; do
            kill -s KILL "$pid" && quiet=0
        done <"$list"
    done 2>/dev/null
    # What was killed a moment ago may have started something before.
    [ "$quiet" -lt 2 ] || break
    sleep 0.02
done
while read -r _ place _; do
    case $place in "$2"/*) umount -l "$place" ;; esac
done </proc/self/mounts 2>/dev/null
for group in "/sys/fs/cgroup/$1" /sys/fs/cgroup/*/"$1"; do
    [ -d "$group" ] && find "$group" -depth -type d -exec rmdir {} \;
done 2>/dev/null
rm -rf "$2"
"#;

/// The waiting shell.
pub struct Guard(Child);

impl Guard {
    /// Guards one process with its directory.
    pub fn of_process(pid: u32, dir: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", PROCESS, "aito-guard", &pid.to_string()]).arg(dir);
        Self::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Guards an engine and is itself what holds the engine's own network and mount namespaces: [`Self::pid`] names
    /// them for nsenter(1).
    pub fn of_engine(name: &str, dir: &Path) -> Self {
        let mut command = Command::new("unshare");
        // What others mount later is seen, what is mounted here is not.
        command.args(["--net", "--mount", "--propagation", "slave", "sh", "-c", ENGINE, "aito-guard", name]);
        let complaints = dir.join("guard.log");
        let mut guard =
            Self::spawn(command.arg(dir).stdout(Stdio::piped()).stderr(File::create(&complaints).unwrap()));
        let mut said = String::new();
        let stdout = guard.0.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut said).unwrap();
        let complaints = fs::read_to_string(complaints).unwrap();
        assert_eq!(said, "ready\n", "an engine's namespaces cannot be made: {complaints}");
        guard
    }

    fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).process_group(0);
        Self(command.spawn().expect("a shell and unshare(1) are on every Linux"))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Lets it do now what it would do at its owner's death, and waits for that.
    pub fn act(mut self) {
        drop(self.0.stdin.take());
        wait_until(Duration::from_secs(30), || self.0.try_wait().unwrap().is_some());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A guard that has acted is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
