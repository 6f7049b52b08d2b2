"""What operators do: maintenance, plans, rights, the sorry page, and looking at packets."""

import json
import os
import signal
import socket
import subprocess
import time

from ..balancer import binary_directory
from .hostile import MIB, descriptors, memory
from .support import (BACK, FRONT, HTTP, HTTP_ALT, REALS, Downloads, Fetch, Group, Held, address, document,
                      expect, methods, own_balancer, topology, topology_cores, url_host, wait, web)

VIP = topology.vip(0, "ipv4")
VIP6 = topology.vip(0, "ipv6")
PORT = 7777  # where the checks of these tests look
CHECK = [{"type": "tcp", "port": PORT, "interval": "200ms", "timeout": "500ms", "rise": 1, "fall": 2}]
LISTENER = """
import socket, sys
s = socket.socket(socket.AF_INET6); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", int(sys.argv[1]))); s.listen(64)
while True:
    s.accept()[0].close()
"""
CLIENT = """
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode() + b"\\n")
print(s.makefile().readline())
"""
EQUAL = {"a": 1, "b": 1, "c": 1}


class Operate(Group):
    """One service with three real servers."""

    def text(self):
        return self._text(web(EQUAL))

    @staticmethod
    def _text(*services, **more):
        return document(list(services), [FRONT, BACK], topology_cores(1), methods.LOCAL, lease="2s", **more)

    def _picks(self, count=9):
        got = ""
        for _ in range(count):
            with Held(self.lab, VIP) as held:
                got += held.real
        return got

    def _overrides(self):
        return {o["real"]: o for o in self.balancer.ask("overrides")["overrides"]}

    def _held(self, count=6):
        held = [Held(self.lab, VIP) for _ in range(count)]
        return {real: [h for h in held if h.real == real] for real in REALS}

    # -- maintenance ----------------------------------------------------------------------------

    @own_balancer
    def a_drain_costs_nobody_a_connection_and_survives_everything(self):
        self.start()
        held = self._held()
        done = self.balancer.xvip("drain", "a")
        expect("2 connections left" in done.stdout, done.stdout)
        expect("a" not in self._picks(), "the drained one was chosen")
        self.balancer.kill(self.balancer.control)
        self.balancer.start_control()
        self.balancer.wait_ready()
        expect("a" not in self._picks(), "forgotten by a new control process")
        self.balancer.kill(self.balancer.dataplane)
        self.balancer.start_dataplane()
        self.balancer.wait_ready()
        expect("a" not in self._picks(), "forgotten by a new data plane")
        self.balancer.reload(self._text(web({"c": 1, "b": 2, "a": 5})))
        expect("a" not in self._picks(), "forgotten by a reload with another order")
        for h in held["a"]:
            expect(h.ask() == "a", "a connection of the drained one moved")
        expect(self._overrides()["a"]["conns"] == 2, f"{self._overrides()}")
        for h in held["a"]:
            h.socket.close()
        self.balancer.xvip("enable", "a")
        expect("a" in self._picks(), "not enabled")
        expect(not self._overrides(), "something is left")

    @own_balancer
    def at_the_deadline_what_is_left_is_reset_and_the_others_go_on(self):
        self.start()
        held = self._held()
        began = time.monotonic()
        self.balancer.xvip("drain", "a", "--deadline", "3s", "--then", "reset")
        for h in held["a"]:
            h.socket.settimeout(15)
            try:
                data = h.socket.recv(1)
                raise AssertionError(f"no reset but {data!r}")
            except ConnectionResetError:
                pass
        expect(time.monotonic() - began > 2.5, "before the deadline")
        for real in "bc":
            for h in held[real]:
                expect(h.ask() == real, "another's connection ended")
        expect("a" not in self._picks(), "back after the deadline")

    @own_balancer
    def what_a_data_plane_died_over_is_reset_by_the_next(self):
        """It has the order, but neither end can be reached; then it is killed."""
        self.start()
        held = self._held()
        filtered = {"client": f"ip saddr {VIP}", "real-a": f"tcp dport {HTTP_ALT}"}
        for node, what in filtered.items():
            self.net.exec(node, "nft", "-f", "-", stdin=(
                "table inet lab { chain input { type filter hook input priority 0; " + what + " drop; }; }"))
        try:
            self.balancer.xvip("drain", "a", "--deadline", "1s", "--then", "reset")
            wait.until(lambda: "event=connections_reset" in self.balancer.control.log.read_text(), "the order", 5)
            left = next(r for r in self.balancer.service("web")["reals"] if r["name"] == "a")["ending"]
            expect(left == 2, f"{left} connections are still to be reset")
            self.balancer.kill(self.balancer.dataplane)
        finally:
            for node in filtered:
                self.net.exec(node, "nft", "delete", "table", "inet", "lab")
        self.balancer.start_dataplane()
        for h in held["a"]:
            h.socket.settimeout(15)
            try:
                data = h.socket.recv(1)
                raise AssertionError(f"no reset but {data!r}")
            except ConnectionResetError:
                pass
        for real in "bc":
            for h in held[real]:
                expect(h.ask() == real, "another's connection ended")

    @own_balancer
    def a_weight_and_its_time(self):
        self.start()
        self.balancer.xvip("weight", "a", "7", "--for", "4s")
        expect(self._picks(18).count("a") == 14, "seven of nine")
        wait.until(lambda: not self._overrides(), "the time is over", 8)
        expect(self._picks(9).count("a") == 3, "a third again")

    @own_balancer
    def a_disabled_one_is_treated_as_dead(self):
        self.start(self._text(web(EQUAL, health={"dead": "reset"})))
        held = self._held()
        self.balancer.xvip("disable", "a")
        for h in held["a"]:
            h.socket.settimeout(15)
            try:
                h.socket.recv(1)
                raise AssertionError("no reset")
            except ConnectionResetError:
                pass
        expect("a" not in self._picks(), "chosen")
        expect(all(h.ask() == "b" for h in held["b"]), "another's connection ended")

    @own_balancer
    def ties_of_clients_are_honoured_or_moved_as_asked(self):
        self.start(self._text(web(EQUAL, persistence="5m")))
        tied = self._picks(1)
        self.balancer.xvip("drain", tied)
        expect(self._picks(3) == tied * 3, "the tie was not honoured")
        self.balancer.xvip("drain", tied, "--move-persistent")
        moved = self._picks(4)
        expect(tied not in moved and len(set(moved)) == 1, f"tied to {tied}, then {moved}")

    def whom_nobody_knows_is_refused_with_a_suggestion(self):
        for words, told in ((("drain", "aa"), "did you mean `a`?"), (("drain", "10.9.9.9"), "no real server"),
                            (("enable", "a", "--service", "wbe"), "did you mean `web`?")):
            done = self.balancer.xvip(*words, check=False)
            expect(done.returncode == 1 and told in done.stderr, f"{words}: {done.stderr}")

    @own_balancer
    def files_of_a_directory_take_real_servers_out_and_bring_them_back(self):
        directory = self.lab.directory / "maintenance"
        directory.mkdir(exist_ok=True)
        self.start(self._text(web(EQUAL), control={"maintenance_dir": str(directory)}))
        held = self._held()
        (directory / "a").touch()
        (directory / f"{address(2, 22, 'ipv4')}:{HTTP_ALT}").touch()
        (directory / "nobody").touch()
        wait.until(lambda: self._picks(3) == "ccc", "a and b are out", 5)
        expect(all(h.ask() == r for r in REALS for h in held[r]), "a connection ended")
        where = self.balancer.ask("overrides")["maintenance"]
        expect(where["drained"] == 2 and where["odd"] == ["nobody"], f"{where}")
        expect(any("nobody" in w for w in self.balancer.ask("status")["control"]["warnings"]), "no warning")
        for file in directory.iterdir():
            file.unlink()
        wait.until(lambda: set(self._picks(3)) == set(REALS), "all are back", 5)

    @own_balancer
    def a_broken_file_of_overrides_is_set_aside_and_told(self):
        self.start()
        self.balancer.xvip("drain", "a")
        file = self.balancer.state_dir / "overrides.json"
        self.balancer.control.end()
        file.write_text(file.read_text().replace("web", "wob"))
        self.balancer.start_control()
        self.balancer.wait_ready()
        expect("a" in self._picks(), "a file that cannot be believed was")
        warnings = self.balancer.ask("status")["control"]["warnings"]
        expect(any("set aside" in w for w in warnings), f"{warnings}")
        expect(list(self.balancer.state_dir.glob("overrides.json.broken-*")), "not there")
        self.balancer.xvip("drain", "b")
        expect(not self.balancer.ask("status")["control"]["warnings"], "the warning stays")

    # -- change without loss --------------------------------------------------------------------

    @own_balancer
    def a_plan_says_what_a_reload_then_does(self):
        self.start()
        held = self._held()
        new = self.lab.directory / "new.toml"
        text = self._text(web({"a": 3, "b": 1}))
        new.write_text(text)
        plan = self.balancer.ask("plan", new)["differences"]
        told = {(d["action"], d["real"], d["what"], d["conns"]) for d in plan}
        expect(told == {("change", "a", "weight", 2), ("remove", "c", "real", 2)}, f"{told}")
        expect("c" in self._picks(3), "a plan changed something")
        self.balancer.reload(text)
        expect(not self.balancer.ask("plan", new)["differences"], "the reload did something else")
        expect("c" not in self._picks(4), "c is still there")
        expect(all(h.ask() == "c" for h in held["c"]), "a live connection moved")

    @own_balancer
    def a_reload_that_is_not_confirmed_undoes_itself(self):
        self.start()
        held = self._held()
        self.balancer.configure(self._text(web({"a": 1})))
        done = self.balancer.xvip("reload", "--confirm", "3s")
        expect("unless `xvip confirm` comes" in done.stdout, done.stdout)
        expect(set(self._picks(3)) == {"a"}, "not in force")
        expect(self.balancer.xvip("reload", check=False).returncode == 1, "a reload meanwhile")
        wait.until(lambda: set(self._picks(3)) == set(REALS), "the one before is back", 8)
        expect(all(h.ask() == r for r in REALS for h in held[r]), "a live connection moved")
        self.balancer.xvip("reload", "--confirm", "3s")
        self.balancer.xvip("confirm")
        time.sleep(4)
        expect(set(self._picks(3)) == {"a"}, "undone although confirmed")

    @own_balancer
    def reloads_under_traffic_reset_nothing_and_grow_nothing(self):
        """XVIP_SOAK_RELOADS says how many; a few hundred if not."""
        count = int(os.environ.get("XVIP_SOAK_RELOADS", "300"))
        self.start()
        both = (self.balancer.dataplane, self.balancer.control)
        held = self._held(9)
        took = []

        def storm(count):
            for n in range(count):
                reals = {"a": 1 + n % 5, "b": 1}
                if n % 2:
                    reals["c"] = 1
                services = [web(reals)] + ([web({"b": 1}, name="other", number=1)] if n % 3 else [])
                began = time.monotonic()
                self.balancer.reload(self._text(*services))
                took.append(time.monotonic() - began)
                every = [h for r in REALS for h in held[r]]
                if n % 10 == 0:  # nginx itself ends a connection after a thousand requests
                    expect(every[n // 10 % 9].ask() in REALS, "a live connection ended")
        storm(30)
        before = [(memory(p), descriptors(p)) for p in both]
        left = count
        while left > 0:
            downloads = Downloads(self, 30).all_begun()
            storm(min(left, 400))
            left -= 400
            downloads.all_finished()
        after = [(memory(p), descriptors(p)) for p in both]
        for real in REALS:
            expect(all(h.ask() == real for h in held[real]), "a live connection moved")
        for process, (mem, fds), (mem2, fds2) in zip(both, before, after):
            print(f"    {process.name}: {mem >> 10} to {mem2 >> 10} KiB, {fds} to {fds2} descriptors")
            expect(mem2 < mem + 8 * MIB, f"{process.name} grew from {mem >> 10} to {mem2 >> 10} KiB")
            expect(fds2 <= fds + 4, f"{process.name} had {fds} descriptors, now {fds2}")
        took.sort()
        print(f"    {len(took)} reloads; median {took[len(took) // 2] * 1000:.0f} ms, "
              f"longest {took[-1] * 1000:.0f} ms")

    # -- the control socket ---------------------------------------------------------------------

    def _as(self, uid, groups, request):
        """What a user with these groups is answered."""
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}"]
        command += [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
        command += [topology.PYTHON, "-c", CLIENT, str(self.balancer.run_dir / "control.sock"), json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode != 0:  # the kernel did not let it connect
            return {"ok": False, "error": {"code": "none", "message": done.stderr.strip().splitlines()[-1]}}
        return json.loads(done.stdout)

    @own_balancer
    def readers_look_operators_act_and_strangers_are_told_so(self):
        self.start(self._text(web(EQUAL), control={"operators": "54001", "readers": "54002"}))
        drain = {"verb": "drain", "which": {"real": "a"}}
        for uid, groups, looks, acts in ((61000, [], False, False), (61000, [54002], True, False),
                                         (61000, [7, 54001], True, True), (54002, [], True, False),
                                         (0, [], True, True)):
            look, act = self._as(uid, groups, {"verb": "status"}), self._as(uid, groups, drain)
            expect((look["ok"], act["ok"]) == (looks, acts), f"{uid} {groups}: {look.get('error')} {act.get('error')}")
            for answer in (look, act):
                expect(answer["ok"] or (answer["error"]["code"] == "forbidden"
                                        and "group `54001`" in answer["error"]["message"]), f"{answer}")
        self.balancer.xvip("enable", "a")
        # A reload that takes the groups away closes the door.
        self.balancer.reload(self.text())
        expect(not self._as(61000, [54001], {"verb": "status"})["ok"], "still open")
        expect(oct(os.stat(self.balancer.run_dir / "control.sock").st_mode)[-3:] == "660", "mode")

    @own_balancer
    def strangers_and_slow_readers_keep_no_operator_out(self):
        self.start(self._text(web(EQUAL), control={"operators": "54001", "readers": "54002"}))
        path = str(self.balancer.run_dir / "control.sock")
        before = descriptors(self.balancer.control)
        flood = """
import os, socket, sys, time
os.setgroups([int(g) for g in sys.argv[2:]]); os.setgid(61000); os.setuid(61000)
kept = []
for n in range(10000):
    s = socket.socket(socket.AF_UNIX); s.setblocking(False)
    try:
        s.connect(sys.argv[1])
        if n % 3 == 0:
            s.send(b'{"verb":"services"}' + b'\\n' * (n % 2))
    except OSError:
        pass
    kept = kept[-300:] + [s]
print("flooded", flush=True)
time.sleep(60)
"""
        floods = [subprocess.Popen([topology.PYTHON, "-c", flood, path, *groups], stdout=subprocess.PIPE, text=True)
                  for groups in ([], ["54002"])]
        try:
            slowest = 0.0
            for _ in range(20):
                began = time.monotonic()
                self.balancer.xvip("overrides")
                slowest = max(slowest, time.monotonic() - began)
                expect(self.balancer.status()["lease_ms"] > 0, "the lease ran out")
            expect(slowest < 5, f"an operator waited for {slowest:.1f} s")
            for process in floods:
                expect(process.stdout.readline() == "flooded\n", "the flood broke")
        finally:
            for process in floods:
                process.kill()
                process.wait(5)
        wait.until(lambda: descriptors(self.balancer.control) <= before + 4, "their descriptors are closed", 15)
        lines = self.balancer.control.log.read_text().count("event=forbidden")
        expect(1 <= lines < 10, f"{lines} lines of the log for strangers")
        self._picks(3)

    # -- nothing left to serve ------------------------------------------------------------------

    def _listeners(self):
        return [self.net.start(f"real-{r}", f"check-{r}-{time.monotonic_ns()}",
                               [topology.PYTHON, "-c", LISTENER, PORT]) for r in REALS]

    def _lo(self):
        return [a["local"] for link in self.net.ip("balancer", "addr") if link["ifname"] == "lo"
                for a in link["addr_info"] if a["local"] in (VIP, VIP6)]

    def _code(self, family="ipv4"):
        """Status of a page through the VIP; 0 for none."""
        host = url_host(VIP if family == "ipv4" else VIP6)
        done = subprocess.run(self.net.inside_command("client", [
            "curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code} %header{retry-after}",
            f"http://{host}:{HTTP}/page.html"]), capture_output=True, text=True, check=False)
        return done.stdout

    @own_balancer
    def when_nobody_is_left_clients_are_told_sorry_until_somebody_is_back(self):
        page = self.lab.directory / "sorry.html"
        page.write_text("<p>back soon\n")
        sorry = {"file": str(page), "retry_after": "7s"}
        six = web(EQUAL, name="six", family="ipv6", check=CHECK, sorry=True)
        listeners = self._listeners()
        self.start(self._text(web(EQUAL, check=CHECK, sorry=sorry), six))
        wait.until(lambda: self._code() == "200 ", "real servers serve", 10)
        downloads = Downloads(self, 20).all_begun()
        for process in listeners:
            process.end()
        wait.until(lambda: self._code() == "503 7", "the page", 3, 0.05)
        wait.until(lambda: self._code("ipv6") == "503 30", "the built-in page", 3, 0.05)
        expect(sorted(self._lo()) == sorted([VIP, VIP6]), f"{self._lo()}")
        expect(self.balancer.service("web")["serves"] == "sorry", "status")
        with self.net.inside("client"):
            slow = socket.create_connection((VIP, HTTP), timeout=10)
        slow.sendall(b"GET / HTTP/1.1\r\n")
        listeners = self._listeners()
        wait.until(lambda: self._code() == "200 ", "real servers serve again", 5, 0.05)
        slow.sendall(b"Host: lab\r\n\r\n")
        answer = b""
        while piece := slow.recv(4096):
            answer += piece
        expect(answer.startswith(b"HTTP/1.1 503") and answer.endswith(b"<p>back soon\n"), f"{answer[:200]}")
        wait.until(lambda: not self._lo(), "the VIPs are gone from lo", 15)
        downloads.all_finished()
        for process in listeners:
            process.end()

    @own_balancer
    def a_page_that_is_switched_off_is_still_given_to_those_who_asked_for_it(self):
        """Whether somebody serves again with that reload, or nobody does."""
        for back in (True, False):
            self.start(self._text(web(EQUAL, sorry=True)))
            for real in REALS:
                self.balancer.xvip("disable", real)
            wait.until(lambda: self._code() == "503 30", "the page", 3)
            with self.net.inside("client"):
                slow = socket.create_connection((VIP, HTTP), timeout=10)
            slow.sendall(b"GET / HTTP/1.1\r\n")
            if back:
                self.balancer.xvip("enable", "a")
            self.balancer.reload(self.text())
            wait.until(lambda: self._code() == ("200 " if back else "000 "), "no page any more", 4, 0.05)
            slow.sendall(b"Host: lab\r\n\r\n")
            answer = b""
            while piece := slow.recv(4096):
                answer += piece
            expect(answer.startswith(b"HTTP/1.1 503") and answer.endswith(b"</html>\n"), f"{answer[:200]}")
            slow.close()
            wait.until(lambda: not self._lo(), "the VIP is gone from lo", 15)
            for real in REALS:
                self.balancer.xvip("enable", real)
            wait.until(lambda: self._code() == "200 ", "real servers serve", 5)
            self.balancer.stop()

    @own_balancer
    def what_a_killed_control_left_on_lo_is_taken_away(self):
        self.start(self._text(web(EQUAL, sorry=True)))
        for real in REALS:
            self.balancer.xvip("disable", real)
        wait.until(lambda: self._code() == "503 30", "the page", 3)
        self.balancer.kill(self.balancer.control)
        expect(self._lo() == [VIP], "it was killed")
        self.balancer.configure(self.text())
        self.balancer.start_control()
        self.balancer.wait_ready()
        wait.until(lambda: not self._lo(), "the VIP is gone from lo", 5)
        self.balancer.xvip("enable", "a")
        wait.until(lambda: self._code() == "200 ", "a serves", 5)

    @own_balancer
    def a_fallback_serves_while_nobody_else_does(self):
        other = f"{address(2, 23, 'ipv4')}:{HTTP_ALT}"
        self.start(self._text(web({"a": 1, "b": 1}, fallback=other)))
        held = [Held(self.lab, VIP) for _ in range(4)]
        for real in "ab":
            self.balancer.xvip("disable", real)
        wait.until(lambda: self._picks(2) == "cc", "the fallback serves", 5)
        with Held(self.lab, VIP) as on_fallback:
            for real in "ab":
                self.balancer.xvip("enable", real)
            wait.until(lambda: set(self._picks(2)) == {"a", "b"}, "the real servers are back", 5)
            expect(on_fallback.ask() == "c", "a connection to the fallback ended")
        expect(all(h.ask() == h.real for h in held), "a connection ended")

    # -- looking --------------------------------------------------------------------------------

    def why_says_who_would_serve_and_what_stands_in_the_way(self):
        done = self.balancer.xvip("why", "10.77.1.10", f"{VIP}:{HTTP}")
        expect("goes to real server" in done.stdout, done.stdout)
        done = self.balancer.xvip("why", "10.77.1.10:4711", f"{VIP}:4242")
        expect("the packet ends at" in done.stdout, done.stdout)
        answer = self.balancer.ask("why", "10.77.1.10", f"{VIP}:{HTTP}")
        expect(answer["real"] in REALS and all(s["ok"] for s in answer["steps"]), f"{answer}")

    def a_capture_has_each_packet_before_and_after_and_tshark_reads_it(self):
        file = self.lab.directory / "capture.pcapng"
        capture = subprocess.Popen(self.net.inside_command("balancer", [
            str(binary_directory() / "xvip"), "--socket", str(self.balancer.run_dir / "control.sock"),
            "--json", "capture", "-w", str(file), "--vip", f"{VIP}:{HTTP}", "--seconds", "4"]),
            stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(1)
            Fetch(self.lab, f"http://{VIP}:{HTTP}/whoami")
            told = json.loads(capture.communicate(timeout=15)[0])
        finally:
            capture.kill()
        expect(capture.returncode == 0 and told["packets"] >= 8 and told["lost"] == 0, f"{told}")
        fields = ["frame.interface_name", "frame.time_epoch", "ip.src", "ip.dst", "tcp.dstport", "tcp.flags.syn",
                  "frame.comment"]
        read = subprocess.run(["tshark", "-r", str(file), "-T", "fields", "-E", "separator=|",
                               *(w for f in fields for w in ("-e", f))], capture_output=True, text=True, check=True)
        lines = [line.split("|") for line in read.stdout.splitlines()]
        syns = [line for line in lines if line[5] in ("1", "True") and line[4] in (str(HTTP), str(HTTP_ALT))]
        came = [line for line in syns if line[0] == f"{FRONT} in"]
        went = [line for line in syns if line[0] == f"{BACK} out"]
        expect(came and came[0][3] == VIP and "sent" in came[0][6], f"{syns}")
        expect(went and went[0][3].startswith("10.77.2.") and went[0][4] == str(HTTP_ALT), f"{syns}")
        expect(abs(float(came[0][1]) - time.time()) < 60, f"time {came[0][1]}")

    def a_capture_that_is_stopped_ends_at_once_and_has_what_came_until_then(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            file = self.lab.directory / f"stopped-{number}.pcapng"
            # The first one would be in the way of the second if it ran on.
            with subprocess.Popen(self.net.inside_command("balancer", [
                    str(binary_directory() / "xvip"), "--socket", str(self.balancer.run_dir / "control.sock"),
                    "--json", "capture", "-w", str(file), "--vip", f"{VIP}:{HTTP}", "--seconds", "60"]),
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as capture:
                try:
                    def captured(file=file):
                        Fetch(self.lab, f"http://{VIP}:{HTTP}/whoami")
                        return file.stat().st_size > 1000
                    wait.until(captured, "packets are captured", 10)
                    capture.send_signal(number)
                    told, complaint = capture.communicate(timeout=5)
                finally:
                    capture.kill()
            expect(capture.returncode == 0, f"{capture.returncode}: {complaint}")
            packets = json.loads(told)["packets"]
            read = subprocess.run(["tshark", "-r", str(file)], capture_output=True, text=True, check=True)
            expect(len(read.stdout.splitlines()) >= packets >= 8, f"{told} {read.stdout}")
