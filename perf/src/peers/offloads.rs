//! What the interfaces may do to frames, for each system: two settings, because on veth a frame need not be
//! one that a cable could carry.
//!
//! On veth a sender with TSO hands over up to 64 KiB as one buffer, by reference, with a checksum that
//! nobody has computed; a balancer in the kernel passes the same buffer on, and the receiver takes it as it is. That is how
//! containers on one machine speak with each other, and no wire does it. xvip reads frames from AF_XDP sockets, which
//! get frames of at most the MTU with checksums, as from a wire.

use crate::lab::hosts::{CLIENT, PAST_CLIENT, PAST_SERVER, SERVER};
use crate::lab::{BACK, BALANCER, CLIENT_LINK, FRONT, Lab, SERVER_LINK};

use super::system::System;

/// What crosses the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Setting {
    /// Frames of at most the MTU on every link, whoever balances.
    Wire,
    /// What the kernel does by itself between interfaces of one machine.
    Veth,
}

/// Features of an interface, as `ethtool -K` names them, and whether they are on.
type Features = [(&'static str, bool); 5];

/// Whole frames with checksums.
const PLAIN: Features =
    [("tx", false), ("sg", false), ("tso", false), ("gso", false), ("gro", false)];
/// A network card with checksums and GRO, cutting before the link: what a balancer's kernel has behind a wire.
const CARD: Features = [("tx", true), ("sg", true), ("tso", false), ("gso", false), ("gro", true)];
/// What a new veth pair has.
const VETH: Features = [("tx", true), ("sg", true), ("tso", true), ("gso", true), ("gro", false)];
/// For generated packets: as [`CARD`], which may also hand whole aggregates over.
const GENERATED: Features =
    [("tx", true), ("sg", true), ("tso", true), ("gso", true), ("gro", true)];

impl Setting {
    /// Both, in the order in which they are measured.
    pub(super) const ALL: [Self; 2] = [Self::Wire, Self::Veth];

    /// As heads of tables have it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Veth => "veth",
        }
    }

    /// What it is, for a note.
    pub(super) const fn explained(self) -> &'static str {
        match self {
            Self::Wire => {
                "wire: as between machines. Clients and servers send frames of at most the MTU with computed checksums, \
                 and such frames cross every link, whoever balances. The kernel under a peer has what the driver of a \
                 card gives it: it aggregates what it receives (GRO), and leaves checksums to the card (so clients need not \
                 verify those of peers, which favours them; xvip's they verify). It cuts before the link"
            }
            Self::Veth => {
                "veth: as between containers of one machine, which no cable can do. Peers, clients and servers have what a \
                 new veth pair has: buffers of up to 64 KiB without a checksum go through the kernel by reference. With \
                 xvip clients and servers send frames of at most the MTU with checksums, since AF_XDP takes no other"
            }
        }
    }

    /// Of the hosts' interfaces, and of the balancer's.
    fn features(self, system: System) -> (Features, Features) {
        match (self, system.is_xvip()) {
            (_, true) => (PLAIN, PLAIN),
            (Self::Wire, false) => (PLAIN, CARD),
            (Self::Veth, false) => (VETH, VETH),
        }
    }

    /// Sets all interfaces of a lab of hosts.
    ///
    /// # Errors
    /// If one is missing.
    pub(super) fn apply(self, lab: &Lab, system: System) -> anyhow::Result<()> {
        let (hosts, balancer) = self.features(system);
        for (node, interface) in HOSTS {
            set(lab, node, interface, &hosts)?;
        }
        [FRONT, BACK].into_iter().try_for_each(|i| set(lab, BALANCER, i, &balancer))
    }
}

/// Interfaces of clients and servers.
const HOSTS: [(&str, &str); 4] =
    [(CLIENT, CLIENT_LINK), (SERVER, SERVER_LINK), (CLIENT, PAST_CLIENT), (SERVER, PAST_SERVER)];

/// What the balancer has under generated packets.
///
/// # Errors
/// If an interface is missing.
pub(super) fn for_generated(lab: &Lab, system: System) -> anyhow::Result<()> {
    let features = if system.is_xvip() { &PLAIN } else { &GENERATED };
    [FRONT, BACK].into_iter().try_for_each(|i| set(lab, BALANCER, i, features))
}

fn set(lab: &Lab, node: &str, interface: &str, features: &Features) -> anyhow::Result<()> {
    let mut words = vec!["-K", interface];
    for (name, on) in features {
        words.extend([*name, if *on { "on" } else { "off" }]);
    }
    lab.node(node).run("ethtool", &words).map(drop)
}

/// What the interfaces have in truth, for a note: what a kernel was told it need not do.
///
/// # Errors
/// If one is missing.
pub(super) fn found(lab: &Lab) -> anyhow::Result<String> {
    let all = [(CLIENT, CLIENT_LINK), (BALANCER, FRONT), (BALANCER, BACK), (SERVER, SERVER_LINK)];
    let mut words = Vec::new();
    for (node, interface) in all {
        let text = lab.node(node).run("ethtool", &["-k", interface])?;
        words.push(format!("{interface} {}", parse(&text)));
    }
    Ok(words.join("; "))
}

/// Of what `ethtool -k` says what matters here.
fn parse(text: &str) -> String {
    const NAMES: [(&str, &str); 4] = [
        ("tx-checksumming", "tx checksum"),
        ("tcp-segmentation-offload", "TSO"),
        ("generic-segmentation-offload", "GSO"),
        ("generic-receive-offload", "GRO"),
    ];
    let state = |name: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|l| l.split_whitespace().next()).unwrap_or("unknown").to_owned()
    };
    NAMES.map(|(name, shown)| format!("{shown} {}", state(name))).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_api::service::Poll;

    #[test]
    fn on_a_wire_no_link_carries_more_than_the_mtu_whoever_balances() {
        let peer = System::Nftables { flowtable: false };
        for system in [System::Xvip(Poll::Busy), peer, System::Routing] {
            let (hosts, balancer) = Setting::Wire.features(system);
            for features in [hosts, balancer] {
                let cut = |name| features.iter().any(|(n, on)| *n == name && !on);
                assert!(cut("tso") && cut("gso"), "{system:?}: {features:?}");
            }
        }
        assert_eq!(Setting::Veth.features(peer), (VETH, VETH));
        assert_eq!(Setting::Veth.features(System::Xvip(Poll::Busy)), (PLAIN, PLAIN));
    }

    #[test]
    fn what_ethtool_says_is_read() {
        let text = "Features for front:\nrx-checksumming: on\ntx-checksumming: off\n\ttx-checksum-ipv4: off \
                    [fixed]\ntcp-segmentation-offload: on\ngeneric-segmentation-offload: off [requested on]\n";
        assert_eq!(parse(text), "tx checksum off, TSO on, GSO off, GRO unknown");
    }
}
