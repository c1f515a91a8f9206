"""Attempts that ended, one behind the other, of one route and one partition: what is done once for all of them."""

from __future__ import annotations

from kworker.core.partition import Partition
from kworker.core.route import Route


class Ended:
    """plain: a success that published nothing finishes its offset, and nothing waits for it.

    count: all that ended. offsets, size: of those that are finished, and the bytes of their records.
    """

    __slots__ = ("count", "offsets", "partition", "plain", "route", "size")

    def __init__(self, partition: Partition | None = None, route: Route | None = None) -> None:
        self.partition = partition
        self.route = route
        self.plain = route is not None and route.limit is None and partition is not None and not partition.fenced
        self.count = 0
        self.offsets: list[int] = []
        self.size = 0
