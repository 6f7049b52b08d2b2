//! What operators are told of the pair.

use super::super::{ClientId, Node};
use super::pings;
use crate::metrics;
use crate::time::Instant;
use crate::verbs::{HaGroup, HaResult, HaSummary};

impl Node {
    /// The answer to `ha`.
    pub(in crate::node) fn answer_ha(&mut self, client: ClientId, now: Instant) {
        let result = self.ha_result();
        let age = self.ha.state.as_ref().map(|(at, _)| now.since(*at));
        self.succeed(client, age, &result);
    }

    fn ha_result(&self) -> HaResult {
        let Some(pair) = &self.ha.sent else { return HaResult::default() };
        let state = self.ha.state.as_ref().map(|(_, state)| &**state);
        let pings = pair.settings.pings.iter().map(|p| pings::show(p, &self.ha.pinged));
        HaResult {
            configured: true,
            view: state.map(|s| s.view.clone()),
            heartbeat: state.map(|s| s.heartbeat.clone()),
            pings: pings.collect(),
            differences: state.map(|s| s.differences.clone()).unwrap_or_default(),
            replication: state.and_then(|s| s.replication.as_deref().cloned()),
            warnings: self.ha_warnings(),
        }
    }

    /// What is measured of the pair.
    pub(in crate::node) fn ha_metrics(&self) -> Option<metrics::Pair<'_>> {
        let (_, state) = self.ha.state.as_ref()?;
        Some(metrics::Pair {
            view: &state.view,
            late_max_us: state.heartbeat.late_max_us,
            replication: state.replication.as_deref(),
        })
    }

    /// What an operator should know of the pair.
    pub(in crate::node) fn ha_warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> =
            self.ha.failed.iter().map(|why| format!("[ha] is not in force: {why}")).collect();
        let Some((_, state)) = &self.ha.state else { return warnings };
        warnings.extend(state.heartbeat.warnings.iter().cloned());
        for path in &state.heartbeat.paths {
            if let Some(problem) = &path.problem {
                warnings.push(format!("heartbeat path {} ({}): {problem}", path.name, path.what));
            }
        }
        if let Some(trouble) = state.replication.as_ref().and_then(|r| r.trouble.as_ref()) {
            warnings.push(format!("replication: {trouble}"));
        }
        if state.lost > 0 {
            warnings.push(format!("{} reports of the heartbeat were lost", state.lost));
        }
        warnings
    }

    /// The pair in short.
    pub(in crate::node) fn ha_summary(&self) -> Option<HaSummary> {
        let pair = self.ha.sent.as_ref()?;
        let view = self.ha.view();
        let groups = view.map(|v| &v.groups[..]).unwrap_or_default().iter().map(|g| HaGroup {
            name: g.name.clone(),
            role: g.role.clone(),
            reason: g.reason.clone(),
            degraded: (g.verification.as_deref() == Some("degraded"))
                .then(|| g.verified_by.clone().unwrap_or_default()),
        });
        Some(HaSummary {
            peer: pair.settings.peer.clone(),
            peer_state: view.map_or_else(|| "unknown".to_owned(), |v| v.peer.state.clone()),
            maintenance: view.is_some_and(|v| v.maintenance),
            groups: groups.collect(),
        })
    }
}
