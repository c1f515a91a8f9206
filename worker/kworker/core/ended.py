"""Attempts that ended, of one route and one partition: what is done once for all of them."""

from __future__ import annotations

from kworker.core.entry import Entry
from kworker.core.partition import Partition
from kworker.core.route import Route


class Ended:
    """plain: a success that published nothing finishes its offset; nothing but its lane waits for it.

    finished: the entries of which that is so. others: how many more ended.
    """

    __slots__ = ("finished", "others", "partition", "plain", "route")

    def __init__(self, partition: Partition, route: Route) -> None:
        self.partition = partition
        self.route = route
        self.plain = route.limit is None and not partition.fenced
        self.finished: list[Entry] = []
        self.others = 0
