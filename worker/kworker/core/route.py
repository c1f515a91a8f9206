"""What the engine knows of one task name: how to run it, when to give up, and how often what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kworker.core.retry import RetryPolicy
from kworker.task import Crashed, Outcome, Postponed, Reason, Refused, TimedOut

if TYPE_CHECKING:
    from collections import deque

    from kworker.core.entry import Entry


class Route:
    """One task name. `limit`: how many of its attempts may be admitted at once; None is as many as there are slots.
    `in_memory`: seconds that a retry may wait in memory, where that is not the worker's.

    The counters have one writer, the loop; the metrics page only reads them.
    """

    __slots__ = (
        "admitted",
        "dead_lettered",
        "delayed",
        "executor",
        "failed",
        "in_memory",
        "limit",
        "name",
        "policy",
        "postponed",
        "retried",
        "succeeded",
        "waiting",
    )

    def __init__(
        self,
        name: str,
        executor: str,
        policy: RetryPolicy,
        limit: int | None = None,
        in_memory: float | None = None,
    ) -> None:
        self.name = name
        self.executor = executor
        self.policy = policy
        self.limit = limit
        self.in_memory = in_memory
        self.admitted = 0
        self.waiting: deque[Entry] | None = None
        self.succeeded = 0
        self.retried = 0
        self.delayed = 0
        self.postponed = 0
        self.failed: dict[str, int] = {}
        self.dead_lettered: dict[Reason, int] = {}

    def count_failure(self, outcome: Outcome) -> None:
        """Count an attempt that did not succeed, by the closed set of the metric's label `error`, or was put off."""
        if isinstance(outcome, Postponed):
            self.postponed += 1
            return
        label = _LABELS.get(type(outcome), "exception")
        self.failed[label] = self.failed.get(label, 0) + 1


_LABELS: dict[type, str] = {TimedOut: "timeout", Crashed: "crash", Refused: "rejected"}
