//! Which cores the balancer has, and which the clients and servers.

use dataplane_api::service::Poll;

use super::system::System;
use super::usage::Core;
use crate::lab::hosts::{CLIENT, PAST_CLIENT, SERVER};
use crate::lab::{BACK, CLIENT_LINK, FRONT, Lab, SERVER_LINK};

/// Where everything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    device: Vec<usize>,
    hosts: Vec<usize>,
}

impl Place {
    /// Core 1 balances, core 0 does all the rest.
    pub(super) fn apart() -> Self {
        Self { device: vec![1], hosts: vec![0] }
    }

    /// Everything runs where the kernel puts it.
    pub(super) fn anywhere() -> Self {
        Self { device: vec![0, 1], hosts: vec![0, 1] }
    }

    /// The balancer's cores.
    pub(super) fn device(&self) -> &[usize] {
        &self.device
    }

    /// The cores of clients and servers.
    pub(super) fn hosts(&self) -> &[usize] {
        &self.hosts
    }

    /// Whether the balancer has a core to itself.
    pub(super) fn is_apart(&self) -> bool {
        self.device != self.hosts
    }

    /// Whether a system is worth measuring here: where nothing has a core to itself, a worker that never
    /// sleeps is what no user would take.
    pub(super) fn suits(&self, system: System) -> bool {
        let sleepless = [System::Xvip(Poll::Busy), System::XvipDirect(Poll::Busy)];
        self.is_apart() || !sleepless.contains(&system)
    }

    /// In words, as part of a head.
    pub(super) fn words(&self) -> &'static str {
        if self.is_apart() { "one core balances, one does the rest" } else { "nothing pinned" }
    }

    /// Seconds of processor time that count.
    pub(super) fn cpu(&self, cores: &[Core]) -> f64 {
        self.device.iter().filter_map(|n| cores.get(*n)).map(|core| core.busy).sum()
    }

    /// Whose time that is.
    pub(super) fn cpu_words(&self) -> &'static str {
        if self.is_apart() { "the balancer's core" } else { "all cores" }
    }

    /// The kernel's work on what arrives is done where this place wants it: on veth it would be done by
    /// the core that sends. Not so in front of xvip: a worker that polls on a core leaves no time for the
    /// kernel there (measured: two million packets dropped in two seconds before they came to it), so its
    /// frames are taken in by the core that sends, as by that of an interrupt on a network card.
    ///
    /// # Errors
    /// If an interface is missing.
    pub(super) fn steer(&self, lab: &Lab, system: System) -> anyhow::Result<()> {
        let device = if system.is_xvip() { &[][..] } else { &self.device };
        for interface in [FRONT, BACK] {
            lab.balancer().rps(interface, device)?;
        }
        let hosts = [(CLIENT, CLIENT_LINK), (SERVER, SERVER_LINK), (CLIENT, PAST_CLIENT)];
        for (node, interface) in hosts {
            lab.node(node).rps(interface, &self.hosts)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_balancers_core_counts_if_it_has_one() {
        let cores = [Core { busy: 2.0, softirq: 0.0 }, Core { busy: 1.0, softirq: 0.0 }];
        assert!((Place::apart().cpu(&cores) - 1.0).abs() < 1e-9);
        assert!((Place::anywhere().cpu(&cores) - 3.0).abs() < 1e-9);
    }
}
