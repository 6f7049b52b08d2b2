//! Use of the machine's cores over a stretch of time, from `/proc/stat`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::lab::Lab;
use crate::lab::process::cpu_time;

/// Ticks a second in `/proc/stat` (`USER_HZ`, the same on all machines).
const HZ: f64 = 100.0;

/// What the cores have done until now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Usage(Vec<Core>);

/// Seconds of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Core {
    /// In anything but idleness.
    pub(super) busy: f64,
    /// Of these in interrupts, hard and soft.
    pub(super) softirq: f64,
}

impl Usage {
    /// Since the machine was started.
    pub(super) fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn parse(stat: &str) -> Self {
        let numbered = |line: &&str| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        Self(stat.lines().filter(numbered).map(core).collect())
    }

    /// What they have done since `before`.
    pub(super) fn since(&self, before: &Self) -> Vec<Core> {
        let pairs = self.0.iter().zip(&before.0);
        pairs
            .map(|(now, then)| Core {
                busy: now.busy - then.busy,
                softirq: now.softirq - then.softirq,
            })
            .collect()
    }
}

/// Processor time of all processes that run in the lab, those that they started included.
///
/// # Errors
/// If they cannot be listed.
pub(crate) fn running(lab: &Lab) -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for name in lab.namespaces() {
        let output = Command::new("ip").args(["netns", "pids", name]).output();
        let output = output.with_context(|| format!("ip netns pids {name}"))?;
        for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            // It may have ended meanwhile.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            sum += cpu_time(&stat, false);
        }
    }
    Ok(sum)
}

/// `cpuN` user nice system idle iowait irq softirq steal: proc(5).
fn core(line: &str) -> Core {
    let ticks: Vec<f64> = line.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
    let sum = |which: &[usize]| which.iter().filter_map(|n| ticks.get(*n)).sum::<f64>() / HZ;
    Core { busy: sum(&[0, 1, 2, 5, 6, 7]), softirq: sum(&[5, 6]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idleness_is_not_work() {
        let before = Usage::parse("cpu  9 9\ncpu0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 5 5 0 0 0\nintr 1");
        let after = Usage::parse(
            "cpu  9 9\ncpu0 10 20 30 400 50 6 7 8 0 0\ncpu1 0 0 0 95 5 0 0 10\nintr 2",
        );
        let used = after.since(&before);
        assert_eq!(used.len(), 2);
        assert!((used[0].busy - 0.81).abs() < 1e-9 && (used[0].softirq - 0.13).abs() < 1e-9);
        assert!((used[1].busy - 0.10).abs() < 1e-9);
        assert_eq!(Usage::parse(""), Usage::default());
    }
}
