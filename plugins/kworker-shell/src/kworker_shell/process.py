"""One child process: given its input, drained, and ended in time with all of its process group.

Promises: its input is whole, even when the worker is killed meanwhile; nothing it writes blocks it or fills memory; it
and its group are gone when `run` returns, and no zombie stays. A process that leaves the group (a daemon with a session
of its own) is out of reach.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

CHUNK = 1 << 16
TICK = 0.1
"""Seconds between two looks at whether the task was cancelled."""
REAP = 5.0
"""Seconds that a killed process may take to be gone."""
_LAST_READS = 32  # of CHUNK: more than any pipe holds


class Stopped(StrEnum):
    """Why a process was ended before its time."""

    NO = ""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


class Kept:
    """The first `limit` bytes of a stream, or the last ones, and how many there were in all."""

    def __init__(self, limit: int, *, end: bool = False) -> None:
        self._limit, self._end = limit, end
        self._data = bytearray()
        self.total = 0

    def add(self, chunk: bytes) -> None:
        """Take the next bytes of the stream."""
        self.total += len(chunk)
        if self._end:
            self._data += chunk
            del self._data[: -self._limit]
        else:
            self._data += chunk[: self._limit - len(self._data)]

    @property
    def truncated(self) -> bool:
        """Whether there were more bytes than are kept."""
        return self.total > self._limit

    @property
    def text(self) -> str:
        """What is kept; bytes that are not UTF-8 become U+FFFD."""
        return self._data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended. code: its exit code, or minus the number of the signal that killed it."""

    code: int
    stdout: Kept
    stderr: Kept
    stopped: Stopped


def run(
    argv: Sequence[str],
    *,
    program: str,
    stdin: bytes,
    cwd: str,
    env: Mapping[str, str],
    limit: int,
    seconds: float | None,
    grace: float,
    cancelled: Callable[[], bool],
) -> Ended:
    """Run `program` until it ends, for `seconds` at most; then SIGTERM and, after `grace` seconds, SIGKILL.

    Raises OSError when it cannot be started, ChildProcessError when someone else took its exit status,
    subprocess.TimeoutExpired when the kernel does not let it die.
    """
    with selectors.DefaultSelector() as selector, _held(stdin) as given:
        process = subprocess.Popen(
            argv,
            executable=program,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        child = _Child(process, selector, limit)
        try:
            stopped = child.attend(seconds, grace, cancelled)
        finally:
            child.finish()
    return Ended(process.returncode, child.stdout, child.stderr, stopped)


@contextlib.contextmanager
def _held(data: bytes) -> Iterator[IO[bytes]]:
    """`data` as a nameless file, to be read from its start.

    Not a pipe: the end of one that a killed worker was writing to looks like the end of the input, and a command
    would take the part it got for the whole.
    """
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("stdin"), "w+b") if in_memory else tempfile.TemporaryFile() as held:
        held.write(data)
        held.seek(0)  # flushes as well
        yield held


class _Child:
    def __init__(self, process: subprocess.Popen[bytes], selector: selectors.BaseSelector, limit: int) -> None:
        self._process = process
        self._selector = selector
        self.stdout, self.stderr = Kept(limit), Kept(limit, end=True)
        self._pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]

    def attend(self, seconds: float | None, grace: float, cancelled: Callable[[], bool]) -> Stopped:
        self._watch()
        stopped = Stopped.NO
        until = None if seconds is None else time.monotonic() + seconds
        wait = 0.001
        while not self._has_ended():
            over = until is not None and time.monotonic() >= until
            if stopped is not Stopped.NO:
                if over:
                    break
            elif over or cancelled():
                stopped = Stopped.TIMEOUT if over else Stopped.CANCELLED
                until = time.monotonic() + grace
                self._signal(signal.SIGTERM)
            # With its pipes closed it is about to end: look often at first, ever less later.
            wait = TICK if self._selector.get_map() else min(TICK, wait * 2 if wait < TICK else 0.001)
            for key, _ in self._selector.select(wait):
                self._read(key)
        return stopped

    def _watch(self) -> None:
        for pipe, kept in zip(self._pipes, (self.stdout, self.stderr), strict=True):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, kept)

    def _read(self, key: selectors.SelectorKey) -> bool:
        """Read once; False when there is nothing to read (any more)."""
        pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]  # what was registered
        chunk = pipe.read(CHUNK)  # None: nothing there yet; empty: closed by all who held it
        if chunk:
            key.data.add(chunk)
            return True
        if chunk is None:
            return False
        self._selector.unregister(pipe)
        pipe.close()
        return False

    def _has_ended(self) -> bool:
        # It is left a zombie: while it is one, its number cannot become another process's and the group be misnamed.
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return self._process.poll() is not None  # macOS before Python 3.13

    def _signal(self, number: int) -> None:
        # Gone already, or (macOS) only a zombie is left: nothing to end.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def finish(self) -> None:
        try:
            self._signal(signal.SIGKILL)  # also what a child that ended by itself left in its group
            self._process.wait(REAP)
            for key in list(self._selector.get_map().values()):
                # What it wrote is in the pipe; whoever escaped with the other end is not waited for.
                for _ in range(_LAST_READS):
                    if not self._read(key):
                        break
        finally:
            for pipe in self._pipes:
                pipe.close()
