"""The time before a worker takes anything: its plugins are imported and set up, which may hang.

Promises: SIGTERM and its like end it at once, and well, since nothing was taken; what takes long is named in the log
with where it is; what takes too long ends the worker, as a plugin that cannot be set up does.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType

from kworker.bulletin import Bulletin
from kworker.errors import PluginError
from kworker.logs import flush
from kworker.watchdog import stacks

log = logging.getLogger("kworker")

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""Signals that end a preparation. SIGHUP: the terminal, or the supervisor, is gone."""

_LONG = 10.0
_TOLD_AGAIN = 60.0
_GRACE = 2.0  # seconds that a plugin has to let an interrupt through


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end."""


class Preparation:
    """See the module. limit: seconds it may take. quiet: SIGUSR1 came meanwhile."""

    def __init__(self, limit: float) -> None:
        self.quiet = False
        self._limit = limit
        self._step = ""
        self._thread = threading.current_thread().name
        self._dump = False
        self._interrupted = False
        self._left = _GRACE
        self._total = self._in_step = 0.0
        self._tell_at = _LONG

    def take_signals(self) -> None:
        """Answer signals; only in the main thread, which is the one that prepares."""
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._interrupt)
        signal.signal(signal.SIGUSR1, self._go_quiet)
        signal.signal(signal.SIGUSR2, self._ask_for_stacks)

    def begin(self, step: str) -> None:
        """What is done from now on, as messages name it."""
        self._step = step
        self._in_step, self._tell_at = 0.0, _LONG

    def bulletin(self) -> Bulletin:
        """What there is to tell of it."""
        return Bulletin([f"not ready yet: {self._step}"], status={"pid": os.getpid(), "step": self._step})

    def look(self, ran: float) -> None:
        """By the watchdog: so many seconds have passed."""
        self._total += ran
        self._in_step += ran
        if self._interrupted:
            self._left -= ran
            if self._left < 0:
                log.warning("it does not let itself be interrupted, and is left behind: %s", self._step)
                _leave(0)
        if self._dump:
            self._dump = False
            for name, stack in stacks().items():
                log.info("stack of %s", name, extra={"stack": stack})
        if self._total > self._limit:
            self._tell_long(logging.CRITICAL, f"too long, the limit is {self._limit:g} s (--setup-timeout)")
            _leave(PluginError.exit_code)
        if self._in_step > self._tell_at:
            self._tell_at += _TOLD_AGAIN
            self._tell_long(logging.WARNING, "long")

    def _tell_long(self, level: int, how: str) -> None:
        seconds, stack = round(self._in_step, 1), stacks().get(self._thread, "")
        log.log(level, "it takes %s: %s", how, self._step, extra={"seconds": seconds, "stack": stack})

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._interrupted:
            self._interrupted = True
            raise Interrupted

    def _go_quiet(self, number: int, frame: FrameType | None) -> None:
        self.quiet = True

    def _ask_for_stacks(self, number: int, frame: FrameType | None) -> None:
        self._dump = True  # to log here could wait for a lock that the interrupted thread holds


def _leave(code: int) -> None:
    flush()
    os._exit(code)
