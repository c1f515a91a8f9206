"""The watchdog: one thread that beats for this process as long as Python runs at all, and looks at what must move.

What it looks at ends the process; that it is not heard itself, since a thread holds the GIL, is for who hears the
beats: a sentinel (process/guard.py), or the supervisor.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

from kworker.bulletin import Bulletin
from kworker.logs import flush

log = logging.getLogger("kworker")

_BEATS = 8  # in the longest silence that is allowed
_LEAST_OFTEN = 1.0
_FRAMES = 12


class Guard(Protocol):
    """Whoever ends this process when it is silent for too long."""

    def start(self) -> None:
        """Begin to listen."""

    def beat(self, bulletin: Callable[[], Bulletin]) -> None:
        """This process lives; `bulletin` says more to who wants it."""

    def stop(self) -> None:
        """Listen no more."""


class Watchdog:
    """See the module. look: called once a second, or more often; given the seconds in which this process ran since.

    Seconds in which it was frozen are not among them, so what adds them up takes no frozen process for a stuck one.
    """

    def __init__(self, limit: float, guard: Guard) -> None:
        self._tick = min(_LEAST_OFTEN, limit / _BEATS)
        self._guard = guard
        self._look: Callable[[float], None] = lambda ran: None
        self._bulletin: Callable[[], Bulletin] = lambda: Bulletin(["starting"])
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kworker-watchdog", daemon=True)

    def start(self) -> None:
        """Begin: beats, and stacks in standard error when this process is aborted."""
        faulthandler.enable(2)  # also for a crash in C
        self._guard.start()
        self._thread.start()

    def watch(self, look: Callable[[float], None], bulletin: Callable[[], Bulletin]) -> None:
        """From now on look at this, and bulletin this."""
        self._look, self._bulletin = look, bulletin

    def stop(self) -> None:
        """Look no more, and tell for the last time."""
        self._ended.set()
        self._thread.join(self._tick)
        self._guard.beat(self._bulletin)
        self._guard.stop()

    def _run(self) -> None:
        before = time.monotonic()
        self._guard.beat(self._bulletin)
        while not self._ended.wait(self._tick):
            now = time.monotonic()
            ran, before = min(now - before, 2 * self._tick), now
            self._guard.beat(self._bulletin)
            self._look(ran)


def end(code: int, why: str) -> None:
    """End this process now: say why, with the stacks of all threads."""
    log.critical("watchdog: %s", why)
    flush()
    faulthandler.dump_traceback(2, all_threads=True)
    os._exit(code)


def stacks() -> dict[str, str]:
    """Where each thread is, by its name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {  # no local holds the frames: ours is among them, and would hold itself and what all others had in hand
        names.get(ident, str(ident)): "".join(traceback.format_stack(frame)[-_FRAMES:])
        for ident, frame in sys._current_frames().items()
    }
