"""The decode step, first half: a record's envelope becomes a Task, by headers alone (WIRE.md; CloudEvents 1.0
Kafka protocol binding, binary mode, read leniently).

Total: any record gives a Task or a DecodeError. The payload is not looked at here; a slot does that, where a bomb
costs one slot. Only in structured mode the envelope is in the value; structured.py looks for its attributes there.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Container, Iterator
from datetime import datetime

from kworker.core import structured
from kworker.errors import DecodeError
from kworker.task import Headers, Reason, Record, Task, TopicPartition

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

_TYPE, _SHORT_TYPE, _KIND = "ce_type", "task", "content-type"
_KINDS = {kind.encode(): kind for kind in ("application/json", "application/octet-stream")}  # the usual ones


def decode(record: Record, names: Container[str], default: str | None) -> Task | DecodeError:
    """Read a record's envelope.

    names: the tasks that can run here. default: the topic's configured task, for records that name none.
    Of duplicate headers the last counts; `ce_type` wins over `task`.
    """
    place = TopicPartition(record.topic(), record.partition())
    return next(decode_all([record], [record.offset()], place, names, default))


def decode_all(
    records: list[Record], offsets: list[int], place: TopicPartition, names: Container[str], default: str | None
) -> Iterator[Task | DecodeError]:
    """`decode` for records of one partition, with their offsets: what is the same for all of them is asked for once."""
    topic, partition = place
    usual = default if default in names else None
    for record, offset in zip(records, offsets, strict=True):
        try:
            headers = _headers_of(record)
        except (UnicodeDecodeError, SystemError):
            yield _name_lost()
            continue
        if headers or usual is None:
            yield _by_headers(record, headers or [], (topic, partition, offset), names, default)
            continue
        value, key = record.value(), record.key()
        yield Task(
            usual,
            topic,
            partition,
            offset,
            key,
            value,
            [],
            record.timestamp()[1],
            (len(value) if value else 0) + (len(key) if key else 0),
        )


def _by_headers(
    record: Record, headers: Headers, origin: tuple[str, int, int], names: Container[str], default: str | None
) -> Task | DecodeError:
    """The same for one record. origin: its topic, partition and offset."""
    found = dict(headers)
    attributes: dict[str, bytes] | None = None
    kind = found.get(_KIND)
    if kind and kind not in _KINDS and kind[: len(structured.MARK)].lower() == structured.MARK:
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
    return _full(record, origin, named, headers, found, attributes)


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
    origin: tuple[str, int, int],
    name: str,
    headers: Headers,
    found: dict[str, bytes | None],
    attributes: dict[str, bytes] | None,
) -> Task | DecodeError:
    """The task of this name, with all that its headers say of it."""
    size = _bytes_of(headers)
    if len(headers) > MOST_HEADERS or size > MOST_HEADER_BYTES:
        limits = f"{MOST_HEADERS} headers, or {MOST_HEADER_BYTES} bytes of them"
        return DecodeError(Reason.UNDECODABLE, "headers_too_large", f"more than {limits}")
    identity = found.get("ce_id")
    if identity is not None and len(identity) > _LONGEST_ID:  # still one id for one message, at a size we can log
        identity = b"sha256:" + hashlib.sha256(identity).hexdigest().encode()
    topic, partition, offset = origin
    deadline, reply_to = found.get("ce_deadline"), found.get("ce_replyto")
    value, key = record.value(), record.key()
    try:
        return Task(
            name,
            topic,
            partition,
            offset,
            key,
            value,
            headers,
            record.timestamp()[1],
            (len(value) if value else 0) + (len(key) if key else 0) + size,
            _KINDS.get(kind := found.get(_KIND) or b"") or kind.decode(),
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
    size = 0
    for name, value in headers:
        size += len(name) + len(value) if value else len(name)
    return size


def _timestamp(raw: bytes) -> float:
    when = datetime.fromisoformat(raw.decode())
    if when.tzinfo is None:
        raise ValueError("no offset from UTC")
    return when.timestamp()
