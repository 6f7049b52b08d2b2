//! Beats that come in.

use std::sync::Arc;

use crate::failover::beat::{self, BEAT_MAX, Beat, Header};
use crate::failover::exchange::{EventKind, Nanos, Output};
use crate::failover::group::State;
use crate::failover::machine::{Machine, event};
use crate::failover::peer::Liveness;
use crate::failover::world::Fence;
use crate::seal::{News, Proof, Refused};

/// The peer's questions are looked into that often at most.
const QUESTION: Nanos = 100_000_000;
/// Bytes before the header: form and key.
const ENVELOPE: usize = 2;

impl Machine {
    /// Cheap questions first: what costs anything is done for few messages a second only.
    pub(super) fn receive(
        &mut self,
        path: usize,
        bytes: &[u8],
        now: Nanos,
        out: &mut Vec<Output>,
    ) -> Result<(), Refused> {
        if bytes.len() > BEAT_MAX {
            return Err(Refused::Malformed);
        }
        let header = beat::header(bytes.get(ENVELOPE..).ok_or(Refused::Malformed)?)?;
        let tag = |name: &str| dataplane_api::record::tag(name.as_bytes());
        let ours = header.from == tag(&self.names.1) && header.to == tag(&self.names.0);
        if !ours || usize::from(header.path) != path {
            return Err(Refused::Foreign);
        }
        let promising = self.peer.guard.promising(path, header.sender, &header.echoes);
        let way = self.ways.get_mut(path).ok_or(Refused::Foreign)?;
        let limiter = if promising { &mut way.known } else { &mut way.unknown };
        if !limiter.take(now) {
            return Err(Refused::Limited);
        }
        let opened = self.opener.open(bytes)?;
        let beat = beat::decode(&opened.body)?;
        if opened.proof == Proof::None {
            self.refused.plain += 1;
        }
        let (sent, deadtime) = (&self.sent, self.times.deadtime);
        let recent = |seq: u64| {
            let (known, at) = sent[seq as usize % sent.len()];
            seq > 0 && known == seq && now.saturating_sub(at) <= deadtime
        };
        let fresh = self.peer.guard.echoed(&header.echoes).is_some_and(recent);
        let news = self.peer.guard.check(path, header.sender, &header.echoes, recent)?;
        self.count(path, &header, news, now, out);
        if news != News::Again {
            self.heard(&header, beat, fresh, news, now, out);
        }
        Ok(())
    }

    /// What the beat says of its path.
    fn count(
        &mut self,
        path: usize,
        header: &Header,
        news: News,
        now: Nanos,
        out: &mut Vec<Output>,
    ) {
        if news == News::Born {
            self.gaps.interrupt();
            for way in &mut self.ways {
                way.last_seq = 0;
                way.gaps.interrupt();
            }
        }
        let warntime = self.times.warntime;
        let Some(way) = self.ways.get_mut(path) else { return };
        if way.last_seq > 0 {
            way.lost += header.sender.seq.saturating_sub(way.last_seq + 1);
        }
        way.last_seq = header.sender.seq;
        way.received += 1;
        way.heard_at = Some(now);
        if way.gaps.beat(now).is_some_and(|gap| gap > warntime) {
            way.late += 1;
        }
        if !way.up {
            way.up = true;
            let name = self.settings.paths.get(path).map_or("", |p| p.name.as_str());
            event(out, EventKind::PathUp, format!("{name} brings beats"));
        }
        if news != News::Again {
            self.gaps.beat(now);
        }
    }

    /// What it says of the peer.
    fn heard(
        &mut self,
        header: &Header,
        beat: Beat,
        fresh: bool,
        news: News,
        now: Nanos,
        out: &mut Vec<Output>,
    ) {
        let before = self.peer.liveness;
        let restarts = self.peer.restarts;
        let left = beat.leaving && beat.rows.iter().all(|r| !r.role.claims());
        self.peer.heard(header, beat, fresh, news, self.times.warntime, now);
        self.peer.keep(|tag| self.groups.iter().any(|g| g.tag == tag));
        if fresh {
            self.settling = None;
        }
        let (liveness, kind) = match left {
            true => (Liveness::Left, EventKind::PeerLeft),
            false => (Liveness::Alive, EventKind::PeerUp),
        };
        let was_there = matches!(before, Liveness::Alive | Liveness::Late);
        if before != liveness {
            self.peer.liveness = liveness;
            self.peer.since = now;
        }
        if left && before != Liveness::Left {
            event(out, kind, format!("{} has left", self.settings.peer));
        } else if !left && !was_there {
            self.peer.alive_since = now;
            event(out, kind, format!("{} is there", self.settings.peer));
        }
        let born = self.peer.restarts > restarts;
        if born || !left && !was_there {
            // The network may have been in pieces, or it may have owned something before it was born:
            // who has learned what of whom, nobody knows.
            for group in &mut self.groups {
                group.again |= matches!(group.state, State::Active { .. });
            }
        }
        if born {
            self.peer.alive_since = now;
            let reason = format!("{} has started again", self.settings.peer);
            event(out, EventKind::PeerRestarted, reason);
        }
        if self.fence != Fence::NotWanted && !left {
            self.fence = Fence::Needed;
        }
        let (version, on) = (self.peer.beat.maintenance_version, self.peer.beat.maintenance);
        if version > self.maintenance.0 || version == self.maintenance.0 && on {
            self.set_maintenance(version, on, now, out);
        }
        self.questions(now, out);
    }

    /// What the nodes ask each other about who answers.
    fn questions(&mut self, now: Nanos, out: &mut Vec<Output>) {
        for group in &mut self.groups {
            let Some(claim) = self.peer.claim(group.tag) else { continue };
            let row = &claim.row;
            group.verify.witnessed(row.answer, &row.testimony);
            let busy = group.resolving.is_some_and(|(_, at)| now < at.saturating_add(QUESTION));
            if row.ask != 0 && row.ask != group.answer.0 && !busy && !group.is_owned() {
                group.resolving = Some((row.ask, now));
                out.push(Output::Resolve { group: Arc::clone(&group.name), ticket: row.ask });
            }
        }
    }
}
