"""Interfaces that are absent, down, flapping, made anew or taken: mended by themselves.

Rows E1 to E7 of the test matrix. `direct` needs the front interface only, `nat` needs both: so each
test sees both that the healthy interface goes on alone and that the other one comes back.
"""

import random
import time

from .. import net, topology
from .support import BACK, FRONT, Group, Held, expect, method, own_balancer, wait

NAT, DIRECT = method("nat"), method("direct")
FOREIGN = """
struct xdp_md;
__attribute__((section("xdp"), used)) int foreign(struct xdp_md *ctx) { return 2; }
char _license[] __attribute__((section("license"), used)) = "GPL";
"""


class Interfaces(Group):
    """front0 stays healthy unless a test says otherwise; back0 is the one that suffers."""

    def _link(self, *arguments):
        self.net.batch("balancer", [f"link set {BACK} {' '.join(map(str, arguments))}"])

    def _state(self, wanted, seconds=10, interface=BACK):
        """Waits until the interface is reported as (link, attached)."""
        def now():
            found = self.balancer.interface(interface)
            return (found["link"], found["attached"]) == wanted
        wait.until(now, f"{interface} is reported {wanted}", seconds, 0.1)

    def _back_up(self):
        """back0 is up again with its addresses (the kernel takes IPv6 ones when a link goes down)."""
        self._link("up")
        self.lab.balancer_addresses(BACK)

    def _all_work_again(self, what):
        for family in topology.FAMILIES:
            self.works_again(method("nat", family), what)
        self.works(DIRECT)

    @own_balancer
    def an_interface_down_at_start_is_used_once_it_is_up(self):
        self._link("down")
        self.start(ready=False)
        self.works_again(DIRECT, "with the other interface down")
        expect(self.balancer.interface(BACK)["link"] == "down", f"{self.balancer.interface(BACK)}")
        self._back_up()
        self._all_work_again("once the interface is up")

    @own_balancer
    def an_interface_absent_at_start_is_used_once_it_exists(self):
        self.lab.cut_balancer_link(BACK)
        self.start(ready=False)
        self.works_again(DIRECT, "with the other interface absent")
        found = self.balancer.interface(BACK)
        expect(found["link"] == "absent" and not found["attached"] and found["problem"], f"{found}")
        self.lab.balancer_link(BACK)
        self._all_work_again("once the interface exists")
        self._state(("up", True))

    @own_balancer
    def an_interface_deleted_and_made_again_is_used_again(self):
        self.start()
        self.works(NAT)
        old = self.balancer.interface(BACK)["ifindex"]
        with Held(self.lab, DIRECT.vip) as held:
            self.lab.cut_balancer_link(BACK)
            self._state(("absent", False))
            expect(held.ask() == held.real, "the healthy interface suffered")
            self.works(DIRECT)
            self.lab.balancer_link(BACK)
            self._state(("up", True))
        expect(self.balancer.interface(BACK)["ifindex"] != old, "same ifindex")
        self._all_work_again("after the interface was made again")

    @own_balancer
    def an_interface_that_goes_down_and_up_keeps_its_connections(self):
        self.start()
        with Held(self.lab, NAT.vip, seconds=15) as held:
            self._link("down")
            wait.until(lambda: self.balancer.interface(BACK)["link"] == "down", "down is reported", 10)
            self.works(DIRECT)
            self._back_up()
            expect(held.ask() == held.real, "the connection did not live on")
        self._all_work_again("after down and up")

    @own_balancer
    def a_lost_carrier_is_reported_and_mended(self):
        self.start()
        self.net.batch("switch", ["link set balancer.back down"])
        wait.until(lambda: self.balancer.interface(BACK)["link"] == "no-carrier", "no-carrier is reported", 10)
        self.works(DIRECT)
        self.net.batch("switch", ["link set balancer.back up"])
        self.lab.balancer_addresses(BACK)
        self._all_work_again("after the carrier came back")

    @own_balancer
    def fifty_random_flaps_end_in_a_working_interface(self):
        seed = random.randrange(1 << 32)
        dice = random.Random(seed)
        self.start()
        for _ in range(50):
            self._link(dice.choice(("up", "down")))
            time.sleep(dice.choice((0, 0.005, 0.02, 0.1)))  # the flaps themselves, not a wait
        try:
            self.works(DIRECT)
            self._back_up()
            self._all_work_again("after fifty flaps")
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None

    @own_balancer
    def an_interface_made_again_ten_times_ends_in_a_working_one(self):
        self.start()
        for _ in range(10):
            self.lab.cut_balancer_link(BACK)
            self.lab.balancer_link(BACK)
        self._all_work_again("after ten new interfaces")

    @own_balancer
    def the_front_interface_made_again_is_announced_and_used(self):
        self.start()
        self.works(NAT)
        self.lab.cut_balancer_link(FRONT)
        self.lab.balancer_link(FRONT)
        # The new interface has another MAC address; clients must learn it without being told here.
        self._all_work_again("after a new front interface")

    @own_balancer
    def a_foreign_program_is_reported_and_does_not_stop_the_other_interface(self):
        source, object_ = self.lab.directory / "foreign.c", self.lab.directory / "foreign.o"
        source.write_text(FOREIGN)
        net.run(["clang", "-O2", "-target", "bpf", "-c", source, "-o", object_])
        self._link("xdpgeneric", "obj", object_, "sec", "xdp")
        try:
            self.start(ready=False)
            self.works_again(DIRECT, "with a foreign program on the other interface")
            found = self.balancer.interface(BACK)
            expect(not found["attached"] and found["problem"], f"{found}")
            expect(BACK in self.balancer.xdp_programs(), "the foreign program was taken off")
        finally:
            self._link("xdpgeneric", "off")
        self._state(("up", True), 15)
        self._all_work_again("once the foreign program has gone")

    @own_balancer
    def our_program_taken_off_by_hand_is_put_back(self):
        self.start()
        for how in ("xdpgeneric", "xdpdrv"):
            try:
                self._link(how, "off")
            except net.CommandFailed:
                continue  # held by a link: cannot be taken off this way
        self._all_work_again("after an attempt to take the program off")
        expect(BACK in self.balancer.xdp_programs(), "no program is attached")

    @own_balancer
    def a_changed_mtu_is_seen(self):
        self.start()
        self._link("mtu", 1400)
        wait.until(lambda: self.balancer.interface(BACK)["mtu"] == 1400, "mtu 1400 is reported", 10)
        self.works(DIRECT)
        self._link("mtu", 1500)
        wait.until(lambda: self.balancer.interface(BACK)["mtu"] == 1500, "mtu 1500 is reported", 10)
        self._all_work_again("after the MTU came back")

    @own_balancer
    def a_changed_mac_address_is_followed(self):
        self.start()
        self._link("address", "02:00:00:77:02:01")
        for real in topology.REALS:
            for flag in ("-4", "-6"):
                net.run(["ip", "-n", self.net.namespace(f"real-{real}"), flag, "neigh", "flush", "all"])
        self._all_work_again("with another MAC address")
        expect(self.balancer.interface(BACK)["mac"] == "02:00:00:77:02:01", f"{self.balancer.interface(BACK)}")

    @own_balancer
    def a_real_with_a_new_mac_address_is_followed(self):
        self.start()
        self.works(NAT)
        self.net.batch("real-a", ["link set back0 address 02:00:00:77:02:0a", "neigh flush dev back0"])
        # As a machine that comes back does: it asks for its gateway, and the balancer's kernel learns.
        self.net.exec("real-a", "ping", "-c", "1", "-W", "2", topology.address(2, 1, topology.V4))
        self.works_again(NAT, "after real a has another MAC address", 30)
        wait.until(lambda: {self.fetch(NAT, seconds=2).real for _ in range(12)} == set(topology.REALS),
                   "real a answers again", 60, 0.5)
