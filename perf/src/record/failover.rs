//! What a run of `failover` found, and what follows from it.

use serde::{Deserialize, Serialize};

/// What happens to a pair of balancers while clients use it.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Nothing: what the machine itself does to the traffic.
    Nothing,
    /// The active node loses its power: both processes die, all links go dark, its memory is lost.
    PowerOff,
    /// `xvip switchover`.
    Switchover,
    /// The preferred node comes back from a power-off, learns, and takes over again by itself.
    FailBack,
    /// The active node reads a changed configuration.
    Reload,
    /// The data plane of the active node is killed, and started again by its supervisor.
    DataPlaneRestart,
    /// Control of the active node is killed, and started again by its supervisor.
    ControlRestart,
    /// Control and data plane of the active node are replaced, one after the other, as the operating manual says.
    Upgrade,
}

impl Scenario {
    /// As tables and charts call it.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing happens",
            Self::PowerOff => "power-off",
            Self::Switchover => "switchover",
            Self::FailBack => "fail-back",
            Self::Reload => "reload",
            Self::DataPlaneRestart => "data plane killed, started again",
            Self::ControlRestart => "control killed, started again",
            Self::Upgrade => "upgrade",
        }
    }

    /// Whether an operator planned it, or one process alone died: no connection may be reset.
    pub(crate) const fn must_keep_all(self) -> bool {
        !matches!(self, Self::PowerOff | Self::Nothing)
    }
}

/// All that a run found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failover {
    /// What clients noticed.
    pub(crate) rows: Vec<FailoverRow>,
    /// How late the peer knows of new connections: one figure a round.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) replication: Vec<ReplicationRound>,
    /// How long a copy of everything takes: one figure a round.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) bulk: Vec<BulkRound>,
}

/// One scenario under one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailoverRow {
    /// `xvip`, or what it is compared with: `keepalived`, …
    pub(crate) system: String,
    /// What happens.
    pub(crate) scenario: Scenario,
    /// Times of the heartbeat, in words: `default`, `tuned (keepalive 10ms, …)`.
    pub(crate) times: String,
    /// What clients do, in words.
    pub(crate) load: String,
    /// Connections (or downloads) held.
    pub(crate) connections: u64,
    /// The rounds, in the order in which they were run.
    pub(crate) rounds: Vec<FailoverRound>,
}

/// What clients noticed in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailoverRound {
    /// Longest time in which nothing came to any client, milliseconds; of downloads, the longest that any of them waited
    /// for bytes that were due by its pace.
    pub(crate) silence_ms: f64,
    /// When it began, in seconds from what happened; it may be before, if that was no worse than what the machine does by itself.
    pub(crate) silence_after: f64,
    /// Connections that were open before; downloads begun.
    pub(crate) opened: u64,
    /// Of these, those that carried packets both ways at the end; downloads that ended with the right bytes.
    pub(crate) alive: u64,
    /// TCP resets that a client or a real server was sent.
    pub(crate) resets: u64,
    /// Packets sent by either end; none of downloads.
    pub(crate) sent: u64,
    /// Of these, those that did not arrive.
    pub(crate) lost: u64,
    /// How often the VIP moved to another MAC address, as the generator saw it.
    pub(crate) moves: u64,
    /// Whether others had more than 5 % of the machine.
    pub(crate) contended: bool,
}

impl FailoverRound {
    /// Share of the connections that lived on.
    pub(crate) fn share_alive(&self) -> f64 {
        self.alive as f64 / self.opened.max(1) as f64
    }
}

/// New connections at a high rate, and when the peer had acknowledged them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReplicationRound {
    /// New connections a second, each opened, used and closed.
    pub(crate) connections_per_second: f64,
    /// Changes that were measured.
    pub(crate) changes: u64,
    /// From change to acknowledgement, half of them, milliseconds.
    pub(crate) p50_ms: f64,
    /// 99 of 100, milliseconds.
    pub(crate) p99_ms: f64,
    /// The slowest, milliseconds.
    pub(crate) max_ms: f64,
    /// Whether others had more than 5 % of the machine.
    pub(crate) contended: bool,
}

/// The standby's control starts anew and learns everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BulkRound {
    /// Connections that it had to learn.
    pub(crate) connections: u64,
    /// From the start of the process until it says that it knows all, milliseconds.
    pub(crate) ms: f64,
    /// Whether others had more than 5 % of the machine.
    pub(crate) contended: bool,
}

/// How figures are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// Smallest.
    pub(crate) min: f64,
    /// Middle.
    pub(crate) p50: f64,
    /// 95 of 100 are no larger.
    pub(crate) p95: f64,
    /// Largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of these; none of none. Percentiles are of those measured (nearest rank), not between them.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |share: f64| {
            let place = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(place.max(1) - 1).copied()
        };
        Some(Self {
            min: *sorted.first()?,
            p50: rank(0.5)?,
            p95: rank(0.95)?,
            max: *sorted.last()?,
        })
    }
}

impl FailoverRow {
    /// How long clients were without service, milliseconds.
    pub(crate) fn silence(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(|r| r.silence_ms))
    }

    /// The least share of connections that any round left alive.
    pub(crate) fn least_alive(&self) -> Option<f64> {
        self.rounds.iter().map(FailoverRound::share_alive).reduce(f64::min)
    }

    /// TCP resets of all rounds.
    pub(crate) fn resets(&self) -> u64 {
        self.rounds.iter().map(|r| r.resets).sum()
    }

    /// Whether others had too much of the machine in any round.
    pub(crate) fn contended(&self) -> bool {
        self.rounds.iter().any(|r| r.contended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_twenty_rounds_are_figures_of_rounds() {
        let spread = Spread::of((1..=20).rev().map(f64::from)).unwrap();
        assert_eq!(spread, Spread { min: 1.0, p50: 10.0, p95: 19.0, max: 20.0 });
        let one = Spread::of([7.0]).unwrap();
        assert_eq!((one.min, one.p95, one.max), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn the_worst_round_tells_how_many_connections_lived() {
        let round = |alive| FailoverRound { opened: 1000, alive, ..FailoverRound::default() };
        let row = FailoverRow {
            system: "xvip".into(),
            scenario: Scenario::PowerOff,
            times: "default".into(),
            load: "packets".into(),
            connections: 1000,
            rounds: vec![round(1000), round(990)],
        };
        assert_eq!(row.least_alive(), Some(0.99));
        assert_eq!(FailoverRow { rounds: Vec::new(), ..row }.least_alive(), None);
    }
}
