"""A process that ends another one which nothing inside it can end: while one thread holds the GIL, no other runs.

A script of its own: it starts in milliseconds, without kworker, and holds 4 MB. It hears a beat through a pipe, is
gone when the pipe is, and sends SIGABRT after too long a silence; faulthandler of the other process then prints the
stacks of all threads, which needs no GIL. What was frozen is never taken for stuck: looks are counted, not seconds,
those at a stopped process do not count, and with the machine this process is frozen as well.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

LOOKS = 10
"""Looks in a row without a beat that are too many; so many are taken in the longest silence."""

_DIE = 5.0  # seconds from SIGABRT to SIGKILL: the stacks of many threads take a moment


class Silence:
    """Looks in a row at which a process was not heard. Pure."""

    def __init__(self) -> None:
        self._looks = 0

    def heard(self) -> None:
        """It gave a sign of life."""
        self._looks = 0

    def look(self, *, frozen: bool) -> bool:
        """One more look without a sign; frozen: it was stopped from outside then. True when that is too many."""
        self._looks = 0 if frozen else self._looks + 1
        return self._looks >= LOOKS


def frozen(pid: int) -> bool:
    """Whether the process is stopped, by a signal or a debugger, as /proc tells."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib would double the time of the start
            return file.read().rpartition(b")")[2].split()[0] in b"Tt"
    except OSError:
        return False


def main(pid: int, pulse: int, limit: float) -> None:
    """Watch the process that started this one. pulse: the pipe with its beats; limit: seconds of silence."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # it ends when the other process does, and not before
    silence = Silence()
    while True:
        if select.select([pulse], [], [], limit / LOOKS)[0]:
            if not os.read(pulse, 1 << 16):
                return
            silence.heard()
        elif silence.look(frozen=frozen(pid)):
            break
    if os.getppid() != pid:  # it is gone, and something it started still holds the pipe
        return
    line = (
        f"kworker: process {pid} has not moved for {limit:g} s: something holds the GIL; aborting it, its stacks follow"
    )
    with contextlib.suppress(OSError):  # nobody reads its log any more
        os.write(2, line.encode() + b"\n")
    os.kill(pid, signal.SIGABRT)
    if not select.select([pulse], [], [], _DIE)[0] and os.getppid() == pid:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
