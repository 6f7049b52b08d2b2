"""A set of network namespaces with one prefix, everything in it, and its removal.

`Net` knows nothing of load balancing. Whatever it makes carries the run's prefix, so that two runs
side by side never meet; `close` ends every process inside and removes every namespace, and says
what it could not remove.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import time

from . import wait

CLONE_NEWNET = 0x40000000
NETNS = pathlib.Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(RuntimeError):
    """A command of the lab's own ended with an error; the message holds command and output."""


def run(arguments, stdin=None, check=True, timeout=60):
    """Runs a command to its end and returns its standard output as text."""
    arguments = [str(a) for a in arguments]
    done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        output = (done.stderr or done.stdout).strip()
        raise CommandFailed(f"{' '.join(arguments)}: exit {done.returncode}: {output}")
    return done.stdout


def _start_time(pid):
    """Start of a process in clock ticks: with the pid, its identity."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return text.rsplit(")", 1)[1].split()[19]


class Process:
    """A process of the lab. Its output goes to a file, so that no pipe can stall it."""

    def __init__(self, name, arguments, log, env=None):
        self.name = name
        self.log = pathlib.Path(log)
        with open(self.log, "ab") as sink:
            self.popen = subprocess.Popen(
                [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                start_new_session=True, env=env)
        self.pid = self.popen.pid

    def alive(self):
        """Whether it still runs."""
        return self.popen.poll() is None

    def kill(self, sig=signal.SIGKILL):
        """Sends a signal; no error if it is gone already."""
        if self.alive():
            self.popen.send_signal(sig)

    def end(self, seconds=5.0, sig=signal.SIGTERM):
        """Asks it to stop and waits; after the deadline kills it. Returns its exit status, or None if killed."""
        self.kill(sig)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(5)
            return None

    def end_group(self):
        """Kills it with all that it started, such as what a shell runs just now: that would live on, and
        a client among them would go on asking whoever has the address next."""
        if self.alive():
            os.killpg(self.pid, signal.SIGKILL)
            self.popen.wait(5)

    def tail(self, lines=15):
        """The last lines it wrote, for error messages."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class Net:
    """Network namespaces `PREFIX-NODE` and the processes in them."""

    def __init__(self, prefix, directory):
        self.prefix = prefix
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.nodes = []
        self.processes = []

    # -- namespaces ---------------------------------------------------------------------------

    def namespace(self, node):
        """The namespace's name, as `ip netns` shows it."""
        return f"{self.prefix}-{node}"

    def path(self, node):
        """The file that holds the namespace."""
        return NETNS / self.namespace(node)

    def add(self, *nodes):
        """Makes namespaces with a running loopback and without duplicate address detection."""
        for node in nodes:
            run(["ip", "netns", "add", self.namespace(node)])
            self.nodes.append(node)
            self.shell(node, """
                for scope in all default; do
                    echo 0 > /proc/sys/net/ipv6/conf/$scope/accept_dad
                    echo 0 > /proc/sys/net/ipv6/conf/$scope/accept_ra
                    echo 0 > /proc/sys/net/ipv4/conf/$scope/rp_filter
                done
                ip link set lo up
            """)

    def inside_command(self, node, arguments):
        """The command line that runs `arguments` in the node's network (and only its network:
        `ip netns exec` would give it a mount namespace of its own, and with it lose every mount)."""
        return ["nsenter", f"--net={self.path(node)}", *arguments]

    def exec(self, node, *arguments, **options):
        """Runs a command in a node to its end and returns its output."""
        return run(self.inside_command(node, arguments), **options)

    def shell(self, node, script, **options):
        """Runs a shell script in a node; stops at the first error."""
        return self.exec(node, "sh", "-ec", script, **options)

    def batch(self, node, lines):
        """Runs many `ip` commands in a node as one process."""
        run(["ip", "-n", self.namespace(node), "-batch", "-"], stdin="\n".join(lines) + "\n")

    def ip(self, node, *arguments):
        """`ip -json ARGUMENTS` in a node, parsed."""
        return json.loads(run(["ip", "-n", self.namespace(node), "-json", *arguments]) or "[]")

    @contextlib.contextmanager
    def inside(self, node):
        """The calling thread is in the node's network until the block ends. Sockets made inside
        stay there for good, which is how tests talk from several nodes in one process."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(self.path(node), os.O_RDONLY)
        try:
            self._setns(there)
            try:
                yield
            finally:
                self._setns(home)
        finally:
            os.close(there)
            os.close(home)

    @staticmethod
    def _setns(descriptor):
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    # -- links --------------------------------------------------------------------------------

    def bridge(self, node, name):
        """Makes a switch: no spanning tree, no multicast snooping, and no packet filter hooks,
        which would put IP fragments together behind the tests' backs."""
        self.batch(node, [
            f"link add name {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {name} up",
        ])
        self.shell(node, """
            for hook in arptables iptables ip6tables; do
                file=/proc/sys/net/bridge/bridge-nf-call-$hook
                if [ -e $file ]; then echo 0 > $file; fi
            done
        """)

    def plug(self, node, interface, switch, bridge, queues=1, mtu=1500, up=True):
        """Connects a node's new interface to a bridge by a veth pair."""
        port = f"{node}.{bridge}"[:15]
        queue = f"numrxqueues {queues} numtxqueues {queues}"
        self.batch(switch, [
            f"link add name {port} mtu {mtu} {queue} type veth peer name {interface} mtu {mtu} {queue} "
            f"netns {self.namespace(node)}",
            f"link set {port} master {bridge} up",
        ])
        # A VLAN tag travels in the frame, as on a wire, and not beside it, where XDP cannot see it.
        self.shell(switch, f"ethtool -K {port} tx-vlan-hw-insert off tx-vlan-stag-hw-insert off >/dev/null")
        if up:
            self.batch(node, [f"link set {interface} up"])
        return port

    def plain_offloads(self, node, *interfaces):
        """Makes the node's kernel send whole packets with checksums, as a wire would carry them."""
        script = "\n".join(
            f"ethtool -K {i} tx off tso off gso off gro off >/dev/null" for i in interfaces)
        self.shell(node, script)

    def mac(self, node, interface):
        """MAC address of an interface."""
        return self.ip(node, "link", "show", "dev", interface)[0]["address"]

    # -- processes ----------------------------------------------------------------------------

    def start(self, node, name, arguments, env=None):
        """Starts a process in a node; `close` ends it."""
        log = self.directory / f"{name}.log"
        process = Process(name, self.inside_command(node, arguments), log, env)
        self.processes.append(process)
        return process

    def pids(self, node):
        """Every process in the node's network."""
        text = run(["ip", "netns", "pids", self.namespace(node)], check=False)
        return [int(pid) for pid in text.split()]

    # -- the end ------------------------------------------------------------------------------

    def identities(self):
        """(pid, start time) of each process started here that still runs, for the state file."""
        found = []
        for process in self.processes:
            with contextlib.suppress(OSError, IndexError):
                found.append([process.pid, _start_time(process.pid)])
        return found

    def close(self):
        """Ends all processes, removes all namespaces; returns what went wrong, in words."""
        problems = []
        for process in reversed(self.processes):
            if process.alive():
                process.kill(signal.SIGTERM)
        for process in reversed(self.processes):
            if process.end(3.0) is None:
                problems.append(f"{process.name} did not stop on SIGTERM and was killed")
        self.processes.clear()
        problems += remove_namespaces([self.namespace(node) for node in reversed(self.nodes)])
        self.nodes.clear()
        return problems


def kill_identified(identities):
    """Ends processes named by (pid, start time), so that a reused pid is never hit."""
    mine = []
    for pid, started in identities:
        with contextlib.suppress(OSError, IndexError):
            if _start_time(pid) == started:
                os.kill(pid, signal.SIGTERM)
                mine.append((pid, started))

    def gone():
        for pid, started in mine:
            try:
                if _start_time(pid) == started and "Z" not in _state(pid):
                    return False
            except (OSError, IndexError):
                continue
        return True

    with contextlib.suppress(wait.Timeout):
        wait.until(gone, "processes end", 5)


def _state(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def remove_namespaces(names):
    """Kills what still runs in the namespaces and removes them; returns problems in words."""
    problems = []
    for name in names:
        if not (NETNS / name).exists():
            continue
        for sig in (signal.SIGTERM, signal.SIGKILL):
            pids = [int(p) for p in run(["ip", "netns", "pids", name], check=False).split()]
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, sig)
            if not pids:
                break
            time.sleep(0.1)
        try:
            run(["ip", "netns", "del", name])
        except CommandFailed as error:
            problems.append(str(error))
    return problems
