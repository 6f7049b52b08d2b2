//! Verdicts: on ourselves, on the peer, and on each group.

use std::sync::Arc;

use crate::failover::decide::{self, Standby};
use crate::failover::evidence::{is_blind, rank};
use crate::failover::exchange::{EventKind, Nanos, Output};
use crate::failover::group::State;
use crate::failover::machine::{FENCE_AGAIN, Machine, SELDOM, event};
use crate::failover::peer::{Claim, Liveness};
use crate::failover::settings::Failback;
use crate::failover::world::{Fence, World};

impl Machine {
    /// Not running for longer than the lease: another may own what was ours.
    pub(super) fn notice_pause(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let gap = now - self.last_handle;
        // A timer that is a little late is no pause.
        if gap > self.times.keepalive + self.times.keepalive / 2 {
            self.verdict_after = now.saturating_add(self.times.keepalive);
        }
        if gap <= self.ttl() {
            return;
        }
        self.settling = Some(now);
        self.listening_since = now;
        self.fitter_since = None;
        self.gaps.interrupt();
        self.ways.iter_mut().for_each(|w| w.gaps.interrupt());
        let ms = gap / 1_000_000;
        let mut fenced = false;
        for group in &mut self.groups {
            fenced |= group.is_owned();
            group.release(&format!("this node was not running for {ms}ms"), now, out);
        }
        if fenced {
            self.fenced_itself += 1;
            let reason =
                format!("not running for {ms}ms, longer than the lease: gave up everything");
            event(out, EventKind::FencedItself, reason);
        }
    }

    /// Longest lease: it has run out before the peer takes anything, even if our last beats were lost.
    pub(super) fn ttl(&self) -> Nanos {
        let theirs = u64::from(self.peer.beat.deadtime_us) * 1000;
        let known = self.peer.versions.is_some() && theirs > 0;
        let deadtime = self.times.deadtime.min(if known { theirs } else { Nanos::MAX });
        deadtime.saturating_sub(2 * self.times.keepalive).max(2 * self.times.keepalive)
    }

    /// Whether the peer is there.
    pub(super) fn judge_peer(&mut self, now: Nanos, out: &mut Vec<Output>) {
        if self.settling.is_some_and(|at| now >= at.saturating_add(self.times.deadtime)) {
            self.settling = None;
        }
        if self.peer.is_there() {
            let heard = self.peer.heard_at.unwrap_or(0).max(self.listening_since);
            let silence = now.saturating_sub(heard);
            if silence >= self.deadtime() && now >= self.verdict_after {
                self.peer.liveness = Liveness::Dead;
                self.peer.since = now;
                self.gaps.interrupt();
                let reason = format!("silent on all paths for {}ms", silence / 1_000_000);
                event(out, EventKind::PeerDead, reason);
            } else if silence > self.times.warntime && self.peer.liveness == Liveness::Alive {
                self.peer.liveness = Liveness::Late;
                self.peer.since = now;
                if now >= self.late_told.saturating_add(SELDOM) || self.late_told == 0 {
                    self.late_told = now.max(1);
                    let reason = format!("no beat for {}ms", silence / 1_000_000);
                    event(out, EventKind::PeerLate, reason);
                }
            }
        }
        let fitter =
            self.peer.is_there() && self.peer.rank() > rank(&self.evidence, self.data_plane);
        self.fitter_since = fitter.then(|| self.fitter_since.unwrap_or(now));
        if let Fence::Failed(at) = self.fence
            && at <= now
        {
            self.fence = Fence::Needed;
        }
        self.judge_paths(now, out);
    }

    pub(super) fn deadtime(&self) -> Nanos {
        let theirs = u64::from(self.peer.beat.keepalive_us) * 1000;
        self.times.deadtime.max(theirs.saturating_mul(3).min(30_000_000_000))
    }

    fn judge_paths(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let there = self.peer.is_there();
        for (way, path) in self.ways.iter_mut().zip(&self.settings.paths) {
            let silent = way.heard_at.is_none_or(|at| {
                now.saturating_sub(at.max(self.listening_since)) > 5 * self.times.deadtime
            });
            if way.up && silent && there {
                way.up = false;
                way.gaps.interrupt();
                event(out, EventKind::PathDown, format!("{} brings no beats", path.name));
            }
        }
    }

    pub(super) fn judge_groups(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let names = Arc::clone(&self.names);
        let mut fence = false;
        for at in 0..self.groups.len() {
            let world = self.world(&names, now);
            let claim = self.claim(at);
            let group = &mut self.groups[at];
            group.step(&world, &claim, out);
            if matches!(group.state, State::Standby) {
                fence |= matches!(decide::standby(group, &world, &claim), Standby::Fence(_));
            }
        }
        if fence {
            self.fence = Fence::Running;
            out.push(Output::Fence);
            event(out, EventKind::Fencing, format!("{} is silent", self.settings.peer));
        }
    }

    pub(super) fn fenced(&mut self, result: Result<(), String>, now: Nanos, out: &mut Vec<Output>) {
        if self.fence != Fence::Running {
            return;
        }
        match result {
            Ok(()) => {
                self.fence = Fence::Done;
                event(out, EventKind::Fenced, "the command has succeeded".to_owned());
            }
            Err(why) => {
                self.fence = Fence::Failed(now.saturating_add(FENCE_AGAIN));
                event(out, EventKind::FencingFailed, why);
            }
        }
    }

    /// Whether this node knows every connection of the peer; also if the peer's data plane has died
    /// since, for there is nothing more to be known.
    pub(super) fn knows_all(&self) -> bool {
        let knew = self.knew == Some(self.peer.restarts) && !self.peer.beat.data_plane;
        self.standing.synced_here || knew
    }

    /// What a group needs to know of everything else.
    pub(super) fn world<'a>(&self, names: &'a (String, String), now: Nanos) -> World<'a> {
        let replicated = self.settings.replication.is_some();
        World {
            now,
            keepalive: self.times.keepalive,
            deadtime: self.deadtime(),
            initdead: self.times.initdead,
            ttl: self.ttl(),
            node: &names.0,
            peer_name: &names.1,
            listening_since: self.listening_since,
            data_plane: self.data_plane,
            settled: self.settling.is_none(),
            leaving: self.leaving.is_some(),
            maintenance: self.maintenance.1,
            blind: is_blind(&self.evidence),
            synced: !replicated || self.knows_all(),
            rank: rank(&self.evidence, self.data_plane),
            fence: self.fence,
            lag: if replicated { self.standing.lag } else { 0 },
            equal: !replicated || self.standing.equal,
            failback: self.settings.failback == Failback::WhenSynced,
            liveness: self.peer.liveness,
            there: self.peer.is_there(),
            alive_since: self.peer.alive_since,
            fresh: self.peer.fresh,
            peer_rank: self.peer.rank(),
            peer_would_take: self.peer.would_take(),
            peer_leaving: self.peer.beat.leaving,
            hears_us_at: self.peer.hears_us_at,
            gives_up_at: self.peer.gives_up_at,
            fitter_since: self.fitter_since,
        }
    }

    pub(super) fn claim(&self, at: usize) -> Claim {
        self.peer.claim(self.groups[at].tag).cloned().unwrap_or_default()
    }
}
