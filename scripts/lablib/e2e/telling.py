"""What happens is told: events, mail, webhooks, commands, metrics, the live view."""

import email
import itertools
import json
import os
import pathlib
import re
import subprocess
import time

from .. import balancer
from ..config import table
from .support import (BACK, FRONT, REALS, Fetch, Group, Held, document, expect, methods, own_balancer, topology,
                      topology_cores, url_host, wait, web)

HERE = pathlib.Path(__file__).resolve().parents[1]
DASHBOARD = HERE.parents[1] / "docs/grafana/xvip.json"
PYTHON = "/usr/bin/python3"
VIP = topology.vip(0, "ipv4")
MAIL, HOOK, METRICS = 2525, 8080, 9105
CHECK = [{"type": "tcp", "interval": "100ms", "timeout": "500ms", "rise": 1, "fall": 1}]
TELL = """#!/bin/sh
# Says where it was called, and what it was told.
{ echo "kind=$XVIP_KIND real=$XVIP_REAL home=$HOME"; cat; } >> "$1"
"""
HANG = """#!/bin/sh
sleep 4711 &
echo $! > "$1"
wait
"""


class Telling(Group):
    """One service with checks that find out fast; mail, HTTP and commands beside the balancer."""

    numbers = itertools.count(1)

    def __init__(self, lab):
        super().__init__(lab)
        self.directory = lab.directory / "telling"
        self.directory.mkdir(exist_ok=True)
        if not (self.directory / "mail.pem").exists():
            self._certificates()
        for name, text, mode in (("password", "secret\n", 0o600), ("wrong", "guess\n", 0o600),
                                 ("token", "t0ken\n", 0o640), ("tell", TELL, 0o755), ("hang", HANG, 0o755)):
            path = self.directory / name
            path.write_text(text)
            path.chmod(mode)

    # -- scenery ------------------------------------------------------------------------------

    def _certificates(self):
        """An authority and a certificate of it for 127.0.0.1."""
        script = """
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                -subj "/CN=lab authority" -keyout ca.key -out ca.pem
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
                -subj /CN=mail -keyout mail.key -out mail.csr
            printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext
            openssl x509 -req -in mail.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile ext -out mail.pem
        """
        subprocess.run(["sh", "-ec", script], cwd=self.directory, check=True, capture_output=True)

    def _file(self, name):
        return str(self.directory / name)

    def _sink(self, kind):
        """Starts a server that takes alerts."""
        more = [MAIL, self._file("mails"), self._file("mail.pem"), self._file("mail.key"), "xvip", "secret"] \
            if kind == "mail" else [HOOK, self._file("hooks")]
        sink = self.net.start("balancer", f"sink-{kind}-{next(self.numbers)}", [PYTHON, HERE / "sinks.py", kind,
                                                                      *map(str, more)])
        wait.until(lambda: "ready" in sink.log.read_text() or not sink.alive(), f"{kind} sink", 10)
        expect(sink.alive(), sink.tail())
        return sink

    def _no_sinks(self):
        for sink in [p for p in self.net.processes if p.name.startswith("sink-")]:
            sink.end()
        for name in ("mails", "hooks", "told"):
            pathlib.Path(self._file(name)).unlink(missing_ok=True)

    def _lines(self, name):
        path = pathlib.Path(self._file(name))
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _mails(self):
        """Mails so far, parsed by Python's own library."""
        return [email.message_from_string(m["text"]) for m in self._lines("mails")]

    @staticmethod
    def _body(message):
        return message.get_payload(decode=True).decode()

    def _mail(self, **more):
        return {"server": f"127.0.0.1:{MAIL}", "ca_file": self._file("ca.pem"), "from": "xvip <xvip@lab.test>",
                "to": ["ops@lab.test", "night@lab.test"], "user": "xvip",
                "password_file": self._file("password"), **more}

    def _toml(self, alert=None, reals=None, metrics=True, **service):
        reals = reals or {"a": 1, "b": 1, "c": 1}
        text = document([web(reals, check=CHECK, **service)], [FRONT, BACK], topology_cores(1),
                        methods.LOCAL, lease="2s")
        if alert:
            text += "\n" + table("[alert]", alert)
        if metrics:
            text += "\n" + table("[metrics]", {"listen": f"127.0.0.1:{METRICS}"})
        return text

    def _nginx(self, real):
        """The web server of a real, if it runs."""
        mine = (p for p in self.net.processes if p.name.startswith(f"nginx-{real}") and p.alive())
        return next(mine, None)

    def _down(self, real):
        self._nginx(real).end()

    def _up(self, real):
        config = self.lab.directory / f"nginx-{real}" / "nginx.conf"
        self.net.start(f"real-{real}", f"nginx-{real}-{next(self.numbers)}",
                       ["nginx", "-p", config.parent, "-c", config])

    def _all_up(self):
        for real in REALS:
            if self._nginx(real) is None:
                self._up(real)

    def _states(self):
        reals = self.balancer.ask("services")["health"][0]["reals"]
        return {r["name"]: r["state"] for r in reals}

    def _state(self, real, state):
        wait.until(lambda: self._states()[real] == state, f"{real} is {state}", 10)

    def _begin(self, text):
        self._no_sinks()
        self._all_up()
        self.start(text)
        wait.until(lambda: set(self._states().values()) == {"up"}, "all are up", 10)

    # -- alerts -------------------------------------------------------------------------------

    @own_balancer
    def a_dead_server_and_its_return_are_told_by_mail_webhook_and_command(self):
        self._begin(self._toml({
            "digest": "1s", "mail": self._mail(),
            "webhook": {"url": f"http://127.0.0.1:{HOOK}/in?x=1", "token_file": self._file("token")},
            "command": {"argv": [self._file("tell"), self._file("told")]}}))
        self._sink("mail")
        self._sink("http")
        self._down("b")
        wait.until(lambda: len(self._mails()) == 1, "a mail", 10)
        raw, mail = self._lines("mails")[0], self._mails()[0]
        expect(raw["tls"] and raw["login"], f"not protected: {raw}")
        expect(raw["to"] == ["ops@lab.test", "night@lab.test"], f"to {raw['to']}")
        expect(mail["Auto-Submitted"] == "auto-generated" and mail["Message-ID"] and mail["Date"], str(mail))
        expect("WARNING: service web, real server b: DOWN" in mail["Subject"].replace("\n", ""), mail["Subject"])
        expect("connection refused" in self._body(mail), self._body(mail))
        wait.until(lambda: self._lines("hooks"), "a post", 10)
        hook = self._lines("hooks")[0]
        expect(hook["path"] == "/in?x=1" and hook["headers"]["authorization"] == "Bearer t0ken", str(hook))
        change = hook["body"]["changes"][0]
        expect((change["kind"], change["real"], change["flaps"]) == ("real_down", "b", 0), str(change))
        wait.until(lambda: pathlib.Path(self._file("told")).exists(), "the command was run", 10)
        first, told = pathlib.Path(self._file("told")).read_text().splitlines()[:2]
        expect(first == "kind=real_down real=b home=", first)
        expect(json.loads(told)["changes"] == hook["body"]["changes"], told)
        time.sleep(1.5)
        self._up("b")
        wait.until(lambda: len(self._mails()) == 2, "another mail", 10)
        body = self._body(self._mails()[1])
        expect(re.search(r"info +service web, real server b: up.* \(lasted \d", body), body)
        wait.until(lambda: len(self._lines("hooks")) == 2, "another post", 10)
        expect(self._lines("hooks")[1]["body"]["changes"][0]["lasted_ms"] > 1000, "lasted too short")
        text = self.balancer.xvip("status").stdout
        expect("mail (mail): 2 delivered" in text, text)

    @own_balancer
    def a_flap_storm_is_one_mail(self):
        self._begin(self._toml({"digest": "8s", "mail": self._mail()}))
        self._sink("mail")
        for _ in range(4):
            self._down("c")
            self._state("c", "down")
            self._up("c")
            self._state("c", "up")
        self._down("a")
        wait.until(lambda: self._mails(), "a mail", 15)
        body = self._body(self._mails()[0])
        expect(re.search(r"real server c: up.*\(flapped 4 times in ", body), body)
        expect(re.search(r"real server a: DOWN: ", body) and body.count("real server c") == 1, body)
        wait.never(lambda: len(self._mails()) > 1, "a second mail", 4)

    @own_balancer
    def a_mail_server_that_is_away_is_seen_and_gets_the_mail_when_it_is_back(self):
        self._begin(self._toml({"digest": "0s", "mail": self._mail()}))
        self._down("a")
        wait.until(lambda: self.balancer.ask("status")["alerts"][0]["failures"] > 0, "a failure", 10)
        alert = self.balancer.ask("status")["alerts"][0]
        expect(alert["pending"] == 1 and "refused" in alert["error"], str(alert))
        text = self.balancer.xvip("status").stdout
        expect("1 changes wait" in text and "NOT delivered: 127.0.0.1:2525" in text, text)
        expect('xvip_alerts_pending{target="mail",type="mail"} 1' in self.balancer.xvip("metrics").stdout,
               "no such metric")
        self._sink("mail")
        wait.until(lambda: len(self._mails()) == 1, "the mail", 15)
        wait.until(lambda: self.balancer.ask("status")["alerts"][0]["pending"] == 0, "nothing waits", 5)

    @own_balancer
    def every_way_to_fail_has_its_reason_and_holds_up_nobody(self):
        hook = f"http://127.0.0.1:{HOOK}"
        mails = [self._mail(name="good"), self._mail(name="guess", password_file=self._file("wrong")),
                 {**self._mail(name="stranger"), "ca_file": None}, self._mail(name="nobody", server="127.0.0.1:9")]
        hooks = [{"name": n, "url": hook + p, "timeout": "2s"} for n, p in (
            ("fine", "/"), ("hung", "/hang"), ("endless", "/endless"), ("busy", "/status/503"),
            ("elsewhere", "/status/302"))]
        commands = [{"name": "works", "argv": ["/bin/true"]}, {"name": "fails", "argv": ["/bin/ls", "/none"]},
                    {"name": "absent", "argv": ["/none/such"]},
                    {"name": "sleeps", "argv": [self._file("hang"), self._file("pid")], "timeout": "1s"}]
        without = [{k: v for k, v in m.items() if v is not None} for m in mails]
        self._begin(self._toml({"mail": without, "webhook": hooks, "command": commands}))
        self._sink("mail")
        self._sink("http")
        done = self.balancer.xvip("--json", "alert", "test", check=False, timeout=20)
        expect(done.returncode == 1, f"exit {done.returncode}")
        found = {t["name"]: t["error"] for t in json.loads(done.stdout)["targets"]}
        for name, reason in {
                "good": None, "fine": None, "works": None, "guess": "535", "stranger": "(?i)certificate|issuer",
                "nobody": "refused", "hung": "not done within 2s", "endless": "too large|not done",
                "busy": "503.*not today", "elsewhere": "302", "fails": "exit status.*/none",
                "absent": "cannot start", "sleeps": "not done within 1s"}.items():
            error = found.pop(name)
            expect((error is None) if reason is None else re.search(reason, error or ""), f"{name}: {error}")
        expect(not found, f"more: {found}")
        expect("test of the alerts" in self._mails()[0]["Subject"], self._mails()[0]["Subject"])
        child = int(pathlib.Path(self._file("pid")).read_text())
        wait.until(lambda: not os.path.exists(f"/proc/{child}"), "the command's own child was killed", 5)
        expect(self.balancer.xvip("alert", "test", "works").stdout == "works: delivered\n", "not told")
        wrong = self.balancer.xvip("alert", "test", "worsk", check=False)
        expect(wrong.returncode == 1 and "expected one of good" in wrong.stderr, wrong.stderr)

    @own_balancer
    def a_password_that_others_can_read_is_refused_with_its_place(self):
        open_file = self.directory / "open"
        open_file.write_text("secret\n")
        open_file.chmod(0o644)
        self.balancer.configure(self._toml({"mail": self._mail(password_file=str(open_file))}))
        done = self.balancer.xvip("check", self.balancer.config, check=False)
        expect(done.returncode == 2 and "others may use it (mode 0644)" in done.stderr, done.stderr)
        expect(re.search(r"xvip.toml:\d+:\d+", done.stderr), done.stderr)

    # -- events, metrics, top -----------------------------------------------------------------

    @own_balancer
    def events_are_followed_through_the_death_of_control(self):
        self._begin(self._toml())
        follower = self.net.start("balancer", "follower", [
            balancer.binary_directory() / "xvip", "--socket", self.balancer.run_dir / "control.sock",
            "events", "--follow"])

        def says(text, what):
            wait.until(lambda: text in follower.log.read_text(), what, 10)
        says("xvip-control started", "it says what was")
        self._down("a")
        says("real server a: DOWN", "it says what is")
        self.balancer.kill(self.balancer.control)
        self._down("b")
        self.balancer.start_control()
        self.balancer.wait_ready()
        says("real server b: DOWN", "it goes on")
        log = self.balancer.control.log.read_text()
        wait.until(lambda: "event=real_down" in self.balancer.control.log.read_text(), "it is logged", 5)
        log = self.balancer.control.log.read_text()
        expect(len(re.findall(r"event=real_down service=web real=b ", log)) == 1, log)
        old = self.balancer.ask("events", "--since", "1h")["events"]
        expect([e["kind"] for e in old if e.get("real") == "b"] == ["real_down"], str(old))
        expect(not self.balancer.ask("events", "--since", "1ms")["events"], "nothing is that new")
        expect(follower.end() is not None, "the follower does not end")

    @own_balancer
    def metrics_are_what_prometheus_reads_and_the_dashboard_asks_for(self):
        self._begin(self._toml())
        for _ in range(5):
            Fetch(self.lab, f"http://{url_host(VIP)}/whoami")
        wait.until(lambda: re.search(r"xvip_packet_events_total\{event=\"conn_opened\"\} [5-9]",
                                     self.balancer.xvip("metrics").stdout), "connections are counted", 10)
        text = self.balancer.xvip("metrics").stdout
        judged = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True,
                                check=False)
        expect(judged.returncode == 0 and not judged.stderr, f"promtool: {judged.stdout}{judged.stderr}")
        for pattern in (r'xvip_real_up\{service="web",real="a",address="[^"]+"\} 1', r"xvip_service_serving\{.*\} 3",
                        r'xvip_check_duration_seconds_count\{type="tcp"\} [1-9]', r"xvip_lease_remaining_seconds 1\.",
                        r'xvip_interface_up\{interface="front0"\} 1', r'xvip_worker_polls_total\{worker="0"\} [1-9]',
                        r'xvip_real_connections_opened_total\{.*real="a".*\} [1-9]', "xvip_build_info"):
            expect(re.search(pattern, text), f"{pattern} is not in\n{text}")

        def get(*more):
            return self.net.exec("balancer", "curl", "-sS", "-i", "--max-time", "5", *more,
                                 f"http://127.0.0.1:{METRICS}/metrics")
        plain = get().replace("\r", "")
        expect("text/plain; version=0.0.4" in plain, plain[:300])
        opened = get("-H", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5").replace("\r", "")
        expect("application/openmetrics-text; version=1.0.0" in opened and opened.endswith("# EOF\n"), opened[:300])
        expect("405" in get("-X", "POST").splitlines()[0], "POST is taken")
        self._slow_clients()
        expect("xvip_build_info" in get(), "slow clients keep others away")
        rules = [{"record": f"x:{n}", "expr": e} for n, e in enumerate(self._expressions())]
        path = self.directory / "rules.yml"
        path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        judged = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
        expect(judged.returncode == 0 and f"{len(rules)} rules found" in judged.stdout,
               judged.stdout + judged.stderr)

    @staticmethod
    def _expressions():
        panels = json.loads(DASHBOARD.read_text())["panels"]
        for target in (t for p in panels for t in p.get("targets", [])):
            yield re.sub(r"\$__rate_interval", "1m", target["expr"]).replace("$instance", ".*").replace(
                "$service", ".*")

    def _slow_clients(self):
        """More connections than are served, which say nothing; they are closed in time."""
        import socket
        with self.net.inside("balancer"):
            idle = [socket.create_connection(("127.0.0.1", METRICS), timeout=10) for _ in range(20)]
        for connection in idle:
            with connection:
                connection.settimeout(10)
                expect(connection.recv(1) == b"", "an idle connection is not closed")

    @own_balancer
    def top_shows_what_goes_on_as_text_and_says_when_it_has_no_terminal(self):
        self._begin(self._toml())
        stop = time.monotonic() + 4
        busy = self.net.start("client", "load", ["sh", "-c", f"""
            while :; do curl -s -o /dev/null --max-time 2 http://{url_host(VIP)}/page.html; done"""])
        rows = self.balancer.ask("top", "--batch", "1", "--interval", "3s")
        text = self.balancer.xvip("top", "--once", "--filter", "web").stdout
        busy.end_group()
        expect(time.monotonic() >= stop - 1, "too fast")
        expect(rows[0]["service"]["conns"] > 1 and rows[0]["service"]["bits_out"] > 1000, str(rows))
        expect([r["state"] for r in rows[0]["reals"]] == ["up"] * 3, str(rows))
        expect("SERVICE / REAL" in text and "conn/s" in text and re.search(r"^  a +up ", text, re.M), text)
        done = self.balancer.xvip("top", check=False)
        expect(done.returncode == 1 and "needs a terminal" in done.stderr, done.stderr)

    @own_balancer
    def too_little_reserve_for_a_failure_is_told_before_it_happens(self):
        reals = {r: {"weight": 1, "upper_threshold": 10} for r in REALS}
        self._begin(self._toml(reals=reals))
        held = [Held(self.lab, VIP, seconds=20) for _ in range(24)]
        wait.until(lambda: "spare_short" in [e["kind"] for e in self.balancer.ask("events")["events"]],
                   "the warning", 20)
        text = self.balancer.xvip("status").stdout
        expect(re.search(r"service web: if \w fails, \w exceeds its upper threshold by 20 %", text), text)
        for h in held:
            h.socket.close()
        wait.until(lambda: "spare_enough" in [e["kind"] for e in self.balancer.ask("events")["events"]],
                   "the end of the warning", 30)
