//! What people are shown.

use crate::failover::evidence::is_blind;
use crate::failover::exchange::Nanos;
use crate::failover::group::{Group, State};
use crate::failover::machine::Machine;
use crate::failover::peer::Liveness;
use crate::failover::view::{GroupView, PathView, PeerView, View};
use crate::failover::world::Fence;

fn ms(from: Nanos, to: Nanos) -> u64 {
    to.saturating_sub(from) / 1_000_000
}

impl Machine {
    /// What people are shown.
    #[must_use]
    pub fn view(&self, now: Nanos) -> View {
        let replicated = self.settings.replication.is_some();
        let learning = if self.settling.is_some() {
            Some("it was not running for a while and listens first")
        } else if self.peer.liveness == Liveness::Never {
            Some("it has not heard the peer yet")
        } else if replicated && self.peer.is_there() && !self.knows_all() {
            Some("it does not know the peer's connections yet")
        } else {
            None
        };
        View {
            node: self.names.0.clone(),
            maintenance: self.maintenance.1,
            leaving: self.leaving.is_some(),
            data_plane: self.data_plane,
            evidence: self.evidence,
            blind: is_blind(&self.evidence),
            learning: learning.map(str::to_owned),
            groups: self.groups.iter().map(|g| self.group_view(g, now)).collect(),
            peer: self.peer_view(now),
            paths: self.path_views(now),
            replication: replicated.then_some(self.standing),
            deadtime: self.gaps.advise(self.times.deadtime, self.times.keepalive),
            differences: self.differences(),
            refused: self.refused,
            sent: self.beats,
            fenced_itself: self.fenced_itself,
        }
    }

    /// Names of the groups that are ours, and their epochs.
    pub fn owned(&self) -> impl Iterator<Item = (&str, u64)> {
        self.groups.iter().filter(|g| g.is_owned()).map(|g| (&*g.name, g.epoch))
    }

    fn group_view(&self, group: &Group, now: Nanos) -> GroupView {
        let claim = self.peer.claim(group.tag).filter(|_| self.peer.is_there());
        let fencing = matches!(group.state, State::Standby) && self.fence == Fence::Running;
        let theirs = claim.filter(|c| c.row.role.claims());
        let owner =
            if group.is_owned() { Some(&self.names.0) } else { theirs.map(|_| &self.names.1) };
        let active = matches!(group.state, State::Active { .. });
        GroupView {
            name: group.name.to_string(),
            role: if fencing { "fencing" } else { group.role().name() }.to_owned(),
            owner: owner.cloned(),
            prefer: group.prefer.clone(),
            epoch: group.known.max(group.epoch),
            since_ms: ms(group.since, now),
            reason: self.explain(&group.name, now),
            verification: active.then(|| group.verify.name().to_owned()),
            verified_by: group.verify.outcome.as_ref().filter(|_| active).map(|o| match o {
                Ok(words) | Err(words) => words.clone(),
            }),
            verified_after_ms: group.verify.after.filter(|_| active).map(|n| n / 1_000_000),
            peer_role: claim.map(|c| c.row.role.name().to_owned()),
        }
    }

    fn peer_view(&self, now: Nanos) -> PeerView {
        let peer = &self.peer;
        PeerView {
            node: self.names.1.clone(),
            state: peer.liveness.name().to_owned(),
            age_ms: peer.heard_at.map(|at| ms(at, now)),
            since_ms: ms(peer.since, now),
            hears_us_ms: peer.hears_us_at.map(|at| ms(at, now)),
            data_plane: peer.beat.data_plane,
            evidence: peer.beat.evidence,
            synced: peer.beat.synced,
            position: peer.beat.position,
            restarts: peer.restarts,
        }
    }

    fn path_views(&self, now: Nanos) -> Vec<PathView> {
        let views = self.ways.iter().zip(&self.settings.paths).map(|(way, path)| {
            let (gap_p50_us, gap_p99_us, gap_max_us) = way.gaps.summary();
            PathView {
                name: path.name.clone(),
                up: way.up && self.peer.is_there(),
                age_ms: way.heard_at.map(|at| ms(at, now)),
                received: way.received,
                lost: way.lost,
                late: way.late,
                gap_p50_us,
                gap_p99_us,
                gap_max_us,
            }
        });
        views.collect()
    }
}
