//! What `target` tries: method, family, size, rate. Pure.

use dataplane_api::service::{Forwarding, Protocol};
use pktgen::size;
use pktgen::spec;

use crate::lab::generator::Engine;
use crate::packet_path::Family;
use crate::record::Aim;

/// Frame sizes of the promise, with frame check sequence (RFC 2544, section 9.1).
pub(super) const SIZES: [u16; 7] = [64, 128, 256, 512, 1024, 1280, 1518];
/// From this size on the promise is a gate; below it is a record to set.
pub(super) const GATE: u16 = 128;
/// From this size on sockets of the generator keep the pace on one core; below, its programs in the
/// kernel have to.
const SOCKETS: u16 = 256;
/// Sizes of methods that differ from `nat` only in what they rewrite.
const FEW: [u16; 3] = [64, 512, 1518];
/// What is promised.
pub(super) const LINE: &str = "1gbit";
/// Half of it.
const HALF: &str = "500mbit";
/// Where a search for the highest rate begins; its steps halve.
pub(super) const SEARCH_TO: &str = "3mpps";
/// Rates of the record, at the smallest size.
const RECORDS: [&str; 2] = ["1.488mpps", "1.9mpps"];

/// One trial.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    /// What for.
    pub(super) aim: Aim,
    /// Forwarding method.
    pub(super) method: Forwarding,
    /// Address family.
    pub(super) family: Family,
    /// Frame size.
    pub(super) size: u16,
    /// Connections held.
    pub(super) connections: u32,
    /// Rate, both ways together.
    pub(super) rate: String,
    /// Share of replies; the method's default if none.
    pub(super) replies: Option<f64>,
    /// Engine of the generator.
    pub(super) engine: Engine,
}

impl Case {
    /// Whether a loss fails the run, not just the trial.
    pub(super) fn is_gate(&self) -> bool {
        self.aim == Aim::Promise && self.size >= GATE
    }

    /// Whether the generator's real servers answer by way of the balancer.
    pub(super) fn both_ways(&self) -> bool {
        self.replies != Some(0.0) && matches!(self.method, Forwarding::Nat | Forwarding::Fullnat)
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) methods: Vec<Forwarding>,
    pub(super) families: Vec<Family>,
    /// All of the promise if empty.
    pub(super) sizes: Vec<u16>,
    pub(super) connections: Vec<u32>,
    pub(super) engine: Option<Engine>,
    pub(super) rate: String,
    pub(super) records: bool,
    pub(super) latency: bool,
    /// The highest rates without loss are searched for.
    pub(super) search: bool,
}

/// All trials of a run, `nat` over IPv4 first.
pub(super) fn cases(wish: &Wish) -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, &connections) in wish.connections.iter().enumerate() {
        // How many connections there are changes little but memory: the other methods and what goes beyond the
        // promise need be seen once.
        let all = number == 0;
        let wish =
            &Wish { records: wish.records && all, latency: wish.latency && all, ..wish.clone() };
        for &method in &wish.methods {
            for &family in &wish.families {
                let main = (method, family) == (Forwarding::Nat, Family::V4);
                if !all
                    && !main
                    && wish.methods.contains(&Forwarding::Nat)
                    && wish.methods.len() > 1
                {
                    continue;
                }
                // IPv6 with the method that has most to rewrite; the others differ as they do in
                // IPv4.
                let asked = wish.families.len() == 1 || wish.methods.len() == 1;
                if family == Family::V4 || method == Forwarding::Nat || asked {
                    of(wish, method, family, connections, &mut cases);
                }
            }
        }
    }
    cases
}

fn of(wish: &Wish, method: Forwarding, family: Family, connections: u32, to: &mut Vec<Case>) {
    let main = (method, family) == (Forwarding::Nat, Family::V4);
    let sizes = match wish.sizes.as_slice() {
        [] if main => &SIZES[..],
        [] => &FEW[..],
        chosen => chosen,
    };
    let least = size::least(family == Family::V6, spec::Protocol::Tcp);
    let case = |aim, size: u16, rate: &str, replies| Case {
        aim,
        method,
        family,
        size: size.max(least),
        connections,
        rate: rate.to_owned(),
        replies,
        // Sockets of the generator are no match for what is searched for.
        engine: wish.engine.unwrap_or(match aim {
            Aim::Highest => Engine::Xdp,
            _ if size < SOCKETS => Engine::Xdp,
            _ => Engine::AfXdp,
        }),
    };
    for &size in sizes {
        to.push(case(Aim::Promise, size, &wish.rate, None));
    }
    if wish.records && main {
        for rate in RECORDS {
            to.push(case(Aim::Beyond, 64, rate, None));
            to.push(case(Aim::Beyond, 64, rate, Some(0.0)));
        }
    }
    if wish.search {
        for &size in sizes {
            to.push(case(Aim::Highest, size, SEARCH_TO, None));
        }
    }
    if wish.latency && main {
        let chosen = if wish.sizes.is_empty() { &FEW[..] } else { sizes };
        for &size in chosen {
            to.push(case(Aim::Latency, size, HALF, None));
        }
    }
}

/// Transport protocol of the target.
pub(super) const PROTOCOL: Protocol = Protocol::Tcp;

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish {
            methods: vec![Forwarding::Nat, Forwarding::Direct],
            families: vec![Family::V4, Family::V6],
            sizes: vec![],
            connections: vec![100_000],
            engine: None,
            rate: LINE.into(),
            records: true,
            latency: true,
            search: true,
        }
    }

    #[test]
    fn the_promise_is_tried_at_every_size_and_the_record_both_ways_and_one_way() {
        let cases = cases(&wish());
        let promise: Vec<_> = cases
            .iter()
            .filter(|c| c.aim == Aim::Promise && c.method == Forwarding::Nat)
            .filter(|c| c.family == Family::V4)
            .collect();
        assert_eq!(promise.iter().map(|c| c.size).collect::<Vec<_>>(), SIZES);
        assert_eq!(promise.iter().filter(|c| c.is_gate()).count(), 6);
        assert_eq!(promise[0].engine, Engine::Xdp);
        assert_eq!((promise[1].engine, promise[2].engine), (Engine::Xdp, Engine::AfXdp));
        let highest = cases.iter().filter(|c| c.aim == Aim::Highest);
        assert_eq!(highest.clone().count(), 7 + 3 + 3);
        assert!(highest.clone().all(|c| c.engine == Engine::Xdp));
        let beyond: Vec<_> = cases.iter().filter(|c| c.aim == Aim::Beyond).collect();
        assert_eq!(beyond.len(), 4);
        assert_eq!(beyond.iter().filter(|c| c.both_ways()).count(), 2);
        assert!(cases.iter().all(|c| c.family == Family::V4 || c.size >= 78));
        assert!(cases.iter().any(|c| c.family == Family::V6 && c.method == Forwarding::Nat));
        assert!(!cases.iter().any(|c| c.family == Family::V6 && c.method == Forwarding::Direct));
        assert!(cases.iter().all(|c| c.method != Forwarding::Direct || !c.both_ways()));
    }

    #[test]
    fn latency_is_measured_at_the_sizes_that_were_asked_for_or_at_a_few() {
        let sizes = |wish: &Wish| -> Vec<u16> {
            let all = cases(wish).into_iter();
            all.filter(|c| c.aim == Aim::Latency).map(|c| c.size).collect()
        };
        assert_eq!(sizes(&wish()), FEW);
        assert_eq!(sizes(&Wish { sizes: vec![256], ..wish() }), [256]);
    }

    #[test]
    fn with_further_numbers_of_connections_only_the_promise_of_nat_is_tried_again() {
        let cases = cases(&Wish { connections: vec![100_000, 1_000_000], search: false, ..wish() });
        let many: Vec<_> = cases.iter().filter(|c| c.connections == 1_000_000).collect();
        assert_eq!(many.iter().map(|c| c.size).collect::<Vec<_>>(), SIZES);
        assert!(many.iter().all(|c| c.aim == Aim::Promise && c.method == Forwarding::Nat));
        let alone = Wish { methods: vec![Forwarding::Tunnel], ..wish() };
        let alone = super::cases(&Wish { connections: vec![1000, 2000], ..alone });
        assert_eq!(alone.len() % 2, 0, "asked for by name, tried with both");
    }

    #[test]
    fn what_is_asked_for_alone_is_tried() {
        let only = Wish {
            methods: vec![Forwarding::Direct],
            families: vec![Family::V6],
            sizes: vec![512],
            records: false,
            latency: false,
            search: false,
            engine: Some(Engine::Xdp),
            ..wish()
        };
        let cases = cases(&only);
        assert_eq!(cases.len(), 1);
        assert_eq!((cases[0].size, cases[0].engine), (512, Engine::Xdp));
    }
}
