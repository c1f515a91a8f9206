"""The delay log brought into caches: read from its start at once, or applied as it comes.

Both ways give the same; the first is several times as fast, and `settle` ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Position

from kworker.core.delayed import of_schedule
from kworker.task import Record
from kworker.timekeeper.cache import Asked, Cache, Gone
from kworker.timekeeper.reading import Clocks, read
from kworker.timekeeper.roster import Planned

SILENCE = 30.0
"""Seconds after which a log that does not go on is a fault."""

_CHUNK = 500
_NO_GROUP = KafkaError.GROUP_AUTHORIZATION_FAILED  # nothing is joined or committed: it need not be allowed


def replay(consumer: Consumer, log: str, caches: Mapping[int, Cache], look: Callable[[], Clocks]) -> None:
    """Load these partitions of `log` into their caches, from their start to their end, and settle them.

    look: asked for the time before each batch. Raises KafkaException when the log cannot be read.
    """
    consumer.assign([Position(log, number, OFFSET_BEGINNING) for number in caches])
    unread = set(caches)
    heard = time.monotonic()
    while unread:
        clocks = look()
        messages = consumer.consume(_CHUNK, 0.2)
        if messages:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        by_partition: dict[int, list[Record]] = {}
        ends: dict[int, int] = {}
        for message in messages:
            error = message.error()
            if error is None:
                by_partition.setdefault(message.partition() or 0, []).append(cast(Record, message))
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[message.partition() or 0] = message.offset() or 0
            elif not error.retriable() and error.code() != _NO_GROUP:
                raise KafkaException(error)
        for number, records in by_partition.items():
            load(caches[number], records, log, clocks)
        for number, end in ends.items():
            unread.discard(number)
            caches[number].position = max(caches[number].position, end)
    for cache in caches.values():
        cache.settle()


def load(cache: Cache, records: Sequence[Record], log: str, clocks: Clocks) -> None:
    """The next records of a log that is read from its start; the cache is not settled."""
    items = list(read(records, log, clocks))
    entries = [item for item in items if isinstance(item, tuple)]
    others = [item for item in items if not isinstance(item, tuple)] if len(entries) < len(items) else []
    gone = [item for item in others if isinstance(item, Gone)]
    cache.load(entries, gone, [item for item in others if isinstance(item, Asked)])
    for item in others:
        if not isinstance(item, Asked):
            _plan(cache, item, clocks)
    cache.position = records[-1].offset() + 1


def apply(cache: Cache, records: Sequence[Record], log: str, clocks: Clocks) -> None:
    """The next records, for a cache that is settled."""
    cache.begin()
    for item in read(records, log, clocks):
        if isinstance(item, tuple):
            cache.put(item)
        elif isinstance(item, Asked):
            cache.ask(item)
        else:
            if isinstance(item, Gone):
                cache.end(item)
            _plan(cache, item, clocks)
    cache.commit()
    cache.position = records[-1].offset() + 1


def _plan(cache: Cache, item: Planned | Gone, clocks: Clocks) -> None:
    if isinstance(item, Planned):
        cache.schedules.put(item, clocks.distance)
    elif of_schedule(item.id):
        cache.schedules.end(item.id, item.until, item.offset)
