"""One assigned partition, for as long as it is assigned: an assignment epoch."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kworker.core.mark import ALIVE, Mark
from kworker.core.metadata import Intervals
from kworker.core.offsets import OffsetTracker
from kworker.task import TopicPartition

if TYPE_CHECKING:
    from kworker.core.entry import Entry
    from kworker.core.forward import Forward
    from kworker.core.watch import Watch


class Partition:
    """State of one assignment epoch. What belongs to an earlier epoch holds an older object and is seen as fenced.

    changes: counts what moved the committable offset or the finished set; `committed_changes` is its value in the
    last acknowledged commit. crowded: it holds as many unfinished records, or as wide a window, as it may; its
    intake is paused. refused: commits of it in a row that the coordinator did not take. mark, marked: the run mark
    that the next commit writes, and the one that the last acknowledged commit holds; watch: there when it calls for
    care. leaving: no more starts (a revoke or a stop drains it). fenced: its offsets are no longer ours; late results
    are ignored.
    """

    __slots__ = (
        "bytes",
        "changes",
        "committed",
        "committed_changes",
        "crowded",
        "dead_letter_topic",
        "default_task",
        "epoch",
        "failing",
        "fenced",
        "forwarding",
        "lanes",
        "leaving",
        "mark",
        "marked",
        "marks",
        "refused",
        "restored",
        "running",
        "topic_partition",
        "tracker",
        "watch",
    )

    def __init__(
        self,
        topic_partition: TopicPartition,
        epoch: int,
        start: int,
        restored: Intervals,
        default_task: str | None,
        dead_letter_topic: str,
    ) -> None:
        self.topic_partition = topic_partition
        self.epoch = epoch
        self.tracker = OffsetTracker(start)
        self.restored = restored
        self.default_task = default_task
        self.dead_letter_topic = dead_letter_topic
        self.committed: int | None = None
        self.changes = 0
        self.committed_changes = 0
        self.refused = 0
        self.mark: Mark = ALIVE
        self.marked: Mark = ALIVE
        self.watch: Watch | None = None
        self.marks: deque[tuple[int, float]] = deque()  # (first offset of a batch, when it came), for ages
        self.lanes: dict[bytes, deque[Entry] | None] = {}
        self.running = 0  # handed to an executor and not reported
        self.forwarding = 0  # forwards not acknowledged
        self.failing: set[Forward] = set()  # forwards that the broker refused last time
        self.leaving = False
        self.fenced = False
        self.crowded = False
        self.bytes = 0  # of unfinished records

    @property
    def changed(self) -> bool:
        """True if there is something to commit that no acknowledged commit holds."""
        return not self.fenced and self.changes != self.committed_changes

    @property
    def suspect(self) -> bool:
        """True while one of its records may be what its last owners died of."""
        return self.watch is not None and self.watch.suspects_end > 0

    @property
    def busy(self) -> bool:
        """True while something of it runs or may be acknowledged soon.

        What the broker refused last time (`failing`) is not waited for: a dead-letter topic that cannot be written
        would hold up every rebalance and every stop.
        """
        return self.running > 0 or self.forwarding > len(self.failing)

    def finished_bounds(self) -> list[int]:
        """All that is known to be finished above the committable offset, as start, end, start, end ...

        What an earlier owner finished and was not delivered again yet belongs to it: without it, a second crash soon
        after a first one would have it run again.
        """
        bounds, restored = self.tracker.finished_bounds(), self.restored.above(self.tracker.next)
        if bounds and restored and bounds[-1] == restored[0]:
            return bounds[:-1] + restored[1:]
        return bounds + restored

    def oldest_since(self) -> float | None:
        """When the batch of the first unfinished record was delivered (seconds since the epoch), if there is one."""
        # One mark always stays, so another thread may read the first.
        return self.marks[0][1] if self.marks and self.tracker.open_count else None

    def forget_marks(self) -> None:
        """Drop the marks of batches that lie below the committable offset."""
        marks, committable = self.marks, self.tracker.committable
        while len(marks) > 1 and marks[1][0] <= committable:
            marks.popleft()
