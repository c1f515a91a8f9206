"""What waits in the whole delay log, read once from its start: for lists, and to look one task up.

It reads and changes nothing. Memory does not grow with what waits: it is kept in files, which go when it is closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from confluent_kafka import Consumer

from kworker.core.delayed import Delayed, decode
from kworker.kafka.reader import READER, partitions_of
from kworker.timekeeper.cache import Cache
from kworker.timekeeper.entry import Entry
from kworker.timekeeper.reading import clocks
from kworker.timekeeper.replay import replay


class Browser:
    """Use it as a context manager. settings: of a Consumer. Raises KafkaException when the log cannot be read; one
    that does not exist is empty."""

    def __init__(self, log: str, settings: Mapping[str, Any]) -> None:
        self._log = log
        self._settings = {**settings, **READER}
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
        self._caches = {number: Cache() for number in partitions_of(consumer, self._log)}
        replay(consumer, self._log, self._caches, clocks)


def _task(entry: Entry) -> Delayed:
    value, headers, _ = entry.record()
    if entry.fault:
        return Delayed(entry.id, entry.due, "", None, value, headers)
    return decode(entry.id, value, headers, entry.due)
