"""The frozen values that travel through a worker: a record's task, and what came of running it.

Arrays and tags are for the way to a child process and back (executors/messages.py).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple, Protocol

from msgspec import Struct

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}", re.ASCII)

DEAD_LETTER_SUFFIX = ".dlq"
"""A topic's dead letters go to `<topic>.dlq` unless the configuration names another topic."""

Headers = list[tuple[str, bytes | None]]
"""Record headers as the Kafka client gives them: in order, names may repeat, a value may be null."""


def is_target(topic: str) -> bool:
    """Whether a task can be published to a topic of this name: it is legal, and none of Kafka's own."""
    return bool(_TOPIC.fullmatch(topic)) and topic not in (".", "..") and not topic.startswith("__")


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Record(Protocol):
    """A Kafka record. confluent_kafka.Message is one; tests bring their own."""

    def topic(self) -> str:
        """The topic it was read from."""

    def partition(self) -> int:
        """The partition it was read from."""

    def offset(self) -> int:
        """Its offset."""

    def key(self) -> bytes | None:
        """The key's bytes, or None."""

    def value(self) -> bytes | None:
        """The value's bytes, or None."""

    def headers(self) -> Headers | None:
        """The headers, or None when there are none."""

    def timestamp(self) -> tuple[int, int]:
        """(kind, milliseconds since the epoch)."""


class Reason(StrEnum):
    """Why a record was set aside: the closed set of `kworker-reason`."""

    UNDECODABLE = "undecodable"
    UNROUTABLE = "unroutable"
    INVALID = "invalid"
    REJECTED = "rejected"
    EXHAUSTED = "exhausted"
    TIMED_OUT = "timed-out"
    CRASHED = "crashed"
    EXPIRED = "expired"


class Task(Struct, frozen=True, gc=False, array_like=True):
    """One decoded message: what to run, with what.

    `value` is the payload as it came; it becomes typed arguments in the slot that runs the task.
    `timestamp` is the record's, in milliseconds since the epoch (0 when the record has none); `size` is the bytes of
    key, value and headers;
    `deadline` (seconds since the epoch) is the time after which running makes no sense. `attributes`: those of an
    envelope in the payload (CloudEvents structured mode), by the names of the headers they stand for.
    """

    name: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    size: int = 0
    content_type: str = ""
    given_id: str | None = None
    deadline: float | None = None
    reply_to: str | None = None
    attributes: dict[str, bytes] | None = None

    @property
    def id(self) -> str:
        """The publisher's id, or `topic/partition/offset`."""
        return self.given_id or f"{self.topic}/{self.partition}/{self.offset}"


class ErrorInfo(Struct, frozen=True, gc=False):
    """An error as text, capped when it was made: nothing of a plugin's exception object travels further."""

    type: str
    message: str
    stack: str = ""


class Publication(Struct, frozen=True, gc=False):
    """A message that a task publishes with its success: acknowledged before its offset completes."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


class Success(Struct, frozen=True, gc=False, tag=True):
    """The task returned. `result` is what it returned; `publish` what it queued by `ctx.publish()`."""

    result: object = None
    publish: tuple[Publication, ...] = ()


class Failed(Struct, frozen=True, gc=False, tag=True):
    """The task raised; the retry policy decides. `after` is the wait it asked for, in seconds."""

    error: ErrorInfo
    after: float | None = None


class Refused(Struct, frozen=True, gc=False, tag=True):
    """It can never succeed (rejected, invalid, undecodable): a dead letter at once."""

    reason: Reason
    error: ErrorInfo


class Postponed(Struct, frozen=True, gc=False, tag=True):
    """It was not run: what its payload needs to be read is not there now. Tried again after `after` seconds, as often
    as it takes; it counts as no attempt."""

    error: ErrorInfo
    after: float


class TimedOut(Struct, frozen=True, gc=False, tag=True):
    """The task ran beyond its timeout."""

    error: ErrorInfo


class Crashed(Struct, frozen=True, gc=False, tag=True):
    """The process that ran the task died."""

    error: ErrorInfo


Outcome = Success | Failed | Refused | Postponed | TimedOut | Crashed
"""What an executor may report of one attempt: a closed set."""

SUCCESS = Success()
"""The success of a task that returned None and published nothing: one object for all of them."""
