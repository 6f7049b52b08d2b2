//! Generated packets: xvip against NAT in the kernel, under the same generator at the same pace.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use dataplane_api::service::Poll;
use pktgen::report::{Latency, Limit, Trial};

use super::figures::Figure;
use super::nftables;
use super::offloads;
use super::system::System;
use super::{ATTEMPTS, Options, Sheet};
use crate::lab::generator::Traffic;
use crate::lab::{BACK, FRONT, Lab, Links, say};

/// Real servers.
const REALS: u16 = 16;
/// The generator's core, and the balancer's.
const GENERATOR_CORES: [usize; 1] = [0];
const DEVICE_CORES: [usize; 1] = [1];

/// A system with the cores that may do its work.
#[derive(Clone, Debug)]
struct Candidate {
    system: System,
    /// What the table calls it, beyond its name.
    suffix: &'static str,
    /// Cores of its kernel's work.
    cores: &'static [usize],
}

impl Candidate {
    fn name(&self) -> String {
        format!("{}{}", self.system.name(), self.suffix)
    }
}

/// What the generator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Workload {
    /// As many 64-byte packets as come through, of those that 1 Gbit/s holds.
    Small,
    /// 512-byte packets at 1 Gbit/s.
    Middle,
    /// 64-byte packets at a modest pace: latency and processor time.
    Modest,
    /// New connections.
    Open,
}

impl Workload {
    const ALL: [Self; 4] = [Self::Small, Self::Middle, Self::Modest, Self::Open];

    fn words(self, connections: u32) -> String {
        let held = format!("{connections} TCP connections held");
        match self {
            Self::Small => format!("64-byte packets, 1.488 Mpps offered, {held}"),
            Self::Middle => format!("512-byte packets, 235 kpps (1 Gbit/s) offered, {held}"),
            Self::Modest => format!("64-byte packets, 200 kpps offered, {held}"),
            Self::Open => "new TCP connections, more and more of them a second".into(),
        }
    }

    fn traffic(self, options: &Options) -> Traffic {
        let (size, rate) = match self {
            Self::Small => ("64", "1gbit"),
            Self::Middle => ("512", "1gbit"),
            Self::Modest | Self::Open => ("64", "200kpps"),
        };
        let (verb, more) = match self {
            Self::Open => ("cps", ["--from", "10000", "--to", "200000"].map(String::from).to_vec()),
            _ => ("load", Vec::new()),
        };
        Traffic {
            verb,
            connections: options.connections,
            reals: REALS,
            size: size.into(),
            rate: rate.into(),
            seconds: f64::from(options.seconds),
            // What any of them can open without loss.
            open_rate: 50_000,
            engine: options.engine,
            cores: GENERATOR_CORES.to_vec(),
            max_loss: 0.999,
            more,
            ..Traffic::default()
        }
    }

    fn figures(
        self,
        trials: &[Trial],
        options: &Options,
        needed: Option<f64>,
    ) -> anyhow::Result<Vec<Figure>> {
        let head = self.words(options.connections);
        let more = |unit: &str, value: f64| Figure::new(&head, unit, true, value);
        let less = |unit: &str, value: f64| Figure::new(&head, unit, false, value);
        if self == Self::Open {
            // Opened, used both ways and closed: in the step that had most of them.
            let best = trials.iter().map(|t| t.connections.opened_per_second).fold(0.0, f64::max);
            return Ok(vec![more("connections/s", best)]);
        }
        let trial = trials.first().context("the generator reports no trial")?;
        let ways = [&trial.requests, &trial.replies];
        let received: f64 = ways.iter().map(|w| w.received_pps).sum();
        let (sent, lost) = ways.iter().fold((0, 0), |(s, l), w| (s + w.sent, l + w.lost));
        let mut found = vec![
            more("packets/s", received),
            less("% of packets lost", 100.0 * lost as f64 / sent.max(1) as f64),
        ];
        if self != Self::Small {
            let p99 = |l: &Option<Latency>| l.map(|l| l.p99 as f64 / 1e3);
            let p50 = |l: &Option<Latency>| l.map(|l| l.p50 as f64 / 1e3);
            found.extend(p50(&trial.requests.latency).map(|v| less("µs (median)", v)));
            found.extend(p99(&trial.requests.latency).map(|v| less("µs (99th percentile)", v)));
        }
        let packets = (received * trial.seconds).max(1.0);
        let device = trial.cores.iter().find(|c| DEVICE_CORES.contains(&(c.core as usize)));
        let burnt = device.map(|core| core.busy * trial.seconds * 1e9 / packets);
        let ns = needed.or(burnt);
        found.extend(ns.map(|ns| less("ns of the balancer's core for a packet", ns)));
        Ok(found)
    }
}

/// Runs all of it.
///
/// # Errors
/// If something cannot be set up or measured.
pub(super) fn run(options: &Options, sheet: &mut Sheet) -> anyhow::Result<()> {
    let lab = Lab::alone(Links::default())?;
    let candidates = candidates(&lab, options, sheet)?;
    for round in 1..=options.rounds {
        for candidate in &candidates {
            say(&format!("packets, round {round} of {}: {}", options.rounds, candidate.name()));
            one(&lab, options, sheet, candidate).with_context(|| candidate.name())?;
        }
    }
    Ok(())
}

fn candidates(lab: &Lab, options: &Options, sheet: &mut Sheet) -> anyhow::Result<Vec<Candidate>> {
    let ours = Candidate { system: System::Xvip(Poll::Busy), suffix: "", cores: &DEVICE_CORES };
    let mut candidates = vec![ours];
    nftables::room_for(options.connections)?;
    let plain = System::Nftables { flowtable: false };
    let both: &'static [usize] = &[0, 1];
    let kernel = |system, suffix, cores| Candidate { system, suffix, cores };
    candidates.push(kernel(plain, ", one core", &DEVICE_CORES));
    candidates.push(kernel(plain, ", both cores", both));
    match nftables::flowtable_missing(lab)? {
        None => {
            let fast = System::Nftables { flowtable: true };
            candidates.push(kernel(fast, ", one core", &DEVICE_CORES));
            candidates.push(kernel(fast, ", both cores", both));
        }
        Some(words) => sheet.note(format!(
            "nftables with a flow table could not be measured: this kernel has none \
             (CONFIG_NF_FLOW_TABLE), it says: {words}"
        )),
    }
    sheet.note(if Path::new("/proc/net/ip_vs").exists() {
        "IPVS, which this kernel has, is not among the peers: it could not be tried where this program was made"
    } else {
        "IPVS is not among the peers: this kernel has none (CONFIG_IP_VS)"
    });
    sheet.note(
        "nftables: conntrack has room for at least twice the connections; tcp_be_liberal is on, because \
         generated TCP has no true windows; checksums are not verified; GRO and segmentation offload on",
    );
    sheet.note(
        "time for a packet: of xvip the worker's, turns of its loop that found nothing left out (it takes \
         frames in on the sender's core); of nftables all that its core did (on both cores: half of the \
         work is on the generator's core, and not in the figure)",
    );
    Ok(candidates)
}

fn one(
    lab: &Lab,
    options: &Options,
    sheet: &mut Sheet,
    candidate: &Candidate,
) -> anyhow::Result<()> {
    for interface in [FRONT, BACK] {
        // xvip's program runs where frames arrive, on the generator's core, and its worker polls on its own.
        let cores = if candidate.system.is_xvip() { &[][..] } else { candidate.cores };
        lab.balancer().rps(interface, cores)?;
    }
    for workload in Workload::ALL {
        if !options.wants(workload) {
            continue;
        }
        let mut seen = Seen::default();
        let found = sheet.quietly(lab, || through(lab, options, candidate, workload, &mut seen))?;
        if let Some(mode) = seen.mode {
            sheet.mode(mode);
        }
        if seen.generator_limited {
            sheet.note(format!(
                "{}: beside {}, in some rounds the generator could not keep its pace, and set the limit",
                workload.words(options.connections),
                candidate.name()
            ));
        }
        sheet.figures.add(&candidate.name(), found);
    }
    Ok(())
}

/// What a turn shows beside its figures.
#[derive(Default)]
struct Seen {
    /// How xvip sits on its interfaces.
    mode: Option<String>,
    /// Whether the generator set the limit.
    generator_limited: bool,
}

/// One workload through a fresh system: what the last one has left in a table is no part of the next.
fn through(
    lab: &Lab,
    options: &Options,
    candidate: &Candidate,
    workload: Workload,
    seen: &mut Seen,
) -> anyhow::Result<Vec<Figure>> {
    offloads::for_generated(lab, candidate.system)?;
    let mut running = candidate.system.start(lab, options.connections, REALS, &DEVICE_CORES)?;
    for interface in [FRONT, BACK] {
        // Without it veth takes no frames that were injected by XDP.
        lab.balancer().gro(interface, true)?;
    }
    seen.mode = running.mode()?;
    let meter = running.meter()?;
    let report =
        workload.traffic(options).run(lab).with_context(|| workload.words(options.connections))?;
    let needed = running.metered(meter)?.map(|metered| metered.each);
    running.check()?;
    let limits = report.trials.iter().map(|trial| trial.limit);
    seen.generator_limited =
        workload != Workload::Open && limits.into_iter().any(|l| l == Limit::Generator);
    let found = workload.figures(&report.trials, options, needed)?;
    running.stop(lab)?;
    Ok(found)
}

/// Longest that all of it may take, for the person who waits.
pub(super) fn estimate(options: &Options) -> Duration {
    let opening = f64::from(options.connections) / 50_000.0;
    let each = f64::from(options.seconds) + 2.0 * opening + 5.0;
    Duration::from_secs_f64(each * 3.0 * 4.0 * f64::from(options.rounds) * ATTEMPTS as f64)
}
