//! The netlink sockets: one that listens, one that asks.
//!
//! Used by the management thread only. Events are hints that make the picture fresh at once; a full
//! dump (each second, and whenever events were lost) makes it true. Both sockets are non-blocking
//! and every wait is bounded by [`TIMEOUT`]; only the kernel's own RTNL lock can take longer.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::Context;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ethtool;
use super::message::{errno, is_state, messages, parse, route_of, touches_routes};
use super::state::{KernelState, Route};
use crate::clock::{self, Instant};

/// Longest silence of the kernel while an answer is outstanding.
pub const TIMEOUT: Duration = Duration::from_millis(200);
/// Longest time one whole dump may take.
const DUMP_TIMEOUT: Duration = Duration::from_secs(2);
/// Receive buffer of the listening socket, in bytes: a few thousand events (a bridge full of
/// neighbours expiring at once) before any is lost.
const EVENTS_BUFFER: usize = 4 << 20;
/// The kernel fills dumps in pieces of at most 32 KiB (`netlink_recvmsg`,
/// `net/netlink/af_netlink.c`).
const DATAGRAM_MAX: usize = 64 << 10;
/// Most datagrams taken in by one [`Monitor::drain`]; the rest waits for the next.
const DRAIN_MAX: usize = 1024;

/// `RTNLGRP_*` of `include/uapi/linux/rtnetlink.h`: LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE,
/// IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NEXTHOP.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];

/// Connection to the kernel's network configuration, in the network namespace of the thread that
/// opened it.
#[derive(Debug)]
pub struct Monitor {
    events: Socket,
    requests: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    followed: BTreeSet<String>,
    /// A dump threw route events away; the next drain reports them.
    routes_changed: bool,
}

/// What a [`Monitor::drain`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// The [`KernelState`] is another one now.
    pub changed: bool,
    /// Routes, rules, addresses or links changed: ask for routes again.
    pub routes_changed: bool,
    /// Events were lost or not understood: a [`Monitor::dump`] is needed.
    pub lost: bool,
}

impl Monitor {
    /// Opens both sockets and subscribes; nothing is known before the first [`Monitor::dump`].
    ///
    /// # Errors
    /// If the kernel refuses a socket.
    pub fn open() -> anyhow::Result<Self> {
        Self::with_buffer(EVENTS_BUFFER)
    }

    /// As [`Monitor::open`], with another size of the buffer for events, in bytes.
    ///
    /// # Errors
    /// If the kernel refuses a socket.
    pub fn with_buffer(bytes: usize) -> anyhow::Result<Self> {
        let mut events = socket()?;
        // Beyond `net.core.rmem_max` only with CAP_NET_ADMIN; a smaller one means more dumps.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&events, bytes).is_err() {
            events.set_rx_buf_sz(bytes as u32).context("netlink: receive buffer")?;
        }
        // First, since binding drops memberships (`netlink_bind`, `net/netlink/af_netlink.c`).
        events.bind_auto().context("netlink: bind")?;
        for group in GROUPS {
            // Group 32 is missing before Linux 5.3; without it the dumps have to do.
            if let Err(error) = events.add_membership(group)
                && group != 32
            {
                return Err(error).with_context(|| format!("netlink: subscribe to group {group}"));
            }
        }
        let mut requests = socket()?;
        requests.bind_auto().context("netlink: bind")?;
        Ok(Self {
            events,
            requests,
            sequence: 0,
            buffer: vec![0; DATAGRAM_MAX],
            followed: BTreeSet::new(),
            routes_changed: false,
        })
    }

    /// Becomes readable when there is something to [`Monitor::drain`].
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Names the interfaces whose queues and driver are measured (others would cost system calls
    /// for nothing). Takes effect with the next event or dump.
    pub fn follow<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.followed = names.into_iter().map(str::to_owned).collect();
    }

    /// Takes in the events that wait; never blocks.
    pub fn drain(&mut self, state: &mut KernelState) -> Drained {
        let mut drained = Drained {
            routes_changed: std::mem::take(&mut self.routes_changed),
            ..Drained::default()
        };
        for _ in 0..DRAIN_MAX {
            match receive(&self.events, &mut self.buffer) {
                Ok(Some(length)) => {
                    for (header, payload) in messages(&self.buffer[..length]) {
                        take_event(&header, payload, state, &mut drained);
                    }
                }
                Ok(None) => break,
                // ENOBUFS: the queue overran. What still waits in it is older than the loss.
                Err(_) => {
                    drained.lost = true;
                    drained.routes_changed = true;
                    break;
                }
            }
        }
        if drained.changed {
            self.measure(state);
        }
        drained
    }

    /// Asks for everything anew. Events that were waiting are thrown away, because what the dump
    /// says is newer; if routes were among them, the next [`Monitor::drain`] says so.
    ///
    /// # Errors
    /// If the kernel does not answer in time or refuses; what was known before is still the best.
    pub fn dump(&mut self) -> anyhow::Result<KernelState> {
        self.discard_events();
        let mut state = KernelState::default();
        // A table that changes while it is dumped may come out with holes; the kernel says so.
        for _ in 0..3 {
            state = KernelState::default();
            let mut torn = false;
            for (name, question) in questions() {
                torn |= self
                    .request(question, NLM_F_DUMP, |message| {
                        state.apply(&message);
                    })
                    .with_context(|| format!("netlink: dump of {name}"))?;
            }
            if !torn {
                break;
            }
        }
        self.measure(&mut state);
        Ok(state)
    }

    /// How the kernel would send a packet marked `mark` (0 for none) to `destination`; none if it
    /// would not.
    ///
    /// # Errors
    /// If the kernel does not answer in time, or with something unexpected.
    pub fn route(&mut self, destination: IpAddr, mark: u32) -> anyhow::Result<Option<Route>> {
        let mut question = RouteMessage::default();
        let (family, prefix, address) = match destination {
            IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
        };
        question.header.address_family = family;
        question.header.destination_prefix_length = prefix;
        question.attributes.push(RouteAttribute::Destination(address));
        if mark != 0 {
            question.attributes.push(RouteAttribute::Mark(mark));
        }
        let mut answer = None;
        let asked = self.request(Message::GetRoute(question), 0, |message| {
            if let Message::NewRoute(route) = message {
                answer = Some(route);
            }
        });
        match asked.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) => Ok(answer.as_ref().and_then(route_of)),
            // No route; unreachable, prohibit, blackhole and throw routes (`fib_props` in
            // `net/ipv4/fib_semantics.c`); a link that is down.
            Err((
                Some(
                    libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EACCES
                    | libc::EINVAL
                    | libc::EAGAIN
                    | libc::ENETDOWN,
                ),
                _,
            )) => Ok(None),
            Err((_, error)) => {
                Err(error).with_context(|| format!("netlink: route to {destination}"))
            }
        }
    }

    /// Has the kernel resolve a neighbour, or confirm one that has become stale, as if it had a
    /// packet to send; the outcome arrives as an event.
    ///
    /// # Errors
    /// If the kernel refuses (no such interface, interface down) or does not answer in time.
    pub fn resolve(&mut self, ifindex: u32, address: IpAddr) -> anyhow::Result<()> {
        let mut entry = NeighbourMessage::default();
        entry.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        entry.header.ifindex = ifindex;
        // `neigh_add` of `net/core/neighbour.c`: makes an entry and calls `neigh_event_send`.
        entry.header.flags = NeighbourFlags::Use;
        entry.attributes.push(NeighbourAttribute::Destination(address.into()));
        self.request(Message::NewNeighbour(entry), NLM_F_ACK | NLM_F_CREATE, |_| {})
            .with_context(|| format!("netlink: resolve {address} on interface #{ifindex}"))?;
        Ok(())
    }

    /// Sends a request and hands each message of the answer to `each`. True if a dump was torn.
    pub(super) fn request(
        &mut self,
        message: Message,
        flags: u16,
        mut each: impl FnMut(Message),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.requests.send_to(&bytes, &SocketAddr::new(0, 0), libc::MSG_DONTWAIT)?;

        let last = clock::now().after(DUMP_TIMEOUT);
        let mut torn = false;
        loop {
            let until = clock::now().after(TIMEOUT).min(last);
            let length = self.wait(until)?;
            for (header, payload) in messages(&self.buffer[..length]) {
                // Answers to an earlier request that came too late.
                if header.sequence_number != self.sequence {
                    continue;
                }
                torn |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.message_type {
                    NLMSG_ERROR | NLMSG_DONE => return errno(payload).map(|()| torn),
                    kind => {
                        if let Some(message) = parse(kind, payload) {
                            each(message);
                        }
                        if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 {
                            return Ok(torn);
                        }
                    }
                }
            }
        }
    }

    /// The next datagram on the asking socket.
    fn wait(&mut self, until: Instant) -> io::Result<usize> {
        loop {
            if let Some(length) = receive(&self.requests, &mut self.buffer)? {
                return Ok(length);
            }
            let left = until.since(clock::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from the kernel"));
            }
            let timeout = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.requests, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Empties the listening socket; an overrun counts as a message.
    fn discard_events(&mut self) {
        for _ in 0..1 << 20 {
            match receive(&self.events, &mut self.buffer) {
                Ok(None) => return,
                Ok(Some(length)) => {
                    self.routes_changed |= messages(&self.buffer[..length])
                        .any(|(header, _)| touches_routes(header.message_type));
                }
                Err(_) => self.routes_changed = true,
            }
        }
    }

    fn measure(&self, state: &mut KernelState) {
        let followed: Vec<_> = state
            .links
            .values()
            .filter(|link| self.followed.contains(&link.name))
            .map(|link| (link.ifindex, link.name.clone(), link.driver.clone()))
            .collect();
        for (ifindex, name, kind) in followed {
            if let Some((rx, tx)) = ethtool::queues(&self.requests, &name, ifindex) {
                let driver = ethtool::driver(&self.requests, &name).unwrap_or(kind);
                state.set_details(ifindex, rx, tx, &driver);
            }
        }
    }
}

fn socket() -> anyhow::Result<Socket> {
    let socket = Socket::new(NETLINK_ROUTE).context("netlink: socket")?;
    socket.set_non_blocking(true).context("netlink: non-blocking")?;
    Ok(socket)
}

/// One datagram of the kernel; none if nothing waits.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match socket.recv_from(&mut &mut buffer[..], libc::MSG_DONTWAIT) {
            // Another process can send to our port, too.
            Ok((_, from)) if from.port_number() != 0 => {}
            Ok((length, _)) => return Ok(Some(length.min(buffer.len()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn take_event(
    header: &NetlinkHeader,
    payload: &[u8],
    state: &mut KernelState,
    drained: &mut Drained,
) {
    let kind = header.message_type;
    drained.routes_changed |= touches_routes(kind);
    if !is_state(kind) {
        return;
    }
    match parse(kind, payload) {
        Some(message) => drained.changed |= state.apply(&message),
        None => drained.lost = true,
    }
}

fn questions() -> [(&'static str, Message); 3] {
    let mut links = LinkMessage::default();
    links.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    [
        ("links", Message::GetLink(links)),
        ("addresses", Message::GetAddress(Default::default())),
        ("neighbours", Message::GetNeighbour(NeighbourMessage::default())),
    ]
}
