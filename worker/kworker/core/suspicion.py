"""Finding the task that kills its worker: what of a partition may start after its owners died, and when.

A plugin in a thread or a coroutine can end the whole process, and then nothing tells which task it was. What is left is
the mark in the commit metadata (mark.py). This is what is made of it:

- After one life that ended without a word nothing changes but this: records start only below the mark's `lease`, which
  is raised by a commit each time it is reached. It grows with the speed, so nobody waits for long. Whatever runs when
  this life ends without a word as well has an offset below it.
- After two such lives in a row the unfinished records below the lease are suspects: all that can have run at the last
  death, whatever the order, the limits and the retries, since an offset at or above it cannot have been started. Many
  run in parts first, those of a part together, so that a death leaves one part of them (watch.py). Of few each runs
  alone in this process, after a commit that names it was acknowledged, until it is finished. What is no suspect runs as
  ever while no suspect is ready, and no longer. So a mark that names a record says: it alone ran.
- A record that was named at the deaths of `MOST_DEATHS` lives is set aside. Two that kill are found one after another.
- A partition is watched until this life has done all below the lease that it began with and lives for a while. That
  the committed offset moved would be too little: a killer that is a second of work ahead would be reached anew by every
  life, each a little nearer.

Attempts in other processes (`isolated`) cannot end this one: they need no care and are not named.

Promises: no attempt runs beside one that an acknowledged commit, or one that may have been stored, names; nothing at
or above a watched partition's acknowledged lease is started.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from msgspec import structs

from kworker.core.actions import Action, Cleared, Suspected
from kworker.core.entry import Entry
from kworker.core.forward import Verdict
from kworker.core.mark import ALIVE, Mark
from kworker.core.partition import Partition
from kworker.core.ready import ReadyQueue
from kworker.core.watch import Watch
from kworker.task import ErrorInfo, Reason

MOST_DEATHS = 3
"""A record that was named at the deaths of so many lives is set aside."""

_ALIVE_AFTER = 5  # commit intervals that a watched partition must have lived for, from its first record on


class Suspicion:
    """Owns the watched partitions, and the one entry that runs alone. charges: deaths that were charged to a record."""

    __slots__ = ("_current", "_interval", "_isolated", "_started", "charges", "watched")

    def __init__(self, isolated: Collection[str], interval: float) -> None:
        self._isolated = isolated
        self._interval = interval
        self.watched: list[Partition] = []
        self._current: Entry | None = None  # named, and started or about to be
        self._started = False
        self.charges = 0

    def watch(self, partition: Partition, before: Mark, end: int | None) -> list[Action]:
        """A partition was assigned. before: the mark that was stored; `partition.mark` and `marked` are set."""
        mark, charged = partition.mark, before.alone
        self.charges += charged is not None
        if mark.lives <= 1:
            return []
        watch = partition.watch = Watch(partition, before, end, self._isolated)
        self.watched.append(partition)
        if not watch.suspects_end:
            return []
        start, deaths = partition.tracker.next, 0 if charged is None else len(mark.deaths.get(charged, ()))
        return [Suspected(partition.topic_partition, start, watch.suspects_end, before.lives, charged, deaths)]

    def judge(self, entry: Entry) -> Verdict | None:
        """Raise the attempt of a record of a watched partition by its deaths; the verdict if they were too many."""
        times = entry.partition.mark.deaths.get(entry.offset)
        if times is None or entry.route.executor in self._isolated:
            return None
        deaths = len(times)
        entry.attempt += deaths
        if deaths < MOST_DEATHS:
            return None
        entry.attempt, entry.run = entry.attempt - 1, 2 * deaths
        when = ", ".join(datetime.fromtimestamp(time, UTC).isoformat() for time in times)
        why = f"the worker died {deaths} times while it ran this task alone, started at {when}"
        return Verdict(Reason.CRASHED, ErrorInfo("crash", why))

    @property
    def closed(self) -> bool:
        """True while nothing else may be started in this process."""
        if self._current is not None:
            return True
        watches = (partition.watch for partition in self.watched)
        return any(watch.named or watch.alone for watch in watches if watch is not None)

    @property
    def urgent(self) -> bool:
        """True while a commit is waited for, by what may not start before it."""
        return any(partition.mark != partition.marked for partition in self.watched)

    def turn(self, running: int, ready: ReadyQueue, now: float, at: float) -> Entry | None:
        """The entry to start alone now, if there is one; and what may go to the ready queue goes there.

        running: attempts in this process. at: now, in seconds since the epoch.
        """
        current = self._current
        if current is not None and self._started and current.run % 2 == 0:  # its attempt ended, or was taken back
            self._take_back(current)
            current = None
        if current is None and not running:
            # Order: nothing runs any more when it is named. A death before that would be charged to it.
            current = self._current = self._name_next(at)
        closed = self.closed
        for partition in self.watched:
            watch = partition.watch
            assert watch is not None
            mark, marked = partition.mark, partition.marked
            known = (mark.first, mark.lease) == (marked.first, marked.lease)
            for entry in watch.raised(min(mark.lease, marked.lease)):
                ready.push(entry)
            if watch.held and known and not closed and not watch.busy:
                first, lease = watch.next_range(now, self._interval)
                self._rewrite(partition, first=first, lease=lease)
        if current is None or self._started or running or not self._acknowledged(current):
            return None
        self._started = True
        return current

    def on_tick(self, ready: ReadyQueue, now: float) -> list[Action]:
        """End the suspicion of partitions whose suspects are done, and the watch over those that have lived."""
        cleared: list[Action] = []
        for partition in list(self.watched):
            watch = partition.watch
            assert watch is not None
            committable = partition.tracker.committable
            if watch.suspects_end and committable >= watch.suspects_end:
                watch.suspects_end = 0
                cleared.append(Cleared(partition.topic_partition))
            lived = watch.lived(partition, now) >= _ALIVE_AFTER * self._interval
            if lived and committable >= watch.until and not watch.named and not partition.leaving:
                self.forget(partition)
                partition.mark = ALIVE
                partition.changes += 1
                for entry in watch.held:
                    ready.push(entry)
        return cleared

    def leave(self, partition: Partition) -> list[Entry]:
        """Nothing of this partition starts any more; returns its entries that were kept here."""
        watch = partition.watch
        if watch is None:
            return []
        first, lease = watch.left(partition.mark)
        self._rewrite(partition, first=first, lease=lease)
        dropped = [*watch.alone, *watch.held]
        watch.alone.clear()
        watch.held.clear()
        current = self._current
        if current is not None and current.partition is partition and not self._started:
            dropped.append(current)
            self._take_back(current)
        return dropped

    def forget(self, partition: Partition) -> None:
        """The partition is fenced, or needs no care any more."""
        if partition.watch is None:
            return
        partition.watch = None
        self.watched.remove(partition)
        if self._current is not None and self._current.partition is partition:
            self._current, self._started = None, False

    def _name_next(self, at: float) -> Entry | None:
        for partition in self.watched:
            watch = partition.watch
            if watch is not None and watch.alone:
                entry = watch.alone.popleft()
                self._rewrite(partition, alone=entry.offset, since=int(at))
                return entry
        return None

    def _take_back(self, entry: Entry) -> None:
        self._current, self._started = None, False
        self._rewrite(entry.partition, alone=None, since=0)

    def _acknowledged(self, current: Entry) -> bool:
        """Whether the group knows that this one runs alone, and names no other."""
        mark, marked = current.partition.mark, current.partition.marked
        return (marked.alone, marked.since) == (mark.alone, mark.since) and not any(
            partition is not current.partition and partition.watch is not None and partition.watch.named
            for partition in self.watched
        )

    def _rewrite(self, partition: Partition, **changes: object) -> None:
        partition.mark = structs.replace(partition.mark, **changes)
        partition.changes += 1
