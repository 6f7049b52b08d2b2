//! What a loop that polls has done, and what a packet took of its core.
//!
//! A loop that polls is never idle to the kernel. What is known is how often it went round, how often it
//! found something, and what a round without a find takes; all the rest of its time was work.

use std::time::Duration;

use dataplane_api::message::Status;

/// What polling loops have done until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turns {
    /// Turns.
    pub(crate) all: u64,
    /// Turns that found frames.
    pub(crate) busy: u64,
    /// Frames that they found.
    pub(crate) packets: u64,
}

impl Turns {
    /// Of all workers of the data plane together.
    pub(crate) fn of(status: &Status) -> Self {
        let sum = |of: fn(&dataplane_api::message::WorkerStatus) -> u64| {
            status.workers.iter().map(of).sum()
        };
        Self {
            all: sum(|w| w.polls),
            busy: sum(|w| w.busy_polls),
            packets: status.interfaces.iter().map(|i| i.rx_packets).sum(),
        }
    }

    /// Those since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            all: self.all.saturating_sub(before.all),
            busy: self.busy.saturating_sub(before.busy),
            packets: self.packets.saturating_sub(before.packets),
        }
    }

    /// Nanoseconds of a turn, of a loop that has had its core for so long and found next to nothing.
    pub(crate) fn idle(self, on_core: Duration) -> f64 {
        on_core.as_nanos() as f64 / self.all.max(1) as f64
    }

    /// Nanoseconds a packet: time on the core but that of turns that found nothing, `idle` nanoseconds each.
    pub(crate) fn cost(self, on_core: Duration, idle: f64) -> f64 {
        let nothing = self.all.saturating_sub(self.busy) as f64 * idle;
        ((on_core.as_nanos() as f64 - nothing) / self.packets.max(1) as f64).max(0.0)
    }

    /// As a line of a log: `turns ALL BUSY PACKETS`.
    pub(crate) fn line(self) -> String {
        format!("{HEAD}{} {} {}", self.all, self.busy, self.packets)
    }

    /// Of such a line; none if it is another.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let numbers: Option<Vec<u64>> =
            line.strip_prefix(HEAD)?.split(' ').map(|n| n.parse().ok()).collect();
        let [all, busy, packets] = <[u64; 3]>::try_from(numbers?).ok()?;
        Some(Self { all, busy, packets })
    }
}

const HEAD: &str = "turns ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_turns_that_found_nothing_is_not_a_packets() {
        // A second; a million empty turns of 200 ns; 800 ms for 400,000 packets.
        let done = Turns { all: 1_100_000, busy: 100_000, packets: 400_000 };
        let cost = done.cost(Duration::from_secs(1), 200.0);
        assert!((cost - 2000.0).abs() < 1e-6, "{cost}");
        assert!((Turns { all: 5, ..done }.idle(Duration::from_micros(1)) - 200.0).abs() < 1e-9);
        assert_eq!(done.cost(Duration::ZERO, 200.0), 0.0);
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_no_other_is() {
        let turns = Turns { all: 3, busy: 2, packets: 64 };
        assert_eq!(Turns::parse(&turns.line()), Some(turns));
        for other in ["ready", "turns 1 2", "turns 1 2 x", "turns 1 2 3 4"] {
            assert_eq!(Turns::parse(other), None, "{other}");
        }
    }
}
