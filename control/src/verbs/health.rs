//! What operators are told of the health of reals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Health of the reals of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceHealth {
    /// Its name.
    pub service: String,
    /// So few reals are healthy that those found down are kept in service (`panic_floor`).
    pub panic: bool,
    /// Reals that get new connections.
    pub serving: usize,
    /// Its reals, in the order of the file.
    pub reals: Vec<RealHealth>,
}

/// Health of one real.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealHealth {
    /// Its name.
    pub name: String,
    /// Address and port in text form.
    pub address: String,
    /// `up`, `slow-start`, `unknown`, `cannot-check`, `down`, `drained` or `disabled`.
    pub state: String,
    /// Milliseconds since its checks came to what they say.
    pub since_ms: u64,
    /// Why; empty if there is nothing to say.
    pub reason: String,
    /// Share of its configured weight that it gets, in percent.
    pub percent: u32,
    /// Changes between up and down in the last ten minutes.
    pub flaps: usize,
    /// Its checks, in the order of the file; none if it is not checked.
    pub checks: Vec<CheckHealth>,
}

/// One check of a real.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckHealth {
    /// Kind, and whom it asks: `http 10.0.1.1:80`.
    pub check: String,
    /// What it says of the server: `up`, `down` or `unknown`.
    pub verdict: String,
    /// What the last run found: `up`, `down` or `cannot-check`; `null` before the first.
    pub outcome: Option<String>,
    /// Why, or what there is to know.
    pub reason: Option<String>,
    /// Milliseconds since the last run ended.
    pub age_ms: Option<u64>,
    /// Microseconds that it took.
    pub took_us: Option<u64>,
    /// Runs since it is configured.
    pub runs: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that could not be carried out.
    pub cannot: u64,
    /// Microseconds that all of them took together.
    pub took_total_us: u64,
}

/// Health in short, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSummary {
    /// Reals by state; states that none is in are left out.
    pub reals: BTreeMap<String, usize>,
    /// Distinct checks that are run.
    pub probes: usize,
    /// Services without a real that gets new connections.
    pub down: Vec<String>,
    /// Services below their panic floor.
    pub panic: Vec<String>,
    /// Reals that are neither up nor taken out by an operator, at most [`TROUBLES_MAX`].
    pub troubles: Vec<Trouble>,
}

/// Most troubles that `status` lists.
pub const TROUBLES_MAX: usize = 100;

/// A real that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Its service.
    pub service: String,
    /// Its name.
    pub real: String,
    /// Its state.
    pub state: String,
    /// Milliseconds since its checks came to what they say.
    pub since_ms: u64,
    /// Why.
    pub reason: String,
}
