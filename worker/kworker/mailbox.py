"""The one way into the worker's loop: events from intake, producer and signals, reports from slots.

Promises: nothing blocks a sender, and a sender takes no lock that another one holds for long. Slots only append to a
deque; they wake the loop when it waits and otherwise cost it nothing, so a busy worker handles reports in batches.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable

from kworker.core.entry import Entry
from kworker.core.events import Event, Finished
from kworker.task import Outcome

Report = tuple[Entry, int, Outcome, float, float]
"""One attempt's end: entry, run number, outcome, and when it started and ended (monotonic seconds)."""

Command = Callable[[], None]
"""Something for the loop to call: a signal's or another thread's way to change what only the loop may touch."""

_MOST_AT_ONCE = 64


class Mailbox:
    """Many senders, one taker: the loop."""

    __slots__ = ("_events", "_reports", "_waiting")

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event | Command | None] = queue.SimpleQueue()
        self._reports: deque[Report] = deque()
        self._waiting = False

    def post(self, event: Event | Command) -> None:
        """Hand an event or a command to the loop. Safe from any thread and from a signal's callback."""
        self._events.put(event)

    def report(self, report: Report) -> None:
        """A slot's attempt ended."""
        self._reports.append(report)
        if self._waiting:
            # Cleared by the sender: of many slots that finish while the loop is waking up, few post.
            self._waiting = False
            self._events.put(None)

    def report_all(self, reports: list[Report]) -> None:
        """Several attempts ended."""
        self._reports.extend(reports)
        if self._waiting:
            self._waiting = False  # as above
            self._events.put(None)

    def take(self, timeout: float) -> list[Event | Command]:
        """Everything that came, in order, the reports last as one Finished; waits up to `timeout` seconds."""
        events: list[Event | Command] = []
        if not self._reports and timeout > 0:
            # Order: the flag is set before the deque is looked at again, or a report between the two would not wake.
            self._waiting = True
            if not self._reports:
                try:
                    first = self._events.get(timeout=timeout)
                    if first is not None:
                        events.append(first)
                except queue.Empty:
                    pass
            self._waiting = False
        try:
            while len(events) < _MOST_AT_ONCE:
                event = self._events.get_nowait()
                if event is not None:
                    events.append(event)
        except queue.Empty:
            pass
        reports = self._reports
        if reports:
            events.append(Finished([reports.popleft() for _ in range(len(reports))], time.time()))
        return events
