"""Commits on their way to the coordinator: sent between polls, answered in any later one, finished by the close.

Used by the intake thread only, but for `given_up`, `release` and `close_with`, which are the loop's. Promises: each
commit is answered by one Committed event; one that the loop asked for before it gave partitions up is not sent after
their last one, which it would take back; and what the close wants committed is sent until it is acknowledged or its
time is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Position

from kworker.core.actions import CommitItem
from kworker.core.events import Committed
from kworker.kafka.positions import listed, position_of
from kworker.kafka.underway import Underway
from kworker.task import TopicPartition

log = logging.getLogger(__name__)

_HURRY = 0.1  # seconds within which the next urgent commit is expected


class Committer:
    """See the module. `post`: hands a Committed to the loop. given_up: how often the loop gave partitions up."""

    def __init__(self, post: Callable[[Committed], None]) -> None:
        self._post = post
        self._underway = Underway()
        self._last: dict[TopicPartition, CommitItem] | None = None  # of the close, while they are not committed
        self._last_urgent = -_HURRY
        self.given_up = 0
        self.uncommitted: list[CommitItem] = []
        """What was to be committed at the end and was not acknowledged."""

    def send(self, consumer: Consumer, items: Sequence[CommitItem], ordered: int, *, urgent: bool = False) -> None:
        """Commit. ordered: `given_up` when it was asked for. urgent: work waits for the answer, so wait for it here.

        An answer to an asynchronous commit comes with a poll, and nothing is polled while there is no room.
        """
        if ordered != self.given_up:
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
        items = self._underway.answered(positions)
        refused = self._tell(items, error, positions)
        for item in items:
            name = item.topic_partition
            if name not in refused and self._last and self._last.get(name) is item:
                del self._last[name]

    def _tell(
        self, items: Sequence[CommitItem], error: KafkaError | None, positions: Sequence[Position]
    ) -> dict[TopicPartition, str]:
        """Post the answer to a commit of these; returns the partitions that were refused, and why."""
        failed = {TopicPartition(p.topic, p.partition): p.error for p in positions if p.error is not None}
        reasons = {item.topic_partition: failed.get(item.topic_partition) or error for item in items}
        refused = {name: why.str() for name, why in reasons.items() if why is not None}
        if items:
            self._post(Committed([(i.topic_partition, i.epoch, refused.get(i.topic_partition)) for i in items]))
        return refused

    def commit_now(self, consumer: Consumer, items: Sequence[CommitItem]) -> None:
        """Commit synchronously, inside a revoke: what is refused is logged, and means second runs elsewhere."""
        error, answers = None, []
        try:
            answers = consumer.commit(offsets=[position_of(item) for item in items], asynchronous=False) or []
        except KafkaException as failure:
            error = failure.args[0]
        refused = self._tell(items, error, answers)
        if refused:
            if self.closing:
                self.give_up([item for item in items if item.topic_partition in refused])
            log.warning(
                "the last commit of revoked partitions was refused: what they finished since the one before runs again",
                extra={"partitions": listed(refused), "error": ", ".join(sorted(set(refused.values())))},
            )

    @property
    def closing(self) -> bool:
        """True once it is known what the close wants to be committed."""
        return self._last is not None

    def release(self) -> None:
        """The loop gives partitions up now, and tells what to commit of them: what it asked for earlier is overtaken.

        Asked for before the revoke, or while it was drained: commands wait for the end of the callback.
        """
        self.given_up += 1

    def close_with(self, items: Sequence[CommitItem]) -> None:
        """What `finish`, or a revoke that comes before it, is to commit: called by the loop, once."""
        self.release()
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
            self.send(consumer, items, self.given_up)
            while items in self._underway and time.monotonic() < deadline:
                consumer.poll(0.05)
            if self._last:
                consumer.poll(0.05)
        self.give_up(self.take_last(list(self._last or ())))

    def give_up(self, items: Sequence[CommitItem]) -> None:
        """These are not committed: what they say runs again elsewhere."""
        self.uncommitted += items
