//! Links, addresses and neighbours of the kernel, as last heard over netlink. Pure.
//!
//! Every message describes the present state of one thing, so applying a stream in order, or
//! repeating a part of it, ends in the same picture; a lost message is repaired by the next dump.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use crate::address::Mac;

/// What is known of the kernel's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// Links by kernel index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of the host: kernel index of the link, address, prefix length.
    pub addresses: BTreeSet<(u32, IpAddr, u8)>,
    /// Neighbours by kernel index of the link and address.
    pub neighbors: BTreeMap<(u32, IpAddr), Neighbor>,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Kernel name; empty while it is not known any more.
    pub name: String,
    /// Kernel index; another one after deletion and re-creation.
    pub ifindex: u32,
    /// Hardware address; zero if it has none of six bytes.
    pub mac: Mac,
    /// Whether it carries Ethernet frames (`ARPHRD_ETHER`); a tunnel or loopback does not.
    pub ethernet: bool,
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// Operational: has a carrier (`IFF_RUNNING`).
    pub running: bool,
    /// Receive queues in use if [`KernelState::set_details`] has told, else how many the driver
    /// allocated, which may be far more.
    pub rx_queues: u32,
    /// Transmit queues, likewise.
    pub tx_queues: u32,
    /// Driver (`veth`, `virtio_net`, `ixgbe`); empty if unknown.
    pub driver: String,
    /// Id of the XDP program on it.
    pub xdp_program: Option<u32>,
    /// Whether that program runs on socket buffers.
    pub xdp_generic: bool,
    /// Queues and driver were measured; what a message says of them is ignored from then on.
    pub(crate) detailed: bool,
}

/// One neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// Its hardware address, if known and six bytes long.
    pub mac: Option<Mac>,
    /// Whether packets may be sent to it.
    pub reachability: Reachability,
}

/// What the kernel thinks of a neighbour (`NUD_*` in `include/uapi/linux/neighbour.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// `NUD_REACHABLE`, `STALE`, `DELAY`, `PROBE`, `PERMANENT`, `NOARP`: the address is valid.
    Usable,
    /// `NUD_INCOMPLETE` or `NONE`: being resolved.
    Incomplete,
    /// `NUD_FAILED`: nobody answered.
    Failed,
}

/// How the kernel would send a packet to some destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Kernel index of the link it leaves by.
    pub ifindex: u32,
    /// Router on the way; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Source address the kernel would use.
    pub source: Option<IpAddr>,
    /// MTU set on the route, in bytes, if any.
    pub mtu: Option<u32>,
    /// The destination is an address of this host.
    pub local: bool,
}

impl KernelState {
    /// Takes in one message. True if that changed anything.
    pub fn apply(&mut self, message: &Message) -> bool {
        match message {
            Message::NewLink(link) => self.new_link(link),
            Message::DelLink(link) => self.delete_link(link),
            Message::NewAddress(address) => {
                address_of(address).is_some_and(|address| self.addresses.insert(address))
            }
            Message::DelAddress(address) => {
                address_of(address).is_some_and(|address| self.addresses.remove(&address))
            }
            Message::NewNeighbour(neighbor) => neighbor_of(neighbor)
                .is_some_and(|(key, value)| self.neighbors.insert(key, value) != Some(value)),
            Message::DelNeighbour(neighbor) => {
                neighbor_of(neighbor).is_some_and(|(key, _)| self.neighbors.remove(&key).is_some())
            }
            _ => false,
        }
    }

    /// The link with this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Whether `address` belongs to this host.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(_, local, _)| *local == address)
    }

    /// Sets what netlink does not tell of a link: queues in use and driver. True if it changed.
    pub fn set_details(&mut self, ifindex: u32, rx: u32, tx: u32, driver: &str) -> bool {
        let Some(link) = self.links.get_mut(&ifindex) else { return false };
        let old = (link.rx_queues, link.tx_queues, link.detailed);
        let changed = old != (rx, tx, true) || link.driver != driver;
        (link.rx_queues, link.tx_queues, link.detailed) = (rx, tx, true);
        driver.clone_into(&mut link.driver);
        changed
    }

    fn new_link(&mut self, message: &LinkMessage) -> bool {
        // A bridge speaks of its ports in link messages of its own family.
        if message.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        let ifindex = message.header.index;
        let old = self.links.get(&ifindex);
        let mut link = old.cloned().unwrap_or_default();
        link.ifindex = ifindex;
        link.ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        link.up = message.header.flags.contains(LinkFlags::Up);
        link.running = message.header.flags.contains(LinkFlags::Running);
        // Attributes that a partial message leaves out keep their value.
        message.attributes.iter().for_each(|attribute| link.take(attribute));
        if old == Some(&link) {
            return false;
        }
        // A name belongs to one link. What became of its former owner was lost, or is told next.
        for other in self.links.values_mut() {
            if other.ifindex != ifindex && other.name == link.name {
                other.name.clear();
            }
        }
        self.links.insert(ifindex, link);
        true
    }

    fn delete_link(&mut self, message: &LinkMessage) -> bool {
        // In the bridge's family this says that a port left the bridge, not that it is gone.
        if message.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        self.forget(message.header.index)
    }

    /// Drops a link, and what the kernel flushes with it without telling of each.
    fn forget(&mut self, ifindex: u32) -> bool {
        self.addresses.retain(|(index, _, _)| *index != ifindex);
        self.neighbors.retain(|(index, _), _| *index != ifindex);
        self.links.remove(&ifindex).is_some()
    }
}

impl Link {
    fn take(&mut self, attribute: &LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => name.clone_into(&mut self.name),
            LinkAttribute::Mtu(mtu) => self.mtu = *mtu,
            LinkAttribute::Address(bytes) => self.mac = mac(bytes).unwrap_or_default(),
            LinkAttribute::NumRxQueues(count) if !self.detailed => self.rx_queues = *count,
            LinkAttribute::NumTxQueues(count) if !self.detailed => self.tx_queues = *count,
            LinkAttribute::LinkInfo(infos) if !self.detailed => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        self.driver = kind.to_string();
                    }
                }
            }
            LinkAttribute::Xdp(infos) => self.take_xdp(infos),
            _ => {}
        }
    }

    fn take_xdp(&mut self, infos: &[LinkXdp]) {
        self.xdp_program = None;
        self.xdp_generic = false;
        for info in infos {
            match info {
                LinkXdp::Attached(attached) => {
                    self.xdp_generic = *attached == XdpAttached::SocketBuffer;
                }
                // One id for each place; `ProgId` is absent when there are several.
                LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id)
                    if *id != 0 =>
                {
                    self.xdp_program = self.xdp_program.or(Some(*id));
                }
                _ => {}
            }
        }
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn address_of(message: &AddressMessage) -> Option<(u32, IpAddr, u8)> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link `Address` is the far end, and `Local` ours.
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    Some((message.header.index, found?, message.header.prefix_len))
}

fn neighbor_of(message: &NeighbourMessage) -> Option<((u32, IpAddr), Neighbor)> {
    // Proxy entries say for whom we answer, not whom we can reach.
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut destination, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                destination = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                destination = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => address = mac(bytes),
            _ => {}
        }
    }
    let reachability = match message.header.state {
        NeighbourState::Failed => Reachability::Failed,
        NeighbourState::Incomplete | NeighbourState::None => Reachability::Incomplete,
        _ => Reachability::Usable,
    };
    Some(((message.header.ifindex, destination?), Neighbor { mac: address, reachability }))
}

#[cfg(test)]
mod tests;
