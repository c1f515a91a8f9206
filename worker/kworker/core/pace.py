"""How fast a group finishes of late, told by samples of its backlog. Pure.

Promises: only what a group finished counts, not what its log lost, nor the first sight of a partition; offsets that
were set back, or a topic made anew, begin anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from kworker.core.backlog import Backlog
from kworker.task import TopicPartition

_REMEMBERED = 8  # samples


class Pace:
    """See the module; of one group."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)  # when, and what was finished until then
        self._last: dict[TopicPartition, Backlog] = {}

    def sample(self, now: float, backlogs: Iterable[Backlog]) -> None:
        """The backlog of the group at `now`, in seconds, as all times here."""
        current = {one.place: one for one in backlogs if one.done is not None}
        steps = [_done_between(self._last[place], one) for place, one in current.items() if place in self._last]
        if any(step < 0 for step in steps):
            self._samples.clear()
        before = self._samples[-1][1] + sum(steps) if self._samples else 0
        self._samples.append((now, before))
        self._last = current

    def drain(self, unfinished: int) -> float | None:
        """Seconds until so many are done as well; None while nothing is finished."""
        if not unfinished:
            return 0.0
        if not self._samples:
            return None
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return round(unfinished * (last - first) / (after - before), 1) if after > before and last > first else None


def _done_between(earlier: Backlog, later: Backlog) -> int:
    """Finished between two samples. What is not lost any more was passed by a new committed offset: nobody did it."""
    passed = max(0, earlier.lost - later.lost)
    return (later.done or 0) - (earlier.done or 0) - passed
