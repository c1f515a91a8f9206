"""The process executor: each slot is a child process that runs one task at a time.

Promises: whatever a task does to its process costs that task only; at its deadline its child gets SIGTERM, which ends
the task from within, and 0.3 s later, with all its process group, SIGKILL; it is replaced alone. Small tasks, as told by
how long those of their name took so far, are given several at once; what a child has not begun when it dies or stalls
goes to another one and has not counted. No child outlives the worker, however it ends: see template.py.

One thread owns the children and all that is said to and by them; the other threads leave it entries and commands.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from msgspec import Struct

from kworker.core.entry import Entry
from kworker.core.partition import Partition
from kworker.errors import PluginError
from kworker.executors.base import Runnable, Running, overdue
from kworker.executors.child import TOLD
from kworker.executors.children import Child
from kworker.executors.messages import RESERVED, Beginning, Broken, Ended, Limits, Line, Loaded, Ready, Reports
from kworker.executors.nursery import EXITED, Nursery
from kworker.mailbox import Mailbox
from kworker.task import SUCCESS, Crashed, ErrorInfo, Failed, Outcome, TimedOut

log = logging.getLogger(__name__)
_printed = logging.getLogger("kworker.output")

_TICK = 0.05  # seconds between two looks at deadlines while something runs
_KILL = 0.3  # seconds from SIGTERM to SIGKILL
_STALL = 0.05  # seconds without a report after which what has not begun is taken back
_AHEAD = 0.004  # seconds of work that a child may have in its hands
_MOST_AT_ONCE = 64
_START = 60.0  # seconds in which a child must have its plugins set up
_LEAVE = 5.0  # seconds for their teardown
_PAUSES = (0.5, 30.0)  # seconds before a child that could not start is tried again: at first, and at most
_READS = 16
_WEIGH = 0.25  # seconds between two looks at a child's memory


class Recycling(Struct, frozen=True):
    """When a child is replaced though it lives: after so many tasks, above so many bytes resident; 0 is never."""

    tasks: int = 0
    memory: int = 0


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
        self.capacity = slots + max(1024, slots * 32)
        self.started = 0
        """Children that were started."""
        self.killed: dict[str, int] = {}
        """Children that were killed, by why: timeout, cancelled, start, stop, protocol."""
        self._runnables = runnables
        self._mailbox = mailbox
        self._load = load
        self._limits = limits or Limits()
        self._recycling = recycling or Recycling()
        self._queue: deque[Entry] = deque()
        self._commands: deque[Callable[[], None]] = deque()
        self._children: dict[int, Child] = {}
        self._numbers = itertools.count(1)
        self._nursery: Nursery | None = None
        self._costs: dict[str, float] = {}  # seconds that tasks of a name take, a moving average
        self._next_tick = 0.0
        self._pause = 0.0
        self._not_before = 0.0
        self._stopped = False
        self._kill_at = math.inf
        self._asleep = self._woken = False
        self._selector = selectors.DefaultSelector()
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
        kept, withdrawn = [], []
        for _ in range(len(self._queue)):
            try:
                entry = self._queue.popleft()
            except IndexError:  # children were given what was left
                break
            (withdrawn if entry.partition.leaving else kept).append(entry)
        self._queue.extendleft(reversed(kept))
        self._wake()
        return withdrawn

    def cancel(self, partitions: Collection[Partition]) -> None:
        """End what runs of these partitions, as at a deadline."""
        self._command(partial(self._cancel, list(partitions)))

    def watch(self, now: float) -> None:
        """Raise what ended the executor's own thread, which is what watches the deadlines."""
        if self._failure is not None:
            raise self._failure

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
        return [
            {"slot": child.slot, "pid": child.pid, "ready": child.ready, "tasks": child.served}
            for child in list(self._children.values())
        ]

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
        self._selector.register(self._waker, selectors.EVENT_READ, lambda: os.read(self._waker, 4096))
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
        self._asleep = True
        if self._woken:
            self._asleep = False
            return 0.0
        quiet = all(child.takes_more and not child.entries for child in self._children.values())
        return None if quiet and len(self._children) == self.slots and not self._stopped else _TICK

    def _step(self, now: float) -> None:
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
        staying = sum(child.leaving is None and not child.finished for child in self._children.values())
        for _ in range(self.slots - staying):
            if self._nursery is None:
                self._nursery = Nursery(Beginning(self._load, self._limits, logging.getLogger().getEffectiveLevel()))
                self._selector.register(self._nursery.socket, selectors.EVENT_READ, self._hear)
                self._selector.register(self._nursery.output, selectors.EVENT_READ, self._overhear)
            number = next(self._numbers)
            child = self._children[number] = Child(number, f"process-{number}", now)
            self._nursery.bear(number, child.fds)
            child.was_born()
            self.started += 1
            self._selector.register(child.socket, selectors.EVENT_READ, partial(self._converse, child))
            self._selector.register(child.printed, selectors.EVENT_READ, partial(self._listen, child))

    def _hear(self) -> None:
        assert self._nursery is not None
        news = self._nursery.hear()
        if news is None:
            self._orphaned()
            return
        for verb, number, value in news:
            child = self._children[number]
            if verb == EXITED:
                self._bury(child, value)
            else:
                child.pid = value

    def _overhear(self) -> None:
        assert self._nursery is not None
        try:
            text = os.read(self._nursery.output, 1 << 16).decode("utf-8", "backslashreplace")
        except BlockingIOError:
            return
        if not text:
            self._selector.unregister(self._nursery.output)
        for line in text.splitlines():
            _printed.warning("%s", line, extra={"slot": "template"})

    def _orphaned(self) -> None:
        """The template has died, and the kernel kills its children with it."""
        assert self._nursery is not None
        log.error("the process that children are forked from has died: another one is started")
        self._selector.unregister(self._nursery.socket)
        if self._nursery.output in self._selector.get_map():
            self._selector.unregister(self._nursery.output)
        self._nursery.close(1.0)
        self._nursery = None
        for child in list(self._children.values()):
            self._bury(child, -signal.SIGKILL)

    def _bury(self, child: Child, code: int) -> None:
        """A child has ended: what it had begun is settled, what it had not goes to others."""
        self._converse(child)
        rest = child.take_back()
        self._settle(child)
        if child.entries:
            number, entry = child.entries[0]
            outcome = self._cut_short(child, entry, code)
            child.reported(number)
            self._mailbox.report((entry, entry.run, outcome, child.progress, time.monotonic()))
        self._queue.extendleft(reversed(rest))
        if not child.ready:
            self._could_not_start(f"{_how(code)} before it was ready")
        elif not child.entries and not child.leaving and not child.finished and not child.told:
            log.warning("a child process ended: %s", _how(code), extra={"slot": child.slot})
        for fd in (child.socket, child.printed):
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
        child.close()
        del self._children[child.number]

    def _cut_short(self, child: Child, entry: Entry, code: int) -> Outcome:
        if child.told == "timeout":
            return overdue(self._timeout(entry), "was killed")
        if child.told:
            return Failed(ErrorInfo("cancelled", "it was killed: its partition went to another worker"))
        tail = child.output.tail.decode("utf-8", "backslashreplace")
        return Crashed(ErrorInfo("crash", f"its process {_how(code)}", tail))

    def _could_not_start(self, why: str) -> None:
        self._pause = min(max(_PAUSES[0], self._pause * 2), _PAUSES[1])
        self._not_before = time.monotonic() + self._pause
        if not self._first.is_set():
            self._broken = self._broken or f"it {why}"
            self._first.set()
        log.error("a child process could not start: %s; the next try is in %g s", why, self._pause)

    # -- what they say ------------------------------------------------------------------------------------------------

    def _converse(self, child: Child) -> None:
        # Order: what it has printed first, so that it is logged with the task that printed it.
        self._listen(child)
        if child.unsent:
            child.send()
            self._write_when_possible(child)
        try:
            for message in child.receive() if child.closed is None else ():
                if isinstance(message, Reports):
                    self._take_reports(child, message)
                elif isinstance(message, Line):
                    _write(message, child)
                elif isinstance(message, Ready):
                    child.ready, self._pause = True, 0.0
                    self._first.set()
                else:
                    self._take_fault(child, message)
        except EOFError:
            child.closed = time.monotonic()
            self._selector.unregister(child.socket)
        except ValueError as error:
            child.closed = time.monotonic()
            self._selector.unregister(child.socket)
            log.error("a child process says what it should not: %s", error, extra={"slot": child.slot})
            self._kill(child, "protocol")

    def _take_reports(self, child: Child, message: Reports) -> None:
        report, costs = self._mailbox.report, self._costs
        for ended in message.ended:
            entry = child.reported(ended.number)
            if entry is None:
                continue  # settled already
            outcome = SUCCESS if ended.outcome is None else self._judge(child, entry, ended, ended.outcome)
            report((entry, entry.run, outcome, ended.since, ended.ended))
            name, took = entry.task.name, ended.ended - ended.since
            cost = costs.get(name, took)
            costs[name] = cost + (took - cost) / 8
            child.progress = ended.ended
            if child.output.used:
                for text in child.output.end():
                    self._print(child, entry, text)
        child.finished |= message.last

    def _judge(self, child: Child, entry: Entry, ended: Ended, outcome: Outcome) -> Outcome:
        """What came too late has timed out, as in a thread."""
        timeout = self._timeout(entry)
        if not isinstance(outcome, Failed):
            return outcome
        told = outcome.error.type == TOLD
        if told and child.told != "timeout":
            return Failed(ErrorInfo("cancelled", "its partition went to another worker", outcome.error.stack))
        if told:
            return overdue(timeout, "was ended", outcome.error.stack)
        return TimedOut(outcome.error) if timeout and ended.ended - ended.since > timeout else outcome

    def _take_fault(self, child: Child, message: Broken) -> None:
        if not child.ready and not self._first.is_set():
            self._broken = message.why
        log.error("in a child process: %s", message.why, extra={"slot": child.slot})

    def _listen(self, child: Child) -> None:
        for _ in range(_READS):
            data = child.read_output()
            if data is None and child.printed in self._selector.get_map():
                self._selector.unregister(child.printed)
            if not data:
                return
            entry = child.entries[0][1] if child.entries else None
            if entry is not None:
                self._costs[entry.task.name] = math.inf  # who prints runs alone, or it would not be known who did
            for text in child.output.feed(data):
                self._print(child, entry, text)

    def _print(self, child: Child, entry: Entry | None, text: str) -> None:
        fields = {"task": entry.task.name, "id": entry.task.id} if entry is not None else {}
        _printed.info("%s", text, extra={**fields, "slot": child.slot})

    # -- what they are given ------------------------------------------------------------------------------------------

    def _hand_out(self, now: float) -> None:
        queue, most = self._queue, self._recycling.tasks
        takers = [
            child
            for child in self._children.values()
            if child.takes_more and len(child.entries) <= _MOST_AT_ONCE and not (most and child.served >= most)
        ]
        takers.sort(key=lambda child: len(child.entries))
        for index, child in enumerate(takers):
            share = math.ceil(len(queue) / (len(takers) - index))
            entries = self._portion(child, min(share, _MOST_AT_ONCE))
            if entries:
                child.give(entries, now)
                self._write_when_possible(child)

    def _portion(self, child: Child, most: int) -> list[Entry]:
        """What this child may be given now: one task, or several small ones."""
        queue, costs = self._queue, self._costs
        held, load = len(child.entries), 0.0
        if held:
            load = held * costs.get(child.entries[0][1].task.name, math.inf)
        entries: list[Entry] = []
        try:
            for _ in range(most):
                entry = queue.popleft()
                load += costs.get(entry.task.name, math.inf)
                if load > _AHEAD and (entries or held):
                    queue.appendleft(entry)
                    break
                entries.append(entry)
        except IndexError:  # the end, or what was there was withdrawn at this moment
            pass
        return entries

    def _write_when_possible(self, child: Child) -> None:
        if child.closed is None:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.unsent else 0)
            if self._selector.get_key(child.socket).events != wanted:
                self._selector.modify(child.socket, wanted, partial(self._converse, child))

    # -- time ---------------------------------------------------------------------------------------------------------

    def _look_at(self, child: Child, now: float) -> None:
        if now >= self._kill_at:
            self._kill(child, "stop")
        elif child.told:
            if now - child.told_at >= _KILL:
                self._kill(child, child.told)
        elif child.leaving is not None or child.closed is not None or child.finished:
            if now - max(child.leaving or child.closed or child.progress, child.progress) > _LEAVE:
                self._kill(child, "stop")
        elif not child.ready:
            if now - child.born > _START:
                log.error("a child process was not ready within %g s: see the plugins' setup()", _START)
                self._kill(child, "start")
        elif child.entries:
            self._look_at_task(child, now)
        elif self._stopped or self._is_worn(child, now):
            child.let_go(now)

    def _look_at_task(self, child: Child, now: float) -> None:
        if len(child.entries) > 1 and now - child.progress > _STALL:
            name = child.entries[0][1].task.name
            self._costs[name] = max(now - child.progress, self._costs.get(name, 0.0))
            self._queue.extendleft(reversed(child.take_back()))
            self._settle(child)
        timeout = self._timeout(child.entries[0][1]) if child.entries else 0.0
        if timeout and now - child.progress > timeout:
            self._tell(child, "timeout", now)

    def _settle(self, child: Child) -> None:
        """After `take_back`: of what has begun, all but the last have ended, and were plain successes if not reported."""
        self._converse(child)
        now = time.monotonic()
        while len(child.entries) > 1:
            number, entry = child.entries[0]
            child.reported(number)
            self._mailbox.report((entry, entry.run, SUCCESS, child.progress, now))

    def _tell(self, child: Child, why: str, now: float) -> None:
        """End the task that runs in this child, and the child with it."""
        rest = child.take_back()
        self._settle(child)
        self._queue.extendleft(reversed(rest))
        if child.entries and not child.told:
            child.told, child.told_at = why, now
            self._signal(child, signal.SIGTERM)
            self.killed[why] = self.killed.get(why, 0) + 1

    def _cancel(self, partitions: list[Partition]) -> None:
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.takes_more and any(entry.partition in partitions for _, entry in child.entries):
                rest = child.take_back()
                self._settle(child)
                gone = [entry for entry in rest if entry.partition in partitions]
                self._queue.extendleft(entry for entry in reversed(rest) if entry not in gone)
                for entry in gone:
                    error = ErrorInfo("cancelled", "its partition went to another worker before it began")
                    self._mailbox.report((entry, entry.run, Failed(error), now, now))
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

    def _is_worn(self, child: Child, now: float) -> bool:
        tasks, memory = self._recycling.tasks, self._recycling.memory
        return bool((tasks and child.served >= tasks) or (memory and child.resident() > memory))

    def _timeout(self, entry: Entry) -> float:
        return self._runnables[entry.task.name].spec.timeout


def _write(line: Line, child: Child) -> None:
    """Write a line of a child to the log of this process."""
    fields = {name: value for name, value in line.fields.items() if name not in RESERVED}
    logging.getLogger(line.logger).log(line.level, "%s", line.text, extra={**fields, "slot": child.slot})


def _how(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    hint = {"SIGKILL": " (out of memory?)", "SIGXCPU": " (its processor time was used up)"}.get(name, "")
    return f"was killed by {name}{hint}"
