"""The coroutine executor: bounded slots in one event loop, which has a thread of its own.

Promises: at most `slots` attempts run at once, each with a context (contextvars) of its own, and with an asyncio.Task
of its own as soon as it awaits something; each is reported once; at its deadline it is told (`ctx.cancelled`) and
cancelled, and when it does not end within the grace, it is declared lost: reported as timed out, its slot replaced and
counted. Whatever a task raises, SystemExit too, is its own failure. A task that blocks the loop is named in the log
with its stack; a loop that does not answer for long, or whose blocker is lost, is left behind with what runs in it, and
another one takes what comes next.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import sys
import time
import weakref
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextvars import Context as Variables
from types import CoroutineType

from kworker.core.entry import Entry
from kworker.core.partition import Partition
from kworker.executors.base import Attempt, Publish, Runnable, Running, call, capacity, outcome_of, overdue, succeeded
from kworker.executors.eventloop import EventLoop
from kworker.mailbox import Mailbox
from kworker.task import ErrorInfo, Failed, Outcome, Success, TimedOut

log = logging.getLogger(__name__)

_GRACE = 2.0
_STRETCH = 0.002  # seconds for which attempts that await nothing may follow each other before others have their turn
_LAG = 1.0  # seconds without an answer of the loop that are worth a line in the log
_BLOCKED = 10.0  # seconds without an answer after which another loop takes over
_CANCELLED = "asyncio.exceptions.CancelledError"


class _Attempt(Attempt, eq=False, kw_only=True):
    """One attempt in its event loop. `begun`, `over` and its task are the loop's; `told` is written by the worker's.

    variables: what its context holds. over: its function has ended, and its task may run another one.
    """

    slot: str
    home: EventLoop[_Attempt]
    variables: Variables
    task: asyncio.Task[None] | None = None
    begun: bool = False
    over: bool = False
    told: bool = False

    def tell(self) -> None:
        """Ask it to end, once; from another thread than its loop's."""
        if not self.told:
            self.told = True
            self.cancel()
            self.home.call(self._end)

    def _end(self) -> None:
        # A task that is cancelled before its first step never runs at all, and could report nothing: see `_run`.
        if self.begun and not self.over and self.task is not None:
            self.task.cancel()


class CoroutineExecutor:
    """See the module. `slots`: how many attempts; the loop is started with the first one."""

    def __init__(self, slots: int, runnables: Mapping[str, Runnable], mailbox: Mailbox, publish: Publish) -> None:
        self.slots = slots
        self.capacity = capacity(slots)
        self.lost = 0
        self._runnables = runnables
        self._mailbox = mailbox
        self._publish = publish
        self._queue: deque[Entry] = deque()
        self._numbers = itertools.count(slots + 1)
        self._await = False  # whether attempts do, as far as is known
        self._free = [f"coroutine-{number}" for number in range(slots, 0, -1)]
        self._loops: list[EventLoop[_Attempt]] = []  # the last one takes what comes; the others only end what they run

    def start(self) -> None:
        """Nothing: it starts as it is needed."""

    def submit(self, entries: Sequence[Entry]) -> None:
        """Run these, in this order."""
        if not self._loops and entries:
            self._loops.append(EventLoop(self._feed))
        self._queue.extend(entries)
        self._wake()

    def withdraw(self) -> list[Entry]:
        """Give back what has not begun of partitions that are leaving; the rest keeps its order."""
        kept: list[Entry] = []
        withdrawn: list[Entry] = []
        for _ in range(len(self._queue)):
            try:
                entry = self._queue.popleft()
            except IndexError:  # the loop has taken what was left
                break
            (withdrawn if entry.partition.leaving else kept).append(entry)
        self._queue.extendleft(reversed(kept))
        self._wake()
        return withdrawn

    def cancel(self, partitions: Collection[Partition]) -> None:
        """Set `ctx.cancelled` for what runs of these partitions, and cancel it."""
        for attempt in self._attempts():
            if attempt.entry.partition in partitions:
                attempt.tell()

    def watch(self, now: float) -> None:
        """Cancel attempts past their deadline, declare those lost that do not end, and see that the loop answers."""
        for attempt in self._attempts():
            timeout = self._runnables[attempt.entry.task.name].spec.timeout
            over = now - attempt.since - timeout
            if attempt.task is not None and attempt.task.done():
                self._vanished(attempt, now)
            elif timeout and over > 0:
                attempt.tell()
                if over > _GRACE:
                    self._give_up(attempt, now, timeout)
        if self._loops:
            self._look_after(self._loops[-1], now)

    def moved(self, now: float) -> float:
        """Now: a loop that does not answer is replaced here."""
        return now

    def running(self) -> list[Running]:
        """What runs now."""
        return [Running(attempt.entry, attempt.slot, attempt.since) for attempt in self._attempts()]

    def stacks(self) -> dict[str, str]:
        """Where each attempt is: what it awaits, or what it does."""
        return {attempt.slot: _stack(attempt) for attempt in self._attempts()}

    def stop(self) -> None:
        """Let each loop end as soon as nothing runs in it; its thread is a daemon."""
        for loop in self._loops:
            loop.retire()

    def close(self, within: float) -> None:
        """Nothing: what still runs ends with the process."""

    # -- in the thread of the event loop ------------------------------------------------------------------------------

    def _feed(self, loop: EventLoop[_Attempt]) -> None:
        """Start attempts: all there are slots for while they await, else one, which `_run` goes on from."""
        while self._queue and loop is self._loops[-1]:
            # Two threads may be here for a moment, when another loop takes over: each step is one under the GIL.
            try:
                slot = self._free.pop()
            except IndexError:
                return
            attempt = self._take(loop, slot, Variables(), time.monotonic())
            if attempt is not None:
                attempt.task = loop.asyncio.create_task(self._run(attempt), context=attempt.variables)
                self._show(attempt)
                if not self._await:
                    return  # it asks for the next start, when it does await
                continue
            self._free.append(slot)  # and again: what came between the two saw no free slot, and woke nobody

    def _take(self, loop: EventLoop[_Attempt], slot: str, variables: Variables, now: float) -> _Attempt | None:
        try:
            entry = self._queue.popleft()
        except IndexError:
            return None
        return _Attempt(entry, entry.run, now, [None], slot=slot, home=loop, variables=variables)

    def _show(self, attempt: _Attempt) -> None:
        attempt.home.attempts.add(attempt)
        if attempt.entry.partition.fenced:  # `cancel` may have looked before it was there to be seen
            attempt.tell()

    async def _run(self, attempt: _Attempt) -> None:
        """Run it, and in the same asyncio.Task what comes next, while none of them awaits: a Task costs as much."""
        loop, clock = attempt.home, time.monotonic
        turn = loop.mark()
        began = since = attempt.since = clock()
        traces = _traces(attempt.task)
        while True:
            attempt.begun = True
            entry = attempt.entry
            runnable = self._runnables[entry.task.name]
            timeout = runnable.spec.timeout
            if attempt.told and attempt.task is not None:
                attempt.task.cancel()  # it was told before it began: it sees that where it first awaits
            try:
                deadline = since + timeout if timeout else None
                result, context = call(entry, runnable, deadline, self._publish, attempt.began)
                if type(result) is CoroutineType or inspect.isawaitable(result):
                    result = await result
                outcome = succeeded(entry.task, runnable.spec, result, context)
            except BaseException as error:  # as in `execute`; asyncio would end its loop by a SystemExit
                outcome = outcome_of(error)
            attempt.over = True
            ended = clock()
            if timeout and ended - since > timeout and isinstance(outcome, Failed):
                outcome = _timed_out(outcome, timeout)
            loop.attempts.discard(attempt)
            if not attempt.claim():
                return  # it was given up, and so was its slot
            self._mailbox.report((entry, attempt.run, outcome, since, ended))
            self._await = loop.turn != turn
            alone = not self._await and isinstance(outcome, Success) and traces == _traces(attempt.task)
            following = self._following(attempt, ended) if alone and ended - began <= _STRETCH else None
            if following is None:
                self._free.append(attempt.slot)
                break
            attempt, since = following, ended
        self._leave(loop)

    def _following(self, attempt: _Attempt, now: float) -> _Attempt | None:
        """The attempt that may begin where this one has ended: it finds a task and a context like new."""
        task, variables = attempt.task, attempt.variables
        if len(variables) or attempt.home is not self._loops[-1]:
            return None
        following = self._take(attempt.home, attempt.slot, variables, now)
        if following is not None:
            following.task = task
            self._show(following)
        return following

    def _leave(self, loop: EventLoop[_Attempt]) -> None:
        """One asyncio.Task less; its slot may be free."""
        if loop is self._loops[-1]:
            loop.mark()
        else:
            self._wake()
        if not loop.attempts:
            loop.end_if_idle()

    # -- in the worker's loop -----------------------------------------------------------------------------------------

    def _attempts(self) -> list[_Attempt]:
        return [attempt for loop in list(self._loops) for attempt in list(loop.attempts)]

    def _wake(self) -> None:
        # Order: the queue was filled before the free slots are looked at, and who frees a slot looks at the queue.
        if self._queue and self._free:
            self._loops[-1].wake()

    def _vanished(self, attempt: _Attempt, now: float) -> None:
        """Its asyncio.Task is over and nothing was reported: something cancelled it before its first step."""
        if attempt.claim():
            error = ErrorInfo("cancelled", "something cancelled its asyncio.Task before it began")
            attempt.home.call(lambda: self._never_began(attempt, Failed(error), now))

    def _never_began(self, attempt: _Attempt, outcome: Outcome, now: float) -> None:
        """In the thread of its event loop."""
        attempt.home.attempts.discard(attempt)
        self._free.append(attempt.slot)
        self._mailbox.report((attempt.entry, attempt.run, outcome, attempt.since, now))
        self._leave(attempt.home)

    def _give_up(self, attempt: _Attempt, now: float, timeout: float) -> None:
        stack = _stack(attempt)
        if not attempt.claim():
            return  # it has just ended
        loop, task = attempt.home, attempt.entry.task
        loop.attempts.discard(attempt)
        self.lost += 1
        self._free.append(f"coroutine-{next(self._numbers)}")
        log.error(
            "slot lost: its task did not end when it was cancelled at its deadline; it goes on in the background",
            extra={"task": task.name, "id": task.id, "slot": attempt.slot, "timeout": timeout, "stack": stack},
        )
        self._mailbox.report(
            (attempt.entry, attempt.run, overdue(timeout, "did not end when cancelled", stack), attempt.since, now)
        )
        if loop is self._loops[-1] and loop.lag(now) > _LAG:
            self._replace(loop)
        self._wake()
        loop.end_if_idle_soon()

    def _look_after(self, loop: EventLoop[_Attempt], now: float) -> None:
        lag = loop.lag(now)
        if lag > _LAG and not loop.complained:
            loop.complained = True
            blocker = next((attempt for attempt in list(loop.attempts) if attempt.task is loop.current()), None)
            task = blocker.entry.task if blocker is not None else None
            log.warning(
                "the event loop is blocked: a coroutine must await, not wait; no other coroutine moves meanwhile",
                extra={
                    "task": task.name if task else "unknown: something that a task left in the loop",
                    "id": task.id if task else "",
                    "seconds": round(lag, 1),
                    "stack": loop.stack(),
                },
            )
        if lag > _BLOCKED:
            self._replace(loop)
        elif loop.attempts:
            loop.probe(now)

    def _replace(self, loop: EventLoop[_Attempt]) -> None:
        """Leave a loop that does not answer to what runs in it."""
        log.error("another event loop takes over from the blocked one", extra={"left": len(loop.attempts)})
        self._loops = [other for other in self._loops if other.attempts or other is loop]
        self._loops.append(EventLoop(self._feed))
        loop.retire()
        self._wake()


def _traces(task: asyncio.Task[None] | None) -> tuple[object, ...]:
    """What somebody can leave at an asyncio.Task: who holds it, is told of its end, or wants it cancelled; its name.

    The two private names are read only, and None in an interpreter that has no such thing.
    """
    if task is None:
        return ()
    told, cancelled = getattr(task, "_callbacks", None), getattr(task, "_must_cancel", None)
    return sys.getrefcount(task), weakref.getweakrefcount(task), told, cancelled, task.cancelling(), task.get_name()


def _timed_out(outcome: Failed, timeout: float) -> TimedOut:
    """It raised because it was cancelled, or on its own, and too late."""
    error = outcome.error
    return overdue(timeout, "was cancelled", error.stack) if error.type == _CANCELLED else TimedOut(error)


def _stack(attempt: _Attempt) -> str:
    """Where an attempt is, read from another thread: a picture that may be a moment old."""
    if attempt.task is None:
        return ""
    if attempt.task is attempt.home.current():
        return attempt.home.stack()
    coroutine: object = attempt.task.get_coro()
    lines = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            lines.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_qualname}\n')
        coroutine = getattr(coroutine, "cr_await", None)
    return "".join(lines[1:])
