"""Which letters of one partition are resolved: all below an offset, and some above it.

Promises: a letter that is not resolved is never counted as resolved; what is said beside the offset in a commit's
metadata is exact or nothing (core/metadata.py), and `fits` tells before anything is done.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from kworker.core.metadata import Alphabet, Intervals, encode


class Resolved:
    """The resolved offsets. `base`: all below are resolved; `next`: the one after the last that was seen in the log.

    Not every offset is a letter: a transaction's mark and what compaction took away are none, and none will come there.
    So such a gap counts with the letter before it, and with `base` when it begins there: `base` does not stop at it.
    """

    __slots__ = ("_bounds", "_gaps", "base", "next")

    def __init__(self, base: int, above: Intervals | None = None) -> None:
        self.base = base
        self.next = base
        self._bounds = above.above(base) if above else []  # start, end, start, end ... all above base
        self._gaps: dict[int, int] = {}  # start -> end, of those that follow an unresolved letter
        self._settle()

    def __contains__(self, offset: int) -> bool:
        return offset < self.base or bisect_right(self._bounds, offset) % 2 == 1

    def copy(self) -> Resolved:
        """Another one of the same."""
        copy = Resolved(self.base)
        copy.next = self.next
        copy._bounds, copy._gaps = list(self._bounds), dict(self._gaps)
        return copy

    def seen(self, offset: int) -> None:
        """The letter at `offset` is the next one in the log, or the log ends there: what is below it is known."""
        if offset > self.next:
            if (self.next - 1) in self:
                self._add(self.next, offset)
            else:
                self._gaps[self.next] = offset
        self.next = max(self.next, offset + 1)

    def ended(self, offset: int) -> None:
        """The log ends at `offset`: no letter is between the last one and that."""
        if offset > self.next:
            self.seen(offset)
            self.next = offset

    def resolve(self, offsets: Iterable[int]) -> None:
        """These letters, which were seen, are resolved."""
        for offset in offsets:
            self._add(offset, self._gaps.pop(offset + 1, offset + 1))

    def fits(self, alphabet: Alphabet | None) -> bool:
        """Whether all of it can be written down; alphabet None: the broker keeps no metadata."""
        return not self._bounds or (alphabet is not None and encode(self.base, self._bounds, alphabet)[1])

    def text(self, alphabet: Alphabet | None) -> str:
        """The metadata to commit beside `base`."""
        return encode(self.base, self._bounds, alphabet)[0] if alphabet else ""

    @property
    def bounds(self) -> list[int]:
        """What is resolved above `base`: start, end, start, end ..."""
        return list(self._bounds)

    def _add(self, start: int, end: int) -> None:
        left, right = bisect_left(self._bounds, start), bisect_right(self._bounds, end)
        self._bounds[left:right] = [start] * (left % 2 == 0) + [end] * (right % 2 == 0)
        self._settle()

    def _settle(self) -> None:
        if self._bounds and self._bounds[0] <= self.base:
            self.base = max(self.base, self._bounds[1])
            del self._bounds[:2]
