"""Tasks between two attempts: where each waits.

Most wait in memory: no slot, but an open offset. A long wait goes to the delay log, and its offset is free once the
broker has it. What holds up a lane always waits here: its lane stays blocked, so order survives a restart for free.
Promise: what the delay log does not take, or as long as there is none, waits here as well.
"""

from __future__ import annotations

import heapq
from itertools import count

from kworker.core.entry import Entry
from kworker.core.events import Refusal
from kworker.core.forward import Forward
from kworker.core.forwarding import Forwarding
from kworker.core.settings import EngineSettings

_ASK_AGAIN = 60.0  # seconds after which the delay log is asked for again


class Retries:
    """Owns what waits in memory, by the time it is due (engine time), and whether there is a delay log."""

    __slots__ = ("_ask_at", "_forwarding", "_log_ready", "_sequence", "_settings", "_waiting")

    def __init__(self, settings: EngineSettings, forwarding: Forwarding) -> None:
        self._settings = settings
        self._forwarding = forwarding
        self._waiting: list[tuple[float, int, Entry]] = []
        self._sequence = count()
        self._log_ready = False
        self._ask_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def put_off(self, entry: Entry, wait: float, now: float, at: float) -> None:
        """It is to be tried again after `wait` seconds. now, at: by the engine's time, and since the epoch."""
        if entry.lane is not None:
            wait = min(wait, self._settings.retry_in_lane)
        elif self._is_long(entry, wait):
            if self._log_ready:
                self._forwarding.put_off(entry, now + wait, at + wait)
                return
            self._ask_for_log(now)
        self._add(entry, now + wait)

    def begin_to_delay(self, now: float, at: float) -> None:
        """There is a delay log: long retries wait there from now on, with those that wait here already."""
        self._log_ready = True
        waiting, self._waiting = self._waiting, []
        for due, number, entry in waiting:
            if entry.lane is None and not entry.partition.leaving and self._is_long(entry, due - now):
                self._forwarding.put_off(entry, due, at + due - now)
            else:
                self._waiting.append((due, number, entry))
        heapq.heapify(self._waiting)

    def keep(self, forward: Forward, refusal: Refusal, now: float) -> None:
        """The delay log did not take it."""
        assert forward.due is not None
        self._forwarding.give_back(forward)
        self._add(forward.entry, forward.due)
        if refusal is Refusal.NO_TOPIC and self._log_ready:
            self._log_ready, self._ask_at = False, now
            self._ask_for_log(now)

    @property
    def due(self) -> float | None:
        """When the next is due."""
        return self._waiting[0][0] if self._waiting else None

    def take(self, now: float) -> list[Entry]:
        """Those that are due, the earliest first."""
        taken = []
        while self._waiting and self._waiting[0][0] <= now:
            taken.append(heapq.heappop(self._waiting)[2])
        return taken

    def drop_fenced(self) -> None:
        """Forget what belongs to fenced partitions: some are due in days."""
        self._waiting = [waiting for waiting in self._waiting if not waiting[2].partition.fenced]
        heapq.heapify(self._waiting)

    def _add(self, entry: Entry, due: float) -> None:
        heapq.heappush(self._waiting, (due, next(self._sequence), entry))

    def _is_long(self, entry: Entry, wait: float) -> bool:
        limit = entry.route.in_memory
        return self._settings.delays and wait > (self._settings.retry_in_memory if limit is None else limit)

    def _ask_for_log(self, now: float) -> None:
        if now >= self._ask_at:
            self._ask_at = now + _ASK_AGAIN
            self._forwarding.ask_for_log()
