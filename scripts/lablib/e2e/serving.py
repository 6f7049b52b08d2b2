"""Real servers that die, are drained, or are all gone; and what people are shown of packets.

The test tells the data plane over the agent socket what control would tell it."""

import errno
import socket
import subprocess
import time

from .. import methods
from ..agent import Agent
from ..methods import echo, udp_socket
from .support import (HTTP, REALS, V4, V6, Downloads, Group, Held, address, expect, method, topology,
                      topology_cores, url_host, wait)

TWO_WAY = [method("nat"), method("nat", V6), method("fullnat"), method("fullnat", V6)]
ONE_WAY = [method("direct"), method("direct", V6), method("4in4"), method("6in6", V6)]
SORRY = "<h1>sorry</h1>\n"


class Serving(Group):
    """Every method."""

    def text(self):
        return methods.document(self.methods, cores=topology_cores(self.queues), lease="2s")

    def _held(self, m, count):
        return [Held(self.lab, m.vip, seconds=25) for _ in range(count)]

    def _established(self, m, ports):
        """Sockets of the real servers that belong to these client ports, or to any of full NAT."""
        found = 0
        for real in REALS:
            lines = self.net.exec(f"real-{real}", "ss", "-Htn", "state", "established",
                                  f"( sport = :{HTTP} or sport = :{topology.HTTP_ALT} )").splitlines()
            for line in lines:
                peer = line.split()[3]
                local = peer.startswith((methods.LOCAL[0], f"[{methods.LOCAL[1]}"))
                found += local or int(peer.rsplit(":", 1)[1]) in ports
        return found

    def _end_all(self, agent, service, how):
        status = agent.service(service)
        total = 0
        for real in status["reals"]:
            host, _, port = real["address"].rpartition(":")
            whole = not port.isdigit() or real["address"].count(":") > 1 and "]" not in real["address"]
            asked = {"real": real["address"]} if whole else {"real": host.strip("[]"), "port": int(port)}
            total += agent.ask("end-conns", service=service, how=how, **asked)["conns"]
        return total

    def idle_connections_told_to_go_are_reset_on_both_sides(self):
        """No packet of theirs comes by itself: both kernels are asked, and accept the reset."""
        with Agent(self.balancer) as agent:
            for m in TWO_WAY + ONE_WAY:
                held = self._held(m, 6)
                ports = {h.port for h in held}
                expect(self._established(m, ports) == 6, f"{m.name} {m.family}: not six on the servers")
                expect(self._end_all(agent, m.service, "reset") >= 6, "less than six were to end")
                for h in held:
                    try:
                        data = h.socket.recv(1)
                        raise AssertionError(f"{m.name} {m.family}: no reset but {data!r}")
                    except ConnectionResetError:
                        h.socket.close()
                wait.until(lambda m=m, p=ports: self._established(m, p) == 0,
                           f"{m.name} {m.family}: the servers' sockets are gone", 10)
                wait.until(lambda m=m: not any(r["ending"] for r in agent.service(m.service)["reals"]),
                           f"{m.name} {m.family}: nothing is left to end", 10)
                self.works(m)

    def connections_in_use_are_reset_at_once_and_others_are_untouched(self):
        """Downloads through two methods; those of one are told to go."""
        nat, other = method("nat"), method("fullnat")
        with Agent(self.balancer) as agent:
            untouched = Downloads(self, 10, other).all_begun()
            going = Downloads(self, 20, nat).all_begun()
            began = time.monotonic()
            self._end_all(agent, nat.service, "reset")
            wait.until(lambda: going.progress()["failures"] == 20, "twenty downloads are reset", 5, 0.05)
            expect(time.monotonic() - began < 5, "that took long")
            going.process.end()
            untouched.all_finished()

    def a_dead_server_is_reset_or_kept_as_the_service_says(self):
        """`down` in the snapshot: nobody new, and `dead` for the others."""
        m = method("nat")
        with Agent(self.balancer) as agent:
            for dead in ("keep", "reset"):
                held = self._held(m, 9)
                victims = [h for h in held if h.real == "a"]
                expect(len(victims) >= 2, "too few connections to a")

                def change(services, dead=dead):
                    services[m.service]["dead"] = dead
                    services[m.service]["reals"][0]["down"] = True
                agent.change(change)
                for _ in range(6):
                    expect(self.fetch(m).real != "a", "a new connection went to a dead server")
                if dead == "reset":
                    for h in victims:
                        try:
                            h.ask()
                            raise AssertionError("a connection to a dead server goes on")
                        except ConnectionResetError:
                            pass
                    wait.until(lambda: agent.real(m.service, "a")["active"] == 0, "a has none left", 15)
                else:
                    for h in victims:
                        expect(h.ask() == "a", "a kept connection moved")
                for h in held:
                    expect(h in victims and dead == "reset" or h.ask() == h.real, "another one was touched")
                    h.socket.close()

                def restore(services):
                    services[m.service].pop("dead", None)
                    services[m.service]["reals"][0].pop("down")
                agent.change(restore)
                seen = {self.fetch(m).real for _ in range(9)}
                expect("a" in seen, f"a is not used again: {seen}")

    def a_server_that_swallows_syns_is_noticed_and_its_clients_go_elsewhere(self):
        """Its kernel drops them (nftables); the client's repeated SYN finds another server."""
        m = method("nat")
        rule = "add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; "
        with Agent(self.balancer) as agent:
            before = agent.real(m.service, "a")
            self.net.exec("real-a", "nft", rule + "add rule inet deaf in tcp flags syn drop")
            try:
                socks = []
                for _ in range(9):
                    with self.net.inside("client"):
                        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                    sock.setblocking(False)
                    expect(sock.connect_ex((m.vip, HTTP)) in (0, errno.EINPROGRESS), "connect")
                    socks.append(sock)
                wait.until(lambda: agent.real(m.service, "a")["syn_unanswered"]
                           >= before["syn_unanswered"] + 2, "silence is counted", 5)
                agent.change(lambda s: s[m.service]["reals"][0].update(down=True))
                for sock in socks:
                    sock.settimeout(10)
                    wait.until(lambda s=sock: self._connected(s), "the client gets through", 10)
                    sock.close()
            finally:
                self.net.exec("real-a", "nft", "delete table inet deaf")
                agent.change(lambda s: s[m.service]["reals"][0].pop("down", None))

    @staticmethod
    def _connected(sock):
        try:
            sock.getpeername()
            return True
        except OSError:
            return False

    def a_server_that_refuses_is_noticed(self):
        """Nobody listens there: its kernel answers with an RST."""
        m = method("fullnat")
        rule = "add table inet closed; add chain inet closed in { type filter hook input priority 0; }; "
        with Agent(self.balancer) as agent:
            before = agent.real(m.service, "b")["resets"]
            self.net.exec("real-b", "nft", rule + "add rule inet closed in tcp flags syn reject with tcp reset")
            try:
                for _ in range(9):
                    with self.net.inside("client"):
                        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                    with sock:
                        sock.connect_ex((m.vip, HTTP))
                after = agent.real(m.service, "b")["resets"]
                expect(after == before + 3, f"{after - before} refusals counted, not 3")
            finally:
                self.net.exec("real-b", "nft", "delete table inet closed")

    def a_datagram_to_a_removed_server_arrives_at_another(self):
        """One socket, one question after the other; none stays without an answer."""
        for m in [*TWO_WAY, *ONE_WAY]:
            name = f"{m.service}-udp"
            with Agent(self.balancer) as agent, udp_socket(self.lab, m.family) as sock:
                first = echo(self.lab, m.vip, b"one", sock=sock)[0]
                expect(echo(self.lab, m.vip, b"two", sock=sock)[0] == first, "moved without a reason")
                taken = {}

                def remove(services, name=name, first=first, taken=taken):
                    reals = services[name]["reals"]
                    taken["real"] = next(r for r in reals if r["name"] == first)
                    reals.remove(taken["real"])
                agent.change(remove)
                second = echo(self.lab, m.vip, b"three", sock=sock)[0]
                expect(second != first, f"{m.name} {m.family}: still at the removed server")
                expect(echo(self.lab, m.vip, b"four", sock=sock)[0] == second, "moved twice")
                agent.change(lambda s, name=name, taken=taken: s[name]["reals"].insert(0, taken["real"]))

    # -- nothing left to serve ------------------------------------------------------------------

    def _sorry_server(self, vips):
        """nginx on the balancer, bound to the VIPs on lo: a stand-in for the built-in page."""
        root = self.lab.directory / "sorry"
        root.mkdir(exist_ok=True)
        (root / "slow.bin").write_bytes((self.lab.directory / "www/slow.bin").read_bytes())
        for addr in vips:
            length, extra = ("128", "nodad") if ":" in addr else ("32", "")
            self.net.batch("balancer", [f"addr add {addr}/{length} dev lo {extra}"])
        listen = "\n".join(f"listen {url_host(a)}:{HTTP};" for a in vips)
        (root / "nginx.conf").write_text(f"""
user root; daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
    uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
    server {{
        {listen}
        root {root};
        location / {{ default_type text/html; add_header Retry-After 30 always; return 503 "{SORRY.strip()}\\n"; }}
        location = /slow.bin {{ default_type application/octet-stream; limit_rate_after 16k; limit_rate 16k; }}
    }}
}}
""")
        server = self.net.start("balancer", "sorry", ["nginx", "-p", root, "-c", root / "nginx.conf"])
        wait.until(lambda: (root / "pid").exists() or not server.alive(), "the sorry server runs", 5)
        expect(server.alive(), server.tail())
        return server

    def _curl(self, m, path, *options):
        """Status code and body."""
        done = subprocess.run(self.net.inside_command("client", [
            "curl", "-sS", "--max-time", "30", "-w", "\n%{http_code}", *options,
            f"http://{url_host(m.vip)}/{path}"]), capture_output=True, text=False, check=False)
        body, _, code = done.stdout.rpartition(b"\n")
        return int(code), body

    def without_servers_the_kernel_answers_and_finishes_when_they_return(self):
        """Connections to servers finish meanwhile; those of the sorry page finish afterwards."""
        chosen = [method("nat"), method("nat", V6), method("direct")]
        vips = [m.vip for m in chosen]
        server = self._sorry_server(vips)
        slow = (self.lab.directory / "www/slow.bin").read_bytes()

        def gone(services):
            for m in chosen:
                services[m.service]["sorry"] = True
                for r in services[m.service]["reals"]:
                    r["down"] = True

        def back(services):
            for m in chosen:
                for r in services[m.service]["reals"]:
                    r.pop("down", None)
        try:
            with Agent(self.balancer) as agent:
                agent.change(lambda s: [s[m.service].update(sorry=True) for m in chosen])
                for m in chosen:
                    expect(self._curl(m, "whoami")[0] == 200, "sorry although there are servers")
                old = Downloads(self, 12, *chosen).all_begun()
                agent.change(gone)
                downloads = []
                for m in chosen:
                    expect(agent.service(m.service)["serves"] == "sorry", "serves")
                    code, body = self._curl(m, "index.html")
                    expect((code, body.decode()) == (503, SORRY), f"{m.name} {m.family}: {code} {body!r}")
                    downloads.append(self.net.start("client", f"sorry-{m.name}-{m.family}", [
                        "curl", "-sS", "--max-time", "40", "-o", self.lab.directory / f"got-{m.service}",
                        f"http://{url_host(m.vip)}/slow.bin"]))
                wait.until(lambda: agent.status()["kernel_flows"] >= 3, "the kernel has connections", 5)
                time.sleep(1)  # well into the downloads
                agent.change(back)
                for m in chosen:
                    wait.until(lambda m=m: agent.service(m.service)["serves"] == "reals", "servers are back", 5)
                    for _ in range(5):
                        expect(self._curl(m, "whoami")[0] == 200, f"{m.name} {m.family}: not at a server")
                for m, process in zip(chosen, downloads):
                    wait.until(lambda p=process: not p.alive(), "the page's download ends", 40)
                    got = (self.lab.directory / f"got-{m.service}").read_bytes()
                    expect(got == slow, f"{m.name} {m.family}: {len(got)} of {len(slow)} bytes: {process.tail()}")
                old.all_finished()
                agent.change(lambda s: [s[m.service].pop("sorry") for m in chosen])
        finally:
            server.end()
            for addr in vips:
                length = "128" if ":" in addr else "32"
                self.net.batch("balancer", [f"addr del {addr}/{length} dev lo"])

    def a_fallback_serves_while_nobody_else_does(self):
        m = method("fullnat")
        with Agent(self.balancer) as agent:
            def fall(services):
                service = services[m.service]
                service["fallback"] = [service["reals"].pop()]
            agent.change(fall)
            expect({self.fetch(m).real for _ in range(6)} == {"a", "b"}, "the fallback serves too")
            held = Held(self.lab, m.vip)
            agent.change(lambda s: [r.update(down=True) for r in s[m.service]["reals"]])
            expect({self.fetch(m).real for _ in range(3)} == {"c"}, "the fallback does not serve")
            expect(agent.service(m.service)["serves"] == "fallback", "serves")
            expect(held.ask() == held.real, "a connection was lost")

            def restore(services):
                service = services[m.service]
                service["reals"] += service.pop("fallback")
                for r in service["reals"]:
                    r.pop("down", None)
            agent.change(restore)
            expect("c" in {self.fetch(m).real for _ in range(9)}, "c is a server like the others again")

    def a_path_probe_finds_the_server_that_does_not_own_the_vip(self):
        """One server loses the VIP, another its listener; the health of their own addresses is as it was."""
        with Agent(self.balancer) as agent:
            for m in ONE_WAY:
                targets = [{"service": m.service, "real": m.real_address(i), "vip": m.vip, "vip_port": HTTP}
                           for i in range(3)]

                def probe(targets=targets):
                    results = agent.ask("path-probe", targets=targets, timeout_ms=400)["results"]
                    return [r["answer"] for r in results]
                length = "128" if m.family == V6 else "32"
                expect(probe() == ["answered"] * 3, f"{m.name} {m.family}: {probe()}")
                self.net.batch("real-b", [f"addr del {m.vip}/{length} dev lo"])
                try:
                    expect(probe() == ["answered", "silent", "answered"], f"{m.name} {m.family}: {probe()}")
                finally:
                    extra = "nodad" if m.family == V6 else ""
                    self.net.batch("real-b", [f"addr add {m.vip}/{length} dev lo {extra}"])
                wait.until(lambda p=probe: p() == ["answered"] * 3, f"{m.name} {m.family}: b is back", 5)
                closed = [{**t, "vip_port": 4} for t in targets]
                refused = probe(closed)
                expect(refused == ["refused"] * 3, f"{m.name} {m.family}: {refused}")
                for _ in range(3):
                    self.works(m)
            expect(not any(c["state"] == "SYN_RECV" for c in self.balancer.conns()), "a probe is a connection")
            half_open = [self.net.exec(f"real-{r}", "ss", "-Htn", "state", "syn-recv") for r in REALS]
            expect(not any(half_open), f"half-open sockets are left: {half_open}")

    # -- seeing -----------------------------------------------------------------------------------

    def why_says_what_then_happens(self):
        with Agent(self.balancer) as agent:
            for m in self.methods:
                for _ in range(4):
                    why = agent.ask("why", client=address(1, 10, m.family), vip=m.vip, vip_port=HTTP,
                                    protocol="tcp")
                    expect(why["failed"] is None, f"{m.name} {m.family}: {why}")
                    got = self.fetch(m).real
                    expect(why["real"] == got, f"{m.name} {m.family}: {why['real']} foretold, {got} came")
            nat = method("nat")
            ask = {"client": address(1, 10, V4), "vip": nat.vip, "protocol": "tcp"}
            why = agent.ask("why", vip_port=81, **ask)
            expect(why["failed"] == "steering", f"{why}")
            with Held(self.lab, nat.vip) as held:
                why = agent.ask("why", client_port=held.port, vip_port=HTTP, **ask)
                expect(why["real"] == held.real and "ESTABLISHED" in str(why), f"{why}")
            agent.change(lambda s: [r.update(down=True) for r in s[nat.service]["reals"]])
            why = agent.ask("why", vip_port=HTTP, **ask)
            expect(why["failed"] == "scheduler" and "a: down" in str(why), f"{why}")
            agent.change(lambda s: [r.pop("down") for r in s[nat.service]["reals"]])

    def a_capture_shows_a_fetch_on_both_sides(self):
        """scapy is the judge of what the frames are."""
        from scapy.layers.inet import IP, TCP
        from scapy.layers.inet6 import IPv6
        from scapy.layers.l2 import Ether
        with Agent(self.balancer) as agent:
            for m in [*TWO_WAY, *ONE_WAY]:
                agent.ask("capture", filter={"vip": m.vip, "vip_port": HTTP}, packets_max=10000, seconds=30,
                          bytes=2048)
                self.works(m)
                frames = []
                while page := agent.ask("captured", limit=256)["frames"]:
                    frames += page
                agent.ask("end-capture")
                expect(all(f["verdict"] == "sent" for f in frames), f"{frames}")
                kind = IPv6 if m.family == V6 else IP
                ends = set()
                for f in frames:
                    before, after = Ether(bytes.fromhex(f["before"])), Ether(bytes.fromhex(f["after"]))
                    expect(len(before) == f["before_len"] and len(after) == f["after_len"], "cut off")
                    expect(before[kind].dst == m.vip or after[kind].src == m.vip, before.summary())
                    if m.forwarding != "tunnel":
                        expect(before[TCP].seq == after[TCP].seq, "not the same packet")
                    ends.add((f["rx"], f["tx"]))
                    expect(abs(f["unix_ns"] / 1e9 - time.time()) < 30, "the time is wrong")
                inside = "back0" if m.network == 2 else "front0"
                expected = {("front0", inside)}
                if m.translated:
                    expected.add((inside, "front0"))
                expect(ends == expected, f"{m.name} {m.family}: {ends}")
                expect(len(frames) >= 5, f"only {len(frames)} frames")
