"""What waits in the whole delay log, by the topic it is for: read once from its start, and then as far as it grew.

It reads and changes nothing, and joins no group. Promises: what is told is so at the end of the log as it was when
`read` was called; what was cancelled, replaced or handed over by then does not count, and neither does what cannot be
read. Of a task only its id, its target and when it is due are kept, in a file that goes with the process, so memory
does not grow with what waits. One thread uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from msgspec import Struct

from kworker.core.backlog import Backlog
from kworker.core.delayed import TARGET
from kworker.kafka.reader import READER
from kworker.timekeeper.cache import Cache
from kworker.timekeeper.entry import Content
from kworker.timekeeper.reading import clocks
from kworker.timekeeper.replay import replay

_FORGOTTEN = 1_800.0
"""Seconds after which tombstones may be gone that were not read yet: half of the least delete.retention.ms."""

_SILENCE = 10.0  # an offline partition must not make what the exporter knows of the topics too old

_SETTINGS = {
    "auto.offset.reset": "error",  # a gap is seen, not passed over
    "queued.min.messages": "2000",
    "queued.max.messages.kbytes": "2048",  # a partition: who follows is small
}
_Times = tuple[str, int, int, int | None, int | None]  # target, waiting, due, first due, first that is not yet (ms)


class Waiting(Struct, frozen=True):
    """What waits for one topic: tasks and schedules. due: those whose time has come, and that nobody handed over yet;
    since: when the first of them was due. delayed: the others; next: when the first of them is. Times are in seconds
    since the epoch, None when there is none."""

    topic: str
    due: int
    since: float | None
    delayed: int
    next: float | None


class Follower:
    """See the module. settings: of a Consumer. describe: a topic's id and its partitions, '' and none when there is no
    such topic."""

    def __init__(self, log: str, settings: Mapping[str, Any], describe: Callable[[str], tuple[str, list[int]]]) -> None:
        self._log = log
        self._settings = {**settings, **READER, **_SETTINGS}
        self._settings.pop("topic.blacklist", None)  # what the worker's regular expressions leave out is meant here
        self._describe = describe
        self._consumer: Consumer | None = None
        self._caches: dict[int, Cache] = {}
        self._identity = ""
        self._read_at = 0.0

    def close(self) -> None:
        """End the client, and forget what was read."""
        self._forget(self._caches)
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def read(self) -> list[Waiting]:
        """What waits now, in the order of the topics. A log that is not there is empty.

        Raises KafkaException or TimeoutError when the log cannot be read, sqlite3.Error or OSError when the file cannot
        be written; the next call goes on.
        """
        identity, partitions = self._describe(self._log)
        if identity != self._identity or time.time() - self._read_at > _FORGOTTEN:
            self._forget(self._caches)
        try:
            self._follow(partitions)
        except KafkaException as error:
            lost = error.args[0].code() == KafkaError._AUTO_OFFSET_RESET  # the log is not the one that was read
            self._forget(number for number, cache in self._caches.items() if lost or not cache.settled)
            raise
        except BaseException:
            self._forget(self._caches)
            raise
        self._identity, self._read_at = identity, time.time()
        return list(self._told(int(self._read_at * 1000)))

    def _follow(self, partitions: Iterable[int]) -> None:
        self._caches |= {number: Cache(small=True) for number in partitions if number not in self._caches}
        if not self._caches:
            return
        if self._consumer is None:
            self._consumer = Consumer(self._settings)
        try:
            replay(self._consumer, self._log, self._caches, clocks, _target, _SILENCE)
        finally:
            self._consumer.unassign()  # nothing is fetched until it is asked for

    def _told(self, now: int) -> Iterator[Waiting]:
        found = sorted((one for cache in self._caches.values() for one in _times(cache, now)), key=lambda one: one[0])
        for topic, group in groupby(found, key=lambda one: one[0]):
            rows = list(group)
            count, due = sum(row[1] for row in rows), sum(row[2] for row in rows)
            since, following = _first(row[3] for row in rows), _first(row[4] for row in rows)
            yield Waiting(topic, due, since, count - due, following)

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in list(numbers):
            self._caches.pop(number).close()


def of_group(waiting: Iterable[Waiting], backlogs: Iterable[Backlog], takes: Callable[[str], bool]) -> list[Waiting]:
    """What waits for a group: for topics it has offsets of, or that `takes` accepts. backlogs: all of the group."""
    read = {one.place.topic for one in backlogs}
    return [one for one in waiting if one.topic in read or takes(one.topic)]


def _target(content: Content) -> bytes:
    return dict(content[1]).get(TARGET) or b""


def _times(cache: Cache, now: int) -> Iterator[_Times]:
    for target, count, due, first, following in cache.by_content(now):
        yield target.decode("utf-8", "replace"), count, due, first if due else None, following
    for topic, at in cache.schedules.times():
        yield (topic, 1, 1, at, None) if at <= now else (topic, 1, 0, None, at)


def _first(times: Iterable[int | None]) -> float | None:
    return min((at / 1000 for at in times if at is not None), default=None)
