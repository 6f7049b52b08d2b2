"""What every group of tests needs: the group itself, held connections, live downloads."""

import socket

from .. import methods, topology, wait
from ..clients import Downloads
from ..config import document, real, service
from ..methods import Fetch, expect, method
from ..packets import Wire
from ..topology import BACK, FRONT, HTTP, HTTP_ALT, REALS, V4, V6, address, url_host

__all__ = ["BACK", "FRONT", "HTTP", "HTTP_ALT", "REALS", "V4", "V6", "Downloads", "Fetch", "Group", "Held",
           "Wire", "address", "document", "expect", "method", "methods", "own_balancer", "real", "service",
           "topology", "url_host", "wait", "web"]


def own_balancer(function):
    """Marks a test that starts the balancer itself; the next test gets a new one."""
    function.own_balancer = True
    return function


class Group:
    """Tests that share one lab. Every method without `_` in front, defined in the subclass, is a test."""

    queues = 1
    methods = methods.METHODS
    # Whether the tests look at milliseconds: then they want a machine with nothing else to do.
    prompt = False

    def __init__(self, lab):
        self.lab, self.net, self.balancer = lab, lab.net, lab.balancer

    @classmethod
    def tests(cls):
        """Names of the tests, in order."""
        return [n for n, f in vars(cls).items() if callable(f) and not n.startswith("_")
                and n != "text"]

    @classmethod
    def make_lab(cls):
        """A lab for the group."""
        return topology.Lab(queues=cls.queues, lo_vips=methods.LO_VIPS, name="xve2e")

    def text(self):
        """xvip.toml for tests that do not start the balancer themselves."""
        return methods.document(self.methods, cores=topology_cores(self.queues), lease="2s")

    def start(self, text=None, **options):
        """Starts the balancer with a configuration (the group's own by default)."""
        self.balancer.start(text or self.text(), **options)

    def fetch(self, m, path="whoami", options=(), **more):
        """One curl through a method's VIP."""
        return Fetch(self.lab, f"http://{url_host(m.vip)}/{path}", *options, **more)

    def works(self, m=None, tries=1):
        """A page comes through a method (nat over IPv4 by default), with the right content."""
        m = m or method("nat")
        for _ in range(tries):
            fetch = self.fetch(m, "page.html", seconds=5)
            expect(fetch.body == (self.lab.directory / "www/page.html").read_bytes(), "page differs")
        return True

    def works_again(self, m, what, seconds=15):
        """A page comes through a method sooner or later."""
        def once():
            return self.fetch(m, "page.html", seconds=1) is not None
        wait.until(once, f"{m.name} {m.family} works {what}", seconds)
        self.works(m)

    def balancer_mac(self, interface=FRONT):
        """Where frames for a VIP must be sent."""
        return self.net.mac("balancer", interface)


def topology_cores(queues):
    """CPUs for the workers."""
    from ..lab import cores
    return cores(queues)


def web(reals, name="web", number=0, family=V4, forwarding="nat", scheduler="wrr", listen=None, **more):
    """A TCP service on a VIP's port 80 with some of the reals: {"a": 4, "b": 3} gives weights."""
    m = method({"nat": "nat", "fullnat": "fullnat", "direct": "direct"}[forwarding], family)
    tables = []
    for letter, weight in reals.items():
        keys = dict(weight) if isinstance(weight, dict) else {"weight": weight}
        addr = m.real_address(REALS.index(letter))
        addr = f"{url_host(addr)}:{HTTP_ALT}" if m.translated else addr
        tables.append(real(addr, keys.pop("weight", 1), letter, **keys))
    listen = listen or f"{url_host(topology.vip(number, family))}:{HTTP}"
    return service(name, listen, tables, forwarding, scheduler, **more)


class Held:
    """A TCP connection that stays open and can be asked again who is at its other end."""

    def __init__(self, lab, vip, port=HTTP, source=None, source_port=0, seconds=3.0,
                 node="client"):
        family = socket.AF_INET6 if ":" in vip else socket.AF_INET
        with lab.net.inside(node):
            self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(seconds)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if source or source_port:
                self.socket.bind((source or ("::" if family == socket.AF_INET6 else "0.0.0.0"), source_port))
            self.socket.connect((vip, port))
            self.real = self.ask()
        except BaseException:
            self.socket.close()
            raise

    def ask(self):
        """Requests /whoami on the open connection; the name that answered."""
        self.socket.sendall(b"GET /whoami HTTP/1.1\r\nHost: lab\r\n\r\n")
        answer = b""
        while not (b"\r\n\r\n" in answer and answer.endswith(b"\n") and answer[-2:-1].isalpha()):
            piece = self.socket.recv(4096)
            if not piece:
                raise AssertionError("server closed the connection")
            answer += piece
        return answer.rsplit(b"\r\n\r\n", 1)[1].decode().strip()

    @property
    def port(self):
        """The client's port."""
        return self.socket.getsockname()[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
