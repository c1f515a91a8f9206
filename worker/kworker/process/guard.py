"""The process that hears the beats of this one, and ends it when there are none (sentinel.py)."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kworker.bulletin import Bulletin
from kworker.process import sentinel

log = logging.getLogger(__name__)

_UNWATCHED = "no process watches this one: what holds the GIL for ever is not noticed: %s"


class Sentinel:
    """Has this process aborted when `beat` was not called for `limit` seconds. Linux only: nothing elsewhere."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._beats = -1
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the sentinel; a warning when it cannot be."""
        if not Path("/proc/self/stat").exists():
            return
        try:
            heard, self._beats = os.pipe()
        except OSError as error:
            log.warning(_UNWATCHED, error)
            return
        os.set_blocking(self._beats, False)
        command = [sys.executable, "-I", "-S", sentinel.__file__, str(os.getpid()), str(heard), str(self._limit)]
        try:
            self._process = subprocess.Popen(
                command, pass_fds=[heard], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        except OSError as error:
            os.close(self._beats)
            log.warning(_UNWATCHED, error)
        finally:
            os.close(heard)

    def beat(self, bulletin: Callable[[], Bulletin]) -> None:
        """This process moves; a sentinel that is gone is replaced."""
        if self._process is None:
            return
        try:
            os.write(self._beats, b".")
        except BlockingIOError:
            pass  # it is frozen, and will find enough of them
        except OSError:
            self.stop()
            self.start()

    def stop(self) -> None:
        """End the sentinel."""
        if self._process is None:
            return
        os.close(self._beats)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._process = None
