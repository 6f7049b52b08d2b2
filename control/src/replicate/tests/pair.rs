//! Two halves, their data planes, and a network that does what it should not.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dataplane_api::sync::Frame;

use super::table::Table;
use crate::replicate::limits::{CONTROL_MAX, FRAMES_MAX, UNAPPLIED_MAX, WINDOW};
use crate::replicate::{Event, Guard, Replication};
use crate::seal::{Keyring, Mode};

pub(crate) const MS: u64 = 1_000_000;
/// Of the simulation's time.
pub(crate) const STEP: u64 = MS;

/// Numbers that are the same each time.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in so many of 1000.
    pub(crate) fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }
}

/// What the network does, in thousandths and milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u64,
    pub(crate) repeat: u64,
    pub(crate) delay_ms: u64,
    /// Nothing gets from node 0 to 1; and from 1 to 0.
    pub(crate) cut: [bool; 2],
    /// Longer datagrams get lost.
    pub(crate) longest: Option<usize>,
}

pub(crate) struct Node {
    pub(crate) core: Replication,
    pub(crate) table: Table,
    pub(crate) events: Vec<Event>,
    attached: bool,
    /// Frames that the data plane takes in each step.
    pub(crate) speed: usize,
}

pub(crate) struct Pair {
    pub(crate) nodes: [Node; 2],
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    guard: fn(usize) -> Guard,
    /// On the way: by time of arrival and order; receiver and bytes.
    wire: BTreeMap<(u64, u64), (usize, Bytes)>,
    sent: u64,
    /// Everything that was ever sent, if asked for.
    pub(crate) record: Option<Vec<(usize, Bytes)>>,
}

pub(crate) fn keys(text: &str) -> Keyring {
    Keyring::parse(Mode::Enforce, &[(1, &text.repeat(32))]).unwrap()
}

pub(crate) fn plain(node: usize) -> Guard {
    Guard::new(keys("ab"), ["lb1", "lb2"][node], ["lb2", "lb1"][node], false)
}

pub(crate) fn encrypted(node: usize) -> Guard {
    Guard::new(keys("ab"), ["lb1", "lb2"][node], ["lb2", "lb1"][node], true)
}

impl Pair {
    pub(crate) fn new(seed: u64, guard: fn(usize) -> Guard) -> Self {
        let mut rng = Rng(seed);
        let now = 1_000_000 * MS;
        let node = |n: usize, rng: &mut Rng| Node {
            core: core(guard(n), rng, now),
            table: Table::default(),
            events: Vec::new(),
            attached: false,
            speed: 64,
        };
        let nodes = [node(0, &mut rng), node(1, &mut rng)];
        let (wire, faults) = (BTreeMap::new(), Faults::default());
        Self { nodes, now, rng, faults, guard, wire, sent: 0, record: None }
    }

    /// Control of a node is killed and started.
    pub(crate) fn restart_control(&mut self, n: usize) {
        self.nodes[n].core = core((self.guard)(n), &mut self.rng, self.now);
        self.nodes[n].attached = false;
    }

    /// Its data plane is killed and started; the new process adopts the table.
    pub(crate) fn restart_data_plane(&mut self, n: usize) {
        let (now, node) = (self.now, &mut self.nodes[n]);
        node.core.disconnected(now);
        node.table.disconnected();
        node.attached = false;
    }

    /// One millisecond.
    pub(crate) fn step(&mut self) {
        self.now += STEP;
        let due = self.wire.split_off(&(self.now + 1, 0));
        for (_, (to, bytes)) in std::mem::replace(&mut self.wire, due) {
            self.nodes[to].core.datagram(&bytes, self.now);
        }
        for n in 0..2 {
            self.nodes[n].step(self.now);
            while let Some(bytes) = self.nodes[n].core.next_datagram(self.now) {
                self.send(1 - n, bytes);
            }
            self.check(n);
        }
    }

    pub(crate) fn run(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.step());
    }

    /// Until both know all of each other; milliseconds that it took.
    pub(crate) fn settle(&mut self, most_ms: u64) -> u64 {
        for ms in 0..most_ms {
            if self.is_settled() {
                return ms;
            }
            self.step();
        }
        let views = [0, 1].map(|n| self.nodes[n].core.view(self.now));
        panic!("not settled after {most_ms} ms: {views:#?}");
    }

    fn is_settled(&self) -> bool {
        let [a, b] = &self.nodes;
        let whole = |n: &Node| n.core.is_synced() && n.core.is_peer_synced();
        let same = a.table.own == b.table.imported && b.table.own == a.table.imported;
        whole(a) && whole(b) && same
    }

    pub(crate) fn send(&mut self, to: usize, bytes: Bytes) {
        if let Some(record) = &mut self.record {
            record.push((to, bytes.clone()));
        }
        let faults = self.faults;
        let lost = faults.cut[1 - to]
            || self.rng.permille(faults.loss)
            || faults.longest.is_some_and(|longest| bytes.len() > longest);
        if lost {
            return;
        }
        let copies = 1 + u64::from(self.rng.permille(faults.repeat));
        for _ in 0..copies {
            self.sent += 1;
            let at = self.now + STEP + self.rng.below(faults.delay_ms + 1) * MS;
            self.wire.insert((at, self.sent), (to, bytes.clone()));
        }
    }

    /// Whatever happens, no queue is longer than it may be.
    fn check(&self, n: usize) {
        let core = &self.nodes[n].core;
        let kept = core.kept();
        let most = [usize::from(WINDOW), CONTROL_MAX, FRAMES_MAX + 64, UNAPPLIED_MAX + 2048];
        assert!(kept.iter().zip(most).all(|(kept, most)| *kept <= most), "{kept:?}");
    }
}

impl Node {
    fn step(&mut self, now: u64) {
        if !self.attached {
            self.attached = true;
            self.core.connected();
            self.table.connected();
        }
        self.core.tick(now);
        for _ in 0..self.speed {
            let Some(frame) = self.core.next_frame(now) else { break };
            self.table.take(Frame::decode(&frame[4..]).unwrap());
        }
        if (now / MS).is_multiple_of(100) {
            self.table.stand(now);
        }
        self.table.round(now);
        while self.core.wants_frames()
            && let Some(frame) = self.table.out.pop_front()
        {
            self.core.frame(&frame.encode()[4..], now).unwrap();
            self.table.round(now);
        }
        while let Some(event) = self.core.next_event() {
            self.events.push(event);
        }
    }
}

fn core(guard: Guard, rng: &mut Rng, now: u64) -> Replication {
    let mut ids = Rng(rng.next());
    Replication::new(Duration::from_secs(1), guard, Box::new(move || ids.next()), now)
}
