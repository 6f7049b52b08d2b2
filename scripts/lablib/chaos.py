"""Random faults on two real balancers under load; the command `scripts/chaos`.

Two kinds of rounds. In a *single* round one fault at a time happens to a healthy pair and is repaired
before the next; every download that was under way must come whole, clients must not wait long, and the
client's network must never see two owners at once. In a *wild* round several faults overlap in any
order: connections may die then, but no process may, and once all is repaired the pair must find
together by itself and serve.
"""

import argparse
import os
import random
import signal
import sys
import time

from . import lab as lab_command, net, topology, wait
from .clients import Claims, Downloads, Watcher
from .methods import Fetch, expect
from .pair import METHODS, NODES, ROUTER, Pair, Settings
from .topology import V4, address

SETTLE = 30  # seconds a repaired pair has to find together
PATIENCE = 3.0  # longest time that a client may wait at a single fault
PINGS = (
    {"name": "router", "addresses": [ROUTER], "interval": "100ms", "timeout": "80ms", "fall": 3},
    {"name": "servers", "addresses": [address(2, 21 + i, V4) for i in range(3)],
     "interval": "100ms", "timeout": "80ms", "fall": 3},
)


class Fault:
    """Something that happens to a node: `do` breaks, `undo` repairs. `undo` is safe to call twice."""

    weight = 2
    undone = False

    def __init__(self, lab, dice):
        self.lab, self.dice = lab, dice
        self.node = lab.nodes[dice.choice(NODES)]

    def __str__(self):
        return f"{type(self).__name__.lower()} {self.node.name}"

    def repair(self):
        """Undoes it, once."""
        if not self.undone:
            self.undone = True
            self.undo()


class PowerOff(Fault):
    """The node is gone with all it knew."""

    weight = 4

    def do(self):
        if self.node.powered:
            self.lab.power_off(self.node.name)

    def undo(self):
        if not self.node.powered:
            self.lab.power_on(self.node.name)


class Kill(Fault):
    """`kill -9` of one process or both."""

    weight = 5

    def __init__(self, lab, dice):
        super().__init__(lab, dice)
        self.which = dice.choice(("control", "dataplane", "both"))

    def __str__(self):
        return f"kill {self.which} of {self.node.name}"

    def do(self):
        for name in ("control", "dataplane"):
            process = getattr(self.node, name)
            if self.which in (name, "both") and process is not None and process.alive():
                self.node.kill(process)

    def undo(self):
        if self.node.powered:
            self.node.again()


class Hang(Fault):
    """SIGSTOP for a while."""

    weight = 4

    def __init__(self, lab, dice):
        super().__init__(lab, dice)
        self.which = dice.choice(("control", "dataplane", "both"))
        self.stopped = []

    def __str__(self):
        return f"hang {self.which} of {self.node.name}"

    def do(self):
        for name in ("control", "dataplane"):
            process = getattr(self.node, name)
            if self.which in (name, "both") and process is not None and process.alive():
                process.kill(signal.SIGSTOP)
                self.stopped.append(process)

    def undo(self):
        for process in self.stopped:
            process.kill(signal.SIGCONT)


class Cut(Fault):
    """A cable, or all of them, pulled."""

    weight = 4

    def __init__(self, lab, dice):
        super().__init__(lab, dice)
        self.networks = dice.choice((("front",), ("back",), ("beat",), ()))

    def __str__(self):
        return f"cut {' '.join(self.networks) or 'every cable'} of {self.node.name}"

    def do(self):
        self.lab.cut(self.node.name, *self.networks)

    def undo(self):
        self.lab.heal(self.node.name, *self.networks)


class Flap(Cut):
    """The same, several times in a row, and up at last."""

    weight = 1

    def __str__(self):
        return f"flap {' '.join(self.networks) or 'every cable'} of {self.node.name}"

    def do(self):
        for _ in range(self.dice.randrange(2, 6)):
            self.lab.cut(self.node.name, *self.networks)
            self.lab.heal(self.node.name, *self.networks)


class OneWay(Fault):
    """The link stays up, and nothing goes through it in one direction."""

    weight = 3

    def __init__(self, lab, dice):
        super().__init__(lab, dice)
        self.network = dice.choice(("front", "back", "beat"))
        self.how = dice.choice(("mute", "deafen"))

    def __str__(self):
        return f"{self.how} {self.node.name} on {self.network}"

    def do(self):
        getattr(self.lab, self.how)(self.node.name, self.network)

    def undo(self):
        getattr(self.lab, f"un{self.how}")(self.node.name, self.network)


class Lossy(Fault):
    """A third of what the node sends between the nodes is lost."""

    def do(self):
        self.lab.lossy(self.node.name, "beat")

    def undo(self):
        self.lab.unlossy(self.node.name, "beat")


class Switchover(Fault):
    """An operator's wish; may be refused, with a reason."""

    weight = 4

    def do(self):
        if self.node.running():
            self.node.xvip("switchover", check=False, timeout=20)

    def undo(self):
        pass


class Stop(Fault):
    """An orderly stop of both processes."""

    def do(self):
        if self.node.processes():
            problems = self.node.stop()
            expect(not problems, f"{problems}")

    def undo(self):
        if self.node.powered:
            self.node.again()


class Reload(Fault):
    """A reload of the same file."""

    weight = 1

    def do(self):
        if self.node.running():
            self.node.xvip("reload", check=False, timeout=20)

    def undo(self):
        pass


class Forget(Fault):
    """Clients and servers forget who is where."""

    weight = 1

    def do(self):
        self.lab.forget("client", *(f"real-{r}" for r in topology.REALS))

    def undo(self):
        pass


FAULTS = (PowerOff, Kill, Hang, Cut, Flap, OneWay, Lossy, Switchover, Stop, Reload, Forget)


class Chaos:
    """One run."""

    def __init__(self, lab, seed, seconds):
        self.lab, self.dice = lab, random.Random(seed)
        self.began = time.monotonic()
        self.over = self.began + seconds
        self.rounds, self.faults, self.downloads = {"single": 0, "wild": 0}, 0, 0
        self.gaps = {}

    def say(self, text):
        """A line of the trace."""
        print(f"{time.monotonic() - self.began:8.2f} s  {text}", flush=True)

    def fault(self):
        """A fault by the dice."""
        kind = self.dice.choices(FAULTS, [f.weight for f in FAULTS])[0]
        return kind(self.lab, self.dice)

    def run(self):
        """Rounds until the time is over."""
        while time.monotonic() < self.over:
            wild = self.dice.random() < 0.3
            self.rounds["wild" if wild else "single"] += 1
            (self.wild if wild else self.single)()
            self.no_one_died()

    def no_one_died(self):
        """No process has ended that we have not ended."""
        for node in self.lab.nodes.values():
            node.alive()

    def hold(self, least, most):
        """How long a fault lasts: that is the fault, not a wait."""
        time.sleep(self.dice.uniform(least, most))

    # -- one fault at a time ----------------------------------------------------------------------

    def single(self):
        """A few faults, each to a healthy pair; nothing may be lost."""
        count = self.dice.randrange(1, 4)
        downloads = Downloads(self.lab, 40, *METHODS, seconds=4 + 5 * count).all_begun(30)
        watchers = [Watcher(self.lab, "udp"), Watcher(self.lab, "tcp", METHODS[2])]
        claims = Claims(self.lab)
        for _ in range(count):
            self.settle()
            self.one(self.fault(), watchers)
        self.settle()
        downloads.all_finished(90)
        self.downloads += downloads.count
        for watcher in watchers:
            expect(len(watcher.end()["servers"]) == 1, f"{watcher.what}: moved to another server")
        never_two(claims.end())

    def one(self, fault, watchers):
        """One fault, held, repaired, and what clients had of it."""
        self.faults += 1
        active = self.lab.active()
        self.say(f"{fault} ({'active' if fault.node is active else 'standby'})")
        began = time.monotonic()
        fault.do()
        try:
            self.hold(0.05, 1.5)
        finally:
            fault.repair()
        for watcher in watchers:
            watcher.answered(10)
        gap = max(w.gap(began) for w in watchers)
        kind = type(fault).__name__
        self.gaps.setdefault(kind, []).append(gap)
        if gap > 0.05:
            self.say(f"    clients waited {gap:.2f} s")
        expect(gap < PATIENCE, f"{fault}: clients waited {gap:.2f} s")

    def settle(self):
        """Both are a pair again, and the standby knows what the active one knows."""
        self.lab.settled(SETTLE)
        active = self.lab.active()
        wait.until(lambda: active.ha()["replication"]["lag"] == 0, "nothing is unacknowledged", 5)

    # -- everything at once -------------------------------------------------------------------------

    def wild(self):
        """Several faults on top of each other; then all is repaired, and must be well by itself."""
        downloads = Downloads(self.lab, 20, *METHODS, seconds=6)  # load; they may die
        faults = []
        for _ in range(self.dice.randrange(2, 6)):
            fault = self.fault()
            if any(isinstance(f, Hang) and not f.undone for f in faults) and isinstance(fault, (Stop, Reload, Switchover)):
                continue  # asks a process that hangs for an answer
            self.faults += 1
            self.say(f"wild: {fault}")
            fault.do()
            faults.append(fault)
            self.hold(0.0, 0.6)
            if self.dice.random() < 0.4:
                again = self.dice.choice(faults)
                self.say(f"wild: repaired: {again}")
                again.repair()
        for fault in faults:
            fault.repair()
        self.say("wild: all repaired")
        self.lab.restore_links()
        for node in self.lab.nodes.values():
            node.powered = True
            node.again()
        self.settle()
        for m in METHODS:
            wait.until(lambda m=m: Fetch(self.lab, f"http://{topology.url_host(m.vip)}/page.html", seconds=1),
                       f"{m.name} {m.family} serves", 10)
        downloads.process.end(2)

    def report(self):
        """The closing lines."""
        print(f"\n{self.rounds['single']} single rounds, {self.rounds['wild']} wild ones, {self.faults} faults, "
              f"{self.downloads} of {self.downloads} downloads whole, {time.monotonic() - self.began:.0f} s")
        for kind, gaps in sorted(self.gaps.items()):
            print(f"  {kind.lower():<12} {len(gaps):3} times; longest wait of a client {max(gaps):.2f} s")


def never_two(seen):
    """Raises if a node answered again within 50 ms of another's answer: two at once."""
    for (first, _, _), (middle, begin, end), (last, _, _) in zip(seen, seen[1:], seen[2:]):
        expect(not (first == last and end - begin < 0.05),
               f"{first} and {middle} answered for the VIP at once: {seen}")


def main():
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description="Random faults on two balancers under load; clients judge.")
    parser.add_argument("--seconds", type=float, default=120, help="how long to go on (default 120)")
    parser.add_argument("--seed", type=int, help="repeat the choices of a run; its times are never quite the same")
    parser.add_argument("--no-build", action="store_true", help="use the binaries as they are")
    parser.add_argument("--keep", action="store_true", help="leave the lab standing if something was wrong")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("scripts/chaos: needs root: it makes network namespaces and loads an XDP program")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    options.verbose = options.json = False
    try:
        lab_command.build(options, Progress)
    except RuntimeError as error:
        sys.exit(f"scripts/chaos: {error}")
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    return play(seed, options)


def play(seed, options):
    """The run, with its lab."""
    print(f"seed {seed}", flush=True)
    lab = Pair(name="xvchaos")
    try:
        lab.up()
        lab.boot(Settings(pings=PINGS))
        chaos = Chaos(lab, seed, options.seconds)
        chaos.run()
        chaos.report()
        return 0
    except (AssertionError, net.CommandFailed, RuntimeError) as error:
        print(f"\nseed {seed}: {error}\n{lab.words()}", flush=True)
        for process in lab.balancer.processes():
            print(f"--- {process.name} ({'alive' if process.alive() else process.popen.returncode})\n{process.tail(12)}")
        lab.keep = options.keep
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; seed {seed}")
        return 130
    finally:
        if lab.keep:
            lab.save_state()
            print(f"scripts/lab status; scripts/lab down --id {lab.run_id}")
        else:
            for problem in lab_command.clean_up(lab):
                print(f"clean-up: {problem}", file=sys.stderr)


class Progress:
    """Lines of the build step."""

    @staticmethod
    def line(text):
        """Prints it."""
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
