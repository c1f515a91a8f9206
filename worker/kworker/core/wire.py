"""The decode step, first half: a record's envelope becomes a Task, by headers alone (WIRE.md; CloudEvents 1.0
Kafka protocol binding, binary mode, read leniently).

Total: any record gives a Task or a DecodeError. The payload is not looked at here; a slot does that, where a bomb
costs one slot. Only in structured mode the envelope is in the value; structured.py looks for its attributes there.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Container
from datetime import datetime

from kworker.core import structured
from kworker.errors import DecodeError
from kworker.task import Headers, Reason, Record, Task

UNKNOWN = "_unknown"
"""Stands for every task name that is not registered, in metrics and in tasks that cannot run."""

MOST_HEADERS = 256
MOST_HEADER_BYTES = 256 * 1024
_LONGEST_ID = 256
_NAME_LOST = "header_name"

# confluent-kafka 2.16 returns a list with a null pointer in it, and leaves an exception pending, when a header's name
# is not UTF-8. `record.headers()` of a hot loop does not check for that (CPython's specialised calls), so the error
# would appear anywhere later; this call always raises it, as SystemError.
_headers_of: Callable[[Record], Headers | None] = operator.methodcaller("headers")

_TYPE, _SHORT_TYPE = "ce_type", "task"


def decode(record: Record, names: Container[str], default: str | None) -> Task | DecodeError:
    """Read a record's envelope.

    names: the tasks that can run here. default: the topic's configured task, for records that name none.
    Of duplicate headers the last counts; `ce_type` wins over `task`.
    """
    try:
        headers = _headers_of(record) or []
    except (UnicodeDecodeError, SystemError):
        return _name_lost()
    found = dict(headers)
    attributes: dict[str, bytes] | None = None
    if (kind := found.get("content-type")) and kind[: len(structured.MARK)].lower() == structured.MARK:
        event = structured.attributes(record.value(), kind)
        if isinstance(event, DecodeError):
            return event
        attributes, found = event, {**found, **event}
    try:
        raw = found.get(_TYPE) or found.get(_SHORT_TYPE)
        named = raw.decode() if raw else default
    except UnicodeDecodeError:
        return DecodeError(Reason.UNDECODABLE, "header", "the task it names is not UTF-8")
    if named is None:
        return DecodeError(Reason.UNROUTABLE, "no_task", "it names no task, and its topic has no default task")
    if named not in names:
        return DecodeError(Reason.UNROUTABLE, "unknown_task", f"no plugin here offers the task {named[:200]!r}")
    if len(headers) > 1 or attributes is not None or (headers and not raw):
        return _full(record, named, headers, found, attributes)
    value, key = record.value(), record.key()
    return Task(
        named,
        record.topic(),
        record.partition(),
        record.offset(),
        key,
        value,
        headers,
        record.timestamp()[1],
        (len(value) if value else 0) + (len(key) if key else 0),
    )


def headers_of(record: Record) -> Headers | DecodeError:
    """A record's headers, asked for in the one way that is safe; once: see `bare`."""
    try:
        return _headers_of(record) or []
    except (UnicodeDecodeError, SystemError):
        return _name_lost()


def bare(record: Record, error: DecodeError) -> Task:
    """A Task for a record that cannot become a real one: it carries the bytes to the dead-letter topic.

    error: what `decode` returned for it.
    """
    # Order: never ask again for headers that could not be read. The second answer of confluent-kafka 2.16 holds a null
    # pointer in place of the name, and whatever touches it kills the process.
    headers = [] if error.code == _NAME_LOST else _headers_of(record) or []
    return Task(
        UNKNOWN,
        record.topic(),
        record.partition(),
        record.offset(),
        record.key(),
        record.value(),
        headers,
        record.timestamp()[1],
        len(record.value() or b"") + len(record.key() or b"") + _bytes_of(headers),
    )


def _full(
    record: Record,
    name: str,
    headers: Headers,
    found: dict[str, bytes | None],
    attributes: dict[str, bytes] | None,
) -> Task | DecodeError:
    """The same for a record with more headers than the one that names its task."""
    size = _bytes_of(headers)
    if len(headers) > MOST_HEADERS or size > MOST_HEADER_BYTES:
        limits = f"{MOST_HEADERS} headers, or {MOST_HEADER_BYTES} bytes of them"
        return DecodeError(Reason.UNDECODABLE, "headers_too_large", f"more than {limits}")
    identity = found.get("ce_id")
    if identity is not None and len(identity) > _LONGEST_ID:  # still one id for one message, at a size we can log
        identity = b"sha256:" + hashlib.sha256(identity).hexdigest().encode()
    deadline, reply_to = found.get("ce_deadline"), found.get("ce_replyto")
    value, key = record.value(), record.key()
    try:
        return Task(
            name,
            record.topic(),
            record.partition(),
            record.offset(),
            key,
            value,
            headers,
            record.timestamp()[1],
            (len(value) if value else 0) + (len(key) if key else 0) + size,
            (found.get("content-type") or b"").decode(),
            identity.decode() if identity else None,
            None if deadline is None else _timestamp(deadline),
            reply_to.decode() if reply_to else None,
            attributes,
        )
    except UnicodeDecodeError:
        return DecodeError(Reason.UNDECODABLE, "header", "a header that kworker reads is not UTF-8")
    except (ValueError, OverflowError):
        return DecodeError(Reason.UNDECODABLE, "deadline", "ce_deadline is not an RFC 3339 time")


def _name_lost() -> DecodeError:
    return DecodeError(Reason.UNDECODABLE, _NAME_LOST, "a header's name is not UTF-8; its headers are lost")


def _bytes_of(headers: Headers) -> int:
    return sum([len(name) + len(value or b"") for name, value in headers])


def _timestamp(raw: bytes) -> float:
    when = datetime.fromisoformat(raw.decode())
    if when.tzinfo is None:
        raise ValueError("no offset from UTC")
    return when.timestamp()
