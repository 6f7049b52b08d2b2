//! What a measurement ran on, and whether anything else ran there.

use std::fs;
use std::process::Command;

use dataplane::clock::{self, Instant};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Share of the core's time that others may take before a run counts as contended.
const TOLERATED: f64 = 0.05;

/// The machine and the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Processor model, from `/proc/cpuinfo`.
    pub(crate) cpu: String,
    /// Number of processors that are online.
    pub(crate) cpus: usize,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Memory of the machine in KiB.
    pub(crate) memory_kib: u64,
    /// Setting of transparent huge pages (the kernel marks it with brackets).
    pub(crate) huge_pages: String,
    /// Revision of the source, if the program is run inside its repository.
    pub(crate) commit: Option<String>,
    /// Version of this program.
    pub(crate) version: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            cpu: value_of(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_kib: value_of(&read("/proc/meminfo"), "MemTotal")
                .and_then(first_number)
                .unwrap_or(0),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled").trim().to_owned(),
            commit: commit(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Resident memory of this process in bytes.
pub(crate) fn resident() -> u64 {
    let status = read("/proc/self/status");
    value_of(&status, "VmRSS").and_then(first_number).unwrap_or(0) * 1024
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let id = git(&["rev-parse", "--short=12", "HEAD"])?;
    // Records and what is made of them are results, not the program.
    let program = [":(top)", ":(top,exclude)perf/records", ":(top,exclude)docs"];
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let changed = !git(&[&status[..], &program[..]].concat())?.is_empty();
    Some(if changed { format!("{id}+changes") } else { id })
}

/// Watches the core during a run.
pub(crate) struct Watch {
    core: usize,
    started: Instant,
    cpu: u64,
    steal: u64,
    switches: u64,
    load: String,
}

/// What else happened on the core while a run lasted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quiet {
    /// Load average before the run (1, 5, 15 minutes).
    pub(crate) load_before: String,
    /// Load average after it.
    pub(crate) load_after: String,
    /// Share of the wall time in which this thread did not have the core.
    pub(crate) lost: f64,
    /// Share of the wall time that the hypervisor took from this core.
    pub(crate) stolen: f64,
    /// How often this thread was put aside for another.
    pub(crate) involuntary_switches: u64,
    /// Whether the figures are void: more than 5 % of the time went elsewhere.
    pub(crate) contended: bool,
}

impl Quiet {
    /// In words, who had the time that was missing.
    pub(crate) fn takers(&self) -> String {
        let (lost, stolen) = (self.lost * 100.0, self.stolen * 100.0);
        format!("others had {lost:.0} %, the hypervisor {stolen:.0} %")
    }
}

impl Watch {
    /// From now on, on the core that this thread is pinned to.
    pub(crate) fn start(core: usize) -> Self {
        Self {
            core,
            started: clock::now(),
            cpu: thread_time(),
            steal: steal(core),
            switches: switches(),
            load: load(),
        }
    }

    /// What happened since.
    pub(crate) fn finish(self) -> Quiet {
        let wall = clock::now().since(self.started).as_nanos().max(1) as f64;
        let lost = 1.0 - (thread_time() - self.cpu) as f64 / wall;
        // Counted in ticks of 10 ms.
        let stolen = (steal(self.core) - self.steal) as f64 * 1e7 / wall;
        Quiet {
            load_before: self.load,
            load_after: load(),
            lost: round(lost.max(0.0), 4),
            stolen: round(stolen, 4),
            involuntary_switches: switches() - self.switches,
            contended: lost > TOLERATED || stolen > TOLERATED,
        }
    }
}

/// Nanoseconds that this thread has had a core.
pub(crate) fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// A figure as it is shown.
pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

fn steal(core: usize) -> u64 {
    let stat = read("/proc/stat");
    let name = format!("cpu{core}");
    let line = stat.lines().find(|l| l.split_whitespace().next() == Some(name.as_str()));
    // user nice system idle iowait irq softirq steal: proc(5).
    line.and_then(|l| l.split_whitespace().nth(8)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn switches() -> u64 {
    let status = read("/proc/thread-self/status");
    value_of(&status, "nonvoluntary_ctxt_switches").and_then(first_number).unwrap_or(0)
}

/// Load average of 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Empty if there is no such file: the report then says "unknown", and measuring goes on.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_is_reported_as_having_lost_its_core() {
        let watch = Watch::start(0);
        let (from, cpu) = (clock::now(), thread_time());
        let (_keep, silent) = std::sync::mpsc::channel::<()>();
        let _ = silent.recv_timeout(std::time::Duration::from_millis(30));
        assert!(clock::now().since(from).as_millis() >= 30 && thread_time() - cpu < 20_000_000);
        let quiet = watch.finish();
        assert!(quiet.contended && quiet.lost > 0.5, "{quiet:?}");
    }

    #[test]
    fn proc_files_are_read_by_key() {
        assert_eq!(value_of("a : 1 kB\nVmRSS:\t 42 kB", "VmRSS").and_then(first_number), Some(42));
        assert!(resident() > 100_000);
        assert_ne!(Machine::here().cpu, "unknown");
    }
}
