//! What the data plane is told to do, from what the operator wants. Pure.
//!
//! The only writer of weights: whatever keeps a real from new connections (an operator's drain, a
//! failed check, a slow start) is decided here and nowhere else.

use dataplane_api::service::{Group, Real, Scheduler, Snapshot, Templates, Weight};

use crate::config::{Config, Entry};
use crate::health::{Health, State, Verdict, serves};
use crate::overrides::{Effect, Overrides, RealKey};

/// Parts that a weight is divided into where a real has a share of its weight.
const PARTS: u32 = 100;

/// The snapshot, and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The whole desired state of the data plane.
    pub snapshot: Snapshot,
    /// For each of its services, in their order.
    pub services: Vec<ServicePlan>,
}

/// How a service stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// Its name.
    pub name: String,
    /// So few reals are healthy that those found down are kept in service.
    pub panic: bool,
    /// Reals that get new connections.
    pub serving: usize,
    /// Each of its reals, in their order.
    pub reals: Vec<RealPlan>,
}

/// How a real stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealPlan {
    /// What people are shown.
    pub state: State,
    /// Share of its configured weight that it gets, in percent.
    pub percent: u32,
}

/// Plans for `config`. A real of which `health` knows nothing (it belongs to a configuration that
/// is not in force yet) begins as its service says.
#[must_use]
pub fn plan(config: &Config, health: &Health, overrides: &Overrides) -> Plan {
    let mut snapshot = Snapshot {
        engine: config.engine.clone(),
        interfaces: config.interfaces.clone(),
        timeouts: config.timeouts,
        local: config.local.clone(),
        reply: config.reply,
        services: config.services.iter().map(|entry| entry.service.clone()).collect(),
        groups: groups(config),
    };
    let services = snapshot.services.iter_mut().zip(&config.services);
    let services = services
        .map(|(service, entry)| {
            let facts: Vec<_> =
                (0..service.reals.len()).map(|n| Fact::of(entry, n, health, overrides)).collect();
            let panic = panics(entry.health.panic_floor, &facts);
            let parts = parts(service.scheduler, &facts, panic);
            for (real, fact) in service.reals.iter_mut().zip(&facts) {
                fact.weigh(real, panic, parts);
            }
            let serving = service.reals.iter().filter(|r| r.weight != Weight::DRAINED).count();
            let reals = facts.iter().map(|f| f.shown(panic)).collect();
            ServicePlan { name: service.name.clone(), panic, serving, reals }
        })
        .collect();
    Plan { snapshot, services }
}

/// What each of the two nodes may own. One node alone owns everything, by one lease.
fn groups(config: &Config) -> Vec<Group> {
    let settings = config.ha.iter().flat_map(|ha| &ha.groups);
    settings
        .map(|g| Group {
            name: g.name.clone(),
            addresses: g.addresses.clone(),
            gateways: g.gateways.clone(),
        })
        .collect()
}

/// What is known of a real.
struct Fact {
    effect: Effect,
    weight: Weight,
    state: State,
    verdict: Verdict,
    serves: bool,
    percent: u32,
}

impl Fact {
    fn of(entry: &Entry, index: usize, health: &Health, overrides: &Overrides) -> Self {
        let real = &entry.service.reals[index];
        let key = RealKey::new(&entry.service.name, real);
        let effect = overrides.of(&key);
        let weight = effect.weight.unwrap_or(real.weight);
        if let Some(known) = health.real(&key) {
            let (serves, percent) = (known.serves(), known.percent());
            let (state, verdict) = (known.state(), known.verdict());
            return Self { effect, weight, state, verdict, serves, percent };
        }
        let checked = entry.checks.get(index).is_some_and(|c| !c.is_empty());
        let (state, verdict) =
            if checked { (State::Unknown, Verdict::Unknown) } else { (State::Up, Verdict::Up) };
        let serves = serves(verdict, entry.health.start);
        Self { effect, weight, state, verdict, serves, percent: 100 }
    }

    /// Whether the operator means it to serve.
    const fn meant(&self) -> bool {
        self.weight.get() > 0 && !self.effect.drained && !self.effect.disabled
    }

    /// Share of its weight, in percent.
    const fn share(&self, panic: bool) -> u32 {
        match (self.serves, panic) {
            (true, _) => self.percent,
            (false, true) => 100,
            (false, false) => 0,
        }
    }

    /// Writes what the data plane is told of it.
    fn weigh(&self, real: &mut Real, panic: bool, parts: u32) {
        let share = if self.meant() { self.share(panic) } else { 0 };
        // Rounded up: a share of a small weight is still one.
        let weight = (u32::from(self.weight.get()) * share * parts).div_ceil(100);
        real.weight = Weight::new(u16::try_from(weight).unwrap_or(u16::MAX));
        let dead = self.verdict == Verdict::Down && !panic;
        real.down = self.effect.disabled || dead;
        if self.effect.drained && !self.effect.move_persistent {
            real.templates = Templates::Honour;
        }
    }

    const fn shown(&self, panic: bool) -> RealPlan {
        let state = if self.effect.disabled {
            State::Disabled
        } else if self.effect.drained {
            State::Drained
        } else {
            self.state
        };
        let percent = if self.meant() { self.share(panic) } else { 0 };
        RealPlan { state, percent }
    }
}

/// Whether removing what is down would leave fewer than the floor. Only what is known counts: a
/// start is no panic.
fn panics(floor: u8, facts: &[Fact]) -> bool {
    let meant: Vec<_> = facts.iter().filter(|f| f.meant()).collect();
    let healthy = meant.iter().filter(|f| f.serves).count();
    let known = meant.iter().all(|f| f.verdict != Verdict::Unknown);
    known && healthy < meant.len() && healthy * 100 < usize::from(floor) * meant.len()
}

/// What weights are multiplied by, so that a tenth of 1 can be told from 1. Not for schedulers that
/// take a weight for more than a share: then it is rounded up.
fn parts(scheduler: Scheduler, facts: &[Fact], panic: bool) -> u32 {
    let divided = facts.iter().any(|f| f.meant() && !matches!(f.share(panic), 0 | 100));
    let largest = facts.iter().map(|f| u32::from(f.weight.get())).max().unwrap_or(1).max(1);
    if !divided || matches!(scheduler, Scheduler::Fo | Scheduler::Ovf) {
        return 1;
    }
    (u32::from(u16::MAX) / largest).clamp(1, PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::overrides::{Held, Standing};
    use crate::time::Instant;

    fn held<T>(value: T) -> Option<Held<T>> {
        Some(Held { value, since_ms: 0, until_ms: None, uid: 0 })
    }

    fn both(text: &str) -> (Config, Health) {
        let text = format!("[[interface]]\nname = \"eth0\"\n{text}");
        let config = config::parse(&text, "x").unwrap_or_else(|e| panic!("{e}"));
        let mut health = Health::default();
        health.configure(&config, Instant::default());
        (config, health)
    }

    #[test]
    fn the_snapshot_says_what_the_file_says_and_survives_the_wire() {
        let (config, health) = both(
            r#"
            [timeouts]
            established = "1h"
            [[service]]
            name = "web"
            listen = ["192.0.2.10:80", "192.0.2.10:443"]
            timeouts = { close = 5 }
            real = [{ address = "10.0.1.1:8080", weight = 4 }, { name = "b", address = "10.0.1.2" }]
        "#,
        );
        let snapshot = plan(&config, &health, &Overrides::default()).snapshot;
        let service = &snapshot.services[0];
        let weights: Vec<_> = service.reals.iter().map(|r| r.weight.get()).collect();
        assert_eq!(weights, [4, 1]);
        assert_eq!(service.reals[0].name, "10.0.1.1:8080");
        assert_eq!(service.reals[1].port, None);
        let timeouts = service.timeouts.unwrap();
        assert_eq!((timeouts.close, timeouts.established), (5, 3600), "unset ones are the file's");
        let json = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
    }

    #[test]
    fn what_an_operator_decides_goes_before_what_the_file_says() {
        let (config, health) = both(
            "[[service]]\nname = \"web\"\nlisten = \"192.0.2.10:80\"\n\
             real = [{ address = \"10.0.0.1:80\" }, { address = \"10.0.0.2:80\" },\
             { address = \"10.0.0.3:80\" }, { address = \"10.0.0.4:80\", weight = 0 }]\n",
        );
        let keys = config.services[0].service.reals.iter();
        let keys: Vec<_> = keys.map(|r| RealKey::new("web", r)).collect();
        let mut overrides = Overrides::default();
        let drained = Standing::Drained { move_persistent: false, deadline: None };
        overrides.stand(&keys[0], "a", held(drained));
        overrides.stand(&keys[1], "b", held(Standing::Disabled));
        overrides.weigh(&keys[2], "c", held(7));
        overrides.weigh(&keys[3], "d", held(2));
        let plan = plan(&config, &health, &overrides);
        let reals = &plan.snapshot.services[0].reals;
        let told: Vec<_> = reals.iter().map(|r| (r.weight.get(), r.down, r.templates)).collect();
        let usual = Templates::default();
        let all =
            [(0, false, Templates::Honour), (0, true, usual), (7, false, usual), (2, false, usual)];
        assert_eq!(told, all);
        let states: Vec<_> = plan.services[0].reals.iter().map(|r| r.state.name()).collect();
        assert_eq!(states, ["drained", "disabled", "up", "up"]);
        assert_eq!(plan.services[0].serving, 2);
    }
}
