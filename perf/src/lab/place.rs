//! Where the parts of a run have their cores, and how the data plane sits on its interfaces.

use clap::Args;
use dataplane_api::service::{Engine, XdpMode};

use super::balancer::{Config, xdp_mode};
use super::{BACK, BALANCER, CLIENT_LINK, FRONT, GENERATOR, Lab, SERVER_LINK};

/// Where things run, and how the data plane sits on its interfaces.
#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    /// Core of the data plane; the machine's last by default.
    #[arg(long, default_value_t = last_core())]
    core: usize,
    /// Cores of the generator.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    generator_cores: Vec<usize>,
    /// Real servers.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    reals: u16,
    /// `engine.frames` of the data plane. Its rings hold a quarter: the more, the longer it may be
    /// kept from its core without a loss.
    #[arg(long, default_value_t = Engine::default().frames)]
    frames: u32,
    /// Mode of the interface towards the clients: auto, native, generic. In native mode the frames
    /// of the generator in the kernel come in without a socket buffer.
    #[arg(long, default_value = "native", value_parser = xdp_mode)]
    front: XdpMode,
    /// Mode of the interface towards the real servers.
    #[arg(long, default_value = "generic", value_parser = xdp_mode)]
    back: XdpMode,
    /// Interfaces of the generator (cli0, srv0) whose packets its own cores take in, by receive
    /// packet steering; by default the core does that the balancer sends on.
    #[arg(long, value_delimiter = ',', value_parser = [CLIENT_LINK, SERVER_LINK])]
    rps: Vec<String>,
}

impl Place {
    /// The balancer's configuration but for method, family and connections.
    pub(crate) fn config(&self) -> Config {
        Config {
            reals: self.reals,
            cores: vec![self.core],
            frames: self.frames,
            front: self.front,
            back: self.back,
            ..Config::default()
        }
    }

    /// Cores of the generator.
    pub(crate) fn generator(&self) -> &[usize] {
        &self.generator_cores
    }

    /// Sets a standard lab up as these options say.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn prepare(&self, lab: &Lab) -> anyhow::Result<()> {
        for interface in &self.rps {
            lab.node(GENERATOR).rps(interface, &self.generator_cores)?;
        }
        // In native mode the data plane's program switches NAPI on by itself.
        for (interface, mode) in [(FRONT, self.front), (BACK, self.back)] {
            if mode != XdpMode::Native {
                lab.node(BALANCER).gro(interface, true)?;
            }
        }
        Ok(())
    }
}

/// The machine's last core.
pub(crate) fn last_core() -> usize {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.iter().map(|core| core.id).max().unwrap_or(0)
}
