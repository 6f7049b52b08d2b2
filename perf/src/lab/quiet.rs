//! Whether the machine belonged to a run while it lasted.
//!
//! Two measures, both free of what the run itself needs: how much of its core each polling thread
//! did not get (`schedstat`), and how much of all cores went to processes that are not the run's.

use std::fs;
use std::time::Duration;

use dataplane::clock::{self, Instant};

use super::process::cpu_time;
use crate::machine::{Quiet, load, round};

/// Share of time that others may take before a run is void.
const TOLERATED: f64 = 0.05;
/// A tick of `/proc/stat`.
const TICK: Duration = Duration::from_millis(10);

/// A thread that polls all the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poller {
    /// Its process.
    pub(crate) pid: u32,
    /// Its thread.
    pub(crate) tid: u32,
}

/// A thread's share of its core until now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ran {
    on_core: Duration,
    switches: u64,
}

impl Poller {
    fn ran(self) -> Ran {
        let file = |name: &str| {
            let path = format!("/proc/{}/task/{}/{name}", self.pid, self.tid);
            fs::read_to_string(path).unwrap_or_default()
        };
        // Time on the core, time of waiting for it, both in nanoseconds (proc(5), schedstat).
        let on_core = file("schedstat").split_whitespace().next().and_then(|n| n.parse().ok());
        let switches = file("status")
            .lines()
            .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:")?.trim().parse().ok());
        Ran { on_core: Duration::from_nanos(on_core.unwrap_or(0)), switches: switches.unwrap_or(0) }
    }
}

/// Processor time of the machine and of the run.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    /// All cores, in processes (not in interrupts).
    all: Duration,
    /// Taken by the hypervisor, all cores.
    stolen: Duration,
    /// In processes of the run.
    own: Duration,
}

/// Watches from `start` to `finish`.
pub(crate) struct Watch {
    started: Instant,
    pollers: Vec<(Poller, Ran)>,
    used: Used,
    load: String,
}

impl Watch {
    /// From now on. `running` is the processor time of the run's processes that still run; what its
    /// ended children have used is known.
    pub(crate) fn start(pollers: &[Poller], running: Duration) -> Self {
        Self {
            started: clock::now(),
            pollers: pollers.iter().map(|p| (*p, p.ran())).collect(),
            used: used(running),
            load: load(),
        }
    }

    /// Time that the pollers, all together, have had cores since.
    pub(crate) fn on_core(&self) -> Duration {
        let since =
            |(poller, before): &(Poller, Ran)| poller.ran().on_core.saturating_sub(before.on_core);
        self.pollers.iter().map(since).sum()
    }

    /// What happened since.
    pub(crate) fn finish(self, running: Duration) -> Quiet {
        let wall = clock::now().since(self.started).as_secs_f64().max(1e-9);
        let after = used(running);
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let in_processes = (after.all.saturating_sub(self.used.all)).as_secs_f64();
        let own = after.own.saturating_sub(self.used.own).as_secs_f64();
        let others = ((in_processes - own) / (wall * cores)).max(0.0);
        let stolen = after.stolen.saturating_sub(self.used.stolen).as_secs_f64() / (wall * cores);
        let (mut lost, mut switches) = (others, 0);
        for (poller, before) in self.pollers {
            let now = poller.ran();
            let ran = now.on_core.saturating_sub(before.on_core).as_secs_f64();
            lost = lost.max(1.0 - ran / wall);
            switches += now.switches.saturating_sub(before.switches);
        }
        Quiet {
            load_before: self.load,
            load_after: load(),
            lost: round(lost, 4),
            stolen: round(stolen, 4),
            involuntary_switches: switches,
            contended: lost > TOLERATED || stolen > TOLERATED,
        }
    }
}

/// One report of several runs: the worst of each.
pub(crate) fn worst(all: &[Quiet]) -> Quiet {
    let mut worst = Quiet::default();
    if let (Some(first), Some(last)) = (all.first(), all.last()) {
        worst.load_before.clone_from(&first.load_before);
        worst.load_after.clone_from(&last.load_after);
    }
    for quiet in all {
        worst.lost = worst.lost.max(quiet.lost);
        worst.stolen = worst.stolen.max(quiet.stolen);
        worst.involuntary_switches += quiet.involuntary_switches;
        worst.contended |= quiet.contended;
    }
    worst
}

fn used(running: Duration) -> Used {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let (all, stolen) = machine(&stat);
    let own = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Used { all, stolen, own: cpu_time(&own, true) + running }
}

/// Time in processes, and time taken by the hypervisor, summed over cores: `cpu` user nice system
/// idle iowait irq softirq steal (proc(5)).
fn machine(stat: &str) -> (Duration, Duration) {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u32> =
        line.unwrap_or_default().split_whitespace().map_while(|n| n.parse().ok()).collect();
    let tick = |n: usize| TICK * ticks.get(n).copied().unwrap_or(0);
    (tick(0) + tick(1) + tick(2), tick(7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_processes_is_told_from_interrupts_idleness_and_theft() {
        let stat = "cpu  100 10 50 9999 5 7 8 30 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(machine(stat), (Duration::from_millis(1600), Duration::from_millis(300)));
        assert_eq!(machine(""), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_poller_that_sleeps_has_lost_its_core() {
        let pid = std::process::id();
        let watch = Watch::start(&[Poller { pid, tid: pid }], Duration::ZERO);
        std::thread::park_timeout(Duration::from_millis(30));
        let quiet = watch.finish(Duration::ZERO);
        assert!(quiet.contended && quiet.lost > 0.2, "{quiet:?}");
        let calm = Quiet::default();
        assert!(worst(&[calm.clone(), quiet]).contended && !worst(&[calm]).contended);
    }
}
