"""Reads a dead-letter topic: its letters in log order, and which of them are resolved.

Owns a Consumer that joins no group. Promises: what is read ends where the log ended when it was opened, so a letter
that a replay causes is not met by it; every call is bounded, and what the broker refuses is one line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from kworker.config import Config
from kworker.core.metadata import decode
from kworker.dlq.letter import Letter, read
from kworker.dlq.resolved import Resolved
from kworker.errors import ConfigError
from kworker.kafka.settings import consumer_settings
from kworker.task import Record

TIMEOUT = 10.0
"""Seconds that the broker may take to answer."""

SILENCE = 30.0
"""Seconds after which a log that does not go on is a fault."""

_AT_ONCE = 1_000
_PATIENCE = 2.0  # seconds for one question about the group; without Read of it the client waits in vain
_PAUSE = 0.1
_NOT_YET = {
    KafkaError._TIMED_OUT,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}
_SETTINGS = {
    "queued.min.messages": "1000",
    "queued.max.messages.kbytes": "8192",  # a partition: what waits here is not bounded by anything else
    "fetch.wait.max.ms": "50",  # questions about topics wait behind it, on the same connection
    "max.poll.interval.ms": "86400000",  # it is no member: a slow replay loses nothing
}


class Read(NamedTuple):
    """A letter, and whether it is resolved."""

    letter: Letter
    resolved: bool


def group_of(config: Config, topic: str) -> str:
    """The consumer group that holds what of this dead-letter topic is resolved; also the name of its transactions."""
    return f"{config.namespace}.dlq.{topic}"


class Complaints:
    """What a client has to say beside the answers of its calls; the first is nearest to the cause."""

    def __init__(self) -> None:
        self.first: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        """The client's `error_cb`."""
        self.first = self.first or error


@contextmanager
def one_line(config: Config, topic: str, complaints: Complaints, needed: str) -> Iterator[None]:
    """What the Kafka client raises, as ConfigError: where, what the broker says, and what is needed."""
    try:
        yield
    except KafkaException as error:
        cause: KafkaError = error.args[0]
        if cause.code() == KafkaError._TIMED_OUT and complaints.first is not None:
            cause = complaints.first
        raise ConfigError(
            [f"{topic}: broker {config.bootstrap}: {cause.str()}: check --bootstrap, its security, and that {needed}"]
        ) from error


class Letters:
    """One dead-letter topic. Use it as a context manager; call `open` before anything else."""

    def __init__(self, config: Config, topic: str) -> None:
        self.topic = topic
        self.group = group_of(config, topic)
        self.resolved: dict[int, Resolved] = {}
        """Partition -> what is resolved; kept up by whoever resolves."""
        self.unknown = False
        """Whether the group has no offsets: nothing was ever resolved, or the broker has forgotten it."""
        self._config = config
        self._ends: dict[int, tuple[int, int]] = {}  # partition -> its first offset, and the one after its last
        self._complaints = Complaints()
        silent = logging.getLogger("kworker.dlq.client")
        silent.disabled = True  # what librdkafka would log is part of the fault
        settings = consumer_settings(config) | _without(_SETTINGS, config.kafka)
        settings |= {"group.id": self.group, "logger": silent, "error_cb": self._complaints}
        self.consumer = Consumer(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.consumer.close()

    def look(self) -> None:
        """Raises ConfigError when there is no such topic, or it may not be read."""
        with one_line(self._config, self.topic, self._complaints, "Describe of the topic is allowed"):
            self._partitions()

    def open(self) -> None:
        """Find out where the log begins and ends, and what is resolved. Raises ConfigError."""
        needed = f"Read of the topic and of the group {self.group} is allowed"
        with one_line(self._config, self.topic, self._complaints, needed):
            partitions = self._partitions()
            places = self._committed(partitions)
            for place in places:
                if place.error is not None:
                    raise KafkaException(place.error)
                low, high = self.consumer.get_watermark_offsets(place, timeout=TIMEOUT)
                self._ends[place.partition] = low, high
                self.resolved[place.partition] = self._restored(place, low, high)
            self.unknown = all(place.offset < 0 for place in places)

    def _committed(self, partitions: list[int]) -> list[TopicPartition]:
        """What the group has committed; asked again while its coordinator starts, as on a new broker."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return self.consumer.committed([TopicPartition(self.topic, p) for p in partitions], timeout=_PATIENCE)
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                    raise
            # Nothing is assigned: what comes is what the client has to say of the group.
            said = self.consumer.poll(_PAUSE)
            fault = said.error() if said is not None else None
            if fault is not None and fault.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise KafkaException(fault)

    def _partitions(self) -> list[int]:
        found = self.consumer.list_topics(self.topic, timeout=TIMEOUT).topics[self.topic]
        if found.error is not None:
            if found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise KafkaException(found.error)
            raise ConfigError([f"{self.topic}: there is no such topic at this broker: name a dead-letter topic"])
        return sorted(found.partitions)

    def _restored(self, place: TopicPartition, low: int, high: int) -> Resolved:
        """What is known to be resolved; a log that does not reach so far any more has new letters."""
        if place.offset < 0:
            return Resolved(low)
        above = decode(place.metadata, place.offset)
        if above is None:
            raise ConfigError(
                [
                    f"{self.topic}/{place.partition}: the metadata of the group {self.group} at {place.offset} was not "
                    "written by kworker, so what is resolved is not known: set its offset anew with "
                    "kafka-consumer-groups.sh --reset-offsets"
                ]
            )
        return Resolved(min(max(place.offset, low), high), above)

    def partitions_of(self, topic: str) -> int:
        """How many partitions a topic has; 0 when there is none. Asking creates none. Raises ConfigError."""
        with one_line(self._config, topic, self._complaints, "Describe of the topic is allowed"):
            found = self.consumer.list_topics(topic, timeout=TIMEOUT).topics[topic]
            if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise KafkaException(found.error)
            return len(found.partitions)

    def ends_at(self, moment: int) -> dict[int, tuple[int, int]]:
        """The first offset of each partition, and the first whose record is of `moment` (ms since the epoch) or later.

        Raises ConfigError.
        """
        with one_line(self._config, self.topic, self._complaints, "Read of the topic is allowed"):
            asked = [TopicPartition(self.topic, partition, moment) for partition in self._ends]
            ends = {}
            for place in self.consumer.offsets_for_times(asked, timeout=TIMEOUT):
                if place.error is not None:
                    raise KafkaException(place.error)
                low, high = self._ends[place.partition]
                ends[place.partition] = low, min(place.offset, high) if place.offset >= 0 else high
            return ends

    def from_the_first(self, *, resolved: bool = False) -> Iterator[Read]:
        """The unresolved letters in log order by partition, or with `resolved` all of them. Raises ConfigError."""
        starts = {p: low if resolved else self.resolved[p].base for p, (low, _) in self._ends.items()}
        waiting = {p for p, (_, high) in self._ends.items() if starts[p] < high}
        self.consumer.assign([TopicPartition(self.topic, p, starts[p]) for p in waiting])
        with one_line(self._config, self.topic, self._complaints, "Read of the topic is allowed"):
            while waiting:
                for message in self._polled():
                    yield from self._read(message, waiting, resolved)

    def _polled(self) -> list[Any]:
        deadline = time.monotonic() + SILENCE
        while (first := self.consumer.poll(1.0)) is None:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [first, *self.consumer.consume(_AT_ONCE, 0)]

    def _read(self, message: Any, waiting: set[int], resolved: bool) -> Iterator[Read]:
        partition, offset = message.partition(), message.offset()
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if error.retriable():
                return
            raise KafkaException(error)
        if partition not in waiting:
            return
        state, end = self.resolved[partition], self._ends[partition][1]
        if error is not None or offset >= end:
            # Order: not up to `end` when the log stops before it: a transaction may be open there.
            state.ended(min(offset, end))
            self._leave(partition, waiting)
            return
        if offset >= state.base:
            state.seen(offset)
        known = offset in state
        if resolved or not known:
            yield Read(read(cast(Record, message)), known)
        if offset + 1 == end:
            self._leave(partition, waiting)

    def _leave(self, partition: int, waiting: set[int]) -> None:
        waiting.discard(partition)
        self.consumer.incremental_unassign([TopicPartition(self.topic, partition)])


def _without(settings: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if name not in others}
