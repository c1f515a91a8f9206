"""A workload: what is published, what each task costs, and how fast perfect slots would be; plan.py has them all."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

KEYS = 4096
"""Keys of the records; as a multiple of every number of partitions here, a key stays in one."""

PAYLOAD = 200
"""Bytes of a record's value."""

Kind = Literal[
    "drain",
    "paced",
    "idle",
    "kill",
    "mixed",
    "powers",
    "scale",
    "rebalance",
    "publish",
    "delays",
    "bomb",
    "slope",
    "told",
]
Cost = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the plan.

    kind: what is measured, a name in measure.KINDS. tasks: how many in the full run; few: in the smoke run; 0 is not in
    it. cost: ms of each task, by its number. servers: what runs tasks at once in the ideal, "slots" or "processes";
    None: there is no ideal. size: bytes of a record's value. named: the task of kworker that a record names; None: it
    names none. workers: processes of the peer. full: whether the topic holds the tasks before the peer starts.
    once: it takes so long that it is not repeated in a run.
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
    size: int = PAYLOAD
    named: Callable[[int], str] | None = None
    workers: int = 1
    full: bool = True
    once: bool = False

    def payload(self, n: int) -> bytes:
        """The value of the record of task `n`."""
        head = f'{{"n":{n},"ms":{self.cost(n):g},"pad":"'
        return f'{head}{"x" * (self.size - len(head) - 2)}"}}'.encode()

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
