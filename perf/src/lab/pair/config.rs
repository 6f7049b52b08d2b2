//! `xvip.toml` of a pair.

use std::fmt::Write as _;
use std::path::Path;

use super::{BEAT, NODES, beat_address};
use crate::lab::balancer::Config;
use crate::lab::{BACK, Plan};

/// Ports of heartbeat and replication.
const PORTS: (u16, u16) = (6940, 6941);

/// What the file says of the pair; the rest is a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// What it is called in tables, in words.
    pub(crate) name: String,
    /// Lines of `[ha]`: keepalive, deadtime and such. None: everything by default.
    pub(crate) times: Vec<(&'static str, &'static str)>,
    /// `off` or `when-synced`.
    pub(crate) failback: &'static str,
}

impl Pair {
    /// As it comes.
    pub(crate) fn default_times() -> Self {
        Self { name: "default".into(), times: Vec::new(), failback: "off" }
    }

    /// Fast, with room for a beat or two that come late.
    pub(crate) fn tuned() -> Self {
        let times = vec![("keepalive", "10ms"), ("warntime", "20ms"), ("deadtime", "50ms")];
        Self { name: "tuned".into(), times, failback: "off" }
    }

    /// The least that can be asked for.
    pub(crate) fn fastest() -> Self {
        let times = vec![("keepalive", "10ms"), ("warntime", "20ms"), ("deadtime", "30ms")];
        Self { name: "fastest".into(), times, failback: "off" }
    }

    /// The same with fail-back by itself.
    pub(crate) fn falling_back(self) -> Self {
        Self { failback: "when-synced", ..self }
    }

    /// The times, for people.
    pub(crate) fn words(&self) -> String {
        let all: Vec<_> = self.times.iter().map(|(k, v)| format!("{k} {v}")).collect();
        if all.is_empty() {
            self.name.clone()
        } else {
            format!("{} ({})", self.name, all.join(", "))
        }
    }

    /// The whole file of a node.
    pub(crate) fn text(&self, config: &Config, node: usize, key: &Path) -> String {
        let mut text = format!("[node]\nname = \"{}\"\n\n", NODES[node]);
        text += &config.text();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text, config, key);
        text
    }

    fn write(&self, to: &mut String, config: &Config, key: &Path) -> std::fmt::Result {
        let ends = |port: u16| {
            let end = |n: usize| format!("{} = \"{}:{port}\"", NODES[n], beat_address(n));
            [end(0), end(1)]
        };
        writeln!(to, "\n[ha]\nnodes = {NODES:?}\nfailback = \"{}\"", self.failback)?;
        for (name, value) in &self.times {
            writeln!(to, "{name} = \"{value}\"")?;
        }
        writeln!(to, "key = [{{ id = 1, file = \"{}\" }}]\npath = [", key.display())?;
        let unicast = ends(PORTS.0).join(", ");
        writeln!(to, "  {{ type = \"udp\", {unicast}, interface = \"{BEAT}\" }},")?;
        let group = format!("239.192.69.40:{}", PORTS.0);
        writeln!(
            to,
            "  {{ type = \"multicast\", group = \"{group}\", interface = \"{BACK}\" }},\n]"
        )?;
        writeln!(to, "\n[ha.replication]\n{}", ends(PORTS.1).join("\n"))?;
        let gateway = Plan::new(config.family).back();
        writeln!(to, "\n[[ha.group]]\nname = \"all\"\nprefer = \"{}\"", NODES[0])?;
        writeln!(to, "gateways = [\"{gateway}\"]")
    }
}
