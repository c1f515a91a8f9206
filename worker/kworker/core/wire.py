"""The decode step, first half: a record's envelope becomes a Task, by headers alone (WIRE.md; CloudEvents 1.0
Kafka protocol binding, binary mode, read leniently).

Total: any record gives a Task or a DecodeError. The payload is not looked at here; a slot does that, where a bomb
costs one slot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from datetime import datetime

from kworker.errors import DecodeError
from kworker.task import Headers, Reason, Record, Task

UNKNOWN = "_unknown"
"""Stands for every task name that is not registered, in metrics and in tasks that cannot run."""

MOST_HEADERS = 256
MOST_HEADER_BYTES = 256 * 1024
_LONGEST_ID = 256

_TYPE, _SHORT_TYPE = "ce_type", "task"
_INTERESTING = frozenset((_TYPE, _SHORT_TYPE, "ce_id", "content-type", "ce_deadline", "ce_replyto"))


def decode(record: Record, names: Container[str], default: str | None) -> Task | DecodeError:
    """Read a record's envelope.

    names: the tasks that can run here. default: the topic's configured task, for records that name none.
    Of duplicate headers the last counts; `ce_type` wins over `task`.
    """
    try:
        headers = record.headers() or []
    except UnicodeDecodeError:  # the client decodes header names as UTF-8 and gives nothing when one is not
        return DecodeError(Reason.UNDECODABLE, "header_name", "a header's name is not UTF-8; its headers are lost")
    if len(headers) > MOST_HEADERS:
        return DecodeError(Reason.UNDECODABLE, "too_many_headers", f"more than {MOST_HEADERS} headers")
    found: dict[str, bytes | None] = {}
    size = 0
    for name, value in headers:
        if value is not None:
            size += len(value)
        if name in _INTERESTING:
            found[name] = value
    if size > MOST_HEADER_BYTES:
        return DecodeError(Reason.UNDECODABLE, "headers_too_large", f"headers of more than {MOST_HEADER_BYTES} bytes")
    try:
        raw = found.get(_TYPE) or found.get(_SHORT_TYPE)
        named = raw.decode() if raw else default
        if not named:
            return DecodeError(Reason.UNROUTABLE, "no_task", "it names no task, and its topic has no default task")
        if named not in names:
            return DecodeError(Reason.UNROUTABLE, "unknown_task", f"no plugin here offers the task {named[:200]!r}")
        if len(found) > 1 or (found and raw is None):
            return _full(record, named, headers, found)
    except UnicodeDecodeError:
        return DecodeError(Reason.UNDECODABLE, "header_value", "a header that kworker reads is not UTF-8")
    return Task(
        named,
        record.topic(),
        record.partition(),
        record.offset(),
        record.key(),
        record.value(),
        headers,
        record.timestamp()[1],
    )


def bare(record: Record) -> Task:
    """A Task for a record that cannot become a real one: it carries the bytes to the dead-letter topic."""
    try:
        headers = record.headers() or []
    except UnicodeDecodeError:
        headers = []
    return Task(
        UNKNOWN,
        record.topic(),
        record.partition(),
        record.offset(),
        record.key(),
        record.value(),
        headers,
        record.timestamp()[1],
    )


def _full(record: Record, name: str, headers: Headers, found: dict[str, bytes | None]) -> Task | DecodeError:
    identity = found.get("ce_id")
    if identity is not None and len(identity) > _LONGEST_ID:  # still one id for one message, at a size we can log
        identity = b"sha256:" + hashlib.sha256(identity).hexdigest().encode()
    deadline = found.get("ce_deadline")
    try:
        until = None if deadline is None else _timestamp(deadline.decode())
    except (ValueError, OverflowError):
        return DecodeError(Reason.UNDECODABLE, "deadline", "ce_deadline is not an RFC 3339 time")
    reply_to = found.get("ce_replyto")
    return Task(
        name,
        record.topic(),
        record.partition(),
        record.offset(),
        record.key(),
        record.value(),
        headers,
        record.timestamp()[1],
        (found.get("content-type") or b"").decode(),
        identity.decode() if identity else None,
        until,
        reply_to.decode() if reply_to else None,
    )


def _timestamp(text: str) -> float:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("no offset from UTC")
    return when.timestamp()
