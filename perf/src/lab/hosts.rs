//! A lab whose clients and real servers are the kernel's own: nodes with addresses and routes.
//!
//! ```text
//!   client                   lb                     server
//!   cli0 ───────────────── front
//!                            back ───────────────── srv0      real servers, routed by the balancer
//!   past0 ──────────────────────────────────────── past1     what does not pass the balancer
//! ```

use anyhow::Context;

use super::{BACK, BALANCER, CLIENT_LINK, FRONT, Lab, Links, Plan, SERVER_LINK, sweep};
use crate::packet_path::Family;

/// Node of the clients.
pub(crate) const CLIENT: &str = "client";
/// Node of the real servers.
pub(crate) const SERVER: &str = "server";

/// The client's end of the link past the balancer.
pub(crate) const PAST_CLIENT: &str = "past0";
/// The server's.
pub(crate) const PAST_SERVER: &str = "past1";
/// Addresses of the two, of a network for documentation (RFC 5737).
const PAST: (&str, &str) = ("198.51.100.1", "198.51.100.2");

/// What hosts under load are given, each of them alike: ports and queues that are no limit.
pub(super) const SETTINGS: [(&str, &str); 4] = [
    ("net.ipv4.ip_local_port_range", "\"1024 65535\""),
    ("net.ipv4.tcp_max_syn_backlog", "65535"),
    ("net.core.somaxconn", "65535"),
    // A port of a closed connection may serve again as soon as time stamps tell the two apart.
    ("net.ipv4.tcp_tw_reuse", "1"),
];

impl Lab {
    /// Client, balancer and server; the server has the addresses of `reals` real servers. All that the
    /// client and the server send is as on a wire: whole packets of at most the MTU, with checksums. Waits
    /// until no other measurement runs on the machine.
    ///
    /// # Errors
    /// If anything cannot be made; what was made until then is removed.
    pub(crate) fn hosts(reals: u16) -> anyhow::Result<Self> {
        let mut lab = Self::empty()?;
        for node in [CLIENT, BALANCER, SERVER] {
            let made = lab.add(node)?;
            for (key, value) in SETTINGS {
                made.sysctl(key, value).with_context(|| key.to_owned())?;
            }
        }
        let Links { queues, front_mtu, back_mtu } = Links::default();
        lab.link((CLIENT, CLIENT_LINK), (BALANCER, FRONT), queues, front_mtu)?;
        lab.link((SERVER, SERVER_LINK), (BALANCER, BACK), queues, back_mtu)?;
        lab.balancer().ip(&Plan::balancer_addresses(FRONT, BACK))?;
        lab.link((CLIENT, PAST_CLIENT), (SERVER, PAST_SERVER), queues, front_mtu)?;
        let plan = Plan::new(Family::V4);
        let length = plan.prefix();
        lab.node(CLIENT).ip(&[
            format!("addr add {}/{length} dev {CLIENT_LINK}", plan.client()),
            format!("route add default via {}", plan.front()),
            format!("addr add {}/30 dev {PAST_CLIENT}", PAST.0),
        ])?;
        let mut lines: Vec<_> = (0..reals)
            .map(|n| format!("addr add {}/{length} dev {SERVER_LINK}", plan.real(n)))
            .collect();
        lines.push(format!("route add default via {}", plan.back()));
        lines.push(format!("addr add {}/30 dev {PAST_SERVER}", PAST.1));
        lab.node(SERVER).ip(&lines)?;
        lab.measuring = Some(sweep::alone()?);
        Ok(lab)
    }

    /// Makes the servers answer for the VIP past the balancer, as direct routing wants them: each has the VIP and
    /// keeps silent about it, and its way to the client does not lead through the balancer. Or takes that back.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn answer_past(&self, on: bool) -> anyhow::Result<()> {
        let (plan, server) = (Plan::new(Family::V4), self.node(SERVER));
        let (vip, client, via) = (plan.vip(0).ip(), plan.client(), PAST.0);
        let verb = if on { "replace" } else { "del" };
        let value = |set| if on { set } else { "0" };
        server.sysctl("net.ipv4.conf.all.arp_ignore", value("1"))?;
        server.sysctl("net.ipv4.conf.all.arp_announce", value("2"))?;
        server.ip(&[
            format!("addr {verb} {vip}/32 dev lo"),
            format!("route {verb} {client}/32 via {via} dev {PAST_SERVER}"),
        ])
    }
}
