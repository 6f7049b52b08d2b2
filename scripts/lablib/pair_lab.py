"""The part of `scripts/lab` that shows two balancers: a download lives through power-off and fail-back."""

import time

from . import topology, wait
from .balancer import binary_directory
from .clients import Claims, Downloads, Watcher
from .methods import Fetch, digest, expect, method
from .pair import METHODS, Pair
from .topology import V6

__all__ = ["Pair", "checks", "guide"]

RATE = 3_000_000  # bytes a second of the large download, which is longer than all that happens to it


def checks(lab, report):
    """Every check, in order; one that fails makes the others pointless."""
    show = Show(lab)
    report.group("Two balancers")
    steps = [
        ("one is active", show.boot),
        ("downloads begin", show.begin),
        ("power-off", show.power_off),
        ("it returns and learns", show.learn),
        ("fail-back", show.fail_back),
        ("the downloads are whole", show.end),
        ("orderly stop", show.stop),
    ]
    for name, step in steps:
        if not report.check(name, step):
            report.line(lab.words())
            return


class Show:
    """What is done one after the other, and what is kept in between."""

    def __init__(self, lab):
        self.lab = lab
        self.first = self.large = self.many = self.claims = None
        self.watchers = []

    def boot(self):
        """Both nodes from nothing to a pair."""
        began = time.monotonic()
        self.lab.boot()
        took = time.monotonic() - began
        self.first = self.lab.active()
        for m in METHODS:
            Fetch(self.lab, f"http://{topology.url_host(m.vip)}/page.html", seconds=5)
        return {"detail": f"{self.first.name}, {took:.1f} s after both were switched on; four methods serve",
                "active": self.first.name, "boot_seconds": round(took, 3)}

    def begin(self):
        """One large download, a hundred small ones, and two who watch."""
        url = f"http://{method('nat').vip}/large.bin?rate={RATE}"
        self.large = self.lab.net.start("client", "large", [
            "curl", "-sS", "--max-time", 60, "-o", self.lab.directory / "large.copy", "-w", "%{json}", url])
        self.many = Downloads(self.lab, 100, *METHODS, seconds=9).all_begun()
        self.watchers = [Watcher(self.lab, "udp"), Watcher(self.lab, "tcp", method("nat", V6))]
        self.claims = Claims(self.lab)
        wait.until(lambda: self.first.ha()["replication"]["lag"] == 0
                   and self.first.other.status()["table"]["used"] >= 103, "the standby knows them all", 5)
        standing = self.first.ha()["replication"]
        return {"detail": f"32 MiB at 3 MB/s and 100 small ones; if {self.first.name} died now, "
                          f"{standing['would_live']} of {standing['worth']} connections would live",
                "replication": standing}

    def _gaps(self, since):
        for watcher in self.watchers:
            watcher.answered()
        return [round(watcher.gap(since), 3) for watcher in self.watchers]

    def power_off(self):
        """The active node is gone from one moment to the next."""
        began = time.monotonic()
        self.lab.power_off(self.first.name)
        self.lab.wait_owner(self.first.other.name, "after the power-off")
        gaps = self._gaps(began)
        expect(max(gaps) < 2, f"nothing was answered for {max(gaps)} s")
        return {"detail": f"{self.first.name} is dead; no datagram for {gaps[0] * 1000:.0f} ms, no page for "
                          f"{gaps[1] * 1000:.0f} ms", "udp_gap_seconds": gaps[0], "tcp_gap_seconds": gaps[1]}

    def learn(self):
        """It boots with nothing and owns nothing until it knows all."""
        began = time.monotonic()
        self.lab.power_on(self.first.name)
        self.lab.settled()
        took = time.monotonic() - began
        known = self.first.status()["table"]["used"]
        expect(known >= 103, f"it knows {known} connections")
        expect(self.lab.active() is self.first.other, "the VIP moved although nobody has asked")
        return {"detail": f"{known} connections known {took:.1f} s after it was switched on",
                "known": known, "learn_seconds": round(took, 3)}

    def fail_back(self):
        """An operator hands the VIPs back."""
        began = time.monotonic()
        self.first.switchover()
        self.lab.wait_owner(self.first.name, "after the switchover")
        gaps = self._gaps(began)
        expect(max(gaps) < 0.5, f"nothing was answered for {max(gaps)} s")
        expect(self.large.alive(), "the large download is over: nothing was shown")
        quiet = [f"{gap * 1000:.0f} ms" if gap else "less than 50 ms" for gap in gaps]
        return {"detail": f"{self.first.name} is active again; no datagram for {quiet[0]}, no page for {quiet[1]}",
                "udp_gap_seconds": gaps[0], "tcp_gap_seconds": gaps[1]}

    def end(self):
        """Every byte has come, no connection changed its server, and no two nodes answered at once."""
        status = self.large.popen.wait(60)
        expect(status == 0, f"curl: exit {status}: {self.large.tail(2)}")
        same = digest(self.lab.directory / "large.copy") == digest(self.lab.directory / "www/large.bin")
        expect(same, "sha256 differs")
        self.many.all_finished()
        for watcher in self.watchers:
            expect(len(watcher.end()["servers"]) == 1, f"{watcher.what} moved to another server")
        owners = [name for name, _, _ in self.claims.end()]
        wanted = [self.first.name, self.first.other.name, self.first.name]
        expect(owners == wanted, f"owners as seen by the client's network: {owners}")
        return {"detail": f"sha256 equal, 100 of 100 small ones equal; owners {' '.join(owners)}", "owners": owners}

    def stop(self):
        """Both stop when asked, and leave nothing."""
        problems = self.lab.balancer.stop()
        problems += [trace for node in self.lab.balancers() for trace in node.traces()]
        expect(not problems, "; ".join(problems))
        return {"detail": "no program, pin, file or mount left on either"}


def guide(lab):
    """What is where, and what to try."""
    active, xvip = lab.active(), binary_directory() / "xvip"
    nat = METHODS[0].vip
    tool = {n: f"scripts/lab exec {n} {xvip} --instance {node.instance}" for n, node in lab.nodes.items()}
    return "\n".join([
        f"Lab {lab.run_id} is up: two balancers, {active.name} is active.", "",
        "VIPs (port 80 HTTP, port 7 UDP echo):",
        *(f"  {m.name:<8} {m.family}  {m.vip}" for m in METHODS),
        "", f"Files: {lab.directory} (lb1/xvip.toml, lb2/xvip.toml, pages, logs)", "", "Try:",
        f"  {tool['lb1']} ha",
        f"  {tool['lb2']} switchover",
        f"  scripts/lab exec client curl http://{nat}/large.bin?rate=500k -o /dev/null   # in another terminal; meanwhile:",
        f"  kill -9 {active.control.pid} {active.dataplane.pid}   # {active.name}; the other takes over",
        f"  scripts/lab exec switch-a ip link set {active.name}.front down   # pulls a cable",
        f"  scripts/lab exec client ip neigh show {nat}",
        "  scripts/lab down",
    ])
