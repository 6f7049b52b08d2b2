//! NAT in the kernel, by nftables and conntrack, given everything that a careful administrator gives it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use super::package;
use crate::lab::{BACK, FRONT, Lab, Namespace, Plan, REAL_PORT, VIP_PORT};
use crate::packet_path::Family;

/// Size of the kernel's connection table; one for the machine.
const ROOM: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// Buckets of it.
const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";

/// Settings of conntrack, each in favour of speed and of the traffic of a generator.
const SETTINGS: [(&str, &str); 2] = [
    // Generated TCP has no true windows: without this its packets would be invalid.
    ("net.netfilter.nf_conntrack_tcp_be_liberal", "1"),
    // A network card verifies checksums; on veth the kernel would read every byte.
    ("net.netfilter.nf_conntrack_checksum", "0"),
];

/// The rules: a new connection to the VIP goes to the next real server in turn.
fn rules(reals: u16, flowtable: bool) -> String {
    let plan = Plan::new(Family::V4);
    let vip = plan.vip(0).ip();
    let mut text = String::from("table ip xvperf {\n");
    if flowtable {
        text += &flowtable_text();
        text += " chain offload {\n  type filter hook forward priority filter; policy accept;\n";
        text += "  meta l4proto { tcp, udp } flow add @fast\n }\n";
    }
    text += " chain balance {\n  type nat hook prerouting priority dstnat; policy accept;\n";
    for protocol in ["tcp", "udp"] {
        // Writing to a string cannot fail.
        let _ = write!(text, "  ip daddr {vip} {protocol} dport {VIP_PORT} dnat to ");
        let _ = write!(text, "numgen inc mod {reals} map {{ ");
        for real in 0..reals {
            let comma = if real == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}{real} : {}", plan.real(real));
        }
        let _ = writeln!(text, " }} : {REAL_PORT}");
    }
    text + " }\n}\n"
}

fn flowtable_text() -> String {
    format!(
        " flowtable fast {{\n  hook ingress priority filter; devices = {{ {FRONT}, {BACK} }};\n }}\n"
    )
}

/// Whether the kernel has flow tables: if not, in its words.
pub(super) fn flowtable_missing(lab: &Lab) -> anyhow::Result<Option<String>> {
    let text = format!("table ip xvperf {{\n{}}}\n", flowtable_text());
    let answer = nft(lab, &text);
    if answer.is_ok() {
        lab.balancer().run("nft", &["delete", "table", "ip", "xvperf"])?;
    }
    Ok(answer.err().map(|error| kernel_words(&format!("{error:#}"))))
}

/// What stands behind `Error:`, without the place in the file.
fn kernel_words(said: &str) -> String {
    let line = said.lines().find_map(|line| line.split_once("Error: ").map(|(_, words)| words));
    line.unwrap_or_else(|| said.lines().next().unwrap_or_default()).to_owned()
}

/// That the kernel's table holds twice as many connections as there will be.
pub(crate) fn room_for(connections: u32) -> anyhow::Result<()> {
    for file in [ROOM, BUCKETS] {
        let text = fs::read_to_string(file)
            .with_context(|| format!("{file}: has this kernel conntrack?"))?;
        let room: u64 = text.trim().parse().with_context(|| file.to_owned())?;
        let wanted = 2 * u64::from(connections);
        ensure!(
            room >= wanted,
            "{file} is {room}, and nftables would be slowed down by a small table: \
             echo {wanted} > {file}, or fewer --connections"
        );
    }
    Ok(())
}

/// Makes the kernel of the node `lb` the balancer.
pub(super) fn start(lab: &Lab, reals: u16, flowtable: bool) -> anyhow::Result<()> {
    package::need("nft", "nftables")?;
    lab.balancer().forward(true)?;
    nft(lab, &rules(reals, flowtable))?;
    // They are there as soon as a rule needs conntrack.
    for (key, value) in SETTINGS {
        lab.balancer().sysctl(key, value)?;
    }
    Ok(())
}

/// Makes the kernel of another node a balancer.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn start_on(node: &Namespace, reals: u16) -> anyhow::Result<()> {
    package::need("nft", "nftables")?;
    node.forward(true)?;
    node.run_with("nft", &["-f", "-"], &rules(reals, false))?;
    SETTINGS.into_iter().try_for_each(|(key, value)| node.sysctl(key, value))
}

/// Takes away what [`start_on`] made, connections included.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn stop_on(node: &Namespace) -> anyhow::Result<()> {
    node.run("nft", &["flush", "ruleset"])?;
    node.forward(false)?;
    forget(node)
}

/// Takes the rules away, and the connections with them.
pub(super) fn stop(lab: &Lab) -> anyhow::Result<()> {
    lab.balancer().run("nft", &["delete", "table", "ip", "xvperf"])?;
    lab.balancer().forward(false)?;
    forget(lab.balancer())
}

/// Empties the kernel's connection table, if there is a tool for it; else they time out.
fn forget(node: &Namespace) -> anyhow::Result<()> {
    if package::has("conntrack") { node.run("conntrack", &["-F"]).map(drop) } else { Ok(()) }
}

fn nft(lab: &Lab, text: &str) -> anyhow::Result<()> {
    let file = lab.directory().join("rules.nft");
    write(&file, text)?;
    lab.balancer().run("nft", &["-f", &file.display().to_string()]).map(drop)
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_real_server_has_its_turn() {
        let text = rules(3, false);
        assert!(text.contains(
            "ip daddr 198.18.255.1 tcp dport 80 dnat to numgen inc mod 3 map \
             { 0 : 198.19.0.1, 1 : 198.19.0.2, 2 : 198.19.0.3 } : 80"
        ));
        assert!(!text.contains("flow"));
        assert!(rules(3, true).contains("flow add @fast"));
    }

    #[test]
    fn the_kernels_own_words_are_kept() {
        let said =
            "nft -f x: exit status: 1: x:2:13-14: Error: Could not process rule: No such file\n ^^";
        assert_eq!(kernel_words(said), "Could not process rule: No such file");
        assert_eq!(kernel_words("no nft"), "no nft");
    }

    #[test]
    fn a_table_too_small_is_refused_with_the_remedy() {
        let error = format!("{:#}", room_for(u32::MAX).unwrap_err());
        assert!(error.contains("conntrack"), "{error}");
    }
}
