//! The same two nodes with what Debian users take: keepalived (VRRP) for the VIP, nftables for the balancing,
//! conntrackd for the connections. Each is given what a careful administrator gives it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;

use super::duo::Duo;
use crate::lab::pair::{BEAT, NODES, beat_address};
use crate::lab::{BACK, FRONT, Lab, Plan, Process, wait_until};
use crate::packet_path::Family;
use crate::peers::{nftables, package};
use crate::record::Scenario;

/// How long two nodes may take to be a pair.
const READY: Duration = Duration::from_secs(30);
/// How long a daemon may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// How often the one that serves says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advert {
    /// Each second: what the manual and every example have.
    Default,
    /// Each hundredth of a second: the least that VRRP version 3 can say (RFC 9568 section 5.2.7).
    Fastest,
}

impl Advert {
    const fn seconds(self) -> &'static str {
        match self {
            Self::Default => "1",
            Self::Fastest => "0.01",
        }
    }

    /// For tables.
    pub(super) fn words(self) -> String {
        let seconds = self.seconds();
        match self {
            Self::Default => format!("advert_int {seconds}: default"),
            Self::Fastest => format!("advert_int {seconds}: fastest"),
        }
    }
}

/// That everything is installed, and the kernel has room.
///
/// # Errors
/// With what is missing.
pub(super) fn need(connections: u32) -> anyhow::Result<()> {
    package::need("keepalived", "keepalived")?;
    package::need("conntrackd", "conntrackd")?;
    package::need("conntrack", "conntrack")?;
    nftables::room_for(connections)
}

/// The two.
pub(super) struct Keepalived {
    advert: Advert,
    reals: u16,
    /// Of each node: conntrackd, keepalived.
    running: [Vec<Process>; 2],
    active: usize,
}

impl Keepalived {
    /// Two that do not run yet.
    pub(super) fn new(advert: Advert, reals: u16) -> Self {
        Self { advert, reals, running: [Vec::new(), Vec::new()], active: 0 }
    }

    fn up(&mut self, lab: &Lab, index: usize) -> anyhow::Result<()> {
        let (name, node) = (NODES[index], lab.node(NODES[index]));
        let directory = lab.directory().join(name);
        // Locks and sockets of the turn before are of a machine that lost its power.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).with_context(|| format!("{}", directory.display()))?;
        nftables::start_on(node, self.reals)?;
        let file = directory.join("conntrackd.conf");
        fs::write(&file, conntrackd(index, &directory)).context("conntrackd.conf")?;
        let mut command = node.command(package::need("conntrackd", "conntrackd")?);
        command.arg("-C").arg(&file);
        let conntrackd = Process::start("conntrackd", command, &directory, None)?;
        let file = directory.join("keepalived.conf");
        fs::write(&file, keepalived(index, self.advert)).context("keepalived.conf")?;
        let mut command = node.command(package::need("keepalived", "keepalived")?);
        command.args(["--dont-fork", "--log-console", "--vrrp", "--use-file"]).arg(&file);
        command.arg("--pid").arg(directory.join("keepalived.pid"));
        command.arg("--vrrp_pid").arg(directory.join("vrrp.pid"));
        let keepalived = Process::start("keepalived", command, &directory, None)?;
        self.running[index] = vec![conntrackd, keepalived];
        Ok(())
    }

    fn must_run(&mut self) -> anyhow::Result<()> {
        self.running.iter_mut().flatten().try_for_each(Process::must_run)
    }

    /// Node that has the VIP, if one alone has it.
    fn owner(lab: &Lab) -> anyhow::Result<Option<usize>> {
        let vip = Plan::new(Family::V4).vip(0).ip().to_string();
        let mut owners = Vec::new();
        for (index, node) in NODES.into_iter().enumerate() {
            let shown = lab.node(node).run("ip", &["-o", "addr", "show", "to", &vip])?;
            if !shown.trim().is_empty() {
                owners.push(index);
            }
        }
        Ok(if owners.len() == 1 { owners.pop() } else { None })
    }

    fn settle(&mut self, lab: &Lab) -> anyhow::Result<()> {
        // Within an advertisement or two it may still change its mind.
        let steady = 10;
        let (mut seen, mut times) = (None, 0);
        wait_until("one node has the VIP", READY, || {
            self.must_run()?;
            let owner = Self::owner(lab)?;
            times = if owner.is_some() && owner == seen { times + 1 } else { 0 };
            seen = owner;
            Ok(owner.filter(|_| times >= steady).map(|owner| self.active = owner))
        })
    }
}

impl Duo for Keepalived {
    fn boot(&mut self, lab: &Lab, _: Scenario) -> anyhow::Result<()> {
        for index in 0..NODES.len() {
            lab.cables(index, true)?;
            self.up(lab, index)?;
        }
        self.settle(lab)
    }

    fn established(&mut self, lab: &Lab) -> u64 {
        let file = "/proc/sys/net/netfilter/nf_conntrack_count";
        let said = lab.node(NODES[self.active]).run("cat", &[file]).unwrap_or_default();
        said.trim().parse().unwrap_or(0)
    }

    fn act(&mut self, lab: &Lab, scenario: Scenario) -> anyhow::Result<()> {
        match scenario {
            Scenario::Nothing => Ok(()),
            Scenario::PowerOff => {
                // The links first: keepalived's child would say farewell when it sees its parent die.
                lab.cables(self.active, false)?;
                self.running[self.active].iter_mut().for_each(|p| p.signal(Signal::KILL));
                Ok(())
            }
            other => bail!("{} is not tried with keepalived", other.words()),
        }
    }

    fn mode(&mut self) -> Option<String> {
        None
    }

    fn stop(&mut self, lab: &Lab) -> anyhow::Result<()> {
        for (index, node) in NODES.into_iter().enumerate() {
            for mut process in self.running[index].drain(..).rev() {
                process.end(STOP);
            }
            lab.kill_all(node)?;
            let plan = Plan::new(Family::V4);
            // One that was killed has left them.
            let left = [(plan.vip(0).ip(), 32, FRONT), (plan.back(), plan.prefix(), BACK)];
            for (address, length, interface) in left {
                let _ =
                    lab.node(node).ip(&[format!("addr del {address}/{length} dev {interface}")]);
            }
            nftables::stop_on(lab.node(node))?;
            lab.cables(index, true)?;
        }
        Ok(())
    }

    fn tails(&self) -> String {
        let all =
            self.running.iter().zip(NODES).flat_map(|(r, name)| r.iter().map(move |p| (p, name)));
        let tails = all.map(|(p, name)| format!("--- log of {} of {name}\n{}", p.name(), p.tail()));
        tails.collect::<Vec<_>>().join("\n")
    }
}

fn keepalived(index: usize, advert: Advert) -> String {
    let plan = Plan::new(Family::V4);
    let (own, peer) = (beat_address(index), beat_address(1 - index));
    format!(
        "global_defs {{
    router_id {name}
    vrrp_version 3
    max_auto_priority 99
}}
vrrp_instance lab {{
    state BACKUP
    nopreempt
    interface {BEAT}
    virtual_router_id 51
    priority {priority}
    advert_int {advert}
    unicast_src_ip {own}
    unicast_peer {{
        {peer}
    }}
    virtual_ipaddress {{
        {vip}/32 dev {FRONT}
        {gateway}/{length} dev {BACK}
    }}
}}
",
        name = NODES[index],
        priority = if index == 0 { 150 } else { 100 },
        advert = advert.seconds(),
        vip = plan.vip(0).ip(),
        gateway = plan.back(),
        length = plan.prefix(),
    )
}

/// Reliable replication (FTFW), and no cache of its own at the receiver: the peer's connections go into the kernel as
/// they come, so that none have to be committed when the VIP moves.
fn conntrackd(index: usize, directory: &Path) -> String {
    let (own, peer) = (beat_address(index), beat_address(1 - index));
    let directory = directory.display();
    format!(
        "Sync {{
    Mode FTFW {{
        ResendQueueSize 131072
        DisableExternalCache On
    }}
    UDP {{
        IPv4_address {own}
        IPv4_Destination_Address {peer}
        Port 3780
        Interface {BEAT}
        SndSocketBuffer 8388608
        RcvSocketBuffer 8388608
        Checksum on
    }}
}}
General {{
    HashSize 65536
    HashLimit 524288
    LogFile {directory}/conntrackd.all
    Syslog off
    LockFile {directory}/conntrackd.lock
    UNIX {{
        Path {directory}/conntrackd.ctl
    }}
    NetlinkBufferSize 8388608
    NetlinkBufferSizeMaxGrowth 67108864
    Filter From Kernelspace {{
        Protocol Accept {{
            TCP
        }}
        Address Ignore {{
            IPv4_address 127.0.0.1
            IPv4_address {own}
            IPv4_address {peer}
        }}
    }}
}}
"
    )
}
