"""The true backlog of a group: what of a log is not finished, told by the log's ends and the group's commits alone.

No worker needs to run: which offsets above the committed one are finished is in the commit metadata.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from kworker.core.metadata import decode
from kworker.task import TopicPartition


class Backlog(Struct, frozen=True):
    """What of one partition is not finished.

    start, end: the first offset that is not finished, and the log's end, as a reader of committed records sees it.
    finished: offsets between the two that are finished, as start, end, start, end ... committed: None when the group
    has no offset here; it is then counted from the log's start. lost: offsets above the committed one that the log does
    not hold any more. known: False when the commit metadata is of no kworker,
    so that nothing is known of what is finished above the committed offset.
    """

    place: TopicPartition
    start: int
    end: int
    finished: list[int]
    committed: int | None
    lost: int = 0
    known: bool = True

    @property
    def unfinished(self) -> int:
        """Offsets that are not finished: an upper bound of the records, as markers and compacted ones count too."""
        return self.end - self.start - sum(end - start for start, end in self._pairs())

    @property
    def done(self) -> int | None:
        """Offsets that the group has finished, from the first there ever was; None when it has no offset here."""
        return None if self.committed is None else self.end - self.unfinished - self.lost

    def is_finished(self, offset: int) -> bool:
        """Whether the record at this offset is done."""
        return offset < self.start or any(start <= offset < end for start, end in self._pairs())

    def gaps(self) -> Iterator[tuple[int, int]]:
        """What is not finished, as half-open intervals in ascending order."""
        at = self.start
        for start, end in self._pairs():
            if at < start:
                yield at, start
            at = end
        if at < self.end:
            yield at, self.end

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return zip(self.finished[::2], self.finished[1::2], strict=True)


def backlog(place: TopicPartition, low: int, end: int, committed: int | None, metadata: str) -> Backlog:
    """The backlog of a partition whose log holds offsets `low` to `end`, by its group's committed offset and metadata.

    What was committed and is not in the log any more, or is beyond its end, counts for nothing.
    """
    finished = decode(metadata, committed) if committed is not None else None
    at = low if committed is None else min(max(low, committed), end)
    bounds: list[int] = []
    for start, stop in zip(*[iter(finished.bounds if finished else [])] * 2, strict=True):
        if min(stop, end) > max(start, at):
            bounds += [max(start, at), min(stop, end)]
    if bounds and bounds[0] == at:  # the log lost what was open below
        at, bounds = bounds[1], bounds[2:]
    lost = 0 if committed is None else max(0, low - committed)
    for start, stop in zip(*[iter(finished.bounds if finished else [])] * 2, strict=True):
        lost -= max(0, min(stop, low) - start)  # finished before the log lost it
    return Backlog(place, at, end, bounds, committed, lost, known=committed is None or finished is not None)
