"""What goes wrong between two balancers: processes that die or hang, splits, forged heartbeats.

Two owners at once are looked for where they would do harm: in the answers that the client's network gets.
"""

import hmac
import random
import signal
import time

from .. import pair
from ..clients import Claims, Watcher
from ..packets import IP, UDP, Ether, Raw, Wire
from ..pair import BEAT, BEAT_PORT, METHODS, STREAM_PORT, Settings
from ..topology import V4, address
from .pair import FULLNAT, NAT, QUICK, PairGroup
from .support import Downloads, expect, own_balancer, wait


class PairFaults(PairGroup):
    """Everything is restored at the end of a test; the pair must have found together by itself."""

    # -- processes that die -----------------------------------------------------------------------

    def _death(self, what, restart):
        """Kills something of the active node, has it started again, and looks at the clients."""
        active = self.pair.active()
        downloads = Downloads(self, 80, *METHODS, seconds=10).all_begun()
        watchers = [Watcher(self.pair, "udp"), Watcher(self.pair, "tcp", FULLNAT)]
        self._standby_knows(active, 82)
        began = time.monotonic()
        for process in what(active):
            active.kill(process)
        restart(active)
        for watcher in watchers:
            watcher.answered()
        self.pair.settled()
        for watcher in watchers:
            expect(watcher.gap(began) < QUICK, f"{watcher.what}: nothing for {watcher.gap(began)} s\n{self.pair.words()}")
            expect(len(watcher.end()["servers"]) == 1, f"{watcher.what} moved to another server")
        downloads.all_finished()

    def _after_takeover(self, start):
        def restart(node):
            self.pair.wait_owner(node.other.name, "after the death", 5)
            start(node)
        return restart

    def control_killed_and_started_at_once_breaks_nothing(self):
        self._death(lambda n: [n.control], lambda n: n.start_control())

    def control_killed_hands_over_and_breaks_nothing(self):
        self._death(lambda n: [n.control], self._after_takeover(lambda n: n.start_control()))

    def the_data_plane_killed_and_started_at_once_breaks_nothing(self):
        self._death(lambda n: [n.dataplane], lambda n: n.start_dataplane())

    def the_data_plane_killed_hands_over_and_breaks_nothing(self):
        self._death(lambda n: [n.dataplane], self._after_takeover(lambda n: n.start_dataplane()))

    def both_processes_killed_hand_over_and_break_nothing(self):
        self._death(lambda n: n.processes(), self._after_takeover(lambda n: n.up()))

    def a_standby_that_dies_in_part_or_whole_moves_nothing(self):
        active = self.pair.active()
        downloads = Downloads(self, 40, *METHODS, seconds=14).all_begun()
        watcher, claims, began = Watcher(self.pair), Claims(self.pair), time.monotonic()
        standby = active.other
        for kill, start in ((lambda: [standby.control], standby.start_control),
                            (lambda: [standby.dataplane], standby.start_dataplane),
                            (standby.processes, standby.up)):
            for process in kill():
                standby.kill(process)
            start()
            self.pair.settled()
        self.pair.power_off(standby.name)
        self.pair.power_on(standby.name)
        self.pair.settled()
        self._one_owner_throughout(claims, active.name)
        expect(watcher.gap(began) < 0.15, f"nothing for {watcher.gap(began)} s")
        downloads.all_finished()
        watcher.end()

    def a_standby_that_dies_while_it_learns_learns_again(self):
        active = self.pair.active()
        downloads = Downloads(self, 200, *METHODS, seconds=12).all_begun()
        standby = active.other
        for _ in range(3):
            self.pair.power_off(standby.name)
            self.pair.power_on(standby.name)
            wait.until(standby.learning, "it is learning", 10, 0.002)
        self.pair.settled()
        wait.until(lambda: standby.status()["table"]["used"] >= 200, "it knows the connections", 5)
        self.pair.power_off(active.name)
        self.pair.wait_owner(standby.name, "after the power-off")
        downloads.all_finished()
        self.pair.power_on(active.name)
        self.pair.settled()

    # -- processes that hang ------------------------------------------------------------------------

    def _hang(self, what):
        """Something of the active node stands still for two seconds and goes on as if nothing were."""
        active = self.pair.active()
        downloads = Downloads(self, 40, *METHODS, seconds=10).all_begun()
        self._standby_knows(active, 40)
        watcher, claims, began = Watcher(self.pair), Claims(self.pair), time.monotonic()
        stopped = what(active)
        for process in stopped:
            process.kill(signal.SIGSTOP)
        try:
            self.pair.wait_owner(active.other.name, "while the other hangs", 4)
            time.sleep(max(0.0, began + 2 - time.monotonic()))  # the length of the hang, not a wait
        finally:
            for process in stopped:
                process.kill(signal.SIGCONT)
        self.pair.settled()
        watcher.answered()
        expect(watcher.gap(began) < QUICK, f"nothing for {watcher.gap(began)} s")
        self._one_owner_throughout(claims, active.name, active.other.name)
        downloads.all_finished()
        watcher.end()
        return active

    def a_node_that_hangs_two_seconds_fences_itself_before_it_says_anything(self):
        before = {name: n.ha()["fenced_itself"] for name, n in self.nodes.items()}
        hung = self._hang(lambda n: n.processes())
        expect(hung.ha()["fenced_itself"] > before[hung.name], f"it has not noticed:\n{hung.why()}")

    def control_that_hangs_loses_the_vip_and_does_not_come_back_as_owner(self):
        self._hang(lambda n: [n.control])

    def a_data_plane_that_hangs_loses_the_vip(self):
        self._hang(lambda n: [n.dataplane])

    # -- splits -------------------------------------------------------------------------------------

    def one_way_of_the_heartbeat_cut_moves_nothing_and_is_named(self):
        active, claims = self.pair.active(), Claims(self.pair)
        standby = active.other
        self.pair.cut(active.name, "beat")
        wait.until(lambda: not standby.ha()["paths"][0]["up"], "the way is said to be down", 5)
        expect(standby.ha()["paths"][1]["up"], "the other way is said to be down too")
        expect(standby.ha()["peer"]["state"] == "alive", "the peer is said to be dead")
        downloads = Downloads(self, 40, *METHODS, seconds=10).all_begun()  # which cannot be replicated now
        self.pair.heal(active.name, "beat")
        wait.until(lambda: standby.ha()["paths"][0]["up"], "the way is up again", 5)
        self._one_owner_throughout(claims, active.name)
        self.pair.settled()
        self._standby_knows(active, 40)
        self.pair.power_off(active.name)
        self.pair.wait_owner(standby.name, "after the power-off")
        downloads.all_finished()
        self.pair.power_on(active.name)
        self.pair.settled()

    @own_balancer
    def a_split_of_the_only_heartbeat_ends_with_one_owner_that_clients_reach(self):
        """Both nodes hear nothing, and both have their networks: two owners cannot be avoided, and must end."""
        self.start(Settings(paths=("beat",)))
        for _ in range(3):
            active = self.pair.active()
            self.pair.mute(active.name, "beat")
            self.pair.mute(active.other.name, "beat")
            wait.until(active.other.active, "the other one takes the VIP", 5)
            self.pair.unmute(active.name, "beat")
            self.pair.unmute(active.other.name, "beat")
            healed = time.monotonic()
            wait.until(lambda: sorted(n.role() for n in self.nodes.values()) == ["active", "standby"],
                       "one has yielded", 2, 0.005)
            winner = self.pair.active()
            self.pair.wait_owner(winner.name, "after the split", 2)
            mac = self.net.mac(winner.name, "front0")
            def told(mac=mac):
                # A client that has forgotten the VIP meanwhile asks when it needs it.
                known = self.net.ip("client", "-4", "neigh", "show", NAT.vip)
                return all(entry.get("lladdr", mac) == mac for entry in known)
            wait.until(told, "the client was told again", 2)
            self.works(NAT, 3)
            expect(time.monotonic() - healed < 3, "it took too long")
            self.pair.settled()

    @own_balancer
    def a_node_cut_off_from_everything_ends_as_standby_when_it_is_healed(self):
        self.start()
        active = self.pair.active()
        downloads = Downloads(self, 40, *METHODS, seconds=10).all_begun()
        self._standby_knows(active, 40)
        claims = Claims(self.pair)
        self.pair.cut(active.name)
        self.pair.wait_owner(active.other.name, "which has its networks", 5)
        self.pair.heal(active.name)
        healed = time.monotonic()
        self.pair.settled()
        # Nobody could tell it that it owns nothing any more; it has to hear a heartbeat first.
        seen = claims.end()
        late = [last for name, _, last in seen if name == active.name and last > healed + 0.2]
        expect(seen[-1][0] == active.other.name and not late, f"healed at {healed}, owners seen: {seen}")
        for m in METHODS:
            self.works_again(m, "after the heal", 3)
        downloads.all_finished()

    def a_node_that_is_not_heard_does_not_stay_owner(self):
        active = self.pair.active()
        self.pair.mute(active.name, "beat", "back")
        self.pair.wait_owner(active.other.name, "which hears nothing", 5)
        wait.until(lambda: active.role() == "standby", "the one that is not heard has yielded", 3)
        self._everything_works("at the node that is heard")
        self.pair.unmute(active.name, "beat", "back")
        self.pair.settled()

    def a_standby_that_hears_nothing_but_is_heard_does_not_stay_owner_beside_the_other(self):
        standby = self.pair.standby()
        self.pair.deafen(standby.name, "beat", "back")
        # Deaf, it must take the other for dead; the other hears of it, and one of them yields.
        wait.until(lambda: self.pair.owner() is not None and sorted(
            n.role() for n in self.nodes.values()) == ["active", "standby"], "there is one owner", 5)
        self.pair.undeafen(standby.name, "beat", "back")
        self.pair.settled()
        self._everything_works("after the heal")

    def a_way_that_loses_a_third_of_all_heartbeats_moves_nothing(self):
        active, claims = self.pair.active(), Claims(self.pair)
        for node in self.nodes:
            self.pair.lossy(node, "beat")
        wait.until(lambda: active.other.ha()["paths"][0]["lost"] >= 30, "losses are counted", 20)
        expect(active.other.ha()["peer"]["state"] == "alive", f"{active.other.why()}")
        downloads = Downloads(self, 60, *METHODS, seconds=10).all_begun()  # replicated over the same line
        self._standby_knows(active, 60)
        self._one_owner_throughout(claims, active.name)
        self.pair.power_off(active.name)
        self.pair.wait_owner(active.other.name, "after the power-off")
        self.pair.restore_links()
        downloads.all_finished()
        self.pair.power_on(active.name)
        self.pair.settled()

    def the_outside_switch_dark_for_both_and_back_ends_with_service(self):
        for name in self.nodes:
            self.pair.cut(name, "front")
        wait.until(lambda: all(n.interface("front0")["link"] == "no-carrier" for n in self.nodes.values()),
                   "both see it", 5)
        for name in self.nodes:
            self.pair.heal(name, "front")
        for m in METHODS:
            self.works_again(m, "after the switch is back", 5)
        self.pair.settled()

    # -- a stranger on the heartbeat network ----------------------------------------------------------

    def _record(self, seconds=0.5):
        """Heartbeats of both nodes as they pass, by sender."""
        found = {name: [] for name in self.nodes}
        sources = {address(9, pair.HOSTS[n], V4): n for n in self.nodes}
        for name in self.nodes:
            with Wire(self.net, "cable", f"{name}.beat") as tap:
                deadline = time.monotonic() + seconds
                while time.monotonic() < deadline:
                    frame = tap.receive(lambda f: f[UDP].dport == BEAT_PORT, 0.2)
                    if frame is not None:
                        found[sources[frame[IP].src]].append(bytes(frame[UDP].payload))
        expect(all(found.values()), "no heartbeats pass")
        return found

    def _head(self, wire, victim, port=BEAT_PORT):
        """Headers of a datagram to a node as if it came from its peer."""
        target = address(9, pair.HOSTS[victim.name], V4)
        source = address(9, pair.HOSTS[victim.other.name], V4)
        return (Ether(src=wire.mac, dst=self.net.mac(victim.name, BEAT)) / IP(src=source, dst=target)
                / UDP(sport=port, dport=port))

    def _harmless(self, what, payloads, kinds, port=BEAT_PORT):
        """Both nodes are sent these; roles and epochs stay, nobody waits, and the kinds are counted."""
        before = {n: (self._stand(node), node.refused()) for n, node in self.nodes.items()}
        claims = Claims(self.pair)
        with Wire(self.net, "stranger", BEAT) as wire:
            for node in self.nodes.values():
                head = self._head(wire, node, port)
                wire.send(*(head / Raw(payload) for payload in payloads(node)))
        for name, node in self.nodes.items():
            stand, refused = before[name]
            if kinds:
                def counted(node=node, refused=refused):
                    now = node.refused()
                    return sum(now[k] - refused[k] for k in kinds) > 0
                wait.until(counted, f"{what}: {name} counts {' or '.join(kinds)}", 3)
            expect(self._stand(node) == stand, f"{what}: {name} was {stand} and is {self._stand(node)}")
        self._one_owner_throughout(claims, self.pair.active().name)

    @staticmethod
    def _stand(node):
        view = node.ha()
        return [(g["name"], g["role"], g["epoch"]) for g in view["groups"]], view["peer"]["restarts"]

    def heartbeats_repeated_by_a_stranger_are_counted_and_touch_nothing(self):
        recorded = self._record()
        self._harmless("the peer's own, again", lambda n: recorded[n.other.name], ["replayed"])
        self._harmless("its own, sent back", lambda n: recorded[n.name], ["foreign", "bad_mac"])

    def heartbeats_of_before_a_restart_are_counted_and_touch_nothing(self):
        recorded = self._record()
        active = self.pair.active()
        self._power_cycle(active)
        self._power_cycle(active.other)
        self._harmless("of another life", lambda n: recorded[n.other.name], ["replayed", "unproved"])

    def forged_cut_and_oversized_heartbeats_are_counted_and_touch_nothing(self):
        recorded, seed = self._record(), random.randrange(1 << 32)
        dice = random.Random(seed)
        try:
            def flipped(node):
                for original in recorded[node.other.name][:3]:
                    for _ in range(100):
                        bytes_ = bytearray(original)
                        bytes_[dice.randrange(len(bytes_))] ^= 1 << dice.randrange(8)
                        yield bytes(bytes_)

            self._harmless("one bit flipped", flipped, ["bad_mac"])
            self._harmless("cut", lambda n: (recorded[n.other.name][0][:i] for i in range(
                len(recorded[n.other.name][0]))), ["malformed", "bad_mac"])
            self._harmless("longer", lambda n: (recorded[n.other.name][0] + bytes(k) for k in (1, 100, 1200)),
                           ["malformed", "bad_mac"])
            self._harmless("nonsense", lambda n: (dice.randbytes(dice.randrange(1400)) for _ in range(300)),
                           ["malformed"])
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None

    def a_heartbeat_under_another_key_is_refused(self):
        """A third node with its own key and the name of one of ours."""
        recorded = self._record()

        def signed(node):
            for original in recorded[node.other.name]:
                body = original[:-16]
                yield body + hmac.digest(b"another key", body, "sha256")[:16]
        self._harmless("signed with another key", signed, ["bad_mac"])

    def a_flood_of_forged_heartbeats_costs_little_and_moves_nothing(self):
        recorded = self._record()
        active, claims, watcher = self.pair.active(), Claims(self.pair), Watcher(self.pair)
        began = time.monotonic()
        before = active.other.refused()
        forged = bytearray(recorded[active.name][0])
        forged[-1] ^= 1
        sent = 0
        with Wire(self.net, "stranger", BEAT) as wire:
            frame = bytes(self._head(wire, active.other) / Raw(bytes(forged)))
            while time.monotonic() < began + 2:  # the length of the flood, not a wait
                for _ in range(200):
                    try:
                        wire.socket.send(frame)
                    except OSError:  # the queue is full
                        break
                    sent += 1
        after = active.other.refused()
        expect(sum(after.values()) > sum(before.values()), f"nothing was counted: {after}")
        expect(active.other.ha()["peer"]["state"] == "alive", f"after {sent} forged beats:\n{active.other.why()}")
        self._one_owner_throughout(claims, active.name)
        watcher.answered()
        expect(watcher.gap(began) < 0.2, f"clients waited {watcher.gap(began)} s during the flood")
        watcher.end()
        self.pair.settled()

    def nonsense_to_the_replication_port_is_harmless(self):
        active = self.pair.active()
        downloads = Downloads(self, 40, *METHODS, seconds=10).all_begun()
        used = active.other.status()["table"]["used"]
        dice = random.Random(5)
        self._harmless("nonsense to the replication", lambda n: (
            dice.randbytes(dice.randrange(1, 1400)) for _ in range(500)), [], STREAM_PORT)
        expect(abs(active.other.status()["table"]["used"] - used) < 100, "the table has changed")
        self._standby_knows(active, 40)
        self._switch()
        downloads.all_finished()
        self.pair.settled()
