"""The workloads: what is published, what each task costs, and how fast perfect slots would be."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

KEYS = 4096
"""Keys of the records; as a multiple of every number of partitions here, a key stays in one."""

PAYLOAD = 200
"""Bytes of a record's value."""

Kind = Literal["drain", "paced", "idle", "kill"]
Cost = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the plan.

    kind: what is measured: draining a full topic; latency of tasks that are published one by one; an idle worker; what
    is lost and repeated by a kill -9. tasks: how many in the full run; few: in the smoke run; 0 is not in it.
    cost: ms of each task, by its number. servers: what runs tasks at once in the ideal, "slots" or "processes"; None:
    there is no ideal.
    """

    name: str
    title: str
    kind: Kind
    tasks: int
    few: int
    body: str = "sleep"
    cost: Cost = lambda n: 0
    slots: int = 64
    processes: int = 2
    partitions: int = 8
    servers: Literal["slots", "processes"] | None = None

    def payload(self, n: int) -> bytes:
        """The value of the record of task `n`."""
        head = f'{{"n":{n},"ms":{self.cost(n):g},"pad":"'
        return f'{head}{"x" * (PAYLOAD - len(head) - 2)}"}}'.encode()

    def ideal(self, tasks: int, first: int) -> float | None:
        """Seconds between the end of task number `first` to end and that of the last, if slots cost nothing at all.

        Each slot takes the next task in the order of publication the moment it is free.
        """
        if self.servers is None:
            return None
        free = [0.0] * (self.slots if self.servers == "slots" else self.processes)
        ends = []
        for n in range(tasks):
            ends.append(end := free[0] + self.cost(n) / 1000)
            heapq.heapreplace(free, end)
        ends.sort()
        return ends[-1] - ends[first - 1]


def _one_percent_slow(n: int) -> float:
    """5 ms; one of a hundred, at a random but fixed place among them, 1 s."""
    return 1000 if n % 100 == random.Random(n // 100).randrange(100) else 5


def one_slow(n: int) -> float:
    """Task 10,000 takes 10 s, the others nothing; so none does in the smoke run."""
    return 10_000 if n == 10_000 else 0


WORKLOADS: tuple[Workload, ...] = (
    Workload("W1", "no-op tasks", "drain", 1_000_000, 5_000),
    Workload("W2-64", "sleep 10 ms, 64 slots", "drain", 30_000, 1_000, cost=lambda n: 10, servers="slots"),
    Workload("W2-256", "sleep 10 ms, 256 slots", "drain", 100_000, 0, cost=lambda n: 10, slots=256, servers="slots"),
    Workload("W3", "2 ms of CPU, 2 processes", "drain", 5_000, 200, body="burn", cost=lambda n: 2, servers="processes"),
    Workload(
        "W4",
        "1 % sleep 1 s, the others 5 ms; 64 slots",
        "drain",
        20_000,
        0,
        cost=_one_percent_slow,
        servers="slots",
    ),
    Workload("W5", "latency at 200 tasks a second", "paced", 4_000, 100, body="timed"),
    Workload("W10", "idle, 256 partitions", "idle", 1, 1, body="timed", partitions=256),
    Workload("W1-kill", "kill -9 when half of W1 is done, one task slow", "kill", 3_000_000, 5_000, cost=one_slow),
)


def chosen(names: list[str]) -> Iterator[Workload]:
    """Those with these names, all if there are none; `W2` is every W2."""
    for workload in WORKLOADS:
        if not names or workload.name in names or workload.name.split("-")[0] in names:
            yield workload
