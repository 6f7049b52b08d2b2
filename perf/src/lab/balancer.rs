//! The real `xvip-dataplane` and `xvip-control` in a node of a lab.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use dataplane_api::VERSION;
use dataplane_api::message::{Reply, Request, Status};
use dataplane_api::service::{Engine, Forwarding, Poll, Protocol, Scheduler, XdpMode};
use serde::Serialize;

use super::{BACK, BALANCER, FRONT, Lab, Plan, Process, REAL_PORT, on_cores, wait_until};
use crate::packet_path::Family;

/// How long the balancer may take to be ready: a table of ten million connections is a gigabyte to
/// write.
const READY: Duration = Duration::from_secs(60);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(15);
/// How long an answer on the agent socket may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Connections that a local address of full NAT is counted on for (it has 64,512 ports).
const LOCAL_SHARE: u32 = 50_000;
/// Most local addresses (`docs/config.md`).
const LOCAL_MAX: u32 = 64;

/// What the balancer is to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Config {
    /// Forwarding method of all services.
    pub(crate) method: Forwarding,
    /// Address family.
    pub(crate) family: Family,
    /// Transport protocol.
    pub(crate) protocol: Protocol,
    /// Connections that will be open; the table gets an eighth more room.
    pub(crate) connections: u32,
    /// Real servers of the first service, 1 to 1000.
    pub(crate) reals: u16,
    /// Services, 1 to 1000; traffic goes to the first, each of the others has one real server.
    pub(crate) services: u16,
    /// Scheduler of all services.
    pub(crate) scheduler: Scheduler,
    /// One worker on each of these.
    pub(crate) cores: Vec<usize>,
    /// Whether they sleep when there is nothing to do.
    pub(crate) poll: Poll,
    /// Packet buffers of one worker for one interface.
    pub(crate) frames: u32,
    /// Where the program runs on `front`.
    pub(crate) front: XdpMode,
    /// Where the program runs on `back`.
    pub(crate) back: XdpMode,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            method: Forwarding::Nat,
            family: Family::V4,
            protocol: Protocol::Tcp,
            connections: 100_000,
            reals: 16,
            services: 1,
            scheduler: Scheduler::Rr,
            cores: vec![1],
            poll: Poll::Busy,
            frames: Engine::default().frames,
            front: XdpMode::Auto,
            back: XdpMode::Auto,
        }
    }
}

impl Config {
    /// The file, as `docs/config.md` has it.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        let plan = Plan::new(self.family);
        let (method, protocol) = (word(self.method), word(self.protocol));
        writeln!(to, "[engine]\ncores = {:?}\npoll = \"{}\"", self.cores, word(self.poll))?;
        // Half-open ones are no limit here: opening 100,000 within a second is no flood.
        let connections = (u64::from(self.connections) * 9 / 8).clamp(1024, 1 << 26);
        writeln!(to, "connections = {connections}\nhalf_open_percent = 100")?;
        writeln!(to, "frames = {}", self.frames)?;
        for (name, mode) in [(FRONT, self.front), (BACK, self.back)] {
            writeln!(to, "\n[[interface]]\nname = \"{name}\"\nmode = \"{}\"", word(mode))?;
        }
        if self.method == Forwarding::Fullnat {
            let count = self.connections.div_ceil(LOCAL_SHARE).clamp(1, LOCAL_MAX) as u16;
            let local: Vec<_> = (0..count).map(|n| plan.local(n).to_string()).collect();
            writeln!(to, "\n[fullnat]\naddresses = {local:?}")?;
        }
        for service in 0..self.services {
            writeln!(to, "\n[[service]]\nname = \"s{service}\"\nprotocol = \"{protocol}\"")?;
            writeln!(to, "listen = \"{}\"\nforwarding = \"{method}\"", plan.vip(service))?;
            writeln!(to, "scheduler = \"{}\"\nreal = [", word(self.scheduler))?;
            let reals = if service == 0 { 0..self.reals } else { service..service + 1 };
            for real in reals {
                let address = std::net::SocketAddr::new(plan.real(real % 1000), REAL_PORT);
                writeln!(to, "  {{ address = \"{address}\" }},")?;
            }
            writeln!(to, "]")?;
        }
        Ok(())
    }
}

/// A value as the configuration file writes it.
pub(crate) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

/// A mode of an XDP program, as an option.
pub(crate) fn xdp_mode(text: &str) -> Result<XdpMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected auto, native or generic".to_owned())
}

/// The binaries of the source that this program was built with: `$XVIP_BIN_DIR`, else beside this
/// program.
///
/// # Errors
/// If it is not there, with the command that builds it.
pub(crate) fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let directory = match std::env::var_os("XVIP_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let own = std::env::current_exe().context("this program's own path")?;
            let beside = own.parent().unwrap_or(Path::new("."));
            // Tests run from a directory below.
            let above = if beside.ends_with("deps") { beside.parent() } else { None };
            above.unwrap_or(beside).to_owned()
        }
    };
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is not there: `cargo build --release --workspace` builds it, and XVIP_BIN_DIR may say \
         where it is",
        path.display()
    );
    Ok(path)
}

/// A running balancer; stopped when dropped.
pub(crate) struct Balancer {
    run_dir: PathBuf,
    dataplane: Process,
    control: Process,
    agent: Option<Agent>,
}

impl Balancer {
    /// Starts both processes in the node `lb`, and waits until the data plane has the
    /// configuration, is on all interfaces and holds the lease. Real servers need not answer yet.
    ///
    /// # Errors
    /// If it does not become ready; with the ends of both logs.
    pub(crate) fn start(lab: &Lab, config: &Config) -> anyhow::Result<Self> {
        Self::start_in(lab, BALANCER, config)
    }

    /// The same in another node.
    ///
    /// # Errors
    /// As [`Balancer::start`].
    pub(crate) fn start_in(lab: &Lab, node: &str, config: &Config) -> anyhow::Result<Self> {
        let file = lab.directory().join("xvip.toml");
        fs::write(&file, config.text()).with_context(|| format!("{}", file.display()))?;
        // The generator's real servers have other MAC addresses in each of its runs.
        lab.node(node).shell("ip -4 neigh flush all; ip -6 neigh flush all")?;
        let instance = lab.prefix().to_owned();
        let run_dir = Path::new("/run").join(&instance);
        let common = |command: &mut std::process::Command| {
            command.arg("--instance").arg(&instance).arg("--run-dir").arg(&run_dir);
        };
        let mut dataplane = lab.node(node).command(binary("xvip-dataplane")?);
        common(&mut dataplane);
        let mut control = lab.node(node).command(binary("xvip-control")?);
        common(&mut control);
        control.arg("--config").arg(&file);
        // What the workers' cores have to spare is nobody's.
        let others = spare(&config.cores);
        if !others.is_empty() {
            control = on_cores(&others, &control);
        }
        let dataplane = lab.start("dataplane", dataplane)?;
        let control = lab.start("control", control)?;
        let mut started = Self { run_dir, dataplane, control, agent: None };
        wait_until("the balancer is ready", READY, || started.ready())
            .with_context(|| started.tails())?;
        Ok(started)
    }

    /// The socket to ask the data plane on.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// The data plane.
    pub(crate) fn dataplane(&mut self) -> &mut Process {
        &mut self.dataplane
    }

    /// Time that both processes have had cores.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.dataplane.cpu_time() + self.control.cpu_time()
    }

    /// What the data plane says of itself.
    ///
    /// # Errors
    /// If a process has ended, or the data plane does not answer; with the ends of both logs.
    pub(crate) fn status(&mut self) -> anyhow::Result<Status> {
        self.dataplane.must_run()?;
        self.control.must_run()?;
        let asked = self.ask();
        if asked.is_err() {
            self.agent = None;
        }
        asked.with_context(|| self.tails())
    }

    /// Resident memory of the data plane in bytes.
    pub(crate) fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.dataplane.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }

    /// Stops both, control first. Says so if one had to be killed.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.end()
    }

    fn end(&mut self) -> Vec<String> {
        self.agent = None;
        let mut problems = Vec::new();
        for process in [&mut self.control, &mut self.dataplane] {
            if !process.end(STOP) {
                problems.push(format!("{} did not stop and was killed", process.name()));
            }
        }
        problems
    }

    fn tails(&self) -> String {
        let tail = |p: &Process| format!("--- log of {}\n{}", p.name(), p.tail());
        format!("{}\n{}", tail(&self.dataplane), tail(&self.control))
    }

    fn ready(&mut self) -> anyhow::Result<Option<()>> {
        self.dataplane.must_run()?;
        self.control.must_run()?;
        // Not yet there, or nothing applied yet.
        let Ok(status) = self.ask() else {
            self.agent = None;
            return Ok(None);
        };
        for interface in &status.interfaces {
            if let Some(problem) = &interface.problem {
                bail!("interface {}: {problem}", interface.name);
            }
        }
        let attached = status.interfaces.iter().all(|i| i.attached && i.link == "up");
        let pinned = status.workers.iter().all(|w| w.pinned);
        let whole = !status.interfaces.is_empty() && !status.services.is_empty();
        Ok((whole && attached && pinned && status.lease_ms > 0).then_some(()))
    }

    fn ask(&mut self) -> anyhow::Result<Status> {
        let path = self.agent_socket();
        if self.agent.is_none() {
            self.agent = Some(Agent::connect(&path)?);
        }
        self.agent.as_mut().context("no connection")?.status()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        for problem in self.end() {
            super::say(&problem);
        }
    }
}

/// Cores of the machine that are not among these.
pub(crate) fn spare(taken: &[usize]) -> Vec<usize> {
    let all = core_affinity::get_core_ids().unwrap_or_default();
    all.into_iter().map(|c| c.id).filter(|id| !taken.contains(id)).collect()
}

/// A session on the agent socket.
pub(super) struct Agent {
    stream: BufReader<UnixStream>,
}

impl Agent {
    pub(super) fn connect(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("{}", path.display()))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut agent = Self { stream: BufReader::new(stream) };
        match agent.ask(&Request::Hello { version: VERSION })? {
            Reply::Hello { version: VERSION, .. } => Ok(agent),
            other => bail!("the data plane is of another version: {other:?}"),
        }
    }

    /// What the data plane says of itself.
    pub(super) fn status(&mut self) -> anyhow::Result<Status> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            Reply::Error { message } => bail!("the data plane says: {message}"),
            other => bail!("the data plane answered something else: {other:?}"),
        }
    }

    fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).context("asking the data plane")?;
        let mut answer = String::new();
        ensure!(
            self.stream.read_line(&mut answer).context("answer of the data plane")? > 0,
            "the data plane closed the connection"
        );
        Ok(serde_json::from_str(&answer)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(config: &Config) -> toml::Table {
        config.text().parse().unwrap()
    }

    #[test]
    fn the_file_says_what_was_asked_for() {
        let file = parsed(&Config {
            method: Forwarding::Fullnat,
            family: Family::V6,
            protocol: Protocol::Udp,
            connections: 1_000_000,
            reals: 1000,
            services: 3,
            scheduler: Scheduler::Wlc,
            poll: Poll::Busy,
            cores: vec![0, 1],
            frames: 16_384,
            front: XdpMode::Native,
            back: XdpMode::Generic,
        });
        let engine = file["engine"].as_table().unwrap();
        assert_eq!(engine["cores"], toml::Value::from(vec![0, 1]));
        assert_eq!(engine["connections"].as_integer(), Some(1_125_000));
        assert_eq!(engine["poll"].as_str(), Some("busy"));
        assert_eq!(file["interface"][0]["mode"].as_str(), Some("native"));
        assert_eq!(file["interface"][1]["mode"].as_str(), Some("generic"));
        assert_eq!(file["fullnat"]["addresses"].as_array().unwrap().len(), 20);
        let services = file["service"].as_array().unwrap();
        assert_eq!(services.len(), 3);
        assert_eq!(services[0]["real"].as_array().unwrap().len(), 1000);
        assert_eq!(services[1]["real"].as_array().unwrap().len(), 1);
        assert_eq!(services[0]["listen"].as_str(), Some("[2001:db8:18::ffff:1]:80"));
        assert_eq!(services[0]["protocol"].as_str(), Some("udp"));
        assert_eq!(services[0]["scheduler"].as_str(), Some("wlc"));
        assert_eq!(services[2]["forwarding"].as_str(), Some("fullnat"));
    }

    #[test]
    fn modes_are_read_as_the_file_writes_them() {
        assert_eq!(xdp_mode("native"), Ok(XdpMode::Native));
        assert!(xdp_mode("fast").unwrap_err().contains("expected"));
    }

    #[test]
    fn small_tables_keep_the_least_size_and_only_full_nat_has_local_addresses() {
        let file = parsed(&Config { connections: 10, ..Config::default() });
        assert_eq!(file["engine"]["connections"].as_integer(), Some(1024));
        assert!(!file.contains_key("fullnat"));
    }

    #[test]
    fn what_is_not_built_is_named_with_the_command() {
        let error = binary("xvip-nonesuch").unwrap_err().to_string();
        assert!(error.contains("xvip-nonesuch") && error.contains("cargo build"), "{error}");
    }
}
