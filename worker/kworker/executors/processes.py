"""The process executor: each slot is a child process that runs one task at a time.

Promises: whatever a task does to its process costs that task only; at its deadline its child gets SIGTERM, which ends
the task from within, and 0.3 s later, with all its process group, SIGKILL; it is replaced alone. Small tasks, as told
by how long those of their name took so far, are given several at once; what a child has not begun when it dies or
stalls goes to another one and has not counted. No child outlives the worker, however it ends: see template.py.

One thread owns the children and all that is said to and by them; the other threads leave it entries and commands.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from selectors import EVENT_READ, DefaultSelector

from kworker.core.entry import Entry
from kworker.core.partition import Partition
from kworker.errors import PluginError
from kworker.executors.base import Runnable, Running, capacity
from kworker.executors.children import Child, Recycling
from kworker.executors.hearing import Hearing, how
from kworker.executors.messages import Beginning, Limits, Loaded
from kworker.executors.nursery import EXITED, Nursery
from kworker.mailbox import Mailbox
from kworker.task import ErrorInfo, Failed

log = logging.getLogger(__name__)

_TICK, _KILL = 0.05, 0.3  # seconds between two looks at deadlines while something runs; from SIGTERM to SIGKILL
_STALL = 0.05  # seconds without a report after which what has not begun is taken back
_AHEAD = 0.01  # seconds of work that a child may have in its hands
_MOST_AT_ONCE = 128
_START, _LEAVE = 60.0, 5.0  # seconds in which a child must have its plugins set up, and for their teardown
_PAUSES = (0.5, 30.0)  # seconds before a child that could not start is tried again: at first, and at most


class ProcessExecutor:
    """See the module. `slots`: how many children. load: gives each of them its tasks; a function they can import."""

    lost = 0

    def __init__(
        self,
        slots: int,
        runnables: Mapping[str, Runnable],
        mailbox: Mailbox,
        load: Callable[[], Loaded],
        *,
        limits: Limits | None = None,
        recycling: Recycling | None = None,
    ) -> None:
        self.slots = slots
        self.capacity = capacity(slots)
        self.started = 0
        """Children that were started."""
        self.killed: dict[str, int] = {}
        """Children that were killed, by why: timeout, cancelled, start, stop, protocol."""
        self._hearing = Hearing(runnables, mailbox)
        self._load = load
        self._limits = limits or Limits()
        self._recycling = recycling or Recycling()
        self._queue: deque[Entry] = deque()
        self._order = threading.Lock()  # of the queue, held by who takes from it or puts back
        self._commands: deque[Callable[[], None]] = deque()
        self._children: dict[int, Child] = {}
        self._numbers = itertools.count(1)
        self._nursery: Nursery | None = None
        self._next_tick = 0.0
        self._pause = 0.0
        self._not_before = 0.0
        self._stopped = False
        self._kill_at = math.inf
        self._asleep = self._woken = False
        self._moved = 0.0
        self._selector = DefaultSelector()
        self._waker, self._alarm = os.pipe()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._first = threading.Event()
        self._broken = ""

    # -- from any thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the children now, and wait until the first one is ready. Raises PluginError when it cannot be."""
        self._begin()
        if not self._first.wait(_START):
            raise PluginError(f"no child process was ready within {_START:g} s: see the log, and the plugins' setup()")
        if self._broken:
            raise PluginError(f"in a child process: {self._broken}")

    def submit(self, entries: Sequence[Entry]) -> None:
        """Run these, in this order."""
        self._begin()
        self._queue.extend(entries)
        self._wake()

    def withdraw(self) -> list[Entry]:
        """Give back what no child was given of partitions that are leaving; the rest keeps its order."""
        with self._order:
            waiting = list(self._queue)  # one step; what is submitted meanwhile stays behind these
            for _ in waiting:
                self._queue.popleft()
            self._queue.extendleft(entry for entry in reversed(waiting) if not entry.partition.leaving)
        self._wake()
        return [entry for entry in waiting if entry.partition.leaving]

    def cancel(self, partitions: Collection[Partition]) -> None:
        """End what runs of these partitions, as at a deadline."""
        self._command(partial(self._cancel, list(partitions)))

    def watch(self, now: float) -> None:
        """Raise what ended the executor's own thread, which is what watches the deadlines, and have it move."""
        if self._failure is not None:
            raise self._failure
        self._wake()

    def moved(self, now: float) -> float:
        """When its own thread last moved."""
        return self._moved or now

    def running(self) -> list[Running]:
        """What runs now."""
        found = [(child, list(child.entries)) for child in list(self._children.values())]
        return [Running(entries[0][1], child.slot, child.progress) for child, entries in found if entries]

    def stacks(self) -> dict[str, str]:
        """None from here: the busy children print theirs, which goes to the log."""
        self._command(self._ask_for_stacks)
        return {}

    def children(self) -> list[dict[str, object]]:
        """The children, for status pages."""
        return [child.described() for child in list(self._children.values())]

    def stop(self) -> None:
        """Have each child leave as soon as it has nothing to run."""
        self._stopped = True
        self._wake()

    def close(self, within: float) -> None:
        """Wait so many seconds until all children have left, then kill what is there."""
        self._kill_at = time.monotonic() + within
        self._wake()
        if self._thread is not None:
            self._thread.join(within + 1.0)

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="kworker-processes", daemon=True)
            self._thread.start()

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._wake()

    def _wake(self) -> None:
        # Order: the flag first, and who is about to sleep looks at it after it has said so.
        self._woken = True
        if self._asleep:
            self._asleep = False
            os.write(self._alarm, b"!")

    # -- the executor's thread ----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._selector.register(self._waker, EVENT_READ, lambda: os.read(self._waker, 4096))
        try:
            while not (self._stopped and not self._children):
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._step(time.monotonic())
        except BaseException as error:
            log.critical("the process executor failed", exc_info=True)
            self._failure = error  # raised again by `watch`, in the worker's loop
        finally:
            for child in self._children.values():
                child.close()
            if self._nursery is not None:
                self._nursery.close(1.0)
            self._selector.close()

    def _patience(self) -> float | None:
        """How long to wait for news: for ever when all are idle, and well."""
        self._asleep = True
        if self._woken:
            self._asleep = False
            return 0.0
        quiet = all(child.takes_more and not (child.entries or child.worn) for child in self._children.values())
        return None if quiet and len(self._children) == self.slots and not self._stopped else _TICK

    def _step(self, now: float) -> None:
        self._moved = now
        self._woken = self._asleep = False
        while self._commands:
            self._commands.popleft()()
        if now >= self._next_tick:
            self._next_tick = now + _TICK
            for child in list(self._children.values()):
                self._look_at(child, now)
        self._fill(now)
        if self._queue and not self._stopped:
            self._hand_out(now)

    # -- children come and go -----------------------------------------------------------------------------------------

    def _fill(self, now: float) -> None:
        if self._stopped or now < self._not_before:
            return
        for _ in range(self.slots - sum(child.stays for child in self._children.values())):
            if self._nursery is None:
                self._nursery = Nursery(Beginning(self._load, self._limits, logging.getLogger().getEffectiveLevel()))
                self._selector.register(self._nursery.socket, EVENT_READ, self._hear)
                self._selector.register(self._nursery.output, EVENT_READ, self._overhear)
            number = next(self._numbers)
            child = self._children[number] = Child(number, self._selector, now, self._recycling)
            child.attach(partial(self._converse, child), partial(self._listen, child))
            self._nursery.bear(number, child.fds)
            child.was_born()
            self.started += 1

    # Of a batch of news, the first may have buried the child, or the template, that a later one is of.

    def _converse(self, child: Child) -> None:
        if child.number in self._children:
            was_ready = child.ready
            self._hearing.converse(child)
            if child.ready and not was_ready:
                self._pause = 0.0
                self._first.set()

    def _listen(self, child: Child) -> None:
        if child.number in self._children:
            self._hearing.listen(child)

    def _overhear(self) -> None:
        if self._nursery is not None and not self._hearing.overhear(self._nursery.output):
            self._selector.unregister(self._nursery.output)

    def _hear(self) -> None:
        news = self._nursery.hear() if self._nursery is not None else []
        if news is None:
            self._orphaned()
            return
        for verb, number, value in news:
            child = self._children[number]
            if verb == EXITED:
                self._bury(child, value)
            else:
                child.pid = value

    def _orphaned(self) -> None:
        """The template has died, and the kernel kills its children with it."""
        assert self._nursery is not None
        log.error("the process that children are forked from has died: another one is started")
        for file in (self._nursery.socket, self._nursery.output):
            if file in self._selector.get_map():
                self._selector.unregister(file)
        self._nursery.close(1.0)
        self._nursery = None
        for child in list(self._children.values()):
            self._bury(child, -signal.SIGKILL)

    def _bury(self, child: Child, code: int) -> None:
        """A child has ended: what it had begun is settled, what it had not goes to others."""
        hearing = self._hearing
        rest = child.take_back()
        hearing.settle(child)
        if child.entries:
            hearing.report(child, hearing.cut_short(child, code))
        elif child.ready and child.stays and not child.told:
            log.warning("an idle child process %s", how(code), extra={"slot": child.slot})
        self._put_back(rest)
        if not child.ready:
            self._could_not_start(child.broken or f"it {how(code)} before it was ready")
        child.close()
        del self._children[child.number]

    def _could_not_start(self, why: str) -> None:
        self._pause = min(max(_PAUSES[0], self._pause * 2), _PAUSES[1])
        self._not_before = time.monotonic() + self._pause
        if not self._first.is_set():
            self._broken = why
            self._first.set()
        log.error("a child process could not start: %s; the next try is in %g s", why, self._pause)

    # -- what they are given ------------------------------------------------------------------------------------------

    def _hand_out(self, now: float) -> None:
        takers = []
        for child in self._children.values():
            if child.takes_more and len(child.entries) <= _MOST_AT_ONCE:
                if not child.worn:
                    takers.append(child)
                elif not child.entries:
                    child.let_go(now)
        takers.sort(key=lambda child: len(child.entries))
        for index, child in enumerate(takers):
            share = math.ceil(len(self._queue) / (len(takers) - index))
            left = (self._recycling.tasks or math.inf) - child.served - len(child.entries)
            if entries := self._portion(child, int(min(share, _MOST_AT_ONCE, left)), now):
                child.give(entries, now)

    def _portion(self, child: Child, most: int, now: float) -> list[Entry]:
        """What this child may be given now: one task, or several small ones."""
        queue, costs = self._queue, self._hearing.costs
        held, load = len(child.entries), self._hearing.load(child, now)
        entries: list[Entry] = []
        with self._order:
            while queue and len(entries) < most:
                load += costs.get(queue[0].task.name, math.inf)
                if load > _AHEAD and (entries or held):
                    break
                entries.append(queue.popleft())
        return entries

    # -- time ---------------------------------------------------------------------------------------------------------

    def _look_at(self, child: Child, now: float) -> None:
        if now >= self._kill_at:
            self._kill(child, "stop")
        elif child.nonsense:
            log.error("a child process says what it should not: %s", child.nonsense, extra={"slot": child.slot})
            self._kill(child, "protocol")
        elif child.told:
            if now - child.told_at >= _KILL:
                self._kill(child, child.told)
        elif child.closed is not None or not child.stays:
            if now - max(child.leaving or 0.0, child.closed or 0.0, child.progress) > _LEAVE:
                self._kill(child, "stop")
        elif not child.ready:
            if now - child.born > _START:
                self._kill(child, "start")
        elif child.entries:
            self._look_at_task(child, now)
        elif self._stopped or child.worn or child.large:
            child.let_go(now)

    def _look_at_task(self, child: Child, now: float) -> None:
        if len(child.entries) > 1 and now - child.progress > _STALL:
            name, costs = child.entries[0][1].task.name, self._hearing.costs
            costs[name] = max(now - child.progress, costs.get(name, 0.0))
            self._take_back(child)
        timeout = self._hearing.timeout(child.entries[0][1]) if child.entries else 0.0
        if timeout and now - child.progress > timeout:
            self._take_back(child)
            self._tell(child, "timeout", now)

    def _take_back(self, child: Child, but: Collection[Partition] = ()) -> list[Entry]:
        """Put back into the queue what has not begun; returns what is of these partitions instead."""
        rest = child.take_back()
        self._hearing.settle(child)
        self._put_back([entry for entry in rest if entry.partition not in but])
        return [entry for entry in rest if entry.partition in but]

    def _put_back(self, entries: list[Entry]) -> None:
        with self._order:
            self._queue.extendleft(reversed(entries))

    def _tell(self, child: Child, why: str, now: float) -> None:
        """End the task that runs in this child, if it still does, and the child with it; after `_take_back`."""
        if child.entries and not child.told:
            child.told, child.told_at = why, now
            self._signal(child, signal.SIGTERM)
            self.killed[why] = self.killed.get(why, 0) + 1

    def _cancel(self, partitions: list[Partition]) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if any(entry.partition in partitions for _, entry in child.entries):
                for entry in self._take_back(child, partitions):
                    error = ErrorInfo("cancelled", "its partition went to another worker before it began")
                    self._hearing.report_unbegun(entry, Failed(error))
                if child.entries and child.entries[0][1].partition in partitions:
                    self._tell(child, "cancelled", now)

    def _ask_for_stacks(self) -> None:
        for child in self._children.values():
            if child.entries:
                self._signal(child, -signal.SIGUSR2)

    def _kill(self, child: Child, why: str) -> None:
        if not child.killed:
            child.killed = True
            if not child.told:
                self.killed[why] = self.killed.get(why, 0) + 1
            self._signal(child, signal.SIGKILL)

    def _signal(self, child: Child, number: int) -> None:
        if self._nursery is not None:
            self._nursery.signal(child.number, number)
