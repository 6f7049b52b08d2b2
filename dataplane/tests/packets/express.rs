//! The express lane and the long way do the same, packet by packet.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::address::DeviceId;
use dataplane::published::HopState;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::{CaptureFilter, How};
use dataplane_api::service::{Forwarding, Protocol, Service};
use proptest::prelude::*;

use crate::harness::{INSIDE, OUTSIDE, With, World, real, service, snapshot, vip};
use crate::packet::{ACK, Frame, SYN, Seen, tcp};

const METHODS: [Forwarding; 4] =
    [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel];

/// Every method and protocol on ports 80 to 83, both families; UDP on 81 is persistent.
fn services() -> Vec<Service> {
    let mut services = Vec::new();
    for (n, method) in METHODS.into_iter().enumerate() {
        for v6 in [false, true] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let address = if v6 { "[2001:db8::1]" } else { "192.0.2.1" };
                let name = format!("{protocol:?}-{v6}-{n}");
                let one = service(&name, protocol, &[&format!("{address}:{}", 80 + n)], method);
                let port = (!method.is_one_way()).then_some(8080);
                let one = one.real(real(v6, 11), port, 1).real(real(v6, 12), port, 1);
                let persistent = n == 1 && protocol == Protocol::Udp;
                services.push(if persistent { one.persistent(60, 32, 128) } else { one });
            }
        }
    }
    services
}

/// One of 64 flows, of which few are used: family, protocol, method, client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow(bool, bool, u16, u16);

impl Flow {
    fn frame(self, flags: u8) -> Frame {
        let Self(v6, is_tcp, method, client) = self;
        let frame = Frame { flags: is_tcp.then_some(flags), ..tcp(v6, 0) };
        frame.to(vip(v6), 80 + method).by_port(1000 + client)
    }
}

/// What is unusual about a packet.
#[derive(Clone, Debug)]
enum Oddity {
    None,
    Flags(u8),
    Ttl(u8),
    Length(usize),
    /// From another router.
    Router(u8),
    Port(u16),
    /// A byte changed after the checksums were right.
    Damage(usize, u8),
    Cut(usize),
    /// Behind the packet, as of a short Ethernet frame.
    Padding(usize),
}

#[derive(Clone, Debug)]
enum Act {
    /// The packets of a handshake, or two datagrams and an answer.
    Open(Flow),
    /// A burst of clients.
    Requests(Vec<(Flow, Oddity)>),
    /// A burst of answers to what was last sent to the reals.
    Answers(Vec<(Flow, Oddity)>),
    Wait(u64),
    Mtu(bool, u16),
    /// The next hop of a real is lost, or found again.
    Hop(bool, u8, bool),
    Usable(bool, bool),
    /// Connections of a real are told to go.
    End(bool, u8, How),
    /// A capture begins or ends: every packet takes the long way, and no other.
    Capture(bool),
}

fn flow() -> impl Strategy<Value = Flow> {
    (any::<bool>(), any::<bool>(), 0..4_u16, 0..2_u16).prop_map(|(a, b, c, d)| Flow(a, b, c, d))
}

fn packets() -> impl Strategy<Value = Vec<(Flow, Oddity)>> {
    let oddity = prop_oneof![
        12 => Just(Oddity::None),
        2 => any::<u8>().prop_map(Oddity::Flags),
        1 => (0..3_u8).prop_map(Oddity::Ttl),
        2 => (0..1500_usize).prop_map(Oddity::Length),
        1 => any::<u8>().prop_map(Oddity::Router),
        1 => any::<u16>().prop_map(Oddity::Port),
        2 => (0..80_usize, 1..=255_u8).prop_map(|(at, bits)| Oddity::Damage(at, bits)),
        1 => (0..80_usize).prop_map(Oddity::Cut),
        1 => (0..20_usize).prop_map(Oddity::Padding),
    ];
    prop::collection::vec((flow(), oddity), 1..12)
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => flow().prop_map(Act::Open),
        8 => packets().prop_map(Act::Requests),
        8 => packets().prop_map(Act::Answers),
        2 => (0..20_000_u64).prop_map(Act::Wait),
        1 => (any::<bool>(), 100..1600_u16).prop_map(|(side, mtu)| Act::Mtu(side, mtu)),
        1 => (any::<bool>(), 11..13_u8, any::<bool>()).prop_map(|(v6, n, up)| Act::Hop(v6, n, up)),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(side, usable)| Act::Usable(side, usable)),
        1 => (any::<bool>(), 11..13_u8, prop::sample::select(vec![How::Reset, How::Drop, How::Move]))
            .prop_map(|(v6, n, how)| Act::End(v6, n, how)),
        1 => any::<bool>().prop_map(Act::Capture),
    ]
}

/// Two worlds to which the same happens.
struct Twins {
    express: World,
    long: World,
    /// What was last sent to the real of each flow.
    sent: BTreeMap<Flow, Vec<u8>>,
}

impl Twins {
    fn new() -> Self {
        let world = || World::sized(&snapshot(&services()), 4096, 2048);
        Self { express: world(), long: world().without_express(), sent: BTreeMap::new() }
    }

    fn both(&mut self, change: impl Fn(&mut World)) {
        change(&mut self.express);
        change(&mut self.long);
    }

    fn receive(&mut self, device: DeviceId, frames: &[(Flow, Vec<u8>)]) {
        let bytes: Vec<_> = frames.iter().map(|(_, bytes)| bytes.clone()).collect();
        let fates = self.express.burst(0, device, &bytes);
        assert_eq!(fates, self.long.burst(0, device, &bytes));
        for ((flow, _), fate) in frames.iter().zip(fates) {
            for (to, bytes) in fate.sent {
                if to == INSIDE && device == OUTSIDE && flow.2 < 2 {
                    self.sent.insert(*flow, bytes);
                }
            }
        }
    }

    fn answer(&self, flow: Flow, flags: u8) -> Option<Frame> {
        self.sent.get(&flow).map(|bytes| Frame::answer_to(&Seen::unjudged(bytes), flags))
    }

    fn open(&mut self, flow: Flow) {
        self.receive(OUTSIDE, &[(flow, flow.frame(SYN).bytes())]);
        if let Some(answer) = self.answer(flow, SYN | ACK) {
            self.receive(INSIDE, &[(flow, answer.bytes())]);
        }
        self.receive(OUTSIDE, &[(flow, flow.frame(ACK).bytes())]);
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Open(flow) => self.open(*flow),
            Act::Requests(packets) => {
                let frame = |(flow, oddity): &(Flow, Oddity)| (*flow, odd(flow.frame(ACK), oddity));
                self.receive(OUTSIDE, &packets.iter().map(frame).collect::<Vec<_>>());
            }
            Act::Answers(packets) => {
                let frame = |(flow, oddity): &(Flow, Oddity)| {
                    Some((*flow, odd(self.answer(*flow, ACK)?, oddity)))
                };
                let frames: Vec<_> = packets.iter().filter_map(frame).collect();
                self.receive(INSIDE, &frames);
            }
            Act::Wait(millis) => self.both(|w| w.advance(Duration::from_millis(*millis))),
            Act::Mtu(side, mtu) => self.both(|w| w.device(end(*side), |d| d.mtu = *mtu)),
            Act::Hop(v6, n, up) => {
                let state = if *up { HopState::Resolved } else { HopState::Unresolved };
                self.both(|w| w.hop(real(*v6, *n), |hop| hop.state = state));
            }
            Act::Usable(side, usable) => {
                self.both(|w| w.device(end(*side), |d| d.usable = *usable));
            }
            Act::End(v6, n, how) => self.both(|w| drop(w.end(real(*v6, *n), *how))),
            Act::Capture(true) => {
                let World { shared, now, .. } = &self.express;
                let times = (*now, now.after(Duration::from_secs(5)));
                // One at a time.
                let _ = shared.capture.start(CaptureFilter::default(), 1000, 64, times);
            }
            Act::Capture(false) => self.express.shared.capture.stop(),
        }
    }

    /// Whatever can be seen from outside is the same.
    fn compare(&self) {
        let (a, b) = (&self.express, &self.long);
        let conns = |world: &World| {
            let mut conns: Vec<_> = world.conns().iter().map(|c| format!("{c:?}")).collect();
            conns.sort_unstable();
            conns
        };
        assert_eq!(conns(a), conns(b));
        for reason in Reason::ALL {
            assert_eq!(a.drops(*reason), b.drops(*reason), "{reason:?}");
        }
        for event in Event::ALL {
            assert_eq!(a.event(*event), b.event(*event), "{event:?}");
        }
        for (id, _) in a.published.services.reals() {
            assert_eq!(a.traffic(id), b.traffic(id), "{id:?}");
        }
    }
}

fn end(outside: bool) -> DeviceId {
    if outside { OUTSIDE } else { INSIDE }
}

fn odd(mut frame: Frame, oddity: &Oddity) -> Vec<u8> {
    match oddity {
        Oddity::Flags(flags) => frame.flags = frame.flags.map(|_| *flags),
        Oddity::Ttl(ttl) => frame.ttl = *ttl,
        Oddity::Length(length) => frame.payload = vec![7; *length],
        Oddity::Router(router) => frame.macs.0[5] = *router,
        Oddity::Port(port) => frame.ports.0 = *port,
        Oddity::None | Oddity::Damage(..) | Oddity::Cut(_) | Oddity::Padding(_) => {}
    }
    let mut bytes = frame.bytes();
    match *oddity {
        Oddity::Damage(at, bits) if at < bytes.len() => bytes[at] ^= bits,
        Oddity::Cut(at) => bytes.truncate(at),
        Oddity::Padding(more) => bytes.resize(bytes.len() + more, 0),
        _ => {}
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_express_lane_does_what_the_long_way_does(
        acts in prop::collection::vec(acts(), 1..60),
    ) {
        let mut twins = Twins::new();
        for client in 0..64 {
            let flow = Flow(client & 1 != 0, client & 2 != 0, client >> 2 & 3, client >> 4 & 1);
            twins.open(flow);
        }
        for act in &acts {
            twins.act(act);
        }
        twins.compare();
    }
}
