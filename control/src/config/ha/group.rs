//! `[[ha.group]]`: which addresses are owned together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use dataplane_api::service::{Forwarding, GROUPS_MAX};

use super::super::error::{Error, Sink};
use super::super::read::Section;
use super::super::service::check_address;
use super::super::suggest::nearest;
use super::super::{checked_name, keys};
use super::{Around, Names, addresses};
use crate::failover::settings::Group;

/// Most gateways over all groups.
const GATEWAYS_MAX: usize = 64;
/// Name of the group if the file has none.
const DEFAULT: &str = "default";

/// Reads all of them; what none names belongs to the first.
pub(super) fn read(
    s: &Section<'_>,
    names: Names<'_>,
    around: &Around<'_>,
    sink: &mut Sink,
) -> Vec<Group> {
    let sections = s.sections("group", "[[ha.group]]", keys::HA_GROUP, sink);
    if let Some(extra) = sections.get(GROUPS_MAX) {
        let message = format!("more than {GROUPS_MAX} groups");
        sink.push(Error::new(extra.span.clone(), message, "one too many"));
    }
    let mut reader = Reader { names, around, taken: BTreeMap::new(), called: BTreeMap::new() };
    let mut groups: Vec<Group> =
        sections.iter().filter_map(|section| reader.group(section, sink)).collect();
    if let (Some(second), true) = (sections.get(1), fullnat(around)) {
        let message = "full NAT and more than one group do not go together";
        let error = Error::new(second.span.clone(), message, "the second group");
        sink.push(error.help(
            "local addresses of [fullnat] are not divided between groups: use `nat`, or one group",
        ));
    }
    if groups.iter().map(|g| g.gateways.len()).sum::<usize>() > GATEWAYS_MAX {
        let message = format!("more than {GATEWAYS_MAX} gateways");
        sink.push(Error::new(s.place("group"), message, "too many"));
    }
    if sections.is_empty() {
        let (addresses, gateways) = (Vec::new(), Vec::new());
        groups.push(Group { name: DEFAULT.to_owned(), prefer: None, addresses, gateways });
    }
    if let Some(first) = groups.first_mut() {
        let rest = reader.around.all().into_iter().filter(|a| !reader.taken.contains_key(a));
        first.addresses.extend(rest);
    }
    groups
}

fn fullnat(around: &Around<'_>) -> bool {
    around.services.iter().any(|p| p.service.forwarding == Forwarding::Fullnat)
}

impl Around<'_> {
    /// Every address that moves with its owner.
    fn all(&self) -> BTreeSet<IpAddr> {
        let vips = self.services.iter().flat_map(|p| &p.service.listen).map(|l| l.address);
        vips.chain(self.local.addresses.iter().copied()).collect()
    }

    /// Whether it is one of a real server.
    pub(super) fn is_real(&self, address: IpAddr) -> bool {
        self.services.iter().any(|p| p.service.all_reals().any(|r| r.address == address))
    }
}

struct Reader<'a> {
    names: Names<'a>,
    around: &'a Around<'a>,
    /// Addresses of groups so far, with their places.
    taken: BTreeMap<IpAddr, Range<usize>>,
    called: BTreeMap<String, Range<usize>>,
}

impl Reader<'_> {
    fn group(&mut self, s: &Section<'_>, sink: &mut Sink) -> Option<Group> {
        s.require("name", "name = \"web\"", sink);
        let name = checked_name(s, "name", sink);
        let prefer = s.string("prefer", sink);
        if let Some(prefer) = prefer.as_ref().filter(|p| !self.names.both.contains(&p.value)) {
            let [a, b] = self.names.both;
            let message = format!("there is no node `{}`", super::printable(prefer.value));
            let error = Error::new(prefer.span.clone(), message, format!("expected {a} or {b}"));
            sink.push(error.did_you_mean(nearest(prefer.value, &self.names.both)));
        }
        let all = self.around.all();
        let mut vips = Vec::new();
        for (address, span) in addresses(s, "addresses", sink) {
            if !all.contains(&address) {
                let message = format!("no service listens on {address}");
                let error = Error::new(span.clone(), message, "expected a VIP");
                sink.push(error.help("an address that real servers use as gateway: `gateways`"));
            }
            if self.take(address, &span, sink) {
                vips.push(address);
            }
        }
        let mut gateways = Vec::new();
        for (address, span) in addresses(s, "gateways", sink) {
            check_address(address, "a gateway", &span, sink);
            if all.contains(&address) || self.around.is_real(address) {
                let message = format!("{address} cannot be a gateway");
                let allowed = "expected an address that nothing else in this file has";
                sink.push(Error::new(span.clone(), message, allowed));
            }
            if self.take(address, &span, sink) {
                gateways.push(address);
            }
        }
        let name = name?;
        if let Some(first) = self.called.insert(name.value.to_owned(), name.span.clone()) {
            let message = format!("group `{}` is defined twice", name.value);
            sink.push(Error::new(name.span, message, "again").other(first, "first here"));
            return None;
        }
        let prefer = prefer.map(|p| p.value.to_owned());
        Some(Group { name: name.value.to_owned(), prefer, addresses: vips, gateways })
    }

    /// Notes whose it is; `false` if it is another group's already.
    fn take(&mut self, address: IpAddr, span: &Range<usize>, sink: &mut Sink) -> bool {
        if let Some(first) = self.taken.get(&address) {
            let message = format!("{address} is in a group already");
            let error = Error::new(span.clone(), message, "again");
            sink.push(error.other(first.clone(), "first here"));
            return false;
        }
        self.taken.insert(address, span.clone());
        true
    }
}
