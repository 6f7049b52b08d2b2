//! Two nodes of xvip.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use dataplane_api::service::Poll;

use super::case::{Times, pair};
use super::duo::Duo;
use crate::lab::balancer::Config;
use crate::lab::pair::NODES;
use crate::lab::pair::config::Pair;
use crate::lab::pair::ha::Ha;
use crate::lab::pair::node::{Node, RESTART, write_key};
use crate::lab::{Lab, wait_until};
use crate::record::Scenario;
use crate::target::mode;

/// How long two nodes may take to be a pair.
const READY: Duration = Duration::from_secs(60);
/// How long a node may take to own what it should, or no longer own it.
const MOVED: Duration = Duration::from_secs(12);

/// The two.
pub(super) struct Xvip {
    nodes: [Node; 2],
    pair: Pair,
    config: Config,
    key: PathBuf,
    /// The node that served when the pair was ready.
    active: usize,
}

impl Xvip {
    /// Two that do not run yet.
    ///
    /// # Errors
    /// If their files cannot be written.
    pub(super) fn new(
        lab: &Lab,
        times: Times,
        scenario: Scenario,
        config: Config,
    ) -> anyhow::Result<Self> {
        let key = write_key(lab)?;
        // Both workers have the same core: one that has nothing to do leaves it to the other.
        let config = Config { poll: Poll::Adaptive, ..config };
        let pair = pair(times);
        let pair = if scenario == Scenario::FailBack { pair.falling_back() } else { pair };
        let node = |n| Node::new(lab, n, &pair.text(&config, n, &key));
        let nodes = [node(0)?, node(1)?];
        Ok(Self { nodes, pair, config, key, active: 0 })
    }

    /// One of the two.
    pub(super) fn node(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// The node that served when the pair was ready.
    pub(super) fn active(&self) -> usize {
        self.active
    }

    fn must_run(&mut self) -> anyhow::Result<()> {
        self.nodes.iter_mut().try_for_each(Node::must_run)
    }

    /// Waits for what both say.
    pub(super) fn wait(
        &mut self,
        lab: &Lab,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&[Option<Ha>; 2]) -> bool,
    ) -> anyhow::Result<()> {
        let looked = wait_until(what, limit, || {
            self.must_run()?;
            let said = [0, 1].map(|n| {
                let node = &self.nodes[n];
                node.is_up().then(|| node.ha(lab).ok()).flatten()
            });
            Ok(holds(&said).then_some(()))
        });
        looked.with_context(|| self.whole_story(lab))
    }

    fn whole_story(&self, lab: &Lab) -> String {
        let said =
            self.nodes.iter().zip(NODES).filter(|(node, _)| node.is_up()).map(|(node, name)| {
                let said = node.xvip(lab, &["ha"]).unwrap_or_else(|e| format!("{e:#}"));
                format!("--- `xvip ha` of {name}\n{said}")
            });
        said.collect::<Vec<_>>().join("\n")
    }

    /// Waits until one owns everything and it is proved, and each knows all of the other's connections.
    ///
    /// # Errors
    /// If that does not come about.
    pub(super) fn settle(&mut self, lab: &Lab) -> anyhow::Result<()> {
        wait_until("both data planes are on their interfaces", READY, || {
            self.must_run()?;
            Ok(self.nodes.iter_mut().all(Node::attached).then_some(()))
        })?;
        let mut active = 0;
        self.wait(lab, "the two nodes are a pair", READY, |said| {
            let [Some(one), Some(two)] = said else { return false };
            active = usize::from(two.active());
            let other = if active == 0 { two } else { one };
            let owner = if active == 0 { one } else { two };
            owner.active() && owner.verified() && other.standby() && one.synced() && two.synced()
        })?;
        self.active = active;
        Ok(())
    }

    /// Waits until a node owns everything.
    ///
    /// # Errors
    /// If it does not in time.
    fn wait_owner(&mut self, lab: &Lab, node: usize) -> anyhow::Result<()> {
        self.wait(lab, &format!("{} owns the VIP", NODES[node]), MOVED, |said| {
            said[node].as_ref().is_some_and(Ha::active)
        })
    }

    fn upgrade(&mut self, lab: &Lab, active: usize) -> anyhow::Result<()> {
        self.nodes[active].stop_control();
        self.nodes[active].start_control(lab)?;
        let known =
            |said: &[Option<Ha>; 2]| said.iter().all(|ha| ha.as_ref().is_some_and(Ha::synced));
        self.wait(lab, "the new control knows everything", MOVED, known)?;
        self.nodes[active].kill_dataplane();
        std::thread::park_timeout(RESTART);
        self.nodes[active].start_dataplane(lab)
    }

    fn reload(&mut self, lab: &Lab, active: usize) -> anyhow::Result<()> {
        let changed = Config { services: self.config.services + 1, ..self.config.clone() };
        for (index, node) in self.nodes.iter().enumerate() {
            node.configure(&self.pair.text(&changed, index, &self.key))?;
        }
        for index in [active, 1 - active] {
            self.nodes[index].xvip(lab, &["reload"])?;
        }
        Ok(())
    }
}

impl Duo for Xvip {
    fn boot(&mut self, lab: &Lab, scenario: Scenario) -> anyhow::Result<()> {
        for index in 0..NODES.len() {
            lab.cables(index, true)?;
            self.nodes[index].up(lab)?;
        }
        self.settle(lab)?;
        if scenario == Scenario::FailBack {
            self.nodes[0].power_off(lab)?;
            self.wait_owner(lab, 1)?;
            self.active = 1;
        }
        Ok(())
    }

    fn established(&mut self, _: &Lab) -> u64 {
        self.nodes[self.active].established()
    }

    fn act(&mut self, lab: &Lab, scenario: Scenario) -> anyhow::Result<()> {
        let (active, standby) = (self.active, 1 - self.active);
        match scenario {
            Scenario::Nothing => Ok(()),
            Scenario::PowerOff => self.nodes[active].power_off(lab),
            Scenario::Switchover => {
                self.nodes[active].xvip(lab, &["switchover"])?;
                self.wait_owner(lab, standby)
            }
            Scenario::FailBack => {
                self.nodes[standby].power_on(lab)?;
                self.wait_owner(lab, standby)
            }
            Scenario::Reload => self.reload(lab, active),
            Scenario::DataPlaneRestart => {
                self.nodes[active].kill_dataplane();
                std::thread::park_timeout(RESTART);
                self.nodes[active].start_dataplane(lab)
            }
            Scenario::ControlRestart => {
                self.nodes[active].kill_control();
                std::thread::park_timeout(RESTART);
                self.nodes[active].start_control(lab)
            }
            Scenario::Upgrade => self.upgrade(lab, active),
        }
    }

    fn mode(&mut self) -> Option<String> {
        Some(mode(&self.nodes[self.active].status()?))
    }

    fn stop(&mut self, lab: &Lab) -> anyhow::Result<()> {
        let mut problems = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Err(error) = node.must_run() {
                problems.push(format!("{error:#}"));
            }
            node.stop();
            // What was killed has left its table and its program.
            node.power_off(lab)?;
            lab.cables(index, true)?;
        }
        if problems.is_empty() { Ok(()) } else { bail!("died by itself: {}", problems.join("; ")) }
    }

    fn tails(&self) -> String {
        self.nodes.iter().map(Node::tails).collect::<Vec<_>>().join("\n")
    }
}
