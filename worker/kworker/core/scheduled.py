"""Schedules in the delay log: the record that holds one, and the task that is published at each of its times.

A schedule is a record whose key is its name behind PREFIX and whose value is its `Standing` as JSON. Anybody replaces
it by writing another one; the owner of the partition renews it when it fires, and names the offset that it means
(`kworker-entry`), as tombstones do: what somebody else wrote in between stays. A request to cancel its key removes it.
Whoever wants to know that a record it wrote is obeyed asks to cancel the id BARRIER, which nobody has: the answer of a
partition comes after all that was written there before the request was applied. Pure.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kworker.core.delayed import ENTRY, SCHEDULES, of_schedule
from kworker.core.publication import message
from kworker.schedules.schedule import Schedule, Standing
from kworker.task import Headers, Publication, is_target

PREFIX = SCHEDULES
"""What the key of a schedule's record begins with; no task can be delayed under such an id."""

BARRIER = PREFIX
"""The id that is no schedule and no task: a request to cancel it is answered `unknown` by every owner."""

_KEY = PREFIX.encode()


class Newer(ValueError):
    """It is a schedule of its key, and says what this version does not know, as a field or a time zone: one that does
    wrote it, in an upgrade that is under way."""


class _Named(Struct):
    name: str


class _Outline(Struct):
    schedule: _Named


def key_of(name: str) -> bytes:
    """The key of a schedule's record."""
    return _KEY + name.encode()


def record(standing: Standing, log: str, entry: int | None = None) -> Publication:
    """The record that adds or replaces a schedule.

    entry: the owner's renewal of the record at that offset; what came behind that offset is not replaced by it.
    """
    headers: Headers = [("content-type", b"application/json")]
    if entry is not None:
        headers.append((ENTRY, b"%d" % entry))
    return Publication(log, key_of(standing.schedule.name), standing.encode(), headers)


def standing(record_key: bytes | None, value: bytes | None, headers: Headers) -> Standing | None:
    """What a record of the delay log holds; None when it is no schedule. Raises ValueError for one that is broken, and
    Newer."""
    if record_key is None or value is None or not of_schedule(record_key):
        return None
    try:
        found = Standing.decode(value)
    except ValueError as error:
        if _outlined(value) == record_key:
            raise Newer(str(error)) from error
        raise
    schedule = found.schedule
    if record_key != key_of(schedule.name):
        raise ValueError(f"it is not a schedule: its key is not {PREFIX}{schedule.name}")
    check(schedule)
    return found


def again(value: bytes, headers: Headers, key: bytes, log: str, entry: int) -> Publication:
    """The record at the offset `entry` once more, as it is: for who cannot read it."""
    own = [header for header in headers if header[0] != ENTRY]
    return Publication(log, key, value, [*own, (ENTRY, b"%d" % entry)])


def _outlined(value: bytes) -> bytes | None:
    """The key of what looks like a schedule."""
    try:
        return key_of(msgspec.json.decode(value, type=_Outline).schedule.name)
    except (ValueError, RecursionError):
        return None


def check(schedule: Schedule) -> None:
    """Raises ValueError for a schedule whose runs could not be published."""
    name, topic = schedule.name, schedule.topic
    if not is_target(topic):
        raise ValueError(f"schedule {name}: {topic[:40]!r} is not a topic that a task can go to")
    if schedule.payload is not None:
        try:
            msgspec.json.decode(schedule.payload)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"schedule {name}: its payload is not JSON: {error}") from None
    try:
        occurrence(schedule, 0.0)
    except (ValueError, TypeError) as error:
        raise ValueError(f"schedule {name}: {error}") from None


def occurrence(schedule: Schedule, at: float) -> Publication:
    """The task record of the run that is due `at` (seconds since the epoch): the same whoever writes it."""
    return message(
        schedule.task,
        None if schedule.payload is None else msgspec.Raw(schedule.payload.encode()),
        topic=schedule.topic,
        key=schedule.key,
        id=schedule.occurrence(at),
        now=at,
    )
