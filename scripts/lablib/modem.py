#!/usr/bin/python3
"""A null modem cable: two serial devices, and what is written to one is read from the other.

Prints the paths of both devices in one line. The devices stay when whoever opened them dies.
"""

import os
import selectors
import tty


def device():
    """A pseudo terminal that changes no byte: (our end, path of the other)."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)  # kept open here, so that our end never sees a hang-up
    os.set_blocking(ours, False)
    return ours, os.ttyname(theirs)


def main():
    (one, path_one), (two, path_two) = device(), device()
    print(path_one, path_two, flush=True)
    selector = selectors.DefaultSelector()
    selector.register(one, selectors.EVENT_READ, two)
    selector.register(two, selectors.EVENT_READ, one)
    while True:
        for key, _ in selector.select():
            try:
                os.write(key.data, os.read(key.fd, 4096))
            except BlockingIOError:
                continue  # nobody reads the other end: a real line loses the bytes as well


if __name__ == "__main__":
    main()
