"""A record of a retry topic, read as the record that it was when its task was read first.

It waited in the delay log for its next attempt. Promise: whatever of the worker looks at it sees the first place, the
task's own headers byte for byte, and the time it was published; only its offset here is another (Entry.back). Its
`kworker-*` headers are believed, since nobody but kworker writes to that topic. Pure.
"""

from __future__ import annotations

from kworker.core.delayed import ATTEMPT, FIRST_SEEN, ORIGIN, Retried, retried
from kworker.core.wire import headers_of
from kworker.errors import DecodeError
from kworker.task import Headers, Reason, Record, TopicPartition


class Returned:
    """A Record. info: what travelled with it."""

    __slots__ = ("_headers", "_offset", "_place", "_record", "info")

    def __init__(self, record: Record, info: Retried, headers: Headers) -> None:
        self._record = record
        self._headers = headers
        self._place: TopicPartition
        self._place, self._offset = info.place()
        self.info = info

    def topic(self) -> str:
        """The topic it was read from first."""
        return self._place.topic

    def partition(self) -> int:
        """The partition it was read from first."""
        return self._place.partition

    def offset(self) -> int:
        """Its offset there."""
        return self._offset

    def key(self) -> bytes | None:
        """The key's bytes, or None."""
        return self._record.key()

    def value(self) -> bytes | None:
        """The value's bytes, or None."""
        return self._record.value()

    def headers(self) -> Headers:
        """The task's own headers."""
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        """(kind, milliseconds since the epoch) of its publishing."""
        return self._record.timestamp()[0], self.info.published


def returned(record: Record) -> Returned | DecodeError:
    """The first record behind one of a retry topic; a DecodeError for what kworker did not write there."""
    headers = headers_of(record)
    if isinstance(headers, DecodeError):
        return headers
    info, own = retried(headers)
    if info is None:
        wanted = ", ".join((ATTEMPT, FIRST_SEEN, ORIGIN))
        return DecodeError(Reason.UNDECODABLE, "retry", f"it is no retry: {wanted} are missing or cannot be read")
    return Returned(record, info, own)
