use netlink_packet_route::address::AddressScope;
use netlink_packet_route::link::InfoKind;
use proptest::prelude::*;

use super::*;

fn link(ifindex: u32, name: &str, flags: LinkFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = flags;
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, ifindex as u8]),
        LinkAttribute::NumRxQueues(8),
        LinkAttribute::NumTxQueues(8),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::None)]),
    ];
    message
}

fn address(ifindex: u32, last: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = ifindex;
    message.header.prefix_len = 24;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Address(IpAddr::from([10, 0, 0, last]))];
    message
}

fn neighbor(ifindex: u32, last: u8, state: NeighbourState) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = ifindex;
    message.header.state = state;
    message.attributes =
        vec![NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, last].into()))];
    if !matches!(state, NeighbourState::Incomplete | NeighbourState::Failed) {
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 1, last]));
    }
    message
}

const UP: LinkFlags = LinkFlags::Up.union(LinkFlags::Running);

#[test]
fn a_link_is_read_with_everything_that_matters() {
    let mut state = KernelState::default();
    assert!(state.apply(&Message::NewLink(link(3, "eth0", LinkFlags::Up))));
    let eth0 = state.link_named("eth0").unwrap();
    assert_eq!((eth0.ifindex, eth0.mtu, eth0.mac.0[5]), (3, 1500, 3));
    assert!(eth0.ethernet && eth0.up && !eth0.running);
    assert_eq!((eth0.rx_queues, eth0.driver.as_str(), eth0.xdp_program), (8, "veth", None));
    assert!(!state.apply(&Message::NewLink(link(3, "eth0", LinkFlags::Up))), "nothing new");
}

#[test]
fn a_program_is_seen_with_its_place_and_its_removal() {
    let mut state = KernelState::default();
    let program = |infos: &[LinkXdp]| {
        let mut message = link(3, "eth0", UP);
        message.attributes.pop();
        message.attributes.push(LinkAttribute::Xdp(infos.to_vec()));
        Message::NewLink(message)
    };
    let generic = LinkXdp::Attached(XdpAttached::SocketBuffer);
    state.apply(&program(&[generic, LinkXdp::ProgId(7), LinkXdp::SkbProgId(7)]));
    assert_eq!((state.links[&3].xdp_program, state.links[&3].xdp_generic), (Some(7), true));
    let native = LinkXdp::Attached(XdpAttached::Driver);
    state.apply(&program(&[native, LinkXdp::DrvProgId(8)]));
    assert_eq!((state.links[&3].xdp_program, state.links[&3].xdp_generic), (Some(8), false));
    state.apply(&program(&[LinkXdp::Attached(XdpAttached::None)]));
    assert_eq!(state.links[&3].xdp_program, None);
}

#[test]
fn measured_queues_outlive_later_messages_but_not_the_link() {
    let mut state = KernelState::default();
    state.apply(&Message::NewLink(link(3, "eth0", UP)));
    assert!(state.set_details(3, 1, 1, "virtio_net"));
    assert!(!state.set_details(3, 1, 1, "virtio_net"));
    state.apply(&Message::NewLink(link(3, "eth0", LinkFlags::empty())));
    assert_eq!((state.links[&3].rx_queues, state.links[&3].driver.as_str()), (1, "virtio_net"));
    state.apply(&Message::DelLink(link(3, "eth0", UP)));
    state.apply(&Message::NewLink(link(3, "eth0", UP)));
    assert_eq!(state.links[&3].rx_queues, 8);
}

#[test]
fn a_renamed_or_recreated_link_is_found_by_its_present_name_only() {
    let mut state = KernelState::default();
    state.apply(&Message::NewLink(link(3, "eth0", UP)));
    state.apply(&Message::NewLink(link(3, "wan0", UP)));
    assert!(state.link_named("eth0").is_none());
    assert_eq!(state.link_named("wan0").unwrap().ifindex, 3);
    // The message about the deletion of the old one was lost.
    state.apply(&Message::NewLink(link(9, "wan0", UP)));
    assert_eq!(state.link_named("wan0").unwrap().ifindex, 9);
}

#[test]
fn a_deleted_link_takes_its_addresses_and_neighbours_along() {
    let mut state = KernelState::default();
    for ifindex in [3, 4] {
        state.apply(&Message::NewLink(link(ifindex, &format!("eth{ifindex}"), UP)));
        state.apply(&Message::NewAddress(address(ifindex, 1)));
        let reachable = neighbor(ifindex, 7, NeighbourState::Reachable);
        state.apply(&Message::NewNeighbour(reachable));
    }
    assert!(state.apply(&Message::DelLink(link(3, "eth3", UP))));
    assert!(state.addresses.iter().all(|(ifindex, _, _)| *ifindex == 4));
    assert!(state.neighbors.keys().all(|(ifindex, _)| *ifindex == 4));
    assert!(state.is_local("10.0.0.1".parse().unwrap()));
}

#[test]
fn what_a_bridge_says_of_its_ports_changes_nothing() {
    let mut state = KernelState::default();
    state.apply(&Message::NewLink(link(3, "eth0", UP)));
    let mut port = link(3, "eth0", LinkFlags::empty());
    port.header.interface_family = AddressFamily::Bridge;
    assert!(!state.apply(&Message::NewLink(port.clone())));
    assert!(!state.apply(&Message::DelLink(port)));
    assert!(state.links[&3].up);
}

#[test]
fn every_valid_neighbour_state_is_usable_and_the_others_are_told_apart() {
    let mut state = KernelState::default();
    let key = (3, IpAddr::from([10, 0, 0, 7]));
    use NeighbourState as N;
    for valid in [N::Reachable, N::Stale, N::Delay, N::Probe, N::Permanent, N::Noarp] {
        state.apply(&Message::NewNeighbour(neighbor(3, 7, valid)));
        let known = state.neighbors[&key];
        assert_eq!(known.reachability, Reachability::Usable, "{valid}");
        assert_eq!(known.mac, Some(Mac([2, 0, 0, 0, 1, 7])));
    }
    state.apply(&Message::NewNeighbour(neighbor(3, 7, N::Incomplete)));
    assert_eq!(state.neighbors[&key].reachability, Reachability::Incomplete);
    state.apply(&Message::NewNeighbour(neighbor(3, 7, N::Failed)));
    assert_eq!(state.neighbors[&key].reachability, Reachability::Failed);
    assert!(state.apply(&Message::DelNeighbour(neighbor(3, 7, N::Failed))));
    assert!(state.neighbors.is_empty());
    let mut proxy = neighbor(3, 7, N::Permanent);
    proxy.header.flags = NeighbourFlags::Proxy;
    assert!(!state.apply(&Message::NewNeighbour(proxy)));
}

/// One change of a small kernel.
#[derive(Clone, Debug)]
enum Change {
    Create(u32, u8),
    Delete(u32),
    Rename(u32, u8),
    Flags(u32, bool, bool),
    Address(u32, u8, bool),
    Neighbor(u32, u8, Option<bool>),
}

fn change() -> impl Strategy<Value = Change> {
    let index = 1..5u32;
    prop_oneof![
        (index.clone(), 0..3u8).prop_map(|(i, n)| Change::Create(i, n)),
        index.clone().prop_map(Change::Delete),
        (index.clone(), 0..3u8).prop_map(|(i, n)| Change::Rename(i, n)),
        (index.clone(), any::<bool>(), any::<bool>()).prop_map(|(i, u, r)| Change::Flags(i, u, r)),
        (index.clone(), 0..3u8, any::<bool>()).prop_map(|(i, a, new)| Change::Address(i, a, new)),
        (index, 0..3u8, any::<Option<bool>>()).prop_map(|(i, a, s)| Change::Neighbor(i, a, s)),
    ]
}

/// A kernel that refuses what the real one refuses, and tells of the rest.
#[derive(Default)]
struct Kernel {
    links: BTreeMap<u32, (u8, LinkFlags)>,
    addresses: BTreeSet<(u32, u8)>,
    neighbors: BTreeMap<(u32, u8), NeighbourState>,
}

impl Kernel {
    fn link(&self, ifindex: u32) -> Message {
        let (name, flags) = self.links[&ifindex];
        Message::NewLink(link(ifindex, &format!("eth{name}"), flags))
    }

    fn make(&mut self, change: &Change) -> Option<Message> {
        let taken = |name: u8| self.links.values().any(|(other, _)| *other == name);
        match *change {
            Change::Create(i, name) if !self.links.contains_key(&i) && !taken(name) => {
                self.links.insert(i, (name, LinkFlags::empty()));
            }
            Change::Rename(i, name) if !taken(name) => self.links.get_mut(&i)?.0 = name,
            Change::Flags(i, up, running) => {
                let up = if up { LinkFlags::Up } else { LinkFlags::empty() };
                let running = if running { LinkFlags::Running } else { LinkFlags::empty() };
                self.links.get_mut(&i)?.1 = up | running;
            }
            Change::Delete(i) => {
                let message = self.links.contains_key(&i).then(|| self.link(i))?;
                self.links.remove(&i);
                self.addresses.retain(|(index, _)| *index != i);
                self.neighbors.retain(|(index, _), _| *index != i);
                let Message::NewLink(message) = message else { return None };
                return Some(Message::DelLink(message));
            }
            Change::Address(i, last, true) if self.links.contains_key(&i) => {
                self.addresses.insert((i, last));
                return Some(Message::NewAddress(address(i, last)));
            }
            Change::Address(i, last, false) if self.addresses.remove(&(i, last)) => {
                return Some(Message::DelAddress(address(i, last)));
            }
            Change::Neighbor(i, last, Some(known)) if self.links.contains_key(&i) => {
                let state = if known { NeighbourState::Stale } else { NeighbourState::Failed };
                self.neighbors.insert((i, last), state);
                return Some(Message::NewNeighbour(neighbor(i, last, state)));
            }
            Change::Neighbor(i, last, None) => {
                let state = self.neighbors.remove(&(i, last))?;
                return Some(Message::DelNeighbour(neighbor(i, last, state)));
            }
            _ => return None,
        }
        let (Change::Create(i, _) | Change::Rename(i, _) | Change::Flags(i, _, _)) = *change else {
            return None;
        };
        Some(self.link(i))
    }

    fn dump(&self) -> KernelState {
        let mut state = KernelState::default();
        for ifindex in self.links.keys() {
            state.apply(&self.link(*ifindex));
        }
        for (ifindex, last) in &self.addresses {
            state.apply(&Message::NewAddress(address(*ifindex, *last)));
        }
        for ((ifindex, last), known) in &self.neighbors {
            state.apply(&Message::NewNeighbour(neighbor(*ifindex, *last, *known)));
        }
        state
    }
}

proptest! {
    #[test]
    fn events_in_order_give_what_a_dump_gives_even_if_the_last_ones_repeat(
        changes in prop::collection::vec(change(), 0..60),
        repeated in 0..60usize,
    ) {
        let mut kernel = Kernel::default();
        let events: Vec<_> = changes.iter().filter_map(|change| kernel.make(change)).collect();
        let mut state = KernelState::default();
        for event in &events {
            state.apply(event);
        }
        prop_assert_eq!(&state, &kernel.dump());
        // Events that arrive while a dump is under way may be older than what it said.
        for event in &events[events.len().saturating_sub(repeated)..] {
            state.apply(event);
        }
        prop_assert_eq!(&state, &kernel.dump());
    }
}
