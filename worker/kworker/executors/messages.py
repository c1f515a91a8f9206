"""What a worker and its child processes say to each other: msgpack in frames, over a socket pair of each child.

Not pickle: what comes from a child is data that fits these types, or the end of that child. A plugin that runs in a
process because nobody trusts it cannot make the worker run anything; a result arrives as what JSON could hold of it.

    worker -> child   a list of Given                              | tokens, in a pipe beside it: see children.py
    child -> worker   Ready or Broken, then any of Reports, Line
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from kworker.executors.base import Runnable
from kworker.task import Outcome, Task

LARGEST = 16 << 20
"""Bytes that a child may say at once."""

RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What logging keeps in a record beside the extra fields."""

TOKEN = 8
"""Bytes of a token: the number of the task that it allows to begin, as this machine writes it."""

_HEAD = struct.Struct("<I")


class Loaded(Protocol):
    """What a child runs: a Registry, or what a test makes."""

    @property
    def tasks(self) -> Mapping[str, Runnable]:
        """By name."""

    def setup(self) -> None:
        """Called once in each child. Raises PluginError."""

    def teardown(self) -> None:
        """Called once in each child, at its end."""


class Limits(Struct, frozen=True):
    """What the kernel lets a child have; None is as much as the worker.

    memory: bytes of address space. cpu: seconds of processor time for one task. files: open files.
    """

    memory: int | None = None
    cpu: float | None = None
    files: int | None = None


class Beginning(Struct, frozen=True):
    """What the process that all children are forked from is told once, as a pickle: `load` names a function."""

    load: Callable[[], Loaded]
    limits: Limits
    log_level: int


class Given(Struct, array_like=True, gc=False):
    """A task to run. number: counts up, without gaps, within one child."""

    number: int
    attempt: int
    task: Task


class Ended(Struct, tag=True, array_like=True, gc=False):
    """An attempt that ended, not by a SUCCESS. Times: monotonic seconds."""

    number: int
    since: float
    ended: float
    outcome: Outcome


class Successes(Struct, tag=True, array_like=True, gc=False):
    """Attempts of numbers without gaps that were a SUCCESS, as most are, each begun when the one before it had ended.

    number, since: of the first one. ended: of each. Times: monotonic seconds.
    """

    number: int
    since: float
    ended: list[float]


class Ready(Struct, tag=True, array_like=True):
    """The plugins are set up."""


class Broken(Struct, tag=True, array_like=True):
    """The plugins could not be loaded or set up; it ends."""

    why: str


class Reports(Struct, tag=True, array_like=True):
    """Attempts that ended, in order. last: it begins nothing more, and ends."""

    ended: list[Ended | Successes]
    last: bool = False


class Line(Struct, tag=True, array_like=True):
    """A line for the log. fields: the record's extra ones."""

    level: int
    logger: str
    text: str
    fields: dict[str, str | int | float | bool | None]


Message = Ready | Broken | Reports | Line
"""What a child says: a closed set."""

_encode = msgspec.msgpack.Encoder().encode
_given = msgspec.msgpack.Decoder(list[Given]).decode
_message = msgspec.msgpack.Decoder(Message).decode


def pack(body: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(len(body)) + body


def pack_given(given: list[Given]) -> bytes:
    """The frame that hands these over."""
    try:
        return pack(_encode(given))
    except UnicodeEncodeError:  # a header's name, or an attribute, that was no UTF-8 on the wire
        return pack(_encode([msgspec.structs.replace(one, task=_clean(one.task)) for one in given]))


def pack_message(message: Message) -> bytes:
    """The frame that says this. Raises what msgspec does for a result that it cannot encode."""
    return pack(_encode(message))


def read_given(read: Callable[[int], bytes]) -> list[Given] | None:
    """Wait for the next tasks; None at the end. read: as that of a file, returns less at its end only."""
    head = read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    size = _HEAD.unpack(head)[0]
    body = read(size)
    return _given(body) if len(body) == size else None


class Messages:
    """Cuts what came from a child into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterable[Message]:
        """The messages that are complete now. Raises ValueError for what is none (msgspec's errors are such)."""
        self._bytes += data
        start, end = 0, len(self._bytes)
        try:
            while end - start >= _HEAD.size:
                size = _HEAD.unpack_from(self._bytes, start)[0]
                if size > LARGEST + (1 << 20):
                    raise ValueError(f"a message of {size} bytes")
                if end - start < _HEAD.size + size:
                    return
                start += _HEAD.size + size
                yield _message(memoryview(self._bytes)[start - size : start].tobytes())
        finally:
            del self._bytes[:start]


def _clean(task: Task) -> Task:
    return msgspec.structs.replace(
        task,
        headers=[(encodable(name), value) for name, value in task.headers],
        content_type=encodable(task.content_type),
        given_id=None if task.given_id is None else encodable(task.given_id),
        reply_to=None if task.reply_to is None else encodable(task.reply_to),
    )


def encodable(text: str) -> str:
    """A text without lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
