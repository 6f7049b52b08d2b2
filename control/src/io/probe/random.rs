//! Randomness of the kernel: ids, cookies, authenticators.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::check::Outcome;

/// That many random bytes.
pub(super) fn bytes<const N: usize>() -> Result<[u8; N], Outcome> {
    let mut bytes = [0; N];
    // Up to 256 bytes come whole (man getrandom).
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(got) if got == N => Ok(bytes),
        Ok(_) => Err(Outcome::cannot_run("no random bytes from the kernel")),
        Err(error) => Err(Outcome::cannot_run(format!("no random bytes: {error}"))),
    }
}
