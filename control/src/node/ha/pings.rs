//! Ping targets: what a node reaches whose network works. Pinged by the prober, as servers are; counted
//! here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::super::{Node, Output};
use super::HaOrder;
use crate::check::{Kind, Outcome, Probe, ProbeSet, Report, Target, icmp};
use crate::failover::settings::Ping;
use crate::verbs::{HaPing, HaPinged};

/// Bytes of payload of a ping, as ping(8) has.
const PAYLOAD: u16 = 56;

/// An address that is pinged.
#[derive(Clone, Debug, Default)]
pub(super) struct Pinged {
    answers: Option<bool>,
    failed: u8,
    reason: Option<String>,
    took_us: Option<u64>,
}

/// The probes that ping.
fn probes(pings: &[Ping]) -> impl Iterator<Item = Arc<Probe>> {
    pings.iter().flat_map(|ping| {
        ping.addresses.iter().map(|address| {
            let (vip, service, real) = (None, String::new(), String::new());
            let target = Target { address: *address, port: 0, vip, service, real };
            let kind = Kind::Icmp(icmp::Settings { size: PAYLOAD });
            Arc::new(Probe { target, kind, interval: ping.interval, timeout: ping.timeout })
        })
    })
}

impl Node {
    /// What is pinged.
    pub(in crate::node) fn pings(&self) -> &[Ping] {
        self.config.ha.as_ref().map(|ha| &ha.pings[..]).unwrap_or_default()
    }

    /// The probes of the services, and of the ping targets.
    pub(in crate::node) fn with_pings(&self, wanted: &Arc<ProbeSet>) -> Arc<ProbeSet> {
        if self.pings().is_empty() {
            return Arc::clone(wanted);
        }
        let mut all = (**wanted).clone();
        all.extend(probes(self.pings()));
        Arc::new(all)
    }

    /// Runs of probes have ended; those of ping targets count here.
    pub(in crate::node) fn ha_probed(&mut self, runs: &[(Arc<Probe>, Report)]) {
        if self.ha.pinged.is_empty() {
            return;
        }
        let Some(pair) = &self.ha.sent else { return };
        for (probe, report) in runs {
            let same = |p: &&Ping| {
                p.addresses.contains(&probe.target.address)
                    && (p.interval, p.timeout) == (probe.interval, probe.timeout)
            };
            let pings = matches!(probe.kind, Kind::Icmp(_));
            let Some(ping) = pair.settings.pings.iter().find(same).filter(|_| pings) else {
                continue;
            };
            let Some(pinged) = self.ha.pinged.get_mut(&probe.target.address) else { continue };
            match &report.outcome {
                Outcome::Up(_) => {
                    let took = u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX);
                    let (answers, took_us) = (Some(true), Some(took));
                    *pinged = Pinged { answers, took_us, ..Pinged::default() };
                }
                outcome => {
                    pinged.failed = pinged.failed.saturating_add(1);
                    pinged.reason = outcome.reason().map(str::to_owned);
                    if pinged.failed >= ping.fall {
                        pinged.answers = Some(false);
                    }
                }
            }
        }
        self.ha_count_pings();
    }

    /// Tells how many ping targets are reached, if that is news.
    pub(super) fn ha_count_pings(&mut self) {
        let Some(pair) = &self.ha.sent else { return };
        let reached = |p: &&Ping| reached(p, &self.ha.pinged) == Some(true);
        let count = pair.settings.pings.iter().filter(reached).count();
        let count = u8::try_from(count).unwrap_or(u8::MAX);
        if self.ha.reached != Some(count) {
            self.ha.reached = Some(count);
            self.out.push(Output::Ha(HaOrder::Pings(count)));
        }
    }
}

/// Whether one of its addresses answers; unknown before all have had their chance.
fn reached(ping: &Ping, pinged: &BTreeMap<IpAddr, Pinged>) -> Option<bool> {
    let answers = || ping.addresses.iter().map(|a| pinged.get(a).and_then(|p| p.answers));
    if answers().any(|a| a == Some(true)) {
        return Some(true);
    }
    answers().all(|a| a == Some(false)).then_some(false)
}

/// How a target stands.
pub(super) fn show(ping: &Ping, known: &BTreeMap<IpAddr, Pinged>) -> HaPing {
    HaPing {
        name: ping.name.clone(),
        reached: reached(ping, known),
        addresses: ping.addresses.iter().map(|a| pinged(*a, known)).collect(),
    }
}

fn pinged(address: IpAddr, pinged: &BTreeMap<IpAddr, Pinged>) -> HaPinged {
    let known = pinged.get(&address).cloned().unwrap_or_default();
    HaPinged {
        address: address.to_string(),
        answers: known.answers,
        reason: known.reason,
        took_us: known.took_us,
    }
}
