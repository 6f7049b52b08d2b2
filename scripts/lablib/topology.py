"""The lab: a client, a balancer, real servers and the switches between them.

                      front 10.77.1.0/24 fd77:1::/64          back 10.77.2.0/24 fd77:2::/64
    client .10-.14 ───────┬──────────────┐                  ┌───────────────┐
                          │           balancer .1 ──────────┴─ .1           │
                          │                                                 │
                          └── real a .21  b .22  c .23 ──────── .21 .22 .23 ┘

NAT and full NAT go through the balancer from front to back (two networks); direct routing and tunnel
stay on front (one network), where the real servers hold the VIP on their loopback interface and
answer the client themselves. What a real server sends from its back address goes out on back, with
the balancer as its router, as an administrator of LVS-NAT would set it up.

The switches are Linux bridges in a namespace of their own.
"""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import time

from . import net, wait
from .balancer import Balancer

HERE = pathlib.Path(__file__).resolve().parent
STATE = pathlib.Path("/run/xvlab")
PYTHON = "/usr/bin/python3"

FRONT, BACK = "front0", "back0"
REALS = ("a", "b", "c")
V4, V6 = "ipv4", "ipv6"
FAMILIES = (V4, V6)
PREFIX = {V4: "10.77.", V6: "fd77:"}
HTTP, HTTP_ALT, ECHO = 80, 8080, 7
CLIENT_HOSTS = (10, 11, 12, 13, 14)
PACED = 1 << 20  # bytes of paced.bin; `?rate=BYTES` has any file come that fast and no faster


def address(network, host, family):
    """Address of a host: network 1 is front, 2 is back."""
    return f"10.77.{network}.{host}" if family == V4 else f"fd77:{network}::{host}"


def vip(number, family):
    """A VIP, numbered from 0."""
    return address(1, 100 + number, family)


def url_host(addr):
    """An address as it stands in a URL or in `listen`."""
    return f"[{addr}]" if ":" in addr else addr


class Lab:
    """One running lab. Use as a context manager: leaving it removes everything."""

    # The namespace in which each network's bridge stands.
    switches = {"front": "switch", "back": "switch"}

    def __init__(self, run_id=None, queues=1, keep=False, lo_vips=(), decapsulate=True, name="xvlab"):
        self.run_id = run_id or secrets.token_hex(3)
        self.prefix = f"{name}-{self.run_id}"
        self.directory = pathlib.Path("/tmp") / self.prefix
        self.queues = queues
        self.keep = keep
        self.lo_vips = list(lo_vips)
        self.decapsulate = decapsulate
        self.net = net.Net(self.prefix, self.directory)
        self.balancer = Balancer(self.net, "balancer", self.prefix, self.directory)

    # -- life cycle -----------------------------------------------------------------------------

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        if not self.keep:
            self.close()

    def up(self):
        """Networks and servers; not the balancer's processes, which tests start themselves."""
        self.save_state()
        self.networks()
        self.servers()
        self.save_state()

    def close(self):
        """Ends and removes everything, however far it had got. Returns problems in words."""
        problems = []
        for step in (self.balancer.end, self.net.close, self.balancer.sweep):
            try:
                problems += step() or []
            except Exception as error:  # noqa: BLE001 - the other steps must still run
                problems.append(f"{step.__name__}: {error}")
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.state_file().unlink()
        return problems

    def balancers(self):
        """Every balancer of the lab."""
        return [self.balancer]

    def state_file(self):
        """Where `scripts/lab down` finds what this run made."""
        return STATE / f"{self.prefix}.json"

    def save_state(self):
        """Writes down what exists, for a `down` from another process."""
        STATE.mkdir(exist_ok=True)
        state = {
            "prefix": self.prefix,
            "owner": os.getpid(),
            "standing": self.keep,
            "made": time.time(),
            "directory": str(self.directory),
            "instances": [b.instance for b in self.balancers()],
            "processes": self.net.identities(),
        }
        self.state_file().write_text(json.dumps(state, indent=1))

    # -- networks -------------------------------------------------------------------------------

    def networks(self):
        """Namespaces, switches, addresses, routes."""
        n = self.net
        n.add("switch", "client", "balancer", *(f"real-{r}" for r in REALS))
        n.bridge("switch", "front")
        n.bridge("switch", "back")
        self._client()
        self.balancer_link(FRONT)
        self.balancer_link(BACK)
        self._reals()
        n.batch("switch", ["link set front up", "link set back up"])

    def plug(self, node, network, **options):
        """Connects a node to a network: its interface `NETWORK0`."""
        return self.net.plug(node, f"{network}0", self.switches[network], network, **options)

    def _reals(self):
        for index, real in enumerate(REALS):
            self._real(f"real-{real}", 21 + index)

    def _client(self):
        n = self.net
        # One queue here, whatever the balancer has: the switch then spreads flows by their hash. From a
        # sender with several, Linux would take the first queue for all (a transmit queue number left
        # in the packet is read as "received on the queue before").
        self.plug("client", "front")
        n.plain_offloads("client", FRONT)
        lines = [f"addr add {address(1, host, V4)}/24 dev {FRONT}" for host in CLIENT_HOSTS]
        for host in CLIENT_HOSTS:  # the first is what the kernel uses when nobody asks
            life = "" if host == CLIENT_HOSTS[0] else " preferred_lft 0"
            lines.append(f"addr add {address(1, host, V6)}/64 dev {FRONT} nodad{life}")
        n.batch("client", lines)

    def balancer_link(self, interface, mtu=1500, up=True):
        """Makes one of the balancer's interfaces (again), with its addresses."""
        network, bridge = (1, "front") if interface == FRONT else (2, "back")
        self.net.plug("balancer", interface, "switch", bridge, self.queues, mtu, up)
        self.balancer_addresses(interface)

    def balancer_addresses(self, interface):
        """Gives a balancer interface its own addresses (the kernel takes IPv6 ones on link down)."""
        network = 1 if interface == FRONT else 2
        self.net.batch("balancer", [
            f"addr replace {address(network, 1, V4)}/24 dev {interface}",
            f"addr replace {address(network, 1, V6)}/64 dev {interface} nodad",
        ])

    def cut_balancer_link(self, interface):
        """Deletes one of the balancer's interfaces."""
        self.net.batch("balancer", [f"link del {interface}"])

    def restore_links(self):
        """Both of the balancer's interfaces as they were at first, and no neighbour remembered."""
        there = {link["ifname"]: link for link in self.net.ip("balancer", "link")}
        for interface in (FRONT, BACK):
            link = there.get(interface)
            if link is None:
                self.balancer_link(interface)
                continue
            port = f"balancer.{'front' if interface == FRONT else 'back'}"
            self.net.batch("switch", [f"link set {port} up"])
            self.net.batch("balancer", [f"link set {interface} mtu 1500 up"])
            self.balancer_addresses(interface)
        for node in ("client", "balancer", *(f"real-{r}" for r in REALS)):
            for flag in ("-4", "-6"):
                net.run(["ip", "-n", self.net.namespace(node), flag, "neigh", "flush", "all"])
                net.run(["ip", "-n", self.net.namespace(node), flag, "route", "flush", "cache"], check=False)

    def _real(self, node, host):
        n = self.net
        self.plug(node, "front")
        self.plug(node, "back")
        n.plain_offloads(node, FRONT, BACK)
        lines = []
        for family, length in ((V4, 24), (V6, 64)):
            flag = f"-{6 if family == V6 else 4}"
            for network, interface in ((1, FRONT), (2, BACK)):
                lines.append(f"addr add {address(network, host, family)}/{length} dev {interface}")
            # Answers from the back address go out on back, with the balancer as router.
            lines += [
                f"{flag} route add {address(2, 0, family) if family == V4 else 'fd77:2::'}/{length} "
                f"dev {BACK} table 2",
                f"{flag} route add default via {address(2, 1, family)} dev {BACK} table 2",
                f"{flag} rule add from {address(2, host, family)} lookup 2",
            ]
        n.batch(node, [line for line in lines if not line.startswith("-")])
        for line in (line for line in lines if line.startswith("-")):
            flag, rest = line.split(" ", 1)
            net.run(["ip", "-n", n.namespace(node), flag, *rest.split()])
        # The VIP of direct routing and tunnel sits on lo and is never answered for (LVS-DR's rule).
        n.shell(node, f"""
            for i in all {FRONT} {BACK}; do
                echo 1 > /proc/sys/net/ipv4/conf/$i/arp_ignore
                echo 2 > /proc/sys/net/ipv4/conf/$i/arp_announce
                echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter
            done
        """)
        for vip_address in self.lo_vips:
            self._loopback(node, vip_address)

    def _loopback(self, node, vip_address):
        # IPv6 needs no counterpart of arp_ignore: the kernel answers neighbour solicitations only
        # for addresses of the interface they come in on.
        length, extra = ("128", "nodad") if ":" in vip_address else ("32", "")
        self.net.batch(node, [f"addr add {vip_address}/{length} dev lo {extra}"])

    # -- servers --------------------------------------------------------------------------------

    def servers(self):
        """nginx, the UDP server and the decapsulator on every real."""
        self.make_pages()
        waiting = []
        for real in REALS:
            node = f"real-{real}"
            config = self._nginx_config(real)
            self.net.start(node, f"nginx-{real}", ["nginx", "-p", config.parent, "-c", config])
            waiting.append(self.net.start(
                node, f"echo-{real}", [PYTHON, HERE / "udpecho.py", real, ECHO]))
            if self.decapsulate:
                waiting.append(self.net.start(node, f"decap-{real}", [
                    PYTHON, HERE / "decap.py", "--count", self.directory / f"decap-{real}.json"]))
        for process in waiting:
            wait.until(lambda p=process: "ready" in p.log.read_text() or not p.alive(),
                       f"{process.name} is ready", 15)
            if not process.alive():
                raise RuntimeError(f"{process.name} ended: {process.tail()}")
        for index, real in enumerate(REALS):
            for family in FAMILIES:
                wait.until(lambda f=family, i=index: self._serves(address(1, 21 + i, f)),
                           f"nginx of real {real} answers on {family}", 15)

    def _serves(self, addr):
        with self.net.inside("client"):
            with socket.create_connection((addr, HTTP), timeout=2):
                return True

    def make_pages(self, large=32 << 20):
        """What the servers serve: pages of several sizes and a large random file."""
        pages = self.directory / "www"
        pages.mkdir(exist_ok=True)
        for name, size in (("empty.html", 0), ("one.html", 1), ("page.html", 4096), ("long.html", 200_000)):
            unit = f"<p>{name}: xvip lab {self.run_id}</p>\n".encode()
            (pages / name).write_bytes((unit * (size // len(unit) + 1))[:size])
        (pages / "slow.bin").write_bytes(os.urandom(176 << 10))
        (pages / "paced.bin").write_bytes(os.urandom(PACED))
        if large:
            with open(pages / "large.bin", "wb") as file:
                for _ in range(large >> 20):
                    file.write(os.urandom(1 << 20))

    def _nginx_config(self, real):
        root = self.directory / f"nginx-{real}"
        (root / "upload").mkdir(parents=True)
        text = f"""
user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    client_max_body_size 1g;
    default_type application/octet-stream;
    keepalive_timeout 60;
    keepalive_requests 1000000;
    send_timeout 120;
    reset_timedout_connection off;
    server {{
        listen 0.0.0.0:{HTTP} backlog=4096;
        listen 0.0.0.0:{HTTP_ALT} backlog=4096;
        listen [::]:{HTTP} ipv6only=on backlog=4096;
        listen [::]:{HTTP_ALT} ipv6only=on backlog=4096;
        add_header X-Real-Server {real} always;
        root {self.directory}/www;
        limit_rate $arg_rate;
        location = /whoami {{ return 200 "{real}\\n"; }}
        location = /client {{ return 200 "$remote_addr $remote_port $server_addr $server_port\\n"; }}
        location /upload/ {{ root {root}; dav_methods PUT DELETE; }}
        location = /slow.bin {{
            add_header X-Real-Server {real} always;
            limit_rate_after 16k;
            limit_rate 16k;
        }}
    }}
}}
"""
        config = root / "nginx.conf"
        config.write_text(text)
        return config

    def decap_counts(self, real):
        """Packets decapsulated on a real, by kind."""
        file = self.directory / f"decap-{real}.json"
        process = next(p for p in self.net.processes if p.name == f"decap-{real}")
        file.unlink(missing_ok=True)
        process.kill(signal.SIGUSR1)
        wait.until(file.exists, "decapsulator writes its counts", 5)
        return json.loads(file.read_text())


def remove_left_over(state):
    """Removes what a state file names. Returns problems in words."""
    net.kill_identified(state["processes"])
    names = [p.name for p in net.NETNS.glob(f"{state['prefix']}-*")] if net.NETNS.exists() else []
    problems = net.remove_namespaces(names)
    for instance in state["instances"]:
        problems += Balancer.sweep_instance(instance)
    shutil.rmtree(state["directory"], ignore_errors=True)
    (STATE / f"{state['prefix']}.json").unlink(missing_ok=True)
    return problems


def states():
    """State files of all labs on this machine."""
    found = []
    for file in sorted(STATE.glob("*.json")) if STATE.exists() else []:
        with contextlib.suppress(ValueError, OSError):
            found.append(json.loads(file.read_text()))
    return found
