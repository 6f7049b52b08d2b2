//! Beats that go out, and leases with them.

use std::sync::Arc;

use crate::failover::beat::{self, Beat, Header, Row, VERSIONS};
use crate::failover::decide;
use crate::failover::exchange::{Nanos, Output};
use crate::failover::group::State;
use crate::failover::handover::Handover;
use crate::failover::machine::Machine;
use crate::seal::Echo;

/// Changes that follow each other faster are told together.
const BREATH: Nanos = 1_000_000;

impl Machine {
    /// The regular beat with its leases, or one for what has changed.
    pub(super) fn beat(&mut self, now: Nanos, out: &mut Vec<Output>) {
        let changed = self.groups.iter_mut().fold(false, |c, g| std::mem::take(&mut g.changed) | c);
        if changed && self.urgent.is_none() {
            self.urgent = Some(now.max(self.last_beat.saturating_add(BREATH)));
        }
        if self.next_beat <= now {
            let names = Arc::clone(&self.names);
            for at in 0..self.groups.len() {
                let world = self.world(&names, now);
                if self.groups[at].is_owned() {
                    self.groups[at].lease(&world, out);
                }
            }
            self.next_beat = self.next_beat.saturating_add(self.times.keepalive);
            if self.next_beat <= now {
                self.next_beat = now.saturating_add(self.times.keepalive);
            }
        } else if self.urgent.is_none_or(|at| at > now) {
            return;
        }
        self.send(now, out);
        self.leave_if_told(out);
    }

    fn send(&mut self, now: Nanos, out: &mut Vec<Output>) {
        self.urgent = None;
        self.last_beat = now;
        self.seq += 1;
        let slot = self.seq as usize % self.sent.len();
        self.sent[slot] = (self.seq, now);
        let tag = |name: &str| dataplane_api::record::tag(name.as_bytes());
        let header = Header {
            version: beat::version(self.peer.versions),
            path: 0,
            oldest: *VERSIONS.start(),
            newest: *VERSIONS.end(),
            from: tag(&self.names.0),
            to: tag(&self.names.1),
            sender: Echo { nonce: self.nonce, seq: self.seq },
            echoes: self.peer.guard.echoes(),
        };
        let mut plain = beat::encode(&header, &self.say(now));
        for path in 0..self.settings.paths.len() {
            beat::set_path(&mut plain, path as u8);
            let bytes = self.sealer.seal(&plain);
            out.push(Output::Send { path, bytes });
            self.beats += 1;
        }
    }

    fn say(&self, now: Nanos) -> Beat {
        let us = |nanos: Nanos| u32::try_from(nanos / 1000).unwrap_or(u32::MAX);
        let names = Arc::clone(&self.names);
        let world = self.world(&names, now);
        let rows = self.groups.iter().map(|group| {
            let forced = matches!(
                group.state,
                State::Active { handover: Some(Handover { force: true, .. }), .. }
            );
            Row {
                tag: group.tag,
                role: group.role(),
                able: decide::is_able(group, &world),
                wants: group.want.is_some(),
                force: group.want.is_some_and(|w| w.force) || forced,
                epoch: if group.is_owned() { group.epoch } else { group.known },
                last: group.owned_last,
                rate: group.rate,
                ask: group.verify.question(now),
                answer: group.answer.0,
                testimony: group.answer.1.clone(),
            }
        });
        let heard = self.peer.heard_at.map_or(u32::MAX, |at| us(now.saturating_sub(at)));
        Beat {
            leaving: self.leaving.is_some(),
            data_plane: self.data_plane,
            synced: world.synced,
            peer_synced: self.standing.synced_there,
            maintenance: self.maintenance.1,
            maintenance_version: self.maintenance.0,
            heard_us: heard,
            keepalive_us: us(self.times.keepalive),
            deadtime_us: us(self.times.deadtime),
            ttl_us: us(world.ttl),
            config_hash: self.config_hash,
            evidence: self.evidence,
            worth: self.standing.worth,
            would_live: self.standing.would_live,
            lag: self.standing.lag,
            position: self.standing.position,
            rows: rows.collect(),
        }
    }

    /// Nothing is owned any more, and two beats have said so.
    fn leave_if_told(&mut self, out: &mut Vec<Output>) {
        let idle = self.groups.iter().all(|g| matches!(g.state, State::Standby));
        let there = self.peer.is_there();
        let Some(leaving) = &mut self.leaving else { return };
        if !idle {
            return;
        }
        leaving.told += 1;
        if leaving.told >= 2 || !there {
            let ticket = leaving.ticket;
            self.left = true;
            out.push(Output::Answer { ticket, result: Ok("nothing is owned here".to_owned()) });
            out.push(Output::Left);
        }
    }
}
