"""Records to and from a Kafka, all acknowledged and all read: what a test states and what it then finds.

Every function opens its own client and closes it, and raises AssertionError when Kafka does not do it in TIMEOUT.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its stub forgets to export it

from kworker.core.metadata import decode

TIMEOUT = 30.0
Isolation = Literal["read_committed", "read_uncommitted"]


class NewRecord(NamedTuple):
    """A record to produce. `partition`: -1 lets the key decide; `timestamp`: ms since the epoch, 0 is now."""

    value: bytes | None = None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int = -1
    timestamp: int = 0


class MakeTopic(Protocol):
    """Creates a topic of a unique name in the shared Kafka and returns that name (fixture `topic`)."""

    def __call__(self, partitions: int = 1, config: Mapping[str, str] | None = None) -> str: ...


def _client(bootstrap: str) -> dict[str, str | int | float | bool]:
    return {
        "bootstrap.servers": bootstrap,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 200,
        "retry.backoff.ms": 20,
        "topic.metadata.refresh.fast.interval.ms": 20,
        "socket.timeout.ms": 10_000,
    }


def _consumer(bootstrap: str, group: str, isolation: Isolation = "read_committed") -> Consumer:
    return Consumer(
        _client(bootstrap)
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "fetch.wait.max.ms": 20,
            "fetch.queue.backoff.ms": 10,
            "allow.auto.create.topics": False,
        }
    )


def create_topic(bootstrap: str, topic: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
    """Create `topic`, replicated as the broker does by default, and return when every partition has a leader."""
    client = AdminClient(_client(bootstrap))
    new = NewTopic(topic, num_partitions=partitions, config=dict(config or {}))
    client.create_topics([new], operation_timeout=TIMEOUT)[topic].result(TIMEOUT)
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = client.list_topics(topic, timeout=TIMEOUT).topics[topic]
        if len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values()):
            return
        assert time.monotonic() < deadline, f"{topic} has no leaders: {found.error or found.partitions}"
        time.sleep(0.02)


def produce(bootstrap: str, topic: str, records: Iterable[NewRecord | bytes]) -> list[tuple[int, int]]:
    """Write `records` (bytes: a value alone); returns their (partition, offset) in order, all acknowledged."""
    producer = Producer(
        _client(bootstrap)
        | {
            "enable.idempotence": True,
            "max.in.flight": 1,  # as kworker's own: more could lose the first records of a new topic
            "linger.ms": 2,
            "delivery.timeout.ms": int(TIMEOUT * 1000),
            "message.max.bytes": 100_000_000,  # the limit of the topic counts
            "batch.size": 16_384,  # and it counts for batches
        }
    )
    sent = [_Delivery(producer, topic, NewRecord(r) if isinstance(r, bytes) else r) for r in records]
    producer.flush(TIMEOUT)
    refused = [f"record {index}: {delivery.fault}" for index, delivery in enumerate(sent) if delivery.fault]
    assert not refused, f"{topic} did not take {len(refused)} of {len(sent)} records: {refused[:3]}"
    return [delivery.place for delivery in sent]


class _Delivery:
    """What became of one produced record; `fault` is empty once it was acknowledged."""

    def __init__(self, producer: Producer, topic: str, record: NewRecord) -> None:
        self.fault = "not acknowledged in time"
        self.place = (-1, -1)
        while True:
            try:
                producer.produce(
                    topic,
                    record.value,
                    record.key,
                    record.partition,
                    on_delivery=self._report,
                    timestamp=record.timestamp,
                    headers=list(record.headers),
                )
            except BufferError:  # the client's queue is full: let it send
                producer.poll(1.0)
            else:
                return

    def _report(self, error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is None and partition is not None and offset is not None:
            self.fault, self.place = "", (partition, offset)
        elif error is not None:
            self.fault = error.str()


def read_all(bootstrap: str, topic: str, *, isolation: Isolation = "read_committed") -> list[Message]:
    """All that can be read in `topic` now, by partition and offset, outside any group."""
    messages: list[Message] = []
    with _consumer(bootstrap, "kworker-tests", isolation) as consumer:
        open_partitions = set(_partitions(consumer, topic))
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in open_partitions])
        deadline = time.monotonic() + TIMEOUT
        while open_partitions:
            assert time.monotonic() < deadline, f"the end of {topic} was not reached in {sorted(open_partitions)}"
            message = consumer.poll(0.1)
            if message is None:
                continue
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition() or 0)
            elif not error.retriable():
                raise KafkaException(error)
    return sorted(messages, key=lambda message: (message.partition(), message.offset()))


def committed(bootstrap: str, group: str, topic: str) -> dict[int, tuple[int, str]]:
    """What `group` has committed: partition -> (offset, metadata); partitions without a commit are absent."""
    with _consumer(bootstrap, group) as consumer:
        asked = [TopicPartition(topic, partition) for partition in _partitions(consumer, topic)]
        found = consumer.committed(asked, timeout=TIMEOUT)
    for place in found:
        if place.error is not None:
            raise KafkaException(place.error)
    return {place.partition: (place.offset, place.metadata or "") for place in found if place.offset != OFFSET_INVALID}


def progress(bootstrap: str, group: str, topic: str) -> dict[int, tuple[int, list[int]]]:
    """What `group` has done: partition -> (committed offset, what is finished above: start, end, start, end ...)."""
    found = {}
    for partition, (offset, metadata) in committed(bootstrap, group, topic).items():
        intervals = decode(metadata, offset)
        assert intervals is not None, metadata
        found[partition] = offset, intervals.bounds
    return found


def all_done(bootstrap: str, group: str, topic: str) -> bool:
    """Whether the group's offsets are at the end of every partition, with nothing left above them."""
    ends: dict[int, tuple[int, list[int]]] = {place: (end, []) for place, end in end_offsets(bootstrap, topic).items()}
    return progress(bootstrap, group, topic) == ends


def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """The offset after the last record (or marker) of each partition."""
    with _consumer(bootstrap, "kworker-tests", "read_uncommitted") as consumer:
        return {
            partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT)[1]
            for partition in _partitions(consumer, topic)
        }


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    found = consumer.list_topics(topic, timeout=TIMEOUT).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return sorted(found.partitions)
