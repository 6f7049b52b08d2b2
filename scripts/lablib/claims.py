#!/usr/bin/python3
"""Asks each 10 ms by ARP who has an address, and notes every answer and announcement.

    claims.py INTERFACE OWN-ADDRESS ADDRESS

At the end (SIGTERM) writes one JSON line: [[MAC, first seen, last seen], ...] in order (CLOCK_MONOTONIC,
seconds). Two at once show as a MAC that comes back after another one.
"""

import json
import select
import signal
import socket
import struct
import sys
import time

ETH_P_ARP = 0x0806
PERIOD = 0.01


def main():
    interface, own, wanted = sys.argv[1:]
    own, wanted = socket.inet_aton(own), socket.inet_aton(wanted)
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    sock.bind((interface, ETH_P_ARP))
    mac = sock.getsockname()[4]
    question = (b"\xff" * 6 + mac + struct.pack("!HHHBBH", ETH_P_ARP, 1, 0x0800, 6, 4, 1)
                + mac + own + bytes(6) + wanted)
    over, seen = [], []
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    print("[]", flush=True)  # listening
    due = time.monotonic()
    while not over:
        now = time.monotonic()
        if now >= due:
            sock.send(question)
            due = max(due + PERIOD, now)
        if not select.select([sock], [], [], max(0.0, due - time.monotonic()))[0]:
            continue
        frame = sock.recv(2048)
        # The sender's addresses: in an answer, and in an announcement of either kind.
        if len(frame) < 42 or frame[28:32] != wanted:
            continue
        who, now = frame[22:28].hex(":"), round(time.monotonic(), 4)
        if seen and seen[-1][0] == who:
            seen[-1][2] = now
        else:
            seen.append([who, now, now])
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
