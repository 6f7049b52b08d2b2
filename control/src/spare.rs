//! The N-1 warning: can the others carry what one real server carries, if it fails? Pure.
//!
//! Its active connections come back as new ones and are shared by weight among those that are
//! left. Too much is what exceeds an upper threshold, which counts all connections of a real;
//! a service whose reals have no upper threshold cannot be judged and is never warned of.

use std::collections::BTreeMap;

/// Looks in a row that must agree before anything is said: one busy second is no news.
const LOOKS: u8 = 3;
/// The warning ends when the worst load is back below this share of the threshold.
const ENOUGH: u64 = 950;

/// One real server as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Name.
    pub name: String,
    /// Weight in force; 0 takes no new connections.
    pub weight: u64,
    /// Established connections.
    pub active: u64,
    /// All connections.
    pub total: u64,
    /// Takes no new connection at this many.
    pub upper: Option<u64>,
}

/// The worst that the failure of one real server can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worst {
    /// Who fails.
    pub lost: String,
    /// Who then has the most for its threshold.
    pub over: String,
    /// How much that is, in thousandths of its threshold.
    pub permille: u64,
}

impl Worst {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { lost, over, permille } = self;
        // Rounded up: 1 connection too many is not 0 %.
        let percent = permille.saturating_sub(1000).div_ceil(10);
        match percent {
            0 => format!(
                "if {lost} fails, {over} carries {} % of its upper threshold",
                permille.div_ceil(10)
            ),
            _ => format!("if {lost} fails, {over} exceeds its upper threshold by {percent} %"),
        }
    }
}

/// The worst failure of one of `reals`; `None` if none can be judged.
#[must_use]
pub fn worst(reals: &[Load]) -> Option<Worst> {
    let serving = || reals.iter().enumerate().filter(|(_, r)| r.weight > 0);
    let weights: u64 = serving().map(|(_, r)| r.weight).sum();
    let mut worst: Option<Worst> = None;
    for (lost_at, lost) in serving() {
        let rest = weights - lost.weight;
        for (at, real) in serving() {
            let upper = real.upper.unwrap_or(0);
            if at == lost_at || upper == 0 {
                continue;
            }
            // In 128 bits: connections times weights times 1000 is too much for 64.
            let inherited = u128::from(lost.active) * u128::from(real.weight) * 1000;
            let load = u128::from(real.total) * 1000 + inherited / u128::from(rest);
            let permille = u64::try_from(load.div_ceil(u128::from(upper))).unwrap_or(u64::MAX);
            if worst.as_ref().is_none_or(|w| permille > w.permille) {
                let (lost, over) = (lost.name.clone(), real.name.clone());
                worst = Some(Worst { lost, over, permille });
            }
        }
    }
    worst
}

/// What to tell about a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One failure is too much from now on.
    Short,
    /// It can be borne again.
    Enough,
}

#[derive(Debug, Default)]
struct Watch {
    worst: Option<Worst>,
    short: bool,
    /// Looks in a row that contradict `short`.
    against: u8,
}

/// What was found about each service, and what has been told.
#[derive(Debug, Default)]
pub struct Spare {
    services: BTreeMap<String, Watch>,
}

impl Spare {
    /// Takes a look at a service in; what is new.
    pub fn see(&mut self, service: &str, reals: &[Load]) -> Option<Change> {
        let found = worst(reals);
        if !self.services.contains_key(service) {
            self.services.insert(service.to_owned(), Watch::default());
        }
        let watch = self.services.get_mut(service)?;
        let permille = found.as_ref().map_or(0, |w| w.permille);
        watch.worst = found;
        let against = if watch.short { permille < ENOUGH } else { permille > 1000 };
        watch.against = if against { watch.against + 1 } else { 0 };
        if watch.against < LOOKS {
            return None;
        }
        watch.against = 0;
        watch.short = !watch.short;
        Some(if watch.short { Change::Short } else { Change::Enough })
    }

    /// Forgets services that are gone.
    pub fn retain(&mut self, there: impl Fn(&str) -> bool) {
        self.services.retain(|name, _| there(name));
    }

    /// Each service that can be judged, whether it is short, and its worst case.
    pub fn services(&self) -> impl Iterator<Item = (&str, bool, &Worst)> {
        self.services
            .iter()
            .filter_map(|(name, w)| w.worst.as_ref().map(|worst| (name.as_str(), w.short, worst)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(name: &str, weight: u64, active: u64, upper: u64) -> Load {
        Load { name: name.to_owned(), weight, active, total: active, upper: Some(upper) }
    }

    #[test]
    fn the_connections_of_the_lost_are_shared_by_weight_among_the_others() {
        let reals = [load("web1", 2, 100, 150), load("web2", 1, 50, 100), load("web3", 1, 90, 100)];
        // web3's 90 are 60 more for web1 (160 of 150) and 30 more for web2 (80 of 100); web1's 100
        // are 50 more for web2 (100 of 100) and for web3 (140 of 100), which is the worst.
        let found = worst(&reals).unwrap();
        assert_eq!((found.lost.as_str(), found.over.as_str()), ("web1", "web3"));
        assert_eq!(found.permille, 1400);
        assert_eq!(found.text(), "if web1 fails, web3 exceeds its upper threshold by 40 %");
    }

    #[test]
    fn a_service_without_thresholds_or_without_another_real_is_not_judged() {
        let none = Load { upper: None, ..load("a", 1, 100, 1) };
        assert_eq!(worst(&[none.clone(), none]), None);
        assert_eq!(worst(&[load("a", 1, 100, 10)]), None);
        assert_eq!(worst(&[]), None);
        assert_eq!(worst(&[load("a", 1, 9, 10), load("drained", 0, 500, 10)]), None);
    }

    #[test]
    fn the_warning_comes_once_and_goes_only_when_there_is_room() {
        let mut spare = Spare::default();
        let mut see =
            |active| spare.see("web", &[load("a", 1, active, 100), load("b", 1, 50, 100)]);
        let short = [40, 60, 60, 40, 60, 60, 60, 60, 60].map(&mut see);
        let said: Vec<_> = short.iter().map(Option::is_some).collect();
        let at_seventh = [false, false, false, false, false, false, true, false, false];
        assert_eq!(said, at_seventh, "three looks in a row, and then no more");
        let back = [49, 49, 49, 49, 40, 40, 40, 40].map(&mut see);
        assert_eq!(back[..6], [None; 6], "just below is not enough");
        assert_eq!(back[6..], [Some(Change::Enough), None]);
    }

    proptest! {
        #[test]
        fn any_numbers_are_judged_without_a_panic(
            reals in prop::collection::vec((0..=65_535_u64, any::<u32>(), any::<u32>()), 0..6),
        ) {
            let reals: Vec<_> = reals.iter()
                .map(|(w, a, u)| load("x", *w, u64::from(*a), u64::from(*u))).collect();
            if let Some(found) = worst(&reals) {
                prop_assert!(!found.text().is_empty());
            }
        }
    }
}
