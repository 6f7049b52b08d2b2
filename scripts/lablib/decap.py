#!/usr/bin/python3
"""The server side of tunnel forwarding on a kernel without IPIP devices.

Runs in the real server's network namespace. Receives IP in IP with raw sockets (the kernel has put
outer fragments together by then) and hands the inner packet to the kernel through a TUN device, as
if it had come from a tunnel interface: IPv4 and IPv6 inside IPv4 and inside IPv6.

    decap.py [--device NAME] [--count FILE]

Stops on SIGTERM. With --count, writes the number of packets per kind to FILE as JSON on SIGUSR1
and at the end.
"""

import argparse
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
SO_RCVBUFFORCE = 33
IPIP, IPV6 = 4, 41
BURST = 64
KINDS = {
    (socket.AF_INET, IPIP): "4in4",
    (socket.AF_INET, IPV6): "6in4",
    (socket.AF_INET6, IPIP): "4in6",
    (socket.AF_INET6, IPV6): "6in6",
}


def open_tun(name):
    """A TUN device, up, that never filters by reverse path."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    for family, key, value in (("ipv4", "rp_filter", 0), ("ipv4", "accept_local", 1),
                               ("ipv6", "accept_dad", 0)):
        with open(f"/proc/sys/net/{family}/conf/{name}/{key}", "w", encoding="ascii") as file:
            file.write(str(value))
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    request = struct.pack("16sH22x", name.encode(), 0)
    flags = struct.unpack("16sH22x", fcntl.ioctl(control, 0x8913, request))[1]  # SIOCGIFFLAGS
    fcntl.ioctl(control, 0x8914, struct.pack("16sH22x", name.encode(), flags | 1))  # IFF_UP
    control.close()
    return tun


def open_raw(family, protocol):
    """A raw socket with a buffer for a whole window of a fast sender."""
    raw = socket.socket(family, socket.SOCK_RAW, protocol)
    raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
    raw.setblocking(False)
    return raw


def inner(packet, family, protocol):
    """The packet inside, or None if it is not what the protocol number says."""
    if family == socket.AF_INET:  # IPv4 raw sockets deliver the outer header too
        if len(packet) < 20:
            return None
        packet = packet[(packet[0] & 15) * 4:]
    version = 4 if protocol == IPIP else 6
    smallest = 20 if protocol == IPIP else 40
    if len(packet) < smallest or packet[0] >> 4 != version:
        return None
    return packet


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="decap0")
    parser.add_argument("--count")
    options = parser.parse_args()

    counts = dict.fromkeys([*KINDS.values(), "bad", "refused"], 0)

    def report(*_):
        if options.count:
            temporary = f"{options.count}.new"
            with open(temporary, "w", encoding="ascii") as file:
                json.dump(counts, file)
            os.rename(temporary, options.count)

    tun = open_tun(options.device)
    selector = selectors.DefaultSelector()
    for (family, protocol), kind in KINDS.items():
        raw = open_raw(family, protocol)
        selector.register(raw, selectors.EVENT_READ, (family, protocol, kind))
    # What the kernel sends into the device (nothing, as no route leads there) must not pile up.
    selector.register(tun, selectors.EVENT_READ, None)

    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    signal.signal(signal.SIGINT, lambda *_: stop.append(1))
    signal.signal(signal.SIGUSR1, report)
    # A signal between the check of `stop` and the wait must not be lost: it also writes here.
    wake_read, wake_write = socket.socketpair()
    wake_write.setblocking(False)
    signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
    selector.register(wake_read, selectors.EVENT_READ, None)
    print("ready", flush=True)

    buffer = bytearray(1 << 16)
    view = memoryview(buffer)
    while not stop:
        for key, _ in selector.select():
            if key.data is None:
                drain(key.fileobj)
                continue
            family, protocol, kind = key.data
            for _ in range(BURST):
                try:
                    length = key.fileobj.recv_into(buffer)
                except BlockingIOError:
                    break
                except OSError:  # an ICMP error queued on the socket; it is not about us
                    continue
                packet = inner(view[:length], family, protocol)
                if packet is None:
                    counts["bad"] += 1
                    continue
                try:
                    os.write(tun, packet)
                    counts[kind] += 1
                except OSError:
                    counts["refused"] += 1
    report()
    return 0


def drain(source):
    """Throws away what can be read without waiting."""
    try:
        if isinstance(source, int):
            os.read(source, 1 << 16)
        else:
            source.recv(4096)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
