#!/usr/bin/python3
"""Asks for something again and again on connections that stay, and tells when no answer came.

    watcher.py udp ADDRESS PORT MILLISECONDS    a datagram each so often, from one port
    watcher.py tcp ADDRESS PORT MILLISECONDS    an HTTP request on one connection, each so often after the answer
    watcher.py new ADDRESS PORT MILLISECONDS    a new connection each time, given up after 250 ms

Five times a second, and at the end (SIGTERM), writes one JSON line. Times are of CLOCK_MONOTONIC, in
seconds, which all processes of a machine share. A gap is the time between two answers that were
further apart than 50 ms.
"""

import asyncio
import json
import signal
import socket
import sys
import time

GAP = 0.05
KEEP = 200


class Tally:
    """What has happened so far."""

    def __init__(self):
        self.sent = self.answered = 0
        self.last = None
        self.gaps, self.servers, self.problems = [], [], []

    def answer(self, server):
        """An answer has come."""
        now = time.monotonic()
        if self.last is not None and now - self.last > GAP and len(self.gaps) < KEEP:
            self.gaps.append([round(self.last, 4), round(now - self.last, 4)])
        self.last, self.answered = now, self.answered + 1
        if server not in self.servers:
            self.servers.append(server)

    def problem(self, text):
        """Something that should never be."""
        if len(self.problems) < 10:
            self.problems.append(text)

    def line(self, final=False):
        """One JSON line."""
        print(json.dumps({"sent": self.sent, "answered": self.answered, "last": self.last, "gaps": self.gaps,
                          "servers": self.servers, "problems": self.problems, "final": final}), flush=True)


async def udp(address, port, interval, tally):
    """One connection of datagrams."""
    class Answers(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            tally.answer(data.split(b" ", 1)[0].decode())

        def error_received(self, exc):
            tally.problem(f"{type(exc).__name__} {exc}")

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Answers, remote_addr=(address, port))
    due = time.monotonic()
    while True:
        transport.sendto(b"%d" % tally.sent)
        tally.sent += 1
        due = max(due + interval, time.monotonic())
        await asyncio.sleep(due - time.monotonic())


async def ask(reader, writer, tally):
    """One request on an open connection."""
    writer.write(b"GET /whoami HTTP/1.1\r\nHost: lab\r\n\r\n")
    tally.sent += 1
    await reader.readuntil(b"\r\n\r\n")
    tally.answer((await reader.readline()).decode().strip())


async def tcp(address, port, interval, tally):
    """One connection for as long as we run."""
    try:
        reader, writer = await asyncio.open_connection(address, port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            await ask(reader, writer, tally)
            await asyncio.sleep(interval)
    except (OSError, asyncio.IncompleteReadError) as error:
        tally.problem(f"{type(error).__name__} {error}")
        await asyncio.Event().wait()


async def new(address, port, interval, tally):
    """Connection after connection."""
    while True:
        writer = None
        try:
            async with asyncio.timeout(0.25):
                reader, writer = await asyncio.open_connection(address, port)
                await ask(reader, writer, tally)
        except TimeoutError:
            pass  # its absence is a gap
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.problem(f"{type(error).__name__} {error}")
        finally:
            if writer is not None:
                writer.transport.abort()
        await asyncio.sleep(interval)


async def main():
    kind, address, port, milliseconds = sys.argv[1:]
    tally, over = Tally(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    work = asyncio.create_task(
        {"udp": udp, "tcp": tcp, "new": new}[kind](address, int(port), float(milliseconds) / 1000, tally))
    while not over.is_set():
        tally.line()
        done, _ = await asyncio.wait({asyncio.create_task(over.wait()), work}, timeout=0.2,
                                     return_when=asyncio.FIRST_COMPLETED)
        if work in done:
            work.result()  # a bug of ours
    tally.line(final=True)


if __name__ == "__main__":
    asyncio.run(main())
