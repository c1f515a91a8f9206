"""Commits on their way to the coordinator: sent between polls, answered in any later one, finished by the close.

Used by the intake thread only, but for `revocations` and `close_with`. Promises: each commit is answered by one
Committed event; a commit that was asked for before a revoke is not sent after it, where it would lower the offset
that was committed last; and what the close wants committed is sent until it is acknowledged or its time is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Position

from kworker.core.actions import CommitItem
from kworker.core.events import Committed
from kworker.kafka.positions import position_of
from kworker.kafka.underway import Underway
from kworker.task import TopicPartition

log = logging.getLogger(__name__)

_HURRY = 0.1  # seconds within which the next urgent commit is expected


class Committer:
    """See the module. `post`: hands a Committed to the loop. revocations: how often partitions were given up."""

    def __init__(self, post: Callable[[Committed], None]) -> None:
        self._post = post
        self._underway = Underway()
        self._last: dict[TopicPartition, CommitItem] | None = None  # of the close, while they are not committed
        self._last_urgent = -_HURRY
        self.revocations = 0
        self.uncommitted: list[CommitItem] = []
        """What was to be committed at the end and was not acknowledged."""

    def send(self, consumer: Consumer, items: Sequence[CommitItem], ordered: int, *, urgent: bool = False) -> None:
        """Commit. ordered: `revocations` when it was asked for. urgent: work waits for the answer, so wait for it here.

        An answer to an asynchronous commit comes with a poll, and nothing is polled while there is no room.
        """
        if ordered != self.revocations:
            self._post(Committed([(item.topic_partition, item.epoch, "overtaken by a revoke") for item in items]))
            return
        positions = [position_of(item) for item in items]
        self._underway.add(items)
        try:
            if urgent:
                self.answered(None, consumer.commit(offsets=positions, asynchronous=False) or [])
                self._last_urgent = time.monotonic()
            else:
                consumer.commit(offsets=positions, asynchronous=True)
        except KafkaException as error:
            self.answered(error.args[0], positions)

    @property
    def hurried(self) -> bool:
        """True while urgent commits come one after another."""
        return time.monotonic() - self._last_urgent < _HURRY

    def answered(self, error: KafkaError | None, positions: list[Position]) -> None:
        """The client's on_commit callback."""
        failed = {TopicPartition(p.topic, p.partition): p.error for p in positions if p.error is not None}
        results: list[tuple[TopicPartition, int, str | None]] = []
        for item in self._underway.answered(positions):
            name = item.topic_partition
            why = failed.get(name) or error
            results.append((name, item.epoch, None if why is None else why.str()))
            if why is None and self._last and self._last.get(name) is item:
                del self._last[name]
        if results:
            self._post(Committed(results))

    def commit_now(self, consumer: Consumer, items: Sequence[CommitItem]) -> None:
        """Commit synchronously, inside a revoke: a failure is logged, and means second runs elsewhere."""
        try:
            consumer.commit(offsets=[position_of(item) for item in items], asynchronous=False)
        except KafkaException as error:
            if self.closing:
                self.give_up(items)
            log.warning("the last commit of revoked partitions failed: %s", error)

    @property
    def closing(self) -> bool:
        """True once it is known what the close wants to be committed."""
        return self._last is not None

    def close_with(self, items: Sequence[CommitItem]) -> None:
        """What `finish`, or a revoke that comes before it, is to commit: called by the loop, once."""
        self._last = {item.topic_partition: item for item in items}

    def take_last(self, names: Sequence[TopicPartition]) -> list[CommitItem]:
        """What the close wants committed of these partitions; the caller commits it."""
        last = self._last or {}
        return [last.pop(name) for name in names if name in last]

    def finish(self, consumer: Consumer, deadline: float) -> None:
        """Send what the close wants committed until it is acknowledged, or until `deadline` (monotonic seconds).

        A commit is refused when the group is given a new generation meanwhile, and sent again then.
        """
        while self._last and time.monotonic() < deadline:
            items = list(self._last.values())
            self.send(consumer, items, self.revocations)
            while items in self._underway and time.monotonic() < deadline:
                consumer.poll(0.05)
            if self._last:
                consumer.poll(0.05)
        self.give_up(self.take_last(list(self._last or ())))

    def give_up(self, items: Sequence[CommitItem]) -> None:
        """These are not committed: what they say runs again elsewhere."""
        self.uncommitted += items
