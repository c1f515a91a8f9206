"""Tasks that wait in memory for their next attempt: no slot, but an open offset and a blocked lane."""

from __future__ import annotations

import heapq
from itertools import count

from kworker.core.entry import Entry


class Retries:
    """Owns what waits, by the time it is due (engine time)."""

    __slots__ = ("_sequence", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Entry]] = []
        self._sequence = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry, due: float) -> None:
        """It is to be tried again at `due`."""
        heapq.heappush(self._waiting, (due, next(self._sequence), entry))

    @property
    def due(self) -> float | None:
        """When the next is due."""
        return self._waiting[0][0] if self._waiting else None

    def take(self, now: float) -> list[Entry]:
        """Those that are due, the earliest first."""
        taken = []
        while self._waiting and self._waiting[0][0] <= now:
            taken.append(heapq.heappop(self._waiting)[2])
        return taken

    def drop_fenced(self) -> None:
        """Forget what belongs to fenced partitions: some are due in days."""
        self._waiting = [waiting for waiting in self._waiting if not waiting[2].partition.fenced]
        heapq.heapify(self._waiting)
