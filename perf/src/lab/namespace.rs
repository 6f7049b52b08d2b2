//! A network namespace and what is set up in it, by the machine's own tools.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::during;

/// Where `ip netns` keeps namespaces.
pub(super) const NETNS: &str = "/run/netns";

/// The name of a namespace that exists. Removing it is the lab's affair.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with a running loopback and without duplicate address detection, router
    /// advertisements and reverse path filters.
    ///
    /// # Errors
    /// If it exists or cannot be made.
    pub(super) fn create(name: &str) -> anyhow::Result<Self> {
        let mut add = Command::new("ip");
        add.args(["netns", "add", name]);
        run(add, None)?;
        let made = Self { name: name.to_owned() };
        made.shell(
            "for scope in all default; do
                echo 0 > /proc/sys/net/ipv6/conf/$scope/accept_dad
                echo 0 > /proc/sys/net/ipv6/conf/$scope/accept_ra
                echo 0 > /proc/sys/net/ipv4/conf/$scope/rp_filter
            done
            ip link set lo up",
        )?;
        Ok(made)
    }

    /// As `ip netns` shows it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NETNS).join(&self.name)
    }

    /// A program in this network, and in this network only: `ip netns exec` would give it a mount
    /// namespace too, and its mounts would vanish with it.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a program in this network to its end; returns what it wrote.
    ///
    /// # Errors
    /// With all that it said, if it fails.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        run(command, None)
    }

    /// Runs a program in this network to its end, with something to read; returns what it wrote.
    ///
    /// # Errors
    /// With all that it said, if it fails.
    pub(crate) fn run_with(
        &self,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> anyhow::Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        run(command, Some(input))
    }

    /// Runs a shell script in this network; it stops at the first error.
    ///
    /// # Errors
    /// With all that it said, if it fails.
    pub(crate) fn shell(&self, script: &str) -> anyhow::Result<String> {
        self.run("sh", &["-ec", script])
    }

    /// Many `ip` commands at once, one a line.
    ///
    /// # Errors
    /// At the first that fails.
    pub(crate) fn ip(&self, lines: &[String]) -> anyhow::Result<()> {
        let mut batch = Command::new("ip");
        batch.args(["-n", &self.name, "-batch", "-"]);
        run(batch, Some(&(lines.join("\n") + "\n"))).map(drop)
    }

    /// Sets what `sysctl KEY` would show.
    ///
    /// # Errors
    /// If there is no such setting, or it does not take the value.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        self.shell(&format!("echo {value} > /proc/sys/{}", key.replace('.', "/"))).map(drop)
    }

    /// Makes the kernel forward between its interfaces: what a balancer in the kernel needs.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn forward(&self, on: bool) -> anyhow::Result<()> {
        let value = if on { "1" } else { "0" };
        self.sysctl("net.ipv4.ip_forward", value)?;
        self.sysctl("net.ipv6.conf.all.forwarding", value)
    }

    /// Makes the kernel send whole packets with checksums on this interface, as a wire carries
    /// them.
    ///
    /// # Errors
    /// If there is no such interface.
    pub(crate) fn plain_offloads(&self, interface: &str) -> anyhow::Result<()> {
        let off = ["-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off"];
        self.run("ethtool", &off).map(drop)
    }

    /// Switches receive aggregation of a veth, and with it NAPI. Without NAPI (and without a
    /// program in native mode) an interface takes no frames that its peer was given by XDP.
    ///
    /// # Errors
    /// If there is no such interface.
    pub(crate) fn gro(&self, interface: &str, on: bool) -> anyhow::Result<()> {
        let value = if on { "on" } else { "off" };
        self.run("ethtool", &["-K", interface, "gro", value]).map(drop)
    }

    /// Hands what arrives on an interface to these cores (receive packet steering); to whichever
    /// core it arrives on, if there are none.
    ///
    /// # Errors
    /// If there is no such interface.
    pub(crate) fn rps(&self, interface: &str, cores: &[usize]) -> anyhow::Result<()> {
        let mask = cores
            .iter()
            .fold(0_u64, |mask, core| mask | 1_u64.checked_shl(*core as u32).unwrap_or(0));
        // /sys shows the interfaces of the network it was mounted in: here `ip netns exec` is
        // right.
        let mut command = Command::new("ip");
        let script = format!(
            "for queue in /sys/class/net/{interface}/queues/rx-*; do
                echo {mask:x} > $queue/rps_cpus
            done"
        );
        command.args(["netns", "exec", &self.name, "sh", "-ec", &script]);
        run(command, None).map(drop)
    }

    /// The MAC address of an interface, as text.
    ///
    /// # Errors
    /// If there is no such interface.
    pub(crate) fn mac(&self, interface: &str) -> anyhow::Result<String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-json", "link", "show", "dev", interface]);
        let links: serde_json::Value = serde_json::from_str(&run(command, None)?)?;
        let mac = links[0]["address"].as_str();
        Ok(mac.with_context(|| format!("{interface} has no address"))?.to_owned())
    }
}

/// Runs a command to its end.
///
/// # Errors
/// With the command and all that it said, if it fails.
pub(crate) fn run(mut command: Command, input: Option<&str>) -> anyhow::Result<String> {
    let shown = || {
        let program = command.get_program().to_string_lossy();
        let arguments = command.get_args().map(std::ffi::OsStr::to_string_lossy);
        std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
    };
    let shown = shown();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = during(|| command.spawn()).with_context(|| shown.clone())?;
    if let (Some(input), Some(mut sink)) = (input, child.stdin.take()) {
        // If it stops reading, it says why below.
        let _ = sink.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| shown.clone())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let said = if error.trim().is_empty() { text.trim() } else { error.trim() };
        bail!("{shown}: {}: {said}", output.status);
    }
    Ok(text)
}
