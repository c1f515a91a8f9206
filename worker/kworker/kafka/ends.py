"""Where the logs of the assigned partitions end, as far as it is known: for the lag that is shown."""

from __future__ import annotations

from collections.abc import Collection

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as Position

from kworker.task import TopicPartition

_LOOK, _ASK = 2.0, 0.5


class LogEnds:
    """Used by the intake thread; others read `known`."""

    def __init__(self) -> None:
        self.known: dict[TopicPartition, int] = {}
        self._next_look = 0.0

    def look(
        self, consumer: Consumer, assigned: Collection[TopicPartition], paused: Collection[TopicPartition], now: float
    ) -> None:
        """Note the ends, when it is time (`now`: monotonic): fetches brought them along, but not for what is paused."""
        if now < self._next_look:
            return
        self._next_look = now + _LOOK
        ends, answers = {}, True
        for name in assigned:
            if answers and name in paused:
                try:
                    ends[name] = consumer.get_watermark_offsets(Position(*name), timeout=_ASK)[1]
                    continue
                except KafkaException:  # others would be waited for as long; what was known last is shown
                    answers = False
            _, end = consumer.get_watermark_offsets(Position(*name), cached=True)
            if end >= 0:
                ends[name] = end
        self.known = ends
