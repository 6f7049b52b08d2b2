//! Which of two nodes sees more of the network.

use crate::failover::exchange::Evidence;

/// How fit a node is to own anything: greater is better. The order of the fields is the order of
/// weight; there is no arithmetic over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Its data plane answers.
    data_plane: bool,
    /// It sees something.
    sees: bool,
    /// Ping targets that do not answer it: fewer is better.
    pings: std::cmp::Reverse<u8>,
    /// Interfaces that it misses: likewise.
    interfaces: std::cmp::Reverse<u8>,
}

/// How fit a node is that sees this.
#[must_use]
pub fn rank(evidence: &Evidence, data_plane: bool) -> Rank {
    let missing = |have: u8, wanted: u8| std::cmp::Reverse(wanted.saturating_sub(have));
    Rank {
        data_plane,
        sees: !is_blind(evidence),
        pings: missing(evidence.pings, evidence.pings_wanted),
        interfaces: missing(evidence.interfaces, evidence.interfaces_wanted),
    }
}

/// Whether it sees so little that silence of the peer says nothing about the peer.
#[must_use]
pub const fn is_blind(evidence: &Evidence) -> bool {
    evidence.interfaces == 0 || (evidence.pings == 0 && evidence.pings_wanted > 0)
}

/// In words, such as "1 of 2 interfaces, 0 of 1 ping targets".
#[must_use]
pub fn describe(evidence: &Evidence) -> String {
    let Evidence { interfaces, interfaces_wanted, pings, pings_wanted } = evidence;
    let interfaces = format!("{interfaces} of {interfaces_wanted} interfaces");
    if *pings_wanted == 0 {
        return interfaces;
    }
    format!("{interfaces}, {pings} of {pings_wanted} ping targets")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(interfaces: u8, pings: u8) -> Evidence {
        Evidence { interfaces, interfaces_wanted: 2, pings, pings_wanted: 2 }
    }

    #[test]
    fn who_sees_more_is_fitter_and_a_router_weighs_more_than_an_interface() {
        let order =
            [(seen(0, 2), true), (seen(2, 0), true), (seen(2, 1), true), (seen(1, 2), true)];
        let full = rank(&seen(2, 2), true);
        assert!(order.iter().all(|(e, alive)| rank(e, *alive) < full));
        assert!(rank(&seen(1, 2), true) > rank(&seen(2, 1), true));
        assert!(rank(&seen(2, 1), true) > rank(&seen(2, 0), true));
        assert!(rank(&seen(0, 0), true) > rank(&seen(2, 2), false));
        let one = Evidence { interfaces: 1, interfaces_wanted: 1, ..seen(2, 2) };
        assert_eq!(rank(&one, true), full, "nodes may have different interfaces");
    }

    #[test]
    fn blind_is_who_reaches_nothing() {
        assert!(is_blind(&seen(0, 2)) && is_blind(&seen(2, 0)) && !is_blind(&seen(1, 1)));
        let without = Evidence { pings: 0, pings_wanted: 0, ..seen(1, 0) };
        assert!(!is_blind(&without));
        assert_eq!(describe(&without), "1 of 2 interfaces");
    }
}
