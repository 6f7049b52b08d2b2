//! The programs of one data phase, and the threads that run them.
//!
//! [`Run::new`], [`Run::go`] and the drop happen on one thread, in the namespace of the interfaces;
//! `go` starts a thread on each core for the packets. The pace is open-loop: each packet is stamped
//! with the time it was due. After a stall the waiting packets are sent at [`CATCH_UP`] times the
//! pace, so that a generator that was held up does not overrun the receiver by a burst; their
//! latency shows the delay.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use dataplane::clock;

use crate::bpf::data::{Data, Transmitter};
use crate::bpf::image::{Image, Traffic};
use crate::bpf::layout::{State, Tally, WAYS};

/// How much faster than the pace the packets are sent that have waited.
pub const CATCH_UP: f64 = 1.25;
/// Packets that may leave at once in spite of it.
const BURST: f64 = 64.0;
/// Time from the start of a run to its first packet.
pub(crate) const LEAD: Duration = Duration::from_millis(10);
/// How often the calling thread looks at a running phase.
const LOOK: Duration = Duration::from_millis(10);
/// How long the kernel is left to itself, and so about how late an end is noticed.
const STRETCH: Duration = Duration::from_millis(20);
/// Most runs of the program in one call.
const RUNS_MAX: u32 = 1 << 22;

/// How fast and how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Packets a second, both ways together.
    pub pps: f64,
    /// Length.
    pub duration: Duration,
    /// Frames handed to the kernel at once, at most.
    pub batch: u32,
}

/// How far a data phase is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Packets made in each way.
    pub sent: [u64; WAYS],
    /// Those that the interface took.
    pub accepted: [u64; WAYS],
    /// Those that it refused: the ring of its peer was full, or it was down.
    pub refused: [u64; WAYS],
    /// Packets that will be due until the end and were not made, both ways.
    pub unsent: u64,
    /// When the next packet is due, nanoseconds of `CLOCK_BOOTTIME`.
    pub due: u64,
    /// Highest sequence number in use.
    pub highest: u32,
}

/// A data phase, ready to start.
pub struct Run {
    parts: Vec<(Data, Transmitter)>,
    first: [u32; WAYS],
}

impl Run {
    /// Loads and attaches everything, for one part of the flows on each of `cores` cores.
    ///
    /// # Errors
    /// If the kernel cannot do it, or the traffic is such that this engine cannot.
    pub fn new(traffic: &Traffic<'_>, cores: usize) -> anyhow::Result<Self> {
        let parts = (0..cores.max(1)).map(|part| {
            let image = Image::new(traffic, part, cores.max(1))?;
            let data = Data::new(&image.setup())?;
            let transmitter = data.transmitter(image.frame)?;
            anyhow::Ok((data, transmitter))
        });
        Ok(Self { parts: parts.collect::<anyhow::Result<_>>()?, first: [traffic.base + 1; WAYS] })
    }

    /// The programs, those of the first part; for trials.
    #[must_use]
    pub fn data(&self) -> &Data {
        &self.parts[0].0
    }

    /// Sets first due time and end (nanoseconds) without sending anything, no interval; for trials.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn arm(&self, due: u64, end: u64) -> anyhow::Result<()> {
        let state = State { due, end, sequence: self.first, ..State::default() };
        self.parts[0].1.start(&state)
    }

    /// Sends on `cores` until the time is over or `stop` is set. `look` is called every 10 ms.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn go(
        &self,
        pace: &Pace,
        cores: &[usize],
        stop: &AtomicBool,
        mut look: impl FnMut(),
    ) -> anyhow::Result<()> {
        let start = clock::now().nanos() + LEAD.as_nanos() as u64;
        let end = start + pace.duration.as_nanos() as u64;
        let interval = 1e9 * self.parts.len() as f64 / pace.pps;
        let state = |part: usize| State {
            due: start + (interval * part as f64 / self.parts.len() as f64) as u64,
            end,
            interval: interval as u64,
            interval_fraction: (interval.fract() * 2_f64.powi(32)) as u32,
            spacing: (interval / CATCH_UP) as u64,
            burst: (interval / CATCH_UP * BURST) as u64,
            sequence: self.first,
            ..State::default()
        };
        std::thread::scope(|scope| {
            let workers = self.parts.iter().enumerate().map(|(part, (_, transmitter))| {
                let (state, core) = (state(part), cores.get(part).copied());
                scope.spawn(move || {
                    if let Some(core) = core {
                        core_affinity::set_for_current(core_affinity::CoreId { id: core });
                    }
                    transmit(transmitter, &state, pace, stop)
                })
            });
            let workers: Vec<_> = workers.collect();
            while !workers.iter().all(|worker| worker.is_finished()) {
                std::thread::park_timeout(LOOK);
                look();
            }
            for worker in workers {
                worker.join().ok().context("a generating thread has panicked")??;
            }
            Ok(())
        })
    }

    /// Where the frames of each way go from now on.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn send_to(&self, macs: [[u8; 6]; WAYS]) -> anyhow::Result<()> {
        self.parts.iter().try_for_each(|(data, _)| data.send_to(macs))
    }

    /// How far all parts are.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn progress(&self) -> anyhow::Result<Progress> {
        let mut progress = Progress::default();
        for (data, _) in &self.parts {
            let state = data.state()?;
            let interval =
                state.interval as f64 + f64::from(state.interval_fraction) / 2_f64.powi(32);
            let unsent = state.end.saturating_sub(state.due) as f64 / interval.max(1.0);
            progress.unsent += unsent as u64;
            progress.due = progress.due.max(state.due);
            progress.highest = progress.highest.max(state.sequence[0]).max(state.sequence[1]);
            for way in 0..WAYS {
                progress.sent[way] += state.sent[way];
                progress.accepted[way] += state.accepted[way];
                progress.refused[way] += state.refused[way];
            }
        }
        Ok(progress)
    }

    /// What was received in one way so far.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn tally(&self, way: usize) -> anyhow::Result<Box<Tally>> {
        self.parts[0].0.tally(way)
    }
}

/// One thread's part.
fn transmit(
    transmitter: &Transmitter,
    state: &State,
    pace: &Pace,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    transmitter.start(state)?;
    let mut runs = pace.batch * 64;
    while !stop.load(Relaxed) {
        let before = clock::now();
        if before.nanos() >= state.end {
            break;
        }
        transmitter.run(runs, pace.batch)?;
        let took = clock::now().since(before);
        if took < STRETCH / 2 {
            runs = (runs * 2).min(RUNS_MAX);
        } else if took > STRETCH * 2 && runs > pace.batch * 16 {
            runs /= 2;
        }
    }
    Ok(())
}
