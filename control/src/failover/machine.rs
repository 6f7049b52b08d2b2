//! One node's half of the pair: what has happened goes in, what is to be done comes out.
//!
//! It owns the beats and what is known of the peer; each group has a state machine of its own
//! ([`super::group`]). Nothing here waits, and nothing grows: every list has a bound.

mod command;
mod judge;
mod look;
mod receive;
mod send;

use std::sync::Arc;

use crate::failover::exchange::{
    Event, EventKind, Evidence, Input, Nanos, Output, Setup, Standing,
};
use crate::failover::gaps::Gaps;
use crate::failover::group::{Group, State};
use crate::failover::peer::{Liveness, Peer};
use crate::failover::settings::Settings;
use crate::failover::world::Fence;
use crate::seal::{Context, Limiter, Opener, Purpose, Refusals, Sealer};

/// Fencing that failed is tried again after that.
const FENCE_AGAIN: Nanos = 10_000_000_000;
/// What people are told about now and then, not each time.
const SELDOM: Nanos = 60_000_000_000;
/// Differences of configuration that last are told: a reload takes a moment on each node.
const CONFIG: Nanos = 5_000_000_000;
/// Beats of which the time of sending is known.
const SENT: usize = 256;

/// A way of the heartbeat.
#[derive(Debug)]
struct Way {
    gaps: Gaps,
    up: bool,
    heard_at: Option<Nanos>,
    last_seq: u64,
    received: u64,
    lost: u64,
    late: u64,
    /// For messages that may be the peer's.
    known: Limiter,
    /// For those that anybody could have made.
    unknown: Limiter,
}

/// The settings as this module counts.
#[derive(Clone, Copy, Debug)]
struct Times {
    keepalive: Nanos,
    warntime: Nanos,
    deadtime: Nanos,
    initdead: Nanos,
}

/// On the way out.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    ticket: u64,
    /// Beats that have said that nothing is owned any more.
    told: u8,
}

/// One node's half of the pair.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    config_hash: u64,
    times: Times,
    names: Arc<(String, String)>,
    nonce: u64,
    first_epoch: u64,
    seq: u64,
    sealer: Sealer,
    opener: Opener,
    last_handle: Nanos,
    /// Since when this node has been listening.
    listening_since: Nanos,
    /// It was not running, and does not know yet what happened meanwhile.
    settling: Option<Nanos>,
    /// No verdict on the peer before: what it has sent may be waiting to be read.
    verdict_after: Nanos,
    next_beat: Nanos,
    last_beat: Nanos,
    urgent: Option<Nanos>,
    sent: Vec<(u64, Nanos)>,
    begun: bool,
    left: bool,
    leaving: Option<Leaving>,
    data_plane: bool,
    evidence: Evidence,
    standing: Standing,
    /// In which life of the peer this node last knew every connection of it.
    knew: Option<u64>,
    /// Version, and whether it is on.
    maintenance: (u32, bool),
    peer: Peer,
    fitter_since: Option<Nanos>,
    fence: Fence,
    groups: Vec<Group>,
    ways: Vec<Way>,
    gaps: Gaps,
    jobs: Vec<command::Job>,
    refused: Refusals,
    /// Refusals told of, and when.
    refused_told: (u64, Nanos),
    late_told: Nanos,
    /// When configurations were compared last, and whether they differed then, and were told to.
    compared: (Nanos, bool, bool),
    beats: u64,
    fenced_itself: u64,
}

impl Machine {
    /// Starts. `boot_nonce` is random and never used before; `first_epoch` is about what a clock
    /// says (milliseconds since 1970 will do): ownerships are numbered from the highest known on.
    /// The first call of [`Machine::handle`] gives up what a process before may have owned.
    #[must_use]
    pub fn new(setup: Setup, boot_nonce: u64, first_epoch: u64, now: Nanos) -> Self {
        let Setup { settings, keyring, config_hash } = setup;
        let (sealer, opener) = seals(&settings, &keyring);
        let times = Times::new(&settings);
        let fence = if settings.fencing.is_some() { Fence::Needed } else { Fence::NotWanted };
        Self {
            times,
            names: Arc::new((settings.node.clone(), settings.peer.clone())),
            nonce: boot_nonce.max(1),
            first_epoch,
            seq: 0,
            sealer,
            opener,
            config_hash,
            last_handle: now,
            listening_since: now,
            settling: None,
            verdict_after: now,
            next_beat: now,
            last_beat: 0,
            urgent: None,
            sent: vec![(0, 0); SENT],
            begun: false,
            left: false,
            leaving: None,
            data_plane: false,
            evidence: Evidence::default(),
            standing: Standing::default(),
            knew: None,
            maintenance: (0, false),
            peer: Peer::new(boot_nonce.max(1), now),
            fitter_since: None,
            fence,
            groups: groups(&settings, first_epoch, now),
            ways: settings.paths.iter().map(|_| Way::new(&times, now)).collect(),
            gaps: Gaps::default(),
            jobs: Vec::new(),
            refused: Refusals::default(),
            refused_told: (0, now),
            late_told: 0,
            compared: (now, false, false),
            beats: 0,
            fenced_itself: 0,
            settings,
        }
    }

    /// Something has happened, or time has passed. What comes back is to be done in that order,
    /// before the next call. `now` never runs backwards.
    pub fn handle(&mut self, input: Input<'_>, now: Nanos) -> Vec<Output> {
        let mut out = Vec::new();
        if self.left {
            return out;
        }
        let now = now.max(self.last_handle);
        if !self.begun {
            self.begun = true;
            for group in &self.groups {
                out.push(Output::Release { group: group.name.clone(), epoch: group.epoch });
            }
        }
        // Before anything else: what was owned may have been taken meanwhile.
        self.notice_pause(now, &mut out);
        self.last_handle = now;
        self.input(input, now, &mut out);
        self.judge_peer(now, &mut out);
        self.judge_groups(now, &mut out);
        self.go_on_with_jobs(now, &mut out);
        self.tell(now, &mut out);
        self.beat(now, &mut out);
        out
    }

    fn input(&mut self, input: Input<'_>, now: Nanos, out: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::Received { path, bytes } => {
                if let Err(why) = self.receive(path, bytes, now, out) {
                    self.refused.count(why);
                }
            }
            Input::Command { ticket, command } => self.command(ticket, command, now, out),
            Input::Evidence(evidence) => {
                if evidence != self.evidence {
                    self.evidence = evidence;
                    self.groups.iter_mut().for_each(|g| g.verify.look_again(now));
                }
            }
            Input::DataPlane { alive } => {
                if alive && !self.data_plane {
                    self.groups.iter_mut().for_each(|g| g.acked_at = now);
                }
                self.data_plane = alive;
            }
            Input::Replication(standing) => {
                self.standing = standing;
                if standing.synced_here {
                    self.knew = Some(self.peer.restarts);
                }
            }
            Input::Rates(rates) => {
                for (name, rate) in rates {
                    if let Some(group) = self.groups.iter_mut().find(|g| g.name == name) {
                        group.rate = rate;
                    }
                }
            }
            Input::Settings(setup) => self.reload(*setup, now, out),
            Input::Fenced(result) => self.fenced(result, now, out),
            other => self.answered(other, now, out),
        }
    }

    /// Answers of our data plane and of the shell about a group.
    fn answered(&mut self, input: Input<'_>, now: Nanos, out: &mut Vec<Output>) {
        let names = Arc::clone(&self.names);
        let maintenance = self.maintenance.1;
        let name = match &input {
            Input::Leased { group, .. }
            | Input::LeaseFailed { group, .. }
            | Input::Released { group }
            | Input::Verified { group, .. }
            | Input::Resolved { group, .. } => group.clone(),
            _ => return,
        };
        let Some(at) = self.groups.iter().position(|g| g.name == name) else { return };
        let world = self.world(&names, now);
        let group = &mut self.groups[at];
        match input {
            Input::Leased { epoch, .. } => group.leased(epoch, now, out),
            // In maintenance the data plane may be exchanged under the group.
            Input::LeaseFailed { .. }
                if maintenance && matches!(group.state, State::Active { .. }) => {}
            Input::LeaseFailed { reason, .. } => group.lease_failed(&reason, now, out),
            Input::Released { .. } => group.released(now),
            Input::Verified { epoch, result, .. } => {
                group.verified(epoch, result, &world, out);
            }
            Input::Resolved { ticket, testimony, .. } => group.resolved(ticket, testimony),
            _ => {}
        }
    }

    /// Another configuration.
    fn reload(&mut self, setup: Setup, now: Nanos, out: &mut Vec<Output>) {
        let Setup { settings, keyring, config_hash } = setup;
        (self.sealer, self.opener) = seals(&settings, &keyring);
        self.times = Times::new(&settings);
        self.config_hash = config_hash;
        self.names = Arc::new((settings.node.clone(), settings.peer.clone()));
        match (settings.fencing.is_some(), self.fence) {
            (false, _) => self.fence = Fence::NotWanted,
            (true, Fence::NotWanted) => self.fence = Fence::Needed,
            (true, _) => {}
        }
        let mut old = std::mem::take(&mut self.groups);
        self.groups = groups(&settings, self.first_epoch, now);
        for group in &mut self.groups {
            if let Some(at) = old.iter().position(|g| g.name == group.name) {
                let prefer = group.prefer.take();
                *group = old.swap_remove(at);
                group.prefer = prefer;
            }
        }
        for mut gone in old {
            gone.release("the group is configured no more", now, out);
        }
        let ways = settings.paths.iter().map(|path| {
            let before = self.settings.paths.iter().position(|p| p == path);
            before.map_or_else(
                || Way::new(&self.times, now),
                |at| std::mem::replace(&mut self.ways[at], Way::new(&self.times, now)),
            )
        });
        self.ways = ways.collect();
        self.settings = settings;
        let groups = &self.groups;
        self.peer.keep(|tag| groups.iter().any(|g| g.tag == tag));
        self.next_beat = now;
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        if self.left {
            return Nanos::MAX;
        }
        let heard = self.peer.heard_at.unwrap_or(0).max(self.listening_since);
        let dead = heard.saturating_add(self.deadtime()).max(self.verdict_after);
        let initdead = self.listening_since.saturating_add(self.times.initdead);
        let verdict = match self.peer.liveness {
            Liveness::Alive | Liveness::Late => Some(dead),
            Liveness::Never => Some(initdead),
            Liveness::Dead | Liveness::Left => None,
        };
        let groups = self.groups.iter().flat_map(|g| {
            let until = match g.state {
                State::Taking { until } | State::Releasing { until } => Some(until),
                State::Standby | State::Active { .. } => None,
            };
            [until, g.verify.deadline()]
        });
        let later = |at: &Nanos| *at > self.last_handle;
        let rest = groups.chain([verdict, self.urgent]).flatten().filter(later);
        rest.fold(self.next_beat, Nanos::min)
    }
}

impl Times {
    fn new(settings: &Settings) -> Self {
        let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX / 8);
        // Zero would have every deadline at once; the configuration does not permit it.
        let keepalive = nanos(settings.keepalive).clamp(1_000_000, 3_600_000_000_000);
        Self {
            keepalive,
            warntime: nanos(settings.warntime),
            deadtime: nanos(settings.deadtime).max(3 * keepalive),
            initdead: nanos(settings.initdead),
        }
    }
}

impl Way {
    fn new(times: &Times, now: Nanos) -> Self {
        let rate = 1_000_000_000 / times.keepalive.max(1);
        Self {
            gaps: Gaps::default(),
            up: false,
            heard_at: None,
            last_seq: 0,
            received: 0,
            lost: 0,
            late: 0,
            known: Limiter::new(20 * rate + 2000, 1000, now),
            unknown: Limiter::new(2 * rate + 100, 50, now),
        }
    }
}

fn seals(settings: &Settings, keyring: &crate::seal::Keyring) -> (Sealer, Opener) {
    let (node, peer) = (settings.node.as_str(), settings.peer.as_str());
    let context = |from, to| Context { purpose: Purpose::Beat, from, to, session: &[] };
    (keyring.sealer(&context(node, peer)), keyring.opener(&context(peer, node)))
}

fn groups(settings: &Settings, epoch: u64, now: Nanos) -> Vec<Group> {
    let groups = settings.groups.iter().take(super::beat::ROWS_MAX);
    groups.map(|g| Group::new(&g.name, g.prefer.clone(), epoch, now)).collect()
}

fn event(out: &mut Vec<Output>, kind: EventKind, reason: String) {
    out.push(Output::Event(Event { kind, group: None, reason }));
}

#[cfg(test)]
mod tests;
