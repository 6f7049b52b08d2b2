"""Processes that die and come back: no client notices, and a stop leaves nothing behind."""

import socket
import time

from .. import methods
from ..packets import Wire, who_has
from .support import (BACK, FRONT, HTTP, Downloads, Group, Held, expect, method, own_balancer, topology,
                      topology_cores, wait)

FOUR = [method("nat"), method("nat", "ipv6"), method("fullnat"), method("direct")]
EVERY = list(methods.METHODS)


class Restart(Group):
    """All methods; leases are short so that their end is seen soon."""

    def text(self, lease="1s"):
        return methods.document(self.methods, cores=topology_cores(self.queues), lease=lease)

    @own_balancer
    def forwarding_goes_on_while_control_is_dead_and_a_new_one_takes_up(self):
        self.start(self.text("20s"))
        downloads = Downloads(self, 40, *FOUR).all_begun()
        before = self.balancer.status()
        self.balancer.kill(self.balancer.control)
        for m in FOUR:
            self.works(m)  # new connections too, while the lease lasts
        self.balancer.start_control()
        self.balancer.wait_ready()
        after = self.balancer.status()
        expect(after["boot_id"] == before["boot_id"], "the data plane is another one")
        expect(after["events"]["conn_opened"] >= before["events"]["conn_opened"], "counters were lost")
        for m in FOUR:
            self.works(m)
        downloads.all_finished()

    @own_balancer
    def a_thousand_downloads_live_through_the_death_of_the_data_plane(self):
        self.start(self.text("5s"))
        downloads = Downloads(self, 1000, *FOUR).all_begun(40)
        self.balancer.kill(self.balancer.dataplane)
        self.balancer.start_dataplane()
        self.balancer.wait_ready()
        expect(self.balancer.status()["adopted"] >= 1000, f"adopted {self.balancer.status()['adopted']}")
        downloads.all_finished(90)

    @own_balancer
    def five_deaths_in_a_row_break_no_download(self):
        self.start(self.text("5s"))
        downloads = Downloads(self, 100, *EVERY).all_begun()
        for _ in range(5):
            self.balancer.kill(self.balancer.dataplane)
            self.balancer.start_dataplane()
            self.balancer.wait_ready()
        downloads.all_finished(90)
        for m in FOUR:
            self.works(m)

    @own_balancer
    def both_processes_killed_at_once_break_no_download(self):
        self.start(self.text("5s"))
        downloads = Downloads(self, 100, *EVERY).all_begun()
        self.balancer.kill(self.balancer.dataplane)
        self.balancer.kill(self.balancer.control)
        self.balancer.start_control()
        self.balancer.start_dataplane()
        self.balancer.wait_ready()
        downloads.all_finished(90)

    @own_balancer
    def while_the_data_plane_is_dead_nobody_resets_a_connection(self):
        self.start()
        held = [Held(self.lab, m.vip, seconds=20) for m in FOUR]
        self.balancer.kill(self.balancer.dataplane)
        for h in held:
            h.socket.sendall(b"GET /whoami HTTP/1.1\r\nHost: lab\r\n\r\n")
        for m in FOUR:
            kind = socket.AF_INET6 if m.family == "ipv6" else socket.AF_INET
            with self.net.inside("client"):
                attempt = socket.socket(kind, socket.SOCK_STREAM)
            attempt.settimeout(0.7)
            with attempt:
                try:
                    attempt.connect((m.vip, HTTP))
                    raise AssertionError(f"{m.name}: connected to a dead balancer")
                except TimeoutError:
                    continue  # right: silence
        self.balancer.start_dataplane()
        self.balancer.wait_ready()
        for h in held:
            answer = h.socket.recv(4096)
            expect(answer.strip().endswith(h.real.encode()), f"answer {answer!r}")

    @own_balancer
    def a_lease_that_ran_out_silences_the_vips_and_nothing_else(self):
        self.start()
        held = [Held(self.lab, m.vip) for m in FOUR]
        vips = [m.vip for m in FOUR]
        with Wire(self.net) as wire:
            for vip in vips:
                expect(who_has(wire, vip) == self.balancer_mac(), f"{vip} is not answered with a fresh lease")
            self.balancer.kill(self.balancer.control)
            for vip in vips:
                wait.until(lambda v=vip: who_has(wire, v, 0.2) is None, f"{vip} falls silent", 5)
            for vip in vips:
                expect(who_has(wire, vip, 0.7) is None, f"{vip} is answered without a lease")
            for m in FOUR:  # clients that still know the way go on
                self.net.batch("client", [f"neigh replace {m.vip} lladdr {self.balancer_mac()} dev {FRONT} nud permanent"])
            for h in held:
                expect(h.ask() == h.real, "an established connection stopped")
            self.balancer.start_control()
            for vip in vips:
                wait.until(lambda v=vip: who_has(wire, v, 0.2) == self.balancer_mac(), f"{vip} is answered again", 10)
        for m in FOUR:
            self.net.batch("client", [f"neigh del {m.vip} dev {FRONT}"])

    @own_balancer
    def a_new_owner_announces_its_vips(self):
        with Wire(self.net) as wire:
            wire.clear()
            self.start()
            from ..packets import ARP, ICMPv6ND_NA
            vip4, vip6 = method("nat").vip, method("nat", "ipv6").vip
            wire4 = wire.receive(lambda f: f[ARP].psrc == vip4 and f[ARP].pdst == vip4, 5)
            expect(wire4 is not None and wire4.src == self.balancer_mac(), "no gratuitous ARP")
            wire.clear()
            self.balancer.restart(self.text())
            wire6 = wire.receive(lambda f: f[ICMPv6ND_NA].tgt == vip6, 5)
            expect(wire6 is not None and wire6.src == self.balancer_mac(), "no unsolicited advertisement")

    @own_balancer
    def an_orderly_stop_leaves_nothing_behind(self):
        settings = self._settings()
        self.start()
        for m in FOUR:
            self.works(m)
        problems = self.balancer.stop()
        expect(not problems, "; ".join(problems))
        expect(not self.balancer.traces(), "; ".join(self.balancer.traces()))
        expect(self._settings() == settings, "settings of the interfaces are not what they were")
        self.net.exec("client", "ping", "-c", 1, "-W", 2, topology.address(1, 1, "ipv4"))

    @own_balancer
    def a_start_after_an_orderly_stop_begins_empty_and_works(self):
        self.start()
        with Held(self.lab, method("nat").vip):
            pass
        self.balancer.restart(self.text())
        expect(self.balancer.status()["adopted"] == 0, "adopted connections of an ended instance")
        self.works()

    @own_balancer
    def a_damaged_table_file_is_refused_and_a_new_one_made(self):
        self.start()
        self.works()
        self.balancer.kill(self.balancer.dataplane)
        with open(self.balancer.table, "r+b") as file:
            file.write(b"\xa5" * 4096)
        self.balancer.start_dataplane()
        self.balancer.wait_ready()
        expect(self.balancer.status()["adopted"] == 0, "adopted a damaged table")
        self.works()

    @own_balancer
    def a_second_data_plane_of_the_same_instance_is_refused(self):
        self.start()
        first = self.balancer.dataplane
        second = self.balancer.start_dataplane()
        wait.until(lambda: not second.alive(), "the second one gives up", 10)
        expect(second.popen.returncode != 0 and second.tail(), "it gave no reason")
        self.balancer.dataplane = first
        self.works()

    def _settings(self):
        keys = ("mtu", "flags", "num_rx_queues", "num_tx_queues", "promiscuity", "gro_max_size")
        links = {}
        for link in self.net.ip("balancer", "-d", "link"):
            if link["ifname"] in (FRONT, BACK):
                features = self.net.exec("balancer", "ethtool", "-k", link["ifname"])
                links[link["ifname"]] = [str(link.get(k)) for k in keys] + [features]
        return links
