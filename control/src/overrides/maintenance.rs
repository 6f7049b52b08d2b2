//! The maintenance directory, as ldirectord has it: a file named like a real server takes it out,
//! removing the file puts it back. What is in the file does not matter.

use std::collections::BTreeMap;

use super::{RealKey, resolve};
use crate::config::Config;

/// Most files looked at; a directory with more is reported and the rest is not.
pub const FILES_MAX: usize = 20_000;
/// Longest name looked at.
pub const NAME_MAX: usize = 255;

/// What the directory says, for this configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// Reals to be drained, each with the file's name.
    pub drained: BTreeMap<RealKey, String>,
    /// Files whose names are no real's: probably mistyped.
    pub odd: Vec<String>,
}

impl Maintenance {
    /// Finds the reals that `names` mean. A file means each real of that name, address, or address
    /// and port, in every service. Hidden files are left aside.
    #[must_use]
    pub fn of(names: &[String], config: &Config) -> Self {
        let mut found = Self::default();
        let mut index: BTreeMap<String, Vec<RealKey>> = BTreeMap::new();
        for candidate in resolve::candidates(config) {
            for word in candidate.words() {
                let keys = index.entry(word).or_default();
                if !keys.contains(&candidate.key) {
                    keys.push(candidate.key.clone());
                }
            }
        }
        for name in names.iter().filter(|n| !n.starts_with('.')) {
            match index.get(&resolve::normal(name)) {
                Some(keys) => {
                    found.drained.extend(keys.iter().map(|k| (k.clone(), name.clone())));
                }
                None => found.odd.push(name.clone()),
            }
        }
        found
    }
}
