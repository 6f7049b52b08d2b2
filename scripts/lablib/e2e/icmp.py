"""ICMP: errors from both sides find their connection, ours are right, echo to a VIP is answered."""

import socket

from .. import methods
from ..config import real, service
from ..packets import (ICMP, IP, TCP, UDP, Ether, ICMPv6DestUnreach, ICMPv6PacketTooBig,
                       ICMPv6TimeExceeded, IPv6, Wire, checksums_hold, ip)
from .support import HTTP, Group, address, expect, method, topology, url_host, wait

IP_MTU, IP_MTU_DISCOVER, IP_PMTUDISC_DO = 14, 10, 2
IPV6_MTU, IPV6_MTU_DISCOVER = 24, 23
CLOSED = 9  # no server listens on this UDP port of the reals


class Icmp(Group):
    """All methods, and for NAT a service whose reals refuse."""

    def text(self):
        services = [s for m in self.methods for s in m.services()]
        for forwarding in ("nat", "fullnat"):
            for family in topology.FAMILIES:
                m = method(forwarding, family)
                services.append(service(
                    f"closed-{m.service}", f"{url_host(m.vip)}:{CLOSED}",
                    [real(f"{url_host(m.real_address(0))}:{CLOSED}")], forwarding, "rr", "udp"))
        from ..config import document
        from .support import topology_cores
        return document(services, ["front0", "back0"], topology_cores(1), methods.LOCAL, lease="2s")

    def a_ttl_that_ends_here_is_answered_with_time_exceeded(self):
        for forwarding in ("nat", "fullnat", "4in4"):
            m = method(forwarding)
            with Wire(self.net) as wire:
                wire.clear()
                sent = ip(address(1, 10, "ipv4"), m.vip, ttl=1) / TCP(sport=5001, dport=HTTP, flags="S")
                wire.send(Ether(src=wire.mac, dst=self.balancer_mac()) / sent)
                got = wire.receive(lambda f: f[ICMP].type == 11, 2)
            expect(got is not None, f"{forwarding}: no time exceeded")
            expect(got[IP].dst == address(1, 10, "ipv4"), got.summary())
            quoted = got[ICMP].payload
            expect(quoted.dst == m.vip and quoted.payload.sport == 5001, f"quotes {quoted.summary()}")
            expect(checksums_hold(got), "checksum wrong")

    def a_hop_limit_that_ends_here_is_answered_with_time_exceeded(self):
        for forwarding in ("nat", "fullnat", "6in6"):
            m = method(forwarding, "ipv6")
            with Wire(self.net) as wire:
                wire.clear()
                sent = ip(address(1, 10, "ipv6"), m.vip, ttl=1) / TCP(sport=5002, dport=HTTP, flags="S")
                wire.send(Ether(src=wire.mac, dst=self.balancer_mac()) / sent)
                got = wire.receive(lambda f: ICMPv6TimeExceeded in f, 2)
            expect(got is not None, f"{forwarding}: no time exceeded")
            expect(got[IPv6].dst == address(1, 10, "ipv6"), got.summary())
            expect(checksums_hold(got), "checksum wrong")

    def time_exceeded_is_limited_in_rate(self):
        m = method("nat")
        with Wire(self.net) as wire:
            wire.clear()
            packet = ip(address(1, 10, "ipv4"), m.vip, ttl=1) / TCP(sport=6000, dport=HTTP, flags="S")
            frame = bytes(Ether(src=wire.mac, dst=self.balancer_mac()) / packet)
            for _ in range(3000):
                wire.socket.send(frame)
        wait.until(lambda: self.balancer.events().get("icmp_rate_limited", 0) > 0, "the limit shows", 5)

    def a_vip_answers_ping(self):
        for m in (method("nat"), method("nat", "ipv6"), method("direct"), method("6in6", "ipv6")):
            for size in (0, 56, 1400):
                self.net.exec("client", "ping", "-c", 2, "-i", 0.05, "-W", 2, "-s", size, m.vip)

    def a_real_that_refuses_is_heard_by_the_client(self):
        for forwarding in ("nat", "fullnat"):
            for family in topology.FAMILIES:
                m = method(forwarding, family)
                sock = methods.udp_socket(self.lab, family)
                with sock:
                    sock.settimeout(2)
                    sock.connect((m.vip, CLOSED))
                    sock.send(b"anybody there?")
                    try:
                        sock.recv(100)
                    except ConnectionRefusedError:
                        continue
                    except TimeoutError:
                        pass
                raise AssertionError(f"{forwarding} {family}: port unreachable did not reach the client")

    def a_refusal_is_translated_outside_and_inside(self):
        for forwarding in ("nat", "fullnat"):
            m = method(forwarding)
            with Wire(self.net) as wire:
                wire.clear()
                wire.send(Ether(src=wire.mac, dst=self.balancer_mac()) / ip(address(1, 10, "ipv4"), m.vip)
                          / UDP(sport=5003, dport=CLOSED) / b"hello")
                got = wire.receive(lambda f: f[ICMP].type == 3, 2)
            expect(got is not None, f"{forwarding}: no error came")
            quoted = got[ICMP].payload
            expect((quoted.src, quoted.dst) == (address(1, 10, "ipv4"), m.vip), f"quotes {quoted.summary()}")
            expect((quoted.payload.sport, quoted.payload.dport) == (5003, CLOSED), f"quotes {quoted.summary()}")
            expect(checksums_hold(got), "checksum wrong")

    def a_refusal_over_ipv6_is_translated_outside_and_inside(self):
        m = method("nat", "ipv6")
        with Wire(self.net) as wire:
            wire.clear()
            wire.send(Ether(src=wire.mac, dst=self.balancer_mac()) / ip(address(1, 10, "ipv6"), m.vip)
                      / UDP(sport=5004, dport=CLOSED) / b"hello")
            got = wire.receive(lambda f: ICMPv6DestUnreach in f, 2)
        expect(got is not None, "no error came")
        quoted = got[ICMPv6DestUnreach].payload
        expect((quoted.src, quoted.dst) == (address(1, 10, "ipv6"), m.vip), f"quotes {quoted.summary()}")
        expect(checksums_hold(got), "checksum wrong")

    def a_smaller_path_to_the_client_is_learnt_by_the_real(self):
        # A router in front says "fragmentation needed" about an answer of the VIP; the real must
        # hear it, about the packet that it sent itself.
        for family in topology.FAMILIES:
            m = method("nat", family)
            me = address(1, 10, family)
            sock = methods.udp_socket(self.lab, family, me)
            with sock, Wire(self.net) as wire:
                letter, _, _ = methods.echo(self.lab, m.vip, b"x", sock=sock)
                port = sock.getsockname()[1]
                quoted = ip(m.vip, me) / UDP(sport=7, dport=port, len=1408)
                if family == "ipv4":
                    quoted = bytes(IP(src=m.vip, dst=me, flags="DF", len=1428) / UDP(sport=7, dport=port, len=1408))
                    error = ip(me, m.vip) / ICMP(type=3, code=4, nexthopmtu=1300) / quoted
                else:
                    error = ip(me, m.vip) / ICMPv6PacketTooBig(mtu=1300) / bytes(quoted)
                wire.send(Ether(src=wire.mac, dst=self.balancer_mac()) / error)
            node, own = f"real-{letter}", address(2, 21 + "abc".index(letter), family)

            def learnt(node=node, own=own, me=me, family=family):
                flag = "-4" if family == "ipv4" else "-6"
                text = self.net.exec(node, "ip", flag, "route", "get", me, "from", own)
                return "mtu 1300" in text
            wait.until(learnt, f"{node} learns the path MTU over {family}", 3)
            self.net.exec(node, "ip", "-4" if family == "ipv4" else "-6", "route", "flush", "cache")

    def a_packet_too_big_for_a_tunnel_is_answered_with_the_size_that_fits(self):
        for name, family, mtu in (("4in4", "ipv4", 1480), ("4in6", "ipv4", 1460),
                                  ("6in6", "ipv6", 1460), ("6in4", "ipv6", 1480)):
            m = method(name, family)
            sock = methods.udp_socket(self.lab, family)
            with sock:
                level, discover, query = ((socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_MTU) if family == "ipv4" else
                                          (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_MTU))
                sock.setsockopt(level, discover, IP_PMTUDISC_DO)
                sock.settimeout(2)
                sock.connect((m.vip, 7))
                sock.send(bytes(1500 - (28 if family == "ipv4" else 48)))
                wait.until(lambda s=sock, lv=level, q=query, n=mtu: s.getsockopt(lv, q) == n,
                           f"{name}: path MTU becomes {mtu}", 3)
            flag = "-4" if family == "ipv4" else "-6"
            self.net.exec("client", "ip", flag, "route", "flush", "cache")

    def a_traceroute_step_shows_the_balancer_and_the_next_one_the_real(self):
        # TTL 2 passes the balancer and reaches the real, whose refusal comes back through NAT.
        m = method("nat")
        with Wire(self.net) as wire:
            kinds = []
            for ttl in (1, 2):
                wire.clear()
                wire.send(Ether(src=wire.mac, dst=self.balancer_mac())
                          / ip(address(1, 10, "ipv4"), m.vip, ttl=ttl) / UDP(sport=5010, dport=CLOSED) / b"trace")
                got = wire.receive(lambda f: ICMP in f, 2)
                kinds.append(got[ICMP].type if got is not None else None)
        expect(kinds == [11, 3], f"ICMP types {kinds}")
