"""What a task does that can be seen from outside, the same for every peer: a byte of a mapped file, plus one.

The file has a byte for each task, by the number in its payload, then eight bytes for the moment it was done. A byte is
how often that task ran: 0 is missing, 2 is run twice. Bumping it takes 0.05 us in Python, no system call and no lock,
works from threads, child processes and a JVM alike, and survives a kill -9, since the kernel holds the page. Two runs
of one task at the same instant may count as one; two tasks never share a byte.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

BLOCK = 4096
_MOMENT = struct.Struct("=q")


class Effect:
    """The file at `path`, mapped; `tasks`: how many it has a byte for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            self.marks = mmap.mmap(file.fileno(), 0)
        self.tasks = len(self.marks) // (1 + _MOMENT.size)
        self._open = list(range(0, self.tasks, BLOCK))
        self._closed = 0

    @classmethod
    def create(cls, path: Path, tasks: int) -> Effect:
        """A new file in which nothing is done."""
        with path.open("wb") as file:
            file.truncate(tasks * (1 + _MOMENT.size))
        return cls(path)

    def close(self) -> None:
        """Unmap it."""
        self.marks.close()

    # -- in a task ------------------------------------------------------------------------------------------------

    def note(self, task: int, moment: int) -> None:
        """Say when a task was done: nanoseconds of the monotonic clock, which the processes of a machine share."""
        _MOMENT.pack_into(self.marks, self.tasks + task * _MOMENT.size, moment)

    # -- outside --------------------------------------------------------------------------------------------------

    def done(self) -> int:
        """How many tasks ran at least once. Blocks that are full are not read again, so asking often is cheap."""
        count, still_open = 0, []
        for start in self._open:
            size = min(BLOCK, self.tasks - start)
            block = self.marks[start : start + size]
            done = 0 if block == _NOTHING[:size] else size - block.count(0)
            if done == size:
                self._closed += size
            else:
                count += done
                still_open.append(start)
        self._open = still_open
        return self._closed + count

    def runs(self) -> int:
        """How often tasks ran, repetitions included."""
        return sum(self.marks[: self.tasks])

    def moment(self, task: int) -> int:
        """When a task was done, as it noted."""
        (moment,) = _MOMENT.unpack_from(self.marks, self.tasks + task * _MOMENT.size)
        return int(moment)


_NOTHING = bytes(BLOCK)
