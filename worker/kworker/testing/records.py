"""What goes into a worker in memory and what comes out of it: records, attempts, messages, dead letters."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kworker.task import Headers, Outcome, Publication, TopicPartition

START = 1_700_000_000.0
"""What the wall clock of a MemoryWorker shows at first, in seconds since the epoch."""


class MemoryRecord(Struct, frozen=True):
    """A record in memory: a `kworker.task.Record` like those that the Kafka client gives."""

    place: TopicPartition
    at: int
    raw_key: bytes | None
    raw_value: bytes | None
    raw_headers: Headers
    milliseconds: int = int(START * 1000)

    def topic(self) -> str:
        """The topic it was read from."""
        return self.place.topic

    def partition(self) -> int:
        """The partition it was read from."""
        return self.place.partition

    def offset(self) -> int:
        """Its offset."""
        return self.at

    def key(self) -> bytes | None:
        """The key's bytes, or None."""
        return self.raw_key

    def value(self) -> bytes | None:
        """The value's bytes, or None."""
        return self.raw_value

    def headers(self) -> Headers | None:
        """The headers, or None when there are none."""
        return self.raw_headers or None

    def timestamp(self) -> tuple[int, int]:
        """(1, milliseconds since the epoch): set when it was created."""
        return 1, self.milliseconds


class MemoryAttempt(Struct, frozen=True):
    """One attempt that was made. `at`: seconds after the worker was made."""

    task: str
    id: str
    number: int
    outcome: Outcome
    at: float


class MemoryMessage(Struct, frozen=True):
    """A published message, read. `task`: its `ce_type`; `answers`: the id of the task whose result it is, else None.

    payload: what the JSON holds; other bytes as they are; None where there is no value.
    """

    task: str
    payload: object
    topic: str
    key: bytes | None
    id: str
    headers: dict[str, bytes | None]
    answers: str | None = None

    @classmethod
    def read(cls, record: Publication) -> MemoryMessage:
        """Read a record that a task published, or that carries its result."""
        headers = dict(record.headers)
        texts = {name: (value or b"").decode() for name, value in headers.items() if name.startswith(("ce_", "cont"))}
        is_json = texts.get("content-type") == "application/json" and record.value is not None
        payload = msgspec.json.decode(record.value or b"") if is_json else record.value
        cause, id = texts.get("ce_causationid"), texts["ce_id"]
        answers = cause if cause is not None and id == f"{cause}/result" else None
        return cls(texts["ce_type"], payload, record.topic, record.key, id, headers, answers)


class DeadLetter(Struct, frozen=True):
    """A record that was set aside: why, and the record as it would be in the dead-letter topic."""

    reason: str
    error: str
    message: str
    record: Publication

    @classmethod
    def read(cls, record: Publication) -> DeadLetter:
        """Read a record that is written to a dead-letter topic."""
        found = {name: (value or b"").decode() for name, value in record.headers if name.startswith("kworker-")}
        return cls(found["kworker-reason"], found["kworker-error-type"], found["kworker-error-message"], record)
