"""Frames made and read with scapy: an independent judge of every byte the balancer sends."""

import contextlib
import logging
import select
import socket
import struct
import time

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
# pylint: disable=wildcard-import,unused-wildcard-import
from scapy.all import (  # noqa: E402,F401 - tests use these names
    ARP, ICMP, IP, TCP, UDP, Dot1Q, Ether, IPv6, Raw, fragment)
from scapy.layers.inet import IPOption_RR  # noqa: E402,F401
from scapy.layers.inet6 import (  # noqa: E402,F401
    ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, fragment6)

from . import net as network  # noqa: E402
from .topology import FRONT, V4, address  # noqa: E402

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23


class Wire:
    """A packet socket on a node's interface: sends and receives whole frames."""

    def __init__(self, net: network.Net, node="client", interface=FRONT):
        with net.inside(node):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((interface, 0))
        self.mac = net.mac(node, interface)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *frames):
        """Sends frames as they are."""
        for frame in frames:
            self.socket.send(bytes(frame))

    def clear(self):
        """Forgets what has been received so far."""
        while select.select([self.socket], [], [], 0)[0]:
            self.socket.recv(65535)

    def receive(self, match, seconds=2.0):
        """The first frame for which match(frame) is true; None if none comes in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.socket], [], [], left)[0]:
                break
            frame = Ether(self.socket.recv(65535))
            with contextlib.suppress(IndexError, AttributeError):
                if match(frame):
                    return frame
        return None


def ip(source, target, **fields):
    """An IP header of the right family."""
    if ":" in target:
        if "ttl" in fields:
            fields["hlim"] = fields.pop("ttl")
        return IPv6(src=source, dst=target, **fields)
    return IP(src=source, dst=target, **fields)


def pieces(packet, size):
    """A packet as IP fragments of at most `size` bytes of payload."""
    if IP in packet:
        return fragment(packet, size)
    header = IPv6(src=packet[IPv6].src, dst=packet[IPv6].dst)
    whole = header / IPv6ExtHdrFragment(id=int(time.monotonic_ns()) & 0xFFFFFFFF) / packet[IPv6].payload
    return fragment6(whole, size + 48)


def who_has(wire, target, seconds=1.0):
    """MAC address that answers for an IP address, by ARP or neighbour solicitation; None if nobody."""
    wire.clear()
    if ":" in target:
        source = address(1, 10, "ipv6")
        last = socket.inet_pton(socket.AF_INET6, target)[-3:]
        group = f"ff02::1:ff{last[0]:02x}:{last[1]:02x}{last[2]:02x}"
        to = f"33:33:ff:{last[0]:02x}:{last[1]:02x}:{last[2]:02x}"
        wire.send(Ether(src=wire.mac, dst=to) / IPv6(src=source, dst=group, hlim=255)
                  / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=wire.mac))
        answer = wire.receive(lambda f: f[ICMPv6ND_NA].tgt == target, seconds)
    else:
        wire.send(Ether(src=wire.mac, dst="ff:ff:ff:ff:ff:ff")
                  / ARP(op=1, hwsrc=wire.mac, psrc=address(1, 10, V4), pdst=target))
        answer = wire.receive(lambda f: f[ARP].op == 2 and f[ARP].psrc == target, seconds)
    return answer.src if answer is not None else None


def checksums_hold(frame):
    """Whether every checksum of a received IP packet is right, that of a quoted IPv4 header too."""
    packet = bytes(frame)[14:]
    if packet[0] >> 4 == 4:
        length, = struct.unpack_from("!H", packet, 2)
        header, payload = packet[:(packet[0] & 15) * 4], packet[(packet[0] & 15) * 4:length]
        if ones_sum(header) != 0xFFFF:
            return False
        if packet[9] == 1:
            quotes = payload[0] in (3, 11, 12)
            quoted = payload[8:8 + (payload[8] & 15) * 4] if quotes else b"\xff\xff"
            return ones_sum(payload) == 0xFFFF and ones_sum(quoted) == 0xFFFF
        addresses, protocol = packet[12:20], packet[9]
    else:
        length, = struct.unpack_from("!H", packet, 4)
        payload, addresses, protocol = packet[40:40 + length], packet[8:40], packet[6]
    if protocol == 17 and len(addresses) == 8 and payload[6:8] == b"\0\0":
        return True  # IPv4 UDP may go without (RFC 768)
    return ones_sum(addresses + struct.pack("!II", len(payload), protocol) + payload) == 0xFFFF


def ones_sum(data):
    """One's complement sum of 16-bit words; 0xFFFF where a checksum inside is right (RFC 1071)."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
