//! Short rounds, taken in turn, so that what disturbs one kind disturbs the others as much.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::clock;
use dataplane::limits::BURST;

use super::scene::{Scene, Traffic};
use crate::machine;

/// Packets of a round: well below the time slice of a scheduler, so that on a shared core most
/// rounds are whole.
const ROUND: usize = if cfg!(test) { 1024 } else { 16_384 };
/// Fewest rounds of each kind.
const ROUNDS: usize = 20;
/// Share of a round in which the thread may be without its core before the round is left out.
const WHOLE: f64 = 0.99;

/// Times of many rounds, in nanoseconds a packet.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    whole: Vec<f64>,
    broken: Vec<f64>,
}

impl Rounds {
    /// Times one round of `packets` packets.
    pub(crate) fn time(&mut self, packets: usize, work: impl FnOnce()) {
        let (cpu, from) = (machine::thread_time(), clock::now());
        work();
        let wall = clock::now().since(from).as_nanos() as f64;
        let cpu = (machine::thread_time() - cpu) as f64;
        let rounds = if cpu >= wall * WHOLE { &mut self.whole } else { &mut self.broken };
        rounds.push(wall / packets as f64);
    }

    /// Adds a time taken elsewhere.
    pub(crate) fn add(&mut self, nanos: f64) {
        self.whole.push(nanos);
    }

    /// Median of the rounds in which nobody else ran; of all, if those are too few.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The fastest tenth: what the core does between disturbances.
    pub(crate) fn best(&self) -> f64 {
        self.quantile(0.1)
    }

    /// Share of rounds in which something else ran.
    pub(crate) fn broken(&self) -> f64 {
        self.broken.len() as f64 / (self.broken.len() + self.whole.len()).max(1) as f64
    }

    fn quantile(&self, at: f64) -> f64 {
        let mut times = self.whole.clone();
        if times.len() < ROUNDS / 2 {
            times.extend(&self.broken);
        }
        times.sort_by(f64::total_cmp);
        let index = (times.len() as f64 * at) as usize;
        times.get(index).copied().unwrap_or(f64::NAN)
    }
}

/// What was measured of one case.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// Writing the packets and forwarding them.
    pub(crate) raw: Rounds,
    /// Writing them only.
    pub(crate) restore: Rounds,
    /// Bare lookups of the same connections.
    pub(crate) lookup: Rounds,
}

/// Forwards, restores and looks up in turn for `time`, `size` packets a burst.
pub(crate) fn measure(
    scene: &mut Scene,
    traffic: &Traffic,
    requests: &Traffic,
    size: usize,
    time: Duration,
) -> Times {
    let bursts = ROUND / size;
    let packets = bursts * size;
    let mut times = Times::default();
    let (mut one, mut two, mut three) = (0, 0, requests.patches.len() / 2);
    // Caches, predictors and clocks warm.
    scene.forward(traffic, &mut one, size, bursts);
    let started = clock::now();
    while clock::now().since(started) < time || times.raw.count() < ROUNDS {
        times.raw.time(packets, || scene.forward(traffic, &mut one, size, bursts));
        times.restore.time(packets, || scene.restore(traffic, &mut two, size, bursts));
        times.lookup.time(packets, || {
            std::hint::black_box(scene.look_up(requests, &mut three, size, bursts));
        });
    }
    times
}

/// The same for requests by several workers at once, each on its own core and all through the whole
/// table, so that any connection is touched by any of them: what sharing costs at worst.
pub(crate) fn measure_together(
    scenes: &mut [Scene],
    cores: &[usize],
    requests: &Traffic,
    time: Duration,
) -> Vec<Times> {
    let workers = scenes.len();
    let (barrier, go_on) = (Barrier::new(workers), AtomicBool::new(true));
    let started = clock::now();
    let work = |number: usize, scene: &mut Scene| {
        if let Some(core) = cores.get(number) {
            // One that cannot be pinned shows in its broken rounds.
            core_affinity::set_for_current(core_affinity::CoreId { id: *core });
        }
        let bursts = ROUND / BURST;
        let packets = bursts * BURST;
        let mut times = Times::default();
        let mut one = requests.patches.len() / workers * number;
        let (mut two, mut three) = (one, requests.patches.len() / 2);
        scene.forward(requests, &mut one, BURST, bursts);
        loop {
            if number == 0 {
                let enough = clock::now().since(started) >= time && times.raw.count() >= ROUNDS;
                go_on.store(!enough, Ordering::Relaxed);
            }
            barrier.wait();
            if !go_on.load(Ordering::Relaxed) {
                return times;
            }
            times.raw.time(packets, || scene.forward(requests, &mut one, BURST, bursts));
            barrier.wait();
            times.restore.time(packets, || scene.restore(requests, &mut two, BURST, bursts));
            barrier.wait();
            times.lookup.time(packets, || {
                std::hint::black_box(scene.look_up(requests, &mut three, BURST, bursts));
            });
        }
    };
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = scenes
            .iter_mut()
            .enumerate()
            .map(|(number, scene)| scope.spawn(move || work(number, scene)))
            .collect();
        let joined = threads.into_iter().map(|t| t.join());
        joined.map(|t| t.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

impl Rounds {
    fn count(&self) -> usize {
        self.whole.len() + self.broken.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_with_a_disturbance_do_not_count() {
        let mut rounds = Rounds::default();
        (0..20).for_each(|_| rounds.add(10.0));
        rounds.broken.extend([99.0; 30]);
        assert!((rounds.median() - 10.0).abs() < 1e-9);
        assert!((rounds.broken() - 0.6).abs() < 1e-9);
    }
}
