"""Reads the schedules in the delay log, once from its start to its end; joins and changes nothing.

Memory does not grow with what else waits there: the records of tasks are passed over by their keys. What counts of a
schedule's records, its renewals and its tombstones is told in core/scheduled.py and core/delayed.py.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Position

from kworker.core.delayed import CANCEL, ends
from kworker.core.scheduled import PREFIX, standing
from kworker.schedules.schedule import Standing
from kworker.task import Headers

_SILENCE = 30.0  # seconds after which a log that does not go on is a fault
_CHUNK = 1_000
_CALL = 10.0
_ABSENT = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_KEY, _REQUEST = PREFIX.encode(), b"cancel/"
_SETTINGS = {
    "group.id": "kworker-delayed",  # joined by nobody; without a name the client aborts the process when it is closed
    "isolation.level": "read_committed",
    "enable.auto.commit": "false",
    "enable.partition.eof": "true",
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": "20",
    "queued.max.messages.kbytes": "16384",
    "log_level": "2",
}
_NO_GROUP = KafkaError.GROUP_AUTHORIZATION_FAILED  # nothing is joined or committed: it need not be allowed


# Always raises what the client has to say of header names that are not UTF-8; a direct call may not: core/wire.py.
_headers_of: Callable[[Message], Headers | None] = operator.methodcaller("headers")


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
        found = None
        if headers is not None:
            with suppress(ValueError):  # its owner sets it aside
                found = standing(key, message.value(), headers)
        if before is not None and before.partition == partition:
            until = ends(dict(headers or []), offset)[0]
            if before.offset > until:  # it means an earlier one
                if found is not None:
                    self.by_name[name] = before._replace(standing=before.standing.over(found))
                return
            if found is not None and until == offset:  # who wrote it may not know how far the one before had got
                found = found.over(before.standing)
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
    with Consumer({**settings, **_SETTINGS}) as consumer:
        found = consumer.list_topics(log, timeout=_CALL).topics[log]
        if found.error is not None:
            if found.error.code() in _ABSENT:
                return standings
            raise KafkaException(found.error)
        standings.there = True
        unread = set(found.partitions)
        consumer.assign([Position(log, number, OFFSET_BEGINNING) for number in unread])
        heard = time.monotonic()
        while unread:
            messages = consumer.consume(_CHUNK, 0.2)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            for message in messages:
                error = message.error()
                if error is None:
                    standings.take(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition() or 0)
                elif not error.retriable() and error.code() != _NO_GROUP:
                    raise KafkaException(error)
    return standings


def _name(key: bytes) -> str:
    return key.removeprefix(_KEY).decode("utf-8", "replace")


def _headers(message: Message) -> Headers | None:
    """None: they cannot be read."""
    try:
        return _headers_of(message) or []
    except (UnicodeDecodeError, SystemError):
        return None
