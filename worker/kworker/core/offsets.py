"""The offsets of one assigned partition: which are open, which are finished, what may be committed.

Promises: the committable offset never falls and never passes an open offset; every finished offset above it is in
`finished_bounds()`. Only offsets that were delivered are tracked, so gaps in the log (transaction markers,
compaction) need no special case.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile


class OffsetTracker:
    """Offsets between the committable one and the next to be delivered.

    `next` is the offset after the last delivered one, or the end of the partition where that is known to be further.
    """

    __slots__ = ("_finished", "_open", "next")

    def __init__(self, start: int) -> None:
        self.next = start
        self._open: deque[int] = deque()  # delivered and not yet below the watermark, in log order
        self._finished: set[int] = set()  # those of _open that are finished

    def open_all(self, offsets: list[int]) -> None:
        """A run of records was delivered. Offsets come in log order, each once, from `next` on."""
        self._open.extend(offsets)
        self.next = offsets[-1] + 1

    def finish(self, offset: int) -> None:
        """The effect of this record is acknowledged; it is finished once, after it was opened."""
        self.finish_all([offset])

    def finish_all(self, offsets: list[int]) -> None:
        """`finish` for each of them."""
        unfinished, finished = self._open, self._finished
        finished.update(offsets)
        passed = list(takewhile(finished.__contains__, unfinished))
        finished.difference_update(passed)
        for _ in passed:
            unfinished.popleft()

    def end_reached(self, offset: int) -> bool:
        """The log ends at `offset`: all that is missing below it is no record. True if that moved `next`.

        Without it a transaction marker at the end of a partition would leave a lag of one for ever.
        """
        if offset <= self.next:
            return False
        self.next = offset
        return True

    @property
    def committable(self) -> int:
        """The offset to commit: the first open one, or `next` when none is open."""
        return self._open[0] if self._open else self.next

    @property
    def open_count(self) -> int:
        """Delivered and not finished."""
        return len(self._open) - len(self._finished)

    @property
    def finished_count(self) -> int:
        """Finished above the committable offset."""
        return len(self._finished)

    @property
    def highest_finished(self) -> int:
        """The highest finished offset, or the one below the committable offset when none is above it."""
        return max(self._finished, default=self.committable - 1)

    @property
    def window(self) -> int:
        """An upper bound of the bits that `finished_bounds()` needs in commit metadata.

        A bitmap needs one for each offset of the range; a list of runs, at most five bytes for each delivered record.
        """
        if not self._open:
            return 0
        return min(self.next - self._open[0], 40 * len(self._open))

    def finished_bounds(self) -> list[int]:
        """The finished offsets above the committable one, as start, end, start, end ...

        An offset that was never delivered counts with the one before it: it cannot be delivered later, and fewer,
        longer intervals make shorter metadata.
        """
        finished = self._finished
        if not finished:
            return []
        bounds: list[int] = []
        inside = False
        for offset in self._open:
            if (offset in finished) is not inside:
                bounds.append(offset)
                inside = not inside
        if inside:
            bounds.append(self._open[-1] + 1)
        return bounds
