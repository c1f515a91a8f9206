"""One process of a peer at work, watched from outside: what it has done, what it takes, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import kworker
from benchmarks.effect import Effect
from benchmarks.peer import Peer
from benchmarks.place import Place
from benchmarks.tree import Memory, Tree
from kit.leash import leashed

ROOT = Path(__file__).parents[1]
PATH = [ROOT, ROOT / "tests", Path(__file__).parent / "plugin"]
PAUSE = 0.01  # seconds between looks at the effect; they take 0.1 ms each
MEMORY_EVERY = 0.25  # seconds; reading PSS walks the page tables of a process, which stops it for a moment
STALLED = 60.0  # seconds without a task done after which a run is over
STOP = 40.0  # seconds for a peer to end after SIGTERM; kworker's own drain takes 25 at most


class Failed(Exception):
    """A run that is not valid: why."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What was true at one moment. at: s, monotonic; cpu: s of the whole tree so far."""

    at: float
    done: int
    cpu: float


class Run:
    """Starts the peer; a context manager that kills its whole process group, if it still lives, and never fails.

    worker: where kworker is imported from, for the comparison of two commits; None is where it is installed.
    """

    def __init__(self, peer: Peer, place: Place, effect: Effect, worker: Path | None = None) -> None:
        self.peer = peer
        self.effect = effect
        self.peak = Memory()
        self._log = place.folder / "log"
        self._memory_due = 0.0
        path = [*PATH, worker or Path(kworker.__file__).parents[1]]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KWORKER_")}
        command = peer.command(place)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                leashed(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=place.folder,
                env=inherited | place.environment() | {"PYTHONPATH": os.pathsep.join(map(str, path))},
                process_group=0,
            )
        self.started = time.monotonic()
        self.tree = Tree(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()

    def until(self, done: int) -> Moment:
        """Wait until so many tasks are done. Raises Failed when it ends before, or does nothing for a minute."""
        last, since = -1, time.monotonic()
        while True:
            now, count = time.monotonic(), self.effect.done()
            if count >= done:
                return Moment(now, count, self.tree.cpu())
            if self.process.poll() is not None:
                raise Failed(f"ended with {self.process.returncode}, {count} tasks done: {self.tail()}")
            if count != last:
                last, since = count, now
            elif now - since > STALLED:
                raise Failed(f"stands still with {count} tasks done: {self.tail()}")
            if now >= self._memory_due:
                self.look()
            time.sleep(PAUSE)

    def look(self) -> Memory:
        """Take its memory into `peak`."""
        self._memory_due = time.monotonic() + MEMORY_EVERY
        self.peak = self.peak.peak(held := self.tree.memory())
        return held

    def stop(self) -> None:
        """SIGTERM. Raises Failed when it does not end in time with 0."""
        self.leave()
        self.ended()

    def leave(self) -> None:
        """SIGTERM, once; `ended` waits for what comes of it."""
        self.process.send_signal(signal.SIGTERM)

    def ended(self, within: float = STOP) -> None:
        """Wait for its end. Raises Failed when it does not end within so many seconds, and with 0."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise Failed(f"did not end within {within:g} s: {self.tail()}") from None
        if code != 0:
            raise Failed(f"ended with {code} when it should with 0: {self.tail()}")

    def kill(self) -> None:
        """SIGKILL (-9) to all of it, and wait until it is gone."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP)

    def tail(self) -> str:
        """The last line that it logged."""
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][-300:] if lines else "nothing logged"
