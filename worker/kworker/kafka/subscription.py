"""What a worker reads: the configured topics, and its group's retry topic as soon as there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as Position

Callback = Callable[[Consumer, list[Position]], None]

_ASK = 1.0  # seconds


class Subscription:
    """See the module. retries: the retry topic, '' for none. Used by the thread that owns the Consumer."""

    def __init__(self, topics: Sequence[str], retries: str) -> None:
        self._topics = list(topics)
        self._retries = retries
        self._callbacks: dict[str, Callback] = {}

    def begin(self, consumer: Consumer, **callbacks: Callback) -> None:
        """Subscribe. callbacks: on_assign, on_revoke, on_lost."""
        self._callbacks = callbacks
        # Asked first: a subscription that grows later is one more rebalance. Not asked whether the topic is there: a
        # static member that comes back with more topics than it had is given what it had, until it grows.
        if self._retries and self._was_read(consumer):
            self._topics.append(self._retries)
        self._subscribe(consumer)

    def grow(self, consumer: Consumer) -> None:
        """There is a retry topic: read it as well, unless that is done."""
        if self._retries not in self._topics:
            self._topics.append(self._retries)
            self._subscribe(consumer)

    def _was_read(self, consumer: Consumer) -> bool:
        """Whether the group read the retry topic before: every assignment is committed."""
        try:
            return bool(consumer.committed([Position(self._retries, 0)], timeout=_ASK)[0].offset >= 0)
        except KafkaException:  # the broker is away; `grow` is called when it is back
            return False

    def _subscribe(self, consumer: Consumer) -> None:
        consumer.subscribe(self._topics, **self._callbacks)
