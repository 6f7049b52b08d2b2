//! The programs of `bpf/` in a real kernel.
//!
//! Needs root; skipped loudly otherwise, failed under `REQUIRE_NETNS=1`.

#![allow(clippy::unwrap_used)]

#[path = "../../dataplane/tests/lab/mod.rs"]
mod lab;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lab::ifindex;
use pktgen::bpf::image::{End, Traffic};
use pktgen::bpf::{Mode, Receive};
use pktgen::engine::kernel::run::Run;
use pktgen::flow::{Addresses, Clients};
use pktgen::spec::{Method, Protocol};
use pktgen::stamp::{Stamp, Way};

#[test]
fn the_receive_program_keeps_others_off_and_leaves_with_its_value() {
    if !lab::is_root() {
        return;
    }
    let net = lab::NetNs::new();
    net.enter();
    net.veth("a", "b");
    for mode in [Mode::Native, Mode::Generic] {
        let receive = Receive::attach(ifindex("a"), mode).unwrap();
        assert_eq!(receive.mode(), mode);
        for second in [Mode::Native, Mode::Generic, Mode::Auto] {
            let error = Receive::attach(ifindex("a"), second).err().unwrap();
            assert!(error.to_string().contains("has an XDP program already"), "{error:#}");
        }
    }
    let receive = Receive::attach(ifindex("a"), Mode::Auto).unwrap();
    assert_eq!(receive.mode(), Mode::Native, "veth has it");
    let error = receive.set_socket(0, std::io::stdin().as_fd()).unwrap_err();
    assert!(format!("{error:#}").contains("socket"), "{error:#}");
    assert!(Receive::attach(999_999, Mode::Auto).is_err(), "no such interface");
}

const KEY: u32 = 0x1234_5678;
const FLOWS: u32 = 300;
const XDP_DROP: u32 = 1;
const XDP_REDIRECT: u32 = 4;
const TC_ACT_OK: u32 = 0;
const TC_ACT_STOLEN: u32 = 4;
const GEN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What differs among runs.
#[derive(Clone, Copy, Debug)]
struct Kind {
    v6: bool,
    protocol: Protocol,
    method: Method,
}

impl Kind {
    fn all() -> impl Iterator<Item = Self> {
        let methods = [Method::Nat, Method::Fullnat, Method::Direct, Method::Tunnel];
        methods.into_iter().flat_map(|method| {
            [
                (false, Protocol::Tcp),
                (false, Protocol::Udp),
                (true, Protocol::Tcp),
                (true, Protocol::Udp),
            ]
            .map(|(v6, protocol)| Self { v6, protocol, method })
        })
    }

    fn addresses(self, v4: &str, v6: &str, count: u32) -> Addresses {
        Addresses::new(if self.v6 { v6 } else { v4 }.parse().unwrap(), count).unwrap()
    }

    fn vip(self) -> SocketAddr {
        SocketAddr::new(self.addresses("198.18.255.1", "2001:db8:18::ffff:1", 1).first(), 80)
    }

    fn reals(self) -> Addresses {
        self.addresses("198.19.0.1", "2001:db8:19::1", 7)
    }

    fn clients(self) -> Clients {
        Clients::new(self.addresses("198.18.0.1", "2001:db8:18::1", 100), 1024, FLOWS).unwrap()
    }

    /// Where real servers listen.
    fn real_port(self) -> u16 {
        if self.method.replies_pass() { 8080 } else { 80 }
    }

    /// Who a flow comes from behind the balancer.
    fn seen(self, flow: u32) -> SocketAddr {
        if self.method == Method::Fullnat {
            let local = self.addresses("198.19.255.200", "2001:db8:19::ffff:1", 3);
            SocketAddr::new(local.get(flow), 20_000 + flow as u16)
        } else {
            self.clients().of(flow).into()
        }
    }

    /// As it comes back: with what was in it, headers and stamp of something else.
    fn frame(self, len: usize) -> Vec<u8> {
        let mut frame = vec![0xee; len];
        let payload = if self.v6 { 54 } else { 34 };
        let payload = payload + if self.protocol == Protocol::Tcp { 20 } else { 8 };
        (payload..len).for_each(|n| frame[n] = (n - payload) as u8);
        frame
    }

    fn run(self, sizes: &[u16], replies: f64) -> Run {
        let open: Vec<u32> = (0..FLOWS).rev().collect();
        let end = |name| End { index: ifindex(name), mac: GEN, peer: PEER };
        let traffic = Traffic {
            vip: self.vip(),
            protocol: self.protocol,
            method: self.method,
            clients: self.clients(),
            reals: self.reals(),
            real_port: self.real_port(),
            key: KEY,
            base: 40,
            heard: &|_| 0,
            sizes,
            replies,
            open: &open,
            real: &real_of,
            local: &|flow| Some(self.seen(flow)),
            client: Some(end("a")),
            server: Some(end("b")),
        };
        Run::new(&traffic, 1).unwrap_or_else(|error| panic!("{self:?}: {error:#}"))
    }
}

fn real_of(flow: u32) -> u16 {
    (flow % 7) as u16
}

/// A thread in a namespace of its own with interfaces a and b; it ends with the test.
fn rig() -> Option<lab::NetNs> {
    lab::is_root().then(|| {
        let net = lab::NetNs::new();
        net.enter();
        net.veth("a", "a1");
        net.veth("b", "b1");
        net
    })
}

/// A time long past.
const DUE: u64 = 16_000;

/// Addresses, ports, stamp and payload of a frame, whose checksums are right.
fn dissect(frame: &[u8], kind: Kind, way: Way) -> (SocketAddr, SocketAddr, Stamp) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (source, destination): (IpAddr, IpAddr) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "{kind:?}");
            assert_eq!(header.total_len as usize, frame.len() - 14, "{kind:?}");
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!(ip.header().payload_length() as usize, frame.len() - 54, "{kind:?}");
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let (ports, sent, right, stamp) = match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let right = match (source, destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    header.calc_checksum_ipv4_raw(a.octets(), b.octets(), tcp.payload())
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    header.calc_checksum_ipv6_raw(a.octets(), b.octets(), tcp.payload())
                }
                _ => unreachable!(),
            };
            assert!(header.ack && !header.syn && !header.fin && !header.rst);
            let stamp = Stamp::read_tcp(KEY, way, tcp.header_slice(), tcp.payload());
            let ports = (header.source_port, header.destination_port);
            (ports, header.checksum, right.unwrap(), stamp)
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let right = match (source, destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    header.calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload())
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    header.calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload())
                }
                _ => unreachable!(),
            };
            let stamp = Stamp::read_udp(KEY, way, udp.payload());
            let ports = (header.source_port, header.destination_port);
            (ports, header.checksum, right.unwrap(), stamp)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(sent, right, "{kind:?} {way:?}");
    let stamp = stamp.unwrap_or_else(|| panic!("{kind:?} {way:?}: no stamp"));
    (SocketAddr::new(source, ports.0), SocketAddr::new(destination, ports.1), stamp)
}

#[test]
fn every_packet_made_in_the_kernel_is_right_to_the_last_byte() {
    let Some(_net) = rig() else { return };
    let sizes = [84, 570, 91, 1518];
    for kind in Kind::all() {
        let replies = if kind.method.replies_pass() { 0.5 } else { 0.0 };
        let run = kind.run(&sizes, replies);
        run.arm(DUE, u64::MAX).unwrap();
        let mut counts = [0_u32; 2];
        for _ in 0..3 * FLOWS {
            let frame = kind.frame(1514);
            let (action, frame) = run.data().trial("transmit", &frame).unwrap();
            assert_eq!(action, XDP_REDIRECT, "{kind:?}");
            assert_eq!((&frame[..6], &frame[6..12]), (&PEER[..], &GEN[..]));
            let way = if frame.len() > 14 && replies > 0.0 && counts[0] > counts[1] {
                Way::Reply
            } else {
                Way::Request
            };
            let count = &mut counts[way as usize];
            assert_eq!(frame.len() + 4, usize::from(sizes[*count as usize % 4]), "{kind:?}");
            let (source, destination, stamp) = dissect(&frame, kind, way);
            let flow = FLOWS - 1 - *count % FLOWS;
            let client = SocketAddr::from(kind.clients().of(flow));
            let real = kind.reals().get(u32::from(real_of(flow)));
            let right = match way {
                Way::Request => (client, kind.vip()),
                Way::Reply => (SocketAddr::new(real, kind.real_port()), kind.seen(flow)),
            };
            assert_eq!((source, destination), right, "{kind:?} {way:?}");
            let right = Stamp { flow, sequence: 41 + *count / FLOWS, time: 1000 };
            assert_eq!(stamp, right, "{kind:?} {way:?}");
            *count += 1;
        }
        let state = run.progress().unwrap();
        assert_eq!(state.sent.map(|sent| sent as u32), counts);
        assert!(counts[0] == 3 * FLOWS || counts[0] == counts[1], "{counts:?}");
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    let Some(_net) = rig() else { return };
    for v6 in [false, true] {
        let kind = Kind { v6, protocol: Protocol::Udp, method: Method::Nat };
        let run = kind.run(&[84], 0.0);
        let at = if v6 { 54 } else { 34 };
        let made = |time: u64| {
            run.arm(time * 16, u64::MAX).unwrap();
            run.data().trial("transmit", &kind.frame(80)).unwrap().1
        };
        let mut frame = made(1);
        let flow = FLOWS - 1;
        let zero = (1..1_000_000).find(|&time| {
            let stamp = Stamp { flow, sequence: 41, time };
            assert!(stamp.write_udp(KEY, Way::Request, &mut frame[at + 8..]));
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
            let (Ok(from), Ok(to)) =
                (<[u8; 16]>::try_from(&frame[22..38]), <[u8; 16]>::try_from(&frame[38..54]))
            else {
                panic!("no addresses")
            };
            let header = udp.to_header();
            let sum = if v6 {
                header.calc_checksum_ipv6_raw(from, to, udp.payload())
            } else {
                let ip: [u8; 8] = frame[26..34].try_into().unwrap();
                let [a, b, c, d, e, f, g, h] = ip;
                header.calc_checksum_ipv4_raw([a, b, c, d], [e, f, g, h], udp.payload())
            };
            // What is computed as 0 has to be sent as this (RFC 768), and nothing else is.
            sum.unwrap() == 0xffff
        });
        let frame = made(u64::from(zero.expect("one of a million times")));
        assert_eq!(frame[at + 6..at + 8], [0xff, 0xff]);
        dissect(&frame, kind, Way::Request);
    }
}

#[test]
fn nothing_is_sent_before_it_is_due_nor_after_the_end() {
    let Some(_net) = rig() else { return };
    let kind = Kind { v6: false, protocol: Protocol::Tcp, method: Method::Nat };
    let run = kind.run(&[64], 0.5);
    let frame = [0; 60];
    for (due, end) in [(u64::MAX / 2, u64::MAX), (DUE, DUE)] {
        run.arm(due, end).unwrap();
        assert_eq!(run.data().trial("transmit", &frame).unwrap().0, XDP_DROP);
        assert_eq!(run.progress().unwrap().sent, [0, 0]);
    }
}

/// Sums like a receiver: over everything, with the checksum in it.
fn checksum(pseudo: &[&[u8]], bytes: &[u8]) -> u16 {
    let parts = pseudo.iter().copied().chain([bytes]);
    let words = parts.flat_map(|part| part.chunks(2));
    let mut sum: u64 = words
        .map(|word| u64::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A data packet as it arrives at its receiver, by another hand than the program's.
#[derive(Clone, Copy)]
struct Arrival {
    kind: Kind,
    way: Way,
    stamp: Stamp,
    key: u32,
    source: SocketAddr,
    destination: SocketAddr,
    real: u16,
    len: usize,
}

impl Arrival {
    fn new(kind: Kind, way: Way, flow: u32, sequence: u32) -> Self {
        let real = real_of(flow);
        let client = SocketAddr::from(kind.clients().of(flow));
        let at_real = SocketAddr::new(kind.reals().get(u32::from(real)), kind.real_port());
        let (source, destination) = match way {
            Way::Request if kind.method.replies_pass() => (kind.seen(flow), at_real),
            Way::Request => (client, kind.vip()),
            Way::Reply => (kind.vip(), client),
        };
        let time = pktgen::stamp::time(dataplane::clock::now().nanos());
        let stamp = Stamp { flow, sequence, time };
        Self { kind, way, stamp, key: KEY, source, destination, real, len: 90 }
    }

    fn bytes(&self) -> Vec<u8> {
        let tcp = self.kind.protocol == Protocol::Tcp;
        let header = if tcp { 20 } else { 8 };
        let mut segment: Vec<u8> = (0..self.len).map(|n| (n * 7) as u8).collect();
        segment[..2].copy_from_slice(&self.source.port().to_be_bytes());
        segment[2..4].copy_from_slice(&self.destination.port().to_be_bytes());
        if tcp {
            segment[12..20].copy_from_slice(&[0x50, 0x10, 1, 1, 0, 0, 0, 0]);
            let (head, payload) = segment.split_at_mut(header);
            assert!(self.stamp.write_tcp(self.key, self.way, head, payload));
        } else {
            segment[4..6].copy_from_slice(&(self.len as u16).to_be_bytes());
            segment[6..8].fill(0);
            assert!(self.stamp.write_udp(self.key, self.way, &mut segment[header..]));
        }
        let protocol = if tcp { 6 } else { 17 };
        let (from, to) = (octets(self.source.ip()), octets(self.destination.ip()));
        let length = (self.len as u16).to_be_bytes();
        let sum = checksum(&[&from, &to, &[0, protocol], &length], &segment);
        let at = if tcp { 16 } else { 6 };
        let sum = if sum == 0 && !tcp { 0xffff } else { sum };
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = ip(self.source.ip(), self.destination.ip(), protocol, &segment);
        let mut mac = [2, 0, 0, 0, 0, 9];
        if self.way == Way::Request && self.kind.method == Method::Direct {
            mac = [2, 0x78, 0, 0, 0, self.real as u8];
        }
        if self.way == Way::Request && self.kind.method == Method::Tunnel {
            let real = self.kind.reals().get(u32::from(self.real));
            let outer = if self.kind.v6 { "2001:db8:19::ffff:fffe" } else { "198.19.255.254" };
            let inner = if self.kind.v6 { 41 } else { 4 };
            packet = ip(outer.parse().unwrap(), real, inner, &packet);
        }
        let kind: u16 = if self.kind.v6 { 0x86dd } else { 0x0800 };
        [&mac[..], &PEER, &kind.to_be_bytes(), &packet].concat()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    let mut head = if source.is_ipv4() {
        let mut head = vec![0x45, 0];
        head.extend((length + 20).to_be_bytes());
        head.extend([0, 7, 0x40, 0, 60, protocol, 0, 0]);
        head
    } else {
        let mut head = vec![0x60, 0, 0, 0];
        head.extend(length.to_be_bytes());
        head.extend([protocol, 60]);
        head
    };
    head.extend(octets(source));
    head.extend(octets(destination));
    if source.is_ipv4() {
        let sum = checksum(&[], &head);
        head[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    head.extend(payload);
    head
}

/// What the sink has counted: received, duplicated, reordered, corrupted, strayed, earlier, others.
fn counts(run: &Run, way: Way) -> [u64; 7] {
    let t = run.tally(way as usize).unwrap();
    [t.received, t.duplicated, t.reordered, t.corrupted, t.strayed, t.earlier, t.others]
}

/// Which of [`counts`] a packet adds to, and whether it is kept from the kernel.
fn judged(run: &Run, way: Way, frame: &[u8]) -> (usize, bool) {
    let name = if way == Way::Request { "sink_requests" } else { "sink_replies" };
    let before = counts(run, way);
    let (action, after) = run.data().trial(name, frame).unwrap();
    assert!(action == TC_ACT_OK || action == TC_ACT_STOLEN);
    assert_eq!(after, frame, "a judge changes nothing");
    let grown = counts(run, way);
    let grown: Vec<usize> = (0..7).filter(|n| grown[*n] > before[*n]).collect();
    assert!(!grown.is_empty() && grown.len() <= 2, "{grown:?}");
    // Of one that is both: reordered.
    (*grown.last().unwrap(), action == TC_ACT_STOLEN)
}

const RECEIVED: (usize, bool) = (0, true);
const DUPLICATED: (usize, bool) = (1, true);
const REORDERED: (usize, bool) = (2, true);
const CORRUPTED: (usize, bool) = (3, true);
const STRAYED: (usize, bool) = (4, true);
const EARLIER: (usize, bool) = (5, true);
const OTHER: (usize, bool) = (6, false);

fn ways(kind: Kind) -> impl Iterator<Item = Way> {
    let both = kind.method.replies_pass();
    [Way::Request, Way::Reply].into_iter().take(if both { 2 } else { 1 })
}

#[test]
fn what_arrives_whole_and_at_its_place_is_received_once() {
    let Some(_net) = rig() else { return };
    for kind in Kind::all() {
        let run = kind.run(&[90], 0.5);
        for way in ways(kind) {
            for flow in [0, 1, 107, FLOWS - 1] {
                let judge = |sequence, len| {
                    let arrival = Arrival { len, ..Arrival::new(kind, way, flow, sequence) };
                    judged(&run, way, &arrival.bytes())
                };
                assert_eq!(judge(41, 26), RECEIVED, "{kind:?} {way:?}");
                assert_eq!(judge(41, 26), DUPLICATED, "{kind:?} {way:?}");
                assert_eq!(judge(45, 1441), RECEIVED, "{kind:?} {way:?}");
                assert_eq!(judge(43, 513), REORDERED, "{kind:?} {way:?}");
                assert_eq!(judge(43, 33), DUPLICATED);
                assert_eq!(judge(200, 34), RECEIVED);
                assert_eq!(judge(44, 35), REORDERED, "too late to be told from a repeated one");
                assert_eq!(judge(40, 36), EARLIER);
            }
            let tally = run.tally(way as usize).unwrap();
            assert_eq!(tally.received, 16);
            assert_eq!(tally.buckets.iter().sum::<u64>(), 16);
            assert!(tally.most >= tally.least && tally.sum >= tally.most);
            assert!(tally.most * 16 < 10_000_000_000, "ten seconds are no latency of this test");
            let flows = run.data().flows(way as usize).unwrap();
            let of = |flow: u32| flows[(FLOWS - 1 - flow) as usize];
            assert_eq!((of(107), of(2)), ((200, 4), (40, 0)), "in the order of sending");
        }
    }
}

#[test]
fn every_damaged_bit_is_noticed() {
    let Some(_net) = rig() else { return };
    for kind in Kind::all() {
        let run = kind.run(&[90], 0.5);
        for way in ways(kind) {
            let good = Arrival::new(kind, way, 5, 41).bytes();
            let inner = if kind.v6 { 40 } else { 20 };
            let tunnel =
                if kind.method == Method::Tunnel && way == Way::Request { inner } else { 0 };
            let at = 14 + tunnel + inner;
            for byte in at..good.len() {
                let mut bad = good.clone();
                bad[byte] ^= 1 << (byte % 8);
                let verdict = judged(&run, way, &bad);
                // Damage in flags or lengths, or in a port, may make it none of ours: it is lost.
                let told = verdict == CORRUPTED || (verdict == OTHER && byte < at + 14);
                assert!(told, "{kind:?} {way:?} byte {}: {verdict:?}", byte - at);
            }
            assert_eq!(judged(&run, way, &good), RECEIVED, "{kind:?} {way:?}");
            if !kind.v6 && tunnel == 0 {
                let mut bad = good.clone();
                bad[14 + 8] ^= 1;
                assert_eq!(judged(&run, way, &bad), CORRUPTED, "its own header's checksum");
            }
        }
    }
}

#[test]
fn what_is_at_another_place_than_its_own_has_strayed() {
    let Some(_net) = rig() else { return };
    for kind in Kind::all() {
        let run = kind.run(&[90], 0.5);
        for way in ways(kind) {
            let good = Arrival::new(kind, way, 5, 41);
            let other = Arrival::new(kind, way, 6, 41);
            let port = |address: SocketAddr| SocketAddr::new(address.ip(), address.port() ^ 1);
            let strayed = [
                Arrival { source: other.source, ..good },
                Arrival { source: port(good.source), ..good },
                Arrival { stamp: Stamp { flow: FLOWS, ..good.stamp }, ..good },
                Arrival { stamp: Stamp { flow: 6, ..good.stamp }, ..good },
                Arrival { destination: port(good.destination), ..good },
            ];
            // A reply always comes from the VIP, whatever the flow.
            let skip = usize::from(way == Way::Reply);
            for (n, arrival) in strayed.iter().enumerate().skip(skip) {
                assert_eq!(judged(&run, way, &arrival.bytes()), STRAYED, "{kind:?} {way:?} {n}");
            }
            if way == Way::Request {
                let real = Arrival { real: 6, destination: other.destination, ..good };
                assert_eq!(judged(&run, way, &real.bytes()), STRAYED, "{kind:?}: another real");
            }
            assert_eq!(judged(&run, way, &good.bytes()), RECEIVED, "{kind:?} {way:?}");
        }
    }
}

#[test]
fn the_kernel_keeps_what_is_not_of_this_run() {
    let Some(_net) = rig() else { return };
    let kind = Kind { v6: false, protocol: Protocol::Tcp, method: Method::Nat };
    let run = kind.run(&[90], 0.5);
    let good = Arrival::new(kind, Way::Request, 5, 41);
    let mut syn = good.bytes();
    syn[14 + 20 + 13] |= 2;
    let mut fragment = good.bytes();
    fragment[14 + 6] = 0x20;
    let mut cut = good.bytes();
    cut.truncate(80);
    let elsewhere = SocketAddr::new(good.destination.ip(), 22);
    let foreign = Arrival { key: KEY + 1, destination: elsewhere, ..good }.bytes();
    let arp = [&[0xff; 6], &PEER, &[8, 6][..], &[0; 46]].concat();
    let udp = Kind { protocol: Protocol::Udp, ..kind };
    let v6 = Kind { v6: true, ..kind };
    let others = [
        ("SYN", syn),
        ("fragment", fragment),
        ("cut off", cut),
        ("another run's, elsewhere", foreign),
        ("ARP", arp),
        ("UDP", Arrival::new(udp, Way::Request, 5, 41).bytes()),
        ("IPv6", Arrival::new(v6, Way::Request, 5, 41).bytes()),
    ];
    for (what, frame) in others {
        assert_eq!(judged(&run, Way::Request, &frame), OTHER, "{what}");
    }
    let another = Arrival { key: KEY + 1, ..good }.bytes();
    assert_eq!(judged(&run, Way::Request, &another), CORRUPTED, "ours by its address");
    let reflected = Arrival { way: Way::Reply, ..good }.bytes();
    assert_eq!(judged(&run, Way::Request, &reflected), CORRUPTED, "of the other way");
}
