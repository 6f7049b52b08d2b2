"""Schedulers, persistence and thresholds, seen from the clients; table behaviour they notice."""

import random
import struct
import time

from .. import methods
from ..packets import TCP, Ether, ip
from .support import (HTTP, REALS, Downloads, Group, Held, Wire, address, document, expect, method, own_balancer,
                      topology, wait, web)

VIP = topology.vip(0, "ipv4")
ALL = {"a": 1, "b": 1, "c": 1}
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh", "dh", "mh", "sed", "nq", "lblc", "lblcr", "fo", "ovf", "twos")


class Behaviour(Group):
    """One service on one VIP, with another scheduler or option in each test."""

    def text(self):
        return self._one(ALL)

    def _one(self, reals, **more):
        from .support import topology_cores
        return document([web(reals, **more)], ["front0", "back0"], topology_cores(1), lease="2s")

    def _pick(self, count, **options):
        """The reals that `count` connections in turn reach, each closed before the next."""
        got = ""
        for _ in range(count):
            with Held(self.lab, VIP, **options) as held:
                got += held.real
        return got

    def _hold(self, count, **options):
        """`count` connections at the same time."""
        return [Held(self.lab, VIP, **options) for _ in range(count)]

    @own_balancer
    def every_scheduler_serves(self):
        self.start()
        for name in SCHEDULERS:
            self.balancer.reload(self._one(ALL, name=f"s-{name}", scheduler=name))
            wait.until(lambda n=name: self.balancer.service(f"s-{n}"), f"service s-{name} exists", 5)
            self.balancer.wait_ready(5)
            got = self._pick(3)
            expect(set(got) <= set("abc"), f"{name}: {got}")

    @own_balancer
    def round_robin_takes_turns(self):
        self.start(self._one(ALL, scheduler="rr"))
        expect(self._pick(9) == "abcabcabc", "not in turns")

    @own_balancer
    def weights_four_three_two_give_the_exact_sequence(self):
        self.start(self._one({"a": 4, "b": 3, "c": 2}))
        got = self._pick(27)
        expect(got == methods.SEQUENCE * 3, f"got {got}")

    @own_balancer
    def a_weight_of_zero_takes_no_new_connection(self):
        self.start(self._one({"a": 0, "b": 1, "c": 1}))
        expect("a" not in self._pick(8), "a was used")

    @own_balancer
    def least_connections_fills_evenly(self):
        self.start(self._one(ALL, scheduler="lc"))
        held = self._hold(9)
        expect(sorted(h.real for h in held) == sorted("abc" * 3), "".join(h.real for h in held))
        for h in [h for h in held if h.real == "b"]:
            h.socket.close()
        # The three that closed no longer count as active, so the next three go there.
        wait.until(lambda: next(r for r in self.balancer.service("web")["reals"] if r["name"] == "b")["active"] == 0,
                   "connections of b count as closed", 5)
        expect([h.real for h in self._hold(2)] == ["b", "b"], "the emptied real was not preferred")

    @own_balancer
    def weighted_least_connections_fills_by_weight(self):
        self.start(self._one({"a": 3, "b": 2, "c": 1}, scheduler="wlc"))
        got = sorted(h.real for h in self._hold(12))
        expect(got == sorted("aaaaaabbbbcc"), "".join(got))

    @own_balancer
    def source_hashing_keeps_a_client_on_one_real(self):
        for name in ("sh", "mh"):
            self.start(self._one(ALL, scheduler=name))
            for host in topology.CLIENT_HOSTS:
                got = set(self._pick(4, source=address(1, host, "ipv4")))
                expect(len(got) == 1, f"{name}: client .{host} met {got}")
            self.balancer.stop()

    @own_balancer
    def failover_uses_the_heaviest_real_only(self):
        self.start(self._one({"a": 1, "b": 5, "c": 3}, scheduler="fo"))
        expect(self._pick(5) == "bbbbb", "not the heaviest")
        self.balancer.reload(self._one({"a": 1, "b": 0, "c": 3}, scheduler="fo"))
        wait.until(lambda: self._pick(1) == "c", "next heaviest takes over", 5)

    @own_balancer
    def overflow_fills_the_heaviest_first(self):
        self.start(self._one({"a": 2, "b": 4, "c": 1}, scheduler="ovf"))
        got = "".join(h.real for h in self._hold(6))
        expect(got == "bbbbaa", got)

    @own_balancer
    def never_queue_uses_an_idle_real_first(self):
        self.start(self._one({"a": 9, "b": 1, "c": 1}, scheduler="nq"))
        got = sorted(h.real for h in self._hold(3))
        expect(got == ["a", "b", "c"], f"{got}")

    @own_balancer
    def persistence_keeps_a_client_on_its_real_over_several_ports(self):
        both = [f"{VIP}:80", f"{VIP}:81"]
        for family in ("ipv4",):
            text = self._one(ALL, scheduler="rr", listen=both, persistence="1m")
            self.start(text)
        first = self._pick(1)
        expect(set(self._pick(5)) == {first}, "another real on the same port")
        expect(set(self._pick(3, port=81)) == {first}, "another real on the other port")
        others = {self._pick(1, source=address(1, host, "ipv4")) for host in topology.CLIENT_HOSTS[1:4]}
        expect(others != {first}, "other clients are stuck to the same real")

    @own_balancer
    def persistence_with_a_mask_takes_a_network_for_one_client(self):
        self.start(self._one(ALL, scheduler="rr", persistence={"timeout": "1m", "mask_v4": 24}))
        got = {self._pick(1, source=address(1, host, "ipv4")) for host in topology.CLIENT_HOSTS}
        expect(len(got) == 1, f"{got}")

    @own_balancer
    def persistence_ends_after_its_timeout(self):
        self.start(self._one(ALL, scheduler="rr", persistence="1s"))
        first = self._pick(1)
        wait.until(lambda: time.sleep(1.5) or self._pick(1) != first, "client is free again", 20, 0)

    @own_balancer
    def a_real_over_its_threshold_takes_no_more(self):
        # As in LVS, a connection counts until it has left the table: its closing is made short.
        closing = dict.fromkeys(("fin_wait", "close_wait", "last_ack", "time_wait", "close"), "1s")
        self.start(self._one({"a": {"upper_threshold": 2, "lower_threshold": 1}, "b": 1}, scheduler="rr",
                             timeouts=closing))
        held = self._hold(8)
        got = [h.real for h in held]
        expect(got.count("a") == 2, f"{got}")
        for h in held:
            if h.real == "a":
                h.socket.close()
        wait.until(lambda: self._pick(2).count("a") > 0, "a takes connections again", 15, 0.2)

    def a_port_used_again_at_once_gets_a_new_connection_without_delay(self):
        port = random.randint(2000, 9000)
        for _ in range(5):
            held = Held(self.lab, VIP, source_port=port)
            # Closed with a reset, so that the client's kernel lets the port go at once.
            held.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))
            held.socket.close()
            began = time.monotonic()
            Held(self.lab, VIP, source_port=port).socket.close()
            took = time.monotonic() - began
            expect(took < 0.5, f"took {took:.2f} s: the first SYN was lost")
            port += 1

    def a_connection_idle_within_its_timeout_stays(self):
        with Held(self.lab, VIP) as held:
            time.sleep(2)
            expect(held.ask() == held.real, "another real answered")

    @own_balancer
    def a_syn_flood_does_not_end_established_connections(self):
        self.start(document([web(ALL)], ["front0", "back0"], [0], lease="2s", connections=4096))
        held = self._hold(50)
        downloads = Downloads(self, 20, method("nat")).all_begun()
        with Wire(self.net) as wire:
            mac = self.balancer_mac()
            template = bytearray(bytes(Ether(src=wire.mac, dst=mac) / ip("198.18.0.1", VIP)
                                       / TCP(sport=1024, dport=HTTP, flags="S")))
            for frame in flood(template, 30_000):
                wire.socket.send(frame)
        table = self.balancer.status()["table"]
        expect(table["half_open"] <= table["half_open_max"], f"{table}")
        for h in held:
            expect(h.ask() == h.real, "an established connection moved")
        self.works_again(method("nat"), "after the flood", 10)
        downloads.all_finished()

    def the_counters_of_a_real_are_what_clients_did(self):
        def opened():
            return {r["name"]: r["opened"] for r in self.balancer.service("web")["reals"]}
        before = opened()
        got = self._pick(12)
        wait.until(lambda: all(opened()[r] - before[r] == got.count(r) for r in REALS), "counts agree", 3)


def flood(template, count):
    """SYNs from changing addresses and ports, checksums kept right by cancelling changes out."""
    whole = Ether(bytes(template))
    for number in range(count):
        if number % 500 == 0:
            whole["IP"].src = f"198.18.{random.randint(0, 255)}.{random.randint(1, 254)}"
            del whole["IP"].chksum, whole["TCP"].chksum
            frame = bytearray(bytes(whole))
            frame = bytearray(bytes(Ether(bytes(frame))))
            base = struct.unpack_from("!H", frame, 34)[0]
            total = struct.unpack_from("!H", frame, 50)[0]
        port = 1024 + (number * 7919) % 60000
        # RFC 1624: HC' = ~(~HC + ~m + m')
        update = (~total & 0xFFFF) + (~base & 0xFFFF) + port
        update = (update & 0xFFFF) + (update >> 16)
        update = (update & 0xFFFF) + (update >> 16)
        struct.pack_into("!H", frame, 34, port)
        struct.pack_into("!H", frame, 50, ~update & 0xFFFF)
        yield bytes(frame)
