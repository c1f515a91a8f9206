"""What waits in the whole delay log, read once from its start: for lists, and to look one task up.

It reads and changes nothing. Memory does not grow with what waits: it is kept in files, which go when it is closed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Self, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Position

from kworker.core.delayed import Delayed, decode
from kworker.task import Record
from kworker.timekeeper.cache import Asked, Cache, Entry, Gone
from kworker.timekeeper.reading import Clocks, read

SILENCE = 30.0
"""Seconds after which a log that does not go on is a fault."""

_CHUNK = 1_000
_CALL = 10.0
_SETTINGS = {
    "group.id": "kworker-delayed",  # joined by nobody; without a name the client aborts the process when it is closed
    "isolation.level": "read_committed",
    "enable.auto.commit": "false",
    "enable.partition.eof": "true",
    "auto.offset.reset": "earliest",
    "queued.max.messages.kbytes": "16384",
    "log_level": "2",
}


class Browser:
    """Use it as a context manager. settings: of a Consumer. Raises KafkaException when the log cannot be read; one
    that does not exist is empty."""

    def __init__(self, log: str, settings: Mapping[str, Any]) -> None:
        self._log = log
        self._settings = {**settings, **_SETTINGS}
        self._caches: dict[int, Cache] = {}

    def __enter__(self) -> Self:
        try:
            with Consumer(self._settings) as consumer:
                self._load(consumer)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for cache in self._caches.values():
            cache.close()

    @property
    def count(self) -> int:
        """How many tasks wait."""
        return sum(cache.pending for cache in self._caches.values())

    def first(self, limit: int) -> list[Delayed]:
        """Those that are due first, at most `limit`."""
        found = [entry for cache in self._caches.values() for entry in cache.first(limit)]
        found.sort(key=lambda entry: (entry.due, entry.id))
        return [_task(entry) for entry in found[:limit]]

    def find(self, id: bytes) -> Delayed | None:
        """The task of this id, if it waits."""
        for cache in self._caches.values():
            if (entry := cache.find(id)) is not None:
                return _task(entry)
        return None

    def _load(self, consumer: Consumer) -> None:
        found = consumer.list_topics(self._log, timeout=_CALL).topics[self._log]
        if found.error is not None:
            if found.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
                return
            raise KafkaException(found.error)
        self._caches = {number: Cache() for number in found.partitions}
        consumer.assign([Position(self._log, number, OFFSET_BEGINNING) for number in self._caches])
        unread = set(self._caches)
        heard = time.monotonic()
        while unread:
            messages = consumer.consume(_CHUNK, 0.2)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            by_partition: dict[int, list[Record]] = {}
            for message in messages:
                error = message.error()
                if error is None:
                    by_partition.setdefault(message.partition() or 0, []).append(cast(Record, message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition() or 0)
                elif not error.retriable():
                    raise KafkaException(error)
            for number, records in by_partition.items():
                self._take(self._caches[number], records)
        for cache in self._caches.values():
            cache.settle()

    def _take(self, cache: Cache, records: list[Record]) -> None:
        clocks = Clocks(int(time.time() * 1000), int(time.monotonic() * 1000))
        found = list(read(records, self._log, clocks))
        entries = [item for item in found if isinstance(item, tuple)]
        gone = [item for item in found if isinstance(item, Gone)]
        cache.load(entries, gone, [item for item in found if isinstance(item, Asked)])


def _task(entry: Entry) -> Delayed:
    value, headers, _ = entry.record()
    if entry.fault:
        return Delayed(entry.id, entry.due, "", None, value, headers)
    return decode(entry.id, value, headers, entry.due)
