"""Records of the delay log as the cache takes them: a task that waits, a tombstone, or a request to cancel.

Total: any record becomes one of them; what cannot be read becomes an entry with its fault, which is set aside.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kworker.core.delayed import CANCEL, ends, judge
from kworker.task import Headers, Record
from kworker.timekeeper.cache import REMEMBERED_MS, Asked, Gone, NewEntry, pack

_REQUEST = b"cancel/"
# Always raises what the client has to say of header names that are not UTF-8; a direct call may not: core/wire.py.
_headers_of: Callable[[Record], Headers | None] = operator.methodcaller("headers")


class Clocks(NamedTuple):
    """What both clocks show, in milliseconds: since the epoch, and since whenever."""

    wall: int
    steady: int

    @property
    def distance(self) -> int:
        """Between the two: it changes when the wall clock is set."""
        return self.wall - self.steady


def read(records: Iterable[Record], log: str, clocks: Clocks) -> Iterator[NewEntry | Gone | Asked]:
    """What is in these records, in their order."""
    now, distance, remembered = clocks.wall, clocks.distance, clocks.wall - REMEMBERED_MS
    for record in records:
        offset, key, value = record.offset(), record.key() or b"", record.value()
        unreadable = ""
        try:
            headers = _headers_of(record) or []
        except (UnicodeDecodeError, SystemError):
            headers, unreadable = [], "a header's name is not UTF-8; its headers are lost"
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
        due, fault = judge(key, found, log, now)
        content = pack((value, headers, record.timestamp()[1]))
        yield offset, key, due, due - distance, content, unreadable or fault
