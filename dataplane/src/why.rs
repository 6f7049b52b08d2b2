//! Answers to "why does this client (not) get there?": the way to the data plane, then the packet
//! path. Run by the agent's threads; changes nothing.

use std::sync::{Arc, PoisonError};

use dataplane_api::message::{PathTarget, Why};

use crate::address::{Address, RealId};
use crate::clock::Instant;
use crate::forward::explain::{Question, existing, explain, fails, passes};
use crate::published::{HopState, Published};
use crate::rewrite::nat::Endpoint;
use crate::runtime::Runtime;
use crate::service::{Class, RealRecord};
use crate::steer::Action;

/// The real of a path probe, the address of ours to send it from, and where to; none if it cannot be
/// sent, or the real's method is one that hides the VIP from it.
#[must_use]
pub fn path(published: &Published, target: &PathTarget) -> Option<(RealId, Address, Endpoint)> {
    let services = &published.services;
    let vip = Address::from(target.vip);
    let Class::Vip(_) = services.classify(vip) else { return None };
    let (id, record) = probed(published, target)?;
    if !record.forwarding.is_one_way() {
        return None;
    }
    let device = published.device(published.hop(id)?.device)?;
    let source = if vip.is_v4() { device.v4 } else { device.v6 };
    let to = Endpoint { address: vip, port: target.vip_port };
    (source != Address::UNSPECIFIED).then_some((id, source, to))
}

/// Whether a path probe cannot be sent because nobody answers for its next hop.
#[must_use]
pub fn is_unresolved(published: &Published, target: &PathTarget) -> bool {
    let hop = probed(published, target).and_then(|(id, _)| published.hop(id));
    hop.is_some_and(|hop| hop.state == HopState::Unresolved)
}

fn probed<'a>(published: &'a Published, target: &PathTarget) -> Option<(RealId, &'a RealRecord)> {
    let services = &published.services;
    let service = services.services().find(|s| s.name == target.service)?;
    let address = Address::from(target.real);
    let fits = |r: &RealRecord| r.service == service.id && r.address == address && r.configured;
    services.reals().find(|(_, r)| fits(r))
}

/// Whether anybody is told where the VIP is.
fn lease(
    why: &mut Why,
    runtime: &Runtime,
    published: &Published,
    vip: Address,
    now: Instant,
) -> bool {
    let services = &published.services;
    // Steering knows it for a VIP; if a reload has taken it away since, the next stage says so.
    let Some(group) = services.owner(vip) else { return true };
    let name = services.groups().iter().find(|(id, _)| *id == group).map_or("", |(_, n)| n);
    let fresh = runtime.leases().is_fresh(group, now);
    let left = runtime.leases().left_ms(group, now);
    let nobody = "nobody is told where the VIP is (ARP, neighbour discovery)";
    match (fresh, name) {
        (true, "") => passes(why, "lease", format!("VIPs are answered for another {left} ms")),
        (true, name) => {
            passes(why, "lease", format!("group {name}: VIPs are answered for another {left} ms"));
        }
        (false, "") => fails(why, "lease", format!("no_lease: {nobody}")),
        (false, name) => {
            let verdict = format!("no_lease: this node does not own group {name}: {nobody}");
            fails(why, "lease", verdict);
        }
    }
    fresh
}

/// What would become of a first packet, up to the first stage that fails.
#[must_use]
pub fn why(runtime: &Runtime, question: &Question, now: Instant) -> Why {
    let mut why = Why::default();
    let published = runtime.cell.get();
    let shared = &runtime.forward;
    let (rules, interfaces) = {
        let report = runtime.report.lock().unwrap_or_else(PoisonError::into_inner);
        let up = report.interfaces.iter().filter(|i| i.attached && i.link == "up");
        (Arc::clone(&report.rules), up.map(|i| i.name.clone()).collect::<Vec<_>>())
    };
    let known = existing(question, &published, shared, now).is_some();
    let (vip, port) = (question.vip, question.vip_port);
    match rules.to_vip(vip, port, question.protocol.number()) {
        Action::Ours => passes(&mut why, "steering", "for the data plane"),
        Action::Shared => passes(
            &mut why,
            "steering",
            "for the data plane, unless the kernel has the connection from when nobody served it",
        ),
        Action::Sorry if known => passes(&mut why, "steering", "for the data plane"),
        Action::Sorry => {
            let verdict = "left to the kernel (sorry): no real server takes new connections";
            fails(&mut why, "steering", verdict);
            return why;
        }
        Action::Kernel => {
            let verdict = "left to the kernel: no service with a real server listens there";
            fails(&mut why, "steering", verdict);
            return why;
        }
    }
    if interfaces.is_empty() {
        fails(&mut why, "interface", "none is attached and up");
        return why;
    }
    passes(&mut why, "interface", format!("attached and up: {}", interfaces.join(", ")));
    if !lease(&mut why, runtime, &published, vip, now) {
        return why;
    }
    explain(why, question, &published, shared, now)
}
