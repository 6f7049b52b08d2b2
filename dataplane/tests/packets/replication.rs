//! Connections of one data plane in another one, which has other numbers, interfaces and sizes.
//! Row D of the test matrix, the data planes' part.

use std::time::{Duration, Instant as Clock};

use dataplane::conn::State;
use dataplane::published::Segment;
use dataplane::sync::{Names, Replica, View, life};
use dataplane_api::counter::{Event, Reason};
use dataplane_api::record::{Operation, Record, tag};
use dataplane_api::service::{Forwarding, Protocol, Scheduler, Service, Snapshot};
use dataplane_api::sync::{ALL, Frame as SyncFrame, Standing, Stream};
use proptest::prelude::*;

use crate::harness::{
    CLIENT_MAC, INSIDE, INSIDE_MAC, OUTSIDE, OUTSIDE_MAC, With, World, ip, real, service, snapshot,
    vip, web,
};
use crate::packet::{ACK, FIN, Frame, PSH, RST, SYN, Seen, tcp, udp};

const FAMILIES: [bool; 2] = [false, true];

/// A data plane with its half of replication.
struct Node {
    world: World,
    replica: Replica,
    segments: Vec<Segment>,
    owned: bool,
    /// The interface of its clients, and the MAC address there.
    clients: (dataplane::address::DeviceId, [u8; 6]),
    /// Passes ordered so far.
    pass: u16,
}

impl Node {
    fn new(snapshot: &Snapshot, capacity: u32, owned: bool) -> Self {
        let world = World::sized(snapshot, capacity, capacity / 4);
        let segment =
            |device, network, length| Segment { device, network: ip(network).into(), length };
        let segments = vec![
            segment(OUTSIDE, "192.0.2.0", 24),
            segment(OUTSIDE, "2001:db8::", 64),
            segment(INSIDE, "10.0.0.0", 24),
        ];
        let replica = Replica::new(capacity, 2);
        let clients = (OUTSIDE, OUTSIDE_MAC);
        let mut node = Self { world, replica, segments, owned, clients, pass: 0 };
        node.with(|replica, view| replica.begin(view));
        node
    }

    /// The same services with other numbers: another service, real, VIP and local address before
    /// them; clients and reals on each other's interface.
    fn mirrored(snapshot: &Snapshot, capacity: u32, owned: bool) -> Self {
        let mut other = snapshot.clone();
        let before = service("aaa", Protocol::Tcp, &["192.0.2.0:1"], Forwarding::Nat);
        other.services.insert(0, before.real(ip("10.0.0.1"), None, 1));
        other.local.addresses.insert(0, ip("fd00::1"));
        let mut node = Self::new(&other, capacity, owned);
        let addresses: Vec<_> =
            other.services.iter().flat_map(|s| &s.reals).map(|r| r.address).collect();
        for address in addresses {
            node.world.hop(address, |hop| hop.device = OUTSIDE);
        }
        for segment in &mut node.segments {
            segment.device = if segment.device == OUTSIDE { INSIDE } else { OUTSIDE };
        }
        node.clients = (INSIDE, INSIDE_MAC);
        node
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Replica, &View<'_>) -> T) -> T {
        let names = Names::new(&self.world.published.services, &self.segments);
        let owned = [self.owned; 16];
        let now = self.world.now;
        let view = View { shared: &self.world.shared, names: &names, owned: &owned, now };
        act(&mut self.replica, &view)
    }

    /// Gives a frame; the answers.
    fn give(&mut self, frame: &SyncFrame) -> Vec<SyncFrame> {
        let bytes = frame.encode();
        assert_eq!(SyncFrame::decode(&bytes[4..]).as_ref(), Ok(frame), "it fits a frame");
        let mut out = Vec::new();
        self.with(|replica, view| replica.take(frame, view, &mut out)).unwrap();
        out
    }

    fn start(&mut self) {
        self.pass += 1;
        let pass = self.pass;
        self.give(&SyncFrame::Start { pass });
    }

    /// Rounds until nothing is left to do: the stream.
    fn stream(&mut self) -> Vec<Stream> {
        let mut out = Vec::new();
        while self.with(|replica, view| replica.round(view, true, &mut out)) {}
        let item = |frame| match frame {
            SyncFrame::Stream { item, .. } => Some(item),
            _ => None,
        };
        out.into_iter().filter_map(item).collect()
    }

    fn import(&mut self, items: &[Stream]) -> Vec<SyncFrame> {
        let frame = |item: &Stream| SyncFrame::Stream { number: 1, item: item.clone() };
        let answers = items.iter().flat_map(|item| self.give(&frame(item))).collect();
        self.world.audit();
        answers
    }

    fn standing(&mut self) -> Standing {
        self.with(|replica, view| replica.standing(view))
    }

    /// A frame of a client, addressed to this node.
    fn client(&mut self, frame: &Frame) -> Vec<u8> {
        let (device, mac) = self.clients;
        let inside = if device == OUTSIDE { INSIDE } else { OUTSIDE };
        let frame = Frame { macs: (CLIENT_MAC, mac), ..frame.clone() };
        self.world.receive(device, &frame).one(inside)
    }

    /// A frame of a real.
    fn server(&mut self, frame: &Frame) -> Vec<u8> {
        let (device, _) = self.clients;
        let (inside, mac) =
            if device == OUTSIDE { (INSIDE, INSIDE_MAC) } else { (OUTSIDE, OUTSIDE_MAC) };
        let frame = Frame { macs: (frame.macs.0, mac), ..frame.clone() };
        self.world.receive(inside, &frame).one(device)
    }

    /// Handshake of a client's connection from `port`; where it went.
    fn connect(&mut self, v6: bool, port: u16) -> std::net::IpAddr {
        let seen = self.client(&tcp(v6, SYN).by_port(port));
        self.server(&Frame::answer(&seen, SYN | ACK));
        Seen::of(&self.client(&tcp(v6, ACK).by_port(port))).destination
    }

    /// What the peer ought to have of it, or what it has of the peer, without what may differ.
    fn named(&mut self, imported: bool) -> Vec<Record> {
        let mut records = Vec::new();
        self.with(|_, view| {
            for index in 0..view.shared.conns.high() {
                let Some((found, origin)) = view.shared.conns.at(index) else { continue };
                if found.conn.state.is_half_open() || origin.is_imported() != imported {
                    continue;
                }
                let record = view.names.record(Operation::Upsert, &found).unwrap();
                let origin = if imported { origin.life() } else { life(&found) };
                records.push(Record { origin, ..record });
            }
        });
        records.sort_by_key(Record::encode);
        records
    }
}

/// Everything that one has for the other.
fn carry(from: &mut Node, to: &mut Node) -> Vec<SyncFrame> {
    let items = from.stream();
    to.import(&items)
}

/// The second has exactly what the first ought to tell of.
fn assert_same(one: &mut Node, other: &mut Node) {
    assert_eq!(one.named(false), other.named(true));
    assert_eq!(one.replica.export().sums(), other.replica.import().sums());
    let Standing { worth, sent, waiting, .. } = one.standing();
    assert_eq!((worth, waiting), (sent, 0));
}

fn farm(v6: bool, protocol: Protocol, method: Forwarding) -> Service {
    let port = (!method.is_one_way()).then_some(8080);
    let web = web(v6, protocol, method).scheduler(Scheduler::Rr);
    (11..14).fold(web, |s, n| s.real(real(v6, n), port, 1))
}

fn pair(services: &[Service]) -> (Node, Node) {
    let snapshot = snapshot(services);
    let (mut a, b) = (Node::new(&snapshot, 1024, true), Node::mirrored(&snapshot, 517, false));
    a.start();
    (a, b)
}

fn records(items: &[Stream]) -> Vec<Record> {
    let of = |item: &Stream| match item {
        Stream::Changes { records, .. } => records.clone(),
        _ => Vec::new(),
    };
    items.iter().flat_map(of).collect()
}

#[test]
fn the_next_packets_on_the_other_node_are_those_that_this_one_would_have_sent() {
    for method in [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel] {
        for v6 in FAMILIES {
            let (mut a, mut b) = pair(&[farm(v6, Protocol::Tcp, method)]);
            for port in [40_000, 40_001, 40_002, 40_003] {
                let seen = a.client(&tcp(v6, SYN).by_port(port));
                if !method.is_one_way() {
                    a.server(&Frame::answer(&seen, SYN | ACK));
                }
                a.client(&tcp(v6, ACK).by_port(port));
            }
            carry(&mut a, &mut b);
            assert_same(&mut a, &mut b);
            (a.owned, b.owned) = (false, true);
            for port in [40_002, 40_000, 40_003, 40_001] {
                let data = tcp(v6, ACK | PSH).by_port(port).data(b"GET / HTTP/1.1");
                let here = a.client(&data);
                if !method.is_one_way() {
                    // The real's answer first: where the client is was said by the other node.
                    let answer = Frame::answer(&here, ACK | PSH);
                    let (ours, theirs) = (a.server(&answer), b.server(&answer));
                    assert_eq!(theirs[..6], CLIENT_MAC, "{method:?}");
                    assert_eq!(theirs[12..], ours[12..], "{method:?}");
                }
                let there = b.client(&data);
                assert_eq!(there[..6], here[..6], "the real's own MAC address");
                if method == Forwarding::Tunnel {
                    // The outer header has a number of its own.
                    let (here, there) = (Seen::of(&here), Seen::of(&there));
                    assert_eq!(there.inner()[12..], here.inner()[12..]);
                    assert_eq!(there.destination, here.destination);
                } else {
                    assert_eq!(there[12..], here[12..], "{method:?}");
                }
            }
            assert_eq!(b.world.all_drops(), 0);
        }
    }
}

#[test]
fn a_flood_of_syns_and_of_single_datagrams_is_not_told() {
    let services = [farm(false, Protocol::Tcp, Forwarding::Nat), {
        let listen = &["192.0.2.1:53"];
        service("dns", Protocol::Udp, listen, Forwarding::Nat).real(real(false, 11), None, 1)
    }];
    let (mut a, _) = pair(&services);
    a.stream();
    for n in 0..2000_u32 {
        let source = std::net::Ipv4Addr::from(0xcb00_7100 + n % 200).into();
        let port = 1000 + n as u16;
        a.client(&tcp(false, SYN).from(source).by_port(port));
        a.client(&udp(false).from(source).by_port(port).to(vip(false), 53));
    }
    assert!(a.world.event(Event::HalfOpenEvicted) > 0, "it was more than fits");
    assert_eq!(a.standing().waiting, 0, "nothing was even noted");
    a.world.seconds(3600);
    a.world.sweep();
    assert_eq!(a.world.shared.conns.used(), 0);
    assert_eq!((a.stream(), a.standing().worth), (vec![], 0));
    assert_eq!(a.world.event(Event::SyncOverflow), 0);
}

#[test]
fn each_change_is_told_when_it_happens_and_packets_that_change_nothing_are_not() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Nat)]);
    let begin = a.stream();
    let (pass, sent, bucket) = (1, 0, ALL);
    let owned = vec![tag(b"")];
    assert_eq!(begin, [Stream::Begin { pass, bucket }, Stream::End { pass, bucket, sent, owned }]);
    let seen = a.client(&tcp(false, SYN));
    a.server(&Frame::answer(&seen, SYN | ACK));
    assert_eq!(a.stream(), []);
    a.client(&tcp(false, ACK));
    let items = a.stream();
    let [Stream::Changes { since_ns, records }] = &items[..] else { panic!("{items:?}") };
    assert_eq!((*since_ns, records.len()), (a.world.now.nanos(), 1));
    assert_eq!((records[0].state, records[0].service), (4, tag(b"web")));
    b.import(&items);
    for _ in 0..100 {
        a.client(&tcp(false, ACK | PSH).data(b"more"));
    }
    assert_eq!((a.stream(), a.standing().waiting), (vec![], 0));
    a.server(&Frame::answer(&seen, FIN | ACK));
    carry(&mut a, &mut b);
    assert_eq!(b.world.state(), State::FinWait);
    a.client(&tcp(false, RST));
    carry(&mut a, &mut b);
    assert_eq!(b.world.state(), State::Close);
    assert_same(&mut a, &mut b);
    a.world.seconds(11);
    a.world.sweep();
    carry(&mut a, &mut b);
    assert_eq!((a.world.shared.conns.used(), b.world.shared.conns.used()), (0, 0));
    assert_same(&mut a, &mut b);
}

#[test]
fn flows_of_udp_are_told_from_their_second_packet_on() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Udp, Forwarding::Fullnat)]);
    a.client(&udp(false));
    carry(&mut a, &mut b);
    assert_eq!(b.world.shared.conns.used(), 0);
    let seen = a.client(&udp(false));
    carry(&mut a, &mut b);
    assert_same(&mut a, &mut b);
    assert_eq!(b.world.state(), State::Udp);
    b.server(&Frame::answer(&seen, 0));
}

#[test]
fn a_client_that_comes_back_finds_its_real_by_the_other_node_too() {
    let web = farm(false, Protocol::Tcp, Forwarding::Nat).persistent(300, 24, 64);
    let (mut a, mut b) = pair(&[web]);
    a.connect(false, 1);
    let to = {
        let from = ip("203.0.113.77");
        Seen::of(&a.client(&tcp(false, SYN).from(from))).destination
    };
    carry(&mut a, &mut b);
    assert_same(&mut a, &mut b);
    assert_eq!(b.world.shared.conns.templates(), 2);
    (a.owned, b.owned) = (false, true);
    for (port, from) in [(7, "203.0.113.1"), (8, "203.0.113.200")] {
        let syn = tcp(false, SYN).from(ip(from)).by_port(port);
        assert_eq!(Seen::of(&b.client(&syn)).destination, to);
    }
}

#[test]
fn what_the_peer_says_touches_nothing_that_is_owned_here() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Nat)]);
    b.owned = true;
    b.connect(false, 40_000);
    let before = b.world.conns();
    a.connect(false, 39_999);
    a.connect(false, 40_000);
    a.client(&tcp(false, RST));
    a.world.seconds(11);
    a.world.sweep();
    let items = a.stream();
    assert!(records(&items).iter().any(|r| r.operation == Operation::Remove));
    b.import(&items);
    assert!(before.iter().all(|conn| b.world.conns().contains(conn)));
    assert_eq!(b.world.shared.conns.used(), 2, "the one it did not have it has now");
    assert!(b.standing().own > 0);
}

#[test]
fn the_removal_of_an_old_life_does_not_end_a_new_one() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Nat)]);
    a.connect(false, 40_000);
    let old = records(&a.stream());
    a.client(&tcp(false, RST));
    a.connect(false, 40_000);
    let new: Vec<_> = records(&a.stream());
    let last = new.iter().rfind(|r| r.operation == Operation::Upsert).unwrap();
    assert_ne!(last.origin, old[0].origin);
    let of = |records: &[Record]| Stream::Changes { since_ns: 0, records: records.to_vec() };
    b.import(&[of(&old), of(&[*last])]);
    let late = Record { operation: Operation::Remove, ..old[0] };
    b.import(&[of(&[late])]);
    assert_eq!(b.world.state(), State::Established);
    let now = Record { operation: Operation::Remove, ..*last };
    b.import(&[of(&[now]), of(&[now])]);
    assert_eq!(b.world.shared.conns.used(), 0);
}

#[test]
fn what_names_nothing_here_is_counted_and_makes_no_connection() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Fullnat)]);
    a.connect(false, 40_000);
    let good = records(&a.stream())[0];
    let address = ip("192.0.2.99");
    let bad = [
        Record { service: 1, ..good },
        Record { vip: address, ..good },
        Record { real: address, ..good },
        Record { real_port: 9, ..good },
        Record { protocol: 17, ..good },
        Record { local: Some((7, 5000)), ..good },
        Record { local: None, ..good },
    ];
    for (n, record) in (1..).zip(bad) {
        b.import(&[Stream::Changes { since_ns: 0, records: vec![record] }]);
        assert_eq!((b.standing().unknown, b.world.shared.conns.used()), (n, 0), "{record:?}");
    }
    // Its local port is taken.
    let other = Record { client_port: 7, ..good };
    b.import(&[Stream::Changes { since_ns: 0, records: vec![good, other] }]);
    let Standing { no_room, unknown, own, imported, .. } = b.standing();
    assert_eq!((no_room, unknown, own, imported), (1, 7, 0, 1));
}

#[test]
fn replies_wait_for_the_client_where_nobody_knows_its_network() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Nat)]);
    a.connect(false, 40_000);
    b.segments.clear();
    carry(&mut a, &mut b);
    b.owned = true;
    let to = a.client(&tcp(false, ACK));
    let mut answer = Frame::answer(&to, ACK);
    answer.macs.1 = OUTSIDE_MAC;
    assert_eq!(b.world.receive(OUTSIDE, &answer).dropped(), Reason::DeviceDown);
    b.client(&tcp(false, ACK));
    assert_eq!(b.server(&answer)[..6], CLIENT_MAC);
}

#[test]
fn changes_that_were_lost_are_made_good_by_a_full_pass() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Nat)]);
    for port in 1..=20 {
        a.connect(false, port);
    }
    carry(&mut a, &mut b);
    let (handle, now) = (a.world.shared.conns.at(0).unwrap().0.handle, a.world.now);
    while a.world.shared.changes.note(0, handle, None, now) {}
    for port in 1..=5 {
        a.client(&tcp(false, RST).by_port(port));
        a.connect(false, 100 + port);
    }
    a.world.seconds(11);
    a.world.sweep();
    assert!(a.world.event(Event::SyncOverflow) > 0);
    let items = a.stream();
    assert!(items.iter().any(|i| matches!(i, Stream::Begin { bucket: ALL, .. })));
    b.import(&items);
    assert_same(&mut a, &mut b);
    assert_eq!(b.world.shared.conns.used(), 20);
    assert!(a.standing().overflows > 0 && a.standing().passes == 2);
}

#[test]
fn a_digest_names_the_bucket_that_differs_and_sending_it_again_mends_it() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Nat)]);
    for port in 1..=100 {
        a.connect(false, port);
    }
    carry(&mut a, &mut b);
    let differs = |a: &mut Node, b: &mut Node| -> Vec<u16> {
        a.give(&SyncFrame::Digest);
        let answers = carry(a, b);
        assert_eq!(answers.len(), 2, "both parts");
        let buckets = |frame| match frame {
            SyncFrame::Differs { buckets, .. } => buckets,
            other => panic!("{other:?}"),
        };
        answers.into_iter().flat_map(buckets).collect()
    };
    assert!(differs(&mut a, &mut b).is_empty());
    // The other node loses one by itself: nobody kept it alive.
    a.world.seconds(500);
    b.world.now = a.world.now;
    a.client(&tcp(false, ACK).by_port(17));
    for port in (1..=100).filter(|port| *port != 17) {
        b.client(&tcp(false, ACK).by_port(port));
    }
    b.world.seconds(500);
    b.world.sweep();
    assert_eq!(b.world.shared.conns.used(), 99);
    b.stream();
    let buckets = differs(&mut a, &mut b);
    assert_eq!(buckets.len(), 1);
    a.give(&SyncFrame::Resend { pass: 9, buckets });
    let items = a.stream();
    assert!(records(&items).len() < 20, "one bucket of 256");
    b.import(&items);
    assert_eq!(b.world.shared.conns.used(), 100);
    assert!(differs(&mut a, &mut b).is_empty());
}

#[test]
fn a_pass_takes_away_what_the_peer_has_no_longer() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Nat)]);
    for port in 1..=20 {
        a.connect(false, port);
    }
    carry(&mut a, &mut b);
    a.with(|replica, view| replica.end(view));
    for port in 1..=8 {
        a.client(&tcp(false, RST).by_port(port));
    }
    a.world.seconds(11);
    a.world.sweep();
    // Another session: the first process of control is gone, on both sides.
    a.with(|replica, view| replica.begin(view));
    b.with(|replica, view| replica.begin(view));
    assert_eq!(b.standing().imported, 20);
    a.start();
    carry(&mut a, &mut b);
    assert_same(&mut a, &mut b);
    assert_eq!(b.world.shared.conns.used(), 12);
    // An owner is told nothing of the kind.
    b.owned = true;
    b.stream();
    a.with(|replica, view| replica.begin(view));
    for port in 9..=20 {
        a.client(&tcp(false, RST).by_port(port));
    }
    a.world.seconds(11);
    a.world.sweep();
    a.start();
    carry(&mut a, &mut b);
    assert_eq!(b.world.shared.conns.used(), 12);
}

#[test]
fn the_peers_connections_are_kept_alive_as_long_as_it_says_and_age_from_a_takeover_on() {
    let timeout = 900;
    let wait = |b: &mut Node, seconds: u64| {
        for _ in 0..seconds {
            b.world.seconds(1);
            b.stream();
            b.world.sweep();
        }
    };
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Nat)]);
    for port in 1..=50 {
        a.connect(false, port);
    }
    carry(&mut a, &mut b);
    b.give(&SyncFrame::Keep(true));
    wait(&mut b, 3 * timeout);
    assert_eq!(b.world.shared.conns.used(), 50);
    b.owned = true;
    wait(&mut b, timeout - 10);
    assert_eq!(b.world.shared.conns.used(), 50);
    wait(&mut b, 20);
    assert_eq!(b.world.shared.conns.used(), 0);
    // Without its word they age.
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Nat)]);
    a.connect(false, 1);
    carry(&mut a, &mut b);
    b.give(&SyncFrame::Keep(true));
    wait(&mut b, timeout + 10);
    assert_eq!(b.world.shared.conns.used(), 1);
    b.give(&SyncFrame::Keep(false));
    wait(&mut b, timeout + 10);
    assert_eq!(b.world.shared.conns.used(), 0);
}

#[test]
fn ownership_can_go_there_and_back_and_no_connection_is_lost() {
    let (mut a, mut b) = pair(&[farm(false, Protocol::Tcp, Forwarding::Fullnat)]);
    b.start();
    for port in 1..=30 {
        a.connect(false, port);
    }
    let settle = |a: &mut Node, b: &mut Node| {
        for _ in 0..3 {
            carry(a, b);
            carry(b, a);
        }
    };
    settle(&mut a, &mut b);
    for round in 1..4_u16 {
        (a.owned, b.owned) = (!a.owned, !b.owned);
        settle(&mut a, &mut b);
        let (owner, other) = if a.owned { (&mut a, &mut b) } else { (&mut b, &mut a) };
        for port in (1..=30).chain((1..round).map(|r| 1000 + r)) {
            owner.client(&tcp(false, ACK | PSH).by_port(port).data(b"still there"));
        }
        owner.connect(false, 1000 + round);
        carry(owner, other);
        let count = 30 + u32::from(round);
        assert_eq!(other.named(true).len() as u32, count, "all are the owner's to tell of");
        assert_eq!(owner.replica.export().sums(), other.replica.import().sums());
        assert_eq!((owner.standing().worth, owner.standing().sent), (count, count));
        assert_eq!((other.standing().worth, other.standing().sent), (0, 0));
    }
    // What has ended at the last owner ends at the other.
    assert!(b.owned);
    b.client(&tcp(false, RST).by_port(30));
    b.world.seconds(11);
    b.world.sweep();
    settle(&mut a, &mut b);
    assert_eq!(a.world.shared.conns.used(), 32);
}

#[derive(Clone, Debug)]
enum Op {
    /// A client's packet, or the answer to it.
    Packet {
        port: u16,
        flags: u8,
        answer: bool,
        worker: usize,
    },
    Datagram {
        port: u16,
        worker: usize,
    },
    Wait {
        seconds: u64,
    },
    Sweep,
    /// The stream is carried over.
    Carry,
    /// So many changes that some are lost.
    Overflow {
        worker: usize,
    },
    Start,
    Digest,
}

fn op() -> impl Strategy<Value = Op> {
    let flags = prop::sample::select(vec![SYN, ACK, ACK, ACK | PSH, FIN | ACK, RST, SYN | ACK]);
    prop_oneof![
        40 => (1..12_u16, flags, any::<bool>(), 0..2_usize)
            .prop_map(|(port, flags, answer, worker)| Op::Packet { port, flags, answer, worker }),
        10 => (1..12_u16, 0..2_usize).prop_map(|(port, worker)| Op::Datagram { port, worker }),
        6 => (1..100_u64).prop_map(|seconds| Op::Wait { seconds }),
        4 => Just(Op::Sweep),
        8 => Just(Op::Carry),
        1 => (0..2_usize).prop_map(|worker| Op::Overflow { worker }),
        2 => Just(Op::Start),
        2 => Just(Op::Digest),
    ]
}

fn apply(op: &Op, a: &mut Node, b: &mut Node) {
    match *op {
        Op::Packet { port, flags, answer: false, worker } => {
            a.world.on(worker, OUTSIDE, &tcp(false, flags).by_port(port));
        }
        Op::Packet { port, flags, answer: true, worker } => {
            let conns = a.world.conns();
            let of_port = |c: &&dataplane::conn::Conn| {
                c.identity.client_port == port && c.identity.protocol == 6
            };
            let Some((local, local_port)) =
                conns.iter().find(of_port).and_then(|c| c.identity.local)
            else {
                return;
            };
            let services = &a.world.published.services;
            let conn = conns.iter().find(of_port).unwrap();
            let source = services.real(conn.identity.real).unwrap().address.into();
            let to = services.local(local).unwrap().into();
            let macs = (crate::harness::mac_of(source), INSIDE_MAC);
            let frame = Frame { macs, ports: (8080, local_port), ..tcp(false, flags) };
            a.world.on(worker, INSIDE, &frame.from(source).to(to, local_port));
        }
        Op::Datagram { port, worker } => {
            a.world.on(worker, OUTSIDE, &udp(false).by_port(port).to(vip(false), 53));
        }
        Op::Wait { seconds } => {
            a.world.seconds(seconds);
            b.world.now = a.world.now;
        }
        Op::Sweep => a.world.sweep(),
        Op::Carry => {
            carry(a, b);
        }
        Op::Overflow { worker } => {
            let Some(index) = (0..64).find(|i| a.world.shared.conns.at(*i).is_some()) else {
                return;
            };
            let handle = a.world.shared.conns.at(index).unwrap().0.handle;
            while a.world.shared.changes.note(worker, handle, None, a.world.now) {}
        }
        Op::Start => a.start(),
        Op::Digest => {
            a.give(&SyncFrame::Digest);
            let answers = carry(a, b);
            for answer in answers {
                let SyncFrame::Differs { buckets, .. } = answer else { continue };
                assert!(buckets.is_empty(), "everything came over, but {buckets:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_to_one_table_the_other_has_it_when_all_is_carried_over(
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let dns = service("dns", Protocol::Udp, &["192.0.2.1:53"], Forwarding::Fullnat);
        let web = farm(false, Protocol::Tcp, Forwarding::Fullnat).persistent(60, 32, 128);
        let services = [web, dns.real(real(false, 12), None, 1)];
        let (mut a, mut b) = pair(&services);
        b.give(&SyncFrame::Keep(true));
        for op in &ops {
            apply(op, &mut a, &mut b);
        }
        carry(&mut a, &mut b);
        assert_same(&mut a, &mut b);
        // And it is all given back.
        a.world.seconds(4000);
        a.world.sweep();
        carry(&mut a, &mut b);
        prop_assert_eq!(b.world.shared.conns.used(), 0);
        let Standing { unknown, no_room, own, .. } = b.standing();
        prop_assert_eq!((unknown, no_room, own), (0, 0, 0));
    }
}

/// Measures, and proves that it is complete; the time is printed, for the machine decides it.
#[test]
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn a_hundred_thousand_connections_go_over_in_one_pass() {
    let count = 100_000_u32;
    let web = farm(false, Protocol::Tcp, Forwarding::Direct);
    let snapshot = snapshot(&[web]);
    let mut a = Node::new(&snapshot, count + count / 4, true);
    let mut b = Node::mirrored(&snapshot, count + count / 8, false);
    for n in 0..count {
        let source = std::net::Ipv4Addr::from(0xcb00_7100 + n / 1000).into();
        for flags in [SYN, ACK] {
            let frame = tcp(false, flags).from(source).by_port(1000 + (n % 1000) as u16);
            a.world.burst(0, OUTSIDE, &[frame.bytes()]);
        }
    }
    a.with(|replica, view| replica.begin(view));
    a.start();
    let begun = Clock::now();
    let items = a.stream();
    let sent = begun.elapsed();
    let frames: Vec<_> =
        (1..).zip(items).map(|(number, item)| SyncFrame::Stream { number, item }).collect();
    let bytes: usize = frames.iter().map(|frame| frame.encode().len()).sum();
    let begun = Clock::now();
    let names = Names::new(&b.world.published.services, &b.segments);
    let view =
        View { shared: &b.world.shared, names: &names, owned: &[false; 16], now: b.world.now };
    for frame in &frames {
        b.replica.take(frame, &view, &mut Vec::new()).unwrap();
    }
    let taken = begun.elapsed();
    eprintln!("{count} connections: out {sent:?}, in {taken:?}, {bytes} bytes");
    assert_eq!(b.world.shared.conns.used(), count);
    assert_eq!(a.replica.export().sums(), b.replica.import().sums());
    assert!(sent < Duration::from_secs(60), "something is quadratic");
}
