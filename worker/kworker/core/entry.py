"""One delivered record and its life until its offset is finished."""

from __future__ import annotations

from msgspec import Struct

from kworker.core.partition import Partition
from kworker.core.route import Route
from kworker.task import Task


class Entry(Struct, eq=False, weakref=False):
    """Owned by the engine; an executor reads `task`, `attempt` and `run` and changes nothing.

    run: odd while it is handed to an executor; every start and every accepted end adds one, so a report that
    carries another number is stale. attempt: the number of this or the next run, from 1. seen: when it was first
    delivered (seconds since the epoch). pending: forwards that are not acknowledged yet.
    """

    task: Task
    partition: Partition
    route: Route
    seen: float
    lane: bytes | None = None
    run: int = 0
    attempt: int = 1
    pending: int = 0
