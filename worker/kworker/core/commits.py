"""The commit step: which partitions have something new to commit, and what was acknowledged.

Promises: a partition is committed again whenever its committable offset or its finished set changed since its last
acknowledged commit (a stuck head moves only its metadata), and a committed offset never falls.
"""

from __future__ import annotations

from collections.abc import Iterable

from kworker.core.actions import CommitItem
from kworker.core.metadata import Alphabet, encode
from kworker.core.partition import Partition
from kworker.task import TopicPartition


class Commits:
    """Owns the state of the one asynchronous commit that may be on its way.

    alphabet: how metadata is written; None where the broker does not keep it (plain at-least-once).
    failures: partitions in a row whose commit was refused. truncated: commits whose metadata left finished offsets out.
    """

    __slots__ = ("_asked", "_asked_at", "_next", "alphabet", "failures", "interval", "results", "truncated")

    def __init__(self, interval: float, alphabet: Alphabet | None) -> None:
        self.interval = interval
        self.alphabet = alphabet
        self.failures = 0
        self.results = {"ok": 0, "error": 0}
        self.truncated = 0
        self._next = 0.0
        self._asked: dict[tuple[TopicPartition, int], tuple[int, int]] = {}
        self._asked_at = 0.0

    @property
    def unanswered_since(self) -> float | None:
        """When the commit that is not answered yet was asked for (engine time): no other follows, so watch it."""
        return self._asked_at if self._asked else None

    @property
    def due(self) -> float:
        """When `on_tick` wants to be called next (engine time)."""
        return self._next

    def on_tick(self, partitions: Iterable[Partition], now: float) -> list[CommitItem]:
        """What to commit now; empty when it is not time, nothing changed, or an answer is still outstanding."""
        if now < self._next:
            return []
        self._next = now + self.interval
        if self._asked:  # an answer that comes after the next commit was asked for would be taken for that one's
            return []
        changed = [partition for partition in partitions if partition.changed]
        for partition in changed:
            partition.forget_marks()
        items = self.items(changed)
        self._asked = {
            (partition.topic_partition, partition.epoch): (partition.changes, item.offset)
            for partition, item in zip(changed, items, strict=True)
        }
        self._asked_at = now
        return items

    def items(self, partitions: Iterable[Partition]) -> list[CommitItem]:
        """What to commit for those of these partitions that changed."""
        items = []
        for partition in partitions:
            if not partition.changed:
                continue
            offset, metadata = partition.tracker.committable, ""
            if self.alphabet is not None:
                metadata, complete = encode(offset, partition.finished_bounds(), self.alphabet)
                self.truncated += not complete
            items.append(CommitItem(partition.topic_partition, partition.epoch, offset, metadata))
        return items

    def answered(
        self,
        partitions: dict[TopicPartition, Partition],
        results: Iterable[tuple[TopicPartition, int, str | None]],
    ) -> None:
        """Take the coordinator's answer. A partition whose commit failed stays changed and is asked for again."""
        for topic_partition, epoch, error in results:
            asked = self._asked.pop((topic_partition, epoch), None)
            self.results["ok" if error is None else "error"] += 1
            self.failures = 0 if error is None else self.failures + 1
            partition = partitions.get(topic_partition)
            if error is None and asked and partition is not None and partition.epoch == epoch:
                partition.committed_changes, partition.committed = asked
