"""`xvip top` as a person uses it: on a terminal, with keys, windows of all sizes, and trouble."""

import re
import signal

from ..balancer import binary_directory
from ..terminal import Terminal
from .support import (BACK, FRONT, REALS, Group, Held, document, expect, methods, own_balancer, topology,
                      topology_cores, wait, web)

VIP = topology.vip(0, "ipv4")


class Live(Group):
    """One service with three real servers."""

    def text(self):
        return document([web({r: 1 for r in REALS})], [FRONT, BACK], topology_cores(1), methods.LOCAL, lease="2s")

    def _top(self, **size):
        return Terminal(self.net.inside_command("balancer", [
            binary_directory() / "xvip", "--socket", self.balancer.run_dir / "control.sock",
            "top", "--interval", "300ms"]), **size)

    def the_screen_follows_connections_keys_and_the_size_of_the_window(self):
        held = [Held(self.lab, VIP) for _ in range(6)]
        with self._top() as top:
            top.shows(r"data plane up .*\n6 active")
            top.shows(r"^SERVICE / REAL +STATE +ADDRESS +WEIGHT")
            top.shows(r"^  b +up +\S+:8080 +1 +2 ")
            for h in held:
                h.socket.close()
            top.shows(r"^  b +up +\S+:8080 +1 +0 ", 10)
            top.type("/c")
            top.shows("^filter: c_")
            top.lacks("^  b ")
            top.type("\r")
            top.shows("^only c .*q quit")
            top.type("\x1b")
            top.shows("^  b ")
            top.type("nr")
            top.shows(r"^  c .*(\n.*)*^  a ")
            top.resize(60, 12)
            screen = top.shows("^SERVICE / REAL +STATE +ACTIVE +CONN/S +PKT/S$")
            expect("ADDRESS" not in screen and "  b " in screen, screen)
            top.resize(12, 2)
            top.resize(130, 40)
            top.shows(r"^SERVICE / REAL +STATE +ADDRESS .*BIT/S OUT$")
            top.type(" ")
            top.shows("^PAUSED ")
            top.type(" q")
            expect(top.ended() == 0, f"exit status {top.process.returncode}")
            expect(top.is_restored(), "the terminal is not as it was")

    def however_it_ends_the_terminal_is_as_before(self):
        for how in (lambda top: top.type("q"), lambda top: top.type("\x03"),
                    lambda top: top.signal(signal.SIGTERM), lambda top: top.signal(signal.SIGHUP)):
            with self._top() as top:
                top.shows("data plane up")
                expect(not top.is_restored(), "the terminal was never taken")
                how(top)
                expect(top.ended() == 0, f"exit status {top.process.returncode}")
                expect(top.is_restored(), "the terminal is not as it was")

    @own_balancer
    def a_lost_data_plane_and_a_lost_control_are_said_and_it_goes_on_with_the_next(self):
        self.start()
        with self._top() as top:
            top.shows("data plane up")
            self.balancer.kill(self.balancer.dataplane)
            screen = top.shows("DATA PLANE LOST")
            expect(re.search("^  a ", screen, re.M), f"the rows are gone\n{screen}")
            self.balancer.start_dataplane()
            top.shows("data plane up", 15)
            self.balancer.kill(self.balancer.control)
            screen = top.shows("lost xvip-control|no xvip-control", 10)
            expect(re.search("^  a ", screen, re.M), f"the rows are gone\n{screen}")
            self.balancer.start_control()
            top.lacks("xvip-control", 15)
            top.shows("data plane up")
            top.type("q")
            expect(top.ended() == 0 and top.is_restored(), "the end")
        wait.until(self.works, "it works", 10)
