"""Real servers die, hang, vanish and return: clients go elsewhere, and the others notice nothing."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import time

from .support import (HTTP, HTTP_ALT, V4, V6, Downloads, Group, Held, document, expect, method, methods, own_balancer,
                      topology, topology_cores, wait, web)

VIP = topology.vip(0, V4)
CHECK = {"type": "http", "path": "/whoami", "status": [200], "interval": "100ms", "timeout": "300ms"}
# fall times the larger of interval and timeout, a plan on its way, and a machine that does other things.
SOON = 3.0


class Health(Group):
    """One NAT service of three nginx servers, checked ten times a second."""

    def text(self):
        return self._text(web({"a": 1, "b": 1, "c": 1}, check=[CHECK]))

    @staticmethod
    def _text(*services):
        return document(list(services), ["front0", "back0"], topology_cores(1), methods.LOCAL, lease="2s")

    # -- what is done to servers ----------------------------------------------------------------

    def _nginx(self, letter):
        """Processes of a server."""
        def is_nginx(pid):
            with contextlib.suppress(OSError):
                return pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "nginx"
            return False
        return [pid for pid in self.net.pids(f"real-{letter}") if is_nginx(pid)]

    def _signal(self, letter, sig):
        for pid in self._nginx(letter):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)

    @contextlib.contextmanager
    def _dead(self, letter):
        """A server is killed, and started again in the end."""
        self._signal(letter, signal.SIGKILL)
        wait.until(lambda: not self._nginx(letter), f"nginx of {letter} is gone", 5)
        try:
            yield
        finally:
            self._revive(letter)

    def _revive(self, letter):
        if self._nginx(letter):
            return
        config = self.lab.directory / f"nginx-{letter}" / "nginx.conf"
        self.net.start(f"real-{letter}", f"nginx-{letter}-again", ["nginx", "-p", config.parent, "-c", config])
        wait.until(lambda: len(self._nginx(letter)) > 1, f"nginx of {letter} runs again", 5)

    @contextlib.contextmanager
    def _hung(self, letter):
        """A server is stopped: its kernel takes connections, nobody answers on them."""
        self._signal(letter, signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(letter, signal.SIGCONT)

    @contextlib.contextmanager
    def _cut_off(self, letter):
        """The cable of a server is pulled."""
        port = f"real-{letter}.back"
        self.net.batch("switch", [f"link set {port} down"])
        try:
            yield
        finally:
            self.net.batch("switch", [f"link set {port} up"])

    @contextlib.contextmanager
    def _filtered(self, letter, verdict, match=""):
        """A firewall in front of a server does this to the first packets of connections."""
        syn = f"{match} tcp dport {HTTP_ALT} tcp flags & (fin|syn|rst|ack) == syn"
        self.net.exec(f"real-{letter}", "nft", "-f", "-", stdin=(
            "table inet lab { chain input { type filter hook input priority 0; " + f"{syn} {verdict}" + "; }; }"))
        try:
            yield
        finally:
            self.net.exec(f"real-{letter}", "nft", "delete", "table", "inet", "lab")

    @contextlib.contextmanager
    def _callers(self):
        """Clients that call one after the other, and wait for nothing. Gives a function that has the next one call."""
        callers = []

        def call():
            with self.net.inside("client"):
                callers.append(socket.socket())
            callers[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                callers[-1].connect((VIP, HTTP))
            time.sleep(0.05)
        try:
            yield call
        finally:
            for each in callers:
                each.close()

    # -- what is seen ---------------------------------------------------------------------------

    def _service(self, name="web"):
        return next(s for s in self.balancer.ask("services")["health"] if s["service"] == name)

    def _states(self):
        return {r["name"]: r["state"] for r in self._service()["reals"]}

    def _all_up(self, seconds=10):
        wait.until(lambda: set(self._states().values()) == {"up"}, "all servers are up", seconds)

    def _picks(self, count):
        """Connections one after another; a single one that fails is a failure."""
        got = ""
        for _ in range(count):
            with Held(self.lab, VIP, seconds=2) as held:
                got += held.real
        return got

    def _until_down(self, letter, since):
        """Waits until a server gets no new connection; how long that took."""
        wait.until(lambda: self._states()[letter] == "down"
                   and next(r["weight"] for r in self.balancer.service("web")["reals"] if r["name"] == letter) == 0,
                   f"{letter} is down", 10)
        took = time.monotonic() - since
        expect(took < SOON, f"{letter} was found down after {took:.1f} s")
        return took

    def _reason(self, letter):
        return next(r["reason"] for r in self._service()["reals"] if r["name"] == letter)

    def _bad(self, trouble, word):
        """A server gets into trouble: out soon, nobody else notices, back by itself."""
        self.start()
        self._all_up()
        expect(set(self._picks(9)) == {"a", "b", "c"}, "not all serve at first")
        held = [Held(self.lab, VIP) for _ in range(9)]
        with trouble("a"):
            self._until_down("a", time.monotonic())
            expect(word in self._reason("a"), self._reason("a"))
            got = self._picks(60)
            expect("a" not in got, f"a got connections: {got}")
            for h in held:
                if h.real != "a":
                    expect(h.ask() == h.real, "a connection elsewhere was harmed")
        self._all_up()
        expect(set(self._picks(9)) == {"a", "b", "c"}, "a does not serve again")
        flaps = {r["name"]: r["flaps"] for r in self._service()["reals"]}
        expect(flaps == {"a": 2, "b": 0, "c": 0}, f"went up or down: {flaps}")
        for h in held:
            h.socket.close()

    # -- tests ----------------------------------------------------------------------------------

    @own_balancer
    def a_server_that_dies_gets_no_new_connection_and_comes_back_by_itself(self):
        self._bad(self._dead, "connection refused")

    @own_balancer
    def a_server_that_hangs_gets_no_new_connection_although_its_kernel_takes_them(self):
        self._bad(self._hung, "no answer within 300ms")

    @own_balancer
    def a_server_whose_cable_is_pulled_gets_no_new_connection(self):
        self._bad(self._cut_off, "")

    @own_balancer
    def downloads_from_the_others_live_through_a_death_and_a_return(self):
        self.start(self._text(web({"a": 0, "b": 1, "c": 1}, check=[CHECK])))
        self._all_up()
        downloads = Downloads(self, 60).all_begun()
        self.balancer.reload(self.text())
        wait.until(lambda: "a" in self._picks(3), "a serves", 5)
        with self._dead("a"):
            self._until_down("a", time.monotonic())
        self._all_up()
        served = downloads.all_finished()
        expect(set(served) == {"b", "c"}, f"{served}")

    @own_balancer
    def healthy_servers_under_load_are_never_taken_out(self):
        self.start()
        self._all_up()
        downloads = Downloads(self, 200).all_begun()
        end = time.monotonic() + 8
        while time.monotonic() < end:
            self._picks(20)
        service = self._service()
        flaps = [r["flaps"] for r in service["reals"]]
        runs = [c["runs"] for r in service["reals"] for c in r["checks"]]
        expect(flaps == [0, 0, 0], f"went up or down: {flaps}")
        expect(min(runs) > 40, f"checks ran {runs} times in more than eight seconds")
        downloads.all_finished()

    @own_balancer
    def a_dead_server_gets_nothing_while_control_is_killed_and_started_again(self):
        self.start()
        self._all_up()
        with self._dead("a"):
            self._until_down("a", time.monotonic())
            for _ in range(3):
                self.balancer.control.kill()
                expect("a" not in self._picks(6), "while control is dead")
                self.balancer.start_control()
                got = self._picks(30)
                expect("a" not in got, f"a got connections: {got}")
                self.balancer.wait_ready()
                expect(self._states()["a"] == "down", f"{self._states()}")
        self._all_up()

    @own_balancer
    def with_every_server_dead_the_service_says_so_and_the_first_to_return_serves(self):
        self.start()
        self._all_up()
        with self._dead("a"), self._dead("b"):
            with self._dead("c"):
                wait.until(lambda: self.balancer.ask("status")["health"]["down"] == ["web"], "web is down", 10)
            wait.until(lambda: self._states()["c"] == "up", "c is up", 10)
            expect(set(self._picks(6)) == {"c"}, "not only c serves")
        self._all_up()
        log = self.balancer.control.log.read_text()
        for event in ("service_down", "service_up"):
            expect(f"event={event} service=web" in log, f"{event} is not in the log")

    @own_balancer
    def a_direct_or_tunnel_server_that_loses_its_vip_is_taken_out_and_comes_back_with_it(self):
        """By its own address it is well all the time: only the path of the connections shows it."""
        check = {"type": "path", "interval": "200ms", "timeout": "300ms", "fall": 3, "rise": 2}
        tcp = {"type": "tcp", "port": HTTP}
        for m in (method("direct"), method("4in4"), method("direct", V6), method("6in6", V6)):
            file = self.lab.directory / "path.toml"
            file.write_text(document([{**m.services()[0], "name": "web", "check": [check, tcp]}],
                                     ["front0", "back0"], topology_cores(1), lease="2s"))
            self.start(file.read_text())
            self._all_up()
            held = [Held(self.lab, m.vip) for _ in range(6)]
            length = "128" if m.family == V6 else "32"
            self.net.batch("real-b", [f"addr del {m.vip}/{length} dev lo"])
            lost = time.monotonic()
            try:
                took = self._until_down("b", lost)
                # fall times the larger of interval and timeout, and what a busy machine takes.
                expect(took < 3 * 0.3 + 1.5, f"{m.name} {m.family}: {took:.1f} s")
                expect("does the server own the VIP" in self._reason("b"), self._reason("b"))
                checks = next(r["checks"] for r in self._service()["reals"] if r["name"] == "b")
                outcome = {c["check"].split()[0]: c["outcome"] for c in checks}
                expect(outcome == {"path": "down", "tcp": "up"}, f"{m.name} {m.family}: {checks}")
                got = "".join(self.fetch(m).real for _ in range(12))
                expect(set(got) == {"a", "c"}, f"{m.name} {m.family}: {got}")
                done = self.balancer.xvip("--json", "probe", file, "web", check=False)
                rows = {(r["real"], r["check"].split()[0]): r["outcome"] for r in json.loads(done.stdout)["checks"]}
                expect(done.returncode == 1 and rows["b", "path"] == "down" and rows["a", "path"] == "up", f"{rows}")
                for h in held:
                    if h.real != "b":
                        expect(h.ask() == h.real, "a connection elsewhere was harmed")
            finally:
                extra = "nodad" if m.family == V6 else ""
                self.net.batch("real-b", [f"addr add {m.vip}/{length} dev lo {extra}"])
            self._all_up()
            expect("b" in {self.fetch(m).real for _ in range(9)}, f"{m.name} {m.family}: b does not serve again")
            flaps = {r["name"]: r["flaps"] for r in self._service()["reals"]}
            expect(flaps == {"a": 0, "b": 2, "c": 0}, f"{m.name} {m.family}: {flaps}")
            for h in held:
                h.socket.close()
            self.balancer.stop()

    @own_balancer
    def servers_that_all_lose_the_vip_are_found_again_by_their_path_checks(self):
        """With nobody left to serve the VIP, the data plane still asks and hears."""
        m = method("direct")
        check = {"type": "path", "interval": "200ms", "timeout": "300ms"}
        for sorry in (None, True):
            self.start(document([{**m.services()[0], "name": "web", "check": [check], "sorry": sorry}],
                                ["front0", "back0"], topology_cores(1), lease="2s"))
            self._all_up()
            try:
                for letter in "abc":
                    self.net.batch(f"real-{letter}", [f"addr del {m.vip}/32 dev lo"])
                wait.until(lambda: set(self._states().values()) == {"down"}, "all are down", 10)
            finally:
                for letter in "abc":
                    self.net.batch(f"real-{letter}", [f"addr add {m.vip}/32 dev lo"])
            self._all_up()
            wait.until(lambda: self.fetch(m).real in set("abc"), "a server serves", 5)
            self.balancer.stop()

    def _accused(self, verdict, passive, word):
        """A server does this to new connections: clients' evidence has it asked, and out, long before its checks
        would have found out; back it comes by a check."""
        checks = [{"type": "tcp", "interval": "8s", "timeout": "1s", "rise": 1, "fall": 200}]
        self.start(self._text(web({"a": 1, "b": 1, "c": 1}, check=checks, health={"passive": passive})))
        self._all_up(20)
        held = [Held(self.lab, VIP) for _ in range(6)]
        with self._filtered("a", verdict), self._callers() as call:
            # Whoever asks for states all the time makes no difference. What is needed: a look to compare with,
            # second SYNs after 1 s, the next look 2 s later, the check's timeout. Unaccused: 200 runs.
            wait.until(lambda: call() or self._states()["a"] == "down", "a is down", 10)
            expect(word in self._reason("a"), self._reason("a"))
            expect("a" not in self._picks(30), "a got connections")
            expect(all(h.ask() == h.real for h in held), "a live connection was harmed")
        self._all_up(15)
        expect("a" in self._picks(9), "a does not serve again")
        flaps = {r["name"]: r["flaps"] for r in self._service()["reals"]}
        expect(flaps == {"a": 2, "b": 0, "c": 0}, f"{flaps}")
        for h in held:
            h.socket.close()

    @own_balancer
    def a_server_that_swallows_the_syns_of_clients_is_out_by_their_evidence(self):
        self._accused("drop", {"unanswered": 3}, "no answer within 1s")

    @own_balancer
    def a_server_that_resets_clients_is_out_by_their_evidence(self):
        self._accused("reject with tcp reset", {"resets": 3}, "connection refused")

    @own_balancer
    def evidence_has_a_server_asked_and_if_it_is_well_it_stays(self):
        """Only one client cannot reach it: no reason to take it from all others."""
        checks = [{"type": "tcp", "interval": "1h", "timeout": "1s", "rise": 1, "fall": 1}]
        self.start(self._text(web({"a": 1, "b": 1, "c": 1}, check=checks,
                                  health={"passive": {"unanswered": 3, "resets": 3}})))

        def runs():
            return {r["name"]: r["checks"][0]["runs"] for r in self._service()["reals"]}
        wait.until(lambda: min(runs().values()) == 1, "all were asked once", 10)
        before = runs()
        client = f"ip saddr {topology.address(1, 10, V4)}"
        with self._filtered("a", "reject with tcp reset", client), self._callers() as call:
            wait.until(lambda: call() or runs()["a"] > before["a"], "a is asked", 10)
            after = runs()
            expect(after["b"] == before["b"] and after["c"] == before["c"], f"{before} {after}")
            wait.until(lambda: self._states()["a"] == "up", "a is up", 5)
        expect([r["flaps"] for r in self._service()["reals"]] == [0, 0, 0], "went up or down")

    @own_balancer
    def a_direct_server_that_vanishes_is_down_by_its_path_check_alone(self):
        m = method("direct")
        check = {"type": "path", "interval": "200ms", "timeout": "300ms"}
        self.start(document([{**m.services()[0], "name": "web", "check": [check]}],
                            ["front0", "back0"], topology_cores(1), lease="2s"))
        self._all_up()
        port = "real-a.front"
        self.net.batch("switch", [f"link set {port} down"])
        try:
            self._until_down("a", time.monotonic())
            # Sooner or later its neighbour entry fails: it stays down, for that reason.
            def said():
                checks = next(r["checks"] for r in self._service()["reals"] if r["name"] == "a")
                return checks[0]["outcome"], checks[0]["reason"]
            wait.until(lambda: "next hop" in said()[1], "the next hop is unresolved", 60)
            expect(said()[0] == "down", f"{said()}")
            expect(self._states()["a"] == "down", f"{self._states()}")
        finally:
            self.net.batch("switch", [f"link set {port} up"])
        self._all_up(30)

    @own_balancer
    def below_the_panic_floor_all_stay_in_service_and_people_are_told(self):
        self.start(self._text(web({"a": 1, "b": 1, "c": 1}, check=[CHECK], health={"panic_floor": 50})))
        self._all_up()
        with self._hung("a"), self._hung("b"):
            wait.until(lambda: self._service()["panic"], "panic", 10)
            weights = {r["name"]: r["weight"] for r in self.balancer.service("web")["reals"]}
            expect(weights == {"a": 1, "b": 1, "c": 1}, f"{weights}")
            expect("PANIC FLOOR" in self.balancer.xvip("services").stdout, "not shown")
        self._all_up()
        expect("event=panic_begun" in self.balancer.control.log.read_text(), "not told")

    @own_balancer
    def a_server_that_returns_gets_its_share_by_and_by(self):
        self.start(self._text(web({"a": 1, "b": 1}, check=[CHECK], health={"slow_start": "20s"})))
        self._all_up()
        with self._dead("a"):
            self._until_down("a", time.monotonic())
        wait.until(lambda: self._states()["a"] == "slow-start", "a is back", 10)
        first = self._picks(22).count("a")
        expect(0 < first < 8, f"{first} of the first 22 connections")
        seen = wait.until(lambda: next(r["percent"] for r in self._service()["reals"] if r["name"] == "a") >= 50,
                          "half of its share", 20)
        expect(seen, "never")

    @own_balancer
    def probe_tells_from_the_command_line_what_each_check_finds(self):
        file = self.lab.directory / "probe.toml"
        file.write_text(self._text(
            web({"a": 1, "b": 1, "c": 1}, check=[CHECK, {"type": "tcp"}]),
            web({"b": 1}, name="other", number=1, check=[{"type": "tcp", "port": 9}])))

        def probe(*arguments):
            done = self.balancer.xvip("--json", "probe", file, *arguments, check=False)
            rows = json.loads(done.stdout)["checks"] if done.stdout else []
            return done.returncode, {(r["real"], r["check"].split()[0]): r for r in rows}
        code, rows = probe("web")
        expect(code == 0 and len(rows) == 6 and all(r["outcome"] == "up" for r in rows.values()), f"{code} {rows}")
        code, rows = probe("other")
        expect(code == 1 and "connection refused" in rows["b", "tcp"]["reason"], f"{code} {rows}")
        with self._hung("a"):
            code, rows = probe("web", "a")
        expect(code == 1 and len(rows) == 2, f"{code} {rows}")
        expect(rows["a", "tcp"]["outcome"] == "up" and rows["a", "http"]["outcome"] == "down", f"{rows}")
        expect(probe("nonsense")[0] == 2 and probe("web", "nonsense")[0] == 2, "unknown names")
        shown = self.balancer.xvip("probe", file, "web", method("nat").real_address(1), check=False).stdout
        expect("http" in shown and " up " in shown, shown)
        file.write_text("nonsense")
        expect(probe()[0] == 2, "a bad file")
