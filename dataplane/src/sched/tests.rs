//! What the tests of all schedulers share, and the properties that hold for all of them.

use std::time::Duration;

use super::*;

pub(super) const ALL: [Scheduler; 14] = [
    Scheduler::Rr,
    Scheduler::Wrr,
    Scheduler::Lc,
    Scheduler::Wlc,
    Scheduler::Sh,
    Scheduler::Dh,
    Scheduler::Mh,
    Scheduler::Sed,
    Scheduler::Nq,
    Scheduler::Lblc,
    Scheduler::Lblcr,
    Scheduler::Fo,
    Scheduler::Ovf,
    Scheduler::Twos,
];

/// One service with its loads.
pub(super) struct Bench {
    kind: Scheduler,
    flags: SchedulerFlags,
    targets: Vec<Target>,
    built: Built,
    loads: Loads,
    shared: Shared,
}

impl Bench {
    /// Reals 10.0.0.0, 10.0.0.1, … on port 80, of these weights.
    pub(super) fn new(kind: Scheduler, weights: &[u16]) -> Self {
        let target = |(index, &weight): (u16, &u16)| Target {
            real: RealId(index),
            address: Address::v4(0x0a00_0000 + u32::from(index)),
            port: 80,
            weight: Weight::new(weight),
            upper_threshold: None,
            lower_threshold: None,
        };
        let targets: Vec<Target> = (0..).zip(weights).map(target).collect();
        let flags = SchedulerFlags::default();
        let built = Built::build(kind, flags, &targets);
        Self { kind, flags, targets, built, loads: Loads::default(), shared: Shared::new() }
    }

    pub(super) fn flags(mut self, flags: SchedulerFlags) -> Self {
        self.flags = flags;
        self.reload(|_| {})
    }

    /// Sets the upper threshold of one real.
    pub(super) fn limited(self, index: usize, upper: u32) -> Self {
        self.reload(|targets| targets[index].upper_threshold = Some(upper))
    }

    /// What a new snapshot does.
    pub(super) fn reload(mut self, change: impl FnOnce(&mut Vec<Target>)) -> Self {
        change(&mut self.targets);
        self.built = Built::build(self.kind, self.flags, &self.targets);
        self
    }

    /// Adds connections to a real.
    pub(super) fn load(&self, real: u16, active: u32, inactive: u32) {
        let load = self.loads.of(RealId(real));
        (0..active).for_each(|_| load.opened(true));
        (0..inactive).for_each(|_| load.opened(false));
    }

    /// Ends active connections of a real.
    pub(super) fn unload(&self, real: u16, active: u32) {
        (0..active).for_each(|_| self.loads.of(RealId(real)).closed(true));
    }

    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn pick(&self) -> Option<usize> {
        self.pick_for(&request(1))
    }

    pub(super) fn pick_for(&self, request: &Request) -> Option<usize> {
        self.built.pick(request, &self.targets, &self.loads, &self.shared)
    }

    /// How often each real is picked in `picks` picks, each from another client.
    pub(super) fn counts(&self, picks: usize) -> Vec<u64> {
        let mut counts = vec![0; self.targets.len()];
        for client in 0..picks {
            counts[self.pick_for(&request(client as u32)).expect("a real is available")] += 1;
        }
        counts
    }
}

/// The first packet of a client.
pub(super) fn request(client: u32) -> Request {
    Request {
        client: Address::v4(0xc633_0000 + client),
        client_port: 40000,
        destination: Address::v4(0xc000_0201),
        destination_port: 80,
        now: Instant::ZERO.after(Duration::from_secs(1000)),
    }
}

/// A connection to one of many destinations, some seconds after the first.
pub(super) fn to(destination: u32, seconds: u64) -> Request {
    let first = request(1);
    let destination = Address::v4(0xc612_0000 + destination);
    Request { destination, now: first.now.after(Duration::from_secs(seconds)), ..first }
}

/// The choice of a fresh service whose reals have these (active, inactive) connections.
pub(super) fn pick_with(kind: Scheduler, weights: &[u16], loads: &[(u32, u32)]) -> Option<usize> {
    let bench = Bench::new(kind, weights);
    (0..).zip(loads).for_each(|(real, &(active, inactive))| bench.load(real, active, inactive));
    bench.pick()
}

/// Picks as letters.
pub(super) fn order(bench: &Bench, picks: usize) -> String {
    (0..picks).map(|_| bench.pick().map_or('-', |index| (b'A' + index as u8) as char)).collect()
}

/// A plain simulation of the kernel's weighted round robin: a current weight that goes down by the
/// common divisor each time the end of the list is passed.
pub(super) struct Kernel {
    weights: Vec<u16>,
    overloaded: Vec<bool>,
    place: usize,
    current: u16,
}

impl Kernel {
    pub(super) fn new(weights: &[u16]) -> Self {
        let current = weights.iter().copied().max().unwrap_or(0);
        Self {
            weights: weights.to_vec(),
            overloaded: vec![false; weights.len()],
            place: 0,
            current,
        }
    }

    pub(super) fn overload(&mut self, index: usize) {
        self.overloaded[index] = true;
    }

    pub(super) fn pick(&mut self) -> Option<usize> {
        let usable = |i: usize| self.weights[i] > 0 && !self.overloaded[i];
        if !(0..self.weights.len()).any(usable) {
            return None;
        }
        let divisor = self.weights.iter().copied().fold(0, gcd);
        loop {
            if self.place == self.weights.len() {
                self.place = 0;
                self.current -= divisor;
                if self.current == 0 {
                    self.current = self.weights.iter().copied().max()?;
                }
            }
            let index = self.place;
            self.place += 1;
            if self.weights[index] >= self.current && !self.overloaded[index] {
                return Some(index);
            }
        }
    }
}

#[test]
fn nobody_is_picked_when_there_is_nobody() {
    for kind in ALL {
        assert_eq!(Bench::new(kind, &[]).pick(), None, "{kind:?}");
        assert_eq!(Bench::new(kind, &[0, 0, 0]).pick(), None, "{kind:?}");
    }
}

#[test]
fn a_single_real_takes_everything() {
    for kind in ALL {
        let bench = Bench::new(kind, &[1]);
        assert_eq!(bench.counts(100), [100], "{kind:?}");
    }
}

#[test]
fn a_drained_real_takes_nothing_and_refuses_nobody() {
    for kind in ALL {
        let counts = Bench::new(kind, &[3, 0, 2]).counts(1000);
        assert_eq!((counts[1], counts[0] + counts[2]), (0, 1000), "{kind:?}");
    }
}

#[test]
fn a_real_over_its_threshold_takes_nothing_until_it_is_below_the_lower_one() {
    let flags = SchedulerFlags { port: false, fallback: true };
    for kind in ALL.into_iter().filter(|&kind| kind != Scheduler::Dh) {
        let bench = Bench::new(kind, &[50, 50]).flags(flags).limited(0, 8);
        bench.load(1, 20, 0);
        bench.load(0, 8, 0);
        assert_eq!(bench.counts(200), [0, 200], "{kind:?}");
        bench.unload(0, 2);
        assert_eq!(bench.counts(200), [0, 200], "{kind:?}: 6 is not below 6");
        bench.unload(0, 1);
        let fresh = Bench { shared: Shared::new(), ..bench };
        assert!(fresh.counts(200)[0] > 0, "{kind:?}");
    }
}

#[test]
fn all_over_their_thresholds_is_nobody() {
    let flags = SchedulerFlags { port: false, fallback: true };
    for kind in ALL {
        let bench = Bench::new(kind, &[2, 3]).flags(flags).limited(0, 1).limited(1, 1);
        bench.load(0, 1, 0);
        bench.load(1, 0, 1);
        assert_eq!(bench.pick(), None, "{kind:?}");
    }
}

#[test]
fn four_workers_share_a_round_robin_exactly() {
    for (kind, weights, share) in [
        (Scheduler::Rr, [4, 3, 2], [12000, 12000, 12000]),
        (Scheduler::Wrr, [4, 3, 2], [16000, 12000, 8000]),
    ] {
        let bench = Bench::new(kind, &weights);
        let counts = in_threads(&bench, 9000);
        assert_eq!(counts, share, "{kind:?}");
    }
}

#[test]
fn four_workers_share_around_an_overloaded_real() {
    for (kind, weights, share) in [
        (Scheduler::Rr, [4, 3, 2], [18000, 0, 18000]),
        (Scheduler::Wrr, [4, 3, 2], [24000, 0, 12000]),
    ] {
        let bench = Bench::new(kind, &weights).limited(1, 1);
        bench.load(1, 1, 0);
        // Who finds the overloaded one tries again, and another worker may have had the turn between:
        // not exact to the last one, as it is without.
        let counts = in_threads(&bench, 9000);
        let near = |(count, share): (&u64, &u64)| count.abs_diff(*share) <= share / 500;
        assert!(counts.iter().zip(&share).all(near), "{kind:?}: {counts:?}");
        assert_eq!(counts.iter().sum::<u64>(), 36_000, "{kind:?}");
    }
}

/// Picks of four threads at once.
fn in_threads(bench: &Bench, picks: usize) -> Vec<u64> {
    let counts: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.counts(picks))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    (0..bench.targets.len()).map(|index| counts.iter().map(|c| c[index]).sum()).collect()
}

#[test]
fn a_reload_that_removes_a_real_never_picks_it_again() {
    for kind in ALL {
        let bench = Bench::new(kind, &[5, 4, 3, 2]);
        let gone = bench.pick().map(|index| bench.targets[index].real).unwrap();
        let bench = bench.reload(|targets| targets.retain(|target| target.real != gone));
        for client in 0..500 {
            let index = bench.pick_for(&request(client)).unwrap();
            assert_ne!(bench.targets[index].real, gone, "{kind:?}");
        }
    }
}

#[test]
fn targets_of_another_build_never_panic() {
    for kind in ALL {
        let bench = Bench::new(kind, &[7, 5, 3, 2, 1]);
        for len in 0..=bench.targets.len() {
            let picked =
                bench.built.pick(&request(3), &bench.targets[..len], &bench.loads, &bench.shared);
            assert!(picked.is_none_or(|index| index < len), "{kind:?}");
        }
    }
}

#[test]
fn workers_that_fight_over_one_cache_pick_only_what_is_available() {
    for kind in [Scheduler::Lblc, Scheduler::Lblcr] {
        let bench = Bench::new(kind, &[1, 1, 1, 0, 1]).limited(2, 1);
        bench.load(2, 1, 0);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let bench = &bench;
                scope.spawn(move || {
                    for number in 0..20_000 {
                        let index = bench.pick_for(&to(number % 3000, 0)).unwrap();
                        assert!(![2, 3].contains(&index), "{kind:?}");
                        if number % 64 == worker {
                            bench.load(index as u16, 1, 0);
                        } else if number % 64 == worker + 32 {
                            bench.unload(index as u16, 1);
                        }
                    }
                });
            }
        });
    }
}
