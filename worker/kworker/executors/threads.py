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

from kworker.core.entry import Entry
from kworker.core.partition import Partition
from kworker.executors.base import Publish, Runnable, Running, execute
from kworker.mailbox import Mailbox
from kworker.plugin import Context
from kworker.task import ErrorInfo, Failed, TimedOut

log = logging.getLogger(__name__)

_AHEAD = 32
_LEAST_AHEAD = 1024
_GRACE = 2.0


class _Slot:
    """One thread's state, written by that thread but for `lost`; the loop reads it."""

    __slots__ = ("context", "entry", "lost", "name", "run", "since", "thread", "told")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entry: Entry | None = None
        self.run = 0
        self.since = 0.0
        self.context: Context | None = None
        self.told: Entry | None = None  # the entry that was told of its deadline, by the loop
        self.lost = False
        self.thread: threading.Thread | None = None

    def began(self, context: Context) -> None:
        self.context = context


class ThreadExecutor:
    """See the module. `slots`: how many threads; they are started as they are needed."""

    def __init__(self, slots: int, runnables: Mapping[str, Runnable], mailbox: Mailbox, publish: Publish) -> None:
        self.slots = slots
        # A slot that had to wait for the loop between two short tasks would waste a turn of the GIL (5 ms); entries
        # that are next in line have not begun and can be withdrawn.
        self.capacity = slots + max(_LEAST_AHEAD, slots * _AHEAD)
        self.lost = 0
        self._runnables = runnables
        self._mailbox = mailbox
        self._publish = publish
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._slots: list[_Slot] = []
        self._names = itertools.count(1)

    def submit(self, entries: Sequence[Entry]) -> None:
        """Run these, in this order; starts threads while there are fewer than slots and more work than idle ones."""
        put = self._queue.put
        for entry in entries:
            put(entry)
        if len(self._slots) < self.slots:
            idle = sum(slot.entry is None for slot in self._slots)
            for _ in range(min(self._queue.qsize() - idle, self.slots - len(self._slots))):
                self._add_slot()

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
            entry, context = slot.entry, slot.context
            if entry is not None and context is not None and entry.partition in partitions:
                context.cancel()

    def watch(self, now: float) -> None:
        """Tell attempts past their deadline; declare those lost that do not end within the grace."""
        for slot in list(self._slots):
            # Order: the entry before its start. If the slot goes on to the next entry in between, the start that is
            # read is the later one, and the attempt looks younger than it is, never older.
            entry, run = slot.entry, slot.run
            since = slot.since
            if entry is None:
                continue
            timeout = self._runnables[entry.task.name].spec.timeout
            if not timeout or now - since <= timeout:
                continue
            if slot.told is not entry:
                slot.told = entry
                context = slot.context
                if context is not None:
                    context.cancel()
            if now - since > timeout + _GRACE and slot.entry is entry and slot.run == run:
                self._give_up(slot, entry, run, since, now, timeout)

    def running(self) -> list[Running]:
        """What runs now."""
        running = []
        for slot in list(self._slots):
            entry, since = slot.entry, slot.since
            if entry is not None:
                running.append(Running(entry, slot.name, since))
        return running

    def stacks(self) -> dict[str, str]:
        """The stack of each busy slot, by its name."""
        frames = sys._current_frames()
        stacks = {}
        for slot in list(self._slots):
            thread = slot.thread
            frame = frames.get(thread.ident) if thread is not None and thread.ident is not None else None
            if slot.entry is not None and frame is not None:
                stacks[slot.name] = "".join(traceback.format_stack(frame))
        return stacks

    def stop(self) -> None:
        """End idle slots; their threads are daemons, so one that hangs does not keep the process."""
        for _ in self._slots:
            self._queue.put(None)

    def _add_slot(self) -> None:
        slot = _Slot(f"thread-{next(self._names)}")
        slot.thread = threading.Thread(target=self._serve, args=(slot,), name=f"kworker-{slot.name}", daemon=True)
        self._slots.append(slot)
        slot.thread.start()

    def _give_up(self, slot: _Slot, entry: Entry, run: int, since: float, now: float, timeout: float) -> None:
        stack = self.stacks().get(slot.name, "")
        slot.lost = True
        self.lost += 1
        self._slots.remove(slot)
        self._add_slot()
        log.error(
            "slot lost: its task did not end after its deadline; the thread goes on in the background",
            extra={"task": entry.task.name, "id": entry.task.id, "slot": slot.name, "timeout": timeout, "stack": stack},
        )
        error = ErrorInfo("timeout", f"it ran longer than {timeout:g} s and did not end when told to", stack)
        self._mailbox.report((entry, run, TimedOut(error), since, now))

    def _serve(self, slot: _Slot) -> None:
        take, report, clock = self._queue.get, self._mailbox.report, time.monotonic
        runnables, publish, began = self._runnables, self._publish, slot.began
        while not slot.lost:
            entry = take()
            if entry is None:
                return
            run = slot.run = entry.run
            slot.context = None
            since = slot.since = clock()
            slot.entry = entry
            runnable = runnables[entry.task.name]
            timeout = runnable.spec.timeout
            outcome = execute(entry, runnable, since + timeout if timeout else None, publish, began)
            slot.entry = None
            ended = clock()
            if timeout and ended - since > timeout and isinstance(outcome, Failed):
                outcome = TimedOut(outcome.error)  # it raised because it was told, or too late to tell
            if not slot.lost:
                report((entry, run, outcome, since, ended))
