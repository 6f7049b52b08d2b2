"""The forwarding methods the lab shows, each with its services, and the checks made on them."""

import hashlib
import json
import socket
import subprocess
from dataclasses import dataclass

from . import config, topology
from .topology import BACK, ECHO, FRONT, HTTP, HTTP_ALT, REALS, V4, V6, address, url_host, vip

WEIGHTS = (4, 3, 2)
# What weighted round robin yields for weights 4, 3, 2 (ipvsadm(8): "A A B A B C A B C").
SEQUENCE = "aababcabc"
LOCAL_HOST = 50


@dataclass(frozen=True)
class Method:
    """A way to reach the real servers, in one address family of the clients."""

    name: str       # as shown: nat, fullnat, direct, 4in4, ...
    forwarding: str # as configured
    family: str     # of the VIP
    outer: str      # of the real's address
    network: int    # where the real is reached: 1 front, 2 back
    number: int     # of the VIP

    @property
    def vip(self):
        """The VIP."""
        return vip(self.number, self.family)

    @property
    def service(self):
        """Name of the TCP service; the UDP one has `-udp` behind it."""
        return f"{self.name}-v{self.family[-1]}"

    @property
    def translated(self):
        """Whether the real sees another destination than the client used."""
        return self.forwarding in ("nat", "fullnat")

    def real_address(self, index):
        """Address of a real as configured."""
        return address(self.network, 21 + index, self.outer)

    def services(self):
        """The configuration tables: a TCP service with weights 4, 3, 2 and a UDP service."""
        def reals(port, weights):
            suffix = (lambda a: f"{url_host(a)}:{port}") if self.translated else (lambda a: a)
            return [config.real(suffix(self.real_address(i)), weights[i], name)
                    for i, name in enumerate(REALS)]

        return [
            config.service(self.service, f"{url_host(self.vip)}:{HTTP}",
                           reals(HTTP_ALT, WEIGHTS), self.forwarding, "wrr"),
            config.service(f"{self.service}-udp", f"{url_host(self.vip)}:{ECHO}",
                           reals(ECHO, (1, 1, 1)), self.forwarding, "rr", "udp"),
        ]


METHODS = (
    Method("nat", "nat", V4, V4, 2, 0),
    Method("nat", "nat", V6, V6, 2, 0),
    Method("fullnat", "fullnat", V4, V4, 2, 1),
    Method("fullnat", "fullnat", V6, V6, 2, 1),
    Method("direct", "direct", V4, V4, 1, 2),
    Method("direct", "direct", V6, V6, 1, 2),
    Method("4in4", "tunnel", V4, V4, 1, 3),
    Method("6in6", "tunnel", V6, V6, 1, 3),
    Method("4in6", "tunnel", V4, V6, 1, 4),
    Method("6in4", "tunnel", V6, V4, 1, 4),
)
LO_VIPS = [m.vip for m in METHODS if not m.translated]
LOCAL = [address(2, LOCAL_HOST, V4), address(2, LOCAL_HOST, V6)]


def method(name, family=V4):
    """A method by name and family of its VIP."""
    return next(m for m in METHODS if m.name == name and m.family == family)


def document(methods=METHODS, cores=(0,), **more):
    """xvip.toml with the services of the methods."""
    services = [service for m in methods for service in m.services()]
    return config.document(services, [FRONT, BACK], cores, LOCAL, **more)


class Failed(AssertionError):
    """A check did not hold."""


def expect(condition, message):
    """Raises Failed with the message unless the condition holds."""
    if not condition:
        raise Failed(message)


class Fetch:
    """One finished curl."""

    def __init__(self, lab, url, *options, seconds=10, node="client", output=None):
        body = output or lab.directory / "curl.body"
        head = lab.directory / "curl.head"
        command = ["curl", "-sS", "--max-time", str(seconds), "-o", str(body), "-D", str(head),
                   "-w", "%{json}", *map(str, options), url]
        for file in (body, head):
            file.unlink(missing_ok=True)
        done = subprocess.run(lab.net.inside_command(node, command), capture_output=True, text=True,
                              check=False, timeout=seconds + 5)
        expect(done.returncode == 0, f"curl {url}: {done.stderr.strip() or done.returncode}")
        facts = json.loads(done.stdout)
        self.url, self.code, self.seconds = url, facts["response_code"], facts["time_total"]
        self.down, self.up = facts["size_download"], facts["size_upload"]
        # Where the server sends no body, curl makes no file.
        self.body = body.read_bytes() if output is None and body.exists() else b""
        headers = head.read_text(errors="replace").lower().splitlines()
        self.real = next((h.split(":", 1)[1].strip() for h in headers if h.startswith("x-real-server:")), None)
        expect(self.code < 400, f"{url}: status {self.code}")


class Checks:
    """The checks of one method."""

    def __init__(self, lab, m, large=32):
        self.lab, self.method, self.large = lab, m, large
        self.base = f"http://{url_host(m.vip)}"

    def all(self):
        """(name, function) in the order they must run: the sequence needs an unused scheduler."""
        return [
            ("distribution 4:3:2", self.distribution),
            ("pages", self.pages),
            ("client address seen", self.client_address),
            (f"download {self.large} MiB", self.download),
            (f"upload {self.large} MiB", self.upload),
            ("udp", self.udp),
        ]

    def distribution(self):
        """Nine requests, one connection each, reach the reals in wrr's exact order."""
        got = ""
        for _ in SEQUENCE:
            fetch = Fetch(self.lab, f"{self.base}/whoami")
            expect(fetch.body.decode().strip() == fetch.real, f"body {fetch.body} but header {fetch.real}")
            got += fetch.real
        expect(got == SEQUENCE, f"servers {' '.join(got)}, expected {' '.join(SEQUENCE)}")
        return {"detail": " ".join(got).upper(), "servers": list(got)}

    def pages(self):
        """Real pages of several sizes, content compared; every server is met."""
        sources = self.lab.directory / "www"
        seen, fetched = set(), 0
        for name in ("empty.html", "one.html", "page.html", "long.html") * 3:
            fetch = Fetch(self.lab, f"{self.base}/{name}")
            expect(fetch.body == (sources / name).read_bytes(), f"{name} from {fetch.real} differs")
            seen.add(fetch.real)
            fetched += 1
        expect(seen == set(REALS), f"only {sorted(seen)} answered")
        return {"detail": f"{fetched} pages, 0 to 200,000 bytes, from {', '.join(sorted(seen))}",
                "pages": fetched, "servers": sorted(seen)}

    def client_address(self):
        """What the server sees: the client itself, or with full NAT a local address of ours."""
        source, _, server, port = Fetch(self.lab, f"{self.base}/client").body.decode().split()
        m = self.method
        wanted = (address(2, LOCAL_HOST, m.family) if m.forwarding == "fullnat"
                  else address(1, topology.CLIENT_HOSTS[0], m.family))
        expect(source == wanted, f"server saw client {source}, expected {wanted}")
        if m.translated:
            expect(port == str(HTTP_ALT), f"server was asked on port {port}, expected {HTTP_ALT}")
        else:
            expect(server == m.vip, f"server was asked as {server}, expected {m.vip}")
        return {"detail": f"{source}, asked as {url_host(server)}:{port}", "client": source}

    def download(self):
        """A large random file comes whole."""
        target = self.lab.directory / "large.copy"
        fetch = Fetch(self.lab, f"{self.base}/large.bin", output=target, seconds=60)
        same = digest(target) == digest(self.lab.directory / "www/large.bin")
        target.unlink()
        expect(same, f"{fetch.down} bytes from {fetch.real}, sha256 differs")
        rate = fetch.down / fetch.seconds / 1e6
        return {"detail": f"sha256 equal, {rate:.0f} MB/s, from {fetch.real}", "bytes": fetch.down,
                "megabytes_per_second": round(rate, 1), "server": fetch.real}

    def upload(self):
        """The same file the other way: for direct and tunnel only this way crosses the balancer."""
        source = self.lab.directory / "www/large.bin"
        fetch = Fetch(self.lab, f"{self.base}/upload/{self.method.service}", "-T", source, seconds=60)
        stored = self.lab.directory / f"nginx-{fetch.real}" / "upload" / self.method.service
        same = digest(stored) == digest(source)
        stored.unlink()
        expect(same, f"{fetch.up} bytes to {fetch.real}, sha256 differs")
        rate = fetch.up / fetch.seconds / 1e6
        return {"detail": f"sha256 equal, {rate:.0f} MB/s, to {fetch.real}", "bytes": fetch.up,
                "megabytes_per_second": round(rate, 1), "server": fetch.real}

    def udp(self):
        """Datagrams of several sizes come back unchanged; round robin reaches every server."""
        seen = []
        for size in (0, 1, 512, 1200):
            for _ in range(3):
                real, _, data = echo(self.lab, self.method.vip, bytes(i % 251 for i in range(size)))
                expect(len(data) == size, f"{size} bytes sent, {len(data)} came back from {real}")
                seen.append(real)
        expect(set(seen) == set(REALS), f"only {sorted(set(seen))} answered")
        return {"detail": f"{len(seen)} datagrams, 0 to 1,200 bytes, from {', '.join(sorted(set(seen)))}",
                "datagrams": len(seen)}


def udp_socket(lab, family, source=None, node="client"):
    """A UDP socket in a node."""
    with lab.net.inside(node):
        sock = socket.socket(socket.AF_INET if family == V4 else socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if source:
            sock.bind((source, 0))
        return sock


def echo(lab, target, data, seconds=3.0, port=ECHO, sock=None, source=None):
    """Sends a datagram from a new port and returns (real, client as the real saw it, data)."""
    family = V6 if ":" in target else V4
    own = sock is None
    sock = sock or udp_socket(lab, family, source)
    try:
        sock.settimeout(seconds)
        sock.sendto(data, (target, port))
        answer, sender = sock.recvfrom(65535)
    except TimeoutError:
        raise Failed(f"no answer to {len(data)} bytes from {target} within {seconds:g} s") from None
    finally:
        if own:
            sock.close()
    expect(sender[:2] == (target, port), f"answer came from {sender[:2]}, not from {target}")
    real, client, client_port, rest = answer.split(b" ", 3)
    expect(rest == data, f"{len(data)} bytes sent, answer differs ({len(rest)} bytes)")
    return real.decode(), (client.decode(), int(client_port)), rest


def digest(path):
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
