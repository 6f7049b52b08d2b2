//! What the generator does with a frame it received: judges it, and answers it if it is the real
//! server's or the client's turn.
//!
//! Run by every worker, in every phase. A burst is read first and its flows are fetched into the
//! cache, then it is judged.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use dataplane::counters::Counter;
use dataplane::frame::{Frame, Outbox, Verdict};
use dataplane::limits::BURST;
use dataplane::prefetch::prefetch;
use hdrhistogram::Histogram;

use super::Scene;
use super::next_hop::Follower;
use super::sockets::{CLIENT, Tallies, is_server};
use crate::craft::{Path, Template, renumber, restamp, turn, unwrap};
use crate::meter::{Fault, Flow, stage};
use crate::parse::{TCP, Unreadable, View, flag, is_whole, parse};
use crate::stamp::{self, Stamp, Way};

/// Longest latency told apart: a minute, in nanoseconds. Stamps wrap a little later.
const LATENCY_MAX: u64 = 60_000_000_000;

/// The reactions of one worker.
pub struct Answerer<'a> {
    scene: &'a Scene,
    tallies: &'a Tallies,
    /// Templates of the client's packets; none if the clients are elsewhere.
    ack: Option<Template>,
    follower: Follower,
    /// Replies to each request, and what is still owed of them.
    replies: f64,
    owed: f64,
    /// Flows of which something came that a client waits for, if anybody wants to know them; whoever
    /// does takes them away after each burst.
    pub heard: Option<Vec<u32>>,
    /// Latency of requests and replies.
    pub latency: [Histogram<u64>; 2],
}

impl<'a> Answerer<'a> {
    /// For a worker of this scene; data requests get so many replies each.
    ///
    /// # Errors
    /// If addresses are of two families.
    pub fn new(scene: &'a Scene, tallies: &'a Tallies, replies: f64) -> anyhow::Result<Self> {
        let path = path(scene);
        let ack = path.map(|path| Template::bare(&path, flag::ACK)).transpose()?;
        let histogram = || Histogram::new_with_bounds(1, LATENCY_MAX, 3);
        let latency = [histogram()?, histogram()?];
        let follower = Follower::default();
        Ok(Self { scene, tallies, ack, follower, replies, owed: 0.0, heard: None, latency })
    }

    /// A burst, received by `now`.
    pub fn burst(
        &mut self,
        frames: &mut [Frame<'_>],
        verdicts: &mut [Verdict],
        outbox: &mut dyn Outbox,
        now: u64,
    ) {
        if let (Some(ack), Some(client)) = (&mut self.ack, &self.scene.client)
            && let Some(mac) = self.follower.moved(&client.next_hop)
        {
            ack.send_to(mac);
        }
        let tallies = self.tallies;
        let ways = [&tallies.requests.received, &tallies.replies.received];
        let before = ways.map(Counter::get);
        let mut views = [None; BURST];
        for (frame, view) in frames.iter().zip(&mut views) {
            let read = parse(frame.bytes());
            if let Ok(read) = &read
                && let Some(flow) = self.guess(frame, read)
                && let Some(flow) = self.scene.flows.get(flow as usize)
            {
                prefetch(flow);
            }
            *view = Some(read);
        }
        for ((frame, verdict), view) in frames.iter_mut().zip(verdicts).zip(views) {
            *verdict = Verdict::Held;
            let server = is_server(frame.device());
            let tally = if server { &self.tallies.requests } else { &self.tallies.replies };
            let outcome = match view {
                Some(Ok(view)) if server => self.serve(frame, &view, outbox, now),
                Some(Ok(view)) => self.receive(frame, &view, outbox, now),
                Some(Err(Unreadable::Damaged)) => Err(Fault::Corrupted),
                _ => Err(Fault::Foreign),
            };
            match outcome {
                Ok(true) => *verdict = Verdict::Transmit(frame.device()),
                Ok(false) => {}
                Err(Fault::Corrupted) => tally.corrupted.add(1),
                Err(Fault::Strayed) => tally.strayed.add(1),
                Err(Fault::Foreign) => self.tallies.foreign.add(1),
            }
        }
        for ((way, before), silence) in ways.into_iter().zip(before).zip(&self.scene.silences) {
            if way.get() != before {
                silence.heard(now);
            }
        }
    }

    /// Which flow it probably is, for the cache.
    #[inline(always)]
    fn guess(&self, frame: &Frame<'_>, view: &View) -> Option<u32> {
        if !is_server(frame.device()) {
            let (address, port) = view.destination;
            return self.scene.rules.clients.flow(address, port);
        }
        let at = if view.protocol == TCP { view.transport + 8 } else { view.payload };
        Some(u32::from_be_bytes(*frame.bytes().get(at..)?.first_chunk()?))
    }

    /// A packet at the real servers. True: the frame was turned into the answer.
    fn serve(
        &mut self,
        frame: &mut Frame<'_>,
        view: &View,
        outbox: &mut dyn Outbox,
        now: u64,
    ) -> Result<bool, Fault> {
        let rules = &self.scene.rules;
        let bytes = frame.bytes();
        let Some((to, from)) = bytes.first_chunk::<12>().map(|macs| macs.split_at(6)) else {
            return Err(Fault::Foreign);
        };
        let (Ok(to), Ok(from)) = (to.try_into(), from.try_into()) else {
            return Err(Fault::Foreign);
        };
        let real = rules.real(view, to)?;
        if !is_whole(bytes, view) {
            return Err(Fault::Corrupted);
        }
        let sender = rules.sender(view)?;
        self.scene.learn_server_peer(from);
        let is_data = view.protocol != TCP
            || (view.payload < view.end && view.flags & (flag::SYN | flag::FIN | flag::RST) == 0);
        if !is_data {
            return self.serve_control(frame, view, (sender, real), outbox);
        }
        let stamp = rules.stamp(bytes, view, Way::Request, sender)?;
        let flow = self.scene.flows.get(stamp.flow as usize).ok_or(Fault::Strayed)?;
        if !self.scene.answers() {
            self.hear(stamp.flow);
        }
        if stamp.sequence == 0 {
            return Ok(self.serve_opening(frame, view, stamp, (flow, real)));
        }
        if !flow.is(stage::REACHED)
            || flow.real.load(Relaxed) != real
            || sender.is_none() && !self.scene.is_local(flow, view.source)
        {
            return Err(Fault::Strayed);
        }
        let place = flow.requests.record(stamp.sequence);
        if !self.tallies.requests.place(place, bytes.len()) {
            return Ok(false);
        }
        let _ = self.latency[0].record(stamp::age(stamp.time, now).clamp(1, LATENCY_MAX));
        self.owed += self.replies;
        if self.owed < 1.0 {
            return Ok(false);
        }
        let Some(view) = self.turn_back(frame, view) else { return Ok(false) };
        // Without the clients here, clocks may differ: the time of the request comes back, and what
        // they measure is the way there and back.
        let time = if self.scene.client.is_some() { stamp::time(now) } else { stamp.time };
        let device = frame.device();
        let bytes = frame.bytes_mut();
        loop {
            self.owed -= 1.0;
            let stamp = Stamp { flow: stamp.flow, sequence: flow.replies.next(), time };
            if !restamp(bytes, &view, stamp, rules.key, Way::Reply) {
                return Err(Fault::Corrupted);
            }
            // The last one leaves in the frame of the request, the others as copies.
            if self.owed < 1.0 {
                self.tallies.replies.sent.add(1);
                return Ok(true);
            }
            if outbox.send(device, bytes) {
                self.tallies.replies.sent.add(1);
            } else {
                flow.replies.put_back(stamp.sequence);
                self.owed = 0.0;
                return Ok(false);
            }
        }
    }

    /// Makes an answer of a request: without its tunnel, addresses exchanged, on its way to the
    /// balancer, or straight to the client. Its layout then; none if it cannot be sent.
    #[inline]
    fn turn_back(&self, frame: &mut Frame<'_>, view: &View) -> Option<View> {
        let hop = match self.scene.straight() {
            Some(hop) => match hop.mac() {
                Some(mac) => Some(mac),
                None => {
                    self.tallies.homeless.add(1);
                    return None;
                }
            },
            None => None,
        };
        let mut view = *view;
        if let Some((inner, len)) = unwrap(frame.bytes_mut(), &view) {
            view = inner;
            if !frame.resize(len) {
                return None;
            }
        }
        if !turn(frame.bytes_mut(), &view) {
            return None;
        }
        if let Some(mac) = hop {
            frame.bytes_mut()[..6].copy_from_slice(&mac);
        }
        Some(view)
    }

    /// The first packet of a UDP flow.
    fn serve_opening(
        &self,
        frame: &mut Frame<'_>,
        view: &View,
        stamp: Stamp,
        (flow, real): (&Flow, u16),
    ) -> bool {
        if self.scene.client.is_none() {
            self.scene.forget(flow);
        }
        flow.real.store(real, Relaxed);
        self.scene.learn_local(flow, view.source);
        self.scene.reach(flow, stage::REACHED);
        let key = self.scene.rules.key;
        self.scene.answers()
            && self
                .turn_back(frame, view)
                .is_some_and(|view| restamp(frame.bytes_mut(), &view, stamp, key, Way::Reply))
    }

    /// A packet that opens or closes a TCP connection, at the real servers.
    fn serve_control(
        &mut self,
        frame: &mut Frame<'_>,
        view: &View,
        (sender, real): (Option<u32>, u16),
        outbox: &mut dyn Outbox,
    ) -> Result<bool, Fault> {
        let scene = self.scene;
        // All our packets of opening and closing carry the flow, plus one, where they acknowledge.
        let ack = frame.bytes().get(view.transport + 8..).and_then(|rest| rest.first_chunk());
        let number = u32::from_be_bytes(*ack.ok_or(Fault::Corrupted)?).wrapping_sub(1);
        let flow = scene.flows.get(number as usize).ok_or(Fault::Strayed)?;
        if sender.is_some_and(|sender| sender != number) {
            return Err(Fault::Strayed);
        }
        let answers = scene.answers();
        if view.flags & flag::SYN != 0 {
            // The clients elsewhere begin again, unless this is a SYN sent twice.
            if scene.client.is_none() && flow.stage() != stage::REACHED {
                scene.forget(flow);
            }
            flow.real.store(real, Relaxed);
            scene.learn_local(flow, view.source);
            scene.reach(flow, stage::REACHED);
            if !answers {
                self.hear(number);
                scene.reach(flow, stage::ANSWERED);
                self.acknowledge(number, 1, outbox);
                return Ok(false);
            }
            return Ok(self.turn_back(frame, view).is_some_and(|view| {
                renumber(frame.bytes_mut(), &view, flag::SYN | flag::ACK, 0, 1)
            }));
        }
        if !flow.is(stage::REACHED) || flow.real.load(Relaxed) != real {
            return Err(Fault::Strayed);
        }
        if view.flags & flag::RST != 0 {
            scene.reach(flow, stage::FINISHED);
            return Ok(false);
        }
        if view.flags & flag::FIN == 0 {
            scene.reach(flow, stage::ESTABLISHED);
            return Ok(false);
        }
        scene.reach(flow, stage::FINISHED);
        if !answers {
            self.hear(number);
            scene.reach(flow, stage::CLOSED);
            self.acknowledge(number, CLOSING + 1, outbox);
            return Ok(false);
        }
        if scene.client.is_none() {
            scene.reach(flow, stage::CLOSED);
        }
        Ok(self.turn_back(frame, view).is_some_and(|view| {
            renumber(frame.bytes_mut(), &view, flag::FIN | flag::ACK, CLOSING, CLOSING + 1)
        }))
    }

    /// A packet at the clients.
    fn receive(
        &mut self,
        frame: &mut Frame<'_>,
        view: &View,
        outbox: &mut dyn Outbox,
        now: u64,
    ) -> Result<bool, Fault> {
        let (scene, bytes) = (self.scene, frame.bytes());
        let number = scene.rules.receiver(view)?;
        if !is_whole(bytes, view) {
            return Err(Fault::Corrupted);
        }
        let flow = scene.flows.get(number as usize).ok_or(Fault::Strayed)?;
        self.hear(number);
        if view.flags & flag::RST != 0 {
            scene.reach(flow, stage::REFUSED);
            return Ok(false);
        }
        if view.flags & flag::SYN != 0 {
            scene.reach(flow, stage::ANSWERED);
            self.acknowledge(number, 1, outbox);
            return Ok(false);
        }
        if view.flags & flag::FIN != 0 {
            scene.reach(flow, stage::CLOSED);
            self.acknowledge(number, CLOSING + 1, outbox);
            return Ok(false);
        }
        let stamp = scene.rules.stamp(bytes, view, Way::Reply, Some(number))?;
        if stamp.sequence == 0 {
            scene.reach(flow, stage::ANSWERED);
            return Ok(false);
        }
        let place = flow.replies.record(stamp.sequence);
        if self.tallies.replies.place(place, bytes.len()) {
            let _ = self.latency[1].record(stamp::age(stamp.time, now).clamp(1, LATENCY_MAX));
        }
        Ok(false)
    }

    #[inline(always)]
    fn hear(&mut self, flow: u32) {
        if let Some(heard) = &mut self.heard {
            heard.push(flow);
        }
    }

    /// The client acknowledges.
    fn acknowledge(&mut self, flow: u32, sequence: u32, outbox: &mut dyn Outbox) {
        if let Some(ack) = &mut self.ack {
            let client = self.scene.rules.clients.of(flow);
            // Refused only when the ring is full; the handshake is then repeated.
            outbox.send(CLIENT, ack.numbered(client, sequence, flow.wrapping_add(1)));
        }
    }
}

/// Sequence number of the packets that close a connection: far from those of data.
pub const CLOSING: u32 = 0xf000_0000;

/// The way of the clients' packets, if the clients are here.
#[must_use]
pub fn path(scene: &Scene) -> Option<Path> {
    let side = scene.client.as_ref()?;
    let rules = &scene.rules;
    let source: IpAddr = rules.clients.addresses.first();
    Some(Path {
        source_mac: side.mac,
        destination_mac: side.next_hop.mac().unwrap_or_default(),
        source,
        destination: rules.vip,
        protocol: rules.protocol,
    })
}
