"""Where replies to clients go: to each client's last hop, or by the routing table.

A network behind two routers joins the lab. Its client sends by router a; what comes back by which
router is seen at the routers themselves.

                       far 10.77.3.0/24 fd77:3::/64            front
    remote .10 ────┬──── .2 router-a .2 ────┬──── balancer
                   └──── .3 router-b .3 ────┘
"""

import contextlib
import select

from .. import net, topology
from .support import (FRONT, V4, V6, Fetch, Group, Held, Wire, address, expect, method, methods, own_balancer,
                      topology_cores, url_host, wait)
from ..packets import Ether, IP, IPv6

FAR = "far0"
ROUTERS = {"a": 2, "b": 3}
FAMILIES = (V4, V6)
LENGTH = {V4: 24, V6: 64}


def far_network(family):
    """The network behind the routers."""
    return f"{'10.77.3.0' if family == V4 else 'fd77:3::'}/{LENGTH[family]}"


class Reply(Group):
    """Every test starts its own balancer, with its own way of replies."""

    def text(self, path="route"):  # pylint: disable=arguments-differ
        chosen = [m for m in methods.METHODS if m.translated]
        text = methods.document(chosen, cores=topology_cores(self.queues), lease="2s")
        return f'{text}\n[reply]\npath = "{path}"\n'

    # -- the network behind the routers ---------------------------------------------------------

    def _routers(self, first="b"):
        """The far network exists; the balancer's route to it is by one router, or not there."""
        if "remote" not in self.net.nodes:
            self._build()
        for name in ROUTERS:
            self._power(name, "up")
        for family in FAMILIES:
            self._route(family, first)
        self.lab.restore_links()

    def _build(self):
        n = self.net
        n.add("remote", *(f"router-{r}" for r in ROUTERS))
        self.lab.save_state()
        n.bridge("switch", "far")
        n.plug("remote", FAR, "switch", "far")
        n.plain_offloads("remote", FAR)
        for name in ROUTERS:
            node = f"router-{name}"
            n.plug(node, FRONT, "switch", "front")
            n.plug(node, FAR, "switch", "far")
            n.plain_offloads(node, FRONT, FAR)
            n.shell(node, """
                echo 1 > /proc/sys/net/ipv4/ip_forward
                echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            """)
        n.batch("remote", [f"addr add {address(3, 10, V4)}/24 dev {FAR}",
                           f"addr add {address(3, 10, V6)}/64 dev {FAR} nodad",
                           f"route add default via {address(3, ROUTERS['a'], V4)}",
                           f"route add default via {address(3, ROUTERS['a'], V6)}"])

    def _power(self, name, state):
        """Router up with its addresses (the kernel takes IPv6 ones when a link goes down), or down."""
        lines = [f"link set {FRONT} {state}"]
        if state == "up":
            for interface, network in ((FRONT, 1), (FAR, 3)):
                lines += [f"addr replace {address(network, ROUTERS[name], V4)}/24 dev {interface}",
                          f"addr replace {address(network, ROUTERS[name], V6)}/64 dev {interface} nodad"]
        self.net.batch(f"router-{name}", lines)

    def _route(self, family, *routers):
        """Sets the balancer's route to the far network: by these routers, or none."""
        flag, space = ("-6" if family == V6 else "-4"), self.net.namespace("balancer")
        command = ["ip", "-n", space, flag, "route"]
        hops = [["via", address(1, ROUTERS[r], family), "dev", FRONT] for r in routers if r]
        if not hops:
            net.run([*command, "del", far_network(family)], check=False)
        elif len(hops) == 1:
            net.run([*command, "replace", far_network(family), *hops[0]])
        else:
            several = [word for hop in hops for word in ("nexthop", *hop)]
            net.run([*command, "replace", far_network(family), *several])

    # -- looking ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _eyes(self):
        """Yields a function: the routers by which packets of a VIP come back during a call."""
        with contextlib.ExitStack() as stack:
            wires = {r: stack.enter_context(Wire(self.net, f"router-{r}")) for r in ROUTERS}

            def ways(call, vip):
                for wire in wires.values():
                    wire.clear()
                call()
                return {r for r, wire in wires.items() if saw(wire, vip)}
            yield ways

    def _held(self, m, seconds=3.0):
        return Held(self.lab, m.vip, node="remote", seconds=seconds)

    def _settled(self, ways, held, m, wanted, what):
        """Replies of a live connection go by these routers within a few seconds, and stay there."""
        wait.until(lambda: ways(held.ask, m.vip) == wanted, f"{m.name} {m.family}: {what}", 5)
        got = [ways(held.ask, m.vip) for _ in range(10)]
        expect(all(g == wanted for g in got), f"{m.name} {m.family}: {what}: then by {got}")

    # -- tests --------------------------------------------------------------------------------------

    @own_balancer
    def last_hop_answers_by_the_router_that_requests_come_from(self):
        self._routers("b")
        self.start(self.text("last-hop"))
        with self._eyes() as ways:
            for m in (m for m in methods.METHODS if m.translated):
                with self._held(m) as held:
                    for _ in range(10):
                        got = ways(held.ask, m.vip)
                        expect(got == {"a"}, f"{m.name} {m.family}: by {got}")

    @own_balancer
    def route_answers_by_the_router_of_the_route(self):
        self._routers("b")
        self.start()
        page = (self.lab.directory / "www/page.html").read_bytes()
        with self._eyes() as ways:
            for m in (m for m in methods.METHODS if m.translated):
                with self._held(m) as held:
                    self._settled(ways, held, m, {"b"}, "by router b")
                url = f"http://{url_host(m.vip)}/page.html"
                bodies = []
                got = ways(lambda u=url, b=bodies: b.append(Fetch(self.lab, u, node="remote").body), m.vip)
                expect(got == {"b"} and bodies == [page], f"{m.name} {m.family}: page by {got}")
                with methods.udp_socket(self.lab, m.family, node="remote") as sock:
                    got = ways(lambda s=sock, v=m.vip: methods.echo(self.lab, v, b"q" * 999, sock=s), m.vip)
                expect(got == {"b"}, f"{m.name} {m.family}: datagram by {got}")

    @own_balancer
    def a_changed_route_is_followed_by_live_connections(self):
        self._routers("b")
        self.start()
        with self._eyes() as ways:
            for m in (method("nat", V4), method("nat", V6), method("fullnat", V4), method("fullnat", V6)):
                self._route(m.family, "b")
                with self._held(m) as held:
                    first = held.real
                    for router in "bab":
                        self._route(m.family, router)
                        self._settled(ways, held, m, {router}, f"by router {router}")
                    expect(held.ask() == first, "another real server answers")

    @own_balancer
    def a_changed_path_is_followed_by_live_connections(self):
        self._routers("b")
        self.start(self.text("last-hop"))
        with self._eyes() as ways:
            for m in (method("nat", V4), method("nat", V6)):
                with self._held(m) as held:
                    for path, router in (("last-hop", "a"), ("route", "b"), ("last-hop", "a")):
                        self.balancer.reload(self.text(path))
                        self._settled(ways, held, m, {router}, f"{path}, by router {router}")

    @own_balancer
    def a_client_on_the_link_is_found_without_a_router(self):
        self._routers("b")
        self.start()
        for m in (method("nat", V4), method("nat", V6), method("fullnat", V4)):
            self.works(m)
            with Held(self.lab, m.vip) as held:
                client = address(1, topology.CLIENT_HOSTS[0], m.family)
                known = wait.until(lambda c=client: self._neighbor(c), f"{client} is resolved", 5)
                expect(known == self.net.mac("client", FRONT), f"{client} is at {known}")
                for _ in range(10):
                    held.ask()
        expect(not self.balancer.drops().get("next_hop_unresolved"), f"{self.balancer.drops()}")

    def _neighbor(self, host):
        flag = "-6" if ":" in host else "-4"
        found = self.net.ip("balancer", flag, "neigh", "show", host, "dev", FRONT)
        return found and found[0].get("lladdr")

    @own_balancer
    def a_missing_route_drops_and_counts_until_it_is_there(self):
        self._routers(None)
        self.start()
        for m in (method("nat", V4), method("nat", V6)):
            before = self.balancer.drops().get("next_hop_unresolved", 0)
            try:
                self._held(m, 1.0).socket.close()
                raise AssertionError(f"{m.family}: an answer came without a route")
            except TimeoutError:
                pass
            expect(self.balancer.drops()["next_hop_unresolved"] > before, f"{self.balancer.drops()}")
            self._route(m.family, "b")
            with self._eyes() as ways, self._held(m, 10.0) as held:
                self._settled(ways, held, m, {"b"}, "once there is a route")

    @own_balancer
    def of_two_routers_both_are_used_and_a_dead_one_is_not(self):
        self._routers(None)
        # The kernel doubts a neighbour after 15 to 45 seconds and asks five seconds later; not here.
        self.net.shell("balancer", f"""
            for family in ipv4 ipv6; do
                echo 1000 > /proc/sys/net/$family/neigh/{FRONT}/base_reachable_time_ms
                echo 1 > /proc/sys/net/$family/neigh/{FRONT}/delay_first_probe_time
            done
        """)
        more = range(20, 36)
        for family in FAMILIES:
            self._route(family, "a", "b")
            bits = LENGTH[family]
            self.net.batch("remote", [f"addr replace {address(3, h, family)}/{bits} dev {FAR}"
                                      + (" nodad" if family == V6 else "") for h in more])
        self.start()

        def ask_all(m):
            for host in more:
                with methods.udp_socket(self.lab, m.family, address(3, host, m.family), "remote") as sock:
                    methods.echo(self.lab, m.vip, b"which way", sock=sock)
        with self._eyes() as ways:
            for m in (method("nat", V4), method("nat", V6)):
                wait.until(lambda m=m: ways(lambda: ask_all(m), m.vip) == {"a", "b"},
                           f"{m.family}: both routers are used", 10)
            self._power("b", "down")
            for m in (method("nat", V4), method("nat", V6)):
                wait.until(lambda m=m: ways(lambda: ask_all(m), m.vip) == {"a"},
                           f"{m.family}: the other router has it all", 60)
        told = self.balancer.status()["warnings"]
        expect(any(f"router {address(1, 3, V4)} does not answer" in t for t in told), f"warnings: {told}")
        self._power("b", "up")
        with self._eyes() as ways:
            for m in (method("nat", V4), method("nat", V6)):
                wait.until(lambda m=m: ways(lambda: ask_all(m), m.vip) == {"a", "b"},
                           f"{m.family}: the router that came back is used", 10)


def saw(wire, vip):
    """Whether a frame with a packet of the VIP, meant for the router, waits at it."""
    found = False
    while select.select([wire.socket], [], [], 0)[0]:
        frame = Ether(wire.socket.recv(65535))
        layer = IPv6 if ":" in vip else IP
        found |= frame.dst == wire.mac and layer in frame and frame[layer].src == vip
    return found
