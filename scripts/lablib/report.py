"""Checks with their outcome, for people while they run and as one JSON object at the end."""

import sys
import time
import traceback


class Report:
    """Collects outcomes; prints progress to a stream as it goes."""

    def __init__(self, stream=None, verbose=False):
        self.stream = stream or sys.stdout
        self.verbose = verbose
        self.groups = []
        self.began = time.monotonic()
        self.colour = self.stream.isatty()

    def line(self, text=""):
        """A line for people."""
        print(text, file=self.stream, flush=True)

    def paint(self, text, code):
        """Coloured text on a terminal."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def group(self, title, **facts):
        """Begins a group; checks that follow belong to it."""
        self.groups.append({"title": title, **facts, "checks": []})
        self.line()
        self.line(self.paint(title, "1"))

    def check(self, name, function):
        """Runs a check. It holds if the function returns; what it returns (a dictionary with a
        `detail` for people and any facts) is kept. Returns whether it held."""
        began = time.monotonic()
        entry = {"name": name}
        try:
            facts = function() or {}
            entry.update(facts)
            entry["ok"] = True
        except Exception as error:  # noqa: BLE001 - a failed check must not stop the others
            entry["ok"] = False
            entry["detail"] = f"{error}" or error.__class__.__name__
            if self.verbose:
                traceback.print_exc(file=sys.stderr)
        entry["seconds"] = round(time.monotonic() - began, 3)
        self.groups[-1]["checks"].append(entry)
        mark = self.paint("✓", "32") if entry["ok"] else self.paint("✗", "31")
        first, *rest = str(entry.get("detail", "")).splitlines() or [""]
        self.line(f"  {mark} {name:<24} {first:<58} {entry['seconds']:7.2f} s")
        for more in rest:
            self.line(f"      {more}")
        return entry["ok"]

    def counts(self):
        """(held, failed)"""
        checks = [check for group in self.groups for check in group["checks"]]
        held = sum(check["ok"] for check in checks)
        return held, len(checks) - held

    def document(self, **facts):
        """Everything, for JSON."""
        held, failed = self.counts()
        return {"ok": failed == 0 and held > 0, "passed": held, "failed": failed,
                "seconds": round(time.monotonic() - self.began, 2), **facts, "groups": self.groups}
