//! Room for file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::probe::prober::RUNS_MAX;
use super::socket::CLIENTS_MAX;
use super::sorry;

/// File descriptors wanted: clients, those being turned away, and our own.
pub(super) const OWN: u64 = 4 * CLIENTS_MAX as u64 + sorry::DESCRIPTORS;
/// And those of the checks: a run may need two.
const CHECK_DESCRIPTORS: u64 = 2 * RUNS_MAX as u64;

/// As many as clients and checks can take, so that neither can keep us from the data plane or from
/// our file. How many there are then.
pub(super) fn raise() -> std::io::Result<u64> {
    const WANTED: u64 = OWN + CHECK_DESCRIPTORS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= WANTED) {
        return Ok(current.unwrap_or(u64::MAX));
    }
    let hard = maximum.map_or(WANTED, |maximum| maximum.max(WANTED));
    let raised = Rlimit { current: Some(WANTED), maximum: Some(hard) };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(WANTED);
    }
    // Without the right to lift the hard limit: as far as that allows.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}
