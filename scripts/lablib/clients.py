"""Clients that run beside a test and judge: downloads, watchers, and one who asks who has an address."""

import json
import time

from . import topology, wait
from .methods import expect, method
from .topology import FRONT, HERE, HTTP, PYTHON, V4, address, url_host


class Downloads:
    """Live slow downloads from one client process, about ten seconds each unless told. `of` is a lab, or a
    group of tests that has one."""

    def __init__(self, of, count, *targets, seconds=None):
        lab = getattr(of, "lab", of)
        targets = targets or (method("nat"),)
        file, query = "slow.bin", ""
        if seconds is not None:
            file, query = "paced.bin", f"?rate={topology.PACED // seconds}"
        urls = [f"http://{url_host(m.vip)}:{HTTP}/{file}{query}" for m in targets]
        Downloads.number = getattr(Downloads, "number", 0) + 1
        self.count = count
        self.process = lab.net.start("client", f"downloads-{Downloads.number}", [
            topology.PYTHON, topology.HERE / "downloads.py", count, lab.directory / "www" / file, *urls])

    def progress(self):
        """The newest line of the client."""
        lines = self.process.log.read_text().splitlines()
        return json.loads(lines[-1]) if lines else {"begun": 0, "done": 0, "failures": 0, "final": False}

    def all_begun(self, seconds=20):
        """Waits until every download has received its first bytes and none has ended."""
        def begun():
            now = self.progress()
            expect(not now["failures"], f"downloads failed: {now.get('failed')}")
            return now["begun"] == self.count
        wait.until(begun, f"{self.count} downloads have begun", seconds, 0.1)
        expect(self.progress()["done"] < self.count, "downloads ended before the test had begun")
        return self

    def all_finished(self, seconds=60):
        """Waits for the end; every download must have come whole. Returns connections per real."""
        wait.until(lambda: self.progress()["final"] or not self.process.alive(), "downloads end", seconds, 0.1)
        last = self.progress()
        expect(last["final"] and last["done"] == self.count,
               f"{last['done']} of {self.count} downloads finished; {last['failures']} failed: "
               f"{last.get('failed')} {self.process.tail(3) if not last['final'] else ''}")
        return last["servers"]


class Watcher:
    """Somebody in the client's place who asks again and again; see watcher.py."""

    number = 0

    def __init__(self, pair, kind="udp", m=None, milliseconds=5):
        Watcher.number += 1
        m = m or method("nat")
        self.what = f"{kind} {m.name} {m.family}"
        port = topology.ECHO if kind == "udp" else topology.HTTP
        self.process = pair.net.start("client", f"watcher-{Watcher.number}", [
            PYTHON, HERE / "watcher.py", kind, m.vip, port, milliseconds])
        wait.until(lambda: self.progress()["answered"] > 3, f"{self.what} is answered", 5)

    def progress(self):
        """The newest line."""
        if not self.process.alive() and not self.process.log.read_text().count('"final": true'):
            raise wait.Fatal(f"{self.process.name} ended: {self.process.tail(8)}")
        lines = self.process.log.read_text().splitlines()
        return json.loads(lines[-1]) if lines else {"answered": 0, "gaps": []}

    def answered(self, seconds=5.0):
        """Waits for an answer to something asked from now on."""
        now = time.monotonic()
        wait.until(lambda: (self.progress()["last"] or 0) > now, f"{self.what} is answered", seconds)

    def end(self):
        """Its last line. Raises if anything broke."""
        if self.process.alive():
            self.process.end(5)
        last = self.progress()
        assert last["final"], f"{self.what}: {self.process.tail(5)}"
        assert not last["problems"], f"{self.what}: {last['problems']}"
        return last

    def gap(self, since=0.0):
        """Seconds of the longest time without an answer that reached beyond `since` (CLOCK_MONOTONIC)."""
        return max((length for start, length in self.progress()["gaps"] if start + length > since), default=0.0)


HANDOVER = 0.06  # seconds: a keepalive and a bit


def one_after_the_other(seen):
    """Without the last answers of an owner that hands over: it answers until it has heard that the other
    one does, at most for a keepalive."""
    kept = []
    for name, first, last in seen:
        if len(kept) > 1 and kept[-2][0] == name and last - kept[-2][2] < HANDOVER:
            continue
        if kept and kept[-1][0] == name:
            kept[-1] = (name, kept[-1][1], last)
        else:
            kept.append((name, first, last))
    return kept


class Claims:
    """Somebody on front who asks each 10 ms who has a VIP; see claims.py."""

    number = 0

    def __init__(self, pair, vip=None):
        Claims.number += 1
        self.names = pair.macs()
        self.process = pair.net.start("client", f"claims-{Claims.number}", [
            PYTHON, HERE / "claims.py", FRONT, address(1, topology.CLIENT_HOSTS[0], V4), vip or method("nat").vip])
        wait.until(self.process.log.read_text, "claims are watched", 5)

    def end(self):
        """Owners in the order in which they were seen: [(name, first seen, last seen)]; a node that answers
        again after another has is there twice."""
        self.process.end(5)
        lines = self.process.log.read_text().splitlines()
        try:
            seen = json.loads(lines[-1])
        except (IndexError, ValueError):
            raise AssertionError(f"claims.py: {self.process.tail(8)}") from None
        return one_after_the_other([(self.names.get(mac, mac), first, last) for mac, first, last in seen])
