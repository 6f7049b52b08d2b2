"""A command on a terminal of its own, and what a person in front of it would see."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios

import pyte

from . import wait


class Terminal:
    """Runs a command until the block ends."""

    def __init__(self, command, columns=120, lines=30):
        self.ours, self.theirs = pty.openpty()
        os.set_blocking(self.ours, False)
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.written = b""
        self._size(columns, lines)
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            [str(word) for word in command], stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm-256color"})

    def _size(self, columns, lines):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns, lines):
        """The window gets another size; the kernel tells the command."""
        self.screen.resize(lines, columns)
        self.screen.reset()
        self._size(columns, lines)

    def type(self, keys):
        """Presses keys."""
        os.write(self.ours, keys.encode())

    def signal(self, number):
        """Sends a signal."""
        self.process.send_signal(number)

    def text(self):
        """What is on the screen now."""
        while True:
            try:
                piece = os.read(self.ours, 65536)
            except (BlockingIOError, OSError):
                break
            if not piece:
                break
            self.written += piece
            self.stream.feed(piece)
        return "\n".join(line.rstrip() for line in self.screen.display)

    def shows(self, pattern, seconds=5):
        """Waits until the screen shows it; the screen."""
        try:
            wait.until(lambda: re.search(pattern, self.text(), re.M), f"{pattern!r} is on the screen", seconds)
        except wait.Timeout as timeout:
            raise wait.Timeout(f"{timeout}\n{self.text()}") from None
        return self.text()

    def lacks(self, pattern, seconds=5):
        """Waits until the screen does not show it; the screen."""
        try:
            wait.until(lambda: not re.search(pattern, self.text(), re.M), f"{pattern!r} is off the screen", seconds)
        except wait.Timeout as timeout:
            raise wait.Timeout(f"{timeout}\n{self.text()}") from None
        return self.text()

    def ended(self, seconds=5):
        """Waits for the end; the exit status."""
        wait.until(lambda: (self.text(), self.process.poll() is not None)[1], "the command has ended", seconds)
        self.text()
        return self.process.returncode

    def is_restored(self):
        """Whether the terminal is as it was before: modes, cursor, and the screen of the shell."""
        modes = termios.tcgetattr(self.theirs) == self.before
        shown = self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l")
        main = self.written.rfind(b"\x1b[?1049l") > self.written.rfind(b"\x1b[?1049h")
        return modes and shown and main

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(5)
        os.close(self.ours)
        os.close(self.theirs)
