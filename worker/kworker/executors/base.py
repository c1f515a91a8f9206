"""What every executor is (a small protocol), and what one attempt is: the execute step.

Nothing that a plugin does ends a slot: whatever it raises, SystemExit included, becomes an Outcome as capped text.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from msgspec import Struct

from kworker.core.entry import Entry
from kworker.core.partition import Partition
from kworker.core.publication import message, result
from kworker.duration import seconds
from kworker.errors import DecodeError, Reject, Retry, Unavailable
from kworker.plugin import Context, TaskSpec
from kworker.task import (
    SUCCESS,
    ErrorInfo,
    Failed,
    Outcome,
    Postponed,
    Publication,
    Reason,
    Refused,
    Success,
    Task,
    TimedOut,
)

_LONGEST_MESSAGE = 4_000
_LONGEST_STACK = 16_000
_MOST_FRAMES = 20
_OWN = (str(Path(__file__).parent), str(Path(__file__).parents[1] / "tracing.py"))


class Binder(Protocol):
    """Turns a task's payload into arguments checked against its function's signature."""

    @property
    def wants_context(self) -> bool:
        """Whether the function takes `ctx`."""

    def bind(self, task: Task) -> tuple[tuple[object, ...], dict[str, object]]:
        """Positional and keyword arguments. Raises DecodeError, or Unavailable."""


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

    def start(self) -> None:
        """Be ready for work before there is some, as far as it takes time. Raises PluginError."""

    def submit(self, entries: Sequence[Entry]) -> None:
        """Run these, in this order."""

    def withdraw(self) -> list[Entry]:
        """Give back what has not begun of partitions that are leaving."""

    def cancel(self, partitions: Collection[Partition]) -> None:
        """Ask what runs of these partitions to end."""

    def watch(self, now: float) -> None:
        """Enforce deadlines; called by the loop several times a second."""

    def moved(self, now: float) -> float:
        """When it could last serve, in monotonic seconds up to `now`: its heartbeat; safe from any thread."""

    def running(self) -> list[Running]:
        """What runs now; safe from any thread."""

    def stacks(self) -> dict[str, str]:
        """Where each busy slot is now, by its name, as far as it can be seen from here."""

    def stop(self) -> None:
        """End idle slots; what still runs is abandoned."""

    def close(self, within: float) -> None:
        """After `stop`: be rid of what outlives a thread, within so many seconds."""


_AHEAD, _LEAST_AHEAD = 32, 1024


def capacity(slots: int) -> int:
    """How many attempts an executor may hold: running, and next in line.

    A slot that had to wait for the loop between two short tasks would waste a turn of the GIL (5 ms); what is next in
    line has not begun and can be withdrawn.
    """
    return slots + max(_LEAST_AHEAD, slots * _AHEAD)


Publish = Callable[..., Publication]
Started = Callable[[Context], None]


class Given(Protocol):
    """What is to be run: an Entry, or what a child process knows of one."""

    @property
    def task(self) -> Task:
        """The task."""

    @property
    def attempt(self) -> int:
        """The number of this run, from 1."""


class Attempt(Struct, eq=False):
    """One run of one entry; whoever takes its one claim reports it: its slot when it ends, or the loop's watch.

    run: the entry's when it was started. since: monotonic seconds. claims: begins as `[None]`. context: once its
    function is called, where that takes one. cancelled: whether it was asked to end.
    """

    entry: Entry
    run: int
    since: float
    claims: list[None]
    context: Context | None = None
    cancelled: bool = False

    def began(self, context: Context) -> None:
        """Its function is about to be called, with this."""
        self.context = context
        if self.cancelled:
            context.cancel()

    def cancel(self) -> None:
        """Ask it to end. Order: the flag first, so that one of both sees what the other did."""
        self.cancelled = True
        if self.context is not None:
            self.context.cancel()

    def claim(self) -> bool:
        """True for the first of both who asks: an attempt may end at the very moment it is given up."""
        try:
            self.claims.pop()
        except IndexError:
            return False
        return True


class _PutOff(BaseException):
    """The arguments cannot be made now. Only `call` raises it: a plugin that raises Unavailable has run, and failed."""


def execute(given: Given, runnable: Runnable, deadline: float | None, publish: Publish, started: Started) -> Outcome:
    """Run one attempt of a plain function to its outcome. Never raises.

    deadline: monotonic seconds, or None. started: told of the context, so that it can be cancelled.
    """
    task, spec, signature = given.task, runnable.spec, runnable.signature
    try:
        if signature.wants_context or task.deadline is not None or task.reply_to or spec.reply_to:
            returned, context = call(given, runnable, deadline, publish, started)
            return succeeded(task, spec, returned, context)
        # The usual task, in one step: `call` and `succeeded` would add a fifth to what is done for it here.
        try:
            arguments, keywords = signature.bind(task)
        except Unavailable as error:
            raise _PutOff from error
        returned = spec.function(*arguments, **keywords) if keywords else spec.function(*arguments)
        return SUCCESS if returned is None else Success(returned)
    except BaseException as error:  # a plugin may raise anything, SystemExit too; it ends its attempt only
        return outcome_of(error)


def call(
    given: Given,
    runnable: Runnable,
    deadline: float | None,
    publish: Publish,
    started: Started,
    clock: Callable[[], float] = time.time,
) -> tuple[Any, Context | None]:
    """Call the function with its arguments: what it returned, for an async one its coroutine, and the context it has.

    See `execute` for the parameters; clock: seconds since the epoch. Raises what becomes an outcome by `outcome_of`.
    """
    task = given.task
    if task.deadline is not None and clock() > task.deadline:
        raise DecodeError(Reason.EXPIRED, "expired", "its ce_deadline had passed before it could run")
    signature = runnable.signature
    try:
        arguments, keywords = signature.bind(task)
    except Unavailable as error:
        raise _PutOff from error
    if not signature.wants_context:
        return runnable.spec.function(*arguments, **keywords), None
    context = Context(task, given.attempt, deadline, publish)
    started(context)
    return runnable.spec.function(*arguments, ctx=context, **keywords), context


def succeeded(
    task: Task, spec: TaskSpec, returned: object, context: Context | None, clock: Callable[[], float] = time.time
) -> Outcome:
    """The outcome of an attempt that returned; with the record that carries the result, where one is wanted."""
    publications = context.publications if context is not None else ()
    topic = task.reply_to or spec.reply_to  # the engine has seen to it that a message asks for allowed topics only
    if topic is not None:
        try:
            publications += (result(task, returned, topic=topic, now=clock()),)
        except (TypeError, ValueError) as error:  # another attempt would do its work again, for the same answer
            return Refused(Reason.REJECTED, ErrorInfo("result", f"{error}; return what it can hold, or bytes"))
    return SUCCESS if returned is None and not publications else Success(returned, publications)


def publication(
    task: str,
    payload: object,
    *,
    topic: str,
    key: str | bytes | None,
    id: str,
    headers: Mapping[str, str | bytes] | None,
) -> Publication:
    """What `ctx.publish()` makes of its arguments, by the clock of this process. Raises ValueError or TypeError."""
    return message(task, payload, topic=topic, key=key, id=id, headers=headers, now=time.time())


def overdue(timeout: float, what: str, stack: str = "") -> TimedOut:
    """The outcome of an attempt that was ended at its deadline. timeout: seconds; what: became of it."""
    return TimedOut(ErrorInfo("timeout", f"it ran longer than {timeout:g} s and {what}", stack))


def outcome_of(error: BaseException) -> Outcome:
    """What an attempt that raised `error` comes to; total, whatever a plugin has made of our own exceptions."""
    try:
        if isinstance(error, _PutOff) and isinstance(error.__cause__, Unavailable):
            return Postponed(ErrorInfo("unavailable", text_of(error.__cause__)), error.__cause__.after)
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
        lines = traceback.format_exception(kind, error, _of_plugin(error.__traceback__), limit=-_MOST_FRAMES)
        stack = "".join(lines)[-_LONGEST_STACK:]
    except BaseException as broken:  # a plugin's exception class may raise from anything that formats it
        stack = f"(no stack: formatting it raised {type(broken).__name__})"
    return ErrorInfo(name[:200], text_of(error), stack)


def _of_plugin(frames: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames by which an executor called the plugin: they say nothing."""
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OWN):
        frames = frames.tb_next
    return frames


def text_of(error: BaseException) -> str:
    """An exception's message, capped; total."""
    try:
        return str(error)[:_LONGEST_MESSAGE]
    except BaseException as broken:  # see describe
        return f"(no message: __str__ raised {type(broken).__name__})"
