//! AF_XDP sockets and the steering program on a kernel: veth pairs in a network namespace.
//!
//! Needs root; skipped loudly otherwise, failed under `REQUIRE_NETNS=1`.

#![allow(clippy::unwrap_used)]

mod lab;

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use caps::{CapSet, Capability};
use dataplane::address::DeviceId;
use dataplane::clock::{self, Instant};
use dataplane::counters::Counters;
use dataplane::device::Device;
use dataplane::device::xsk::{Census, Memory, Port, PortMonitor, XskDevice};
use dataplane::frame::{Frame, Outbox, Verdict};
use dataplane::steer::{Action, Rules, Steer, flag};
use dataplane_api::counter::{Event, Reason};
use dataplane_api::service::{CopyMode, XdpMode};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const RING: u32 = 512;
/// Number of packets that may turn up late, or never.
const STRAY: u32 = u32::MAX;
const PATIENCE: Duration = Duration::from_secs(3);

/// Interfaces of the rig: client, our two, server. `CLIENT` is cabled to `A`, `SERVER` to `B`.
const CLIENT: DeviceId = DeviceId(0);
const A: DeviceId = DeviceId(1);
const B: DeviceId = DeviceId(2);
const SERVER: DeviceId = DeviceId(3);
const NAMES: [&str; 4] = ["client", "a", "b", "server"];

fn name(id: DeviceId) -> &'static str {
    NAMES[id.index()]
}

/// A UDP packet to the VIP with a number in it.
fn packet(number: u32) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([198, 51, 100, 7], VIP.octets(), 64)
        .udp(1000, 53);
    let mut packet = Vec::new();
    builder.write(&mut packet, &number.to_be_bytes()).unwrap();
    packet.resize(60, 0);
    packet
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[42..46].try_into().unwrap())
}

fn rules() -> Rules {
    Rules {
        addresses: BTreeMap::from([(VIP.into(), flag::VIP)]),
        services: BTreeMap::from([((VIP.into(), 53, 17), Action::Ours)]),
        ..Rules::default()
    }
}

fn soon() -> Instant {
    clock::now().after(Duration::from_secs(20))
}

fn forward(frames: &mut [Frame<'_>], verdicts: &mut [Verdict], _: &mut dyn Outbox) {
    for (frame, verdict) in frames.iter().zip(verdicts) {
        *verdict = Verdict::Transmit(if frame.device() == A { B } else { A });
    }
}

fn echo(frames: &mut [Frame<'_>], verdicts: &mut [Verdict], _: &mut dyn Outbox) {
    for (frame, verdict) in frames.iter().zip(verdicts) {
        *verdict = Verdict::Transmit(frame.device());
    }
}

/// One worker with its memory and counters.
struct Worker {
    device: XskDevice,
    memory: Memory,
    counters: Counters,
}

impl Worker {
    fn new(frames: u32) -> Self {
        let memory = Memory::new(frames, RING).unwrap();
        let device = XskDevice::new(&memory).unwrap();
        Self { device, memory, counters: Counters::default() }
    }

    fn open(&self, id: DeviceId, queue: u32) -> Port {
        let port = Port::open(&self.memory, name(id), queue, CopyMode::Auto, PATIENCE);
        port.unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn poll(
        &mut self,
        process: impl FnMut(&mut [Frame<'_>], &mut [Verdict], &mut dyn Outbox),
    ) -> usize {
        self.device.poll(&self.counters, process)
    }

    /// Polls until every frame is free or waits for a packet.
    fn settle(&mut self) -> Census {
        let deadline = soon();
        loop {
            self.poll(forward);
            let census = self.device.census();
            if (census.sent, census.leaving) == (0, 0) {
                assert_eq!(census.free + census.posted, self.memory.frames() as usize);
                return census;
            }
            assert!(clock::now() < deadline, "{census:?}");
        }
    }
}

/// Client, us, server, on one queue, with the program on all four interfaces.
struct Rig {
    client: Worker,
    us: Worker,
    server: Worker,
    steer: Option<Steer>,
    monitors: BTreeMap<DeviceId, PortMonitor>,
    queue: u32,
    mode: XdpMode,
    files: lab::BpfFs,
    ns: lab::NetNs,
}

impl Rig {
    fn new(mode: XdpMode, queue: u32) -> Self {
        let ns = lab::NetNs::new();
        ns.enter();
        ns.veth("client", "a");
        ns.veth("b", "server");
        let files = lab::BpfFs::new();
        let mut steer = Steer::open(&files.path().join("xvip")).unwrap();
        steer.apply(&rules()).unwrap();
        let mut rig = Self {
            client: Worker::new(2048),
            us: Worker::new(4096),
            server: Worker::new(2048),
            steer: Some(steer),
            monitors: BTreeMap::new(),
            queue,
            mode,
            files,
            ns,
        };
        for id in [CLIENT, A, B, SERVER] {
            rig.attach(id);
            rig.plug(id);
        }
        rig
    }

    fn steer(&mut self) -> &mut Steer {
        self.steer.as_mut().unwrap()
    }

    fn worker(&mut self, id: DeviceId) -> &mut Worker {
        match id {
            CLIENT => &mut self.client,
            SERVER => &mut self.server,
            _ => &mut self.us,
        }
    }

    fn attach(&mut self, id: DeviceId) -> &'static str {
        let (mode, index) = (self.mode, lab::ifindex(name(id)));
        let attached = self.steer().attach(index, id, mode, "veth");
        attached.unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn plug(&mut self, id: DeviceId) {
        let queue = self.queue;
        let port = self.worker(id).open(id, queue);
        self.steer().set_socket(id, queue, port.fd()).unwrap();
        self.monitors.insert(id, port.monitor());
        assert!(self.worker(id).device.install(id, port).is_none());
    }

    /// Sends numbered packets through us to the server, which returns them; every one of them must
    /// come back to the client, whole and in order.
    fn round_trips(&mut self, numbers: std::ops::Range<u32>) {
        let deadline = clock::now().after(Duration::from_secs(120));
        let (mut next, mut expected) = (numbers.start, numbers.start);
        while expected < numbers.end {
            assert!(clock::now() < deadline, "{expected} of {numbers:?}: {:?}", self.statistics());
            // No more on its way than the rings hold.
            for _ in 0..64 {
                let room = next < numbers.end && next - expected < RING / 2;
                if !room || !self.client.device.send(CLIENT, &packet(next)) {
                    break;
                }
                next += 1;
            }
            self.client.poll(|frames, _, _| {
                for frame in frames.iter().filter(|frame| number(frame.bytes()) != STRAY) {
                    assert_eq!(frame.bytes(), packet(expected), "as it was sent");
                    expected += 1;
                }
            });
            self.us.poll(forward);
            self.server.poll(echo);
        }
    }

    fn statistics(&self) -> Vec<BTreeMap<&'static str, u64>> {
        self.monitors.values().map(|monitor| monitor.statistics().unwrap()).collect()
    }
}

fn hundred_thousand(mode: XdpMode, queue: u32) {
    if !lab::is_root() {
        return;
    }
    let mut rig = Rig::new(mode, queue);
    let attached = rig.attach(A);
    assert_eq!(attached, if mode == XdpMode::Native { "native" } else { "generic" });
    rig.round_trips(0..100_000);
    for id in [CLIENT, A, B, SERVER] {
        let worker = rig.worker(id);
        worker.settle();
        let seen = worker.counters.device(id);
        assert_eq!((seen.rx_packets.get(), seen.tx_packets.get()), (100_000, 100_000), "{id:?}");
        assert_eq!((seen.rx_bytes.get(), seen.tx_bytes.get()), (6_000_000, 6_000_000), "{id:?}");
    }
    for seen in rig.statistics() {
        assert!(seen.iter().all(|(name, count)| *count == 0 || *name == "tx_ring_empty_descs"));
    }
    let counted = rig.steer().stats().unwrap();
    assert_eq!((counted.ours, counted.no_socket), (400_000, 0));
}

#[test]
fn every_packet_is_forwarded_once_and_in_order_in_generic_mode() {
    hundred_thousand(XdpMode::Auto, 0);
}

#[test]
fn every_packet_is_forwarded_once_and_in_order_in_native_mode_on_the_second_queue() {
    hundred_thousand(XdpMode::Native, 1);
}

#[test]
fn frames_of_a_removed_port_come_back_when_it_is_closed() {
    if !lab::is_root() {
        return;
    }
    let mut rig = Rig::new(XdpMode::Generic, 0);
    rig.round_trips(0..1000);
    let before = rig.us.settle();
    assert_eq!(before.posted, 2 * RING as usize);

    // Packets wait in the ring of the port when it goes.
    for _ in 0..100 {
        assert!(rig.client.device.send(CLIENT, &packet(STRAY)));
    }
    rig.client.poll(echo);
    let port = rig.us.device.remove(A).unwrap();
    rig.us.poll(forward);
    let leaving = rig.us.device.census();
    assert_eq!((leaving.leaving, leaving.posted), (RING as usize, RING as usize));
    let monitor = rig.monitors[&A].clone();
    assert!(monitor.statistics().is_ok());
    drop(port);
    assert_eq!(monitor.check().unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    let after = rig.us.settle();
    assert_eq!(after.free, before.free + RING as usize);

    // While it is away, its packets are counted, not lost without a trace.
    rig.server.device.send(SERVER, &packet(STRAY));
    let deadline = soon();
    while rig.us.counters.drops(Reason::DeviceDown) == 0 {
        rig.server.poll(echo);
        rig.us.poll(forward);
        assert!(clock::now() < deadline);
    }
    // The kernel takes a moment to release the queue; `open` waits for it.
    rig.plug(A);
    rig.round_trips(0..1000);
    assert_eq!(rig.us.settle(), before);
}

#[test]
fn an_interface_that_is_made_anew_is_served_again() {
    if !lab::is_root() {
        return;
    }
    let mut rig = Rig::new(XdpMode::Auto, 0);
    // More often than any reserve of sockets would last, and all interfaces at once.
    for turn in 0..5 {
        rig.round_trips(0..200);
        let old: Vec<_> = NAMES.map(lab::ifindex).into();
        rig.ns.ip("link del dev a");
        rig.ns.ip("link del dev b");
        let gone = rig.monitors[&B].check().unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(rustix::io::Errno::NXIO.raw_os_error()), "{gone}");
        rig.ns.veth("client", "a");
        rig.ns.veth("b", "server");
        for id in [CLIENT, A, B, SERVER] {
            drop(rig.worker(id).device.remove(id));
            assert!(!rig.steer().is_attached(old[id.index()]).unwrap());
            rig.steer().detach(old[id.index()]).unwrap();
            rig.attach(id);
            rig.plug(id);
        }
        assert_eq!(rig.us.settle().posted, 2 * RING as usize, "turn {turn}");
        assert_eq!(rig.steer().attached().len(), 4);
    }
    rig.round_trips(0..200);
}

#[test]
fn an_interface_that_is_down_is_reported_and_goes_on_by_itself() {
    if !lab::is_root() {
        return;
    }
    let mut rig = Rig::new(XdpMode::Generic, 0);
    rig.round_trips(0..10);
    let monitor = rig.monitors[&B].clone();
    assert!(monitor.check().is_ok() && monitor.error().is_none());
    rig.ns.ip("link set dev b down");
    let down = Some(rustix::io::Errno::NETDOWN.raw_os_error());
    assert_eq!(monitor.check().unwrap_err().raw_os_error(), down);
    let deadline = soon();
    while rig.us.counters.drops(Reason::TxError) == 0 {
        assert!(clock::now() < deadline);
        rig.client.device.send(CLIENT, &packet(STRAY));
        rig.client.poll(echo);
        rig.us.poll(forward);
    }
    assert_eq!(monitor.error().unwrap().raw_os_error(), down);
    let kicks = rig.us.counters.events(Event::TxKick);
    for _ in 0..1000 {
        rig.us.poll(forward);
    }
    assert!(rig.us.counters.events(Event::TxKick) - kicks < 50, "it is tried less and less");

    rig.ns.ip("link set dev b up");
    let deadline = soon();
    while monitor.error().is_some() {
        assert!(clock::now() < deadline);
        rig.us.poll(forward);
    }
    rig.round_trips(0..1000);
}

#[test]
fn a_transmission_to_an_interface_that_is_gone_is_noticed() {
    if !lab::is_root() {
        return;
    }
    let mut rig = Rig::new(XdpMode::Generic, 0);
    rig.ns.ip("link del dev b");
    let deadline = soon();
    while rig.us.counters.drops(Reason::TxError) == 0 {
        assert!(clock::now() < deadline);
        rig.client.device.send(CLIENT, &packet(STRAY));
        rig.client.poll(echo);
        rig.us.poll(forward);
    }
    assert_eq!(
        rig.monitors[&B].error().unwrap().raw_os_error(),
        Some(rustix::io::Errno::NXIO.raw_os_error())
    );
    drop(rig.us.device.remove(B));
    rig.us.settle();
}

#[test]
fn a_header_may_be_put_in_front_and_packets_of_our_own_sent_besides() {
    if !lab::is_root() {
        return;
    }
    let mut rig = Rig::new(XdpMode::Generic, 0);
    rig.client.device.send(CLIENT, &packet(1));
    let mut seen = Vec::new();
    let deadline = soon();
    while seen.len() < 2 {
        assert!(clock::now() < deadline);
        rig.client.poll(|_, _, _| {});
        rig.us.poll(|frames, verdicts, outbox| {
            assert!(outbox.send(B, &packet(2)));
            assert!(!outbox.send(DeviceId(9), &packet(3)), "no such interface");
            assert!(frames[0].prepend(60));
            frames[0].bytes_mut()[..60].copy_from_slice(&packet(4));
            verdicts[0] = Verdict::Transmit(B);
        });
        rig.server.poll(|frames, _, _| seen.extend(frames.iter().map(|f| f.bytes().to_vec())));
    }
    assert_eq!(seen, [packet(2), [packet(4), packet(1)].concat()]);
    assert_eq!(number(&seen[1]), 4);
    rig.us.settle();
}

#[test]
fn polling_without_packets_makes_no_system_call() {
    if !lab::is_root() {
        return;
    }
    let mut rig = Rig::new(XdpMode::Generic, 0);
    rig.round_trips(0..100);
    rig.us.settle();
    let kicks = rig.us.counters.events(Event::TxKick);
    for _ in 0..1000 {
        assert_eq!(rig.us.poll(forward), 0);
    }
    assert_eq!(rig.us.counters.events(Event::TxKick), kicks);
    // Asleep until a packet comes.
    let start = clock::now();
    rig.us.device.wait(Duration::from_millis(50));
    assert!(clock::now().since(start) >= Duration::from_millis(50));
    rig.client.device.send(CLIENT, &packet(0));
    rig.client.poll(echo);
    rig.us.device.wait(Duration::from_secs(30));
    assert!(clock::now().since(start) < Duration::from_secs(20));
}

#[test]
fn two_ports_share_a_memory_that_is_too_small_for_both() {
    if !lab::is_root() {
        return;
    }
    // As many as one port alone would take.
    let mut rig = Rig::new(XdpMode::Generic, 0);
    rig.us = Worker::new(2 * RING);
    for id in [A, B] {
        rig.plug(id);
    }
    rig.round_trips(0..5000);
}

#[test]
fn a_second_socket_on_a_queue_is_refused_with_a_reason() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new(XdpMode::Generic, 0);
    let other = Memory::new(64, 64).unwrap();
    let short = Duration::from_millis(20);
    let open = |interface, queue, copy| {
        format!("{:#}", Port::open(&other, interface, queue, copy, short).err().unwrap())
    };
    let busy = open("a", 0, CopyMode::Copy);
    assert!(busy.contains("queue 0 of a") && busy.contains("another socket"), "{busy}");
    let queue = open("a", 2, CopyMode::Copy);
    assert!(queue.contains("fewer queues"), "{queue}");
    let absent = open("nowhere", 0, CopyMode::Copy);
    assert!(absent.contains("nowhere") && absent.contains("no such interface"), "{absent}");
    let zero_copy = open("a", 1, CopyMode::ZeroCopy);
    assert!(zero_copy.contains("driver"), "{zero_copy}");
    assert!(XskDevice::new(&rig.us.memory).is_err(), "frames have one owner");
    let port = Port::open(&other, "a", 1, CopyMode::Auto, short).unwrap();
    assert!(!port.zero_copy());
    let mut rig = rig;
    assert!(rig.us.device.install(A, port).is_some(), "of other memory");
}

#[test]
fn a_new_process_takes_over_the_program_without_detaching_it() {
    if !lab::is_root() {
        return;
    }
    let mut rig = Rig::new(XdpMode::Auto, 0);
    rig.round_trips(0..100);
    let program = |interface: &str| {
        let all = Command::new("ip").args(["link", "show", "dev", interface]).output().unwrap();
        let all = String::from_utf8(all.stdout).unwrap();
        all.split("prog/xdp id ")
            .nth(1)
            .map(|rest| rest.split_whitespace().next().unwrap().parse::<u32>().unwrap())
    };
    let first = program("a").unwrap();
    // As after kill -9: the sockets are gone, the pins are not.
    let before = rig.steer().stats().unwrap();
    rig.steer = None;
    rig.us = Worker::new(4096);
    assert_eq!(program("a"), Some(first));
    let dir = rig.files.path().join("xvip");
    let mut next = Steer::open(&dir).unwrap();
    let deadline = soon();
    // The kernel lets go of closed sockets a little later; until then strays vanish in them.
    while next.stats().unwrap().no_socket == before.no_socket {
        rig.client.device.send(CLIENT, &packet(STRAY));
        rig.client.poll(echo);
        assert!(clock::now() < deadline, "dropped, not passed");
    }
    let indexes = HashSet::from(NAMES.map(lab::ifindex));
    assert_eq!(next.attached().into_iter().collect::<HashSet<_>>(), indexes);
    assert!(!next.is_attached(lab::ifindex("a")).unwrap(), "still the previous program");
    next.apply(&rules()).unwrap();
    rig.steer = Some(next);
    for id in [CLIENT, A, B, SERVER] {
        assert_eq!(rig.attach(id), "generic");
        assert!(rig.steer().is_attached(lab::ifindex(name(id))).unwrap());
    }
    assert_ne!(program("a"), Some(first), "it runs the program of this process");
    for id in [A, B] {
        rig.plug(id);
    }
    rig.round_trips(0..100);

    // Another mode means another attachment.
    rig.mode = XdpMode::Native;
    assert_eq!(rig.attach(A), "native");
    rig.round_trips(0..100);
    rig.steer.take().unwrap().shutdown().unwrap();
    assert_eq!(program("a"), None);
    assert!(!dir.exists());
}

#[test]
fn a_program_that_is_not_ours_is_left_alone_and_named() {
    if !lab::is_root() {
        return;
    }
    let rig = Rig::new(XdpMode::Auto, 0);
    let other = rig.files.path().join("other");
    let mut steer = Steer::open(&other).unwrap();
    let index = lab::ifindex("a");
    let error = steer.attach(index, A, XdpMode::Auto, "veth").unwrap_err().to_string();
    assert!(error.contains("not ours") && error.contains("bpftool prog show id"), "{error}");
    assert!(!steer.is_attached(index).unwrap());
    assert!(rig.steer.as_ref().unwrap().is_attached(index).unwrap());
    assert!(!steer.is_attached(4_000_000).unwrap(), "no such interface");
    steer.shutdown().unwrap();
}

#[test]
fn everything_but_the_start_works_with_few_capabilities() {
    if !lab::is_root() {
        return;
    }
    // 16 MiB for us: beyond the usual limit of locked memory.
    let mut rig = Rig::new(XdpMode::Auto, 0);
    rig.us = Worker::new(8192);
    let few = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF];
    caps::set(None, CapSet::Effective, &few.into()).unwrap();
    for id in [A, B] {
        let index = lab::ifindex(name(id));
        rig.steer().detach(index).unwrap();
        rig.steer().clear_slot(id).unwrap();
        rig.attach(id);
        rig.plug(id);
    }
    rig.steer().apply(&Rules::default()).unwrap();
    rig.steer().apply(&rules()).unwrap();
    rig.round_trips(0..1000);
    let dir = rig.files.path().join("xvip");
    let refused = format!("{:#}", Steer::open(&dir).err().unwrap());
    assert!(refused.contains("CAP_PERFMON"), "{refused}");
    rig.round_trips(0..10);
    rig.steer.take().unwrap().shutdown().unwrap();
    assert!(!dir.exists());
}

#[test]
fn ports_register_the_memory_themselves_where_no_namespace_can_be_made() {
    if !lab::is_root() {
        return;
    }
    let mut rig = Rig::new(XdpMode::Auto, 0);
    let all = caps::read(None, CapSet::Permitted).unwrap();
    let mut fewer = all.clone();
    fewer.remove(&Capability::CAP_SYS_ADMIN);
    caps::set(None, CapSet::Effective, &fewer).unwrap();
    rig.us = Worker::new(4096);
    caps::set(None, CapSet::Effective, &all).unwrap();
    for id in [A, B] {
        rig.plug(id);
    }
    rig.round_trips(0..1000);
    drop(rig.us.device.remove(A));
    rig.plug(A);
    rig.round_trips(0..1000);
    rig.us.settle();
}
