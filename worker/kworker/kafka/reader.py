"""Reading partitions up to their ends, in no group: for who looks, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Position

ALONE: Mapping[str, str] = {
    "group.id": "kworker-delayed",  # joined by nobody; without a name the client aborts the process when it is closed
    "isolation.level": "read_committed",
    "enable.auto.commit": "false",
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": "20",
    "log_level": "2",
}
"""Settings of a Consumer that is in no group, over those of the user."""

READER: Mapping[str, str] = {**ALONE, "enable.partition.eof": "true", "queued.max.messages.kbytes": "16384"}
"""The same for `to_the_ends`."""

SILENCE = 30.0
"""Seconds after which a log that does not go on is a fault."""

_CALL = 10.0
_WAIT = 0.1
_ABSENT = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_NO_GROUP = KafkaError.GROUP_AUTHORIZATION_FAILED  # nothing is joined or committed: it need not be allowed


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """The partitions of a topic, none when there is no such topic. Raises KafkaException."""
    found = consumer.list_topics(topic, timeout=_CALL).topics[topic]
    if found.error is None:
        return sorted(found.partitions)
    if found.error.code() in _ABSENT:
        return []
    raise KafkaException(found.error)


def to_the_ends(
    consumer: Consumer, places: Sequence[Position], chunk: int, silence: float = SILENCE
) -> Iterator[tuple[list[Message], dict[int, int]]]:
    """What is in these partitions of one topic, from these places on: up to `chunk` records at a time, with the ends
    that were reached, partition -> offset. Both are empty at times, so that whoever reads can end it.

    Raises KafkaException when it cannot be read, or nothing comes for `silence` seconds.
    """
    consumer.assign(list(places))
    unread = {place.partition for place in places}
    heard = time.monotonic()
    while unread:
        messages = consumer.consume(chunk, _WAIT)
        if messages:
            heard = time.monotonic()
        elif time.monotonic() - heard > silence:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        records: list[Message] = []
        ends: dict[int, int] = {}
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[message.partition() or 0] = message.offset() or 0
            elif not error.retriable() and error.code() != _NO_GROUP:
                raise KafkaException(error)
        yield records, ends
        unread -= ends.keys()
