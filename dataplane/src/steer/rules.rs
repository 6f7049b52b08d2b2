//! What the steering program is told, and its form in the maps (`bpf/steer.h`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;

use anyhow::ensure;

use crate::address::Address;

/// Port ranges of one endpoint; `RANGES` in `bpf/steer.h`.
const RANGES: usize = 8;
/// What an address is to the program: bits of a value in [`Rules::addresses`].
pub mod flag {
    /// Clients connect to it.
    pub const VIP: u32 = 1;
    /// A real server.
    pub const REAL: u32 = 2;
    /// A source address of full NAT.
    pub const LOCAL: u32 = 4;
    /// The kernel's own.
    pub const HOST: u32 = 8;
    /// Answered for, but nobody connects to it.
    pub const GATEWAY: u32 = 16;
}

/// Who gets a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The data plane.
    Ours,
    /// The kernel.
    Kernel,
    /// The data plane, but new connections of TCP: those are the kernel's.
    Sorry,
    /// The data plane, but for connections of TCP that the kernel has.
    Shared,
}

impl Action {
    /// `enum owner` of `bpf/steer.h`.
    const fn owner(self) -> u16 {
        match self {
            Self::Kernel => 0,
            Self::Ours => 1,
            Self::Sorry => 2,
            Self::Shared => 3,
        }
    }
}

/// First port, last port, and whose they are.
pub type PortAction = (u16, u16, Action);

/// What the program should know; whole, never a difference. Ports in host order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Bits of [`flag`] for each address; at most 16,384.
    pub addresses: BTreeMap<Address, u32>,
    /// By VIP, port and protocol number. With `ranges`, `returns` and one more for each real that has
    /// any: at most 40,960.
    pub services: BTreeMap<(Address, u16, u8), Action>,
    /// By VIP and protocol number: first and last port; at most 8 each. Asked after `services`; the
    /// first that matches decides.
    pub ranges: BTreeMap<(Address, u8), Vec<PortAction>>,
    /// Real, source port (0: any) and protocol number of replies that come back through us.
    pub returns: BTreeSet<(Address, u16, u8)>,
    /// First and last port of full NAT; `(0, 0)` for none.
    pub local_ports: (u16, u16),
}

/// Maps that hold [`Rules`], in the order in which additions are written: an address makes the
/// program look at its endpoints, so it comes last, and goes first.
pub(super) const RULES: [&CStr; 2] = [c"endpoints", c"addresses"];
/// Content of the maps, as bytes.
pub(super) type Content = [BTreeMap<Vec<u8>, Vec<u8>>; RULES.len()];

const ANY_PORT: PortAction = (0, u16::MAX, Action::Ours);

/// Address, port, protocol and role: one of [`flag`].
type Endpoint = (Address, u16, u8, u32);

/// `struct endpoint` of `bpf/steer.h`.
fn key((address, port, protocol, role): Endpoint) -> Vec<u8> {
    let mut key = address.octets().to_vec();
    key.extend(port.to_ne_bytes());
    key.extend([protocol, role as u8]);
    key
}

/// `struct about`.
fn about(flags: u32, local_ports: (u16, u16)) -> Vec<u8> {
    let (first, last) = match local_ports {
        _ if flags & flag::LOCAL == 0 => (0, 0),
        // An empty range contains nothing, not even port 0.
        (0, 0) => (1, 0),
        ports => ports,
    };
    let mut value = flags.to_ne_bytes().to_vec();
    value.extend([first, last].into_iter().flat_map(u16::to_ne_bytes));
    value
}

/// `struct range[RANGES]`. Unused ones contain port 0, as the kernel's: nobody's, that is.
fn value(ranges: &[PortAction]) -> Vec<u8> {
    let numbers = ranges.iter().flat_map(|&(first, last, action)| [first, last, action.owner()]);
    let mut value: Vec<u8> = numbers.flat_map(u16::to_ne_bytes).collect();
    value.resize(RANGES * 3 * size_of::<u16>(), 0);
    value
}

fn endpoints(rules: &Rules) -> BTreeMap<Endpoint, Vec<PortAction>> {
    let mut endpoints: BTreeMap<Endpoint, Vec<PortAction>> = BTreeMap::new();
    for (&(vip, port, protocol), &action) in &rules.services {
        endpoints.insert((vip, port, protocol, flag::VIP), vec![(port, port, action)]);
    }
    for (&(vip, protocol), list) in &rules.ranges {
        endpoints.entry((vip, 0, protocol, flag::VIP)).or_default().extend(list);
    }
    for &(real, port, protocol) in &rules.returns {
        let ports = if port == 0 { ANY_PORT } else { (port, port, Action::Ours) };
        endpoints.insert((real, port, protocol, flag::REAL), vec![ports]);
        // For later fragments, which have no ports.
        endpoints.insert((real, 0, 0, flag::REAL), vec![ANY_PORT]);
    }
    endpoints
}

impl Rules {
    /// What is done with a packet to a VIP's port, as the program does it.
    #[must_use]
    pub fn to_vip(&self, vip: Address, port: u16, protocol: u8) -> Action {
        if self.addresses.get(&vip).is_none_or(|flags| flags & flag::VIP == 0) {
            return Action::Kernel;
        }
        let ranges = self.ranges.get(&(vip, protocol)).map_or(&[][..], Vec::as_slice);
        let ranged = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&port));
        let exact = self.services.get(&(vip, port, protocol)).copied();
        exact.or(ranged.map(|range| range.2)).unwrap_or(Action::Kernel)
    }
}

pub(super) fn encode(rules: &Rules) -> anyhow::Result<Content> {
    let mut content = Content::default();
    let [listed, addresses] = &mut content;
    for (endpoint, ranges) in endpoints(rules) {
        ensure!(
            ranges.len() <= RANGES,
            "{} port ranges on {}: at most {RANGES} for each protocol",
            ranges.len(),
            endpoint.0
        );
        listed.insert(key(endpoint), value(&ranges));
    }
    for (address, &flags) in &rules.addresses {
        addresses.insert(address.octets().to_vec(), about(flags, rules.local_ports));
    }
    Ok(content)
}
