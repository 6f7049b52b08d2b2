//! `xvip-perf lab`: a lab that stands until it is told to go, to look at things by hand.

use clap::Args;

use super::balancer::{Balancer, Config};
use super::{BACK, CLIENT_LINK, FRONT, GENERATOR, Lab, Links, Place, Plan, SERVER_LINK, say};
use crate::packet_path::{Family, Method};
use dataplane_api::service::Protocol;

/// Options of `lab`.
#[derive(Args)]
pub(crate) struct Options {
    /// Forwarding method.
    #[arg(long, default_value = "nat")]
    method: Method,
    /// Address family.
    #[arg(long, default_value = "v4")]
    family: Family,
    /// A UDP service instead of a TCP one.
    #[arg(long)]
    udp: bool,
    #[command(flatten)]
    place: Place,
    /// Connections that will be open: numbers with k or m.
    #[arg(long, default_value = "100k", value_parser = crate::packet_path::number)]
    connections: u32,
    /// Namespaces and links only.
    #[arg(long)]
    without_balancer: bool,
}

/// Makes it, says how to get in, and waits for SIGINT or SIGTERM.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let lab = Lab::standard(Links::default())?;
    options.place.prepare(&lab)?;
    let config = Config {
        method: options.method.into(),
        family: options.family,
        protocol: if options.udp { Protocol::Udp } else { Protocol::Tcp },
        connections: options.connections,
        ..options.place.config()
    };
    let mut balancer =
        if options.without_balancer { None } else { Some(Balancer::start(&lab, &config)?) };
    say(&format!(
        "nsenter --net={} ...: {CLIENT_LINK}, {SERVER_LINK}; the balancer has {FRONT}, {BACK}; VIP {}",
        lab.node(GENERATOR).path().display(),
        Plan::new(options.family).vip(0)
    ));
    if let Some(balancer) = &balancer {
        say(&format!("agent socket {}", balancer.agent_socket().display()));
    }
    say("ready");
    loop {
        std::thread::park_timeout(std::time::Duration::from_secs(1));
        if let Some(balancer) = &mut balancer {
            balancer.dataplane().must_run()?;
        }
    }
}
