"""One delivered record and its life until its offset is finished."""

from __future__ import annotations

from msgspec import Struct

from kworker.core.partition import Partition
from kworker.core.route import Route
from kworker.task import Task


class Back(Struct, frozen=True, gc=False):
    """Of an entry that came back by the retry topic: the offset of its record there, and where its dead letters go."""

    offset: int
    dead_letter_topic: str


class Entry(Struct, eq=False, weakref=False):
    """Owned by the engine; an executor reads `task`, `attempt` and `run` and changes nothing.

    run: odd while it is handed to an executor; every start and every accepted end adds one, so a report that
    carries another number is stale. attempt: the number of this or the next run, from 1. seen: when it was first
    delivered (seconds since the epoch). pending: forwards that are not acknowledged yet. back: there when it waited in
    the delay log; its task then says where it was read first, its partition where it was read now.
    """

    task: Task
    partition: Partition
    route: Route
    seen: float
    lane: bytes | None = None
    run: int = 0
    attempt: int = 1
    pending: int = 0
    back: Back | None = None

    @property
    def offset(self) -> int:
        """The offset of its record in its partition."""
        return self.task.offset if self.back is None else self.back.offset

    @property
    def dead_letter_topic(self) -> str:
        """Where its dead letter goes: by the topic it was read from first."""
        return self.partition.dead_letter_topic if self.back is None else self.back.dead_letter_topic
