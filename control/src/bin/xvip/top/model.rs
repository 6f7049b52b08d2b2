//! Two looks at the services become rates; rows are chosen and sorted. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use control::verbs::{ServicesResult, StatusResult};
use dataplane_api::message::RealStatus;
use serde::Serialize;

/// One look.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// When, in milliseconds of any clock that does not jump.
    pub(crate) at_ms: u64,
    pub(crate) status: StatusResult,
    pub(crate) services: ServicesResult,
}

/// What goes on per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rates {
    /// New connections.
    pub(crate) conns: f64,
    /// Packets, both ways.
    pub(crate) packets: f64,
    /// Bits towards the real server.
    pub(crate) bits_in: f64,
    /// Bits from the real server.
    pub(crate) bits_out: f64,
}

impl Rates {
    fn add(&mut self, other: Self) {
        self.conns += other.conns;
        self.packets += other.packets;
        self.bits_in += other.bits_in;
        self.bits_out += other.bits_out;
    }
}

/// A service or a real server.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// What the service listens on, or the real server's address.
    pub(crate) address: String,
    /// Of the checks and operators; of a service, who serves it.
    pub(crate) state: String,
    pub(crate) weight: u64,
    pub(crate) active: u64,
    pub(crate) inactive: u64,
    #[serde(flatten)]
    pub(crate) rates: Rates,
}

impl Row {
    /// Whether an operator should look at it.
    pub(crate) fn troubled(&self) -> bool {
        matches!(self.state.as_str(), "down" | "cannot-check" | "unknown" | "nobody" | "sorry")
            || self.state == "fallback"
    }
}

/// A service with its real servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Group {
    pub(crate) service: Row,
    pub(crate) reals: Vec<Row>,
}

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    /// As in the file.
    #[default]
    File,
    Name,
    State,
    Active,
    Conns,
    Packets,
    Bits,
}

impl Sort {
    pub(crate) const ALL: [(char, &'static str, Self); 7] = [
        ('f', "file", Self::File),
        ('n', "name", Self::Name),
        ('s', "state", Self::State),
        ('a', "active", Self::Active),
        ('c', "conn/s", Self::Conns),
        ('k', "packets/s", Self::Packets),
        ('b', "bit/s", Self::Bits),
    ];

    /// The most interesting first.
    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let bits = |r: &Row| r.rates.bits_in + r.rates.bits_out;
        match self {
            Self::File => Ordering::Equal,
            Self::Name => a.name.cmp(&b.name),
            Self::State => b.troubled().cmp(&a.troubled()).then(a.state.cmp(&b.state)),
            Self::Active => b.active.cmp(&a.active),
            Self::Conns => b.rates.conns.total_cmp(&a.rates.conns),
            Self::Packets => b.rates.packets.total_cmp(&a.rates.packets),
            Self::Bits => bits(b).total_cmp(&bits(a)),
        }
    }
}

/// Services with rates from `before` to `now`; without `before`, or where a counter has begun anew,
/// rates are 0.
pub(crate) fn groups(before: Option<&Sample>, now: &Sample) -> Vec<Group> {
    let mut old: BTreeMap<(&str, &str, &str), &RealStatus> = BTreeMap::new();
    for service in before.iter().flat_map(|b| &b.services.services) {
        for real in &service.reals {
            old.insert((&service.name, &real.name, &real.address), real);
        }
    }
    let elapsed_ms = before.map_or(0, |b| now.at_ms.saturating_sub(b.at_ms));
    let mut groups = Vec::new();
    for service in &now.services.services {
        let health = now.services.health.iter().find(|h| h.service == service.name);
        let mut sum = Row {
            name: service.name.clone(),
            address: service.listen.join(" "),
            state: service.serves.clone(),
            ..Row::default()
        };
        let mut reals = Vec::new();
        for real in &service.reals {
            let known = health.and_then(|h| {
                h.reals.iter().find(|r| r.name == real.name && r.address == real.address)
            });
            let state = match known {
                _ if real.removed => "removed".to_owned(),
                _ if real.fallback => "reserve".to_owned(),
                Some(known) => known.state.clone(),
                None => "-".to_owned(),
            };
            let before = old.get(&(&*service.name, &*real.name, &*real.address));
            let rates = before.map_or_else(Rates::default, |b| rates(b, real, elapsed_ms));
            sum.rates.add(rates);
            sum.weight += u64::from(real.weight);
            sum.active += real.active;
            sum.inactive += real.inactive;
            reals.push(Row {
                name: real.name.clone(),
                address: real.address.clone(),
                state,
                weight: u64::from(real.weight),
                active: real.active,
                inactive: real.inactive,
                rates,
            });
        }
        groups.push(Group { service: sum, reals });
    }
    groups
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn rates(before: &RealStatus, now: &RealStatus, elapsed_ms: u64) -> Rates {
    let per_second = |before: u64, now: u64| match (now.checked_sub(before), elapsed_ms) {
        (Some(more), 1..) => more as f64 * 1000.0 / elapsed_ms as f64,
        _ => 0.0,
    };
    let (packets_in, packets_out) = (before.packets_in, before.packets_out);
    Rates {
        conns: per_second(before.opened, now.opened),
        packets: per_second(packets_in, now.packets_in) + per_second(packets_out, now.packets_out),
        bits_in: per_second(before.bytes_in, now.bytes_in) * 8.0,
        bits_out: per_second(before.bytes_out, now.bytes_out) * 8.0,
    }
}

/// Everything together.
pub(crate) fn total(groups: &[Group]) -> (Rates, u64) {
    let mut rates = Rates::default();
    for group in groups {
        rates.add(group.service.rates);
    }
    (rates, groups.iter().map(|g| g.service.active).sum())
}

/// Only what has `filter` in its name, address or state (a service is kept for the sake of its real
/// servers, and all of them for its own sake); services and their real servers sorted.
pub(crate) fn arrange(groups: &[Group], filter: &str, sort: Sort, reversed: bool) -> Vec<Group> {
    let filter = filter.to_lowercase();
    let wanted = |row: &Row| {
        [&row.name, &row.address, &row.state].iter().any(|t| t.to_lowercase().contains(&filter))
    };
    let mut kept: Vec<Group> = Vec::new();
    for group in groups {
        if wanted(&group.service) {
            kept.push(group.clone());
            continue;
        }
        let reals: Vec<_> = group.reals.iter().filter(|r| wanted(r)).cloned().collect();
        if !reals.is_empty() {
            kept.push(Group { service: group.service.clone(), reals });
        }
    }
    let order = |a: &Row, b: &Row| {
        let order = sort.compare(a, b);
        if reversed { order.reverse() } else { order }
    };
    kept.sort_by(|a, b| order(&a.service, &b.service));
    for group in &mut kept {
        group.reals.sort_by(order);
    }
    if reversed && sort == Sort::File {
        kept.reverse();
    }
    kept
}

/// Share of the workers' turns that found packets, in percent.
pub(crate) fn busy(before: Option<&Sample>, now: &Sample) -> Option<u64> {
    let polls = |sample: &Sample| {
        let workers = &sample.status.data_plane.as_ref()?.workers;
        let sum = |f: fn(&dataplane_api::message::WorkerStatus) -> u64| workers.iter().map(f).sum();
        Some((sum(|w| w.polls), sum(|w| w.busy_polls)))
    };
    let (before, now): ((u64, u64), (u64, u64)) = (polls(before?)?, polls(now)?);
    let all = now.0.checked_sub(before.0)?;
    now.1.checked_sub(before.1)?.saturating_mul(100).checked_div(all)
}
