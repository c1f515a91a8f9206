"""What one measurement is given, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import topics
from benchmarks.effect import Effect
from benchmarks.place import Place
from benchmarks.run import Failed, Run
from benchmarks.workload import Workload
from kit.waiting import wait_for

MIB = 1 << 20
WARM = 0.1  # part of the tasks, the first ones, that do not count: start, join and warm-up are no throughput
COMMITTED = 15.0  # seconds for the last commit before a peer is stopped; commits are a second apart


@dataclass(slots=True)
class Measurement:
    """figures: by name; table.COLUMNS has their units. faults: why it is invalid; empty if it is not."""

    peer: str
    workload: str
    figures: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Trial:
    """What one measurement needs. start: starts the peer; again after a kill, and once for each of several workers.

    waiting: counts the tasks that are not acknowledged where they do not wait in Kafka.
    """

    workload: Workload
    tasks: int
    bootstrap: str
    topic: str
    place: Place
    effect: Effect
    few: bool
    start: Callable[[], Run]
    figures: dict[str, float]
    waiting: Callable[[], int] | None = None

    def lag(self) -> int:
        """Records that are not committed."""
        if self.waiting is not None:
            return self.waiting()
        return topics.lag(self.bootstrap, self.place.group, self.topic, self.workload.partitions)

    def committed(self) -> None:
        """Wait until all is committed; the account tells if it is not in time."""
        try:
            wait_for(lambda: self.lag() == 0, COMMITTED, "the last commit")
        except AssertionError as error:
            raise Failed(str(error)) from None
