"""The thread executor: bounded slots, each a thread that takes the next attempt from one queue.

Promises: at most `slots` attempts run at once; each is reported once; an attempt that outlives its deadline is told
(`ctx.cancelled`), given a grace, and then declared lost: reported as timed out, its slot replaced and counted. A
thread cannot be killed, so a lost one may still have effects; what it reports later is ignored.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from kworker.core.entry import Entry
from kworker.core.partition import Partition
from kworker.executors.base import Attempt, Publish, Runnable, Running, capacity, execute, overdue
from kworker.mailbox import Mailbox
from kworker.task import Failed, TimedOut

log = logging.getLogger(__name__)

_GRACE = 2.0
_OWN = (threading.__file__, str(Path(__file__).parent))


class _Slot:
    """One thread, and the attempt it runs: written by that thread, read by others in one step."""

    __slots__ = ("attempt", "name", "thread")

    def __init__(self, name: str) -> None:
        self.name = name
        self.attempt: Attempt | None = None
        self.thread: threading.Thread | None = None


class LostSlot(NamedTuple):
    """A thread whose task did not end: how long it runs, in seconds, and where it is now."""

    entry: Entry
    slot: str
    seconds: float
    stack: str


class ThreadExecutor:
    """See the module. `slots`: how many threads; they are started as they are needed."""

    def __init__(self, slots: int, runnables: Mapping[str, Runnable], mailbox: Mailbox, publish: Publish) -> None:
        self.slots = slots
        self.capacity = capacity(slots)
        self.lost = 0
        self._runnables = runnables
        self._mailbox = mailbox
        self._publish = publish
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._slots: list[_Slot] = []
        self._given_up: list[tuple[_Slot, Attempt]] = []
        self._short = False
        self._starved: float | None = None
        self._names = itertools.count(1)

    def start(self) -> None:
        """Nothing: it starts as it is needed."""

    def submit(self, entries: Sequence[Entry]) -> None:
        """Run these, in this order; starts threads while there are fewer than slots and more work than idle ones."""
        put = self._queue.put
        for entry in entries:
            put(entry)
        self._add_slots()

    def withdraw(self) -> list[Entry]:
        """Give back what has not begun of partitions that are leaving; the rest keeps its order."""
        kept, withdrawn = [], []
        with contextlib.suppress(queue.Empty):
            while True:
                entry = self._queue.get_nowait()
                if entry is not None and entry.partition.leaving:
                    withdrawn.append(entry)
                else:
                    kept.append(entry)
        for entry in kept:
            self._queue.put(entry)
        return withdrawn

    def cancel(self, partitions: Collection[Partition]) -> None:
        """Set `ctx.cancelled` for what runs of these partitions."""
        for slot in self._slots:
            attempt = slot.attempt
            if attempt is not None and attempt.entry.partition in partitions:
                attempt.cancel()

    def watch(self, now: float) -> None:
        """Tell attempts past their deadline; declare those lost that do not end within the grace."""
        for slot in list(self._slots):
            attempt = slot.attempt
            if attempt is None:
                continue
            timeout = self._runnables[attempt.entry.task.name].spec.timeout
            over = now - attempt.since - timeout
            if not timeout or over <= 0:
                continue
            attempt.cancel()
            if over > _GRACE:
                self._give_up(slot, attempt, now, timeout)
        self._add_slots()  # a slot that had just taken its next entry looked idle to `submit`

    def moved(self, now: float) -> float:
        """Now, or since when there is work and no thread to be had for it."""
        return self._starved if self._starved is not None else now

    def lost_slots(self, now: float) -> list[LostSlot]:
        """What was given up and has not ended since: where it is now."""
        frames = _frames()
        lost = [
            LostSlot(attempt.entry, slot.name, now - attempt.since, _stack(slot, frames))
            for slot, attempt in self._given_up
        ]
        return [one for one in lost if one.stack]

    def running(self) -> list[Running]:
        """What runs now."""
        attempts = [(slot.name, slot.attempt) for slot in list(self._slots)]
        return [Running(attempt.entry, name, attempt.since) for name, attempt in attempts if attempt is not None]

    def stacks(self) -> dict[str, str]:
        """The stack of each busy slot, by its name."""
        frames = _frames()
        stacks = {slot.name: _stack(slot, frames) for slot in list(self._slots) if slot.attempt is not None}
        return {name: stack for name, stack in stacks.items() if stack}

    def stop(self) -> None:
        """End idle slots; their threads are daemons, so one that hangs does not keep the process."""
        for _ in self._slots:
            self._queue.put(None)

    def close(self, within: float) -> None:
        """Nothing: a thread cannot be ended, and ends with the process."""

    def _add_slots(self) -> None:
        if len(self._slots) < self.slots:
            idle = sum(slot.attempt is None for slot in self._slots)
            for _ in range(min(self._queue.qsize() - idle, self.slots - len(self._slots))):
                if not self._add_slot():
                    break

    def _add_slot(self) -> bool:
        """Whether there is a thread for one more slot; `watch` tries again."""
        slot = _Slot(f"thread-{next(self._names)}")
        slot.thread = threading.Thread(target=self._serve, args=(slot,), name=f"kworker-{slot.name}", daemon=True)
        try:
            slot.thread.start()
        except RuntimeError as error:
            if not self._short:
                log.warning("no thread for one more slot, trying on: %s", error, extra={"slots": len(self._slots)})
            self._short = True
            if self._starved is None and not self._slots:
                self._starved = time.monotonic()
            return False
        self._short, self._starved = False, None
        self._slots.append(slot)
        return True

    def _give_up(self, slot: _Slot, attempt: Attempt, now: float, timeout: float) -> None:
        stack = self.stacks().get(slot.name, "")
        if not attempt.claim():
            return  # it has just ended
        self.lost += 1
        self._slots.remove(slot)
        living = [one for one in self._given_up if one[0].thread is not None and one[0].thread.is_alive()]
        self._given_up = [*living, (slot, attempt)]
        self._add_slot()
        task = attempt.entry.task
        log.error(
            "slot lost: its task did not end after its deadline; the thread goes on in the background",
            extra={"task": task.name, "id": task.id, "slot": slot.name, "timeout": timeout, "stack": stack},
        )
        outcome = overdue(timeout, "did not end when told to", stack)
        self._mailbox.report((attempt.entry, attempt.run, outcome, attempt.since, now))

    def _serve(self, slot: _Slot) -> None:
        take, take_now, report, clock = self._queue.get, self._queue.get_nowait, self._mailbox.report, time.monotonic
        publish = self._publish
        plans = {name: (runnable, runnable.spec.timeout) for name, runnable in self._runnables.items()}
        ended = clock()
        while True:
            try:
                entry = take_now()
                since = ended  # it follows at once: one look at the clock for each
            except queue.Empty:
                entry = take()
                since = clock()
            if entry is None:
                return
            claims = [None]
            attempt = slot.attempt = Attempt(entry, entry.run, since, claims)
            if entry.partition.fenced:  # `cancel` may have looked before it was there to be seen
                attempt.cancel()
            runnable, timeout = plans[entry.task.name]
            outcome = execute(entry, runnable, since + timeout if timeout else None, publish, attempt.began)
            ended = clock()
            if timeout and ended - since > timeout and isinstance(outcome, Failed):
                outcome = TimedOut(outcome.error)  # it raised because it was told, or too late to tell
            try:
                claims.pop()  # as `claim` does
            except IndexError:
                return  # it was given up, and so was this slot
            slot.attempt = None
            report((entry, attempt.run, outcome, since, ended))
            del entry, attempt, outcome  # an idle slot keeps nothing of its last task


def _frames() -> dict[int, FrameType]:
    """Where every other thread is now. Our own frame would hold itself, and so all that the others had in hand."""
    frames = sys._current_frames()
    del frames[threading.get_ident()]
    return frames


def _stack(slot: _Slot, frames: Mapping[int, FrameType]) -> str:
    """From where kworker called something else: the thread's start and the slot's loop say nothing."""
    thread = slot.thread
    frame = frames.get(thread.ident) if thread is not None and thread.ident is not None else None
    if frame is None:
        return ""
    calls = list(traceback.extract_stack(frame))
    while calls and calls[0].filename.startswith(_OWN):
        del calls[0]
    return "".join(traceback.format_list(calls))
