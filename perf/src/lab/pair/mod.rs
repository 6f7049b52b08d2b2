//! Two balancers that stand in for each other, in one lab.
//!
//! ```text
//!   gen (or client, server)        switch                     lb1     lb2
//!   cli0 ───────────────────────── outside ────────────────── front   front   the VIP
//!   srv0 ───────────────────────── inside ─────────────────── back    back    the gateway of the servers
//!                                  beats ──────────────────── beat    beat    heartbeat, replication
//! ```
//!
//! `outside`, `inside` and `beats` are bridges of the kernel, so a node that dies takes no link of the other's
//! down: only its silence tells. What they carry is as on a wire: whole packets with checksums.
//! The plan of addresses is [`Plan`]'s, IPv4.

pub(crate) mod config;
pub(crate) mod ha;
pub(crate) mod node;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context;

use super::hosts::{CLIENT, SERVER, SETTINGS};
use super::{
    BACK, CLIENT_LINK, CLIENTS, FRONT, GENERATOR, Lab, Namespace, Plan, SERVER_LINK, sweep,
};
use crate::packet_path::Family;

/// The two, in order.
pub(crate) const NODES: [&str; 2] = ["lb1", "lb2"];
/// Interface of the heartbeat.
pub(crate) const BEAT: &str = "beat";
/// Node of the bridges.
const SWITCH: &str = "switch";
/// The bridge of each of a balancer's interfaces.
const BRIDGES: [(&str, &str); 3] = [(FRONT, "outside"), (BACK, "inside"), (BEAT, "beats")];

/// Who speaks and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// The generator, which is all clients and all real servers.
    Generator,
    /// A client and a server of the kernel's; the server has the addresses of so many real servers.
    Hosts(u16),
}

/// TCP resets that have crossed the switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resets {
    /// Towards the clients.
    pub(crate) clients: u64,
    /// Towards the real servers.
    pub(crate) servers: u64,
}

impl Resets {
    /// Those since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            clients: self.clients.saturating_sub(before.clients),
            servers: self.servers.saturating_sub(before.servers),
        }
    }
}

/// A node's own address of the heartbeat's network, which is one for documentation (RFC 5737).
pub(crate) fn beat_address(node: usize) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 1 + node as u8).into()
}

impl Lab {
    /// Both balancers' nodes, the switch, and who speaks through them. Waits until no other measurement runs on
    /// the machine.
    ///
    /// # Errors
    /// If anything cannot be made; what was made until then is removed.
    pub(crate) fn pair(ends: Ends) -> anyhow::Result<Self> {
        let mut lab = Self::empty()?;
        let switch = lab.add(SWITCH)?;
        for (_, bridge) in BRIDGES {
            make_bridge(&switch, bridge)?;
        }
        let (family, reals) = (Family::V4, if let Ends::Hosts(reals) = ends { reals } else { 0 });
        let plan = Plan::new(family);
        for (index, node) in NODES.into_iter().enumerate() {
            let made = lab.add(node)?;
            for (interface, bridge) in BRIDGES {
                lab.plug(node, interface, bridge)?;
            }
            made.ip(&addresses(plan, index))?;
        }
        match ends {
            Ends::Generator => {
                lab.add(GENERATOR)?;
                lab.plug(GENERATOR, CLIENT_LINK, "outside")?;
                lab.plug(GENERATOR, SERVER_LINK, "inside")?;
                for bridge in ["outside", "inside"] {
                    // Without NAPI a veth takes no frames that its peer was given by XDP.
                    switch.gro(&port(GENERATOR, bridge), true)?;
                }
                lab.know_generator(plan)?;
            }
            Ends::Hosts(_) => lab.ends_of_kernel(plan, reals)?,
        }
        switch.run_with("nft", &["-f", "-"], &counters(ends)).context("counters of resets")?;
        lab.measuring = Some(sweep::alone()?);
        Ok(lab)
    }

    fn plug(&self, node: &str, interface: &str, bridge: &str) -> anyhow::Result<()> {
        let (switch, port) = (self.node(SWITCH), port(node, bridge));
        self.link((SWITCH, &port), (node, interface), 1, 1500)?;
        switch.ip(&[format!("link set {port} master {bridge}")])
    }

    /// Both balancers know where the generator's stations are, as they do of stations that they speak to all the time.
    fn know_generator(&self, plan: Plan) -> anyhow::Result<()> {
        let generator = self.node(GENERATOR);
        let (client, server) = (generator.mac(CLIENT_LINK)?, generator.mac(SERVER_LINK)?);
        let known = |address: IpAddr, mac: &str, interface: &str| {
            format!("neigh replace {address} lladdr {mac} nud permanent dev {interface}")
        };
        let mut lines = Vec::new();
        for number in 0..CLIENTS {
            lines.push(known(plan.client_number(number as u16), &client, FRONT));
        }
        for number in 0..64 {
            lines.push(known(plan.real(number), &server, BACK));
        }
        NODES.into_iter().try_for_each(|node| self.node(node).ip(&lines))
    }

    fn ends_of_kernel(&mut self, plan: Plan, reals: u16) -> anyhow::Result<()> {
        let length = plan.prefix();
        for (name, link, bridge) in
            [(CLIENT, CLIENT_LINK, "outside"), (SERVER, SERVER_LINK, "inside")]
        {
            let made = self.add(name)?;
            for (key, value) in SETTINGS {
                made.sysctl(key, value).with_context(|| key.to_owned())?;
            }
            self.plug(name, link, bridge)?;
        }
        let client = format!("addr add {}/{length} dev {CLIENT_LINK}", plan.client());
        self.node(CLIENT).ip(&[client])?;
        let mut lines: Vec<_> = (0..reals)
            .map(|n| format!("addr add {}/{length} dev {SERVER_LINK}", plan.real(n)))
            .collect();
        lines.push(format!("route add default via {}", plan.back()));
        self.node(SERVER).ip(&lines)
    }

    /// Takes all links of a balancer down, or up again, at their other ends: to the balancer as if cables had been pulled.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn cables(&self, node: usize, up: bool) -> anyhow::Result<()> {
        let state = if up { "up" } else { "down" };
        let lines = BRIDGES.map(|(_, b)| format!("link set {} {state}", port(NODES[node], b)));
        self.node(SWITCH).ip(&lines)
    }

    /// TCP resets that have crossed the switch until now, whoever sent them.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub(crate) fn resets(&self) -> anyhow::Result<Resets> {
        let text =
            self.node(SWITCH).run("nft", &["-j", "list", "counters", "table", "bridge", "lab"])?;
        parse_counters(&text)
    }
}

/// The switch's end of a link.
fn port(node: &str, bridge: &str) -> String {
    format!("{node}.{bridge}")
}

fn make_bridge(switch: &Namespace, name: &str) -> anyhow::Result<()> {
    // No spanning tree: a port forwards as soon as it is up. No hooks of the packet filters of IP.
    switch.ip(&[
        format!("link add name {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"),
        format!("link set {name} up"),
    ])?;
    switch
        .shell(
            "for hook in arptables iptables ip6tables; do
                file=/proc/sys/net/bridge/bridge-nf-call-$hook
                if [ -e $file ]; then echo 0 > $file; fi
            done",
        )
        .map(drop)
}

fn addresses(plan: Plan, index: usize) -> Vec<String> {
    let (length, node) = (plan.prefix(), index as u8);
    vec![
        format!("addr add {}/{length} dev {FRONT}", plan.front_of(node)),
        format!("addr add {}/{length} dev {BACK}", plan.back_of(node)),
        format!("addr add {}/24 dev {BEAT}", beat_address(index)),
    ]
}

/// Counts TCP resets where they leave the switch: the judge is neither the generator nor a balancer.
fn counters(ends: Ends) -> String {
    let (client, server) = match ends {
        Ends::Generator => (GENERATOR, GENERATOR),
        Ends::Hosts(_) => (CLIENT, SERVER),
    };
    let rule = |node: &str, bridge: &str, counter: &str| {
        let to = port(node, bridge);
        format!("  oifname \"{to}\" ether type ip tcp flags & rst == rst counter name {counter}\n")
    };
    format!(
        "table bridge lab {{\n counter clients {{ }}\n counter servers {{ }}\n chain out {{\n  \
         type filter hook postrouting priority 300; policy accept;\n{}{} }}\n}}\n",
        rule(client, "outside", "clients"),
        rule(server, "inside", "servers"),
    )
}

fn parse_counters(text: &str) -> anyhow::Result<Resets> {
    let value: serde_json::Value = serde_json::from_str(text).context("counters as JSON")?;
    let all = value["nftables"].as_array().context("no counters")?;
    let of = |name: &str| {
        let found = all.iter().map(|o| &o["counter"]).find(|c| c["name"] == name);
        found.and_then(|c| c["packets"].as_u64()).with_context(|| format!("no counter {name}"))
    };
    Ok(Resets { clients: of("clients")?, servers: of("servers")? })
}

#[cfg(test)]
mod tests;
