#!/usr/bin/python3
"""Many slow downloads from one process, to see whether any of them breaks.

    downloads.py COUNT REFERENCE URL...

Opens COUNT connections, spread over the URLs (http://HOST:PORT/PATH?QUERY), and reads each body to its
end. Five times a second, and at the end, writes one JSON line: how many have begun, how many are
done, and what went wrong with the others. Bodies are compared with the REFERENCE file.
"""

import asyncio
import json
import resource
import sys
import urllib.parse

CONNECT_SECONDS = 30
STALL_SECONDS = 60


class Tally:
    """What has happened so far."""

    def __init__(self, count):
        self.count, self.begun, self.done = count, 0, 0
        self.failed, self.servers = [], {}

    def line(self, final=False):
        """One JSON line."""
        print(json.dumps({"count": self.count, "begun": self.begun, "done": self.done,
                          "failures": len(self.failed), "failed": self.failed[:10],
                          "servers": self.servers, "final": final}), flush=True)


async def download(url, reference, tally):
    """One download; its outcome goes into the tally."""
    parts = urllib.parse.urlsplit(url)
    writer = None
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(parts.hostname, parts.port or 80), CONNECT_SECONDS)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        request = f"GET {target} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), STALL_SECONDS)).decode().lower()
        if " 200 " not in head.split("\r\n", 1)[0]:
            raise ValueError(head.split("\r\n", 1)[0])
        server = head.split("x-real-server:", 1)[-1].split("\r\n", 1)[0].strip()
        tally.begun += 1
        tally.servers[server] = tally.servers.get(server, 0) + 1
        got = 0
        while data := await asyncio.wait_for(reader.read(65536), STALL_SECONDS):
            if data != reference[got:got + len(data)]:
                raise ValueError(f"wrong bytes at offset {got}")
            got += len(data)
        if got != len(reference):
            raise ValueError(f"ended after {got} of {len(reference)} bytes")
        tally.done += 1
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
        tally.failed.append(f"{url}: {type(error).__name__} {error}".strip())
    finally:
        if writer is not None:
            writer.close()


async def main():
    count, reference, urls = int(sys.argv[1]), open(sys.argv[2], "rb").read(), sys.argv[3:]
    tally = Tally(count)
    tasks = []
    for index in range(count):
        tasks.append(asyncio.create_task(download(urls[index % len(urls)], reference, tally)))
        if index % 50 == 49:  # a burst of SYNs a listen queue can take
            await asyncio.sleep(0.02)
    pending = set(tasks)
    while pending:
        _, pending = await asyncio.wait(pending, timeout=0.2)
        tally.line()
    tally.line(final=True)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    sys.exit(asyncio.run(main()))
