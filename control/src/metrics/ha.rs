//! What is measured of the pair.

use super::{f, flag, list as m, one, seconds, text::Writer};
use crate::failover::view::View;
use crate::replicate;

/// What is known of the pair at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// As the failure detector has it.
    pub view: &'a View,
    /// How late its thread was at worst, in microseconds.
    pub late_max_us: u64,
    /// Replication, if it is configured.
    pub replication: Option<&'a replicate::View>,
}

const ROLES: [&str; 6] = ["standby", "taking", "active", "yielding", "releasing", "fencing"];

pub(super) fn render(w: &mut Writer, pair: &Pair<'_>) {
    let view = pair.view;
    let groups = || view.groups.iter();
    let roles = groups().flat_map(|g| ROLES.map(|r| (vec![&*g.name, r], flag(g.role == r))));
    w.metric(&m::HA_ROLE, roles);
    w.metric(&m::HA_EPOCH, groups().map(|g| (vec![&*g.name], f(g.epoch))));
    let degraded = |v: &Option<String>| v.as_deref() == Some("degraded");
    let samples = groups().map(|g| (vec![&*g.name], flag(degraded(&g.verification))));
    w.metric(&m::HA_DEGRADED, samples);
    one(w, &m::HA_PEER_UP, flag(matches!(&*view.peer.state, "alive" | "late")));
    one(w, &m::HA_MAINTENANCE, flag(view.maintenance));
    let evidence = [(&view.node, &view.evidence), (&view.peer.node, &view.peer.evidence)];
    let evidence = evidence.into_iter().flat_map(|(node, e)| {
        let kinds = [("interfaces", e.interfaces), ("pings", e.pings)];
        kinds.map(|(kind, n)| (vec![node.as_str(), kind], f64::from(n)))
    });
    w.metric(&m::HA_EVIDENCE, evidence);
    paths(w, view);
    one(w, &m::HA_WAKE_LATE, f(pair.late_max_us) / 1e6);
    w.metric(&m::HA_REFUSED, view.refused.list().iter().map(|(name, n)| (vec![*name], f(*n))));
    one(w, &m::HA_FENCED_ITSELF, f(view.fenced_itself));
    if let Some(replication) = pair.replication {
        let synced = [(&view.node, replication.synced), (&view.peer.node, replication.peer_synced)];
        w.metric(&m::HA_SYNCED, synced.map(|(node, is)| (vec![node.as_str()], flag(is))));
        let survival = replication.survival.unwrap_or_default();
        one(w, &m::HA_WORTH, f(survival.worth));
        one(w, &m::HA_WOULD_LIVE, f(survival.would_live));
        one(w, &m::HA_OLDEST, seconds(survival.oldest_ms.unwrap_or(0)));
    }
}

fn paths(w: &mut Writer, view: &View) {
    let paths = || view.paths.iter().map(|p| (vec![p.name.as_str()], p));
    w.metric(&m::HA_PATH_UP, paths().map(|(l, p)| (l, flag(p.up))));
    w.metric(&m::HA_BEATS, paths().map(|(l, p)| (l, f(p.received))));
    w.metric(&m::HA_BEATS_LOST, paths().map(|(l, p)| (l, f(p.lost))));
    w.metric(&m::HA_BEATS_LATE, paths().map(|(l, p)| (l, f(p.late))));
    let gaps = view.paths.iter().flat_map(|p| {
        [("0.5", p.gap_p50_us), ("0.99", p.gap_p99_us), ("1", p.gap_max_us)]
            .map(|(q, us)| (vec![p.name.as_str(), q], f(us) / 1e6))
    });
    w.metric(&m::HA_GAP, gaps);
}
