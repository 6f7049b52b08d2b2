//! The lab: network namespaces of one run, the links and processes in them, and their removal.
//!
//! All that a run makes carries its prefix, `xvperf-PID`, so that two runs side by side never meet.
//! It is removed when the [`Lab`] is dropped, when the process gets SIGINT or SIGTERM, and, if the
//! process was killed, by the next run on the machine: it finds the lock of the dead one open.
//!
//! ```text
//!   gen                      lb
//!   cli0 ───────────────── front      clients 198.18/16, 2001:db8:18::/64, the VIP among them
//!   srv0 ───────────────── back       real servers 198.19/16, 2001:db8:19::/64
//! ```
//!
//! `cli0` and `srv0` carry no addresses: the generator answers for all clients and real servers
//! itself.

pub(crate) mod balancer;
pub(crate) mod generator;
pub(crate) mod hold;
pub(crate) mod hosts;
pub(crate) mod namespace;
mod place;
pub(crate) mod pair;
mod plan;
pub(crate) mod process;
pub(crate) mod quiet;
pub(crate) mod stalls;
mod sweep;
pub(crate) mod turns;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use dataplane::clock;

pub(crate) use namespace::Namespace;
pub(crate) use place::{Place, last_core};
pub(crate) use plan::{CLIENTS, Plan, REAL_PORT, VIP_PORT};
pub(crate) use process::Process;

/// Node of the generator.
pub(crate) const GENERATOR: &str = "gen";
/// Node of the balancer.
pub(crate) const BALANCER: &str = "lb";
/// Node in which both of the generator's interfaces are the two ends of one veth pair: no balancer.
pub(crate) const CABLE: &str = "cable";
/// The generator's interface on the clients' side.
pub(crate) const CLIENT_LINK: &str = "cli0";
/// The generator's interface on the real servers' side.
pub(crate) const SERVER_LINK: &str = "srv0";
/// The balancer's interface towards the clients.
pub(crate) const FRONT: &str = "front";
/// The balancer's interface towards the real servers.
pub(crate) const BACK: &str = "back";

/// Pause between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// How links are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Links {
    /// Queues of each interface, both ways.
    pub(crate) queues: usize,
    /// MTU of the clients' side.
    pub(crate) front_mtu: u32,
    /// MTU of the real servers' side.
    pub(crate) back_mtu: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { queues: 1, front_mtu: 1500, back_mtu: 1500 }
    }
}

/// The namespaces of a run.
pub(crate) struct Lab {
    prefix: String,
    directory: PathBuf,
    nodes: Vec<(String, Namespace)>,
    /// Held while the lab stands.
    _lock: File,
    /// Held while it is measured in.
    measuring: Option<File>,
}

impl Lab {
    /// A lab without namespaces. What dead runs have left on the machine is removed first.
    ///
    /// # Errors
    /// If the process is not root, or a file cannot be made.
    pub(crate) fn empty() -> anyhow::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        if !rustix::process::geteuid().is_root() {
            bail!("network namespaces need root");
        }
        sweep::catch_signals()?;
        for problem in sweep::left_overs() {
            let problem: &str = &problem;
            say(problem);
        }
        let pid = std::process::id();
        let prefix = match NUMBER.fetch_add(1, Ordering::Relaxed) {
            0 => format!("xvperf-{pid}"),
            number => format!("xvperf-{pid}.{number}"),
        };
        let lock = sweep::lock(&prefix)?;
        let directory = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(&directory).with_context(|| format!("{}", directory.display()))?;
        Ok(Self { prefix, directory, nodes: Vec::new(), _lock: lock, measuring: None })
    }

    /// As [`Lab::standard`], when no other measurement runs on the machine; waits until then.
    ///
    /// # Errors
    /// As [`Lab::standard`].
    pub(crate) fn alone(links: Links) -> anyhow::Result<Self> {
        let mut lab = Self::standard(links)?;
        lab.measuring = Some(sweep::alone()?);
        Ok(lab)
    }

    /// Generator and balancer, linked as shown above; addresses of both families on `front` and
    /// `back`.
    ///
    /// # Errors
    /// If anything cannot be made; what was made until then is removed.
    pub(crate) fn standard(links: Links) -> anyhow::Result<Self> {
        let mut lab = Self::empty()?;
        lab.add(GENERATOR)?;
        lab.add(BALANCER)?;
        let Links { queues, front_mtu, back_mtu } = links;
        lab.link((GENERATOR, CLIENT_LINK), (BALANCER, FRONT), queues, front_mtu)?;
        lab.link((GENERATOR, SERVER_LINK), (BALANCER, BACK), queues, back_mtu)?;
        lab.balancer().ip(&Plan::balancer_addresses(FRONT, BACK))?;
        Ok(lab)
    }

    /// Adds a node in which the generator's two interfaces are joined to each other, so that its packets
    /// go straight from one to the other: what they take without anything between.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn add_cable(&mut self, mtu: u32) -> anyhow::Result<()> {
        let node = self.add(CABLE)?;
        self.link((CABLE, CLIENT_LINK), (CABLE, SERVER_LINK), 1, mtu)?;
        // Without NAPI a veth takes no frames that its peer was given by XDP.
        [CLIENT_LINK, SERVER_LINK].into_iter().try_for_each(|link| node.gro(link, true))
    }

    /// Begins the name of everything in this lab.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// For files of the run; removed with the lab.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn add(&mut self, node: &str) -> anyhow::Result<Namespace> {
        let namespace = Namespace::create(&format!("{}-{node}", self.prefix))?;
        self.nodes.push((node.to_owned(), namespace.clone()));
        Ok(namespace)
    }

    /// Names of all namespaces, as `ip netns` shows them.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|(_, namespace)| namespace.name())
    }

    /// One of the namespaces.
    ///
    /// # Panics
    /// If no such node was added: a mistake in the program.
    pub(crate) fn node(&self, node: &str) -> &Namespace {
        let found = self.nodes.iter().find(|(name, _)| name == node);
        &found.unwrap_or_else(|| panic!("there is no node {node}")).1
    }

    /// Kills whatever runs in a node.
    ///
    /// # Errors
    /// If something does not die.
    pub(crate) fn kill_all(&self, node: &str) -> anyhow::Result<()> {
        sweep::empty(self.node(node).name()).map_or(Ok(()), |problem| bail!(problem))
    }

    /// The balancer's namespace.
    pub(crate) fn balancer(&self) -> &Namespace {
        self.node(BALANCER)
    }

    /// Joins two nodes by a pair of interfaces, up, without offloads, each with `queues` queues.
    /// (Cores that send choose their queue by number, so there should be no more of them than
    /// queues.)
    ///
    /// # Errors
    /// If the interfaces cannot be made.
    pub(crate) fn link(
        &self,
        (left, left_name): (&str, &str),
        (right, right_name): (&str, &str),
        queues: usize,
        mtu: u32,
    ) -> anyhow::Result<()> {
        let (left, right) = (self.node(left), self.node(right));
        let shape = format!("mtu {mtu} numrxqueues {queues} numtxqueues {queues}");
        left.ip(&[format!(
            "link add name {left_name} {shape} type veth peer name {right_name} {shape} netns {}",
            right.name()
        )])?;
        for (node, interface) in [(left, left_name), (right, right_name)] {
            node.plain_offloads(interface)?;
            node.ip(&[format!("link set {interface} up")])?;
        }
        Ok(())
    }

    /// Starts a program in a node; it is killed when the [`Process`] is dropped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(&self, name: &str, command: Command) -> anyhow::Result<Process> {
        Process::start(name, command, &self.directory, None)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for problem in sweep::sweep(&self.prefix) {
            say(&problem);
        }
        // Only now: processes of this lab have ended.
        self.measuring = None;
    }
}

/// Binds a command to cores: `taskset -c CORES COMMAND`.
pub(crate) fn on_cores(cores: &[usize], command: &Command) -> Command {
    let list = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut bound = Command::new("taskset");
    bound.args(["-c", &list]).arg(command.get_program()).args(command.get_args());
    bound
}

/// Looks until there is an answer, at most `limit` long.
///
/// # Errors
/// If there is none by then, or looking fails.
pub(crate) fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = clock::now().after(limit);
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if clock::now() >= deadline {
            bail!("waited {limit:?} in vain: {what}");
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Does something that makes a process or a namespace, unless the run is being ended by a signal:
/// then it waits for the end, so that nothing comes to be behind the back of who removes it all.
fn during<T>(make: impl FnOnce() -> T) -> T {
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    make()
}

/// Held while something is made, and for good once the run is being ended.
static MAKING: Mutex<()> = Mutex::new(());

/// Tells the person at the terminal; standard output is for results.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests;
