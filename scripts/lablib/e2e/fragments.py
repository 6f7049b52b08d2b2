"""Datagrams larger than the path: fragments follow their first one, in whatever order they come."""

import random

from .. import methods
from ..packets import UDP, Ether, ip, pieces
from .support import Group, Wire, address, expect, method, topology


class Fragments(Group):
    """UDP echo through every method; the servers' kernels put the pieces together."""

    def large_datagrams_pass_every_method(self):
        for m in self.methods:
            for size in (1473, 2000, 8192, 20_000):
                self._echo(m, size)

    def _echo(self, m, size):
        """A sender may learn from its first datagram that the tunnel takes less, and lose it."""
        for _ in range(2):
            try:
                return methods.echo(self.lab, m.vip, random.randbytes(size), seconds=1)
            except methods.Failed:
                continue
        return methods.echo(self.lab, m.vip, random.randbytes(size))

    def fragments_in_reverse_order_pass_every_method(self):
        for m in self.methods:
            self._disordered(m, list.reverse)

    def fragments_in_random_order_pass_every_method(self):
        for m in self.methods:
            for _ in range(5):
                self._disordered(m, random.shuffle)

    def _disordered(self, m, disorder):
        me = address(1, 10, m.family)
        data = random.randbytes(6000)
        sock = methods.udp_socket(self.lab, m.family, me)
        with sock, Wire(self.net) as wire:
            sock.settimeout(3)
            packet = ip(me, m.vip) / UDP(sport=sock.getsockname()[1], dport=7) / data
            if m.family == topology.V4:
                packet.id = random.randrange(1, 65536)
            parts = pieces(packet, 1200)
            disorder(parts)
            wire.send(*[Ether(src=wire.mac, dst=self.balancer_mac()) / part for part in parts])
            try:
                answer = sock.recv(65535)
            except TimeoutError:
                raise AssertionError(f"{m.name} {m.family}: no answer to {len(parts)} fragments") from None
        expect(answer.endswith(data), f"{m.name} {m.family}: answer differs")

    def held_fragments_are_counted(self):
        before = self.balancer.events().get("fragment_released", 0)
        self._disordered(method("nat"), list.reverse)
        expect(self.balancer.events().get("fragment_released", 0) > before, "no fragment was held")

    def a_flood_of_lone_fragments_does_not_stop_others(self):
        m = method("nat")
        with Wire(self.net) as wire:
            mac = self.balancer_mac()
            part = pieces(ip(address(1, 10, "ipv4"), m.vip, id=1) / UDP(sport=9, dport=7) / bytes(3000), 1200)[1]
            frame = bytearray(bytes(Ether(src=wire.mac, dst=mac) / part))
            for number in range(10_000):
                part.id = number % 65536
                if number % 100 == 0:
                    del part.chksum
                    frame = bytes(Ether(src=wire.mac, dst=mac) / part)
                wire.socket.send(frame)
        self.works(m)
        methods.echo(self.lab, m.vip, random.randbytes(8192), seconds=5)
