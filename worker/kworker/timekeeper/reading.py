"""Records of the delay log as the cache takes them: a task that waits, a schedule, a tombstone, a request to cancel.

Total: any record becomes one of them; what cannot be read becomes an entry with its fault, which is set aside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kworker.core.delayed import CANCEL, SCHEDULES, ends, judge, of_schedule
from kworker.core.scheduled import Newer, standing
from kworker.core.wire import headers_of
from kworker.errors import DecodeError
from kworker.task import Headers, Record
from kworker.timekeeper.cache import REMEMBERED_MS, Asked, Gone, NewEntry
from kworker.timekeeper.entry import Content, pack
from kworker.timekeeper.roster import Planned

_REQUEST, _SCHEDULES = b"cancel/", SCHEDULES.encode()


class Clocks(NamedTuple):
    """What both clocks show, in milliseconds: since the epoch, and since whenever."""

    wall: int
    steady: int

    @property
    def distance(self) -> int:
        """Between the two: it changes when the wall clock is set."""
        return self.wall - self.steady


def clocks() -> Clocks:
    """What they show now."""
    return Clocks(int(time.time() * 1000), int(time.monotonic() * 1000))


Keep = Callable[[Content], bytes]
"""What is kept of the content of a task that waits."""


def read(
    records: Iterable[Record], log: str, clocks: Clocks, keep: Keep = pack
) -> Iterator[NewEntry | Planned | Gone | Asked]:
    """What is in these records, in their order."""
    now, distance, remembered = clocks.wall, clocks.distance, clocks.wall - REMEMBERED_MS
    for record in records:
        offset, key, value = record.offset(), record.key() or b"", record.value()
        headers, unreadable = headers_of(record), ""
        if isinstance(headers, DecodeError):
            headers, unreadable = [], str(headers)
        found = dict(headers)
        if value is None:
            until, outcome = ends(found, offset)
            at = record.timestamp()[1]
            known = at > remembered and not key.startswith(_REQUEST)
            yield Gone(key, until, offset, at if known else 0, outcome)
            continue
        if (id := found.get(CANCEL)) is not None:
            yield Asked(key, id, offset)
            continue
        if key.startswith(_SCHEDULES) and of_schedule(key):
            yield _planned(offset, key, record, headers, log, unreadable)
            continue
        due, fault = judge(key, found, log, now)
        content = keep((value, headers, record.timestamp()[1]))
        yield offset, key, due, due - distance, content, unreadable or fault


def _planned(offset: int, key: bytes, record: Record, headers: Headers, log: str, fault: str) -> Planned:
    value = record.value() or b""
    until, _ = ends(dict(headers), offset)
    found, newer = None, False
    try:
        found = None if fault else standing(key, value, headers)
        if found is not None and found.schedule.topic == log:
            found, fault = None, "its topic is the delay log itself"
    except ValueError as error:
        fault, newer = str(error), isinstance(error, Newer)
    content = b"" if found is not None else pack((value, headers, record.timestamp()[1]))
    return Planned(key, offset, until, found, content, fault, newer)
