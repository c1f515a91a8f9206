"""What every executor is (a small protocol), and what one attempt is: the execute step.

Nothing that a plugin does ends a slot: whatever it raises, SystemExit included, becomes an Outcome as capped text.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from msgspec import Struct

from kworker.core.entry import Entry
from kworker.core.partition import Partition
from kworker.duration import seconds
from kworker.errors import DecodeError, Reject, Retry
from kworker.plugin import Context, TaskSpec
from kworker.task import SUCCESS, ErrorInfo, Failed, Outcome, Publication, Reason, Refused, Success, Task

_LONGEST_MESSAGE = 4_000
_LONGEST_STACK = 16_000
_MOST_FRAMES = 20


class Binder(Protocol):
    """Turns a task's payload into arguments checked against its function's signature."""

    @property
    def wants_context(self) -> bool:
        """Whether the function takes `ctx`."""

    def bind(self, task: Task) -> tuple[tuple[object, ...], dict[str, object]]:
        """Positional and keyword arguments. Raises DecodeError."""


class Runnable(Protocol):
    """What an executor needs to know of one task name."""

    @property
    def spec(self) -> TaskSpec:
        """Its options, with the function to call."""

    @property
    def signature(self) -> Binder:
        """Its arguments."""


class Running(Struct, frozen=True):
    """One attempt under way, for status pages and logs. `since`: monotonic seconds."""

    entry: Entry
    slot: str
    since: float


class Executor(Protocol):
    """Runs attempts in a bounded number of slots and reports each exactly once, unless it was withdrawn."""

    @property
    def slots(self) -> int:
        """How many attempts run at once."""

    @property
    def capacity(self) -> int:
        """How many attempts it may hold: running, and next in line so that no slot waits for the loop."""

    @property
    def lost(self) -> int:
        """Slots given up because their attempt did not end."""

    def submit(self, entries: Sequence[Entry]) -> None:
        """Run these, in this order."""

    def withdraw(self) -> list[Entry]:
        """Give back what has not begun of partitions that are leaving."""

    def cancel(self, partitions: Collection[Partition]) -> None:
        """Ask what runs of these partitions to end."""

    def watch(self, now: float) -> None:
        """Enforce deadlines; called by the loop several times a second."""

    def running(self) -> list[Running]:
        """What runs now; safe from any thread."""

    def stop(self) -> None:
        """End idle slots; what still runs is abandoned."""


Publish = Callable[..., Publication]


def execute(
    entry: Entry, runnable: Runnable, deadline: float | None, publish: Publish, started: Callable[[Context], None]
) -> Outcome:
    """Run one attempt of a plain function to its outcome. Never raises.

    deadline: monotonic seconds, or None. started: told of the context, so that it can be cancelled.
    """
    task = entry.task
    context: Context | None = None
    try:
        if task.deadline is not None and time.time() > task.deadline:
            return Refused(Reason.EXPIRED, ErrorInfo("expired", "its ce_deadline had passed before it could run"))
        signature = runnable.signature
        arguments, keywords = signature.bind(task)
        if signature.wants_context:
            context = Context(task, entry.attempt, deadline, publish)
            started(context)
            result = runnable.spec.function(*arguments, ctx=context, **keywords)
            publications = context.publications
        else:
            result = runnable.spec.function(*arguments, **keywords)
            publications = ()
    except BaseException as error:  # a plugin may raise anything, SystemExit too; it ends its attempt only
        return outcome_of(error)
    if result is None and not publications:
        return SUCCESS
    return Success(result, publications)


def outcome_of(error: BaseException) -> Outcome:
    """What an attempt that raised `error` comes to; total, whatever a plugin has made of our own exceptions."""
    try:
        if isinstance(error, DecodeError):
            return Refused(error.reason, ErrorInfo(error.code, text_of(error)))
        if isinstance(error, Reject):
            return Refused(Reason.REJECTED, describe(error))
        if isinstance(error, Retry) and error.after is not None:
            # Read again: it may have been set after it was made, and no wait but a number may reach the loop.
            return Failed(describe(error), seconds(error.after))
    except BaseException as broken:  # a subclass without our attributes, or with worse
        return Failed(describe(broken))
    return Failed(describe(error))


def describe(error: BaseException) -> ErrorInfo:
    """An exception as capped text; total, whatever its `__str__` does."""
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ in ("builtins", "kworker.errors")
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        own = error.__traceback__  # the first frame is `execute`, which says nothing
        plugins = own.tb_next if own is not None else None
        lines = traceback.format_exception(kind, error, plugins, limit=-_MOST_FRAMES)
        stack = "".join(lines)[-_LONGEST_STACK:]
    except BaseException as broken:  # a plugin's exception class may raise from anything that formats it
        stack = f"(no stack: formatting it raised {type(broken).__name__})"
    return ErrorInfo(name[:200], text_of(error), stack)


def text_of(error: BaseException) -> str:
    """An exception's message, capped; total."""
    try:
        return str(error)[:_LONGEST_MESSAGE]
    except BaseException as broken:  # see describe
        return f"(no message: __str__ raised {type(broken).__name__})"
