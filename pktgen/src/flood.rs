//! A flood of SYNs or UDP packets from random sources, beside good traffic that has to stay whole.
//!
//! The flood leaves by a packet socket on the clients' interface, from a thread of its own, so that
//! the good traffic's pace does not depend on it. It goes to the VIP and to nobody else, no faster
//! than asked, and ends with the traffic.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use dataplane::clock;

use crate::craft::{FRAME_MIN, Path, Template};
use crate::engine::answer::path;
use crate::engine::next_hop::{Follower, NextHop};
use crate::engine::{Plan, Scene, Watch};
use crate::ledger::{self, Beside};
use crate::load::Load;
use crate::packet_socket::Sender;
use crate::parse::flag;
use crate::rate::Pacer;
use crate::report;
use crate::sources::Sources;
use crate::spec::{Flood, Protocol, Spec};
use crate::stamp::{Stamp, Way};
use crate::trial::{self, Outcome};

/// Most packets of a kind sent between two looks at the clock.
const BURST: u64 = 32;
/// How long a packet may be overdue and still be sent.
const OVERDUE: Duration = Duration::from_millis(100);
/// Longest nap when nothing is due.
const NAP: Duration = Duration::from_millis(1);
/// Longer than the traffic of any run: a flood never outlives its trial.
const TAIL: Duration = Duration::from_secs(1);

/// Sends good traffic as planned, and the flood beside it.
///
/// # Errors
/// If the packet socket or threads cannot be had.
pub fn run(
    load: &mut Load,
    spec: &Spec,
    flood: Flood,
    plan: Plan,
    sources: &mut Sources,
    watch: &mut Watch<'_>,
) -> anyhow::Result<Outcome> {
    let side = load.scene().client.clone().context("the clients are in another process")?;
    let socket = Sender::open(side.index)
        .with_context(|| format!("packet socket for the flood on {}", side.interface))?;
    let mut source = Source::new(load.scene(), spec, flood)?;
    let hop = side.next_hop.clone();
    let mut notes = Vec::new();
    let before = sources.read(&mut notes);
    let stop = AtomicBool::new(false);
    let (phase, sent) = std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("flood".to_owned());
        let limit = plan.duration + TAIL;
        let thread = builder.spawn_scoped(scope, {
            let (source, socket, stop, hop) = (&mut source, &socket, &stop, &*hop);
            move || source.send(socket, hop, stop, limit)
        });
        let phase = load.data(plan, watch);
        stop.store(true, Relaxed);
        let sent = thread.map(|thread| thread.join());
        anyhow::Ok((phase?, sent.context("starting the flood")?))
    })?;
    let sent = sent.map_err(|_| anyhow::anyhow!("the flooding thread died"))?;
    let after = sources.read(&mut notes);
    let mut phase = phase;
    if let Some(error) = &sent.error {
        phase.faults.push(format!("the flood ended early: {error}"));
    }
    // At the real servers a packet of the flood is of no flow there is.
    let arrived = phase.requests.strayed + phase.requests.corrupted;
    (phase.requests.strayed, phase.requests.corrupted) = (0, 0);
    let all = sent.syn[1] + sent.udp[1];
    let seconds = sent.seconds;
    let beside = Beside { sent: all, arrived };
    let books = ledger::balance_beside(
        beside,
        &phase.requests,
        &phase.replies,
        &phase.lost_here,
        &before,
        &after,
    );
    let (mode, connections) = (load.mode(), load.connections());
    let mut outcome = trial::assemble(spec, plan, phase, connections, &before, &after);
    outcome.notes.retain(|note| !note.starts_with("counters account"));
    outcome.notes.extend(books.notes);
    outcome.notes.splice(0..0, notes);
    let trial = &mut outcome.trial;
    trial.mode = mode;
    (trial.ledger, trial.unexplained) = (books.lines, books.unexplained);
    trial.flood = Some(report::Flood {
        syn: sent.syn,
        udp: sent.udp,
        arrived,
        sent_pps: if seconds > 0.0 { all as f64 / seconds } else { 0.0 },
    });
    if trial.unexplained > 0 && trial.requests.lost + trial.replies.lost == 0 {
        outcome.notes.push(format!(
            "the {} unexplained packets are of the flood: nothing else is missing",
            trial.unexplained
        ));
    }
    let due = sent.syn[0] + sent.udp[0];
    if all * 10 < due * 9 {
        outcome.notes.push(format!("the flood reached {all} of {due} packets that were due"));
    }
    let interrupted = watch.interrupted.load(Relaxed);
    outcome.failures.extend(trial::judge(&outcome.trial, spec, interrupted));
    Ok(outcome)
}

/// What became of a flood.
#[derive(Debug, Default)]
struct Sent {
    /// Due and sent.
    syn: [u64; 2],
    udp: [u64; 2],
    seconds: f64,
    error: Option<String>,
}

/// Makes the packets.
struct Source {
    syn: Option<(Pacer, Template)>,
    udp: Option<(Pacer, Template)>,
    random: Random,
    /// Addresses that no source may have.
    scene: Avoid,
}

/// Who is not to be impersonated: the run's own hosts.
struct Avoid {
    rules: crate::meter::Rules,
    base: IpAddr,
}

impl Source {
    fn new(scene: &Scene, spec: &Spec, flood: Flood) -> anyhow::Result<Self> {
        let path = path(scene).context("the clients are in another process")?;
        let syn = Path { protocol: Protocol::Tcp, ..path };
        let udp = Path { protocol: Protocol::Udp, ..path };
        let pace = |rate: f64| Pacer::new(rate);
        let syn = (flood.syn >= 1.0)
            .then(|| Template::bare(&syn, flag::SYN).map(|t| (pace(flood.syn), t)))
            .transpose()?;
        let udp = (flood.udp >= 1.0)
            .then(|| Template::data(&udp, FRAME_MIN).map(|t| (pace(flood.udp), t)))
            .transpose()?;
        let scene = Avoid { rules: scene.rules, base: path.source };
        Ok(Self { syn, udp, random: Random(spec.seed | 1), scene })
    }

    /// Sends until told to stop, or for `limit`.
    fn send(&mut self, socket: &Sender, hop: &NextHop, stop: &AtomicBool, limit: Duration) -> Sent {
        let (start, mut sent) = (clock::now(), Sent::default());
        let mut follower = Follower::default();
        let mut next = [0_u64; 2];
        while !stop.load(Relaxed) {
            let at = clock::now().since(start);
            sent.seconds = at.as_secs_f64();
            if at >= limit {
                break;
            }
            if let Some(mac) = follower.moved(hop) {
                let kinds = [&mut self.syn, &mut self.udp].into_iter().flatten();
                kinds.for_each(|(_, template)| template.send_to(mac));
            }
            let at = at.as_nanos() as u64;
            let result = self.burst(socket, at, &mut next, &mut sent);
            if let Err(error) = result {
                sent.error = Some(error.to_string());
                break;
            }
            let idle = sent.syn[0] <= next[0] && sent.udp[0] <= next[1];
            if idle {
                std::thread::park_timeout(self.until_next(&next, at).min(NAP));
            }
        }
        sent
    }

    fn burst(
        &mut self,
        socket: &Sender,
        at: u64,
        next: &mut [u64; 2],
        sent: &mut Sent,
    ) -> std::io::Result<()> {
        let old = at.saturating_sub(OVERDUE.as_nanos() as u64);
        let Self { syn, udp, random, scene } = self;
        let [syns, udps] = next;
        let kinds = [(syn, &mut sent.syn, syns), (udp, &mut sent.udp, udps)];
        for (kind, count, next) in kinds {
            let Some((pacer, template)) = kind else { continue };
            count[0] = pacer.due(at);
            if old > 0 {
                *next = (*next).max(pacer.due(old)).min(count[0]);
            }
            for _ in 0..(count[0] - *next).min(BURST) {
                let frame = scene.frame(template, random);
                if !socket.send(frame)? {
                    break;
                }
                *next += 1;
                count[1] += 1;
            }
        }
        Ok(())
    }

    fn until_next(&self, next: &[u64; 2], at: u64) -> Duration {
        let of = |kind: &Option<(Pacer, Template)>, next: u64| {
            kind.as_ref().map_or(u64::MAX, |(pacer, _)| pacer.at(next).saturating_sub(at))
        };
        Duration::from_nanos(of(&self.syn, next[0]).min(of(&self.udp, next[1])))
    }
}

impl Avoid {
    /// A packet from a random source.
    fn frame<'t>(&self, template: &'t mut Template, random: &mut Random) -> &'t [u8] {
        let source = self.source(random);
        let port = 1024 + (random.next() % 64_512) as u16;
        let number = random.next();
        if template.is_tcp() {
            // No acknowledgement: no flow of the run has its number there.
            template.numbered((source, port), number, 0)
        } else {
            // A stamp of no run: whatever the key, a flow that does not exist.
            let stamp = Stamp { flow: u32::MAX, sequence: number, time: 0 };
            template.stamped((source, port), stamp, self.rules.key, Way::Request)
        }
    }

    /// A random unicast address that is none of the run's.
    fn source(&self, random: &mut Random) -> IpAddr {
        loop {
            let low = random.next();
            let address = match self.base {
                IpAddr::V4(_) => IpAddr::from(low.to_be_bytes()),
                IpAddr::V6(v6) => {
                    let high = v6.to_bits() & !u128::from(u32::MAX);
                    IpAddr::V6((high | u128::from(low)).into())
                }
            };
            let rules = &self.rules;
            let taken = rules.clients.addresses.index(address).is_some()
                || rules.reals.index(address).is_some()
                || rules.vip.ip() == address;
            if !taken && !is_special(address) {
                return address;
            }
        }
    }
}

/// Whether no host has this address as its source.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            first == 0 || first == 127 || first >= 224 || v4.is_link_local()
        }
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_loopback() || v6.is_unspecified(),
    }
}

/// A small generator of numbers (xorshift64*, Marsaglia and Vigna): quick, and the same for a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn scene(vip: &str) -> (Scene, Spec) {
        let flags = [("client", "a"), ("server", "b"), ("vip", vip), ("syn_flood", "1k")];
        let mut more = flags.to_vec();
        more.push(("udp_flood", "1k"));
        let spec = crate::options::build("flood", &more, None).unwrap().spec;
        let rules = crate::meter::Rules {
            vip: spec.vip,
            protocol: spec.protocol,
            method: spec.method,
            clients: spec.clients,
            reals: spec.reals,
            real_port: spec.real_port,
            key: spec.key,
        };
        let side = |name: &str| crate::engine::Side {
            interface: name.to_owned(),
            index: 1,
            mac: [2, 0, 0, 0, 0, 1],
            next_hop: std::sync::Arc::new(NextHop::at([2, 0, 0, 0, 0, 2])),
            driver: String::new(),
        };
        (Scene::new(rules, Some(side("a")), Some(side("b"))), spec)
    }

    #[test]
    fn sources_are_many_and_none_of_the_runs_own() {
        for vip in ["198.18.255.1:80", "[2001:db8:18::ffff:1]:80"] {
            let (scene, spec) = scene(vip);
            let mut source = Source::new(&scene, &spec, Flood { syn: 1e3, udp: 1e3 }).unwrap();
            let mut seen = HashSet::new();
            for _ in 0..10_000 {
                let address = source.scene.source(&mut source.random);
                assert!(spec.clients.addresses.index(address).is_none());
                assert!(address != spec.vip.ip() && !is_special(address));
                seen.insert(address);
            }
            assert!(seen.len() > 9_900, "{} sources", seen.len());
        }
    }

    #[test]
    fn packets_go_to_the_vip_with_right_checksums_and_are_of_no_flow() {
        use etherparse::{NetSlice, SlicedPacket, TransportSlice};
        let (scene, spec) = scene("198.18.255.1:80");
        let mut source = Source::new(&scene, &spec, Flood { syn: 1e3, udp: 1e3 }).unwrap();
        let Source { syn, udp, random, scene } = &mut source;
        for (_, template) in [syn.as_mut().unwrap(), udp.as_mut().unwrap()] {
            for _ in 0..100 {
                let frame = scene.frame(template, random).to_vec();
                let packet = SlicedPacket::from_ethernet(&frame).unwrap();
                let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!() };
                let header = ip.header();
                assert_eq!(IpAddr::V4(header.destination_addr()), spec.vip.ip());
                assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                match packet.transport.unwrap() {
                    TransportSlice::Tcp(tcp) => {
                        assert!(tcp.syn() && !tcp.ack() && tcp.destination_port() == 80);
                        assert_eq!(tcp.acknowledgment_number(), 0);
                        let right = tcp.calc_checksum_ipv4(header.source(), header.destination());
                        assert_eq!(tcp.checksum(), right.unwrap());
                    }
                    TransportSlice::Udp(udp) => {
                        assert_eq!(udp.destination_port(), 80);
                        let right = udp.to_header().calc_checksum_ipv4_raw(
                            header.source(),
                            header.destination(),
                            udp.payload(),
                        );
                        assert_eq!(udp.checksum(), right.unwrap());
                    }
                    _ => panic!(),
                }
            }
        }
    }
}
