"""What a record says about a call that waits: that its task succeeded, or that it was set aside for good (WIRE.md).

Promises: `answer` is total; anything but the answer to a call that waits, from the topic where it is expected, is None:
results of others, forged ones, dead letters of other tasks, records that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from kworker.core.wire import headers_of
from kworker.errors import DecodeError
from kworker.task import Record

LONGEST_ID = 256
"""Bytes of the longest id that a worker answers by; of a longer one it keeps a hash."""

_DEFAULT_TYPE = "application/json"


class Awaited(Struct, frozen=True):
    """A call that waits. dead_letters: the topic where its task would be set aside; '' when nobody looks there."""

    id: str
    task: str
    reply_topic: str
    dead_letters: str = ""


class Returned(Struct, frozen=True):
    """The task succeeded; the value is as it came."""

    value: bytes | None
    content_type: str


class SetAside(Struct, frozen=True):
    """The task became a dead letter: its reason, the type of the error or the finer cause, and what it said."""

    reason: str
    error: str
    message: str


Answer = Returned | SetAside


def answer(record: Record, waiting: Callable[[str], Awaited | None]) -> tuple[Awaited, Answer] | None:
    """The call that a record answers, and the answer. waiting: the call that waits for the task of this id, if any."""
    headers = headers_of(record)
    if isinstance(headers, DecodeError):
        return None
    found = dict(headers)
    call = waiting(_text(found.get("ce_causationid")))
    if call and record.topic() == call.reply_topic and _text(found.get("ce_type")) == f"{call.task}.result":
        return call, Returned(record.value(), _text(found.get("content-type")) or _DEFAULT_TYPE)
    call = waiting(_text(found.get("ce_id")))
    if call and record.topic() == call.dead_letters and "kworker-reason" in found:
        about = [_text(found.get(f"kworker-{name}")) for name in ("reason", "error-type", "error-message")]
        return call, SetAside(*about)
    return None


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "backslashreplace")
