//! What the data plane sees of the reals while it forwards, as evidence against them.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane_api::message::{RealStatus, Status};

use super::{Health, RAMP_STEPS, Verdict};
use crate::check::Passive;
use crate::config::Config;
use crate::overrides::{Overrides, RealKey};
use crate::time::Instant;

/// Counters of the data plane when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// They begin anew with each start of it.
    boot_id: String,
    /// SYNs unanswered and resets, by real.
    counts: BTreeMap<Arc<RealKey>, (u64, u64)>,
}

impl Health {
    /// Looks at the counters. Enough SYNs unanswered, or enough resets, since the last look: one
    /// more failed run takes the real down, and its checks run at once to see.
    pub fn evidence(&mut self, status: &Status) {
        let fresh = self.seen.boot_id != status.boot_id;
        if fresh {
            self.seen.counts.clear();
            self.seen.boot_id.clone_from(&status.boot_id);
        }
        let by_place = places(status);
        for (key, real) in &mut self.reals {
            let limits: Passive = real.rules.passive;
            if limits == Passive::default() {
                continue;
            }
            let Some(seen) = by_place.get(&(key.service.as_str(), key.text())) else { continue };
            let counts = (seen.syn_unanswered, seen.resets);
            let before = self.seen.counts.insert(Arc::clone(key), counts);
            let Some(before) = before else { continue };
            let over = |now: u64, before: u64, limit: u32| {
                limit > 0 && now.saturating_sub(before) >= u64::from(limit)
            };
            if over(counts.0, before.0, limits.unanswered)
                || over(counts.1, before.1, limits.resets)
            {
                for check in &mut real.checks {
                    check.accuse();
                    self.urgent.push(Arc::clone(&check.probe));
                }
            }
        }
    }

    /// After a start of control: what the data plane was last told to be dead, by the process
    /// before us, is dead until its checks pass, and gets nothing meanwhile. Only for reals of which
    /// nothing is known yet, and once.
    pub fn inherit(
        &mut self,
        status: &Status,
        config: &Config,
        overrides: &Overrides,
        now: Instant,
    ) {
        if std::mem::replace(&mut self.inherited, true) {
            return;
        }
        let by_place = places(status);
        for entry in &config.services {
            for wanted in &entry.service.reals {
                let key = RealKey::new(&entry.service.name, wanted);
                let effect = overrides.of(&key);
                let meant = effect.weight.unwrap_or(wanted.weight).get() == 0;
                let Some(seen) = by_place.get(&(key.service.as_str(), key.text())) else {
                    continue;
                };
                if meant || effect.drained || effect.disabled || !is_dead(seen) {
                    continue;
                }
                let Some(real) = self.reals.get_mut(&key) else { continue };
                if real.verdict != Verdict::Unknown || real.checks.is_empty() {
                    continue;
                }
                for check in real.checks.iter_mut().filter(|c| c.verdict() == Verdict::Unknown) {
                    check.presume_down();
                }
                (real.verdict, real.since) = (Verdict::Down, now);
                (real.ramp, real.step) = (None, RAMP_STEPS);
                "was down when xvip-control started".clone_into(&mut real.reason);
                self.changed = true;
            }
        }
    }
}

/// Whether the data plane was told that it is dead.
const fn is_dead(real: &RealStatus) -> bool {
    real.down && !real.removed
}

/// The reals of a status by service and text of their address.
fn places(status: &Status) -> BTreeMap<(&str, String), &RealStatus> {
    let reals = status.services.iter().flat_map(|s| s.reals.iter().map(|r| (s.name.as_str(), r)));
    reals.map(|(service, real)| ((service, real.address.clone()), real)).collect()
}
