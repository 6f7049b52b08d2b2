"""The agent socket of the data plane, spoken as control does (docs/protocols.md)."""

import json
import socket


class Agent:
    """One session. Control has its own; what is applied here stands until control applies again."""

    def __init__(self, balancer):
        self.run_dir = balancer.run_dir
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(15)
        self.socket.connect(str(self.run_dir / "agent.sock"))
        self.file = self.socket.makefile("rwb")
        self.ask("hello", version=1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def ask(self, request, check=True, **fields):
        """The reply to a request; an error is raised unless told not to."""
        self.file.write(json.dumps({"request": request, **fields}).encode() + b"\n")
        self.file.flush()
        reply = json.loads(self.file.readline())
        if check and reply["reply"] == "error":
            raise AssertionError(f"{request}: {reply['message']}")
        return reply

    def snapshot(self):
        """The snapshot in force, as the data plane has written it down."""
        return json.loads((self.run_dir / "state.json").read_text())["snapshot"]

    def change(self, change):
        """Applies the snapshot in force with a change to its services, by name."""
        snapshot = self.snapshot()
        change({s["name"]: s for s in snapshot["services"]})
        self.ask("apply", snapshot=snapshot)

    def status(self):
        """What the data plane says of itself."""
        return self.ask("status")

    def service(self, name):
        """Status of one service."""
        return next(s for s in self.status()["services"] if s["name"] == name)

    def real(self, service, name):
        """Status of one real server."""
        return next(r for r in self.service(service)["reals"] if r["name"] == name)
