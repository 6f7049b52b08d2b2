//! What a node has that is one of two: the heartbeat, replication, the fencing command.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::Event;
use super::heartbeat::{Heartbeat, Order, Source};
use super::replicator::{self, Replicator};
use super::{Clock, command};
use crate::failover::exchange::Standing;
use crate::node::{self, HaOrder, HaReport, Input};
use crate::replicate::View;

/// As the main loop has it.
pub(super) struct Pair {
    run_dir: PathBuf,
    events: mpsc::Sender<Event>,
    /// For the heartbeat, when there is one.
    said: mpsc::Sender<HaReport>,
    heartbeat: Option<Heartbeat>,
    replicator: Option<(node::Pair, Arc<Replicator>)>,
}

impl Pair {
    pub(super) const fn new(
        run_dir: PathBuf,
        events: mpsc::Sender<Event>,
        said: mpsc::Sender<HaReport>,
    ) -> Self {
        Self { run_dir, events, said, heartbeat: None, replicator: None }
    }

    /// Whether the heartbeat has ended by a mistake.
    pub(super) fn has_died(&self) -> bool {
        self.heartbeat.as_ref().is_some_and(Heartbeat::has_died)
    }

    /// The fencing command has ended.
    pub(super) fn fenced(&self, result: Result<(), String>) {
        self.tell(Order::Fenced(result));
    }

    fn tell(&self, order: Order) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.send(order);
        }
    }

    /// Does as the core says.
    pub(super) fn order(&mut self, order: HaOrder) {
        match order {
            HaOrder::Configure(pair) => {
                if let Err(error) = self.configure(pair.as_deref()) {
                    let failed = Input::HaFailed(format!("{error:#}"));
                    let _ = self.events.try_send(Event::Input(failed));
                }
            }
            HaOrder::Command(ticket, command) => self.tell(Order::Command { ticket, command }),
            HaOrder::Pings(reached) => self.tell(Order::Pings(reached)),
            HaOrder::Fence(fencing) => {
                let events = self.events.clone();
                tokio::spawn(async move {
                    let fenced = command::fence(&fencing).await;
                    let _ = events.send(Event::Fenced(fenced)).await;
                });
            }
        }
    }

    fn configure(&mut self, pair: Option<&node::Pair>) -> anyhow::Result<()> {
        let Some(pair) = pair else {
            (self.heartbeat, self.replicator) = (None, None);
            return Ok(());
        };
        match &self.heartbeat {
            Some(heartbeat) => heartbeat.configure(pair),
            None => {
                let agent = self.run_dir.join("agent.sock");
                let epoch = Clock::stamp().unix_ms;
                self.heartbeat = Some(Heartbeat::start(pair, epoch, agent, self.said.clone())?);
            }
        }
        self.replicate(pair)
    }

    fn replicate(&mut self, pair: &node::Pair) -> anyhow::Result<()> {
        let wanted = settings(pair);
        let Some(settings) = wanted else {
            self.replicator = None;
            self.tell(Order::Replication(None));
            return Ok(());
        };
        if let Some((before, replicator)) = &mut self.replicator {
            let key = |p: &node::Pair| {
                let s = &p.settings;
                (s.node.clone(), s.peer.clone(), s.replication.clone(), s.auth.clone())
            };
            // A session that need not end does not.
            if key(before) != key(pair) || before.keys != pair.keys {
                replicator.configure(settings);
            }
            *before = pair.clone();
            return Ok(());
        }
        let socket = self.run_dir.join("sync.sock");
        let replicator = Arc::new(Replicator::start(socket, settings, Box::new(|_| {}))?);
        let weak = Arc::downgrade(&replicator);
        self.tell(Order::Replication(Some(Source(Box::new(move || standing(&weak))))));
        self.replicator = Some((pair.clone(), replicator));
        Ok(())
    }

    /// Adds what the heartbeat does not know.
    pub(super) fn complete(&self, report: HaReport) -> HaReport {
        match report {
            HaReport::State(mut state) => {
                state.replication = self.replicator.as_ref().map(|(_, r)| r.view());
                HaReport::State(state)
            }
            other => other,
        }
    }
}

fn settings(pair: &node::Pair) -> Option<replicator::Settings> {
    let replication = pair.settings.replication.clone()?;
    let (node, peer) = (pair.settings.node.clone(), pair.settings.peer.clone());
    Some(replicator::Settings { node, peer, replication, keys: pair.keys.ring.clone()? })
}

/// As the failure detector wants to know it.
fn standing(replicator: &Weak<Replicator>) -> Standing {
    replicator.upgrade().map_or_else(Standing::default, |r| short(&r.view()))
}

fn short(view: &View) -> Standing {
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let survival = view.survival.unwrap_or_default();
    Standing {
        synced_here: view.synced,
        synced_there: view.peer_synced,
        equal: view.digests.equal == Some(true),
        worth: count(survival.worth),
        would_live: count(survival.would_live),
        lag: count(survival.unacknowledged),
        oldest_us: count(survival.oldest_ms.unwrap_or(0).saturating_mul(1000)),
        position: view.totals.records_in,
    }
}
