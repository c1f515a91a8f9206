"""The queue step: what waits for a slot, its key's turn or its task's limit.

Promises: within a lane (one key of one partition, or one partition, by `order`) one entry at a time is out, in log
order, from its first start until its offset is finished; all other lanes go on. A task's limit is never exceeded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal

from kworker.core.entry import Entry
from kworker.core.partition import Partition

Order = Literal["unordered", "key", "partition"]

_WHOLE_PARTITION = b""


class ReadyQueue:
    """Entries that may start as soon as there is room, first come first served, one queue for each executor."""

    __slots__ = ("_order", "_queues", "_stale")

    def __init__(self, order: Order, executors: Iterable[str]) -> None:
        self._order = order
        self._queues: dict[str, deque[Entry]] = {kind: deque() for kind in executors}
        self._stale = False

    def arrive_all(self, entries: list[Entry]) -> None:
        """New entries of one partition, in log order: each waits for its lane, or becomes ready."""
        if self._order != "unordered":
            entries = [entry for entry in entries if self._has_turn(entry)]
        self._admit_all(entries)

    def _has_turn(self, entry: Entry) -> bool:
        """Whether the lane of a new entry is free, which is taken then; if not, it waits there."""
        lane = _WHOLE_PARTITION if self._order == "partition" else entry.task.key
        if lane is None:  # a null key has no order
            return True
        entry.lane = lane
        lanes = entry.partition.lanes
        if lane not in lanes:
            lanes[lane] = None
            return True
        waiting = lanes[lane]
        if waiting is None:
            lanes[lane] = deque((entry,))
        else:
            waiting.append(entry)
        return False

    def _admit_all(self, entries: list[Entry]) -> None:
        """`admit` for entries of one partition; most have nothing to be asked for."""
        if entries and entries[0].partition.watch is not None:
            for entry in entries:
                self.admit(entry)
            return
        queues = self._queues
        for entry in entries:
            route = entry.route
            if route.limit is None:
                queues[route.executor].append(entry)
            else:
                self.admit(entry)

    def admit(self, entry: Entry) -> None:
        """The entry has its lane's turn (or a retry is due): it becomes ready, unless its task is at its limit."""
        route = entry.route
        if route.limit is not None:
            if route.admitted >= route.limit:
                if route.waiting is None:
                    route.waiting = deque()
                route.waiting.append(entry)
                return
            route.admitted += 1
        watch = entry.partition.watch
        if watch is None or watch.lets(entry):
            self.push(entry)

    def push(self, entry: Entry) -> None:
        """The entry waits for nothing but a slot."""
        self._queues[entry.route.executor].append(entry)

    def release_limit(self, entry: Entry) -> None:
        """An attempt ended: the next of a limited task takes its place."""
        route = entry.route
        if route.limit is None:
            return
        route.admitted -= 1
        while route.waiting:
            waiting = route.waiting.popleft()
            if not waiting.partition.leaving:
                self.admit(waiting)
                return

    def release_lanes(self, entries: list[Entry]) -> None:
        """The offsets of these entries, of one partition, are finished: the next of their lanes have their turn."""
        if self._order == "unordered":
            return
        lanes, following = entries[0].partition.lanes, []
        for entry in entries:
            lane = entry.lane
            if lane is None:
                continue
            waiting = lanes[lane]
            if waiting:
                following.append(waiting.popleft())
            else:
                del lanes[lane]
        self._admit_all(following)

    def leave(self, partition: Partition) -> None:
        """Nothing of this partition starts any more; call after `partition.leaving` was set."""
        partition.lanes.clear()
        self._stale = True

    def take(self, executor: str, most: int) -> list[Entry]:
        """Up to `most` entries to start now."""
        if self._stale:
            self._drop_leaving()
        queue = self._queues[executor]
        if most >= len(queue):
            taken = list(queue)
            queue.clear()
            return taken
        return [queue.popleft() for _ in range(most)]

    def waiting(self, executor: str) -> int:
        """Entries that wait for nothing but a slot of this executor."""
        return len(self._queues[executor])

    def _drop_leaving(self) -> None:
        self._stale = False
        for kind, queue in self._queues.items():
            kept: deque[Entry] = deque()
            dropped: list[Entry] = []
            for entry in queue:
                (dropped if entry.partition.leaving else kept).append(entry)
            self._queues[kind] = kept
            for entry in dropped:
                self.release_limit(entry)
