"""The lab with two balancers that stand in for each other.

                    front 10.77.1.0/24 (switch-a)          back 10.77.2.0/24 (switch-b)
    client .10-.14 ──────┬──────────────────┐             ┌────────────────────┐
                         ├────────── .2  lb1  .2 ─────────┤                    │
                         │                │ beat          │   gateway .1:      │
                         │                │ 10.77.9.0/24  │   of whoever       │
                         │                │ (cable)       │   is active        │
                         ├────────── .3  lb2  .3 ─────────┤                    │
                         └── real a .21  b .22  c .23 ────┴── .21 .22 .23 ─────┘

The plan of addresses is that of the lab with one balancer (`topology`), so that its methods, clients
and servers serve here too; what was the balancer's own address on back, the real servers' default
route, is now a gateway that floats. Each switch is a namespace of its own with a bridge: MAC addresses
are learnt, caches are those of kernels. `router` (front .254) is the address of the switch itself, for
those who want something to ping.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import time
from dataclasses import dataclass, field, replace

from . import config, net, topology, wait
from .balancer import Balancer
from .methods import LO_VIPS, LOCAL, method
from .packets import ARP, Ether, Wire
from .topology import BACK, FRONT, HERE, PYTHON, V4, V6, Lab, address

NODES = ("lb1", "lb2")
HOSTS = {"lb1": 2, "lb2": 3}
BEAT = "beat0"
NETWORKS = {"front": 1, "back": 2, "beat": 9}
BEAT_PORT, STREAM_PORT, MULTICAST = 6940, 6941, "239.192.69.40"
GATEWAYS = [address(2, 1, V4), address(2, 1, V6)]
ROUTER = address(1, 254, V4)
STRANGER = address(9, 66, V4)
# NAT (floating gateway), full NAT and direct routing (the VIP alone floats), both families.
METHODS = (method("nat"), method("nat", V6), method("fullnat"), method("direct"))

# Frames from a port, or to it, that vanish without either end seeing its link go down; and those
# that vanish by chance. There is no traffic control in every kernel; nftables is.
CUTTER = """
table bridge lab {
    set muted { type ifname; }
    set deaf { type ifname; }
    set lossy { type ifname; }
    chain in {
        type filter hook prerouting priority -300;
        iifname @muted drop
        iifname @lossy numgen random mod 100 < 30 drop
    }
    chain out { type filter hook postrouting priority 300; oifname @deaf drop; }
}
"""


@dataclass(frozen=True)
class Settings:
    """What `xvip.toml` says of the pair; the same on both nodes."""

    keepalive: str = "50ms"
    deadtime: str = "200ms"
    initdead: str = "1s"
    failback: str = "off"
    auth: str = "enforce"
    paths: tuple = ("beat", "back")
    pings: tuple = ()
    groups: tuple = ({"name": "all", "prefer": "lb1", "gateways": GATEWAYS},)
    replication: bool = True
    encrypt: bool = False
    digest: str = "1s"
    more: dict = field(default_factory=dict)
    methods: tuple = METHODS
    services: tuple = ()
    interfaces: tuple = (FRONT, BACK)
    engine: dict = field(default_factory=lambda: {"frames": 8192})

    def with_(self, **changes):
        """The same with changes."""
        return replace(self, **changes)


class Node(Balancer):
    """One of the two."""

    def __init__(self, pair, name):
        directory = pair.directory / name
        directory.mkdir(exist_ok=True)
        super().__init__(pair.net, name, f"{pair.prefix}-{name}", directory, f"{name}-")
        self.name = name
        self.pair = pair
        self.powered = True

    @property
    def other(self):
        """The peer."""
        return self.pair.nodes[NODES[1 - NODES.index(self.name)]]

    def up(self):
        """Starts both processes, whatever the state of the peer."""
        self.start_dataplane()
        self.start_control()

    def again(self):
        """Starts whichever of the two processes does not run."""
        if self.dataplane is None or not self.dataplane.alive():
            self.start_dataplane()
        if self.control is None or not self.control.alive():
            self.start_control()

    def running(self):
        """Whether both processes run."""
        return len(self.processes()) == 2 and all(p.alive() for p in self.processes())

    # -- what it says of the pair ---------------------------------------------------------------

    def ha(self):
        """What `xvip ha` shows: the view of the failure detector, and what differs between the files."""
        said = self.ask("ha")
        if said["view"] is None:
            raise net.CommandFailed("the failure detector has not said anything yet")
        return {**said["view"], "differences": said["differences"], "warnings": said["warnings"],
                "heartbeat": said["heartbeat"]}

    def groups(self):
        """What it says of its groups, by name."""
        return {g["name"]: g for g in self.ha()["groups"]}

    def role(self, group=None):
        """`active`, `standby`, ... for a group (the first one by default)."""
        return self._group(group)["role"]

    def _group(self, group):
        found = self.ha()["groups"]
        return found[0] if group is None else next(g for g in found if g["name"] == group)

    def active(self, group=None):
        """Whether it says that it owns the group."""
        return self.role(group) == "active"

    def verification(self, group=None):
        """Of a group that it owns: `verified`, `verifying`, `degraded`."""
        return self._group(group)["verification"]

    def synced(self):
        """Whether each node knows every connection of the other."""
        standing = self.ha()["replication"]
        return standing is None or (standing["synced_here"] and standing["synced_there"])

    def learning(self):
        """Why it may own nothing yet; None if it may."""
        return self.ha()["learning"]

    def refused(self):
        """Messages refused, by kind."""
        return self.ha()["refused"]

    def why(self):
        """Its explanation in words, for messages of failed tests."""
        try:
            return self.xvip("ha", check=False, timeout=5).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"no answer: {error}"

    def switchover(self, *arguments, check=True):
        """`xvip switchover`."""
        return self.xvip("switchover", *arguments, check=check)

    # -- signals --------------------------------------------------------------------------------

    def freeze(self):
        """Both processes stop where they are, as under a starved or paused machine."""
        for process in self.processes():
            process.kill(signal.SIGSTOP)

    def thaw(self):
        """They go on."""
        for process in self.processes():
            process.kill(signal.SIGCONT)

    def stop(self):
        """Orderly stop; a frozen process is let go on first."""
        self.thaw()
        return super().stop()

    end = stop

    def sees(self):
        """Whether it knows of all interfaces of both nodes: what it has not looked at since its start
        counts against a node, and its group goes to the other one."""
        view = self.ha()
        both = (view["evidence"], view["peer"]["evidence"])
        return all(e["interfaces"] == e["interfaces_wanted"] > 0 for e in both)

    def ready(self, interfaces=None):
        """Whether both processes run our configuration and every interface and next hop is there.
        Unlike a balancer that is alone, it need not hold anything."""
        self.alive()
        whole = self.ask("status")
        status = whole["data_plane"]
        if not (whole["agent"]["applied"] and status and status["pid"] == self.dataplane.pid):
            return False
        attached = {i["name"] for i in status["interfaces"] if i["attached"] and i["link"] == "up"}
        wanted = interfaces if interfaces is not None else [i["name"] for i in status["interfaces"]]
        return bool(status["services"]) and bool(wanted) and set(wanted) <= attached and all(
            r["next_hop"] == "resolved" for s in status["services"] for r in s["reals"])


class Both:
    """The two nodes, where other groups of tests have their one balancer."""

    def __init__(self, pair):
        self.pair = pair

    def processes(self):
        """Of both."""
        return [p for n in self.pair.nodes.values() for p in n.processes()]

    def alive(self):
        """Raises if a process has died by itself. What a test has killed, it must have started again."""
        for node in self.pair.nodes.values():
            node.alive()

    def ready(self):
        """Whether the pair is as a test wants to find it."""
        return self.pair.healthy()

    def stop(self):
        """Orderly stop of both; problems in words."""
        return [p for n in self.pair.nodes.values() for p in n.stop()]

    end = stop

    def sweep(self):
        """Removes what was left; problems in words."""
        return [p for n in self.pair.nodes.values() for p in n.sweep()]


class Pair(Lab):
    """Client, two switches, two balancers, real servers. Use as a context manager."""

    switches = {"front": "switch-a", "back": "switch-b", "beat": "cable"}

    def __init__(self, run_id=None, keep=False, name="xvpair"):
        super().__init__(run_id=run_id, keep=keep, lo_vips=LO_VIPS, decapsulate=False, name=name)
        self.nodes = {n: Node(self, n) for n in NODES}
        self.balancer = Both(self)
        self.settings = Settings()
        self.key = self.directory / "ha.key"
        self.tty = None
        self.wire = None

    def balancers(self):
        """Both."""
        return list(self.nodes.values())

    def close(self):
        """Ends and removes everything."""
        for node in self.nodes.values():
            node.thaw()
        if self.wire is not None:
            self.wire.socket.close()
            self.wire = None
        return super().close()

    # -- networks -------------------------------------------------------------------------------

    def networks(self):
        """Namespaces, switches, addresses, routes."""
        n = self.net
        n.add(*self.switches.values(), "client", *NODES, "stranger", *(f"real-{r}" for r in topology.REALS))
        for bridge, switch in self.switches.items():
            n.bridge(switch, bridge)
            n.exec(switch, "nft", "-f", "-", stdin=CUTTER)
        n.batch("switch-a", [f"addr add {ROUTER}/24 dev front"])
        self._client()
        for node in NODES:
            # As administrators of IPv6 set it up: addresses stay while a link is down.
            n.shell(node, """
                for scope in all default; do echo 1 > /proc/sys/net/ipv6/conf/$scope/keep_addr_on_down; done
            """)
            for network in NETWORKS:
                self.plug(node, network)
                self._addresses(node, network)
            n.plain_offloads(node, BEAT)
        self.plug("stranger", "beat")
        n.plain_offloads("stranger", BEAT)
        n.batch("stranger", [f"addr add {STRANGER}/24 dev {BEAT}"])
        self._reals()
        self.key.write_text(secrets.token_hex(32) + "\n")
        self.key.chmod(0o600)
        self.wire = Wire(n, "client", FRONT)

    def _addresses(self, node, network):
        number, host = NETWORKS[network], HOSTS[node]
        self.net.batch(node, [
            f"addr replace {address(number, host, V4)}/24 dev {network}0",
            f"addr replace {address(number, host, V6)}/64 dev {network}0 nodad",
        ])

    def serial_line(self):
        """A null modem cable between the nodes: two devices whose bytes meet. Returns the process."""
        process = self.net.start("cable", f"modem-{time.monotonic_ns()}", [PYTHON, HERE / "modem.py"])
        lines = wait.until(lambda: process.log.read_text().splitlines(), "the serial line is there", 5)
        self.tty = dict(zip(NODES, lines[0].split()))
        return process

    # -- cutting and healing --------------------------------------------------------------------

    def cut(self, node, *networks):
        """Pulls cables: the node sees no carrier."""
        self._ports(node, networks, "down")

    def heal(self, node, *networks):
        """Puts them back."""
        self._ports(node, networks, "up")

    def _ports(self, node, networks, state):
        for network in networks or NETWORKS:
            self.net.batch(self.switches[network], [f"link set {node}.{network} {state}"])

    def mute(self, node, *networks):
        """What the node sends is lost; it hears everything, and its links stay up."""
        self._sets("add", "muted", node, networks)

    def unmute(self, node, *networks):
        """It is heard again."""
        self._sets("delete", "muted", node, networks)

    def deafen(self, node, *networks):
        """Nothing reaches the node; it is heard, and its links stay up."""
        self._sets("add", "deaf", node, networks)

    def undeafen(self, node, *networks):
        """It hears again."""
        self._sets("delete", "deaf", node, networks)

    def lossy(self, node, *networks):
        """A third of what the node sends is lost."""
        self._sets("add", "lossy", node, networks)

    def unlossy(self, node, *networks):
        """Nothing more is lost by chance."""
        self._sets("delete", "lossy", node, networks)

    def _sets(self, verb, name, node, networks):
        for network in networks or NETWORKS:
            element = ("element", "bridge", "lab", name, f"{{ {node}.{network} }}")
            self.net.exec(self.switches[network], "nft", "add", *element)
            if verb == "delete":  # an element that is not there cannot be deleted
                self.net.exec(self.switches[network], "nft", "delete", *element)

    def restore_links(self):
        """Every link is up and loses nothing, and no neighbour is remembered."""
        for switch in self.switches.values():
            for name in ("muted", "deaf", "lossy"):
                self.net.exec(switch, "nft", "flush", "set", "bridge", "lab", name)
        self.net.batch("switch-a", [f"addr replace {ROUTER}/24 dev front"])
        for node in NODES:
            there = {link["ifname"] for link in self.net.ip(node, "link")}
            for network in NETWORKS:
                if f"{network}0" not in there:
                    self.plug(node, network)
                self.heal(node, network)
                self.net.batch(node, [f"link set {network}0 up"])
                self._addresses(node, network)
        self.forget("client", *NODES, *(f"real-{r}" for r in topology.REALS))

    def forget(self, *nodes):
        """These kernels know no neighbour any more."""
        for node in nodes:
            for flag in ("-4", "-6"):
                net.run(["ip", "-n", self.net.namespace(node), flag, "neigh", "flush", "all"])

    # -- power ----------------------------------------------------------------------------------

    def power_off(self, name):
        """The node is gone from one moment to the next: links dark, processes dead, memory lost."""
        node = self.nodes[name]
        for process in node.processes():
            process.kill(signal.SIGKILL)
        self.cut(name)
        for process in node.processes():
            process.popen.wait(5)
        node.dataplane = node.control = None
        node.powered = False
        problems = node.sweep_instance(node.instance)  # memory; what is on its disk stays
        assert not problems, "; ".join(problems)

    def power_on(self, name):
        """It boots: links come up, the processes start, and know nothing."""
        node = self.nodes[name]
        self.heal(name)
        node.powered = True
        node.up()

    # -- configuration --------------------------------------------------------------------------

    def text(self, name, settings=None):
        """xvip.toml of a node."""
        s = settings or self.settings
        services = [service for m in s.methods for service in m.services()] + list(s.services)
        local = LOCAL if any(m.forwarding == "fullnat" for m in s.methods) else ()
        parts = [config.document(services, s.interfaces, [self._core()], local, node=name, **s.engine)]
        parts.append(config.table("[ha]", {
            "nodes": NODES, "keepalive": s.keepalive, "deadtime": s.deadtime, "initdead": s.initdead,
            "failback": s.failback, "key": [{"id": 1, "file": str(self.key)}], "auth": s.auth,
            "path": [self._path(p) for p in s.paths], "ping": list(s.pings) or None, **s.more}))
        if s.replication:
            parts.append(config.table("[ha.replication]", {
                **{n: f"{address(9, HOSTS[n], V4)}:{STREAM_PORT}" for n in NODES},
                "encrypt": s.encrypt, "digest": s.digest}))
        parts += [config.table("[[ha.group]]", g) for g in s.groups]
        return "\n".join(parts)

    @staticmethod
    def _core():
        return max(os.sched_getaffinity(0))

    def _path(self, name):
        if name == "serial":
            return {"type": "serial", **self.tty, "baud": 115200}
        if name == "back":
            return {"type": "multicast", "group": f"{MULTICAST}:{BEAT_PORT}", "interface": BACK}
        family = V6 if name.endswith("6") else V4
        number = NETWORKS[name.removesuffix("6")]
        hosts = {n: f"{topology.url_host(address(number, h, family))}:{BEAT_PORT}" for n, h in HOSTS.items()}
        return {"type": "udp", **hosts, "interface": f"{name.removesuffix('6')}0"}

    def configure(self, settings=None):
        """Writes both files."""
        self.settings = settings or self.settings
        for name, node in self.nodes.items():
            node.configure(self.text(name))

    def boot(self, settings=None, seconds=20):
        """Starts both nodes with a configuration and waits until they are a pair."""
        self.configure(settings or Settings())
        for node in self.nodes.values():
            node.powered = True
            node.up()
        self.settled(seconds)

    # -- what is seen from outside --------------------------------------------------------------

    def macs(self, interface=FRONT):
        """Names of the nodes by the MAC address of one of their interfaces."""
        return {self.net.mac(name, interface): name for name in NODES}

    def claims(self, vip=None, seconds=0.3):
        """Everybody who answers ARP for an IPv4 VIP when the client asks once: names of nodes, in order."""
        vip = vip or method("nat").vip
        names = self.macs()
        self.wire.clear()
        self.wire.send(Ether(src=self.wire.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
            op=1, hwsrc=self.wire.mac, psrc=address(1, topology.CLIENT_HOSTS[0], V4), pdst=vip))
        found, deadline = [], time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            frame = self.wire.receive(
                lambda f: f[ARP].op == 2 and f[ARP].psrc == vip and f[ARP].pdst != vip, left)
            if frame is not None:
                found.append(names.get(frame[ARP].hwsrc, frame[ARP].hwsrc))
        return found

    def owner(self, vip=None, seconds=0.3):
        """Who answers for a VIP, as the client sees it; None if nobody or several do."""
        found = set(self.claims(vip, seconds))
        return found.pop() if len(found) == 1 else None

    def wait_owner(self, name, what, seconds=5.0, vip=None):
        """Waits until the client finds that node, and only it, at the VIP. Returns the seconds it took."""
        began = time.monotonic()
        try:
            wait.until(lambda: self.owner(vip, 0.1) == name, f"{name} owns the VIP {what}", seconds)
        except wait.Timeout as error:
            raise wait.Timeout(f"{error}\n{self.words()}") from None
        return time.monotonic() - began

    def active(self, group=None):
        """The node that says it owns the group; raises unless exactly one does."""
        found = [n for n in self.nodes.values() if n.running() and n.active(group)]
        assert len(found) == 1, f"{len(found)} nodes say that they are active"
        return found[0]

    def standby(self, group=None):
        """The other one."""
        return self.active(group).other

    def healthy(self):
        """Both nodes ready, one owner that is verified, and each knows what the other knows."""
        return all(n.running() and n.ready() and n.synced() and n.sees() for n in self.nodes.values()) and all(
            self._one_owner(g["name"]) for g in self.settings.groups)

    def _one_owner(self, group):
        roles = sorted(n.role(group) for n in self.nodes.values())
        return roles == ["active", "standby"] and self.active(group).verification(group) == "verified"

    def settled(self, seconds=20):
        """Waits for `healthy`."""
        try:
            wait.until(self.healthy, "the two nodes are a healthy pair", seconds, 0.05)
        except wait.Timeout as error:
            raise wait.Timeout(f"{error}\n{self.words()}") from None

    def words(self):
        """What both say, for messages."""
        return "\n".join(f"--- xvip ha on {n.name}\n{n.why()}" for n in self.nodes.values() if n.running())


@contextlib.contextmanager
def standing(settings=None, **options):
    """A pair, booted, for as long as the block runs."""
    with Pair(**options) as pair:
        pair.boot(settings)
        yield pair
