"""The delay log brought into caches: read from its start at once, or applied as it comes. `keep` says what they keep
of a task; who hands over needs all of it.

Both ways give the same; the first is several times as fast, and `settle` ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer
from confluent_kafka import TopicPartition as Position

from kworker.core.delayed import of_schedule
from kworker.kafka.reader import SILENCE, to_the_ends
from kworker.task import Record
from kworker.timekeeper.cache import Asked, Cache, Gone
from kworker.timekeeper.entry import pack
from kworker.timekeeper.reading import Clocks, Keep, read
from kworker.timekeeper.roster import Planned

_CHUNK = 500


def replay(
    consumer: Consumer,
    log: str,
    caches: Mapping[int, Cache],
    look: Callable[[], Clocks],
    keep: Keep = pack,
    silence: float = SILENCE,
) -> None:
    """Bring these partitions of `log` into their caches, up to their ends, and settle them. See `bring`."""
    bring(consumer, log, caches, look, keep, silence)
    for cache in caches.values():
        if not cache.settled:
            cache.settle()


def bring(
    consumer: Consumer,
    log: str,
    caches: Mapping[int, Cache],
    look: Callable[[], Clocks],
    keep: Keep = pack,
    silence: float = SILENCE,
) -> None:
    """Bring these partitions of `log` into their caches, up to their ends, and settle none of them: from their start,
    or from where they were left.

    look: asked for the time before each batch; what it raises ends this. Raises KafkaException when the log cannot be
    read, or nothing comes for `silence` seconds.
    """
    places = [Position(log, number, cache.position or OFFSET_BEGINNING) for number, cache in caches.items()]
    clocks = look()
    for messages, ends in to_the_ends(consumer, places, _CHUNK, silence):
        by_partition: dict[int, list[Record]] = {}
        for message in messages:
            by_partition.setdefault(message.partition() or 0, []).append(cast(Record, message))
        for number, records in by_partition.items():
            (apply if caches[number].settled else load)(caches[number], records, log, clocks, keep)
        for number, end in ends.items():
            caches[number].position = max(caches[number].position, end)
        clocks = look()


def load(cache: Cache, records: Sequence[Record], log: str, clocks: Clocks, keep: Keep = pack) -> None:
    """The next records of a log that is read from its start; the cache is not settled."""
    items = list(read(records, log, clocks, keep))
    entries = [item for item in items if isinstance(item, tuple)]
    others = [item for item in items if not isinstance(item, tuple)] if len(entries) < len(items) else []
    gone = [item for item in others if isinstance(item, Gone)]
    cache.load(entries, gone, [item for item in others if isinstance(item, Asked)])
    for item in others:
        if not isinstance(item, Asked):
            _plan(cache, item, clocks)
    cache.position = records[-1].offset() + 1


def apply(cache: Cache, records: Sequence[Record], log: str, clocks: Clocks, keep: Keep = pack) -> None:
    """The next records, for a cache that is settled."""
    cache.begin()
    for item in read(records, log, clocks, keep):
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
