//! A data plane in memory, with a client, reals and a clock of the test's own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::address::{DeviceId, GroupId, Mac, RealId};
use dataplane::clock::Instant;
use dataplane::conn::{Conn, Ports, State, Table};
use dataplane::counters::Counters;
use dataplane::device::Device;
use dataplane::device::memory::MemoryDevice;
use dataplane::ending::{Ending, Endings};
use dataplane::forward::{
    self, Ender, Local, Paths, Pipeline, Shared, Tables, expired, send_probes,
};
use dataplane::fragment::Fragments;
use dataplane::frame::Verdict;
use dataplane::ids::{Ids, Used};
use dataplane::lease::Fresh;
use dataplane::published::{DeviceInfo, Facts, Hop, HopState, Published};
use dataplane::routes::Asks;
use dataplane::sched::load::Loads;
use dataplane::service::ServiceTable;
use dataplane_api::counter::{Event, Reason};
use dataplane_api::message::How;
use dataplane_api::service::{
    Engine, Forwarding, LocalPool, Persistence, PortRange, Protocol, Real, ReplyPath, Scheduler,
    Service, Snapshot, Timeouts, Weight,
};

use crate::packet::Frame;

/// The interface of clients.
pub const OUTSIDE: DeviceId = DeviceId(0);
/// The interface of reals.
pub const INSIDE: DeviceId = DeviceId(1);
pub const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const INSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An address in either family.
pub fn either(v6: bool, v4_text: &str, v6_text: &str) -> IpAddr {
    ip(if v6 { v6_text } else { v4_text })
}

pub fn vip(v6: bool) -> IpAddr {
    either(v6, "192.0.2.1", "2001:db8::1")
}

pub fn client(v6: bool) -> IpAddr {
    either(v6, "198.51.100.7", "2001:db8:1::7")
}

pub fn local(v6: bool) -> IpAddr {
    either(v6, "10.0.0.100", "fd00::100")
}

/// The `n`-th real.
pub fn real(v6: bool, n: u8) -> IpAddr {
    either(v6, &format!("10.0.0.{n}"), &format!("fd00::{n:x}"))
}

/// Our own address on an interface.
pub fn own(v6: bool, device: DeviceId) -> IpAddr {
    if device == OUTSIDE {
        either(v6, "192.0.2.254", "2001:db8::fe")
    } else {
        either(v6, "10.0.0.254", "fd00::fe")
    }
}

/// MAC address of the machine that has an address.
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    [2, 0, 0, 0, 1, last]
}

pub fn service(name: &str, protocol: Protocol, listen: &[&str], forwarding: Forwarding) -> Service {
    Service {
        name: name.into(),
        protocol,
        listen: listen.iter().map(|l| l.parse().unwrap()).collect(),
        forwarding,
        scheduler: Scheduler::Wrr,
        scheduler_flags: Default::default(),
        persistence: None,
        timeouts: None,
        dead: Default::default(),
        sorry: false,
        fallback: Vec::new(),
        reals: Vec::new(),
    }
}

/// A service on port 80 of the VIP.
pub fn web(v6: bool, protocol: Protocol, forwarding: Forwarding) -> Service {
    let listen = if v6 { "[2001:db8::1]:80" } else { "192.0.2.1:80" };
    service("web", protocol, &[listen], forwarding)
}

/// What tests say of a service.
pub trait With: Sized {
    fn real(self, address: IpAddr, port: Option<u16>, weight: u16) -> Self;
    fn scheduler(self, scheduler: Scheduler) -> Self;
    fn persistent(self, timeout: u32, mask_v4: u8, mask_v6: u8) -> Self;
}

impl With for Service {
    fn real(mut self, address: IpAddr, port: Option<u16>, weight: u16) -> Self {
        self.reals.push(Real {
            name: format!("real-{}", self.reals.len()),
            address,
            port,
            weight: Weight::new(weight),
            upper_threshold: None,
            lower_threshold: None,
            down: false,
            templates: Default::default(),
        });
        self
    }

    fn scheduler(self, scheduler: Scheduler) -> Self {
        Self { scheduler, ..self }
    }

    fn persistent(self, timeout: u32, mask_v4: u8, mask_v6: u8) -> Self {
        Self { persistence: Some(Persistence { timeout, mask_v4, mask_v6 }), ..self }
    }
}

pub fn snapshot(services: &[Service]) -> Snapshot {
    Snapshot {
        engine: Engine::default(),
        interfaces: Vec::new(),
        timeouts: Timeouts::default(),
        local: LocalPool {
            addresses: vec![local(false), local(true)],
            ports: PortRange { first: 5000, last: 5063 },
        },
        reply: ReplyPath::LastHop,
        services: services.to_vec(),
        groups: Vec::new(),
    }
}

/// What became of one frame.
#[derive(Debug, PartialEq)]
pub struct Fate {
    pub verdict: Verdict,
    /// Everything sent because of it, in order.
    pub sent: Vec<(DeviceId, Vec<u8>)>,
}

struct Worker {
    pipeline: Pipeline,
    local: Local,
    counters: Counters,
    device: MemoryDevice,
    ender: Ender,
}

pub struct World {
    pub shared: Shared,
    pub published: Published,
    pub snapshot: Snapshot,
    pub now: Instant,
    pub lease: Fresh,
    ids: Ids,
    workers: Vec<Worker>,
    hops: BTreeMap<IpAddr, Hop>,
    devices: [DeviceInfo; 2],
}

impl World {
    pub fn new(services: &[Service]) -> Self {
        Self::sized(&snapshot(services), 1024, 256)
    }

    pub fn sized(snapshot: &Snapshot, capacity: u32, half_open: u32) -> Self {
        let device = |mac, device| DeviceInfo {
            mac: Mac(mac),
            mtu: 1500,
            usable: true,
            v4: own(false, device).into(),
            v6: own(true, device).into(),
        };
        let ids = Ids::default().assign(None, snapshot, &Used::default()).unwrap();
        let services = Arc::new(ServiceTable::compile(snapshot, &ids, None).unwrap());
        let worker = |number| Worker {
            pipeline: Pipeline::default(),
            local: Local::new(number, 2),
            counters: Counters::default(),
            device: MemoryDevice::new(),
            ender: Ender::new(number, 2, capacity),
        };
        let mut world = Self {
            shared: Shared {
                conns: Table::new_private(capacity, half_open),
                ports: Ports::new(3).unwrap(),
                loads: Loads::default(),
                fragments: Mutex::new(Fragments::new()),
                paths: Paths::default(),
                asks: Asks::default(),
                capture: Default::default(),
                probes: Default::default(),
                leases: Default::default(),
                resolver: Default::default(),
                changes: Default::default(),
            },
            published: Published::new(Facts {
                services,
                hops: Arc::new([]),
                devices: Arc::new([]),
                replies: None,
                endings: Arc::default(),
            }),
            snapshot: snapshot.clone(),
            now: Instant::from_nanos(1_000_000_000_000),
            lease: Fresh::ALL,
            ids,
            workers: vec![worker(0), worker(1)],
            hops: BTreeMap::new(),
            devices: [device(OUTSIDE_MAC, OUTSIDE), device(INSIDE_MAC, INSIDE)],
        };
        world.publish();
        world
    }

    fn publish(&mut self) {
        let reals: Vec<_> = self.ids.reals().map(|(id, real)| (id, real.address)).collect();
        let count = reals.iter().map(|(id, _)| id.index() + 1).max().unwrap_or(0);
        let mut hops = vec![Hop::default(); count];
        for (id, address) in reals {
            hops[id.index()] = self.hops.get(&address).copied().unwrap_or(Hop {
                device: INSIDE,
                mac: Mac(mac_of(address)),
                source: own(address.is_ipv6(), INSIDE).into(),
                mtu: 1500,
                state: HopState::Resolved,
            });
        }
        let devices = Arc::new(self.devices);
        self.change(|facts| (facts.hops, facts.devices) = (hops.into(), devices));
    }

    /// Publishes other facts.
    pub fn change(&mut self, change: impl FnOnce(&mut Facts)) {
        let mut facts = Facts::clone(&self.published);
        change(&mut facts);
        self.published = Published::new(facts);
    }

    /// Changes the way to a real.
    pub fn hop(&mut self, address: IpAddr, change: impl FnOnce(&mut Hop)) {
        let id = self.real_id(address);
        let mut hop = *self.published.hop(id).unwrap();
        change(&mut hop);
        self.hops.insert(address, hop);
        self.publish();
    }

    /// Changes an interface.
    pub fn device(&mut self, device: DeviceId, change: impl FnOnce(&mut DeviceInfo)) {
        change(&mut self.devices[device.index()]);
        self.publish();
    }

    /// Applies another configuration, as the steward does.
    pub fn reload(&mut self, services: &[Service]) {
        let next = snapshot(services);
        let mut used = Used::default();
        self.shared.conns.each(|_, conn| used.note(conn));
        self.ids = self.ids.assign(Some(&self.snapshot), &next, &used).unwrap();
        let table = ServiceTable::compile(&next, &self.ids, Some(&self.published.services));
        self.change(|facts| facts.services = Arc::new(table.unwrap()));
        self.snapshot = next;
        self.publish();
    }

    /// Orders the connections of a real to end, as the steward does.
    pub fn end(&mut self, address: IpAddr, how: How) -> Arc<Ending> {
        let id = self.real_id(address);
        let all = Ending::new(how, Some(self.now.tick()), 0, 2, self.now);
        let concerned = |c: &&Conn| c.identity.real == id && all.concerns(c);
        let initial = self.conns().iter().filter(concerned).count() as u32;
        let until = Some(self.now.tick());
        let ending = Arc::new(Ending::new(how, until, initial, 2, self.now));
        let mut endings = Endings::clone(&self.published.endings);
        endings.insert(id, Arc::clone(&ending));
        self.change(|facts| facts.endings = Arc::new(endings));
        ending
    }

    /// Sends the path probes that wait: what the first worker sent.
    pub fn send_probes(&mut self) -> Vec<(DeviceId, Vec<u8>)> {
        let Worker { local, counters, device, .. } = &mut self.workers[0];
        let mut tables = Tables {
            published: &self.published,
            shared: &self.shared,
            counters,
            local,
            lease: self.lease,
            now: self.now,
        };
        send_probes(device, &mut tables);
        device.collect()
    }

    /// What the first worker sends when it is told to announce an address, and all questions that wait.
    pub fn speak(&mut self, announce: Option<(IpAddr, GroupId)>) -> Vec<(DeviceId, Vec<u8>)> {
        let Worker { local, counters, device, .. } = &mut self.workers[0];
        let tables = Tables {
            published: &self.published,
            shared: &self.shared,
            counters,
            local,
            lease: self.lease,
            now: self.now,
        };
        if let Some((address, group)) = announce {
            forward::announce(OUTSIDE, address.into(), group, device, &tables);
        }
        while forward::send_question(device, &tables) {}
        device.collect()
    }

    /// One step of a worker that ends connections: what it sent, and whether there is more to do.
    pub fn ender_step(&mut self, worker: usize) -> (Vec<(DeviceId, Vec<u8>)>, bool) {
        let Worker { local, counters, device, ender, .. } = &mut self.workers[worker];
        let mut tables = Tables {
            published: &self.published,
            shared: &self.shared,
            counters,
            local,
            lease: self.lease,
            now: self.now,
        };
        let more = ender.step(device, &mut tables);
        let sent = device.collect();
        self.audit();
        (sent, more)
    }

    /// A pass of both workers over the table: what they sent.
    pub fn enders(&mut self) -> Vec<(DeviceId, Vec<u8>)> {
        self.seconds(1);
        let mut all = Vec::new();
        for worker in 0..2 {
            let mut more = true;
            while more {
                let (sent, rest) = self.ender_step(worker);
                all.extend(sent);
                more = rest;
            }
        }
        all
    }

    /// The number of the real with this address; the first, if several services have it.
    pub fn real_id(&self, address: IpAddr) -> RealId {
        let mut reals = self.ids.reals();
        reals.find(|(_, r)| r.address == address).map(|(id, _)| id).expect("such a real")
    }

    /// Takes the express lane out of service.
    pub fn without_express(mut self) -> Self {
        for worker in &mut self.workers {
            worker.pipeline = Pipeline::without_express();
        }
        self
    }

    pub fn advance(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    pub fn seconds(&mut self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }

    /// Ends what is idle for too long, as the workers do between bursts.
    pub fn sweep(&mut self) {
        let services = &self.published.services;
        let (mut cursor, count) = (0, self.shared.conns.capacity());
        self.shared.conns.sweep(
            &mut cursor,
            count,
            self.now.tick(),
            |conn| services.service(conn.identity.service).map_or(0, |s| s.timeout(conn.state)),
            |found| {
                let by = (0, self.now, &self.workers[0].counters);
                expired(&found, &self.shared, services, by);
            },
        );
        let expired = self.shared.fragments.lock().unwrap().expire(self.now, 1 << 20);
        for _ in 0..expired {
            self.workers[0].counters.drop(Reason::FragmentTimeout);
        }
        self.audit();
    }

    /// A burst on one worker.
    pub fn burst(&mut self, worker: usize, device: DeviceId, frames: &[Vec<u8>]) -> Vec<Fate> {
        let before = (self.all_drops(), self.event(Event::IcmpSent));
        let Worker { pipeline, local, counters, device: port, .. } = &mut self.workers[worker];
        for frame in frames {
            assert!(port.inject(device, frame));
        }
        let mut tables = Tables {
            published: &self.published,
            shared: &self.shared,
            counters,
            local,
            lease: self.lease,
            now: self.now,
        };
        let mut verdicts = Vec::new();
        port.poll(counters, |frames, into, outbox| {
            pipeline.forward(frames, into, outbox, &mut tables);
            verdicts.extend_from_slice(into);
        });
        let mut sent = port.collect();
        let dropped = verdicts.iter().filter(|v| matches!(v, Verdict::Drop(_))).count() as u64;
        let after = (self.all_drops(), self.event(Event::IcmpSent));
        // A packet that was turned into an error about itself is a drop too.
        assert_eq!(after.0 - before.0, dropped + after.1 - before.1, "a drop uncounted, or twice");
        let mut fates: Vec<_> =
            verdicts.into_iter().map(|verdict| Fate { verdict, sent: Vec::new() }).collect();
        // What went through the outbox comes first; with more than one frame it is the first one's.
        let own = fates.iter().filter(|f| matches!(f.verdict, Verdict::Transmit(_))).count();
        let mut last = sent.split_off(sent.len() - own).into_iter();
        for fate in &mut fates {
            if matches!(fate.verdict, Verdict::Transmit(_)) {
                fate.sent.extend(last.next());
            }
        }
        if let Some(first) = fates.first_mut() {
            first.sent.splice(0..0, sent);
        }
        fates
    }

    /// One frame on one worker.
    pub fn on(&mut self, worker: usize, device: DeviceId, frame: &Frame) -> Fate {
        let fate = self.burst(worker, device, &[frame.bytes()]).pop().unwrap();
        self.audit();
        fate
    }

    /// One frame on the first worker.
    pub fn receive(&mut self, device: DeviceId, frame: &Frame) -> Fate {
        self.on(0, device, frame)
    }

    /// One frame of bytes on the first worker.
    pub fn receive_bytes(&mut self, device: DeviceId, bytes: &[u8]) -> Fate {
        let fate = self.burst(0, device, &[bytes.to_vec()]).pop().unwrap();
        self.audit();
        fate
    }

    /// A frame from a client that must go on as one frame.
    pub fn request(&mut self, frame: &Frame) -> Vec<u8> {
        self.receive(OUTSIDE, frame).one(INSIDE)
    }

    /// A frame from a real that must go on as one frame.
    pub fn reply(&mut self, frame: &Frame) -> Vec<u8> {
        self.receive(INSIDE, frame).one(OUTSIDE)
    }

    /// Sum over workers.
    pub fn drops(&self, reason: Reason) -> u64 {
        self.workers.iter().map(|w| w.counters.drops(reason)).sum()
    }

    pub fn event(&self, event: Event) -> u64 {
        self.workers.iter().map(|w| w.counters.events(event)).sum()
    }

    pub fn all_drops(&self) -> u64 {
        Reason::ALL.iter().map(|reason| self.drops(*reason)).sum()
    }

    /// Packets to and from a real.
    pub fn traffic(&self, id: RealId) -> (u64, u64) {
        let of = |w: &Worker| {
            let real = w.counters.real(id);
            (real.packets_in.get(), real.packets_out.get())
        };
        self.workers.iter().map(of).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// SYNs that a real left unanswered, and answered with an RST.
    pub fn evidence(&self, address: IpAddr) -> (u64, u64) {
        let id = self.real_id(address);
        let of = |w: &Worker| {
            let real = w.counters.real(id);
            (real.syn_unanswered.get(), real.resets.get())
        };
        self.workers.iter().map(of).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    pub fn conns(&self) -> Vec<Conn> {
        let mut conns = Vec::new();
        self.shared.conns.each(|_, conn| conns.push(*conn));
        conns
    }

    /// The only connection there is.
    pub fn conn(&self) -> Conn {
        let mut conns = self.conns();
        conns.retain(|conn| conn.state != State::Template);
        assert_eq!(conns.len(), 1, "{conns:?}");
        conns[0]
    }

    pub fn state(&self) -> State {
        self.conn().state
    }

    /// Where a connection of this client port goes.
    pub fn real_of(&self, port: u16) -> Option<IpAddr> {
        let conns = self.conns();
        let conn = conns.iter().find(|c| c.identity.client_port == port)?;
        Some(self.published.services.real(conn.identity.real)?.address.into())
    }

    /// (active, inactive) connections of a real.
    pub fn load(&self, address: IpAddr) -> (u32, u32) {
        let load = self.shared.loads.of(self.real_id(address));
        (load.active(), load.inactive())
    }

    /// Everything that is counted besides the table agrees with what is in it.
    pub fn audit(&self) {
        let conns = self.conns();
        let table = &self.shared.conns;
        let count = |f: &dyn Fn(&Conn) -> bool| conns.iter().filter(|c| f(c)).count() as u32;
        assert_eq!(table.used(), count(&|_| true));
        assert_eq!(table.half_open(), count(&|c| c.state.is_half_open()));
        assert_eq!(table.templates(), count(&|c| c.state == State::Template));
        for (id, _) in self.ids.reals() {
            let load = self.shared.loads.of(id);
            let of = |active: bool| {
                count(&|c| {
                    c.identity.real == id
                        && c.state != State::Template
                        && c.state.is_active() == active
                })
            };
            assert_eq!((load.active(), load.inactive()), (of(true), of(false)), "{id:?}");
            let tied = count(&|c| c.identity.real == id && c.state == State::Template);
            assert_eq!(load.templates(), tied, "{id:?}");
        }
        let PortRange { first, last } = self.snapshot.local.ports;
        for (protocol, local) in [(6, 0), (6, 1), (6, 2), (17, 0), (17, 1), (17, 2)] {
            for port in first..=last {
                let taken = self.shared.ports.lookup(protocol, local, port).is_some();
                let used = conns.iter().any(|c| {
                    c.identity.local == Some((local, port)) && c.identity.protocol == protocol
                });
                assert_eq!(taken, used, "port {port}");
            }
        }
    }
}

impl Fate {
    /// The one frame sent, which left by `device`.
    pub fn one(mut self, device: DeviceId) -> Vec<u8> {
        assert_eq!(self.sent.len(), 1, "{:?}", self.verdict);
        let (to, bytes) = self.sent.pop().unwrap();
        assert_eq!(to, device);
        bytes
    }

    /// Why it was dropped.
    pub fn dropped(&self) -> Reason {
        let Verdict::Drop(reason) = self.verdict else { panic!("{self:?} is no drop") };
        assert!(self.sent.is_empty());
        reason
    }
}
