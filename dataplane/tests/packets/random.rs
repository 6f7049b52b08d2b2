//! Any packets in any order: nothing is counted twice or not at all, nothing leaks, nothing outside a
//! frame is touched.

use std::time::Duration;

use dataplane::address::DeviceId;
use dataplane::counters::Counters;
use dataplane::forward::{Local, Pipeline, Tables};
use dataplane::frame::{Frame as Buffer, Outbox, Verdict};
use dataplane::lease::Fresh;
use dataplane::limits::{FRAME_SIZE, HEADROOM};
use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::How;
use dataplane_api::service::{Dead, Forwarding, Protocol, Scheduler, Service, Templates, Weight};
use proptest::prelude::*;

use crate::harness::{
    CLIENT_MAC, INSIDE, INSIDE_MAC, OUTSIDE, OUTSIDE_MAC, With, World, local, mac_of, own, real,
    service, snapshot, vip,
};
use crate::packet::{Frame, Seen, fragment, icmp_error, tcp};

const FILL: u8 = 0xa5;

/// Every method and protocol on ports 80 to 83, both families.
fn services() -> Vec<Service> {
    let methods = [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel];
    let mut services = Vec::new();
    for (n, method) in methods.into_iter().enumerate() {
        for v6 in [false, true] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let listen =
                    format!("{}:{}", if v6 { "[2001:db8::1]" } else { "192.0.2.1" }, 80 + n);
                let name = format!("{protocol:?}-{v6}-{n}");
                let one = service(&name, protocol, &[&listen], method);
                let port = (!method.is_one_way()).then_some(8080);
                let one = one.real(real(v6, 11), port, 2).real(real(v6, 12), port, 1);
                let one = one.scheduler(Scheduler::Wlc);
                services.push(if n == 0 { one.persistent(20, 24, 64) } else { one });
            }
        }
    }
    services
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Act {
    /// A packet of a client: family, TCP flags (none: UDP), client, service port.
    Client(bool, Option<u8>, u8, u8),
    /// What a real says to the last packet sent to one.
    Answer(u8),
    /// An ICMP error about the last packet sent, by its receiver; type and how much of it is quoted.
    Error(u8, u16),
    /// A piece of the last packet of a client.
    Piece(bool),
    /// Seconds pass.
    Wait(u16),
    /// Idle connections are ended.
    Sweep,
    /// The second real comes or goes, is drained, dies, or is a fallback.
    Reload(u8),
    /// A real's connections are told to go.
    End(bool, u8),
    /// Workers look for connections that are to end.
    Enders,
    /// Any bytes in place of some of the last packet of a client.
    Damage(u16, u8),
}

fn acts() -> impl Strategy<Value = Act> {
    let flags = prop::sample::select(vec![2, 16, 24, 17, 4, 20, 18, 1, 3, 0]);
    let client = (any::<bool>(), prop::option::weighted(0.7, flags.clone()), 0..6_u8, 0..4_u8);
    prop_oneof![
        10 => client.prop_map(|(v6, flags, who, port)| Act::Client(v6, flags, who, port)),
        6 => flags.prop_map(Act::Answer),
        1 => (any::<u8>(), any::<u16>()).prop_map(|(kind, length)| Act::Error(kind, length)),
        1 => any::<bool>().prop_map(Act::Piece),
        2 => (0..400_u16).prop_map(Act::Wait),
        1 => Just(Act::Sweep),
        2 => (0..8_u8).prop_map(Act::Reload),
        1 => (any::<bool>(), 0..6_u8).prop_map(|(v6, n)| Act::End(v6, n)),
        2 => Just(Act::Enders),
        2 => (any::<u16>(), any::<u8>()).prop_map(|(at, value)| Act::Damage(at, value)),
    ]
}

/// Plays acts; every frame received is audited by the harness.
struct Play {
    world: World,
    /// Last packet of a client, and last packet sent to a real.
    asked: Vec<u8>,
    sent: Vec<u8>,
}

impl Play {
    fn receive(&mut self, device: DeviceId, bytes: &[u8]) {
        let fate = self.world.receive_bytes(device, bytes);
        for (to, bytes) in fate.sent {
            if to == INSIDE && bytes[..6] != INSIDE_MAC {
                self.sent = bytes;
            }
        }
    }

    fn reload(&mut self, what: u8) {
        let mut services = services();
        for service in &mut services {
            match what {
                0 => {}
                1 => drop(service.reals.pop()),
                2 => service.fallback.extend(service.reals.pop()),
                3..=5 => {
                    service.reals[1].down = true;
                    service.dead = [Dead::Keep, Dead::Reset, Dead::Move][what as usize - 3];
                }
                6 => {
                    service.reals[0].weight = Weight::DRAINED;
                    service.reals[0].templates = Templates::Honour;
                }
                _ => service.reals[1].weight = Default::default(),
            }
        }
        self.world.reload(&services);
        self.world.audit();
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Client(v6, flags, who, port) => {
                let frame = Frame { flags, ..tcp(v6, 0) };
                let frame = frame.to(vip(v6), 80 + u16::from(port)).by_port(1000 + u16::from(who));
                self.asked = frame.loose().data(&[who; 60]).bytes();
                self.receive(OUTSIDE, &self.asked.clone());
            }
            Act::Answer(flags) if self.plain() => {
                let answer = Frame::answer_to(&Seen::unjudged(&self.sent), flags).bytes();
                self.receive(INSIDE, &answer);
            }
            Act::Error(kind, length) if self.sent.len() > 54 => {
                let packet = self.sent[14..].to_vec();
                let quote = &packet[..(usize::from(length) % 80).min(packet.len())];
                let v6 = packet[0] >> 4 == 6;
                let from = real(v6, 11);
                let to = own(v6, INSIDE);
                let macs = (mac_of(from), INSIDE_MAC);
                let kind = if v6 {
                    [1 + kind % 4, 0]
                } else {
                    [[3, 3], [3, 4], [11, 0]][usize::from(kind) % 3]
                };
                self.receive(INSIDE, &icmp_error(macs, from, to, kind, 1200, quote));
                self.receive(INSIDE, &icmp_error(macs, from, local(v6), kind, 1200, quote));
            }
            Act::Piece(first) if self.asked.len() > 54 + 60 => {
                let (from, to) = if first { (0, 40) } else { (40, 60) };
                let piece = fragment(&self.asked, from, to);
                self.receive(OUTSIDE, &piece);
            }
            Act::Wait(seconds) => {
                self.world.advance(Duration::from_millis(u64::from(seconds) * 300))
            }
            Act::Sweep => self.world.sweep(),
            Act::Reload(what) => self.reload(what),
            Act::End(v6, n) => {
                let how = [How::Reset, How::Drop, How::Move][usize::from(n) % 3];
                let address = real(v6, 11 + n / 3);
                let services = &self.world.published.services;
                if services.reals().any(|(_, r)| r.address == address.into()) {
                    self.world.end(address, how);
                }
            }
            Act::Enders => {
                self.world.enders();
            }
            Act::Damage(at, value) if !self.asked.is_empty() => {
                let at = usize::from(at) % self.asked.len();
                let mut bytes = self.asked.clone();
                bytes[at] ^= value;
                self.receive(OUTSIDE, &bytes);
            }
            _ => {}
        }
    }

    /// Whether the last packet sent can be answered as it is.
    fn plain(&self) -> bool {
        let v4 = self.sent.len() > 54 && self.sent[12] == 8;
        let v6 = self.sent.len() > 54 && self.sent[12] == 0x86;
        let fragment = v4 && (self.sent[20] & 0x3f != 0 || self.sent[21] != 0);
        let protocol = if v4 { 23 } else { 20 };
        (v4 || v6)
            && !fragment
            && matches!(self.sent[protocol], 6 | 17)
            && Seen::unjudged(&self.sent).ports.1 != 0
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    // B9, and "loads == recount": the harness audits after each packet.
    #[test]
    fn loads_ports_and_counts_agree_with_the_table_after_any_packets(
        acts in prop::collection::vec(acts(), 1..80),
        small in any::<bool>(),
    ) {
        let (capacity, half_open) = if small { (12, 6) } else { (256, 64) };
        let world = World::sized(&snapshot(&services()), capacity, half_open);
        let mut play = Play { world, asked: Vec::new(), sent: Vec::new() };
        for act in &acts {
            play.act(act);
        }
        // In the end nothing is left of it all.
        play.world.seconds(10_000);
        play.world.sweep();
        prop_assert_eq!(play.world.shared.conns.used(), 0);
    }

    #[test]
    fn any_bytes_are_a_verdict_each_drop_is_counted_and_nothing_outside_is_touched(
        frames in prop::collection::vec(near_frames(), 1..20),
    ) {
        any_frames(&frames);
    }
}

/// Bytes with headers in front that make it likely that they are read far into.
fn near_frames() -> impl Strategy<Value = Vec<u8>> {
    let ends = (any::<bool>(), 0..4_u16, any::<bool>());
    let damage = prop::collection::vec((0..90_usize, any::<u8>()), 0..4);
    let built = (ends, damage, 0..1700_usize).prop_map(|((v6, port, is_tcp), damage, length)| {
        let frame = Frame { flags: is_tcp.then_some(2), ..tcp(v6, 0) };
        let frame = frame.to(vip(v6), 80 + port).loose().data(&vec![7; length]);
        let mut bytes = frame.bytes();
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if bytes[12] == 8 && bytes[14] == 0x45 {
            let header = etherparse::Ipv4Header::from_slice(&bytes[14..]);
            if let Ok((header, _)) = header {
                bytes[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
            }
        }
        bytes.truncate(FRAME_SIZE - HEADROOM);
        bytes
    });
    let noise = prop::collection::vec(any::<u8>(), 0..120)
        .prop_map(|rest| [&OUTSIDE_MAC[..], &CLIENT_MAC, &rest].concat());
    prop_oneof![4 => built, 1 => noise, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

/// What is sent besides the frames; refuses every third.
#[derive(Default)]
struct Sent {
    asked: u64,
    refused: u64,
}

impl Outbox for Sent {
    fn send(&mut self, _: DeviceId, packet: &[u8]) -> bool {
        assert!(packet.len() <= FRAME_SIZE && packet.len() >= 34);
        self.asked += 1;
        let refuse = self.asked.is_multiple_of(3);
        self.refused += u64::from(refuse);
        !refuse
    }
}

fn any_frames(frames: &[Vec<u8>]) {
    let world = World::sized(&snapshot(&services()), 64, 16);
    let (counters, mut sent) = (Counters::default(), Sent::default());
    let mut local = Local::new(0, 1);
    let mut buffers: Vec<_> = frames
        .iter()
        .map(|frame| {
            let mut buffer = vec![FILL; FRAME_SIZE];
            buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
            buffer
        })
        .collect();
    let mut lent: Vec<_> = buffers
        .iter_mut()
        .zip(frames)
        .map(|(buffer, frame)| Buffer::new(buffer, HEADROOM, frame.len(), OUTSIDE))
        .collect();
    let mut verdicts = vec![Verdict::Held; frames.len()];
    let mut tables = Tables {
        published: &world.published,
        shared: &world.shared,
        counters: &counters,
        local: &mut local,
        lease: Fresh::ALL,
        now: world.now,
    };
    Pipeline::default().forward(&mut lent, &mut verdicts, &mut sent, &mut tables);
    let places: Vec<_> = lent.iter().map(|f| (f.start(), f.bytes().len())).collect();
    let mut dropped = 0;
    for (((buffer, frame), verdict), (start, length)) in
        buffers.iter().zip(frames).zip(&verdicts).zip(places)
    {
        dropped += u64::from(matches!(verdict, Verdict::Drop(_)));
        let low = start.min(HEADROOM);
        let high = (start + length).max(HEADROOM + frame.len());
        let outside = buffer[..low].iter().chain(&buffer[high..]);
        assert!(outside.copied().all(|byte| byte == FILL), "{verdict:?} wrote outside");
        if let Verdict::Transmit(to) = verdict {
            assert!(length >= 34);
            let mac = if *to == OUTSIDE { OUTSIDE_MAC } else { INSIDE_MAC };
            assert_eq!(buffer[start + 6..start + 12], mac);
        }
    }
    let counted: u64 = Reason::ALL.iter().map(|reason| counters.drops(*reason)).sum();
    let answered = counters.events(Event::IcmpSent);
    assert_eq!(counted, dropped + answered + sent.refused);
    world.audit();
}
