//! What an incarnation uses: its supervisor's descendants, summed up from procfs.
//!
//! Invariants: the supervisor itself is left out; processor time of processes that have ended is kept, as their
//! parent, or the supervisor as their subreaper, has reaped it. Facts: proc(5), `/proc/<pid>/stat`.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use aito_domain::{ports::runtime::Stats, time::Timestamp};

use super::os::{ProcessId, Stat};

/// Sums up what the descendants of `shim` use; `None` when there is none that lives.
pub(crate) fn sum(processes: &[Stat], shim: ProcessId, at: Timestamp, units: Units) -> Option<Stats> {
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for stat in processes {
        children.entry(stat.parent).or_default().push(stat);
    }
    let own = processes.iter().find(|stat| stat.id() == shim)?;
    let (mut ticks, mut pages, mut count) = (own.reaped_ticks, 0, 0);
    let (mut next, mut seen) = (vec![shim.pid], HashSet::from([shim.pid]));
    while let Some(parent) = next.pop() {
        for stat in children.get(&parent).into_iter().flatten() {
            // Read one after the other, so a reused pid could even close a circle.
            if !seen.insert(stat.pid) {
                continue;
            }
            next.push(stat.pid);
            ticks += stat.own_ticks + stat.reaped_ticks;
            if stat.lives() {
                pages += stat.rss_pages;
                count += 1;
            }
        }
    }
    (count > 0).then(|| Stats {
        at,
        cpu: Duration::from_millis(ticks.saturating_mul(1000) / units.ticks_per_second),
        memory_bytes: pages * units.page_bytes,
        processes: count,
    })
}

/// In what procfs counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Units {
    pub ticks_per_second: u64,
    pub page_bytes: u64,
}

impl Units {
    /// Those of this machine.
    pub(crate) fn here() -> Self {
        Self {
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            page_bytes: rustix::param::page_size() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aito_domain::time::millis;

    fn process(pid: i32, parent: i32, state: char) -> Stat {
        Stat { pid, state, parent, session: pid, own_ticks: 10, reaped_ticks: 1, start: 5, rss_pages: 3 }
    }

    #[test]
    fn the_whole_tree_counts_and_nothing_else() {
        let units = Units { ticks_per_second: 100, page_bytes: 4096 };
        let shim = ProcessId { pid: 10, start: 5 };
        let all = [
            process(10, 1, 'S'),
            process(11, 10, 'S'),
            process(12, 11, 'R'),
            process(13, 12, 'Z'),
            process(14, 1, 'S'),
        ];
        let stats = sum(&all, shim, millis(7), units).unwrap();
        // Own and reaped time of three descendants, and what the supervisor has reaped.
        assert_eq!(stats.cpu, Duration::from_millis((3 * 11 + 1) * 10));
        assert_eq!((stats.memory_bytes, stats.processes), (2 * 3 * 4096, 2));
        assert_eq!(sum(&all, ProcessId { pid: 14, start: 5 }, millis(7), units), None);
        assert_eq!(sum(&all, ProcessId { pid: 10, start: 6 }, millis(7), units), None);
    }
}
