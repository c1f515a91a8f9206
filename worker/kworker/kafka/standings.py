"""Reads the schedules in the delay log, once from its start to its end; joins and changes nothing.

Memory does not grow with what else waits there: the records of tasks are passed over by their keys. What counts of a
schedule's records, its renewals and its tombstones is told in core/scheduled.py and core/delayed.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message
from confluent_kafka import TopicPartition as Position

from kworker.core.delayed import CANCEL, ends
from kworker.core.scheduled import PREFIX, Newer, standing
from kworker.core.wire import headers_of
from kworker.errors import DecodeError
from kworker.kafka.reader import READER, partitions_of, to_the_ends
from kworker.schedules.schedule import Standing
from kworker.task import Headers, Record

_CHUNK = 1_000
_KEY, _REQUEST = PREFIX.encode(), b"cancel/"


class Stood(NamedTuple):
    """A schedule, and where it stands in the delay log."""

    standing: Standing
    partition: int
    offset: int


class Standings:
    """What was read. by_name: the schedules. requests: those to remove one that nobody answered yet, by the name:
    (partition, key)."""

    def __init__(self) -> None:
        self.there = False
        """Whether there is a delay log."""
        self.by_name: dict[str, Stood] = {}
        self.newer: dict[str, tuple[int, int]] = {}
        """Schedules that cannot be read here and stand nevertheless: by the name, (partition, offset)."""
        self.requests: dict[str, list[tuple[int, bytes]]] = {}

    def take(self, message: Message) -> None:
        """A record of the delay log, in the order of its partition."""
        key = message.key() or b""
        if key.startswith(_KEY):
            self._schedule(key, message)
        elif key.startswith(_REQUEST):
            self._request(key, message)

    def _schedule(self, key: bytes, message: Message) -> None:
        name, headers = _name(key), _headers(message)
        partition, offset, before = message.partition() or 0, message.offset() or 0, self.by_name.get(name)
        found, newer = None, False
        if headers is not None:
            try:
                found = standing(key, message.value(), headers)
            except ValueError as error:  # its owner sets it aside, or keeps it
                newer = isinstance(error, Newer)
        kept = self.newer.get(name)
        if kept is not None and kept[0] == partition:
            if kept[1] > ends(dict(headers or []), offset)[0]:
                return  # it means an earlier one
            del self.newer[name]
        if before is not None and before.partition == partition:
            until = ends(dict(headers or []), offset)[0]
            if before.offset > until:  # it means an earlier one
                if found is not None:
                    self.by_name[name] = before._replace(standing=before.standing.over(found))
                return
            if found is not None and until == offset:  # who wrote it may not know how far the one before had got
                found = found.over(before.standing)
        if newer:
            self.newer[name] = partition, offset
        if found is not None:
            self.by_name[name] = Stood(found, partition, offset)
        elif before is not None and before.partition == partition:
            del self.by_name[name]

    def _request(self, key: bytes, message: Message) -> None:
        partition = message.partition() or 0
        if message.value() is None:
            for places in self.requests.values():
                if (partition, key) in places:
                    places.remove((partition, key))
            return
        id = dict(_headers(message) or []).get(CANCEL) or b""
        if id.startswith(_KEY):
            self.requests.setdefault(_name(id), []).append((partition, key))


def read(log: str, settings: Mapping[str, Any]) -> Standings:
    """The schedules that stand. settings: of a Consumer. Raises KafkaException when the log cannot be read."""
    standings = Standings()
    with Consumer({**settings, **READER}) as consumer:
        places = [Position(log, number, OFFSET_BEGINNING) for number in partitions_of(consumer, log)]
        standings.there = bool(places)
        for messages, _ in to_the_ends(consumer, places, _CHUNK):
            for message in messages:
                standings.take(message)
    return standings


def _name(key: bytes) -> str:
    return key.removeprefix(_KEY).decode("utf-8", "replace")


def _headers(message: Message) -> Headers | None:
    """None: they cannot be read."""
    found = headers_of(cast(Record, message))
    return None if isinstance(found, DecodeError) else found
