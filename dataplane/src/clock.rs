//! Time: the only place in the data plane that reads a clock.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`; comparable between processes of one boot, and with
/// `bpf_ktime_get_boot_ns`. It goes on while the machine is suspended: a lease that was granted before
/// must not be fresh after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

/// Coarse time as stored in a connection: units of 2^26 ns (67 ms); wraps after nine years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tick(pub u32);

/// Nanoseconds of one [`Tick`], as a power of two.
pub const TICK_SHIFT: u32 = 26;

impl Instant {
    /// The start of time.
    pub const ZERO: Self = Self(0);

    /// From nanoseconds; for tests and replays.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start of time.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The tick this moment lies in.
    #[must_use]
    pub const fn tick(self) -> Tick {
        Tick((self.0 >> TICK_SHIFT) as u32)
    }

    /// This moment plus `duration`, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Tick {
    /// Ticks since `earlier`; wraps like the tick itself, and is 0 if `earlier` lies ahead (another
    /// worker read the clock a little later).
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        let elapsed = self.0.wrapping_sub(earlier.0);
        if elapsed > u32::MAX / 2 { 0 } else { elapsed }
    }

    /// Ticks in `seconds`, rounded up.
    #[must_use]
    pub const fn in_seconds(seconds: u32) -> u32 {
        ((seconds as u64 * 1_000_000_000) >> TICK_SHIFT) as u32 + 1
    }

    /// Seconds in `ticks`, rounded down.
    #[must_use]
    pub const fn to_seconds(ticks: u32) -> u64 {
        ((ticks as u64) << TICK_SHIFT) / 1_000_000_000
    }
}

/// The current time.
#[must_use]
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

/// The time of day, in nanoseconds since 1970; for people alone.
#[must_use]
pub fn unix_nanos() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_measure_seconds_and_survive_the_wrap() {
        assert_eq!(Tick(5).since(Tick(u32::MAX - 4)), 10);
        assert_eq!(Tick(5).since(Tick(6)), 0);
        assert_eq!(Tick::to_seconds(Tick::in_seconds(900)), 900);
    }
}
