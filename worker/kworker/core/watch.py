"""The care for one partition whose last owner ended without a word: what of it may start, and what waits here.

Promises: what starts beside others has an offset in the range that an acknowledged mark tells, `first` to `lease`;
and the range moves on only when nothing of the old one runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from kworker.core.entry import Entry
from kworker.core.mark import FIRST_LEASE, Mark
from kworker.core.partition import Partition

_LARGEST_LEASE = 4096


class Watch:
    """See the module. before: the mark that the last owner left; end: of the log at the assignment.

    named: a commit that names a record may be stored, and none that takes it back is acknowledged. suspects_end: what
    is below it, and not finished, is suspected; until: this life began with what is below. alone: entries that are
    ready, to run alone; held: those at or above the lease.
    """

    __slots__ = (
        "_found",
        "_isolated",
        "_lease",
        "_out",
        "_parts",
        "_renewed",
        "_since",
        "_size",
        "alone",
        "first",
        "held",
        "named",
        "suspects_end",
        "until",
    )

    def __init__(self, partition: Partition, before: Mark, end: int | None, isolated: Collection[str]) -> None:
        mark, parts = partition.mark, before.parts(partition.tracker.next, partition.restored, end)
        self.first = mark.first
        self.suspects_end = parts[-1] if parts else mark.first
        lease = max(self.suspects_end, mark.lease)
        self.until = lease if end is None else min(lease, end)
        self.named = partition.marked.alone is not None
        self.alone: deque[Entry] = deque()
        self.held: deque[Entry] = deque()
        self._found = self.first, lease
        self._parts = deque(parts[1:])  # the ends of those to come
        self._out: list[tuple[Entry, int]] = []  # suspects that may start or run beside others, and their runs
        self._isolated = isolated
        self._lease = 0  # what may be started is below it
        self._size = FIRST_LEASE
        self._renewed = 0.0
        self._since: float | None = None

    def lets(self, entry: Entry) -> bool:
        """Whether this entry, which is ready, may start as any other; if not, it is kept here."""
        if entry.route.executor in self._isolated:
            return True
        if entry.offset < self.first:
            self.alone.append(entry)
        elif entry.offset >= self._lease:
            self.held.append(entry)
        else:
            self._let([entry])
            return True
        return False

    def raised(self, lease: int) -> list[Entry]:
        """The lease is `lease` now: the entries that may start by it."""
        if lease <= self._lease:
            return []
        self._lease = lease
        freed = [entry for entry in self.held if entry.offset < lease]
        self.held = deque(entry for entry in self.held if entry.offset >= lease)
        self._let(freed)
        return freed

    def _let(self, entries: list[Entry]) -> None:
        if self.first < self.suspects_end:
            self._out += [(entry, entry.run) for entry in entries]

    @property
    def busy(self) -> bool:
        """True while suspects run together, or are about to: then the range must stay."""
        while self._out and self._out[-1][0].run > self._out[-1][1] + 1:  # it ended, or was taken back
            self._out.pop()
        return bool(self._out)

    def next_range(self, now: float, interval: float) -> tuple[int, int]:
        """The `first` and the lease to ask for, so that something of what is held may start.

        Of suspects that is their next part, of others as many more as are started in a part of the commit interval.
        """
        if self.first < self.suspects_end:
            next_one = min(entry.offset for entry in self.held)
            self.first = self._lease
            while self._parts:
                end = self._parts.popleft()
                if next_one < end:
                    return self.first, end
                self.first = end
            self.first = self.suspects_end
        if now - self._renewed < interval / 4:
            self._size = min(_LARGEST_LEASE, self._size * 2)
        elif now - self._renewed > interval:
            self._size = max(FIRST_LEASE, self._size // 2)
        self._renewed = now
        return self.first, self.held[0].offset + self._size

    def left(self, mark: Mark) -> tuple[int, int]:
        """What the next owner is told as `first` and lease when this one gives up before its suspects are done."""
        return (self._found[0], max(self._found[1], mark.lease)) if self.suspects_end else (mark.first, mark.lease)

    def lived(self, partition: Partition, now: float) -> float:
        """Seconds since the first record was here."""
        if self._since is None and partition.marks:
            self._since = now
        return 0.0 if self._since is None else now - self._since
