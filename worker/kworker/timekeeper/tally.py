"""What the timekeeper counts; its thread is the only one that writes here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kworker.core.delayed import Outcome


class Tally:
    """See the module. late: told by how many seconds each task was handed over after it was due."""

    def __init__(self, late: Callable[[Sequence[float]], None]) -> None:
        self.late = late
        self.ended = dict.fromkeys(Outcome, 0)
        self.partitions = 0
        """Partitions taken over."""
        self.pending = 0
        """Tasks that wait in them."""
        self.overdue = 0
        """Tasks that are due there and not handed over yet."""
        self.rebuild_seconds = 0.0
        """How long the last take-over took."""
