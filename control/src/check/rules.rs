//! How the outcomes of its checks make a real server up or down: `health` of a service.

use std::time::Duration;

/// `health` of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How several checks are joined.
    pub require: Require,
    /// What a real counts as before its checks have said anything.
    pub start: Start,
    /// Time over which the weight of a recovered real rises to its full value; zero for at once.
    pub slow_start: Duration,
    /// Percent of the reals, 0 to 100, that stay in service whatever the checks say.
    pub panic_floor: u8,
    /// What the data plane sees of its own accord.
    pub passive: Passive,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            require: Require::All,
            start: Start::Up,
            slow_start: Duration::ZERO,
            panic_floor: 0,
            passive: Passive::default(),
        }
    }
}

/// How several checks of a real are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Require {
    /// One that is down takes the real down.
    All,
    /// One that is up keeps it up.
    Any,
}

/// What a real counts as before its checks have said anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// In service: a restart of control takes no server away.
    Up,
    /// Not in service until `rise` runs have passed.
    Down,
}

/// Evidence from the data plane: connections of clients rather than probes. Each number, reached
/// within one period of its status, counts as a failed run of every check; 0 turns it off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passive {
    /// Connections that the real did not answer.
    pub unanswered: u32,
    /// Connections that it reset.
    pub resets: u32,
}
