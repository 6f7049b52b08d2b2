//! How many connections each real has: shared by all workers, changed on open, close and state
//! change only.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::address::RealId;
use crate::limits;

/// Connections of one real.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicU32,
    inactive: AtomicU32,
    templates: AtomicU32,
    overloaded: AtomicBool,
}

impl Load {
    /// Established connections (and UDP ones with more than one packet).
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// All others.
    #[must_use]
    pub fn inactive(&self) -> u32 {
        self.inactive.load(Relaxed)
    }

    /// Clients tied to it.
    #[must_use]
    pub fn templates(&self) -> u32 {
        self.templates.load(Relaxed)
    }

    /// A client was tied to it.
    pub fn tied(&self) {
        self.templates.fetch_add(1, Relaxed);
    }

    /// A client is tied to it no longer.
    pub fn untied(&self) {
        let _ = self.templates.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    }

    /// Connections of both kinds.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.active().saturating_add(self.inactive())
    }

    /// A connection opened (`active` says in which class).
    pub fn opened(&self, active: bool) {
        self.class(active).fetch_add(1, Relaxed);
    }

    /// A connection of the class ended.
    pub fn closed(&self, active: bool) {
        // Saturating: a miscount must not turn into four billion connections.
        let _ = self.class(active).fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    }

    /// Whether the real takes no new connection because of its thresholds: over `upper` it stops,
    /// and goes on below `lower` (hysteresis as `ip_vs_dest` of LVS).
    #[must_use]
    pub fn overloaded(&self, upper: Option<u32>, lower: Option<u32>) -> bool {
        // 0 is LVS for "not set".
        let Some(upper) = upper.filter(|&upper| upper > 0) else { return false };
        let total = self.total();
        let lower = lower.filter(|&lower| lower > 0).unwrap_or(upper - upper / 4);
        let before = self.overloaded.load(Relaxed);
        let now = total >= upper || total >= lower && before;
        if now != before {
            // Every pick of every worker asks; the line moves only when the answer changes.
            self.overloaded.store(now, Relaxed);
        }
        now
    }

    fn class(&self, active: bool) -> &AtomicU32 {
        if active { &self.active } else { &self.inactive }
    }
}

/// The loads of all reals.
#[derive(Debug)]
pub struct Loads(Box<[Load]>);

impl Default for Loads {
    fn default() -> Self {
        Self((0..limits::REALS).map(|_| Load::default()).collect())
    }
}

impl Loads {
    /// What they are now.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = |load: &Load| Load {
            active: load.active().into(),
            inactive: load.inactive().into(),
            templates: load.templates().into(),
            overloaded: load.overloaded.load(Relaxed).into(),
        };
        Self(self.0.iter().map(copy).collect())
    }

    /// The load of one real.
    #[must_use]
    pub fn of(&self, real: RealId) -> &Load {
        &self.0[real.index() % limits::REALS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_over_its_upper_threshold_rests_until_it_is_under_the_lower() {
        let load = Load::default();
        let overloaded = || load.overloaded(Some(4), Some(2));
        for _ in 0..4 {
            assert!(!overloaded());
            load.opened(true);
        }
        assert!(overloaded());
        load.closed(true);
        load.closed(true);
        assert!(overloaded(), "2 is not below 2");
        load.closed(true);
        assert!(!overloaded());
        load.opened(true);
        assert!(!overloaded(), "between the two it does not rest again");
    }

    #[test]
    fn thresholds_of_zero_are_not_set() {
        let load = Load::default();
        assert!(!load.overloaded(Some(0), None));
        for _ in 0..4 {
            load.opened(true);
        }
        assert!(load.overloaded(Some(4), Some(0)));
        load.closed(true);
        assert!(load.overloaded(Some(4), Some(0)), "three quarters");
        load.closed(true);
        assert!(!load.overloaded(Some(4), Some(0)));
    }
}
