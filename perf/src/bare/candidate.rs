//! What stands between the generator's interfaces: the data plane, or the bare forwarder.

use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;

use crate::lab::balancer::{Balancer, Config, word};
use crate::lab::quiet::{Poller, Watch};
use crate::lab::turns::Turns;
use crate::lab::{
    BACK, BALANCER, CLIENT_LINK, FRONT, GENERATOR, Lab, Place, Plan, Process, SERVER_LINK, say,
    wait_until,
};
use crate::packet_path::Family;
use crate::target::{IDLE, idle_turn, mode, pollers};

/// How long the forwarder may take to be ready, to answer, or to end.
const READY: Duration = Duration::from_secs(10);

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The data plane, forwarding by NAT.
    Xvip,
    /// The forwarder that looks at nothing.
    Bare,
}

impl Kind {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Xvip => "through the data plane",
            Self::Bare => "through the bare forwarder",
        }
    }
}

/// One of them at work.
pub(super) enum Candidate {
    Xvip(Box<Balancer>),
    Bare(Running),
}

impl Candidate {
    /// Starts it; the data plane with one real server, as the forwarder has.
    pub(super) fn start(
        lab: &Lab,
        kind: Kind,
        connections: u32,
        place: &Place,
    ) -> anyhow::Result<Self> {
        let config = Config { connections, reals: 1, ..place.config() };
        let started = match kind {
            Kind::Xvip => Balancer::start(lab, &config).map(|b| Self::Xvip(Box::new(b))),
            Kind::Bare => Running::start(lab, place).map(Self::Bare),
        };
        started.with_context(|| kind.words())
    }

    /// How it sits on its interfaces; the forwarder does not say.
    pub(super) fn mode(&mut self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Xvip(balancer) => Ok(Some(mode(&balancer.status()?))),
            Self::Bare(_) => Ok(None),
        }
    }

    /// Its polling threads.
    pub(super) fn pollers(&mut self) -> anyhow::Result<Vec<Poller>> {
        match self {
            Self::Xvip(balancer) => Ok(pollers(&balancer.status()?)),
            Self::Bare(running) => Ok(vec![running.poller()]),
        }
    }

    /// Time that it has had cores.
    pub(super) fn cpu_time(&self) -> Duration {
        match self {
            Self::Xvip(balancer) => balancer.cpu_time(),
            Self::Bare(running) => running.process.cpu_time(),
        }
    }

    /// What its loop has done.
    pub(super) fn turns(&mut self) -> anyhow::Result<Turns> {
        match self {
            Self::Xvip(balancer) => Ok(Turns::of(&balancer.status()?)),
            Self::Bare(running) => running.turns(),
        }
    }

    /// Nanoseconds of a turn that finds nothing.
    pub(super) fn idle(&mut self) -> anyhow::Result<f64> {
        match self {
            Self::Xvip(balancer) => idle_turn(balancer),
            Self::Bare(running) => running.idle(),
        }
    }

    /// Ends it.
    pub(super) fn end(self, lab: &Lab) -> anyhow::Result<()> {
        match self {
            Self::Xvip(balancer) => {
                balancer.stop().iter().for_each(|problem| say(problem));
                Ok(())
            }
            Self::Bare(running) => running.end(lab),
        }
    }
}

/// A forwarder at work where the balancer would be.
pub(crate) struct Running {
    process: Process,
    /// Lines of its log that have been read.
    read: usize,
}

impl Running {
    /// Starts it. It does not translate: clients speak to the one real server, whose address the
    /// kernel answers ARP for on their side.
    ///
    /// # Errors
    /// If it does not become ready.
    pub(crate) fn start(lab: &Lab, place: &Place) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("this program's own path")?;
        let (outside, inside) = (lab.node(GENERATOR), lab.node(BALANCER));
        let real = Plan::new(Family::V4).real(0);
        inside.ip(&[format!("addr replace {real}/32 dev {FRONT}")])?;
        let mut command = inside.command(own);
        command.arg("forwarder");
        for (interface, peer) in [(FRONT, CLIENT_LINK), (BACK, SERVER_LINK)] {
            let (own, neighbor) = (inside.mac(interface)?, outside.mac(peer)?);
            command.args(["--interface", &format!("{interface},{own},{neighbor}")]);
        }
        let config = place.config();
        command.args(["--core", &config.cores[0].to_string()]);
        command.args(["--frames", &config.frames.to_string()]);
        for (option, mode) in [("--front", config.front), ("--back", config.back)] {
            command.args([option, &word(mode)]);
        }
        let process = lab.start("forwarder", command)?;
        let mut running = Self { process, read: 0 };
        wait_until("the forwarder is ready", READY, || {
            running.process.must_run()?;
            Ok(running.process.log().lines().any(|l| l == "ready").then_some(()))
        })?;
        Ok(running)
    }

    /// Its one thread.
    fn poller(&self) -> Poller {
        let pid = self.process.pid();
        Poller { pid, tid: pid }
    }

    /// Asks it what it has done.
    fn turns(&mut self) -> anyhow::Result<Turns> {
        self.process.signal(Signal::USR1);
        wait_until("the forwarder says what it has done", READY, || {
            self.process.must_run()?;
            let log = self.process.log();
            let mut fresh = log.lines().enumerate().skip(self.read);
            let said = fresh.find_map(|(n, line)| Some((n, Turns::parse(line)?)));
            Ok(said.map(|(number, turns)| {
                self.read = number + 1;
                turns
            }))
        })
    }

    fn idle(&mut self) -> anyhow::Result<f64> {
        let before = self.turns()?;
        let watch = Watch::start(&[self.poller()], self.process.cpu_time());
        std::thread::park_timeout(IDLE);
        let (done, on_core) = (self.turns()?.since(before), watch.on_core());
        Ok(done.idle(on_core))
    }

    /// Ends it, and gives the real server its address back.
    ///
    /// # Errors
    /// If it has ended by itself, with what it said.
    pub(crate) fn end(mut self, lab: &Lab) -> anyhow::Result<()> {
        self.process.must_run()?;
        self.process.end(READY);
        let real = Plan::new(Family::V4).real(0);
        lab.node(BALANCER).ip(&[format!("addr del {real}/32 dev {FRONT}")])
    }
}
