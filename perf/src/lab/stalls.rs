//! `xvip-perf stalls`: how long this machine keeps a thread from its core.
//!
//! One thread on each core does nothing but read the clock. Where two readings lie far apart, something
//! else had the core: the hypervisor, an interrupt, a thread of the kernel. A packet that comes meanwhile
//! waits, whatever forwards it; so no latency measured here can be told from these waits unless
//! they are known. (`oslat` and `sysjitter` do the same.)

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use dataplane::clock;

use super::{Lab, Process};
use crate::packet_path::pin;
use crate::record::Stall;

/// What is no stall: less than reading the clock may take with a cold cache.
const LEAST: u64 = 2_000;
/// What a run takes beyond the seconds it was told.
const SPARE: Duration = Duration::from_secs(10);

/// Options of `stalls`.
#[derive(Args)]
pub(crate) struct Options {
    /// Cores; all by default.
    #[arg(long, value_delimiter = ',')]
    core: Vec<usize>,
    /// Seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// A JSON array instead of lines.
    #[arg(long)]
    json: bool,
}

/// Measures all cores at the same time.
#[allow(clippy::print_stdout)]
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !(options.seconds > 0.0 && options.seconds <= 3600.0) {
        bail!("--seconds {}: expected more than 0 and at most 3600", options.seconds);
    }
    let cores = match options.core.as_slice() {
        [] => super::balancer::spare(&[]),
        chosen => chosen.to_vec(),
    };
    let time = Duration::from_secs_f64(options.seconds);
    let found: Vec<Stall> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            cores.iter().map(|core| scope.spawn(move || spin(*core, time))).collect();
        let ended = threads.into_iter().map(|t| t.join().ok().context("a thread panicked")?);
        ended.collect::<anyhow::Result<_>>()
    })?;
    if options.json {
        println!("{}", serde_json::to_string(&found)?);
        return Ok(());
    }
    for stall in &found {
        println!("{}", words(stall));
    }
    Ok(())
}

/// A core's stalls in a sentence.
pub(crate) fn words(stall: &Stall) -> String {
    let micros = |nanos: u64| nanos as f64 / 1e3;
    format!(
        "core {}: away {:.2} % of the time, {} times, at most {:.0} µs; a packet that comes at any time would wait \
         {:.1} µs (99th percentile), {:.1} µs (99.9th)",
        stall.core,
        stall.away * 100.0,
        stall.times,
        micros(stall.longest),
        micros(stall.p99),
        micros(stall.p999)
    )
}

/// The same as part of a run in a lab, with the priority of its other processes.
///
/// # Errors
/// If it cannot run.
pub(crate) fn measure(lab: &Lab, cores: &[usize], seconds: f64) -> anyhow::Result<Vec<Stall>> {
    let path = lab.directory().join("stalls.json");
    let file = fs::File::create(&path).with_context(|| format!("{}", path.display()))?;
    let own = std::env::current_exe().context("this program's own path")?;
    let mut command = std::process::Command::new(own);
    let list = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    command.args(["stalls", "--json", "--core", &list, "--seconds", &seconds.to_string()]);
    let mut process = Process::start("stalls", command, lab.directory(), Some(file))?;
    let status = process.wait(Duration::from_secs_f64(seconds) + SPARE)?;
    ensure!(status.success(), "stalls: {status}: {}", process.tail());
    let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    serde_json::from_str(&text).context("what `stalls` said")
}

fn spin(core: usize, time: Duration) -> anyhow::Result<Stall> {
    pin(core)?;
    let start = clock::now();
    let (mut last, mut gaps) = (start, Vec::with_capacity(1 << 16));
    loop {
        let now = clock::now();
        let gap = now.since(last).as_nanos() as u64;
        if gap >= LEAST {
            gaps.push(gap);
        }
        last = now;
        if now.since(start) >= time {
            return Ok(summary(core, &gaps, now.since(start)));
        }
    }
}

fn summary(core: usize, gaps: &[u64], time: Duration) -> Stall {
    let whole = (time.as_nanos() as u64).max(1);
    Stall {
        core: core as u32,
        seconds: time.as_secs_f64(),
        away: gaps.iter().sum::<u64>() as f64 / whole as f64,
        times: gaps.len() as u64,
        p99: wait(gaps, whole, 0.01),
        p999: wait(gaps, whole, 0.001),
        longest: gaps.iter().copied().max().unwrap_or(0),
    }
}

/// What all but a `share` of packets, which come evenly over the time, do not wait longer than: the least time that
/// the ends of the gaps beyond it, together, are no more than that share.
fn wait(gaps: &[u64], whole: u64, share: f64) -> u64 {
    let longer = |than: u64| gaps.iter().map(|gap| gap.saturating_sub(than)).sum::<u64>() as f64;
    let (mut low, mut high) = (0, gaps.iter().copied().max().unwrap_or(0));
    while low < high {
        let middle = low.midpoint(high);
        if longer(middle) <= share * whole as f64 {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_waits_for_what_is_left_of_the_stall_it_comes_in() {
        // One stall of 2 % of the time: half of its packets wait longer than half of it.
        assert_eq!(wait(&[20_000_000], 1_000_000_000, 0.01), 10_000_000);
        assert_eq!(wait(&[20_000_000], 1_000_000_000, 0.001), 19_000_000);
        // Less than 1 % in stalls at all: nobody of the 99 % waits.
        assert_eq!(wait(&[5_000_000], 1_000_000_000, 0.01), 0);
        assert_eq!(wait(&[], 1_000_000_000, 0.01), 0);
        // A thousand stalls of 20 µs are 2 % too.
        assert_eq!(wait(&[20_000; 1000], 1_000_000_000, 0.01), 10_000);
    }

    #[test]
    fn a_core_that_is_watched_shows_what_it_lost() {
        let stall = spin(0, Duration::from_millis(50)).unwrap();
        assert!(stall.seconds >= 0.05 && (0.0..=1.0).contains(&stall.away), "{stall:?}");
        assert!(stall.p99 <= stall.p999 && stall.p999 <= stall.longest, "{stall:?}");
    }
}
