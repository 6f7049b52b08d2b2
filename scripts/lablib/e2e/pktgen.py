"""The packet generator, before the real balancer: what it proves, what it says, and to whom it lays the blame."""

import contextlib
import json
import os
import signal
import subprocess
import time

from .. import config, net
from ..balancer import Balancer, binary_directory
from ..topology import Lab
from .support import Group, expect, own_balancer, topology_cores, wait

CLIENT, SERVER = "cli0", "srv0"
NEAR, FAR = "near0", "far0"
WIRE, ROUTER = "wire", "router"
VIP, VIP6 = "198.18.255.1", "2001:db8:18::ffff:1"
PORT, UDP_PORT = 80, 53
REALS = 4
PASSED, FAILED, UNUSABLE = 0, 1, 2


class Addressed(Balancer):
    """A balancer whose real servers are there only while the generator is."""

    interfaces = 2

    def ready(self, interfaces=None):
        """Whether our data plane runs our configuration with attached interfaces and a lease."""
        self.alive()
        whole = self.ask("status")
        status = whole["data_plane"]
        if not (whole["agent"]["applied"] and status and status["pid"] == self.dataplane.pid):
            return False
        attached = [i for i in status["interfaces"] if i["attached"] and i["link"] == "up"]
        return len(attached) == self.interfaces and status["lease_ms"] > 0 and bool(status["services"])


class GeneratorLab(Lab):
    """The generator on both sides of the balancer:  cli0 ── near0 balancer far0 ── srv0.

    The generator's interfaces have no addresses: it answers for its clients and real servers itself.
    """

    # More than the balancer's one queue keeps it from native mode.
    generator_queues = 1

    def __init__(self, **options):
        super().__init__(**options)
        self.balancer = Addressed(self.net, "balancer", self.prefix, self.directory)

    def networks(self):
        """Two namespaces, two veth pairs."""
        self.net.add("balancer", "gen")
        # No router solicitations and the like among the packets that are counted.
        self.net.shell("gen", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6;"
                              "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
        self._links()

    def _links(self):
        self.balancer_link(NEAR)
        self.balancer_link(FAR)
        for interface in (CLIENT, SERVER):
            wait.until(lambda i=interface: "LOWER_UP" in self.net.ip("gen", "link", "show", "dev", i)[0]["flags"],
                       f"{interface} has a carrier", 5)

    def balancer_link(self, interface, mtu=1500, up=True):
        """Makes one of the two pairs (again)."""
        peer = CLIENT if interface == NEAR else SERVER
        q = self.generator_queues
        third, host = ("18", "ffff:fffe") if interface == NEAR else ("19", "ffff:fffe")
        self.net.batch("balancer", [
            f"link add name {interface} mtu {mtu} numrxqueues 1 numtxqueues 1 type veth "
            f"peer name {peer} mtu {mtu} numrxqueues {q} numtxqueues {q} netns {self.net.namespace('gen')}",
            f"link set {interface} up",
            f"addr add 198.{third}.255.254/16 dev {interface}",
            f"addr add 2001:db8:{third}::{host}/64 dev {interface} nodad",
        ])
        self.net.plain_offloads("balancer", interface)
        self.net.plain_offloads("gen", peer)
        self.net.batch("gen", [f"link set {peer} up"])

    def balancer_addresses(self, interface):
        """They come with the link."""

    def servers(self):
        """None: the generator is all of them."""

    def restore_links(self):
        """New pairs: nothing that a test did to the old ones is left."""
        # Before the namespaces, which take theirs away some time after they are gone themselves.
        for node, interface in (("balancer", NEAR), ("balancer", FAR), ("gen", CLIENT), ("gen", SERVER)):
            if any(link["ifname"] == interface for link in self.net.ip(node, "link")):
                self.net.batch(node, [f"link del {interface}"])
        for node in (WIRE, ROUTER):
            if node in self.net.nodes:
                expect(not net.remove_namespaces([self.net.namespace(node)]), f"{node} cannot be removed")
                self.net.nodes.remove(node)
        self.balancer.interfaces = 2
        self._links()


class Pktgen(Group):
    """Runs of xvip-pktgen."""

    prompt = True

    @classmethod
    def make_lab(cls):
        """The generator's own topology."""
        return GeneratorLab(name="xve2e")

    def text(self, mode="auto"):
        """A service for each protocol and family."""
        def reals(family, port):
            host = (lambda n: f"198.19.0.{n}:{port}") if family == 4 else (lambda n: f"[2001:db8:19::{n}]:{port}")
            return [config.real(host(n)) for n in range(1, REALS + 1)]
        services = [
            config.service("tcp4", f"{VIP}:{PORT}", reals(4, PORT), "nat", "rr"),
            config.service("udp4", f"{VIP}:{UDP_PORT}", reals(4, UDP_PORT), "nat", "rr", "udp"),
            config.service("tcp6", f"[{VIP6}]:{PORT}", reals(6, PORT), "nat", "rr"),
        ]
        return config.document(services, [NEAR, FAR], topology_cores(1), lease="2s",
                               interface_keys={"mode": mode})

    # -- helpers ------------------------------------------------------------------------------

    def _command(self, verb, *more, vip=f"{VIP}:{PORT}", client=CLIENT, server=SERVER, socket=True):
        binary = binary_directory() / "xvip-pktgen"
        expect(binary.is_file(), f"{binary} is not built")
        arguments = [binary, verb, "--vip", vip, "--patience", "2", "--cores", "0"]
        arguments += ["--seconds", "1"] if verb != "reflect" else []
        arguments += ["--client", client] if client else []
        arguments += ["--server", server] if server else []
        arguments += ["--balancer", self.balancer.run_dir / "agent.sock"] if socket else []
        return self.net.inside_command("gen", [str(a) for a in (*arguments, *more)])

    def _run(self, verb, *more, status, seconds=20, **options):
        """A finished run with this exit status (none: any report); returns (report or None, standard error)."""
        command = self._command(verb, "--json", *more, **options)
        for _ in range(10):
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
            if status != PASSED or done.returncode == UNUSABLE or not self._starved(json.loads(done.stdout)):
                break
        else:
            # Whatever the pace: nothing may be missing, which the callers look at.
            if os.getloadavg()[0] > 2 * os.cpu_count():
                print(f"       {verb}: the pace is not tested, this machine is too busy", flush=True)
                status = None
        return self._finished(done.returncode, done.stdout, done.stderr, status)

    @staticmethod
    def _starved(report):
        """Whether the generator got no time from a machine with other work, which it says itself."""
        own = ("it, not the balancer", "the generator began", "no packet was sent", "carried no packet")
        notes = [n for n in report["notes"] if "the next one did not" in n]
        said = report["failures"] + notes
        return said and all(any(words in text for words in own) for text in said)

    @staticmethod
    def _finished(code, out, err, status):
        report = json.loads(out) if code in (PASSED, FAILED) else None
        told = f"{err.strip()}\n{out if code != UNUSABLE else ''}"
        if report:
            # First, for the rest may be cut.
            told = f"{report['failures']} {report['notes']} {told}"
        status = code if status is None and code in (PASSED, FAILED) else status
        expect(code == status, f"exit {code}, not {status}: {told[:3000]}")
        if status == UNUSABLE:
            expect(not out, f"a report of nothing: {out[:300]}")
            return None, err
        expect(report["schema"] == 1 and report["passed"] == (status == PASSED), out[:500])
        for trial in report["trials"]:
            if trial["ledger"]:
                sent, *rest = (line["packets"] for line in trial["ledger"])
                expect(sum(rest) + trial["unexplained"] == sent, f"the ledger does not add up: {trial['ledger']}")
        return report, err

    @contextlib.contextmanager
    def _running(self, verb, *more, begun=0.6, **options):
        """A run in the background, some time into its traffic; `end()` returns (status, out, err)."""
        command = self._command(verb, "--json", *more, **options)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            active = lambda: sum(  # noqa: E731
                r["active"] for s in self.balancer.status()["services"] for r in s["reals"])
            if begun:
                wait.until(lambda: active() >= 100 or process.poll() is not None, "connections are open", 10)
                self._sleep(begun)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=10)

    @staticmethod
    def _sleep(seconds):
        """Traffic has to flow for a while; there is no condition to wait for."""
        time.sleep(seconds)

    @staticmethod
    def _line(trial, place):
        return sum(line["packets"] for line in trial["ledger"] if place in line["place"])

    @staticmethod
    def _whole(report, connections, exact=True):
        """The one trial of a report in which nothing was lost."""
        trial = report["trials"][0]
        for way in ("requests", "replies"):
            d = trial[way]
            expect(d["sent"] > 0 and d["received"] == d["sent"] and d["lost"] == 0, f"{way}: {d}")
            expect(d["latency"]["p50"] > 0, f"{way}: no latency")
        c = trial["connections"]
        expect(c["opened"] == c["alive"] == connections, f"{c}")
        expect(not exact or trial["unexplained"] == 0, f"{trial['ledger']}")
        return trial

    # -- what is right ------------------------------------------------------------------------

    def two_thousand_connections_are_held_without_loss(self):
        report, _ = self._run("load", "--connections", "2k", "--rate", "8kpps", status=PASSED)
        trial = self._whole(report, 2000)
        c = trial["connections"]
        expect(c["balancer_active"] == 2000 and c["closed"] == 2000, f"{c}")
        expect([r["connections"] for r in c["reals"]] == [500] * REALS, f"{c['reals']}")
        expect(report["scenario"]["connections"] == "2k" and report["scenario"]["rate"] == "8kpps", "scenario")

    def the_table_for_people_has_a_sum_that_is_equal(self):
        command = self._command("load", "--connections", "100", "--rate", "2kpps", "--seconds", "0.5")
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        word = {PASSED: "PASS", FAILED: "FAIL"}.get(done.returncode)
        busy = "it, not the balancer" in done.stdout
        expect(word == "PASS" or (word and busy), f"{done.returncode}: {done.stderr}{done.stdout}")
        expect("= sent" in done.stdout and done.stdout.endswith(f"{word}\n"), done.stdout)
        expect(not done.stderr, f"progress where there is no terminal: {done.stderr}")

    def udp_and_ipv6_are_proved_like_tcp(self):
        udp, _ = self._run("load", "--protocol", "udp", "--connections", "500", "--rate", "4kpps",
                           vip=f"{VIP}:{UDP_PORT}", status=PASSED)
        self._whole(udp, 500)
        v6, _ = self._run("load", "--connections", "500", "--rate", "4kpps", "--size", "64",
                          vip=f"[{VIP6}]:{PORT}", status=PASSED)
        self._whole(v6, 500)
        expect("84 bytes taken" in " ".join(v6["notes"]), f"{v6['notes']}")

    @own_balancer
    def the_engine_in_the_kernel_proves_the_same(self):
        self.start(self.text(mode="native"))
        report, _ = self._run("load", "--engine", "xdp", "--connections", "1k", "--rate", "5kpps", status=PASSED)
        trial = self._whole(report, 1000)
        expect(trial["engine"] == "xdp" and trial["connections"]["closed"] == 1000, f"{trial['connections']}")

    def two_processes_share_the_sides(self):
        # Two busy pollers on one core take the time from each other: loss counts here, not pace.
        common = ("--connections", "20", "--rate", "100pps", "--clients", "198.18.0.1+10")
        with self._running("reflect", *common, client=None, begun=0) as reflect:
            report, _ = self._run("load", *common, server=None, status=None)
            reflect.send_signal(signal.SIGINT)
            out, err = reflect.communicate(timeout=10)
            other, _ = self._finished(reflect.returncode, out, err, PASSED)
        expect(all("it, not the balancer" in f for f in report["failures"]), f"{report['failures']}")
        mine, theirs = report["trials"][0], other["trials"][0]
        expect(mine["requests"]["sent"] == theirs["requests"]["received"] > 0, f"{mine} {theirs}")
        expect(theirs["replies"]["sent"] == mine["replies"]["received"] > 0, f"{mine} {theirs}")
        expect(mine["connections"]["closed"] == 20, f"{mine['connections']}")

    def a_search_finds_a_rate_without_loss(self):
        report, _ = self._run("ndr", "--connections", "100", "--sizes", "128,512", "--from", "1kpps",
                              "--to", "8kpps", "--resolution", "0.4", "--trial-seconds", "0.3", status=PASSED)
        expect([row["size"] for row in report["ndr"]] == ["128", "512"], f"{report['ndr']}")
        expect(all(row["pps"] >= 1000 and row["trials"] > 0 for row in report["ndr"]), f"{report['ndr']}")
        expect(len(report["trials"]) == sum(row["trials"] for row in report["ndr"]), "a trial is missing")

    def new_connections_are_opened_used_and_closed_in_rising_steps(self):
        report, _ = self._run("cps", "--connections", "2k", "--from", "200", "--to", "600", "--steps", "3",
                              "--step-seconds", "0.4", status=PASSED)
        expect([t["asked_pps"] for t in report["trials"]] == [200, 400, 600], f"{report['trials']}")
        for trial in report["trials"]:
            d = trial["requests"]
            expect(d["received"] == d["sent"] > 0 and trial["limit"] == "none", f"{trial}")
        expect("every step met the criteria" in " ".join(report["notes"]), f"{report['notes']}")

    def connections_that_get_no_answer_do_not_slow_down_the_others(self):
        # Of four real servers the balancer knows one has moved away: every fourth connection is silent for
        # its whole patience, thousands at once.
        report, _ = self._run("cps", "--connections", "20k", "--from", "2k", "--to", "2k", "--steps", "1",
                              "--step-seconds", "2", "--reals", f"198.19.0.1+{REALS - 1}", "--max-loss", "0.3",
                              status=None)
        trial = report["trials"][0]
        d = trial["requests"]
        expect(d["sent"] >= 3900 and trial["limit"] != "generator", f"{d} {trial['limit']}")
        expect(abs(d["received"] - d["sent"] * 3 / 4) <= d["sent"] / 50, f"{trial['ledger']}")
        silent = self._line(trial, "no answer to the opening")
        expect(silent == d["lost"] > 900, f"{trial['ledger']}")
        expect(d["latency"]["p50"] < 50_000_000, f"{d['latency']}")

    def good_traffic_stays_whole_beside_a_flood(self):
        report, _ = self._run("flood", "--connections", "200", "--rate", "4kpps", "--syn-flood", "10k",
                              "--udp-flood", "5k", status=None)
        expect(report["passed"] or self._starved(report), f"{report['failures']}")
        trial = self._whole(report, 200, exact=False)
        flood = trial["flood"]
        expect(flood["syn"][1] > 5000 and flood["udp"][1] > 2500, f"{flood}")
        # A rate, not a number: a trial lasts longer where the machine is busy.
        expect(flood["sent_pps"] <= 16_000, f"more than was asked for: {flood}")
        expect(flood["arrived"] > 0, f"no SYN reached a real server: {flood}")
        good = trial["requests"]["sent"] + trial["replies"]["sent"]
        expect(trial["ledger"][0]["packets"] == good + flood["syn"][1] + flood["udp"][1], f"{trial['ledger']}")
        expect(trial["connections"]["balancer_active"] == 200, f"{trial['connections']}")

    @own_balancer
    def two_cores_share_the_work_at_twenty_thousand_a_second(self):
        self.lab.generator_queues = 2
        try:
            self.lab.restore_links()
        finally:
            self.lab.generator_queues = 1
        self.start()
        report, _ = self._run("load", "--connections", "2k", "--rate", "20kpps", "--cores", "0,1", status=PASSED)
        trial = self._whole(report, 2000)
        expect(report["scenario"]["cores"] == "0,1" and trial["requests"]["due"] >= 9900, f"{trial['requests']}")
        expect(trial["connections"]["closed"] == 2000, f"{trial['connections']}")

    def two_processes_keep_ten_thousand_a_second(self):
        common = ("--connections", "500", "--rate", "10kpps")
        mine, theirs = self._two_processes(common)
        expect(mine["requests"]["sent"] == theirs["requests"]["received"] >= 2500, f"{mine} {theirs}")
        expect(theirs["replies"]["sent"] == mine["replies"]["received"] >= 2500, f"{mine} {theirs}")
        expect(mine["connections"]["closed"] == mine["connections"]["alive"] == 500, f"{mine['connections']}")

    def _two_processes(self, common, reflect=(), vip=f"{VIP}:{PORT}"):
        """Both sides' trials, of a run with no loss; one with a process that got no time is repeated."""
        for last in (False, False, True):
            with self._running("reflect", *common, *reflect, client=None, vip=vip, begun=0) as other:
                report, _ = self._run("load", *common, server=None, vip=vip, status=None, seconds=30)
                other.send_signal(signal.SIGINT)
                out, err = other.communicate(timeout=10)
                theirs, _ = self._finished(other.returncode, out, err, PASSED)
            mine = report["trials"][0]
            whole = mine["replies"]["lost"] == mine["requests"]["lost"] == 0
            if last or whole and mine["requests"]["sent"] > 0:
                break
        own = all("it, not the balancer" in f or "carried no packet" in f for f in report["failures"])
        expect(whole and own, f"{report['failures']} {mine}")
        return mine, theirs["trials"][0]

    # -- direct and tunnel, over two machines ----------------------------------------------------

    def _one_arm(self, method, family, outer):
        """All on one cable: the clients, the real servers, and a balancer with one interface."""
        n = self.net
        vip = f"{VIP}:{PORT}" if family == 4 else f"[{VIP6}]:{PORT}"
        hosts = [f"198.19.0.{i}" if outer == 4 else f"2001:db8:19::{i}" for i in range(1, REALS + 1)]
        reals = [config.real(f"{h}:{PORT}" if outer == 4 else f"[{h}]:{PORT}") for h in hosts]
        services = [config.service("far", vip, reals, method, "rr")]
        n.add(WIRE)
        n.bridge(WIRE, "br0")
        n.batch("balancer", [f"link del {FAR}"])
        n.batch("gen", [f"link set {CLIENT} down", f"link set {CLIENT} name near",
                        f"link set near netns {n.namespace(WIRE)}"])
        n.batch(WIRE, ["link set near mtu 1600 master br0 up"])
        n.batch("balancer", [f"link set {NEAR} mtu 1600",
                             f"addr add 198.19.255.254/16 dev {NEAR}",
                             f"addr add 2001:db8:19::ffff:fffe/64 dev {NEAR} nodad"])
        for port, interface in (("left", CLIENT), ("right", SERVER)):
            n.batch(WIRE, [f"link add name {port} mtu 1600 type veth peer name {interface} mtu 1600 "
                           f"netns {n.namespace('gen')}", f"link set {port} master br0 up"])
            n.batch("gen", [f"link set {interface} up"])
            n.plain_offloads("gen", interface)
        n.plain_offloads(WIRE, "near", "left", "right")
        self.balancer.interfaces = 1
        self.start(config.document(services, [NEAR], topology_cores(1), lease="2s"))
        common = ["--method", method, "--connections", "200", "--rate", "4kpps", "--size", "256",
                  "--reals", f"{hosts[0]}+{REALS}"]
        return vip, common

    def _far(self, method, family, outer, router=None):
        vip, common = self._one_arm(method, family, outer)
        reflect = ()
        if router:
            self._router()
            reflect = ("--next-hop", router)
        mine, theirs = self._two_processes(common, reflect, vip)
        expect(mine["requests"]["sent"] == theirs["requests"]["received"] > 500, f"{mine} {theirs}")
        expect(theirs["replies"]["sent"] == mine["replies"]["received"] > 500, f"{mine} {theirs}")
        expect(mine["connections"]["closed"] == mine["connections"]["alive"] == 200, f"{mine['connections']}")
        expect([r["connections"] for r in theirs["connections"]["reals"]] == [50] * REALS, f"{theirs['connections']}")
        expect(mine["connections"]["balancer_active"] == 200, f"{mine['connections']}")

    def _router(self):
        """A router on the cable: answers that go to it come out at the clients all the same."""
        n = self.net
        n.add(ROUTER)
        n.plug(ROUTER, "eth0", WIRE, "br0", mtu=1600)
        n.plain_offloads(ROUTER, "eth0")
        n.batch(ROUTER, ["addr add 198.19.255.253/16 dev eth0", "addr add 198.18.255.253/16 dev eth0"])
        n.shell(ROUTER, "echo 1 > /proc/sys/net/ipv4/ip_forward;"
                        "echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects;"
                        "echo 0 > /proc/sys/net/ipv4/conf/eth0/send_redirects")

    def _routed(self):
        """Packets that the router has forwarded."""
        lines = self.net.shell(ROUTER, "cat /proc/net/snmp").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Ip:"))
        return int(values[names.index("ForwDatagrams")])

    @own_balancer
    def direct_works_over_two_machines(self):
        self._far("direct", 4, 4)

    @own_balancer
    def direct_works_over_two_machines_with_ipv6(self):
        self._far("direct", 6, 6)

    @own_balancer
    def direct_answers_by_the_router_that_is_named(self):
        self._far("direct", 4, 4, router="198.19.255.253")
        expect(self._routed() > 500, f"{self._routed()} packets took the router")

    @own_balancer
    def a_tunnel_works_over_two_machines(self):
        self._far("tunnel", 4, 4)

    @own_balancer
    def a_tunnel_works_over_two_machines_with_ipv6(self):
        self._far("tunnel", 6, 6)

    @own_balancer
    def a_tunnel_of_the_other_family_works_over_two_machines(self):
        self._far("tunnel", 4, 6)

    @own_balancer
    def a_tunnel_over_ipv4_carries_ipv6_over_two_machines(self):
        self._far("tunnel", 6, 4)

    # -- what cannot be -----------------------------------------------------------------------

    def impossible_options_are_refused_before_anything_is_sent(self):
        scenario = self.lab.directory / "wrong.toml"
        scenario.write_text('connections = 10\nrat = "1kpps"\n')
        for more, words in (
                (["--rate", "0pps"], "above 0"),
                (["--rate", "200gbit"], "100 Gbit/s"),
                (["--size", "2000"], "expected 64 to 1518"),
                (["--connections", "10m", "--clients", "198.18.0.1+2"], "do not fit"),
                (["--reals", "198.18.255.1+2"], "the VIP 198.18.255.1 is among"),
                (["--server", CLIENT], "also the clients' interface"),
                (["--scenario", str(scenario)], "wrong.toml:2:1"),
                (["--scenario", str(self.lab.directory)], "not a regular file")):
            server = None if more[0] == "--server" else SERVER
            _, said = self._run("load", *more, server=server, status=UNUSABLE)
            expect(words in said, f"{more}: {said}")

    def an_absent_interface_is_named(self):
        _, said = self._run("load", client="nothere0", status=UNUSABLE)
        expect("there is no interface nothere0" in said, said)
        _, said = self._run("load", "--cores", "1023", status=UNUSABLE)
        expect("core 1023" in said, said)

    def nobody_at_the_vip_is_told_in_bounded_time(self):
        began = time.monotonic()
        _, said = self._run("load", "--connections", "100", vip="198.18.255.9:80", status=UNUSABLE)
        expect("198.18.255.9 does not answer on cli0" in said, said)
        expect(time.monotonic() - began < 12, "it took too long")

    def a_port_without_a_service_is_told_in_bounded_time(self):
        began = time.monotonic()
        _, said = self._run("load", "--connections", "100", vip=f"{VIP}:81", status=UNUSABLE)
        expect(f"{VIP}:81" in said and ("SYNs to" in said or "reset" in said), said)
        expect(time.monotonic() - began < 12, "it took too long")

    @own_balancer
    def without_a_balancer_it_says_so(self):
        began = time.monotonic()
        _, said = self._run("load", "--connections", "100", status=UNUSABLE)
        expect(f"{VIP} does not answer" in said and "is the balancer up" in said, said)
        expect(time.monotonic() - began < 12, "it took too long")

    def a_wrong_or_dead_agent_socket_is_a_note(self):
        plain = self.lab.directory / "plain"
        plain.write_text("no socket")
        for path in (plain, self.lab.directory / "absent.sock"):
            report, _ = self._run("load", "--connections", "50", "--rate", "1kpps", "--seconds", "0.3",
                                  "--balancer", str(path), socket=False, status=PASSED)
            expect(any(str(path) in note for note in report["notes"]), f"{report['notes']}")
            expect(report["trials"][0]["connections"]["balancer_active"] is None, "counted all the same")

    # -- what goes wrong on the way ------------------------------------------------------------

    def an_interrupt_ends_a_run_with_a_truthful_report(self):
        with self._running("load", "--connections", "200", "--rate", "2kpps", "--seconds", "60") as process:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        report, _ = self._finished(process.returncode, out, err, None)
        expect(report["passed"] or self._starved(report), f"{report['failures']}")
        trial = report["trials"][0]
        expect(0.2 < trial["seconds"] < 20 and trial["requests"]["lost"] == 0, f"{trial}")
        expect("interrupted after" in " ".join(report["notes"]), f"{report['notes']}")
        expect(trial["connections"]["closed"] == 200, f"{trial['connections']}")

    def a_generator_that_stalls_blames_itself_and_not_the_balancer(self):
        with self._running("load", "--connections", "200", "--rate", "4kpps", "--seconds", "3") as process:
            pid = self._generator(process)
            os.kill(pid, signal.SIGSTOP)
            self._sleep(1)
            os.kill(pid, signal.SIGCONT)
            out, err = process.communicate(timeout=20)
        report, _ = self._finished(process.returncode, out, err, FAILED)
        trial = report["trials"][0]
        lost = trial["requests"]["lost"] + trial["replies"]["lost"]
        expect(trial["limit"] == "generator" and lost == 0, f"{trial['limit']}, {lost} lost")
        expect(trial["requests"]["due"] - trial["requests"]["sent"] > 400, f"{trial['requests']}")
        expect("it, not the balancer" in " ".join(report["failures"]), f"{report['failures']}")
        expect(trial["requests"]["latency"]["max"] > 1_000_000, "the stall is not in the latency")

    def what_the_balancer_drops_is_in_the_ledger_by_its_reason(self):
        with self._running("load", "--connections", "200", "--rate", "4kpps", "--seconds", "2") as process:
            address, route = "198.19.255.254/16", "198.19.0.0/16"
            self.net.batch("balancer", [f"route del {route} dev {FAR}"])
            self._sleep(0.5)
            self.net.batch("balancer", [f"addr del {address} dev {FAR}", f"addr add {address} dev {FAR}"])
            out, err = process.communicate(timeout=20)
        report, _ = self._finished(process.returncode, out, err, FAILED)
        trial = report["trials"][0]
        dropped = self._line(trial, "balancer drop: next_hop_unresolved")
        expect(dropped > 100 and trial["requests"]["lost"] == dropped, f"{trial['ledger']}")
        expect(trial["unexplained"] == 0 and trial["limit"] == "device", f"{trial['limit']} {trial['unexplained']}")

    @own_balancer
    def a_vip_that_moves_is_followed_without_a_restart(self):
        self.start()
        with self._running("load", "--connections", "200", "--rate", "4kpps", "--seconds", "4") as process:
            was = self.balancer_mac(NEAR)
            self.net.batch("balancer", [f"link set {NEAR} address 02:00:00:00:aa:01"])
            out, err = process.communicate(timeout=20)
        report, _ = self._finished(process.returncode, out, err, None)
        trial = report["trials"][0]
        expect(trial["neighbor_changes"] == 1, f"{trial['neighbor_changes']}: {report['failures']}")
        change = trial["neighbors"][0]
        expect((change["from"], change["to"]) == (was, "02:00:00:00:aa:01"), f"{change}")
        silence = trial["longest_silence"]
        lost = trial["requests"]["lost"]
        # A pause is a loss, and traffic after it there was.
        expect(lost == 0 or silence["ms"] > 2, f"{silence}, {lost} lost")
        expect(silence["ms"] < 3000 and trial["replies"]["received"] > 1000, f"{silence} {trial['replies']}")
        expect(lost <= 2 * silence["ms"] + 40, f"{lost} lost in {silence}")

    @own_balancer
    def what_no_counter_sees_is_unexplained_to_the_packet(self):
        self.start()
        self._wire()
        report, _ = self._run("load", "--connections", "200", "--rate", "4kpps", "--open-rate", "2k",
                              "--patience", "2", status=FAILED)
        trial = report["trials"][0]
        lost = trial["requests"]["lost"] + trial["replies"]["lost"]
        expect(lost == self._dropped() > 50, f"{lost} lost, {self._dropped()} dropped")
        expect(trial["unexplained"] == lost, f"{trial['unexplained']} of {lost}: {trial['ledger']}")
        expect(trial["limit"] == "unknown", trial["limit"])
        expect("no counter says where" in " ".join(report["failures"]), f"{report['failures']}")

    def _wire(self):
        """Puts a bridge between far0 and srv0 that drops every tenth data packet of the requests."""
        self.net.batch("gen", [f"link set {SERVER} name srvx"])
        self.net.add(WIRE)
        n = self.net
        n.bridge(WIRE, "br0")
        n.batch(WIRE, [f"link add name right type veth peer name {SERVER} netns {n.namespace('gen')}",
                         "link set right master br0 up", "link set br0 up"])
        n.batch("gen", [f"link set srvx netns {n.namespace(WIRE)}", f"link set {SERVER} up"])
        n.plain_offloads("gen", SERVER)
        n.batch(WIRE, ["link set srvx master br0 up"])
        # Only what is longer than an opening.
        n.shell(WIRE, "nft add table bridge t; nft add chain bridge t c '{ type filter hook forward priority 0; }';"
                      "nft add rule bridge t c meta length gt 300 numgen inc mod 10 0 counter drop")

    def _dropped(self):
        """Packets that the switch has dropped."""
        rules = json.loads(self.net.exec(WIRE, "nft", "-j", "list", "table", "bridge", "t"))["nftables"]
        return sum(e["counter"]["packets"] for r in rules if "rule" in r for e in r["rule"]["expr"] if "counter" in e)

    @own_balancer
    def an_interface_that_vanishes_ends_the_run_with_a_truthful_report(self):
        self.start()
        for interface in (FAR, NEAR):
            with self._running("load", "--connections", "200", "--rate", "4kpps", "--seconds", "30",
                               "--patience", "4") as process:
                self.net.batch("balancer", [f"link del {interface}"])
                began = time.monotonic()
                out, err = process.communicate(timeout=15)
            report, _ = self._finished(process.returncode, out, err, FAILED)
            expect(time.monotonic() - began < 8, "it took too long")
            gone = SERVER if interface == FAR else CLIENT
            expect(any(f"interface {gone} is " in f for f in report["failures"]), f"{report['failures']}")
            expect(report["trials"][0]["requests"]["received"] > 0, "nothing was received before")
            self.lab.restore_links()
            wait.until(self.balancer.ready, "the balancer is on its interfaces again", 10)

    @staticmethod
    def _generator(process):
        """The generator itself: nsenter has become it."""
        expect("xvip-pktgen" in os.readlink(f"/proc/{process.pid}/exe"), "not the generator")
        return process.pid
