#!/usr/bin/python3
"""UDP server of the lab: answers each datagram with its own name, the client it saw, and the data.

    udpecho.py NAME PORT

The answer is `NAME ADDRESS PORT ` followed by what came. It leaves from the address the datagram was
sent to, which matters where that is a VIP on the loopback interface.
"""

import selectors
import socket
import struct
import sys

IP_PKTINFO = 8
IPV6_RECVPKTINFO = 49
IPV6_PKTINFO = 50


def open_socket(family, port):
    """A socket on every address of a family that is told to which one a datagram came."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.bind(("0.0.0.0", port))
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        sock.bind(("::", port))
    return sock


def answer_from(ancillary):
    """Ancillary data that makes the answer leave from where the question came to."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            address = data[8:12]
            return [(level, kind, struct.pack("i", 0) + address + bytes(4))]
        if level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
            return [(level, kind, data[:16] + struct.pack("i", 0))]
    return []


def main():
    name, port = sys.argv[1], int(sys.argv[2])
    selector = selectors.DefaultSelector()
    for family in (socket.AF_INET, socket.AF_INET6):
        selector.register(open_socket(family, port), selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            try:
                data, ancillary, _, client = key.fileobj.recvmsg(65535, 256)
                head = f"{name} {client[0]} {client[1]} ".encode()
                key.fileobj.sendmsg([head, data], answer_from(ancillary), 0, client)
            except OSError:  # an ICMP error from a client that has gone
                continue


if __name__ == "__main__":
    main()
