"""Reads the backlog of consumer groups from the broker: log ends, commits, and if wanted the records themselves.

Every call is bounded. Nothing is joined, committed or changed, and no worker needs to run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AdminClient,
    OffsetSpec,
)

from kworker.core.backlog import Backlog, backlog
from kworker.core.metadata import LIMIT
from kworker.task import TopicPartition

CALL = 5.0
"""Seconds that one question to the broker may take."""

_READ = 60.0  # seconds without any record of a partition that has some: the broker does not answer
_CHUNK = 1000
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # the client's own lacks types
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]

Seen = tuple[TopicPartition, int, int]
"""Place, offset and time (ms since the epoch) of a record."""


class Backlogs:
    """See the module. admin, consumer: librdkafka properties; the consumer's group is only a name."""

    def __init__(self, admin: Mapping[str, Any], consumer: Mapping[str, Any]) -> None:
        self._complaint = ""  # what the client had to say last of the broker it could not reach
        silent = logging.getLogger("kworker.backlog")
        silent.disabled = True  # what librdkafka would log is part of the fault
        quiet: dict[str, Any] = {"logger": silent, "error_cb": self._complain}
        self._admin = AdminClient({**admin, **quiet})
        self._settings = {**consumer, **quiet, "queued.min.messages": "2000"}
        self._settings.pop("topic.blacklist", None)  # what is read is chosen here
        self._consumer: Consumer | None = None

    def close(self) -> None:
        """End the client that has read records, if any was; another one is made when it is needed."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def read(self, group: str, takes: Callable[[str], bool]) -> list[Backlog]:
        """The backlog of every partition the group has committed, and of all topics that `takes` accepts.

        In the order of topic and partition. Raises KafkaException.
        """
        try:
            topics = self._admin.list_topics(timeout=CALL).topics
        except KafkaException:
            self._admin.poll(0)  # serves error_cb
            raise
        committed = self._committed(group)
        wanted = {place.topic for place in committed} | {name for name in topics if takes(name)}
        places = [
            TopicPartition(name, partition)
            for name in sorted(wanted)
            if name in topics and topics[name].error is None
            for partition in sorted(topics[name].partitions)
        ]
        lows, ends = self._offsets(places, _EARLIEST), self._offsets(places, _LATEST)
        found = []
        for place in places:
            offset, metadata = committed.get(place, (None, ""))
            found.append(backlog(place, lows[place], max(ends[place], lows[place]), offset, metadata))
        return found

    def topic(self, name: str) -> tuple[str, list[int]]:
        """A topic's id and its partitions, '' and none when there is no such topic. Raises KafkaException."""
        try:
            found = self._admin.describe_topics(TopicCollection([name]), request_timeout=CALL)[name].result(CALL)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return "", []
            raise
        return str(found.topic_id), sorted(one.id for one in found.partitions)

    def oldest(self, backlogs: Iterable[Backlog], within: float = CALL) -> dict[TopicPartition, float]:
        """When the first unfinished record of each partition was published, in seconds since the epoch.

        Partitions without one, or not read `within` these seconds, are left out.
        """
        waiting = {one.place: one for one in backlogs if one.unfinished}
        times: dict[TopicPartition, float] = {}
        deadline = time.monotonic() + within
        for place, offset, milliseconds in self._records(waiting.values(), deadline) if waiting else ():
            one = waiting.get(place)
            if one is not None and not one.is_finished(offset):
                del waiting[place]
                times[place] = max(0, milliseconds) / 1000
                if not waiting:
                    break
        return times

    def exact(self, backlogs: Iterable[Backlog]) -> dict[TopicPartition, int]:
        """How many records of each partition are unfinished, by reading all of them: markers and gaps do not count.

        Raises KafkaException when the broker stops answering.
        """
        behind = {one.place: one for one in backlogs if one.unfinished}
        counts = dict.fromkeys((one.place for one in backlogs), 0)
        for place, offset, _ in self._records(behind.values(), None):
            counts[place] += not behind[place].is_finished(offset)
        return counts

    def _records(self, backlogs: Iterable[Backlog], deadline: float | None) -> Iterator[Seen]:
        """Every record from each partition's start to its end."""
        open_ends = {one.place: one.end for one in backlogs}
        if self._consumer is None:
            settings = {**self._settings, "enable.partition.eof": "true", "isolation.level": "read_committed"}
            self._consumer = Consumer(settings)
        consumer = self._consumer
        try:
            consumer.assign([Position(*one.place, one.start) for one in backlogs])
            heard = time.monotonic()
            while open_ends:
                batch = consumer.consume(_CHUNK, 0.1)
                now = time.monotonic()
                if batch:
                    heard = now
                elif now - heard > _READ:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no records came of those that there are"))
                if deadline is not None and now > deadline:
                    return
                for message in batch:
                    place = TopicPartition(message.topic() or "", message.partition() or 0)
                    end, offset, error = open_ends.get(place), message.offset() or 0, message.error()
                    if end is None:
                        continue
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    if error is None and offset < end:
                        yield place, offset, message.timestamp()[1]
                    if offset + (error is None) >= end:
                        del open_ends[place]
                        consumer.incremental_unassign([Position(*place)])
        except KafkaException:
            self.close()  # whatever is wrong with it
            raise
        finally:
            if self._consumer is not None:
                consumer.unassign()  # nothing is fetched until it is needed again

    def why(self, error: Exception) -> str:
        """Why a method raised this KafkaException, or TimeoutError, as far as it is known."""
        if not isinstance(error, KafkaException | TimeoutError):
            return str(error)
        said = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        return self._complaint or said

    def _complain(self, error: KafkaError) -> None:
        self._complaint = error.str()

    def _committed(self, group: str) -> dict[TopicPartition, tuple[int, str]]:
        request = [ConsumerGroupTopicPartitions(group)]
        answer = self._admin.list_consumer_group_offsets(request, request_timeout=CALL)[group].result(CALL)
        return {
            TopicPartition(position.topic, position.partition): (position.offset, (position.metadata or "")[:LIMIT])
            for position in answer.topic_partitions or ()
            if position.error is None and position.offset >= 0
        }

    def _offsets(self, places: list[TopicPartition], which: OffsetSpec) -> dict[TopicPartition, int]:
        """The offset of each partition; committed records only, so the latest is the last stable one."""
        if not places:
            return {}
        answers = self._admin.list_offsets(
            {Position(*place): which for place in places},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=CALL,
        )
        return {
            TopicPartition(position.topic, position.partition): answer.result(CALL).offset
            for position, answer in answers.items()
        }
