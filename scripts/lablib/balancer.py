"""The processes under test: xvip-dataplane and xvip-control in a node, and the xvip command."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess

from . import net, wait

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = ("xvip-dataplane", "xvip-control", "xvip")


def binary_directory():
    """Where the built binaries are: $XVIP_BIN_DIR, else cargo's release directory."""
    if "XVIP_BIN_DIR" in os.environ:
        return pathlib.Path(os.environ["XVIP_BIN_DIR"])
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def missing_binaries():
    """Names of the binaries that are not built."""
    return [name for name in BINARIES if not (binary_directory() / name).is_file()]


class Balancer:
    """One data plane, one control process, one configuration file."""

    def __init__(self, network, node, instance, directory, label=""):
        self.net = network
        self.node = node
        self.instance = instance
        self.label = label  # before the names of its processes, where there are several balancers
        self.directory = pathlib.Path(directory)
        self.config = self.directory / "xvip.toml"
        self.run_dir = pathlib.Path("/run") / instance
        self.state_dir = self.directory / "state"
        self.table = pathlib.Path("/dev/shm") / f"{instance}.table"
        self.dataplane = None
        self.control = None
        self.starts = 0

    # -- configuration ----------------------------------------------------------------------

    def configure(self, text):
        """Writes xvip.toml as editors do: whole or not at all."""
        temporary = self.config.with_suffix(".new")
        temporary.write_text(text)
        temporary.rename(self.config)

    # -- life cycle -------------------------------------------------------------------------

    def start_dataplane(self):
        """Starts the data plane. It knows nothing until control has spoken to it."""
        self.starts += 1
        self.dataplane = self.net.start(self.node, f"{self.label}dataplane-{self.starts}", [
            binary_directory() / "xvip-dataplane", "--instance", self.instance,
            "--run-dir", self.run_dir])
        return self.dataplane

    def start_control(self):
        """Starts the control process."""
        self.starts += 1
        self.control = self.net.start(self.node, f"{self.label}control-{self.starts}", [
            binary_directory() / "xvip-control", "--config", self.config,
            "--instance", self.instance, "--run-dir", self.run_dir, "--state-dir", self.state_dir])
        return self.control

    def start(self, text=None, ready=True, seconds=20):
        """Starts both, and waits until the balancer says that it is ready."""
        if text is not None:
            self.configure(text)
        self.start_dataplane()
        self.start_control()
        if ready:
            self.wait_ready(seconds)

    def restart(self, text):
        """A fresh pair of processes with a configuration."""
        self.stop()
        self.start(text)

    def stop(self):
        """Orderly stop of both; problems in words."""
        problems = []
        for process in (self.control, self.dataplane):
            if process is not None and process.alive() and process.end(10) is None:
                problems.append(f"{process.name} did not stop on SIGTERM and was killed")
        self.control = self.dataplane = None
        return problems

    end = stop

    def processes(self):
        """Those that were started and not stopped."""
        return [p for p in (self.dataplane, self.control) if p is not None]

    def alive(self):
        """Raises with the log's end if a process has died by itself."""
        for process in self.processes():
            if not process.alive():
                raise wait.Fatal(
                    f"{process.name} ended with {process.popen.returncode}:\n{process.tail()}")

    def sweep(self):
        """Removes what processes that were killed have left on the machine."""
        shutil.rmtree(self.state_dir, ignore_errors=True)
        return self.sweep_instance(self.instance)

    @staticmethod
    def sweep_instance(instance):
        """Removes run directory, mounts and shared memory of an instance; problems in words."""
        problems = []
        run_dir = pathlib.Path("/run") / instance
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            points = [line.split()[1] for line in mounts]
        for point in reversed([p for p in points if p.startswith(f"{run_dir}/")]):
            done = subprocess.run(["umount", point], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                problems.append(f"umount {point}: {done.stderr.strip()}")
        if not problems:
            shutil.rmtree(run_dir, ignore_errors=True)
        for file in pathlib.Path("/dev/shm").glob(f"{instance}.*"):
            with contextlib.suppress(OSError):
                file.unlink()
        return problems

    # -- the operator's command -------------------------------------------------------------

    def xvip(self, *arguments, check=True, timeout=15):
        """Runs the xvip command; returns the finished process."""
        command = self.net.inside_command(self.node, [
            str(binary_directory() / "xvip"), "--instance", self.instance,
            "--socket", str(self.run_dir / "control.sock"), *map(str, arguments)])
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise net.CommandFailed(
                f"xvip {' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr.strip()}")
        return done

    def ask(self, *arguments, check=True):
        """`xvip --json ...`, parsed."""
        return json.loads(self.xvip("--json", *arguments, check=check).stdout)

    def status(self):
        """What the data plane says of itself, asked through control."""
        whole = self.ask("status")
        if whole["data_plane"] is None:
            raise net.CommandFailed(f"control does not reach the data plane: {whole['agent']}")
        return whole["data_plane"]

    def interface(self, name):
        """Status of one interface; None if it is not listed."""
        return next((i for i in self.status()["interfaces"] if i["name"] == name), None)

    def service(self, name):
        """Status of one service; None if it is not listed."""
        return next((s for s in self.ask("services")["services"] if s["name"] == name), None)

    def conns(self, *filters):
        """Connections, all pages."""
        return self.ask("conns", "--all", *filters)["conns"]

    def drops(self):
        """Dropped packets by reason."""
        return {c["name"]: c["value"] for c in self.ask("counters")["drops"]}

    def events(self):
        """Events by name."""
        return {c["name"]: c["value"] for c in self.ask("counters")["events"]}

    def reload(self, text, check=True):
        """Changes the file and has it applied."""
        self.configure(text)
        return self.xvip("reload", check=check)

    # -- waiting ------------------------------------------------------------------------------

    def ready(self, interfaces=None):
        """Whether our data plane runs our configuration, interfaces are attached, the lease is held
        and every real's next hop is known."""
        self.alive()
        whole = self.ask("status")
        status = whole["data_plane"]
        if not (whole["agent"]["applied"] and status and status["pid"] == self.dataplane.pid):
            return False
        attached = {i["name"] for i in status["interfaces"] if i["attached"] and i["link"] == "up"}
        wanted = interfaces if interfaces is not None else [i["name"] for i in status["interfaces"]]
        resolved = all(r["next_hop"] == "resolved" for s in status["services"] for r in s["reals"])
        return (bool(status["interfaces"]) and set(wanted) <= attached and status["lease_ms"] > 0
                and bool(status["services"]) and resolved)

    def wait_ready(self, seconds=20, interfaces=None):
        """Waits for `ready`; the data plane's log is told if it does not come."""
        try:
            wait.until(lambda: self.ready(interfaces), "xvip status says ready", seconds, 0.05)
        except wait.Timeout as error:
            logs = "\n".join(f"--- {p.name}\n{p.tail()}" for p in self.processes())
            raise wait.Timeout(f"{error}\n{logs}") from None

    # -- traces on the machine ----------------------------------------------------------------

    def xdp_programs(self):
        """Interfaces of the balancer that have an XDP program."""
        return [link["ifname"] for link in self.net.ip(self.node, "link") if link.get("xdp")]

    def traces(self):
        """What an orderly stop must not leave behind, in words."""
        found = [f"XDP program on {name}" for name in self.xdp_programs()]
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            found += [f"mount {line.split()[1]}" for line in mounts if str(self.run_dir) in line]
        if self.run_dir.exists():
            found += [f"file {path}" for path in self.run_dir.rglob("*")]
        found += [f"file {path}" for path in pathlib.Path("/dev/shm").glob(f"{self.instance}.*")]
        return found

    def kill(self, process):
        """`kill -9`, waited for, so that the next line of a test is after the death."""
        process.kill(signal.SIGKILL)
        process.popen.wait(5)
