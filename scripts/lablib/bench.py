"""One network namespace with an address, for servers that `xvip probe` is to judge; no balancer."""

import json
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import threading

from . import net, wait
from .balancer import binary_directory

NODE = "servers"
ADDRESS = "10.99.0.1"
ADDRESS6 = "fd99::1"


class Bench:
    """What a group of tests needs of a lab: `up`, `close`, a directory, processes."""

    def __init__(self, name="xvcheck"):
        self.run_id = secrets.token_hex(3)
        self.prefix = f"{name}-{self.run_id}"
        self.directory = pathlib.Path("/tmp") / self.prefix
        self.net = net.Net(self.prefix, self.directory)
        self.balancer = NoBalancer()
        self.xvip = binary_directory() / "xvip"

    def up(self):
        """The namespace and its addresses."""
        self.directory.chmod(0o755)
        self.net.add(NODE)
        self.net.batch(NODE, [f"addr add {ADDRESS}/32 dev lo", f"addr add {ADDRESS6}/128 dev lo nodad"])

    def save_state(self):
        """Nothing outlives the run."""

    def restore_links(self):
        """There is only the loopback."""

    def close(self):
        """Ends what runs and removes everything; returns problems in words."""
        for pid in self.net.pids(NODE) if self.net.nodes else []:
            subprocess.run(["kill", "-CONT", str(pid)], check=False, capture_output=True)
        problems = self.net.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        return problems

    # -- servers ---------------------------------------------------------------------------------

    def file(self, name, text, mode=0o644):
        """A file in the bench's directory."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def server(self, name, arguments, *ports, seconds=15):
        """Starts a server in the foreground and waits until it accepts on its ports."""
        process = self.net.start(NODE, name, arguments)
        try:
            for port in ports:
                wait.until(lambda port=port: self.accepts(port, process), f"{name} accepts on {port}", seconds)
        except BaseException as error:
            self.end(process)
            raise AssertionError(f"{error}\n{process.tail(12)}") from error
        return process

    def accepts(self, port, process=None):
        """Whether a port takes connections."""
        if process is not None and not process.alive():
            raise wait.Fatal(f"{process.name} ended: {process.tail(8)}")
        with self.net.inside(NODE), socket.create_connection((ADDRESS, port), timeout=1):
            return True

    def end(self, process):
        """Ends a server, whatever state it is in."""
        self.thaw()
        process.end(1.0)
        if process in self.net.processes:
            self.net.processes.remove(process)
        # Children that outlive their parent hold ports.
        for pid in self.net.pids(NODE):
            subprocess.run(["kill", "-KILL", str(pid)], check=False, capture_output=True)
        wait.until(lambda: not self.net.pids(NODE), "all processes of the servers have ended", 5)

    def freeze(self):
        """Every server hangs: the kernel accepts connections for it, and it says nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self):
        """They go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number):
        for pid in self.net.pids(NODE):
            subprocess.run(["kill", f"-{int(number)}", str(pid)], check=False, capture_output=True)

    def thaw_after(self, seconds):
        """They go on after a while, as a slow server would."""
        timer = threading.Timer(seconds, self.thaw)
        timer.start()
        return timer

    # -- checks ----------------------------------------------------------------------------------

    def probe(self, port, keys, address=ADDRESS, seconds=20):
        """Runs `xvip probe` for one check with these keys; what it says of it."""
        host = f"[{address}]" if ":" in address else address
        vip = "[2001:db8::1]:80" if ":" in address else "192.0.2.1:80"
        listed = "\n".join(f"{key} = {toml(value)}" for key, value in keys.items())
        text = (f'[[interface]]\nname = "lo"\n[[service]]\nname = "s"\nlisten = "{vip}"\n'
                f'[[service.check]]\n{listed}\n[[service.real]]\naddress = "{host}:{port}"\n')
        path = self.file("probe.toml", text, 0o600)
        done = subprocess.run(
            self.net.inside_command(NODE, [str(self.xvip), "probe", str(path), "--json"]),
            capture_output=True, text=True, timeout=seconds)
        try:
            check, = json.loads(done.stdout)["checks"]
        except (ValueError, KeyError) as error:
            raise AssertionError(f"xvip probe: exit {done.returncode}: {done.stderr or done.stdout}") from error
        expected = {"up": 0, "down": 1, "cannot-check": None}[check["outcome"]]
        assert expected is None or done.returncode == expected, f"exit {done.returncode} for {check}"
        return check


def toml(value):
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(v)}" for key, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return json.dumps(value) if isinstance(value, str) else str(value).lower()


class NoBalancer:
    """Stands where other groups have their balancer."""

    dataplane = control = None

    def processes(self):
        """None of it runs."""
        return []

    def alive(self):
        """There is none that could be dead."""

    def stop(self):
        """Nor one to stop."""

    def sweep(self):
        """Nor traces of one."""
        return []


class Certificates:
    """An authority and certificates of a server, made by openssl."""

    def __init__(self, bench):
        self.directory = bench.directory / "tls"
        self.directory.mkdir(exist_ok=True)
        self._openssl("req", "-x509", *self._key("ca"), "-out", "ca.pem", "-days", 30, "-subj", "/CN=lab",
                      "-addext", "keyUsage=critical,keyCertSign")
        self.ca = self.directory / "ca.pem"
        self.good = self.make("good", 30)
        self.ending = self.make("ending", 5)
        self.expired = self.make("expired", -1)
        self.stranger = self.make("stranger", 30, ca=False)

    def make(self, name, days, ca=True):
        """A certificate for `web.test` and the bench's address: (certificate, key)."""
        (self.directory / "ext").write_text(f"subjectAltName=DNS:web.test,IP:{ADDRESS},IP:{ADDRESS6}\n")
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        self._openssl("req", *self._key(name), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial") if ca else ("-signkey", key.name)
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signer, "-days", days, "-extfile", "ext",
                      "-out", certificate.name)
        return certificate, key

    @staticmethod
    def _key(name):
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key")

    def _openssl(self, *arguments):
        done = subprocess.run(["openssl", *map(str, arguments)], cwd=self.directory, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"openssl {arguments[0]}: {done.stderr.strip()[-300:]}")
