//! Adds up where every sent packet went, and says who set the limit.
//!
//! Pure. [`Reading`]s of counters before and after ([`crate::sources`]) and what the engines found
//! go in; lines that add up, or the number that is missing, come out. A packet that several
//! counters saw is counted once, by these rules:
//!
//! - A queue between two interfaces that is full is counted where the packet was to leave
//!   (`tx dropped`); a veth pair may count it again at the other end and in the softnet statistics.
//! - A packet that an AF_XDP socket could not take is counted in the socket's own statistics; a
//!   driver may count it again as `rx dropped` of the interface. `fill ring empty` is why some of
//!   those were dropped, and no drop of its own.
//! - The softnet statistics are those of the whole machine, so they explain at most what is
//!   still missing.

use std::collections::BTreeMap;

use crate::report::{Core, Direction, Limit, Line};

/// Counters of one moment. Each only rises.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The generator's interfaces, by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Drops of the machine's softnet backlogs.
    pub softnet_dropped: u64,
    /// The balancer; none if it was not asked or did not answer.
    pub balancer: Option<Balancer>,
    /// Time of each core.
    pub cores: Vec<CoreTime>,
}

/// Counters of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Errors and drops on receiving.
    pub rx_dropped: u64,
    /// Errors and drops on sending.
    pub tx_dropped: u64,
}

/// What the balancer counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Balancer {
    /// Changes with each start of its process.
    pub boot_id: String,
    /// Drops by reason.
    pub drops: BTreeMap<String, u64>,
    /// `XDP_STATISTICS` by interface and name.
    pub sockets: BTreeMap<(String, String), u64>,
    /// The kernel's counters of its interfaces; empty if they cannot be read.
    pub interfaces: BTreeMap<String, Interface>,
    /// Established connections of the service; none if it has no such service.
    pub active: Option<u64>,
}

/// Time of a core since it started, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreTime {
    /// Number.
    pub core: u32,
    /// All.
    pub total: u64,
    /// Idle, waiting for a device included.
    pub idle: u64,
    /// In interrupts, hard and soft.
    pub interrupts: u64,
    /// Taken by the hypervisor.
    pub stolen: u64,
}

/// Where packets can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Before they reached the device under test.
    Generator,
    /// In the device under test.
    Device,
    /// After they left it.
    Receiver,
    /// One of these.
    Somewhere,
}

/// Packets that a counter says were lost at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The place, as in [`Line::place`].
    pub place: String,
    /// How many.
    pub packets: u64,
    /// Whose place it is.
    pub side: Side,
}

/// What became of the packets of a trial.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// As in [`crate::report::Trial::ledger`].
    pub lines: Vec<Line>,
    /// As in [`crate::report::Trial::unexplained`].
    pub unexplained: i64,
    /// Who set the limit.
    pub limit: Limit,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// Reasons of the balancer that are about other packets than those of a run.
const NOT_OURS: [&str; 2] = ["neighbor_ignored", "no_lease"];
/// Share of the packets due that may be unsent at the end of a trial: a burst on its way.
const SLACK: f64 = 0.001;
/// And so many packets.
const SLACK_PACKETS: u64 = 64;

/// Adds up a trial. `here` are the drops on the generator's own side, as its engine found them.
#[must_use]
pub fn balance(
    requests: &Direction,
    replies: &Direction,
    here: &[Line],
    before: &Reading,
    after: &Reading,
) -> Ledger {
    balance_beside(Beside::default(), requests, replies, here, before, after)
}

/// Packets of others that the same counters see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Sent through the device under test beside the trial's own.
    pub sent: u64,
    /// And that came out at the real servers.
    pub arrived: u64,
}

/// As [`balance`], with a flood beside the trial.
#[must_use]
pub fn balance_beside(
    flood: Beside,
    requests: &Direction,
    replies: &Direction,
    here: &[Line],
    before: &Reading,
    after: &Reading,
) -> Ledger {
    let mut ledger = Ledger::default();
    let sent = requests.sent + replies.sent;
    let received = requests.received + replies.received;
    ledger.line("sent", sent + flood.sent);
    ledger.line("received by the real servers", requests.received);
    ledger.line("received by the clients", replies.received);
    ledger.line("flood that came out at the real servers", flood.arrived);
    let mut missing = signed(sent + flood.sent) - signed(received) - signed(flood.arrived);
    let mut losses = arrived_wrong(requests, replies);
    let own = interface_growth(&before.interfaces, &after.interfaces);
    losses.extend(of_the_generator(here, &own));
    losses.extend(of_counters(here, &own, before, after, &mut ledger.notes));
    missing -= losses.iter().map(|l| signed(l.packets)).sum::<i64>();
    if let Some(softnet) = softnet(before, after, missing) {
        missing -= signed(softnet.packets);
        losses.push(softnet);
    }
    for loss in &losses {
        ledger.line(&loss.place, loss.packets);
    }
    ledger.unexplained = missing;
    if missing < 0 {
        ledger.notes.push(format!(
            "counters account for {} packets more than were lost: packets of others, or counted twice",
            -missing
        ));
    }
    ledger.limit = limit(requests.due + replies.due, sent, received, &losses, missing);
    ledger
}

impl Ledger {
    fn line(&mut self, place: &str, packets: u64) {
        // What was sent and received is always told, drops only where there are any.
        if packets > 0 || self.lines.len() < 3 {
            self.lines.push(Line { place: place.to_owned(), packets });
        }
    }
}

/// Packets that came, but cannot count as received.
fn arrived_wrong(requests: &Direction, replies: &Direction) -> Vec<Loss> {
    [
        ("corrupted", requests.corrupted + replies.corrupted),
        ("strayed", requests.strayed + replies.strayed),
    ]
    .into_iter()
    .map(|(what, packets)| Loss { place: format!("arrived {what}"), packets, side: Side::Device })
    .collect()
}

/// Drops that an engine found, but for those that only say why others were, and for packets refused
/// by an interface that has counted them itself.
fn of_the_generator(here: &[Line], own: &BTreeMap<String, Interface>) -> Vec<Loss> {
    let loss = |line: &Line| {
        let (_, rest) = line.place.split_once("generator ").unwrap_or_default();
        let (interface, what) = rest.split_once(": ").unwrap_or_default();
        let counted = own.get(interface).map_or(0, |interface| interface.tx_dropped);
        let (packets, side) = match what {
            "tx refused" => (line.packets.saturating_sub(counted), Side::Generator),
            what if what.starts_with("tx") => (line.packets, Side::Generator),
            _ => (line.packets, Side::Receiver),
        };
        Loss { place: line.place.clone(), packets, side }
    };
    here.iter().filter(|line| !is_cause(&line.place)).map(loss).collect()
}

fn is_cause(place: &str) -> bool {
    place.contains("fill ring empty") || place.contains("fill_ring_empty")
}

/// Differences of the counters, those of the generator's sockets left out.
fn of_counters(
    here: &[Line],
    own: &BTreeMap<String, Interface>,
    before: &Reading,
    after: &Reading,
    notes: &mut Vec<String>,
) -> Vec<Loss> {
    let mut losses = Vec::new();
    for name in before.interfaces.keys().filter(|name| !after.interfaces.contains_key(*name)) {
        notes.push(format!("interface {name} is gone, and its counters with it"));
    }
    for (name, grown) in own {
        losses.push(Loss {
            place: format!("queue after {name} (tx dropped)"),
            packets: grown.tx_dropped,
            side: Side::Device,
        });
    }
    let balancer = balancer_growth(before, after, notes);
    for (name, grown) in &balancer.interfaces {
        losses.push(Loss {
            place: format!("queue after balancer {name} (tx dropped)"),
            packets: grown.tx_dropped,
            side: Side::Receiver,
        });
    }
    for ((interface, name), packets) in &balancer.sockets {
        let loss = matches!(name.as_str(), "rx_dropped" | "rx_ring_full");
        losses.extend(loss.then(|| Loss {
            place: format!("balancer {interface}: {}", name.replace('_', " ")),
            packets: *packets,
            side: Side::Device,
        }));
    }
    for (reason, packets) in balancer.drops.iter().filter(|(r, _)| !NOT_OURS.contains(&r.as_str()))
    {
        losses.push(Loss {
            place: format!("balancer drop: {reason}"),
            packets: *packets,
            side: Side::Device,
        });
    }
    losses.extend(rest_of_interfaces(here, own, &balancer));
    losses
}

/// What interfaces say they dropped on receiving beyond what the sockets behind them and the
/// queues before them have counted already.
fn rest_of_interfaces(
    here: &[Line],
    own: &BTreeMap<String, Interface>,
    balancer: &Balancer,
) -> [Loss; 2] {
    let received =
        |of: &BTreeMap<String, Interface>| of.values().map(|i| i.rx_dropped).sum::<u64>();
    let queued = |of: &BTreeMap<String, Interface>| of.values().map(|i| i.tx_dropped).sum::<u64>();
    let sockets: u64 = (balancer.sockets.iter())
        .filter(|((_, name), _)| matches!(name.as_str(), "rx_dropped" | "rx_ring_full"))
        .map(|(_, packets)| packets)
        .sum();
    let of_sockets = |l: &&Line| l.place.contains(": rx") && !is_cause(&l.place);
    let own_sockets: u64 = here.iter().filter(of_sockets).map(|l| l.packets).sum();
    let rest = |received: u64, counted: u64| received.saturating_sub(counted);
    [
        Loss {
            place: "balancer interfaces: rx dropped".to_owned(),
            packets: rest(received(&balancer.interfaces), queued(own) + sockets),
            side: Side::Device,
        },
        Loss {
            place: "generator interfaces: rx dropped".to_owned(),
            packets: rest(received(own), queued(&balancer.interfaces) + own_sockets),
            side: Side::Receiver,
        },
    ]
}

/// Backlog drops that the interfaces have not counted, as far as packets are missing.
fn softnet(before: &Reading, after: &Reading, missing: i64) -> Option<Loss> {
    let queued = |r: &Reading| {
        let balancer = r.balancer.iter().flat_map(|b| b.interfaces.values());
        r.interfaces.values().chain(balancer).map(|i| i.tx_dropped).sum::<u64>()
    };
    let grown = after.softnet_dropped.saturating_sub(before.softnet_dropped);
    let counted = queued(after).saturating_sub(queued(before));
    let packets = grown.saturating_sub(counted).min(u64::try_from(missing).unwrap_or(0));
    let place = "softnet backlog of this machine".to_owned();
    (packets > 0).then_some(Loss { place, packets, side: Side::Somewhere })
}

fn interface_growth(
    before: &BTreeMap<String, Interface>,
    after: &BTreeMap<String, Interface>,
) -> BTreeMap<String, Interface> {
    let grown = |(name, after): (&String, &Interface)| {
        let before = before.get(name)?;
        let interface = Interface {
            rx_dropped: after.rx_dropped.saturating_sub(before.rx_dropped),
            tx_dropped: after.tx_dropped.saturating_sub(before.tx_dropped),
        };
        Some((name.clone(), interface))
    };
    after.iter().filter_map(grown).collect()
}

/// By how much the balancer's counters rose; nothing, and a note, if that cannot be known.
fn balancer_growth(before: &Reading, after: &Reading, notes: &mut Vec<String>) -> Balancer {
    let (before, after) = match (&before.balancer, &after.balancer) {
        (Some(before), Some(after)) if before.boot_id == after.boot_id => (before, after),
        (Some(_), Some(_)) => {
            notes.push("the balancer was restarted: its counters are not in the ledger".to_owned());
            return Balancer::default();
        }
        (Some(_), None) | (None, Some(_)) => {
            notes
                .push("the balancer answered once only: its counters are not in the ledger".into());
            return Balancer::default();
        }
        (None, None) => return Balancer::default(),
    };
    Balancer {
        boot_id: after.boot_id.clone(),
        drops: growth(&before.drops, &after.drops),
        sockets: growth(&before.sockets, &after.sockets),
        interfaces: interface_growth(&before.interfaces, &after.interfaces),
        active: after.active,
    }
}

/// A counter that was not there before has risen from 0.
fn growth<K: Ord + Clone>(before: &BTreeMap<K, u64>, after: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let old = |key| before.get(key).copied().unwrap_or(0);
    after.iter().map(|(key, value)| (key.clone(), value.saturating_sub(old(key)))).collect()
}

/// Whether fewer packets were sent than the pace asked for.
#[must_use]
pub fn fell_behind(due: u64, sent: u64) -> bool {
    due.saturating_sub(sent) > SLACK_PACKETS + (due as f64 * SLACK) as u64
}

/// Who set the limit: where most of the lost packets were lost, else whether all were sent.
fn limit(due: u64, sent: u64, received: u64, losses: &[Loss], unexplained: i64) -> Limit {
    if received >= sent {
        return if fell_behind(due, sent) { Limit::Generator } else { Limit::None };
    }
    let at = |side| losses.iter().filter(|l| l.side == side).map(|l| l.packets).sum::<u64>();
    let unknown = at(Side::Somewhere) + u64::try_from(unexplained).unwrap_or(0);
    let parties = [
        (Limit::Device, at(Side::Device)),
        (Limit::Receiver, at(Side::Receiver)),
        (Limit::Generator, at(Side::Generator)),
        (Limit::Unknown, unknown),
    ];
    let most = parties.iter().map(|(_, packets)| *packets).max().unwrap_or(0);
    // Of equals the first: in doubt it is the device, never somebody else's fault.
    parties.iter().find(|(_, packets)| *packets == most).map_or(Limit::Unknown, |(limit, _)| *limit)
}

/// Use of each core between two readings.
#[must_use]
pub fn cores(before: &[CoreTime], after: &[CoreTime]) -> Vec<Core> {
    let use_of = |after: &CoreTime| {
        let before = before.iter().find(|b| b.core == after.core)?;
        let total = after.total.checked_sub(before.total).filter(|t| *t > 0)? as f64;
        let share = |after: u64, before: u64| after.saturating_sub(before) as f64 / total;
        Some(Core {
            core: after.core,
            busy: (1.0 - share(after.idle, before.idle)).clamp(0.0, 1.0),
            softirq: share(after.interrupts, before.interrupts),
            stolen: share(after.stolen, before.stolen),
        })
    };
    after.iter().filter_map(use_of).collect()
}

fn signed(packets: u64) -> i64 {
    i64::try_from(packets).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
