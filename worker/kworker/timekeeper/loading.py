"""The worker's side of a process that loads a partition of the delay log (loader.py). It is asked, and never waits."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from kworker.timekeeper.cache import Cache, connect
from kworker.timekeeper.loader import OPENED, Loaded, Order

_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from kworker.timekeeper.loader import main; main()"


class LoadingFailed(Exception):
    """The process could not load the partition."""


class Loading:
    """Starts the process. Raises OSError when that cannot be."""

    def __init__(self, order: Order) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is the worker's
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._said = self._process.stdout.fileno()
        os.set_blocking(self._said, False)
        self._heard = b""
        self._file: sqlite3.Connection | None = None
        self._tell(msgspec.json.encode(order) + b"\n")

    def poll(self) -> Cache | None:
        """The cache, loaded and settled, as soon as it is; it is the caller's then. Raises LoadingFailed."""
        said, ended = self._hear()
        for one in said:
            if isinstance(one, Loaded):
                return self._take(one)
            try:
                self._file = connect(one)
            finally:
                Path(one).unlink(missing_ok=True)  # both have it open
            self._tell(OPENED)
        if ended:
            raise LoadingFailed(f"the process ended with {self._process.wait()}")
        return None

    def close(self) -> None:
        """End the process, and throw away what it loaded, unless that was taken."""
        self._process.kill()
        self._process.wait()
        with suppress(LoadingFailed):
            for one in self._hear()[0]:
                if isinstance(one, str):  # it was not opened yet
                    Path(one).unlink(missing_ok=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # of what it did not take
            self._process.stdin.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _hear(self) -> tuple[list[str | Loaded], bool]:
        """What it said since, and whether it has ended."""
        try:
            data = os.read(self._said, 1 << 16)
        except BlockingIOError:
            return [], False
        *lines, self._heard = (self._heard + data).split(b"\n")
        try:
            return [msgspec.json.decode(line, type=str | Loaded) for line in lines], not data
        except msgspec.MsgspecError as error:
            raise LoadingFailed(f"the process said something else: {error}") from error

    def _take(self, loaded: Loaded) -> Cache:
        if loaded.fault or self._file is None:
            raise LoadingFailed(loaded.fault)
        cache = Cache(file=self._file)
        self._file = None
        cache.position, cache.pending, cache.exposed = loaded.position, loaded.pending, set(loaded.exposed)
        cache.settled = True
        return cache

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone: `poll` tells
            self._process.stdin.write(line)
            self._process.stdin.flush()
