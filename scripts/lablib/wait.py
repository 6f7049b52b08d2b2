"""Waiting for a condition with a deadline; nothing in the lab sleeps and hopes."""

import time


class Timeout(AssertionError):
    """The condition did not come true in time."""


class Fatal(AssertionError):
    """Waiting longer is pointless: what is waited for cannot come any more."""


def until(condition, what, seconds=10.0, step=0.02):
    """Returns the first true value of condition(); raises Timeout, naming `what`, at the deadline.

    An exception in condition() counts as "not yet"; the last one is told in the message;
    only Fatal ends the wait at once.
    """
    deadline = time.monotonic() + seconds
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = None
        except Fatal:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told below
            last = error
        if time.monotonic() >= deadline:
            because = f" (last error: {last})" if last else ""
            raise Timeout(f"{what}: not within {seconds:g} s{because}")
        time.sleep(step)


def never(condition, what, seconds, step=0.05):
    """Raises AssertionError if condition() becomes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        assert not value, f"{what}: happened ({value})"
        time.sleep(step)
