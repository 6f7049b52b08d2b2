//! What a run of `bare` found, and what follows from it.

use dataplane_api::service::Forwarding;
use pktgen::report::Limit;
use serde::{Deserialize, Serialize};

use crate::median::median;
use crate::packet_path::traffic::Family;

/// The data plane and the bare forwarder under the same traffic, in turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BareRow {
    /// Forwarding method of the data plane.
    pub(crate) method: Forwarding,
    /// Address family.
    pub(crate) family: Family,
    /// Bytes of a frame on the wire; or `imix`.
    pub(crate) size: String,
    /// Connections that the traffic belongs to.
    pub(crate) connections: u64,
    /// Share of packets that may be lost at the highest rate; none in a record of overload, which is no
    /// comparison.
    #[serde(default)]
    pub(crate) allowance: Option<f64>,
    /// The rounds, in the order in which they were run.
    pub(crate) rounds: Vec<BareRound>,
}

/// One round of each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BareRound {
    /// The data plane.
    pub(crate) xvip: Sample,
    /// The bare forwarder.
    pub(crate) bare: Sample,
}

/// What one system did in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Packets a second that it was given, the same as the other, and both can carry.
    pub(crate) offered_pps: f64,
    /// Packets a second that came out then.
    pub(crate) received_pps: f64,
    /// Packets lost then, as a share of those sent.
    pub(crate) lost: f64,
    /// Share of its core that was busy then; none if not measured.
    pub(crate) busy: Option<f64>,
    /// Nanoseconds of its core for a packet then, turns of its loop that found nothing left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ns: Option<f64>,
    /// Highest rate, packets a second, at which it lost no more than allowed; none if not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) highest_pps: Option<f64>,
    /// Who set that limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Limit>,
}

/// One figure of a sample.
type Figure = fn(&Sample) -> Option<f64>;

impl BareRow {
    /// Median over the rounds of the data plane's figure divided by the forwarder's; none without a round
    /// that has both.
    fn ratio(&self, of: Figure) -> Option<f64> {
        let both = self.rounds.iter().filter_map(|r| Some((of(&r.xvip)?, of(&r.bare)?)));
        let ratios: Vec<f64> = both.filter(|(_, b)| *b > 0.0).map(|(x, b)| x / b).collect();
        median(&ratios)
    }

    /// The highest rates within the allowance: the data plane's as a share of the forwarder's.
    pub(crate) fn rates(&self) -> Option<f64> {
        self.allowance?;
        self.ratio(|s| s.highest_pps)
    }

    /// What a packet takes of the core at one rate: the forwarder's as a share of the data plane's, so that more is
    /// better here too, and 1 is what looking at nothing takes.
    pub(crate) fn costs(&self) -> Option<f64> {
        self.allowance?;
        self.ratio(|s| s.ns).map(|ratio| 1.0 / ratio)
    }

    /// Whether the highest rates tell the two apart: in most rounds it was the forwarder, not the generator,
    /// that could do no more.
    pub(crate) fn rates_count(&self) -> bool {
        let own = |r: &&BareRound| {
            let of = |s: &Sample| matches!(s.limit, Some(Limit::Device | Limit::Unknown));
            of(&r.bare) || of(&r.xvip)
        };
        self.rounds.iter().filter(own).count() * 2 > self.rounds.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rounds: &[(f64, f64)]) -> BareRow {
        let sample = |highest: f64, limit| Sample {
            highest_pps: Some(highest),
            ns: Some(1e9 / highest),
            limit: Some(limit),
            ..Sample::default()
        };
        let round = |(x, b): &(f64, f64)| BareRound {
            xvip: sample(*x, Limit::Device),
            bare: sample(*b, Limit::Device),
        };
        BareRow {
            method: Forwarding::Nat,
            family: Family::V4,
            size: "64".into(),
            connections: 1,
            allowance: Some(0.001),
            rounds: rounds.iter().map(round).collect(),
        }
    }

    #[test]
    fn one_bad_round_does_not_move_the_ratios() {
        let row = row(&[(0.97e6, 1e6), (0.1e6, 1e6), (0.99e6, 1e6)]);
        assert!((row.rates().unwrap() - 0.97).abs() < 1e-9);
        assert!((row.costs().unwrap() - 0.97).abs() < 1e-9, "{:?}", row.costs());
    }

    #[test]
    fn overload_is_no_comparison_nor_is_a_limit_of_the_generators() {
        let good = row(&[(1e6, 1e6)]);
        assert!(good.rates_count());
        let mut overload = good.clone();
        overload.allowance = None;
        assert_eq!((overload.rates(), overload.costs()), (None, None));
        let mut limited = good;
        for round in &mut limited.rounds {
            round.xvip.limit = Some(Limit::Generator);
            round.bare.limit = Some(Limit::Receiver);
        }
        assert!(!limited.rates_count());
    }
}
