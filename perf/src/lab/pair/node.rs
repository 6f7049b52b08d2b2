//! One of two balancers: its processes, and what can happen to them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use dataplane_api::message::Status;
use rustix::process::Signal;

use super::ha::Ha;
use super::{NODES, sweep};
use crate::lab::balancer::{Agent, binary};
use crate::lab::{Lab, Process, namespace, say};

/// How long a process may take to stop, or to die.
const STOP: Duration = Duration::from_secs(15);
/// How long a supervisor waits before it starts again what has died: `RestartSec` of systemd by default.
pub(crate) const RESTART: Duration = Duration::from_millis(100);

/// One of the two. What runs of it is killed when it is dropped.
pub(crate) struct Node {
    index: usize,
    instance: String,
    run_dir: PathBuf,
    state_dir: PathBuf,
    file: PathBuf,
    logs: PathBuf,
    dataplane: Option<Process>,
    control: Option<Process>,
    agent: Option<Agent>,
    starts: u32,
}

/// Writes the key of both nodes; returns its path.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write_key(lab: &Lab) -> anyhow::Result<PathBuf> {
    let file = lab.directory().join("ha.key");
    // A secret of the lab, which nobody else is in.
    let digits: String = (0..32).map(|n| format!("{:02x}", (n * 37 + 11) % 256)).collect();
    fs::write(&file, digits + "\n").with_context(|| format!("{}", file.display()))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).context("the key's mode")?;
    Ok(file)
}

impl Node {
    /// One that does not run, with the configuration that it will have.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn new(lab: &Lab, index: usize, config: &str) -> anyhow::Result<Self> {
        let name = NODES[index];
        let logs = lab.directory().join(name);
        fs::create_dir_all(&logs).with_context(|| format!("{}", logs.display()))?;
        let file = logs.join("xvip.toml");
        fs::write(&file, config).with_context(|| format!("{}", file.display()))?;
        Ok(Self {
            index,
            instance: format!("{}-{name}", lab.prefix()),
            run_dir: Path::new("/run").join(lab.prefix()).join(name),
            state_dir: logs.join("state"),
            file,
            logs,
            dataplane: None,
            control: None,
            agent: None,
            starts: 0,
        })
    }

    /// Its configuration from the next start or reload on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn configure(&self, config: &str) -> anyhow::Result<()> {
        fs::write(&self.file, config).with_context(|| format!("{}", self.file.display()))
    }

    fn start(&mut self, lab: &Lab, program: &str) -> anyhow::Result<Process> {
        self.starts += 1;
        fs::create_dir_all(&self.run_dir).with_context(|| format!("{}", self.run_dir.display()))?;
        let mut command = lab.node(NODES[self.index]).command(binary(program)?);
        command.arg("--instance").arg(&self.instance).arg("--run-dir").arg(&self.run_dir);
        if program == "xvip-control" {
            command.arg("--config").arg(&self.file).arg("--state-dir").arg(&self.state_dir);
        }
        Process::start(&format!("{program}-{}", self.starts), command, &self.logs, None)
    }

    /// Starts the data plane.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start_dataplane(&mut self, lab: &Lab) -> anyhow::Result<()> {
        self.agent = None;
        self.dataplane = Some(self.start(lab, "xvip-dataplane")?);
        Ok(())
    }

    /// Starts control.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start_control(&mut self, lab: &Lab) -> anyhow::Result<()> {
        self.control = Some(self.start(lab, "xvip-control")?);
        Ok(())
    }

    /// Starts both.
    ///
    /// # Errors
    /// If one cannot be started.
    pub(crate) fn up(&mut self, lab: &Lab) -> anyhow::Result<()> {
        self.start_dataplane(lab)?;
        self.start_control(lab)
    }

    /// Whether both processes are meant to run.
    pub(crate) fn is_up(&self) -> bool {
        self.dataplane.is_some() && self.control.is_some()
    }

    /// It loses its power: both processes die without a word, all links go dark, and nothing stays in memory.
    ///
    /// # Errors
    /// If the links stay up, or something stays mounted.
    pub(crate) fn power_off(&mut self, lab: &Lab) -> anyhow::Result<()> {
        let both = [&mut self.control, &mut self.dataplane];
        both.into_iter().flatten().for_each(|p| p.signal(Signal::KILL));
        lab.cables(self.index, false)?;
        self.agent = None;
        [self.control.take(), self.dataplane.take()].into_iter().flatten().for_each(gone);
        self.forget()
    }

    /// It has power again, and knows nothing.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub(crate) fn power_on(&mut self, lab: &Lab) -> anyhow::Result<()> {
        lab.cables(self.index, true)?;
        self.up(lab)
    }

    fn forget(&self) -> anyhow::Result<()> {
        let problems = sweep::unmount(&self.run_dir);
        let _ = fs::remove_dir_all(&self.state_dir);
        let _ = fs::remove_file(Path::new(sweep::SHARED).join(format!("{}.table", self.instance)));
        if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("; ")) }
    }

    /// The data plane dies without a word.
    pub(crate) fn kill_dataplane(&mut self) {
        self.agent = None;
        if let Some(mut process) = self.dataplane.take() {
            process.signal(Signal::KILL);
            gone(process);
        }
    }

    /// Control dies without a word.
    pub(crate) fn kill_control(&mut self) {
        if let Some(mut process) = self.control.take() {
            process.signal(Signal::KILL);
            gone(process);
        }
    }

    /// Control stops in order.
    pub(crate) fn stop_control(&mut self) {
        if let Some(mut process) = self.control.take()
            && !process.end(STOP)
        {
            say(&format!("{} of {} had to be killed", process.name(), NODES[self.index]));
        }
    }

    /// Both stop in order, control first.
    pub(crate) fn stop(&mut self) {
        self.stop_control();
        self.agent = None;
        if let Some(mut process) = self.dataplane.take()
            && !process.end(STOP)
        {
            say(&format!("{} of {} had to be killed", process.name(), NODES[self.index]));
        }
    }

    /// That what is meant to run does.
    ///
    /// # Errors
    /// With the end of its log, if something has died by itself.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        let both = [&mut self.control, &mut self.dataplane];
        both.into_iter().flatten().try_for_each(Process::must_run)
    }

    /// What the data plane says of itself; none if it does not answer (yet).
    pub(crate) fn status(&mut self) -> Option<Status> {
        if self.agent.is_none() {
            self.agent = Agent::connect(&self.run_dir.join("agent.sock")).ok();
        }
        let status = self.agent.as_mut()?.status().ok();
        if status.is_none() {
            self.agent = None;
        }
        status
    }

    /// Established connections, as the data plane counts them.
    pub(crate) fn established(&mut self) -> u64 {
        let status = self.status().unwrap_or_default();
        status.services.iter().flat_map(|s| &s.reals).map(|r| r.active).sum()
    }

    /// Whether the data plane is on all its interfaces and serves.
    pub(crate) fn attached(&mut self) -> bool {
        let Some(status) = self.status() else { return false };
        let attached = status.interfaces.iter().all(|i| i.attached && i.link == "up");
        attached && !status.interfaces.is_empty() && !status.services.is_empty()
    }

    /// Runs the operator's command; what it wrote.
    ///
    /// # Errors
    /// If it fails; with all that it said.
    pub(crate) fn xvip(&self, lab: &Lab, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = lab.node(NODES[self.index]).command(binary("xvip")?);
        command.arg("--instance").arg(&self.instance);
        command.arg("--socket").arg(self.run_dir.join("control.sock")).args(arguments);
        namespace::run(command, None)
    }

    /// `xvip ha --json`.
    ///
    /// # Errors
    /// If control does not answer, or something else.
    pub(crate) fn ha(&self, lab: &Lab) -> anyhow::Result<Ha> {
        let text = self.xvip(lab, &["--json", "ha"])?;
        serde_json::from_str(&text).with_context(|| format!("what `xvip ha` says: {text}"))
    }

    /// Ends of the logs, for messages.
    pub(crate) fn tails(&self) -> String {
        let both = [&self.control, &self.dataplane];
        let tails = both
            .into_iter()
            .flatten()
            .map(|p| format!("--- log of {} of {}\n{}", p.name(), NODES[self.index], p.tail()));
        tails.collect::<Vec<_>>().join("\n")
    }
}

fn gone(mut process: Process) {
    // It was killed: this only takes its exit status.
    let _ = process.wait(STOP);
}
