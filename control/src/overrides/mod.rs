//! What operators have decided about single real servers, over the head of the configuration file:
//! drained, disabled, another weight. Pure; times are wall-clock milliseconds since 1970, because
//! an override outlives the process.
//!
//! An override belongs to a real by its identity (service, address, port), never by its position,
//! so that it survives every reload, and a real that is taken out of the file and comes back finds
//! its own. Files of the maintenance directory are kept apart: they hold as long as they exist.
//! [`Overrides::of`] is what [`crate::plan`] asks.

mod file;
mod maintenance;
mod progress;
mod resolve;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use dataplane_api::service::{Real, Weight};
use serde::{Deserialize, Serialize};

pub use file::{FILE_MAX, decode, encode};
pub use maintenance::{FILES_MAX, Maintenance, NAME_MAX};
pub use progress::Progress;
pub use resolve::{Candidate, Unresolved, resolve};

/// Most overrides at a time: each real there can be, and as many that have left the file.
pub const OVERRIDES_MAX: usize = 2 * crate::config::REALS_MAX;

/// A real of a service, whatever its name and position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealKey {
    /// Name of the service.
    pub service: String,
    /// Address of the real.
    pub address: IpAddr,
    /// Its port; `None` where the client's port is kept.
    pub port: Option<u16>,
}

impl RealKey {
    /// The identity of `real` in `service`.
    #[must_use]
    pub fn new(service: &str, real: &Real) -> Self {
        Self { service: service.to_owned(), address: real.address, port: real.port }
    }

    /// Address and port as the data plane and people write them.
    #[must_use]
    pub fn text(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        }
    }
}

/// What happens at the deadline of a drain to the connections that are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// They stay; the deadline is only said.
    #[default]
    Keep,
    /// They are ended: TCP with a reset to both sides, UDP forgotten.
    Reset,
}

/// The end of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadline {
    /// When.
    pub at_ms: u64,
    /// What then.
    pub then: Then,
    /// Whether it has passed and been acted upon.
    pub done: bool,
    /// Whether it has passed and this process acts upon it; a restart has to begin again.
    #[serde(skip)]
    pub begun: bool,
}

/// How a real stands, if not as the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Standing {
    /// No new connections; the ones it has go on.
    Drained {
        /// Clients bound to it by persistence go elsewhere with their next connection. Otherwise
        /// they keep coming until their binding ends.
        move_persistent: bool,
        /// When this is to be over.
        deadline: Option<Deadline>,
    },
    /// Out of service, and treated as a dead one: what its service does with the connections of a
    /// dead real server is done with these.
    Disabled,
}

/// One decision, since when and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held<T> {
    /// The decision.
    pub value: T,
    /// Since when.
    pub since_ms: u64,
    /// Until when; for good if absent.
    pub until_ms: Option<u64>,
    /// User id of who decided.
    pub uid: u32,
}

/// Everything that is decided about one real.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Its name when it was decided; for people.
    pub name: String,
    /// Drained or disabled.
    pub standing: Option<Held<Standing>>,
    /// Instead of the weight in the file.
    pub weight: Option<Held<u16>>,
}

/// What [`crate::plan`] makes of a real, if it is healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Gets no new connection.
    pub drained: bool,
    /// Persistence does not bring new ones either; only with `drained`.
    pub move_persistent: bool,
    /// Counts as dead, whatever its checks say.
    pub disabled: bool,
    /// Weight instead of the file's.
    pub weight: Option<Weight>,
}

/// Something that became due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// An override has run out: the file counts again.
    Expired {
        /// Whose.
        key: RealKey,
        /// Its name.
        name: String,
        /// Which: `drain`, `disable` or `weight`.
        what: &'static str,
    },
    /// The deadline of a drain has come.
    Deadline {
        /// Whose.
        key: RealKey,
        /// Its name.
        name: String,
        /// What is to be done.
        then: Then,
    },
}

/// All decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    reals: BTreeMap<RealKey, Override>,
    /// Drained by files of the maintenance directory, and the name of the file.
    files: BTreeMap<RealKey, String>,
}

impl Overrides {
    /// What is decided about a real.
    #[must_use]
    pub fn of(&self, key: &RealKey) -> Effect {
        let mut effect = Effect { drained: self.files.contains_key(key), ..Effect::default() };
        let Some(found) = self.reals.get(key) else { return effect };
        match found.standing.map(|s| s.value) {
            Some(Standing::Drained { move_persistent, .. }) => {
                (effect.drained, effect.move_persistent) = (true, move_persistent);
            }
            Some(Standing::Disabled) => effect.disabled = true,
            None => {}
        }
        effect.weight = found.weight.map(|w| Weight::new(w.value));
        effect
    }

    /// The operators' overrides, by identity.
    pub fn iter(&self) -> impl Iterator<Item = (&RealKey, &Override)> {
        self.reals.iter()
    }

    /// One override.
    #[must_use]
    pub fn get(&self, key: &RealKey) -> Option<&Override> {
        self.reals.get(key)
    }

    /// Reals drained by files of the maintenance directory, each with the file's name.
    #[must_use]
    pub const fn files(&self) -> &BTreeMap<RealKey, String> {
        &self.files
    }

    /// Replaces what the files of the maintenance directory say; whether anything changed.
    pub fn set_files(&mut self, files: BTreeMap<RealKey, String>) -> bool {
        let changed = self.files != files;
        self.files = files;
        changed
    }

    /// Whether there is no room for an override of `key`.
    #[must_use]
    pub fn is_full(&self, key: &RealKey) -> bool {
        self.reals.len() >= OVERRIDES_MAX && !self.reals.contains_key(key)
    }

    /// Sets or, with `None`, takes back drain or disablement.
    pub fn stand(&mut self, key: &RealKey, name: &str, standing: Option<Held<Standing>>) {
        self.change(key, name, |o| o.standing = standing);
    }

    /// Sets or, with `None`, takes back a weight.
    pub fn weigh(&mut self, key: &RealKey, name: &str, weight: Option<Held<u16>>) {
        self.change(key, name, |o| o.weight = weight);
    }

    fn change(&mut self, key: &RealKey, name: &str, change: impl FnOnce(&mut Override)) {
        if self.is_full(key) {
            return;
        }
        let entry = self.reals.entry(key.clone()).or_default();
        name.clone_into(&mut entry.name);
        change(entry);
        if entry.standing.is_none() && entry.weight.is_none() {
            self.reals.remove(key);
        }
    }

    /// When [`Overrides::due`] has something next.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        let untils = |o: &Override| {
            let deadline = o.standing.as_ref().and_then(|s| open_deadline(&s.value));
            let standing = o.standing.and_then(|s| s.until_ms);
            let weight = o.weight.and_then(|w| w.until_ms);
            [deadline.map(|d| d.at_ms), standing, weight].into_iter().flatten().min()
        };
        self.reals.values().filter_map(untils).min()
    }

    /// The deadline of this real's drain has been acted upon.
    pub fn deadline_done(&mut self, key: &RealKey) {
        let standing = self.reals.get_mut(key).and_then(|o| o.standing.as_mut());
        if let Some(Held { value: Standing::Drained { deadline: Some(deadline), .. }, .. }) =
            standing
        {
            deadline.done = true;
        }
    }

    /// Ends what has run out by `now_ms` and says which deadlines have come: each once, and once
    /// more after a restart if [`Overrides::deadline_done`] was not saved before.
    pub fn due(&mut self, now_ms: u64) -> Vec<Due> {
        let mut due = Vec::new();
        for (key, entry) in &mut self.reals {
            let name = entry.name.clone();
            if let Some(held) = &mut entry.standing {
                if let Some(then) = pass_deadline(&mut held.value, now_ms) {
                    due.push(Due::Deadline { key: key.clone(), name: name.clone(), then });
                }
                if held.until_ms.is_some_and(|until| until <= now_ms) {
                    let what = standing_word(&held.value);
                    due.push(Due::Expired { key: key.clone(), name: name.clone(), what });
                    entry.standing = None;
                }
            }
            if entry.weight.and_then(|w| w.until_ms).is_some_and(|until| until <= now_ms) {
                due.push(Due::Expired { key: key.clone(), name, what: "weight" });
                entry.weight = None;
            }
        }
        self.reals.retain(|_, o| o.standing.is_some() || o.weight.is_some());
        due
    }
}

/// `drain` or `disable`.
const fn standing_word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Drained { .. } => "drain",
        Standing::Disabled => "disable",
    }
}

fn open_deadline(standing: &Standing) -> Option<Deadline> {
    match standing {
        Standing::Drained { deadline, .. } => deadline.filter(|d| !d.done && !d.begun),
        Standing::Disabled => None,
    }
}

fn pass_deadline(standing: &mut Standing, now_ms: u64) -> Option<Then> {
    let Standing::Drained { deadline: Some(deadline), .. } = standing else { return None };
    if deadline.done || deadline.begun || deadline.at_ms > now_ms {
        return None;
    }
    deadline.begun = true;
    Some(deadline.then)
}

#[cfg(test)]
mod tests;
