"""The records of the delay log: tasks that wait, what ends their wait, and requests to cancel one (WIRE.md).

A waiting task is a record whose key is its id; the same id again replaces it. Its headers are the task's own, and
behind them those that say when it is due and where it goes. A tombstone ends the wait. Promises: what is handed over is
the task's key, value and headers byte for byte, null told from empty; of a header that occurs twice the last is meant,
so that what a publisher forged among a task's own headers stays a header of the task. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct

from kworker.core.deadletter import fingerprint
from kworker.duration import MAXIMUM
from kworker.task import ErrorInfo, Headers, Publication, Reason, TopicPartition, is_target

KEY, NULL, TARGET, DUE = "kworker-key", "kworker-null", "kworker-target", "kworker-due"
ATTEMPT, FIRST_SEEN, ORIGIN = "kworker-attempt", "kworker-first-seen", "kworker-origin"
PUBLISHED = "kworker-published"
CANCEL, OUTCOME, ENTRY = "kworker-cancel", "kworker-outcome", "kworker-entry"

SCHEDULES = "kworker-schedule/"
"""What ids of schedules begin with, behind which they have no other `/`: the id of a retry has more."""

LONGEST_ID = 1024
"""Bytes of an id in the delay log."""

MOST_ATTEMPTS = 1_000_000
"""What an attempt read from a header is clamped to: anybody can write one."""

_OWN = (KEY, NULL, TARGET, DUE)
_SCHEDULES = SCHEDULES.encode()
_OF_A_RETRY = (ATTEMPT, FIRST_SEEN, ORIGIN, PUBLISHED)
_PLACE = re.compile(r"[a-zA-Z0-9._-]{1,249}/[0-9]{1,9}/[0-9]{1,18}", re.ASCII)
_DIGITS = 18
_LATEST = int(MAXIMUM * 1000)


class Outcome(StrEnum):
    """How a wait ended: what its tombstone says."""

    HANDED_OVER = "handed-over"
    CANCELLED = "cancelled"
    SET_ASIDE = "set-aside"


class Answer(StrEnum):
    """What became of a request to cancel: what its tombstone says."""

    CANCELLED = "cancelled"
    TOO_LATE = "too-late"
    UNKNOWN = "unknown"


class Delayed(Struct, frozen=True, gc=False):
    """A task that waits. due: milliseconds since the epoch. headers: the task's own, with those of a retry behind."""

    id: bytes
    due: int
    target: str
    key: bytes | None
    value: bytes | None
    headers: Headers

    def publication(self) -> Publication:
        """What is handed over when it is due."""
        return Publication(self.target, self.key, self.value, self.headers)


class Retried(Struct, frozen=True, gc=False):
    """What travels with a task that waits for its next attempt.

    attempt: the number of the next one. first_seen, published: milliseconds since the epoch, published 0 when that is
    not known. origin: `topic/partition/offset`.
    """

    attempt: int
    first_seen: int
    origin: str
    published: int = 0

    def place(self) -> tuple[TopicPartition, int]:
        """The origin: partition and offset."""
        topic, partition, offset = self.origin.split("/")
        return TopicPartition(topic, int(partition)), int(offset)


def log_of(namespace: str) -> str:
    """The delay log's topic."""
    return f"{namespace}.delayed"


def retry_topic(namespace: str, group: str) -> str:
    """Where due retries of a consumer group go; only its workers read it."""
    return f"{namespace}.retry.{group}"


# -- waiting tasks ------------------------------------------------------------------------------------------------


def delay(publication: Publication, id: str, due: float, log: str) -> Publication:
    """The record by which `publication` waits until `due` (seconds since the epoch). The same id again reschedules it.

    Raises ValueError for an id that is empty, too long, or a schedule's.
    """
    key = id.encode("utf-8", "surrogatepass")
    if not 0 < len(key) <= LONGEST_ID:
        raise ValueError(f"the id of a delayed task has 1 to {LONGEST_ID} bytes, this one has {len(key)}")
    if of_schedule(key):
        raise ValueError(f"the id of a delayed task cannot begin with {SCHEDULES!r}: schedules are there")
    headers: Headers = [
        *publication.headers,
        (KEY, publication.key),
        (NULL, b"0" if publication.value is not None else b"1"),
        (TARGET, publication.topic.encode()),
        (DUE, b"%d" % max(0, math.ceil(round(due * 1000, 3)))),
    ]
    return Publication(log, key, publication.value or b"", headers)


def retry(
    key: bytes | None, value: bytes | None, headers: Headers, info: Retried, *, due: float, group: str, namespace: str
) -> Publication:
    """The record by which a task waits for its next attempt; due, it goes to its group's retry topic.

    headers: the task's own, as `retried` returns them for a record of the retry topic. due: seconds since the epoch.
    """
    own: Headers = [
        *headers,
        (ATTEMPT, b"%d" % info.attempt),
        (FIRST_SEEN, b"%d" % info.first_seen),
        (ORIGIN, info.origin.encode()),
        (PUBLISHED, b"%d" % max(0, info.published)),
    ]
    task = Publication(retry_topic(namespace, group), key, value, own)
    return delay(task, f"{group}/{info.origin}", due, log_of(namespace))


def retried(headers: Headers) -> tuple[Retried | None, Headers]:
    """What a record of a retry topic says of its task, and the task's own headers; None when it says nothing usable."""
    found = dict(headers)
    origin = (found.get(ORIGIN) or b"").decode("utf-8", "replace")
    attempt, first_seen = _whole(found.get(ATTEMPT)), _whole(found.get(FIRST_SEEN))
    own = _without_last(headers, _OF_A_RETRY)
    if attempt is None or first_seen is None or not _PLACE.fullmatch(origin):
        return None, own
    return Retried(min(max(attempt, 1), MOST_ATTEMPTS), first_seen, origin, _whole(found.get(PUBLISHED)) or 0), own


def judge(id: bytes, headers: Mapping[str, bytes | None], log: str, now: int) -> tuple[int, str]:
    """When a record of the delay log is due, and what is wrong with it: '' if nothing. Milliseconds since the epoch.

    A due time that passed is due at once. One more than ten years ahead is wrong, as is whatever is no whole number.
    """
    due, target = _whole(headers.get(DUE)), headers.get(TARGET) or b""
    if due is None:
        return 0, f"{DUE} {_shown(headers.get(DUE))} is not a whole number of milliseconds since the epoch"
    if due > now + _LATEST:
        return 0, f"{DUE} {due} is more than ten years ahead"
    if not 0 < len(id) <= LONGEST_ID:
        return 0, f"its id has {len(id)} bytes, not 1 to {LONGEST_ID}"
    return due, _target_fault(target, log)


@lru_cache(256)  # few targets, many records
def _target_fault(target: bytes, log: str) -> str:
    topic = target.decode("utf-8", "replace")
    if not is_target(topic):
        return f"{TARGET} {_shown(target)} is not a topic that a task can go to"
    return f"{TARGET} is the delay log itself" if topic == log else ""


def decode(id: bytes, value: bytes | None, headers: Headers, due: int) -> Delayed:
    """The waiting task in a record that `judge` found nothing wrong with; due: what it said."""
    found = dict(headers)
    null = not value and found.get(NULL) == b"1"
    return Delayed(
        id,
        due,
        (found[TARGET] or b"").decode(),
        found.get(KEY),
        None if null else value,
        _without_last(headers, _OWN),
    )


def of_schedule(id: bytes) -> bool:
    """Whether an id is a schedule's (core/scheduled.py)."""
    return id.startswith(_SCHEDULES) and id.count(b"/") == 1


def tombstone(id: bytes, offset: int, outcome: Outcome, log: str) -> Publication:
    """Ends the wait of the entry at `offset`; what came under the same id behind that offset goes on waiting."""
    return Publication(log, id, None, [(OUTCOME, outcome.encode()), (ENTRY, b"%d" % offset)])


def ends(headers: Mapping[str, bytes | None], offset: int) -> tuple[int, str]:
    """Up to which offset a tombstone at `offset` ends entries of its id, and the outcome it tells ('' for none)."""
    entry = _whole(headers.get(ENTRY))
    return offset if entry is None else min(entry, offset), (headers.get(OUTCOME) or b"").decode("utf-8", "replace")


def set_aside(
    id: bytes,
    value: bytes | None,
    headers: Headers,
    error: ErrorInfo,
    reason: Reason,
    *,
    origin: str,
    at: dict[str, int],
) -> Publication:
    """The dead letter of a record that cannot be handed over: as it is in the delay log, and why (WIRE.md).

    origin: its `topic/partition/offset`. at: `first-seen` and `failed-at`, in milliseconds since the epoch.
    """
    message = error.message[:2_000].encode("utf-8", "backslashreplace")
    added: Headers = [
        ("kworker-reason", reason.encode()),
        ("kworker-error-type", error.type.encode()),
        ("kworker-error-message", message),
        ("kworker-error-fingerprint", fingerprint(reason, error).encode()),
        ("kworker-first-seen", b"%d" % at["first-seen"]),
        ("kworker-failed-at", b"%d" % at["failed-at"]),
        (ORIGIN, origin.encode()),
    ]
    return Publication(f"{origin.split('/')[0]}.dlq", id, value, [*headers, *added])


# -- requests to cancel -------------------------------------------------------------------------------------------


def request(id: bytes, token: str, log: str) -> Publication:
    """Asks the owner of a partition to cancel a task that waits there. It has a key of its own, `token`: compaction
    must not let it replace the task."""
    return Publication(log, b"cancel/" + token.encode(), b"", [(CANCEL, id)])


def answer(key: bytes, outcome: Answer, log: str) -> Publication:
    """Answers the request of this key, and ends it."""
    return Publication(log, key, None, [(OUTCOME, outcome.encode())])


def answered(headers: Mapping[str, bytes | None]) -> Answer | None:
    """The answer in a tombstone of a request."""
    text = (headers.get(OUTCOME) or b"").decode("utf-8", "replace")
    return Answer(text) if text in set(Answer) else None


def _without_last(headers: Headers, names: tuple[str, ...]) -> Headers:
    """The headers without the last one of each name."""
    left, kept = set(names), []
    for name, value in reversed(headers):
        if name in left:
            left.discard(name)
        else:
            kept.append((name, value))
    kept.reverse()
    return kept


def _whole(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) <= _DIGITS else None


def _shown(value: bytes | None) -> str:
    return "(none)" if value is None else ascii(value[:40].decode("utf-8", "replace"))
