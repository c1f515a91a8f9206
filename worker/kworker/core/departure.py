"""Giving partitions up: revokes and the stop, each drained until its deadline."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from kworker.core.partition import Partition
from kworker.task import TopicPartition


class _Revoke(Struct, eq=False):
    names: list[TopicPartition]
    partitions: list[Partition]
    deadline: float


class Departure:
    """Owns what is being given up and until when.

    abandoned: attempts that still ran when a budget was over. lost: partitions that the group took away during the
    stop, before what was done of them was committed.
    """

    __slots__ = ("_drained", "_revokes", "_stop_deadline", "abandoned", "lost")

    def __init__(self) -> None:
        self._revokes: list[_Revoke] = []
        self._stop_deadline: float | None = None
        self._drained = False
        self.abandoned = 0
        self.lost = 0

    def revoke(self, names: list[TopicPartition], partitions: list[Partition], deadline: float) -> None:
        """Partitions were revoked; they are released when nothing of them is busy, or at the deadline."""
        self._revokes.append(_Revoke(names, partitions, deadline))

    def stop(self, deadline: float) -> None:
        """A stop was asked for; a second one may only bring the deadline forward."""
        self._stop_deadline = deadline if self._stop_deadline is None else min(deadline, self._stop_deadline)

    @property
    def stopping(self) -> bool:
        """True from the first request to stop on."""
        return self._stop_deadline is not None

    @property
    def pending(self) -> bool:
        """True while something is being given up."""
        return bool(self._revokes) or (self.stopping and not self._drained)

    @property
    def due(self) -> float | None:
        """The earliest deadline (engine time)."""
        deadlines = [revoke.deadline for revoke in self._revokes]
        if self._stop_deadline is not None and not self._drained:
            deadlines.append(self._stop_deadline)
        return min(deadlines, default=None)

    def released(self, now: float) -> list[tuple[list[TopicPartition], list[Partition]]]:
        """The revokes that are over: (the names that were revoked, their partitions)."""
        over = [
            revoke
            for revoke in self._revokes
            if now >= revoke.deadline or not any(partition.busy for partition in revoke.partitions)
        ]
        for revoke in over:
            self._revokes.remove(revoke)
        return [(revoke.names, revoke.partitions) for revoke in over]

    def drained(self, partitions: Collection[Partition], now: float) -> bool:
        """True once when the stop is over."""
        if self._stop_deadline is None or self._drained:
            return False
        if now < self._stop_deadline and any(partition.busy for partition in partitions):
            return False
        self._drained = True
        return True
