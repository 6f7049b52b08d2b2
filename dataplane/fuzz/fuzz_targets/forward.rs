//! Any frames in any order through the whole packet path, with a service of every method: never a
//! panic, no byte outside a frame is touched, and what is counted agrees with what happened.
//!
//! An input is a sequence of frames, each behind three bytes: what to do first (bit 0: second
//! interface, bit 1: second worker, bit 2: end what is idle, bits 3 to 7: that many times ten
//! seconds pass), and its length, big-endian.
#![cfg_attr(fuzzing, no_main)]

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::address::{Address, DeviceId, Mac};
use dataplane::clock::Instant;
use dataplane::conn::{Conn, Ports, State, Table};
use dataplane::counters::Counters;
use dataplane::forward::{Local, Paths, Pipeline, Shared, Tables};
use dataplane::fragment::Fragments;
use dataplane::frame::{Frame, Outbox, Verdict};
use dataplane::ids::{Ids, Used};
use dataplane::limits::{FRAME_SIZE, HEADROOM};
use dataplane::published::{DeviceInfo, Facts, Hop, HopState, Published};
use dataplane::routes::Asks;
use dataplane::sched::load::Loads;
use dataplane::service::ServiceTable;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{
    Engine, Forwarding, LocalPool, Persistence, PortRange, Protocol, Real, ReplyPath, Scheduler,
    Service, Snapshot, Timeouts, Weight,
};

const FILL: u8 = 0xa5;
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Ports 80 to 83 of both VIPs, TCP and UDP: nat (persistent), fullnat, direct, tunnel.
fn snapshot() -> Snapshot {
    let methods = [Forwarding::Nat, Forwarding::Fullnat, Forwarding::Direct, Forwarding::Tunnel];
    let mut services = Vec::new();
    for (n, forwarding) in methods.into_iter().enumerate() {
        for (vip, reals) in
            [("192.0.2.1", ["10.0.0.11", "10.0.0.12"]), ("[2001:db8::1]", ["fd00::11", "fd00::12"])]
        {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let listen = format!("{vip}:{}", 80 + n);
                let port = (!forwarding.is_one_way()).then_some(8080);
                services.push(Service {
                    name: format!("{protocol:?}-{listen}").replace([':', '[', ']'], "-"),
                    protocol,
                    listen: vec![listen.parse().expect("a listener")],
                    forwarding,
                    scheduler: Scheduler::Rr,
                    scheduler_flags: Default::default(),
                    persistence: (n == 0).then_some(Persistence {
                        timeout: 60,
                        mask_v4: 24,
                        mask_v6: 64,
                    }),
                    timeouts: None,
                    dead: Default::default(),
                    sorry: false,
                    fallback: Vec::new(),
                    reals: reals.iter().map(|address| real(ip(address), port)).collect(),
                });
            }
        }
    }
    Snapshot {
        engine: Engine::default(),
        interfaces: Vec::new(),
        timeouts: Timeouts::default(),
        local: LocalPool {
            addresses: vec![ip("10.0.0.100"), ip("fd00::100")],
            ports: PortRange { first: 5000, last: 5007 },
        },
        reply: ReplyPath::LastHop,
        services,
        groups: Vec::new(),
    }
}

fn real(address: IpAddr, port: Option<u16>) -> Real {
    Real {
        name: address.to_string(),
        address,
        port,
        weight: Weight::new(1),
        upper_threshold: None,
        lower_threshold: None,
        down: false,
        templates: Default::default(),
    }
}

fn published() -> Published {
    let snapshot = snapshot();
    let ids = Ids::default().assign(None, &snapshot, &Used::default()).expect("numbers");
    let hops = ids.reals().map(|(id, real)| Hop {
        device: DeviceId(1),
        mac: Mac([2, 0, 0, 0, 1, id.0 as u8]),
        source: ip(if real.address.is_ipv4() { "10.0.0.254" } else { "fd00::fe" }).into(),
        // Small enough that full frames do not fit everywhere.
        mtu: if id.0 % 2 == 0 { 1500 } else { 1280 },
        state: HopState::Resolved,
    });
    let device = |n: usize| DeviceInfo {
        mac: Mac(MACS[n]),
        mtu: 1500,
        usable: true,
        v4: ip("192.0.2.254").into(),
        v6: Address::UNSPECIFIED,
    };
    Published::new(Facts {
        services: Arc::new(ServiceTable::compile(&snapshot, &ids, None).expect("compiles")),
        hops: hops.collect(),
        devices: Arc::new([device(0), device(1)]),
        replies: None,
        endings: Arc::default(),
    })
}

/// What is sent besides the frames; refuses every fourth.
#[derive(Default)]
struct Sent {
    asked: u64,
    refused: u64,
}

impl Outbox for Sent {
    fn send(&mut self, _: DeviceId, packet: &[u8]) -> bool {
        assert!(packet.len() >= 34 && packet.len() <= FRAME_SIZE);
        self.asked += 1;
        let refuse = self.asked.is_multiple_of(4);
        self.refused += u64::from(refuse);
        !refuse
    }
}

/// What must hold for every input; also run over the corpus by `tests/corpus.rs`.
pub fn check(mut data: &[u8]) {
    let published = published();
    let shared = Shared {
        conns: Table::new_private(32, 12),
        ports: Ports::new(2).expect("memory"),
        loads: Loads::default(),
        fragments: Mutex::new(Fragments::new()),
        paths: Paths::default(),
        asks: Asks::default(),
        capture: Default::default(),
        probes: Default::default(),
        leases: Default::default(),
        resolver: Default::default(),
        changes: Default::default(),
    };
    let (counters, mut sent) = (Counters::default(), Sent::default());
    let (mut pipeline, mut locals) = (Pipeline::default(), [Local::new(0, 2), Local::new(1, 2)]);
    let mut now = Instant::from_nanos(1_000_000_000_000);
    let mut dropped = 0;
    while let [first, high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])) % (FRAME_SIZE - HEADROOM);
        let (frame, rest) = rest.split_at(length.min(rest.len()));
        data = rest;
        now = now.after(Duration::from_secs(u64::from(first >> 3) * 10));
        if first & 4 != 0 {
            sweep(&shared, &published, now);
        }
        let mut tables = Tables {
            published: &published,
            shared: &shared,
            counters: &counters,
            local: &mut locals[usize::from(first >> 1 & 1)],
            lease: dataplane::lease::Fresh::ALL,
            now,
        };
        let mut buffer = vec![FILL; FRAME_SIZE];
        buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        mend(&mut buffer[HEADROOM..HEADROOM + frame.len()]);
        let device = DeviceId(first & 1);
        let mut frames = [Frame::new(&mut buffer, HEADROOM, frame.len(), device)];
        let mut verdicts = [Verdict::Held];
        pipeline.forward(&mut frames, &mut verdicts, &mut sent, &mut tables);
        let (start, end) = (frames[0].start(), frames[0].start() + frames[0].bytes().len());
        dropped += u64::from(matches!(verdicts[0], Verdict::Drop(_)));
        let outside =
            buffer[..start.min(HEADROOM)].iter().chain(&buffer[end.max(HEADROOM + frame.len())..]);
        assert!(outside.copied().all(|byte| byte == FILL), "wrote outside the frame");
        if let Verdict::Transmit(to) = verdicts[0] {
            assert_eq!(buffer[start + 6..start + 12], MACS[to.index()]);
        }
    }
    let counted: u64 = Reason::ALL.iter().map(|reason| counters.drops(*reason)).sum();
    // A packet turned into an error about itself is a drop, too.
    assert_eq!(counted, dropped + counters.events(Event::IcmpSent) + sent.refused);
    audit(&shared, &published);
}

/// The right IPv4 header checksum, so that inputs get past that check.
fn mend(bytes: &mut [u8]) {
    if let [_, _, _, _, _, _, _, _, _, _, _, _, 8, 0, header @ ..] = bytes
        && let Some(header) = header.first_chunk_mut::<20>()
    {
        header[10..12].fill(0);
        let sum = !dataplane::wire::checksum::sum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn sweep(shared: &Shared, published: &Published, now: Instant) {
    let services = &published.services;
    shared.conns.sweep(
        &mut 0,
        shared.conns.capacity(),
        now.tick(),
        |conn| services.service(conn.identity.service).map_or(0, |s| s.timeout(conn.state)),
        |found| shared.settled(&found.conn),
    );
}

/// Loads, ports and counts of the table agree with what is in it.
fn audit(shared: &Shared, published: &Published) {
    let mut conns: Vec<Conn> = Vec::new();
    shared.conns.each(|_, conn| conns.push(*conn));
    let count = |f: &dyn Fn(&Conn) -> bool| conns.iter().filter(|c| f(c)).count() as u32;
    assert_eq!(shared.conns.used(), count(&|_| true));
    assert_eq!(shared.conns.half_open(), count(&|c| c.state.is_half_open()));
    for (id, _) in published.services.reals() {
        let load = shared.loads.of(id);
        let of = |active| {
            count(&|c| {
                let state = c.state;
                c.identity.real == id && state != State::Template && state.is_active() == active
            })
        };
        assert_eq!((load.active(), load.inactive()), (of(true), of(false)));
    }
    for (protocol, local) in [(6, 0), (6, 1), (17, 0), (17, 1)] {
        for port in 5000..5008 {
            let taken = shared.ports.lookup(protocol, local, port).is_some();
            let used = count(&|c| {
                c.identity.local == Some((local, port)) && c.identity.protocol == protocol
            });
            assert_eq!(u32::from(taken), used, "port {port}");
        }
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));
