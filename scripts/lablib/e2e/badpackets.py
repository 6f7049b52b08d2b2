"""Frames that no honest sender makes: counted, never forwarded wrongly, never in the way of others.

The rows are those of the test matrix (A1 to A17). Each sends a frame to the VIP from the client's
place and looks at three things: the counter that must move, what comes back, and that pages go on.
"""

import random

from .. import methods
from ..packets import (ICMP, IP, TCP, UDP, Dot1Q, Ether, ICMPv6ND_NA, IPOption_RR, IPv6, IPv6ExtHdrDestOpt,
                       IPv6ExtHdrFragment, Raw, ip)
from .support import HTTP, Group, Wire, address, expect, method, topology, wait

VIP4, VIP6 = topology.vip(0, "ipv4"), topology.vip(0, "ipv6")
ME4, ME6 = address(1, 10, "ipv4"), address(1, 10, "ipv6")


class BadPackets(Group):
    """nat over both families; every frame goes to its VIP."""

    methods = [methods.method("nat", family) for family in topology.FAMILIES]

    def _send(self, *packets, mac=None):
        """Sends packets to the balancer; returns nothing."""
        with Wire(self.net) as wire:
            ether = Ether(src=wire.mac, dst=mac or self.balancer_mac())
            wire.send(*[ether / packet for packet in packets])

    def _counted(self, reason, *packets, count=None):
        """Each packet moves the counter of this reason by one, and pages go on."""
        before = self.balancer.drops().get(reason, 0)
        self._send(*packets)
        wanted = count or len(packets)
        try:
            wait.until(lambda: self.balancer.drops().get(reason, 0) - before >= wanted, f"{reason} moves", 3)
        except wait.Timeout as error:
            now = self.balancer.drops()
            moved = {k: v for k, v in now.items() if v}
            raise AssertionError(f"{error}; drops are {moved}") from None
        self._goes_on()

    def _ignored(self, *packets, answer=lambda frame: True):
        """The packets are answered by nobody (dropped by us, or by the kernel), and pages go on."""
        with Wire(self.net) as wire:
            wire.clear()
            wire.send(*[Ether(src=wire.mac, dst=self.balancer_mac()) / p for p in packets])
            got = wire.receive(lambda f: answer(f) and self._from_vip(f), 0.5)
        expect(got is None, f"answered: {got.summary() if got is not None else ''}")
        self._goes_on()

    @staticmethod
    def _from_vip(frame):
        # Neighbour advertisements of the VIPs, due now and then, answer nothing.
        if ICMPv6ND_NA in frame:
            return False
        source = frame[IP].src if IP in frame else frame[IPv6].src if IPv6 in frame else None
        return source in (VIP4, VIP6)

    def _goes_on(self):
        for m in self.methods:
            self.works(m)

    def a_wrong_ip_checksum_is_dropped(self):
        self._counted("bad_ip_checksum", IP(src=ME4, dst=VIP4, chksum=0x1234) / TCP(dport=HTTP, flags="S"))

    def ip_options_are_dropped(self):
        self._counted("ip_options", IP(src=ME4, dst=VIP4, options=[IPOption_RR()]) / TCP(dport=HTTP, flags="S"))

    def a_length_beyond_the_frame_is_malformed(self):
        self._counted("malformed", IP(src=ME4, dst=VIP4, len=1400) / TCP(dport=HTTP, flags="S"))

    def a_length_shorter_than_the_headers_is_malformed(self):
        self._counted("malformed", IP(src=ME4, dst=VIP4, len=30) / TCP(dport=HTTP, flags="S"))

    def an_ipv6_length_beyond_the_frame_is_malformed(self):
        self._counted("malformed", IPv6(src=ME6, dst=VIP6, plen=1400) / TCP(dport=HTTP, flags="S"))

    def a_tcp_header_length_below_five_is_malformed(self):
        self._counted("malformed", ip(ME4, VIP4) / TCP(dport=HTTP, flags="S", dataofs=4))

    def a_udp_length_that_contradicts_the_packet_is_malformed(self):
        m = methods.method("nat")
        self._counted("malformed", ip(ME4, m.vip) / UDP(sport=4000, dport=7, len=600) / b"short")

    def a_header_length_below_five_is_not_answered(self):
        self._ignored(IP(src=ME4, dst=VIP4, ihl=4) / TCP(dport=HTTP, flags="S"))

    def frames_cut_at_every_byte_do_no_harm(self):
        for packet in (ip(ME4, VIP4) / TCP(sport=3333, dport=HTTP, flags="A"),
                       ip(ME6, VIP6) / TCP(sport=3333, dport=HTTP, flags="A")):
            with Wire(self.net) as wire:
                whole = bytes(Ether(src=wire.mac, dst=self.balancer_mac()) / packet)
                for length in range(14, len(whole)):
                    wire.socket.send(whole[:length])
        self._goes_on()

    def padding_behind_the_packet_is_no_part_of_it(self):
        # Smallest Ethernet frame: a datagram of one byte has padding behind it.
        with Wire(self.net) as wire:
            frame = bytes(Ether(src=wire.mac, dst=self.balancer_mac())
                          / ip(ME4, VIP4) / UDP(sport=4001, dport=7) / b"x") + b"PADDINGPADDING"
            wire.clear()
            wire.socket.send(frame)
            got = wire.receive(lambda f: f[UDP].dport == 4001, 2)
        expect(got is not None and bytes(got[UDP].payload)[:got[UDP].len - 8].endswith(b" x"), f"{got}")

    def flags_that_no_stack_sends_are_dropped(self):
        self._counted("bad_tcp_flags", *[ip(ME4, VIP4) / TCP(sport=3001, dport=HTTP, flags=f)
                                         for f in ("", "SF", "SR")])

    def a_segment_of_no_connection_is_dropped(self):
        for source, target in ((ME4, VIP4), (ME6, VIP6)):
            self._counted("no_connection", ip(source, target) / TCP(sport=3002, dport=HTTP, flags="A"))

    def a_vip_as_source_is_dropped(self):
        self._counted("bad_source", IP(src=VIP4, dst=VIP4) / TCP(sport=80, dport=HTTP, flags="S"),
                      IPv6(src=VIP6, dst=VIP6) / TCP(sport=80, dport=HTTP, flags="S"))

    def impossible_sources_are_dropped(self):
        sources = ("224.0.0.5", "255.255.255.255", "127.0.0.1", "0.0.0.0")
        self._counted("bad_source", *[IP(src=s, dst=VIP4) / TCP(dport=HTTP, flags="S") for s in sources])
        sources = ("ff02::1", "::1", "::")
        self._counted("bad_source", *[IPv6(src=s, dst=VIP6) / TCP(dport=HTTP, flags="S") for s in sources])

    def a_spent_ttl_is_not_forwarded(self):
        self._counted("ttl_exceeded", ip(ME4, VIP4, ttl=1) / TCP(sport=3003, dport=HTTP, flags="S"))
        self._counted("ttl_exceeded", ip(ME6, VIP6, ttl=1) / TCP(sport=3003, dport=HTTP, flags="S"))

    def an_ipv6_udp_checksum_of_zero_is_dropped(self):
        self._counted("zero_udp_checksum", IPv6(src=ME6, dst=VIP6) / UDP(sport=4002, dport=7, chksum=0) / b"zero")

    def an_ipv4_udp_checksum_of_zero_is_forwarded(self):
        with Wire(self.net) as wire:
            wire.clear()
            wire.send(Ether(src=wire.mac, dst=self.balancer_mac())
                      / IP(src=ME4, dst=VIP4) / UDP(sport=4003, dport=7, chksum=0) / b"zero")
            got = wire.receive(lambda f: f[UDP].dport == 4003, 2)
        expect(got is not None and bytes(got[UDP].payload).endswith(b" zero"), "no answer")

    def a_wrong_tcp_checksum_is_never_repaired(self):
        self._ignored(ip(ME4, VIP4) / TCP(sport=3004, dport=HTTP, flags="S", chksum=0x1111),
                      ip(ME6, VIP6) / TCP(sport=3004, dport=HTTP, flags="S", chksum=0x1111),
                      answer=lambda f: TCP in f and f[TCP].dport == 3004)

    def too_many_extension_headers_are_not_forwarded(self):
        chain = IPv6(src=ME6, dst=VIP6)
        for _ in range(20):
            chain /= IPv6ExtHdrDestOpt()
        self._ignored(chain / TCP(sport=3005, dport=HTTP, flags="S"), answer=lambda f: TCP in f and f[TCP].dport == 3005)

    def a_first_fragment_too_small_for_ports_is_dropped(self):
        self._counted("fragment_bad", IP(src=ME4, dst=VIP4, flags="MF", proto=6) / Raw(b"\x0b\xbb\x00\x50"))
        self._counted("fragment_bad", IPv6(src=ME6, dst=VIP6) / IPv6ExtHdrFragment(m=1, nh=6) / Raw(b"\x0b\xbb\x00\x50"))

    def a_vlan_tag_is_not_mistaken_for_a_packet_of_ours(self):
        self._ignored(Dot1Q(vlan=7) / ip(ME4, VIP4) / TCP(sport=3006, dport=HTTP, flags="S"),
                      Dot1Q(vlan=0) / Dot1Q(vlan=9) / ip(ME4, VIP4) / TCP(sport=3006, dport=HTTP, flags="S"),
                      answer=lambda f: TCP in f and f[TCP].dport == 3006)

    def other_transport_protocols_open_no_connection(self):
        before = self.balancer.events().get("conn_opened", 0)
        for protocol in (132, 47, 50, 136, 33):
            self._send(IP(src=ME4, dst=VIP4, proto=protocol) / Raw(bytes(40)),
                       IPv6(src=ME6, dst=VIP6, nh=protocol) / Raw(bytes(40)))
        wait.never(lambda: self.balancer.events().get("conn_opened", 0) != before, "a connection opened", 0.3)
        self._goes_on()

    def a_frame_for_another_mac_is_not_forwarded(self):
        with Wire(self.net) as wire:
            wire.clear()
            wire.send(Ether(src=wire.mac, dst="02:00:00:00:00:99") / ip(ME4, VIP4)
                      / TCP(sport=3007, dport=HTTP, flags="S"))
            got = wire.receive(lambda f: f[TCP].dport == 3007, 0.5)
        expect(got is None, "a frame for another station was forwarded")
        self._goes_on()

    def a_port_without_service_is_not_forwarded(self):
        before = self.balancer.events().get("conn_opened", 0)
        self._send(ip(ME4, VIP4) / TCP(sport=3008, dport=4242, flags="S"),
                   ip(ME4, VIP4) / UDP(sport=3008, dport=4242) / b"nobody")
        wait.never(lambda: self.balancer.events().get("conn_opened", 0) != before, "a connection opened", 0.3)
        self._goes_on()

    def icmp_errors_about_nothing_of_ours_are_dropped(self):
        quoted = IP(src=VIP4, dst=ME4) / TCP(sport=HTTP, dport=3009)
        self._counted("icmp_no_connection", ip(ME4, VIP4) / ICMP(type=3, code=3) / quoted)

    def twenty_thousand_damaged_frames_do_no_harm(self):
        seed = random.randrange(1 << 32)
        dice = random.Random(seed)
        with Wire(self.net) as wire:
            ether = Ether(src=wire.mac, dst=self.balancer_mac())
            seeds = [bytes(ether / p) for p in (
                ip(ME4, VIP4) / TCP(sport=3010, dport=HTTP, flags="S", options=[("MSS", 1460), ("WScale", 7)]),
                ip(ME6, VIP6) / TCP(sport=3010, dport=HTTP, flags="S", options=[("MSS", 1440)]),
                ip(ME4, VIP4) / UDP(sport=3010, dport=7) / bytes(64),
                ip(ME6, VIP6) / UDP(sport=3010, dport=7) / bytes(64),
                IPv6(src=ME6, dst=VIP6) / IPv6ExtHdrFragment(m=1, id=9) / UDP(sport=3010, dport=7) / bytes(64),
                ip(ME4, VIP4) / ICMP(type=3, code=4) / IP(src=VIP4, dst=ME4) / TCP(sport=HTTP, dport=3010),
            )]
            for _ in range(20_000):
                frame = bytearray(dice.choice(seeds))
                for _ in range(dice.randint(1, 6)):
                    frame[dice.randrange(12, len(frame))] = dice.randrange(256)
                if dice.random() < 0.2:
                    del frame[dice.randrange(14, len(frame)):]
                wire.socket.send(frame)
        try:
            self.balancer.alive()
            for m in self.methods:
                self.works_again(m, "after damaged frames", 10)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None
