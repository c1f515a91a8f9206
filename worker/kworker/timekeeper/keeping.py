"""The caches of partitions that moved away, kept for a while: a worker that gets one back reads only what came since.

Promises: what is given back stands for the log, as long as that kept its tombstones; no file is kept for more than an
hour.
"""

from __future__ import annotations

from typing import NamedTuple

from kworker.timekeeper.cache import Cache
from kworker.timekeeper.holding import SHIFTED

LONGEST = 3_600.0
"""Seconds for which one is kept."""


class _Kept(NamedTuple):
    cache: Cache
    since: float
    distance: int


class Keeping:
    """See the module. retention: seconds for which the log keeps a tombstone."""

    def __init__(self) -> None:
        self.retention = 0.0
        self._kept: dict[int, _Kept] = {}

    def put(self, partition: int, cache: Cache, since: float, distance: int) -> None:
        """Keep a settled one. since: up to when it was read, by the monotonic clock in seconds; distance: of the wall
        clock from that one, by which its due times are counted, in ms."""
        self.drop(partition)
        self._kept[partition] = _Kept(cache, since, distance)

    def take(self, partition: int, now: float, distance: int) -> Cache | None:
        """The one of this partition, if it still stands for it; now, distance: as they are."""
        self.expire(now)
        # A machine that slept does not know for how long, but the clocks have another distance then.
        if partition in self._kept and abs(self._kept[partition].distance - distance) > SHIFTED:
            self.drop(partition)
        kept = self._kept.pop(partition, None)
        return kept and kept.cache

    def expire(self, now: float) -> None:
        """Throw away those that are too old: tombstones that came since may be gone from the log again."""
        longest = min(self.retention / 2, LONGEST)
        for partition in [number for number, kept in self._kept.items() if now - kept.since > longest]:
            self.drop(partition)

    def drop(self, partition: int) -> None:
        """Throw the one of this partition away, if there is one."""
        if (kept := self._kept.pop(partition, None)) is not None:
            kept.cache.close()
