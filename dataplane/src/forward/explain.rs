//! What would become of a first packet, stage by stage: the stages' own code, and nothing moves.
//!
//! Run by the agent's threads, for somebody who asks why.

use dataplane_api::counter::Reason;
use dataplane_api::message::{Step, Why};
use dataplane_api::service::{Forwarding, Protocol};

use super::{Shared, deliver, open};
use crate::address::{Address, RealId, VipId};
use crate::clock::{Instant, Tick};
use crate::conn::Conn;
use crate::published::Published;
use crate::sched::Target;
use crate::service::{Class, Fate, Service, is_unicast};
use crate::wire::packet::{Kind, Packet, TcpFlags};

/// A client that wants to connect.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Its address.
    pub client: Address,
    /// Its port; one that it does not use if absent.
    pub client_port: Option<u16>,
    /// The VIP.
    pub vip: Address,
    /// Its port.
    pub vip_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Ports tried for a client that named none.
const PORTS: std::ops::RangeInclusive<u16> = 49_152..=49_407;

struct Answer<'a> {
    question: Question,
    published: &'a Published,
    shared: &'a Shared,
    now: Instant,
    why: Why,
}

/// The connection that the client has already, if it has.
#[must_use]
pub fn existing(
    question: &Question,
    published: &Published,
    shared: &Shared,
    now: Instant,
) -> Option<Conn> {
    let Class::Vip(vip) = published.services.classify(question.vip) else { return None };
    find(question, question.client_port?, vip, published, shared, now)
}

/// Adds the stages of the packet path to what has been said of the way there.
#[must_use]
pub fn explain(
    why: Why,
    question: &Question,
    published: &Published,
    shared: &Shared,
    now: Instant,
) -> Why {
    let mut answer = Answer { question: *question, published, shared, now, why };
    // The failed stage has said all there is to say.
    let _ = answer.walk();
    answer.why
}

/// Notes a stage that a packet gets past.
pub fn passes(why: &mut Why, stage: &str, verdict: impl Into<String>) {
    why.steps.push(Step { stage: stage.to_owned(), ok: true, verdict: verdict.into() });
}

/// Notes a stage where it ends.
pub fn fails(why: &mut Why, stage: &str, verdict: impl Into<String>) {
    why.steps.push(Step { stage: stage.to_owned(), ok: false, verdict: verdict.into() });
    why.failed = Some(stage.to_owned());
}

fn find(
    question: &Question,
    port: u16,
    vip: VipId,
    published: &Published,
    shared: &Shared,
    now: Instant,
) -> Option<Conn> {
    let protocol = question.protocol.number();
    let hash = shared.conns.hash(question.client, port, protocol);
    let found = shared.conns.find_now(hash, |id| {
        (id.client, id.client_port) == (question.client, port)
            && (id.vip, id.vip_port) == (vip, question.vip_port)
            && id.protocol == protocol
    })?;
    let service = published.services.service(found.conn.identity.service)?;
    (found.conn.idle(now.tick()) <= service.timeout(found.conn.state)).then_some(found.conn)
}

fn of(reason: Reason) -> String {
    format!("{}: {}", reason.name(), reason.help().trim())
}

impl<'a> Answer<'a> {
    fn walk(&mut self) -> Option<()> {
        let Question { client, vip, vip_port, protocol, .. } = self.question;
        let services = &self.published.services;
        let number = match services.classify(vip) {
            Class::Vip(number) => Some(number),
            Class::Local(_) | Class::Other => None,
        };
        let service = number.and_then(|n| services.find(n, protocol.number(), vip_port));
        let (Some(number), Some(service)) = (number, service) else {
            return self.fail("service", of(Reason::NoService));
        };
        self.pass("service", service.name.clone());
        if services.classify(client) != Class::Other || !is_unicast(client.into()) {
            return self.fail("source", of(Reason::BadSource));
        }
        if let Some(port) = self.question.client_port
            && let Some(conn) =
                find(&self.question, port, number, self.published, self.shared, self.now)
        {
            return self.known(&conn);
        }
        self.pass("connection", "none yet; this opens one");
        let target = self.choose(service, number)?;
        self.next_hop(target.real)?;
        self.room(service, target)
    }

    fn pass(&mut self, stage: &str, verdict: impl Into<String>) {
        passes(&mut self.why, stage, verdict);
    }

    fn fail(&mut self, stage: &str, verdict: impl Into<String>) -> Option<()> {
        fails(&mut self.why, stage, verdict);
        None
    }

    fn name(&self, real: RealId) -> String {
        let record = self.published.services.real(real);
        record.map_or_else(|| format!("real server {}", real.0), |r| r.name.clone())
    }

    /// It has a connection: to where that goes.
    fn known(&mut self, conn: &Conn) -> Option<()> {
        let (real, idle) = (conn.identity.real, conn.idle(self.now.tick()));
        let fate = match self.published.fate(conn) {
            Fate::Keep => "",
            Fate::Reset => "; its next packet resets it",
            Fate::Drop => "; it is going to be forgotten",
            Fate::Move => "; its next packet goes to another real server, if one takes it",
        };
        let (state, name, idle) = (conn.state.name(), self.name(real), Tick::to_seconds(idle));
        self.pass("connection", format!("{state} with {name}, idle for {idle} s{fate}"));
        self.why.real = Some(name);
        self.next_hop(real)
    }

    /// Which real, by persistence or by the scheduler.
    fn choose(&mut self, service: &'a Service, vip: VipId) -> Option<&'a Target> {
        let Self { published, shared, now, question, .. } = *self;
        if service.persistence.is_some() {
            if let Some(target) = open::tied(service, question.client, published, shared, now) {
                let name = self.name(target.real);
                self.pass("persistence", format!("tied to {name}"));
                self.why.real = Some(name);
                return Some(target);
            }
            self.pass("persistence", "not tied to a real server that takes it");
        }
        let free = |port: &u16| find(&question, *port, vip, published, shared, now).is_none();
        let port = question.client_port.or_else(|| PORTS.clone().find(free));
        let tcp = question.protocol == Protocol::Tcp;
        let packet = Packet {
            source: question.client,
            source_port: port.unwrap_or(*PORTS.start()),
            destination: question.vip,
            destination_port: question.vip_port,
            protocol: question.protocol.number(),
            kind: if tcp { Kind::Tcp } else { Kind::Udp },
            tcp_flags: TcpFlags(if tcp { TcpFlags::SYN } else { 0 }),
            ..Packet::EMPTY
        };
        let request = open::request(service, &packet, now);
        let Some(target) = service.would_pick(&request, &shared.loads) else {
            let states = self.states(service);
            self.fail("scheduler", format!("{} {states}", of(Reason::NoReal)));
            return None;
        };
        let name = self.name(target.real);
        let fallback = service.is_fallback(target.real);
        let how = if fallback { " as fallback: no real server takes new connections" } else { "" };
        let scheduler = format!("{:?}", service.scheduler).to_lowercase();
        self.pass("scheduler", format!("{scheduler} chooses {name}{how}"));
        self.why.real = Some(name);
        Some(target)
    }

    /// Why none takes a new connection.
    fn states(&self, service: &Service) -> String {
        let state = |t: &Target| {
            let down = self.published.services.real(t.real).is_some_and(|r| r.down);
            let why = match (down, t.weight.get()) {
                (true, _) => "down",
                (false, 0) => "weight 0",
                (false, _) if t.takes_new(&self.shared.loads) => "not chosen",
                (false, _) => "over its upper threshold",
            };
            format!("{}: {why}", self.name(t.real))
        };
        let all = service.targets.iter().chain(&service.fallback);
        let mut states: Vec<_> = all.clone().take(STATES).map(state).collect();
        if let Some(more) = all.count().checked_sub(STATES).filter(|n| *n > 0) {
            states.push(format!("and {more} more"));
        }
        format!("({})", states.join(", "))
    }

    fn next_hop(&mut self, real: RealId) -> Option<()> {
        match deliver::way_out(real, self.published) {
            Ok((hop, _)) => {
                let [a, b, c, d, e, f] = hop.mac.0;
                let verdict = format!(
                    "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, MTU {} bytes",
                    hop.mtu
                );
                self.pass("next-hop", verdict);
                Some(())
            }
            Err(reason) => self.fail("next-hop", of(reason)),
        }
    }

    /// Whether there is a place for the connection.
    fn room(&mut self, service: &Service, target: &Target) -> Option<()> {
        let conns = &self.shared.conns;
        if service.forwarding == Forwarding::Fullnat
            && self.published.services.locals(target.address.is_v4()).is_empty()
        {
            return self.fail("room", of(Reason::NoLocalPort));
        }
        if conns.used() >= conns.capacity() && conns.half_open() == 0 {
            return self.fail("room", of(Reason::TableFull));
        }
        let (used, all) = (conns.used(), conns.capacity());
        let full = conns.half_open() >= conns.half_open_max();
        let note = if full { "; half-open ones at their limit, the oldest make way" } else { "" };
        self.pass("room", format!("{used} of {all} connections{note}"));
        Some(())
    }
}

/// Reals of which it is said why they take no connection.
const STATES: usize = 16;
