//! The steering program on named frames, under `BPF_PROG_TEST_RUN`: whose is each?
//!
//! Needs root; skipped loudly otherwise, failed under `REQUIRE_NETNS=1`.

#![allow(clippy::unwrap_used)]

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane::address::Address;
use dataplane::steer::{Action, Rules, Steer, flag};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const VIP: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";
const REAL: &str = "10.0.1.1";
const REAL_ANY: &str = "10.0.1.2";
const REAL6: &str = "2001:db8:1::1";
const LOCAL: &str = "10.0.0.100";
const LOCAL6: &str = "2001:db8:1::100";
const GATEWAY: &str = "10.0.0.254";
const GATEWAY6: &str = "fe80::1";
const HOST: &str = "10.0.0.1";
const HOST6: &str = "2001:db8:1::ff";
const CLIENT: &str = "198.51.100.7";
const CLIENT6: &str = "2001:db8:7::7";

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn rules() -> Rules {
    use Action::{Kernel, Ours};
    Rules {
        addresses: [
            (VIP, flag::VIP),
            (VIP6, flag::VIP),
            (REAL, flag::REAL),
            (REAL_ANY, flag::REAL),
            (REAL6, flag::REAL),
            (LOCAL, flag::LOCAL),
            (LOCAL6, flag::LOCAL),
            (GATEWAY, flag::GATEWAY),
            (GATEWAY6, flag::GATEWAY),
            (HOST, flag::HOST),
            (HOST6, flag::HOST),
        ]
        .map(|(a, flags)| (address(a), flags))
        .into(),
        services: [
            ((VIP, 80, TCP), Ours),
            ((VIP, 81, TCP), Kernel),
            ((VIP6, 443, TCP), Ours),
            ((VIP6, 53, UDP), Ours),
        ]
        .map(|((a, port, protocol), action)| ((address(a), port, protocol), action))
        .into(),
        ranges: BTreeMap::from([
            ((address(VIP), TCP), vec![(8000, 8099, Ours), (8100, 8199, Kernel), (1, 90, Ours)]),
            ((address(VIP6), UDP), vec![(5000, 65535, Ours)]),
        ]),
        returns: BTreeSet::from([
            (address(REAL), 8080, TCP),
            (address(REAL_ANY), 0, UDP),
            (address(REAL6), 53, UDP),
        ]),
        local_ports: (40_000, 50_000),
    }
}

/// An Ethernet frame.
fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn octets(text: &str) -> Vec<u8> {
    match text.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An IP packet of the family of its addresses.
fn ip(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (octets(source), octets(destination));
    let len = payload.len() as u16;
    let mut packet = if source.len() == 4 {
        let mut head = vec![0x45, 0];
        head.extend((20 + len).to_be_bytes());
        head.extend([0, 7, 0, 0, 64, protocol, 0, 0]);
        head
    } else {
        let mut head = vec![0x60, 0, 0, 0];
        head.extend(len.to_be_bytes());
        head.extend([protocol, 64]);
        head
    };
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

fn in_frame(packet: &[u8]) -> Vec<u8> {
    frame(if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd }, packet)
}

/// The start of a TCP or UDP header, and something behind it.
fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0; 16]);
    bytes
}

/// An IPv4 packet with these fragment flags and offset (in units of 8 bytes).
fn fragment(mut packet: Vec<u8>, flags_and_offset: u16) -> Vec<u8> {
    packet[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    packet
}

/// An IPv6 fragment header.
fn fragment6(next: u8, flags_and_offset: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend(flags_and_offset.to_be_bytes());
    bytes.extend([0, 0, 0, 9]);
    bytes.extend(payload);
    bytes
}

/// An extension header of `8 + 8 * extra` bytes.
fn extension(next: u8, extra: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, extra];
    bytes.extend(vec![0; 6 + 8 * usize::from(extra)]);
    bytes.extend(payload);
    bytes
}

/// An ICMP or ICMPv6 message that quotes a packet, or carries other bytes, after 8 bytes.
fn icmp(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(rest);
    bytes
}

fn arp(operation: u8, target: &str) -> Vec<u8> {
    arp_from(operation, CLIENT, target)
}

fn arp_from(operation: u8, sender: &str, target: &str) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    bytes.extend([2, 0, 0, 0, 0, 2]);
    bytes.extend(octets(sender));
    bytes.extend([0; 6]);
    bytes.extend(octets(target));
    frame(0x0806, &bytes)
}

fn advertisement(target: &str, to: &str) -> Vec<u8> {
    in_frame(&ip(CLIENT6, to, ICMPV6, &icmp(136, &octets(target))))
}

fn solicitation(target: &str, to: &str) -> Vec<u8> {
    in_frame(&ip(CLIENT6, to, ICMPV6, &icmp(135, &octets(target))))
}

fn tcp(source: (&str, u16), destination: (&str, u16)) -> Vec<u8> {
    in_frame(&ip(source.0, destination.0, TCP, &ports(source.1, destination.1)))
}

fn udp(source: (&str, u16), destination: (&str, u16)) -> Vec<u8> {
    in_frame(&ip(source.0, destination.0, UDP, &ports(source.1, destination.1)))
}

/// A steering program with the rules above, and whose a frame is.
struct Bench {
    steer: Steer,
    _files: lab::BpfFs,
}

impl Bench {
    fn new() -> Self {
        let files = lab::BpfFs::new();
        let mut steer = Steer::open(&files.path().join("xvip")).unwrap();
        steer.apply(&rules()).unwrap();
        Self { steer, _files: files }
    }

    #[track_caller]
    fn check(&self, expected: Action, cases: Vec<(&str, Vec<u8>)>) {
        for (name, frame) in cases {
            assert_eq!(self.steer.judge(&frame).unwrap(), expected, "{name}: {frame:02x?}");
        }
    }
}

#[test]
fn the_frames_of_this_test_are_what_they_say() {
    let frame = tcp((CLIENT, 1000), (VIP, 80));
    let sliced = etherparse::SlicedPacket::from_ethernet(&frame);
    // Only the transport is a stump.
    assert!(matches!(sliced, Err(etherparse::err::packet::SliceError::Tcp(_))), "{sliced:?}");
    let frame = in_frame(&ip(CLIENT6, VIP6, 0, &extension(60, 1, &extension(UDP, 0, &[0; 8]))));
    let sliced = etherparse::SlicedPacket::from_ethernet(&frame);
    assert!(!matches!(sliced, Err(etherparse::err::packet::SliceError::Ip(_))), "{sliced:?}");
}

#[test]
fn a_vip_gets_its_services_and_the_kernel_the_rest() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    bench.check(
        Action::Ours,
        vec![
            ("service", tcp((CLIENT, 1000), (VIP, 80))),
            ("service, v6", tcp((CLIENT6, 1000), (VIP6, 443))),
            ("service, v6 UDP", udp((CLIENT6, 1000), (VIP6, 53))),
            ("start of a range", tcp((CLIENT, 1), (VIP, 8000))),
            ("end of a range", tcp((CLIENT, 1), (VIP, 8099))),
            ("third range", tcp((CLIENT, 1), (VIP, 90))),
            ("range, v6", udp((CLIENT6, 1), (VIP6, 65535))),
            ("from a real that is a client too", tcp((REAL, 8080), (VIP, 80))),
            ("echo request", in_frame(&ip(CLIENT, VIP, ICMP, &icmp(8, b"hello")))),
            ("echo request, v6", in_frame(&ip(CLIENT6, VIP6, ICMPV6, &icmp(128, b"hello")))),
            ("unreachable", in_frame(&ip(CLIENT, VIP, ICMP, &icmp(3, &[0; 28])))),
            ("time exceeded", in_frame(&ip(CLIENT, VIP, ICMP, &icmp(11, &[0; 28])))),
            ("packet too big", in_frame(&ip(CLIENT6, VIP6, ICMPV6, &icmp(2, &[0; 48])))),
        ],
    );
    bench.check(
        Action::Kernel,
        vec![
            ("service without reals", tcp((CLIENT, 1000), (VIP, 81))),
            ("the service decides before the range", tcp((CLIENT, 1000), (VIP, 81))),
            ("range without reals", tcp((CLIENT, 1000), (VIP, 8100))),
            ("other port", tcp((CLIENT, 1000), (VIP, 8200))),
            ("other protocol", udp((CLIENT, 1000), (VIP, 80))),
            ("other VIP's port", tcp((CLIENT, 1000), (VIP, 443))),
            ("other VIP's port, v6", tcp((CLIENT6, 1000), (VIP6, 80))),
            ("echo reply", in_frame(&ip(CLIENT, VIP, ICMP, &icmp(0, b"hello")))),
            ("redirect", in_frame(&ip(CLIENT, VIP, ICMP, &icmp(5, &[0; 28])))),
            ("v4 error number in v6", in_frame(&ip(CLIENT6, VIP6, ICMPV6, &icmp(11, &[0; 48])))),
            ("router advertisement", in_frame(&ip(CLIENT6, VIP6, ICMPV6, &icmp(134, &[0; 48])))),
            ("ICMPv6 in IPv4", in_frame(&ip(CLIENT, VIP, ICMPV6, &icmp(128, b"hello")))),
            ("GRE", in_frame(&ip(CLIENT, VIP, 47, &[0; 20]))),
            ("nobody's address", tcp((CLIENT, 1000), ("192.0.2.11", 80))),
            ("source and destination swapped", tcp((VIP, 80), (CLIENT, 80))),
        ],
    );
}

#[test]
fn fragments_and_extension_headers_of_a_vip_are_ours() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    let whole = |port| ip(CLIENT, VIP, TCP, &ports(1000, port));
    let mut options = whole(80);
    options[0] = 0x46;
    options.splice(20..20, [1; 4]);
    let mut stub = whole(80);
    stub[0] = 0x44;
    let chain = |count: usize| {
        let mut payload = ports(1000, 443);
        for n in 0..count {
            payload = extension(if n == 0 { TCP } else { 60 }, 0, &payload);
        }
        in_frame(&ip(CLIENT6, VIP6, 60, &payload))
    };
    let v6 = |next, payload: &[u8]| in_frame(&ip(CLIENT6, VIP6, next, payload));
    bench.check(
        Action::Ours,
        vec![
            ("first fragment", in_frame(&fragment(whole(80), 0x2000))),
            ("later fragment", in_frame(&fragment(whole(80), 0x2010))),
            ("last fragment", in_frame(&fragment(whole(80), 0x1fff))),
            ("later fragment that looks like another port", in_frame(&fragment(whole(9000), 1))),
            ("options before the ports", in_frame(&options)),
            ("header length below five words", in_frame(&stub)),
            ("first fragment, v6", v6(44, &fragment6(TCP, 1, &ports(1, 443)))),
            ("later fragment, v6", v6(44, &fragment6(TCP, 0x0051, &[0; 20]))),
            ("last fragment, v6", v6(44, &fragment6(TCP, 0xfff8, &[]))),
            ("hop-by-hop", v6(0, &extension(TCP, 0, &ports(1, 443)))),
            ("long destination options", v6(60, &extension(TCP, 20, &ports(1, 443)))),
            ("routing, then fragment", {
                v6(43, &extension(44, 2, &fragment6(TCP, 1, &ports(1, 443))))
            }),
            ("eight", chain(8)),
            ("nine: for us to count", chain(9)),
            ("cut off inside an extension header", v6(0, &[TCP, 0, 0])),
            ("extension header beyond the packet", v6(0, &[TCP, 200, 0, 0, 0, 0, 0, 0])),
        ],
    );
    bench.check(
        Action::Kernel,
        vec![
            ("first fragment of another port", in_frame(&fragment(whole(9000), 0x2000))),
            ("first fragment of another port, v6", v6(44, &fragment6(TCP, 1, &ports(1, 9)))),
            ("options before another port", {
                let mut other = options.clone();
                other[26..28].copy_from_slice(&9000_u16.to_be_bytes());
                in_frame(&other)
            }),
            ("extension header before another port", v6(0, &extension(TCP, 0, &ports(1, 9)))),
            ("no next header", v6(59, &[])),
            ("IPsec", v6(50, &[0; 20])),
            ("later fragment to nobody", {
                in_frame(&fragment(ip(CLIENT, "192.0.2.11", TCP, &ports(1, 80)), 1))
            }),
        ],
    );
}

#[test]
fn arp_and_neighbour_solicitations_for_our_addresses_are_ours() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    let group = "ff02::1:ff00:10";
    let mut tagged = arp(1, VIP);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut other_hardware = arp(1, VIP);
    other_hardware[15] = 6;
    bench.check(
        Action::Ours,
        vec![
            ("ARP for a VIP", arp(1, VIP)),
            ("ARP for a local address", arp(1, LOCAL)),
            ("solicitation for a VIP", solicitation(VIP6, group)),
            ("solicitation for a local address", solicitation(LOCAL6, group)),
            ("unicast solicitation", solicitation(VIP6, VIP6)),
        ],
    );
    bench.check(
        Action::Kernel,
        vec![
            ("ARP for the host", arp(1, HOST)),
            ("an answer to the kernel, which may ask in the name of a VIP", arp(2, VIP)),
            ("ARP for a real", arp(1, REAL)),
            ("ARP for nobody", arp(1, CLIENT)),
            ("solicitation for the host", solicitation(HOST6, group)),
            ("solicitation for a real", solicitation(REAL6, group)),
            ("solicitation for another, to a VIP", solicitation(CLIENT6, VIP6)),
            ("solicitation of another host to another", solicitation(CLIENT6, group)),
            ("solicitation cut off", solicitation(VIP6, group)[..14 + 40 + 20].to_vec()),
            ("tagged ARP", tagged),
            ("ARP of other hardware", other_hardware),
            ("ARP cut off", arp(1, VIP)[..14 + 27].to_vec()),
        ],
    );
}

#[test]
fn a_claim_on_an_address_of_ours_comes_to_us_and_what_the_kernel_asked_for_to_the_kernel() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    let all = "ff02::1";
    bench.check(
        Action::Ours,
        vec![
            ("gratuitous request", arp_from(1, VIP, VIP)),
            ("gratuitous reply", arp_from(2, VIP, VIP)),
            ("reply to a probe", arp_from(2, VIP, "0.0.0.0")),
            ("reply to a stranger", arp_from(2, VIP, CLIENT)),
            ("question in its name", arp_from(1, VIP, CLIENT)),
            ("local address", arp_from(2, LOCAL, LOCAL)),
            ("gateway", arp_from(2, GATEWAY, REAL)),
            ("advertisement to all", advertisement(VIP6, all)),
            ("advertisement to a stranger", advertisement(VIP6, CLIENT6)),
            ("advertisement to another VIP", advertisement(VIP6, VIP6)),
            ("gateway's advertisement", advertisement(GATEWAY6, all)),
        ],
    );
    bench.check(
        Action::Kernel,
        vec![
            ("the answer to the kernel's question", arp_from(2, VIP, HOST)),
            ("a question that only the kernel can answer", arp_from(1, VIP, HOST)),
            ("a stranger's announcement", arp_from(1, CLIENT, CLIENT)),
            ("a real's", arp_from(2, REAL, REAL)),
            ("the host's, looped back", arp_from(1, HOST, HOST)),
            ("reverse ARP", arp_from(4, VIP, VIP)),
            ("the answer to the kernel's solicitation", advertisement(VIP6, HOST6)),
            ("a stranger's advertisement", advertisement(CLIENT6, all)),
            ("the host's advertisement", advertisement(HOST6, all)),
            ("advertisement cut off", advertisement(VIP6, all)[..14 + 40 + 20].to_vec()),
        ],
    );
}

#[test]
fn a_gateway_is_found_and_pinged_and_gets_nothing_else() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    bench.check(
        Action::Ours,
        vec![
            ("ARP", arp_from(1, REAL, GATEWAY)),
            ("solicitation", solicitation(GATEWAY6, "ff02::1:ff00:1")),
            ("echo", in_frame(&ip(REAL, GATEWAY, ICMP, &icmp(8, b"hello")))),
            ("echo, v6", in_frame(&ip("fe80::7", GATEWAY6, ICMPV6, &icmp(128, b"hello")))),
            ("through it: a reply of NAT", tcp((REAL, 8080), (CLIENT, 1000))),
        ],
    );
    bench.check(
        Action::Kernel,
        vec![
            ("a connection to it", tcp((REAL, 40_000), (GATEWAY, 22))),
            ("a datagram to it", udp((REAL, 40_000), (GATEWAY, 53))),
            ("an error to it", in_frame(&ip(REAL, GATEWAY, ICMP, &icmp(3, &[0; 28])))),
            ("an echo reply", in_frame(&ip(REAL, GATEWAY, ICMP, &icmp(0, b"hello")))),
            ("through it: what a real asks of the world", udp((REAL, 40_000), (CLIENT, 53))),
        ],
    );
}

#[test]
fn replies_of_full_nat_come_to_the_local_address_and_from_a_real() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    let error = |from: &str, inner: &[u8]| in_frame(&ip(from, LOCAL, ICMP, &icmp(3, inner)));
    let quote = |source: (&str, u16), destination: &str| {
        ip(source.0, destination, TCP, &ports(source.1, 80)[..8])
    };
    let inner6 = ip(LOCAL6, REAL6, UDP, &ports(50_000, 53)[..8]);
    bench.check(
        Action::Ours,
        vec![
            ("reply", tcp((REAL, 80), (LOCAL, 40_000))),
            ("reply, v6", udp((REAL6, 80), (LOCAL6, 50_000))),
            ("later fragment", {
                in_frame(&fragment(ip(REAL, LOCAL, TCP, &ports(80, 1)), 0x2001))
            }),
            ("error from a router", error(CLIENT, &quote((LOCAL, 45_000), REAL))),
            ("error, v6", in_frame(&ip(CLIENT6, LOCAL6, ICMPV6, &icmp(1, &inner6)))),
        ],
    );
    bench.check(
        Action::Kernel,
        vec![
            ("port below", tcp((REAL, 80), (LOCAL, 39_999))),
            ("port above", tcp((REAL, 80), (LOCAL, 50_001))),
            ("from a stranger", tcp((CLIENT, 80), (LOCAL, 40_000))),
            ("fragment of a stranger", {
                in_frame(&fragment(ip(CLIENT, LOCAL, TCP, &ports(80, 1)), 0x2001))
            }),
            ("echo request", in_frame(&ip(REAL, LOCAL, ICMP, &icmp(8, b"hello")))),
            ("error about another port", error(REAL, &quote((LOCAL, 22), REAL))),
            ("error about another source", error(REAL, &quote((HOST, 45_000), REAL))),
            ("error about a stranger", error(REAL, &quote((LOCAL, 45_000), CLIENT))),
            ("error that quotes too little", error(REAL, &quote((LOCAL, 45_000), REAL)[..27])),
            ("error that quotes no header", error(REAL, &[0x45; 10])),
            ("error about a later fragment", {
                error(REAL, &fragment(quote((LOCAL, 45_000), REAL), 1))
            }),
            ("reply cut off before the ports", tcp((REAL, 80), (LOCAL, 40_000))[..34].to_vec()),
        ],
    );
}

#[test]
fn replies_of_nat_are_known_by_real_and_port() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    let error = |inner: &[u8]| in_frame(&ip(REAL, CLIENT, ICMP, &icmp(3, inner)));
    let quote = |to: &str, protocol, port| ip(CLIENT, to, protocol, &ports(1000, port)[..8]);
    let later = |from: &str| in_frame(&fragment(ip(from, CLIENT, TCP, &ports(1, 1)), 1));
    bench.check(
        Action::Ours,
        vec![
            ("reply", tcp((REAL, 8080), (CLIENT, 1000))),
            ("reply, v6", udp((REAL6, 53), (CLIENT6, 1000))),
            ("any port", udp((REAL_ANY, 7777), (CLIENT, 1000))),
            ("later fragment", later(REAL)),
            ("error of the real", error(&quote(REAL, TCP, 8080))),
            ("error of a router, any port", error(&quote(REAL_ANY, UDP, 5))),
            ("to another real", tcp((REAL, 8080), (REAL_ANY, 1000))),
        ],
    );
    bench.check(
        Action::Kernel,
        vec![
            ("other port", tcp((REAL, 22), (CLIENT, 1000))),
            ("other protocol", udp((REAL, 8080), (CLIENT, 1000))),
            ("any port of another protocol", tcp((REAL_ANY, 7777), (CLIENT, 1000))),
            ("not from a real", tcp((CLIENT, 8080), (CLIENT, 1000))),
            ("to the host: its own health check", tcp((REAL, 8080), (HOST, 1000))),
            ("to the host, v6", udp((REAL6, 53), (HOST6, 1000))),
            ("multicast", udp((REAL_ANY, 5353), ("224.0.0.251", 5353))),
            ("broadcast", udp((REAL_ANY, 5353), ("255.255.255.255", 5353))),
            ("multicast, v6", udp((REAL6, 53), ("ff02::fb", 5353))),
            ("error about another port", error(&quote(REAL, TCP, 22))),
            ("error about a stranger", error(&quote(CLIENT, TCP, 8080))),
            ("error about another client's packet", {
                error(&ip("198.51.100.8", REAL, TCP, &ports(1000, 8080)))
            }),
            ("fragment of a stranger", later(CLIENT)),
            ("to the host from a VIP, not to a port of a probe", tcp((VIP, 80), (HOST, 1024))),
            ("to a port of a probe, from a real", tcp((REAL, 80), (HOST, 1000))),
            ("to a port of a probe, from a client", tcp((CLIENT, 80), (HOST, 1000))),
            ("to a port of a probe, UDP", udp((VIP, 80), (HOST, 1000))),
            ("cut off before the ports", udp((REAL_ANY, 7777), (CLIENT, 1000))[..34].to_vec()),
            ("echo reply", in_frame(&ip(REAL, CLIENT, ICMP, &icmp(0, b"hello")))),
        ],
    );
}

/// A TCP header with these flags.
fn segment(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut bytes = ports(source, destination);
    bytes[12..14].copy_from_slice(&[0x50, flags]);
    bytes
}

#[test]
fn without_a_server_new_connections_are_the_kernels_and_stay_so_when_one_returns() {
    if !lab::is_root() {
        return;
    }
    let (syn, ack, synack, fin, rst) = (0x02, 0x10, 0x12, 0x11, 0x04);
    for (client, vip, port, error) in [(CLIENT, VIP, 80, 3), (CLIENT6, VIP6, 443, 2)] {
        let mut bench = Bench::new();
        let tcp = |from: u16, flags| in_frame(&ip(client, vip, TCP, &segment(from, port, flags)));
        let about = |from: u16| {
            let quote = ip(vip, client, TCP, &ports(port, from));
            let kind = if client == CLIENT { ICMP } else { ICMPV6 };
            in_frame(&ip("198.51.100.1", vip, kind, &icmp(error, &quote)))
        };
        let about6 = |from: u16| {
            let quote = ip(vip, client, TCP, &ports(port, from));
            in_frame(&ip("2001:db8:7::1", vip, ICMPV6, &icmp(error, &quote)))
        };
        let about = |from| if client == CLIENT { about(from) } else { about6(from) };
        let with = |bench: &mut Bench, action| {
            let mut rules = rules();
            rules.services.insert((address(vip), port, TCP), action);
            bench.steer.apply(&rules).unwrap();
        };
        let (ours, kernels) = (Action::Ours, Action::Kernel);
        bench.check(ours, vec![("served", tcp(1, syn)), ("served", tcp(1, ack))]);
        with(&mut bench, Action::Sorry);
        bench.check(ours, vec![("an old connection", tcp(1, ack)), ("about it", about(1))]);
        bench.check(kernels, vec![("a new one", tcp(2, syn)), ("its rest", tcp(2, ack))]);
        bench.check(kernels, vec![("its end", tcp(2, fin)), ("about it", about(2))]);
        let odd = vec![("no SYN of a client", tcp(3, synack)), ("a stray reset", tcp(3, rst))];
        bench.check(ours, odd);
        assert_eq!(bench.steer.kernel_flows(dataplane::clock::now()).unwrap(), 1);
        with(&mut bench, Action::Shared);
        bench.check(kernels, vec![("it goes on", tcp(2, ack)), ("about it", about(2))]);
        bench.check(ours, vec![("others", tcp(1, ack)), ("new ones", tcp(4, syn))]);
        bench.check(ours, vec![("the port again", tcp(2, syn)), ("and its rest", tcp(2, ack))]);
        assert_eq!(bench.steer.kernel_flows(dataplane::clock::now()).unwrap(), 0);
    }
}

#[test]
fn connections_of_the_kernel_outlive_the_process_and_are_forgotten_when_idle() {
    if !lab::is_root() {
        return;
    }
    let Bench { mut steer, _files: files } = Bench::new();
    let mut rules = rules();
    rules.services.insert((address(VIP), 80, TCP), Action::Sorry);
    steer.apply(&rules).unwrap();
    let tcp = |from, flags| in_frame(&ip(CLIENT, VIP, TCP, &segment(from, 80, flags)));
    for port in 1..=3000 {
        assert_eq!(steer.judge(&tcp(port, 0x02)).unwrap(), Action::Kernel);
    }
    drop(steer);
    let mut steer = Steer::open(&files.path().join("xvip")).unwrap();
    assert_eq!(steer.judge(&tcp(7, 0x10)).unwrap(), Action::Kernel);
    let now = dataplane::clock::now();
    // Some at each call; three calls for all.
    assert_eq!(steer.kernel_flows(now).unwrap(), 1024);
    assert_eq!([steer.kernel_flows(now).unwrap(), steer.kernel_flows(now).unwrap()], [2048, 3000]);
    let later = now.after(std::time::Duration::from_secs(1000));
    for _ in 0..4 {
        steer.kernel_flows(later).unwrap();
    }
    assert_eq!(steer.kernel_flows(later).unwrap(), 0);
    assert_eq!(steer.judge(&tcp(7, 0x10)).unwrap(), Action::Ours);
}

#[test]
fn what_a_vip_says_to_a_port_of_a_probe_is_ours() {
    if !lab::is_root() {
        return;
    }
    Bench::new().check(
        Action::Ours,
        vec![
            ("first port", tcp((VIP, 80), (HOST, 960))),
            ("last port", tcp((VIP, 80), (HOST, 1023))),
            ("v6", tcp((VIP6, 443), (HOST6, 1000))),
        ],
    );
}

#[test]
fn path_mtu_of_a_tunnel_to_a_real_is_ours_other_errors_for_the_host_are_not() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    let inner = ip(CLIENT, VIP, TCP, &ports(1, 80));
    let inner6 = ip(CLIENT6, VIP6, TCP, &ports(1, 443));
    let error = |inner: &[u8]| in_frame(&ip(CLIENT, HOST, ICMP, &icmp(3, inner)));
    let error6 = |inner: &[u8]| in_frame(&ip(CLIENT6, HOST6, ICMPV6, &icmp(2, inner)));
    bench.check(
        Action::Ours,
        vec![
            ("4 in 4", error(&ip(HOST, REAL, 4, &inner))),
            ("6 in 4", error(&ip(HOST, REAL, 41, &inner6))),
            ("4 in 6", error6(&ip(HOST6, REAL6, 4, &inner))),
            ("6 in 6", error6(&ip(HOST6, REAL6, 41, &inner6))),
            ("4 in 4, 8 bytes quoted", error(&ip(HOST, REAL, 4, &inner[..8]))),
        ],
    );
    bench.check(
        Action::Kernel,
        vec![
            ("tunnel to a stranger", error(&ip(HOST, CLIENT, 4, &inner))),
            ("a health check", error(&ip(HOST, REAL, TCP, &ports(1000, 8080)))),
            ("quotes no header", error(&[0x45, 0, 0])),
            ("echo", in_frame(&ip(CLIENT, HOST, ICMP, &icmp(8, b"hello")))),
            ("ssh", tcp((CLIENT, 1000), (HOST, 22))),
        ],
    );
}

#[test]
fn a_packet_cut_anywhere_is_the_kernels_until_its_address_is_known() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    let v4 = tcp((CLIENT, 1000), (VIP, 80));
    let v6 = in_frame(&ip(CLIENT6, VIP6, 0, &extension(TCP, 1, &ports(1000, 443))));
    for (whole, addresses) in [(v4, 14 + 20), (v6, 14 + 40)] {
        for len in 14..=whole.len() {
            let expected = if len < addresses { Action::Kernel } else { Action::Ours };
            assert_eq!(bench.steer.judge(&whole[..len]).unwrap(), expected, "{len} bytes");
        }
    }
    // Nobody's packets are the kernel's wherever they end.
    let other = in_frame(&ip(CLIENT6, CLIENT6, 0, &extension(TCP, 1, &ports(1000, 443))));
    for len in 14..=other.len() {
        assert_eq!(bench.steer.judge(&other[..len]).unwrap(), Action::Kernel, "{len} bytes");
    }
}

#[test]
fn tagged_frames_and_other_protocols_are_the_kernels() {
    if !lab::is_root() {
        return;
    }
    let bench = Bench::new();
    let tagged = |tag: [u8; 4]| {
        let mut frame = tcp((CLIENT, 1000), (VIP, 80));
        frame.splice(12..12, tag);
        frame
    };
    let mut odd = tcp((CLIENT, 1000), (VIP, 80));
    odd[14] = 0x65;
    let mut odd6 = tcp((CLIENT6, 1000), (VIP6, 443));
    odd6[14] = 0x40;
    bench.check(
        Action::Kernel,
        vec![
            ("802.1Q", tagged([0x81, 0, 0, 5])),
            ("802.1ad", tagged([0x88, 0xa8, 0, 5])),
            ("LLDP", frame(0x88cc, &[2, 7, 4, 0, 0, 0, 0, 0, 0])),
            ("version 6 under the type of 4", odd),
            ("version 4 under the type of 6", odd6),
            ("nothing behind the Ethernet header", frame(0x0800, &[])),
        ],
    );
}

#[test]
fn new_rules_take_effect_at_once_and_survive_the_process() {
    if !lab::is_root() {
        return;
    }
    let Bench { mut steer, _files: files } = Bench::new();
    let dir = files.path().join("xvip");
    let (old, new) = (tcp((CLIENT, 1), (VIP, 80)), tcp((CLIENT, 1), (VIP, 7)));
    let mut rules = rules();
    rules.services.remove(&(address(VIP), 80, TCP));
    rules.ranges.remove(&(address(VIP), TCP));
    rules.services.insert((address(VIP), 7, TCP), Action::Ours);
    steer.apply(&rules).unwrap();
    assert_eq!(steer.judge(&old).unwrap(), Action::Kernel);
    assert_eq!(steer.judge(&new).unwrap(), Action::Ours);
    let counted = steer.stats().unwrap();
    assert_eq!((counted.ours, counted.kernel, counted.no_socket), (1, 1, 1));

    drop(steer);
    let mut next = Steer::open(&dir).unwrap();
    assert_eq!(next.stats().unwrap(), counted, "the maps are the same ones");
    assert_eq!(next.judge(&new).unwrap(), Action::Ours);
    next.apply(&Rules::default()).unwrap();
    assert_eq!(next.judge(&new).unwrap(), Action::Kernel, "what it found there was removed");
    next.shutdown().unwrap();
    assert!(!dir.exists());
}

#[test]
fn rules_that_do_not_fit_are_refused_and_change_nothing() {
    if !lab::is_root() {
        return;
    }
    let mut bench = Bench::new();
    let mut many = rules();
    many.addresses = (0..16_385).map(|n| (Address::v4(n), flag::REAL)).collect();
    let error = bench.steer.apply(&many).unwrap_err().to_string();
    assert!(error.contains("addresses") && error.contains("16384"), "{error}");
    let mut wide = rules();
    let nine = (0..9).map(|n| (10 * n + 1, 10 * n + 2, Action::Kernel)).collect();
    wide.ranges.insert((address(VIP), TCP), nine);
    let error = bench.steer.apply(&wide).unwrap_err().to_string();
    assert!(error.contains(VIP), "{error}");
    bench.check(Action::Ours, vec![("service", tcp((CLIENT, 1000), (VIP, 80)))]);

    // A full map may be replaced by another full one.
    let full = |shift: u32| Rules {
        addresses: (0..16_384).map(|n| (Address::v4(n + shift), flag::VIP)).collect(),
        ..rules()
    };
    bench.steer.apply(&full(0)).unwrap();
    bench.steer.apply(&full(16_384)).unwrap();
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_refused_with_the_remedy() {
    if !lab::is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let error = Steer::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("mount -t bpf"), "{error}");
}
