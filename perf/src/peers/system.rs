//! The systems that are compared, and where they run.

use std::time::Duration;

use anyhow::Context;
use dataplane_api::message::Status;
use dataplane_api::service::{Forwarding, Poll};

use super::nftables;
use super::proxy::Proxy;
use crate::lab::balancer::{Balancer, Config};
use crate::lab::quiet::Watch;
use crate::lab::{BALANCER, FRONT, Lab, Plan, Process};
use crate::packet_path::Family;
use crate::target::{cost, idle_turn, mode, pollers};

/// How long a proxy may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// Packet buffers of xvip's worker for each interface; a quarter of them can wait to be read. A TCP
/// sender on veth sends thousands of packets in one go.
const FRAMES: u32 = 65_536;

/// What balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    /// xvip's two processes, forwarding by NAT.
    Xvip(Poll),
    /// The same by direct routing: requests only; what the servers answer does not pass the balancer.
    XvipDirect(Poll),
    /// NAT in the kernel.
    Nftables {
        /// With established connections in a flow table.
        flowtable: bool,
    },
    /// A proxy in user space.
    Proxy(Proxy),
    /// Nothing: the kernel routes to one real server. What every balancer's work comes on top of.
    Routing,
}

impl System {
    /// As tables and charts show it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Xvip(Poll::Busy) => "xvip nat",
            Self::Xvip(Poll::Adaptive) => "xvip nat, adaptive polling",
            Self::XvipDirect(Poll::Busy) => "xvip direct, replies past it",
            Self::XvipDirect(Poll::Adaptive) => "xvip direct, adaptive polling, replies past it",
            Self::Nftables { flowtable: false } => "nftables",
            Self::Nftables { flowtable: true } => "nftables, flow table",
            Self::Proxy(Proxy::Haproxy) => "HAProxy",
            Self::Proxy(Proxy::Nginx) => "nginx stream",
            Self::Routing => "routing, no balancer",
        }
    }

    /// Whether it is ours.
    pub(super) const fn is_xvip(self) -> bool {
        matches!(self, Self::Xvip(_) | Self::XvipDirect(_))
    }

    /// Starts it in the node `lb`, on these cores.
    ///
    /// # Errors
    /// If it does not start; with its log.
    pub(super) fn start(
        self,
        lab: &Lab,
        connections: u32,
        reals: u16,
        cores: &[usize],
    ) -> anyhow::Result<Running> {
        let started = self.start_unnamed(lab, connections, reals, cores);
        started.with_context(|| format!("starting {}", self.name()))
    }

    fn start_unnamed(
        self,
        lab: &Lab,
        connections: u32,
        reals: u16,
        cores: &[usize],
    ) -> anyhow::Result<Running> {
        if !self.is_xvip() {
            vip(lab, "replace")?;
        }
        Ok(match self {
            Self::Xvip(poll) | Self::XvipDirect(poll) => {
                // One worker, as the interfaces have one queue: on the last of its cores.
                let core = *cores.last().context("no core for the balancer")?;
                let cores = vec![core];
                let direct = matches!(self, Self::XvipDirect(_));
                let method = if direct { Forwarding::Direct } else { Forwarding::Nat };
                if direct {
                    lab.answer_past(true)?;
                }
                let frames = FRAMES;
                let config =
                    Config { method, connections, reals, poll, cores, frames, ..Config::default() };
                let balancer = Box::new(Balancer::start_in(lab, BALANCER, &config)?);
                Running::Xvip { balancer, poll, direct }
            }
            Self::Nftables { flowtable } => {
                nftables::start(lab, reals, flowtable)?;
                Running::Nftables
            }
            Self::Proxy(proxy) => Running::Proxy(proxy.start(lab, reals, cores)?),
            Self::Routing => {
                lab.balancer().forward(true)?;
                Running::Routing
            }
        })
    }
}

/// Where xvip's worker stood at a moment.
pub(super) struct Meter {
    idle: f64,
    before: Box<Status>,
    watch: Watch,
}

/// What packets have taken of the worker's core.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metered {
    /// Nanoseconds for one.
    pub(super) each: f64,
    /// Seconds for all.
    pub(super) all: f64,
}

/// A system at work; it must be stopped before the next one starts.
pub(super) enum Running {
    Xvip {
        balancer: Box<Balancer>,
        poll: Poll,
        /// Replies do not pass it.
        direct: bool,
    },
    Nftables,
    Proxy(Process),
    Routing,
}

impl Running {
    /// That it still runs.
    ///
    /// # Errors
    /// With the end of its log, if it does not.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Xvip { balancer, .. } => balancer.status().map(drop),
            Self::Proxy(process) => process.must_run(),
            Self::Nftables | Self::Routing => Ok(()),
        }
    }

    /// How xvip sits on its interfaces; none for others.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) fn mode(&mut self) -> anyhow::Result<Option<String>> {
        let Self::Xvip { balancer, .. } = self else { return Ok(None) };
        Ok(Some(mode(&balancer.status()?)))
    }

    /// Begins to watch what a busy worker of xvip does; none for others, and for one that sleeps: its time
    /// is that of its core.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) fn meter(&mut self) -> anyhow::Result<Option<Meter>> {
        let Self::Xvip { balancer, poll: Poll::Busy, .. } = self else { return Ok(None) };
        let idle = idle_turn(balancer)?;
        let before = balancer.status()?;
        let watch = Watch::start(&pollers(&before), balancer.cpu_time());
        Ok(Some(Meter { idle, before: Box::new(before), watch }))
    }

    /// What the worker's packets have taken since then, turns that found nothing left out.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) fn metered(&mut self, meter: Option<Meter>) -> anyhow::Result<Option<Metered>> {
        let (Self::Xvip { balancer, .. }, Some(meter)) = (self, meter) else { return Ok(None) };
        let on_core = meter.watch.on_core();
        let after = balancer.status()?;
        let received = |s: &Status| s.interfaces.iter().map(|i| i.rx_packets).sum::<u64>();
        let packets = received(&after).saturating_sub(received(&meter.before));
        let each = cost(&meter.before, &after, on_core, meter.idle);
        Ok(Some(Metered { each, all: each * packets as f64 / 1e9 }))
    }

    /// Stops it and takes away what it was given.
    ///
    /// # Errors
    /// If anything of it stays.
    pub(super) fn stop(self, lab: &Lab) -> anyhow::Result<()> {
        match self {
            Self::Xvip { balancer, direct, .. } => {
                for problem in balancer.stop() {
                    crate::lab::say(&problem);
                }
                return if direct { lab.answer_past(false) } else { Ok(()) };
            }
            Self::Nftables => nftables::stop(lab)?,
            Self::Proxy(mut process) => {
                process.end(STOP);
            }
            Self::Routing => lab.balancer().forward(false)?,
        }
        vip(lab, "del")
    }
}

/// The kernel answers for the VIP, and takes packets to it.
fn vip(lab: &Lab, verb: &str) -> anyhow::Result<()> {
    let vip = Plan::new(Family::V4).vip(0).ip();
    lab.balancer().ip(&[format!("addr {verb} {vip}/32 dev {FRONT}")])
}
