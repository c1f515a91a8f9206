"""The commit step: which partitions have something new to commit, and what was acknowledged.

Promises: a partition is committed again whenever its committable offset, its finished set or its run mark changed since
its last acknowledged commit (a stuck head moves only its metadata), and a committed offset never falls.
"""

from __future__ import annotations

from collections.abc import Iterable

from kworker.core.actions import CommitItem
from kworker.core.mark import Mark
from kworker.core.metadata import Alphabet, encode
from kworker.core.partition import Partition
from kworker.task import TopicPartition

_AGAIN = 1.0  # seconds from a commit that was refused to the next, at most


class Commits:
    """Owns the state of the one asynchronous commit that may be on its way.

    alphabet: how metadata is written; None where the broker does not keep it (plain at-least-once).
    truncated: commits whose metadata left finished offsets out.
    """

    __slots__ = ("_asked", "_asked_at", "_next", "_refused", "alphabet", "interval", "results", "truncated")

    def __init__(self, interval: float, alphabet: Alphabet | None) -> None:
        self.interval = interval
        self.alphabet = alphabet
        self.results = {"ok": 0, "error": 0}
        self.truncated = 0
        self._next = 0.0
        self._asked: dict[tuple[TopicPartition, int], tuple[int, int, Mark]] = {}
        self._asked_at = 0.0
        self._refused = False  # the last answer, or a part of it

    @property
    def unanswered_since(self) -> float | None:
        """When the commit that is not answered yet was asked for (engine time): no other follows, so watch it."""
        return self._asked_at if self._asked else None

    @property
    def due(self) -> float:
        """When `on_tick` wants to be called next (engine time)."""
        return min(self._next, self._asked_at + _AGAIN) if self._refused else self._next

    def on_tick(self, partitions: Iterable[Partition], now: float) -> list[CommitItem]:
        """What to commit now; empty when it is not time, nothing changed, or an answer is still outstanding."""
        if self._refused and now >= self._asked_at + _AGAIN:
            self._refused = False
        if now < self._next:
            return []
        self._next = now + self.interval
        self._refused = False
        return self.ask(partitions, now)

    def ask(self, partitions: Iterable[Partition], now: float) -> list[CommitItem]:
        """The same before it is time; but what was refused is asked for again after a second."""
        # An answer that comes after the next commit was asked for would be taken for that one's.
        if self._asked or self._refused:
            return []
        changed = [partition for partition in partitions if partition.changed]
        for partition in changed:
            partition.forget_marks()
        items = self.items(changed)
        self._asked = {
            (partition.topic_partition, partition.epoch): (partition.changes, item.offset, partition.mark)
            for partition, item in zip(changed, items, strict=True)
        }
        for partition in changed:
            if partition.watch is not None and partition.mark.alone is not None:
                partition.watch.named = True
        self._asked_at = now
        return items

    def items(self, changed: Iterable[Partition]) -> list[CommitItem]:
        """What to commit of these partitions, which changed."""
        return [self._item(partition, partition.mark) for partition in changed]

    def last_items(self, partitions: Iterable[Partition]) -> list[CommitItem]:
        """What to commit of these partitions, which are given up: the mark tells that nobody died of them."""
        return [
            self._item(partition, partition.mark.ended())
            for partition in partitions
            if not partition.fenced and (partition.changed or self.alphabet is not None)
        ]

    def _item(self, partition: Partition, mark: Mark) -> CommitItem:
        offset, metadata = partition.tracker.committable, ""
        if self.alphabet is not None:
            metadata, complete = encode(offset, partition.finished_bounds(), self.alphabet, mark.packed())
            self.truncated += not complete
        return CommitItem(partition.topic_partition, partition.epoch, offset, metadata)

    def answered(
        self,
        partitions: dict[TopicPartition, Partition],
        results: Iterable[tuple[TopicPartition, int, str | None]],
    ) -> None:
        """Take the coordinator's answer. A partition whose commit failed stays changed and is asked for again."""
        for topic_partition, epoch, error in results:
            asked = self._asked.pop((topic_partition, epoch), None)
            self.results["ok" if error is None else "error"] += 1
            partition = partitions.get(topic_partition)
            if error is not None:
                self._refused = True
            if partition is None or partition.epoch != epoch or asked is None:
                continue
            if error is not None:
                partition.refused += 1
                continue
            partition.refused = 0
            partition.committed_changes, partition.committed, partition.marked = asked
            if partition.watch is not None:
                partition.watch.named = partition.marked.alone is not None
