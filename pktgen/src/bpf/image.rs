//! What the programs of the data phase are told about a run: frame heads, sums, flows.
//!
//! Pure. A sum here is a plain sum of 16-bit words as they lie in memory; it does not depend on the
//! byte order (RFC 1071 section 2), so that the programs add what they store without turning it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, ensure};
use zerocopy::FromZeros;

use super::data::Setup;
use super::layout::{Config, Flow, FrameSize, HEAD, NOWHERE, Route, SIZES, Turn, WAYS};
use crate::flow::{Addresses, Clients};
use crate::size::FCS;
use crate::spec::{Method, Protocol};
use crate::stamp;

const ETHERNET: usize = 14;
const TTL: u8 = 64;
/// ACK and PSH.
const TCP_FLAGS: u8 = 0x18;

/// An interface of the generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its number.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Where its frames go.
    pub peer: [u8; 6],
}

/// The data packets of a run.
#[derive(Clone, Copy)]
pub struct Traffic<'a> {
    /// Address and port the clients speak to.
    pub vip: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// How the balancer forwards.
    pub method: Method,
    /// Clients.
    pub clients: Clients,
    /// Real servers.
    pub reals: Addresses,
    /// Their port.
    pub real_port: u16,
    /// Key of the stamps.
    pub key: u32,
    /// Highest sequence number that was used before, of requests and of replies sent from here.
    pub base: u32,
    /// Highest sequence number that came, of replies to a flow that are sent from elsewhere.
    pub heard: &'a dyn Fn(u32) -> u32,
    /// Frame sizes, check sequence included, sent in turn; at most 16.
    pub sizes: &'a [u16],
    /// Share of the packets sent from here that are replies.
    pub replies: f64,
    /// Flows to send on, in this order.
    pub open: &'a [u32],
    /// Index of the real server of each flow.
    pub real: &'a dyn Fn(u32) -> u16,
    /// Full NAT: address and port that the real server of a flow sees.
    pub local: &'a dyn Fn(u32) -> Option<SocketAddr>,
    /// The clients' interface, if it is in this process.
    pub client: Option<End>,
    /// The real servers' interface, if it is in this process.
    pub server: Option<End>,
}

/// All that is loaded, and the frame to run it on.
pub(crate) struct Image {
    config: Box<Config>,
    turns: [Vec<Turn>; WAYS],
    places: Vec<u32>,
    flows: [Vec<Flow>; WAYS],
    sinks: [Option<u32>; WAYS],
    /// As long as the largest frame, with the payload of all of them.
    pub(crate) frame: Vec<u8>,
}

impl Image {
    /// Every `parts`th flow from number `part` on is sent; part 0 receives all of them.
    ///
    /// # Errors
    /// If full NAT was not seen to give a flow its local address, these addresses differ in more
    /// than their last 32 bits, or there are too many sizes.
    pub(crate) fn new(traffic: &Traffic<'_>, part: usize, parts: usize) -> anyhow::Result<Self> {
        ensure!((1..=SIZES).contains(&traffic.sizes.len()), "1 to {SIZES} frame sizes");
        let both_ways = traffic.method.replies_pass();
        // Of real servers elsewhere the answers come, whatever way they take.
        let answers = both_ways || traffic.server.is_none();
        let mut config = Box::new(Config::new_zeroed());
        let seen = traffic.seen_clients()?;
        let own: Vec<u32> = traffic.open.iter().skip(part).step_by(parts.max(1)).copied().collect();
        let (client, server) = (traffic.client.is_some(), traffic.server.is_some());
        let turns = [
            if client { traffic.request_turns(&own) } else { Vec::new() },
            if server && both_ways { traffic.reply_turns(&own, &seen) } else { Vec::new() },
        ];
        let flows = [
            if server && part == 0 { traffic.flows(&seen) } else { Vec::new() },
            if client && answers && part == 0 { traffic.flows_of_clients() } else { Vec::new() },
        ];
        let mut places = vec![NOWHERE; if part == 0 { traffic.clients.flows as usize } else { 0 }];
        for (place, &flow) in traffic.open.iter().enumerate() {
            if let Some(entry) = places.get_mut(flow as usize) {
                *entry = place as u32;
            }
        }
        config.key = traffic.key;
        // Replies that are sent elsewhere are numbered there.
        config.base = [traffic.base, if server { traffic.base } else { 0 }];
        config.sizes = traffic.sizes.len() as u32;
        config.first_real = u32::from_be_bytes(low(traffic.reals.first()));
        config.v6 = u8::from(traffic.is_v6());
        config.tcp = u8::from(traffic.protocol == Protocol::Tcp);
        config.tunnel = u8::from(traffic.method == Method::Tunnel);
        config.direct = u8::from(traffic.method == Method::Direct);
        config.ports = [traffic.client, traffic.server].map(|end| end.map_or(0, |end| end.index));
        config.replies = match (turns[0].is_empty(), turns[1].is_empty()) {
            (true, false) => u32::MAX,
            (_, true) => 0,
            (false, false) => {
                (traffic.replies * 2_f64.powi(32)).round().min(f64::from(u32::MAX - 1)) as u32
            }
        };
        let (client, real) = (traffic.clients.addresses.first(), traffic.reals.first());
        let seen_from = seen.first().map_or(client, |(address, _)| *address);
        let frame = traffic.frame();
        config.routes[0] = traffic.route(traffic.client, client, traffic.vip.ip(), &frame)?;
        // Of a tunnel's real servers the address may be of the other family, and is in no packet.
        let from = if both_ways { real } else { traffic.vip.ip() };
        config.routes[1] = traffic.route(traffic.server, from, seen_from, &frame)?;
        config.routes[0].turns = turns[0].len() as u32;
        config.routes[1].turns = turns[1].len() as u32;
        // What is expected: requests as they arrive behind the balancer, replies in front of it.
        let port = if both_ways { traffic.real_port } else { traffic.vip.port() };
        config.routes[0].source = words(seen_from);
        config.routes[0].destination = words(if both_ways { real } else { traffic.vip.ip() });
        config.routes[0].destination_port = port.to_be_bytes();
        config.routes[1].source = words(traffic.vip.ip());
        config.routes[1].source_port = traffic.vip.port().to_be_bytes();
        config.routes[1].destination = words(client);
        let sinks = [traffic.server, traffic.client.filter(|_| answers)];
        let sinks = if part == 0 { sinks } else { [None; WAYS] };
        Ok(Self {
            config,
            turns,
            places,
            flows,
            sinks: sinks.map(|end| end.map(|end| end.index)),
            frame,
        })
    }

    pub(crate) fn setup(&self) -> Setup<'_> {
        Setup {
            config: *self.config,
            turns: [&self.turns[0], &self.turns[1]],
            places: &self.places,
            flows: [&self.flows[0], &self.flows[1]],
            sinks: self.sinks,
        }
    }
}

impl Traffic<'_> {
    fn is_v6(&self) -> bool {
        self.vip.is_ipv6()
    }

    /// Bytes of the transport header, and of the stamp behind it.
    fn transport(&self) -> (usize, usize) {
        match self.protocol {
            Protocol::Tcp => (20, stamp::TCP_PAYLOAD),
            Protocol::Udp => (8, stamp::UDP_PAYLOAD),
        }
    }

    /// Offset of the transport header.
    fn at(&self) -> usize {
        ETHERNET + if self.is_v6() { 40 } else { 20 }
    }

    /// Far end of each flow as its real server sees it; empty if nobody asks.
    fn seen_clients(&self) -> anyhow::Result<Vec<(IpAddr, u16)>> {
        if self.server.is_none() {
            return Ok(Vec::new());
        }
        if self.method != Method::Fullnat {
            return Ok((0..self.clients.flows).map(|flow| self.clients.of(flow)).collect());
        }
        let mut seen = vec![None; self.clients.flows as usize];
        let mut first: Option<IpAddr> = None;
        for &flow in self.open {
            let local = (self.local)(flow);
            let local = local.with_context(|| format!("flow {flow} has no local address"))?;
            let one = *first.get_or_insert(local.ip());
            ensure!(
                words(one)[..12] == words(local.ip())[..12],
                "local addresses {one} and {} of full NAT differ in more than their last 32 bits, \
                 which the XDP engine cannot do; take the AF_XDP engine",
                local.ip()
            );
            if let Some(slot) = seen.get_mut(flow as usize) {
                *slot = Some((local.ip(), local.port()));
            }
        }
        let first = first.unwrap_or_else(|| self.clients.addresses.first());
        Ok(seen.into_iter().map(|local| local.unwrap_or((first, 0))).collect())
    }

    fn request_turns(&self, flows: &[u32]) -> Vec<Turn> {
        let turn = |&flow: &u32| {
            let (client, port) = self.clients.of(flow);
            Turn {
                flow,
                source: low(client),
                destination: low(self.vip.ip()),
                source_port: port.to_be_bytes(),
                destination_port: self.vip.port().to_be_bytes(),
            }
        };
        flows.iter().map(turn).collect()
    }

    fn reply_turns(&self, flows: &[u32], seen: &[(IpAddr, u16)]) -> Vec<Turn> {
        let turn = |&flow: &u32| {
            let (client, port) = *seen.get(flow as usize)?;
            Some(Turn {
                flow,
                source: low(self.reals.get(u32::from((self.real)(flow)))),
                destination: low(client),
                source_port: self.real_port.to_be_bytes(),
                destination_port: port.to_be_bytes(),
            })
        };
        flows.iter().filter_map(turn).collect()
    }

    /// Of requests.
    fn flows(&self, seen: &[(IpAddr, u16)]) -> Vec<Flow> {
        let flow = |&flow: &u32| {
            let (client, port) = *seen.get(flow as usize)?;
            let real = low(self.reals.get(u32::from((self.real)(flow))));
            Some(Flow { real, number: flow, ..expected(client, port, self.base) })
        };
        self.open.iter().filter_map(flow).collect()
    }

    /// Of replies.
    fn flows_of_clients(&self) -> Vec<Flow> {
        let flow = |&flow: &u32| {
            let (client, port) = self.clients.of(flow);
            let heard = if self.server.is_some() { self.base } else { (self.heard)(flow) };
            Flow { number: flow, ..expected(client, port, heard) }
        };
        self.open.iter().map(flow).collect()
    }

    /// Bytes of the largest frame; the payload says how far into it each of its bytes lies.
    fn frame(&self) -> Vec<u8> {
        let (header, stamp) = self.transport();
        let (start, least) = (self.at() + header, self.at() + header + stamp);
        let largest = self.sizes.iter().map(|size| usize::from(size.saturating_sub(FCS))).max();
        let mut frame = vec![0; largest.unwrap_or(0).max(least).max(60)];
        for (n, byte) in frame[start..].iter_mut().enumerate().skip(stamp) {
            *byte = n as u8;
        }
        frame
    }

    fn route(
        &self,
        end: Option<End>,
        source: IpAddr,
        destination: IpAddr,
        frame: &[u8],
    ) -> anyhow::Result<Route> {
        let mut route = Route::new_zeroed();
        let (header, stamp) = self.transport();
        let (at, v6) = (self.at(), self.is_v6());
        let tcp = self.protocol == Protocol::Tcp;
        let protocol = if tcp { 6 } else { 17 };
        ensure!(source.is_ipv6() == v6 && destination.is_ipv6() == v6, "addresses of two families");
        let head = &mut route.head;
        if let Some(end) = end {
            head[..6].copy_from_slice(&end.peer);
            head[6..12].copy_from_slice(&end.mac);
        }
        if v6 {
            head[12..14].copy_from_slice(&[0x86, 0xdd]);
            head[14] = 0x60;
            head[20..22].copy_from_slice(&[protocol, TTL]);
            // Without the last words, which each packet brings.
            head[22..34].copy_from_slice(&words(source)[..12]);
            head[38..50].copy_from_slice(&words(destination)[..12]);
        } else {
            // Don't fragment, and no identification (RFC 6864 section 4.1).
            head[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, TTL, protocol]);
        }
        if tcp {
            head[at + 12..at + 16].copy_from_slice(&[0x50, TCP_FLAGS, 0xff, 0xff]);
        }
        let fixed = sum(&head[at..(at + header).min(HEAD)])
            + sum(&head[if v6 { 22..54 } else { 26..34 }])
            + sum(&[0, protocol]);
        for (entry, size) in route.sizes.iter_mut().zip(self.sizes) {
            let length = usize::from(size.saturating_sub(FCS)).max(60);
            ensure!(
                length >= at + header + stamp && length <= frame.len(),
                "a frame of {size} bytes cannot hold a stamp"
            );
            let segment = ((length - at) as u16).to_be_bytes();
            *entry = FrameSize {
                frame: length as u32,
                ip: if v6 { segment } else { ((length - ETHERNET) as u16).to_be_bytes() },
                udp: segment,
                ip_sum: 0,
                sum: 0,
            };
            // Twice for UDP: in its header, and in the pseudo-header.
            let lengths = sum(&segment) * if tcp { 1 } else { 2 };
            let payload = sum(&frame[at + header + stamp..length]);
            entry.sum = folded(fixed + lengths + payload);
            entry.ip_sum = folded(sum(&route.head[ETHERNET..ETHERNET + 20]) + sum(&entry.ip));
        }
        Ok(route)
    }
}

/// A flow with this far end, whose packets up to a number have come.
fn expected(client: IpAddr, port: u16, heard: u32) -> Flow {
    let seen = u64::from(heard) << 32 | u64::from(u32::MAX);
    Flow { seen, client: low(client), port: port.to_be_bytes(), ..Flow::default() }
}

/// Of 16-bit words in memory, the last one completed by a zero byte.
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
    bytes.chunks(2).map(|pair| u64::from(word(pair))).sum()
}

/// The same sum in 32 bits.
fn folded(sum: u64) -> u32 {
    (sum % 0xffff) as u32
}

/// Last four bytes of an address.
fn low(address: IpAddr) -> [u8; 4] {
    let words = words(address);
    [words[12], words[13], words[14], words[15]]
}

/// An address as four words, IPv4 in the last.
fn words(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()).to_be_bytes(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
