"""All workloads, in the order in which they are measured and shown."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from benchmarks.workload import Workload

MIX = (("thread", "coroutine") * 3 + ("process",)) * 5 + ("thread", "coroutine")
"""Who runs a task of W6, in turn: each executor is given as much as it can do in the same time."""

PARTITIONS = (1, 8, 64, 256)
STUCK = 4  # tasks, each in a partition of its own: none holds more above one than its commit metadata can
GAPS = (0, 500, 5_000, 50_000)
IN_FLIGHT = (16, 64, 256, 1024, 4096)
SIZES = {"100B": 100, "1KiB": 1 << 10, "10KiB": 10 << 10, "100KiB": 100 << 10, "1MiB": 1 << 20}
WORKERS = (1, 2, 4)
POWERS = (5, 6, 7)
"""Of ten: up to so many tasks each cost is told; the first starts at 10^4."""

_GROWTH = 200_000
_STEADY = 10_000  # tasks a second, whatever is in flight


def _one_percent_slow(n: int) -> float:
    """5 ms; one of a hundred, at a random but fixed place among them, 1 s."""
    return 1000 if n % 100 == random.Random(n // 100).randrange(100) else 5


def one_slow(n: int) -> float:
    """Task 10,000 takes 10 s, the others nothing; so none does in the smoke run."""
    return 10_000 if n == 10_000 else 0


def same(ms: float, n: int) -> float:
    """Every task takes `ms`."""
    return ms


def stuck(gap: int, n: int) -> float:
    """Of `gap` tasks one in each partition waits for the others; see bodies.stuck."""
    return gap if gap and n % gap < STUCK else 0


def executor_of(n: int) -> str:
    """Who runs a task of W6."""
    return MIX[n % len(MIX)]


def _mixed_cost(n: int) -> float:
    return 2 if executor_of(n) == "process" else 40


def _mixed_name(n: int) -> str:
    executor = executor_of(n)
    return f"bench.{'burn' if executor == 'process' else 'noted'}.{executor}"


def _growth() -> Iterator[Workload]:
    for count in PARTITIONS:
        title = f"growth: no-op tasks, {count} partitions"
        yield Workload(f"W8-partitions-{count}", title, "drain", _GROWTH, 1_000 if count == 64 else 0, partitions=count)
    for gap in GAPS:
        yield Workload(
            f"W8-gap-{gap}",
            f"growth: up to {gap:,} finished offsets above those of stuck tasks, {STUCK} partitions",
            "drain",
            _GROWTH,
            1_000 if gap == 500 else 0,
            body="stuck",
            cost=partial(stuck, gap),
            partitions=STUCK,
        )
    for slots in IN_FLIGHT:
        yield Workload(
            f"W8-slots-{slots}",
            f"growth: {slots:,} in flight, {_STEADY:,} tasks a second",
            "drain",
            30_000,
            1_000 if slots == 1024 else 0,
            cost=partial(same, slots / _STEADY * 1000),
            slots=slots,
            servers="slots",
        )
    for name, size in SIZES.items():
        tasks = {100: _GROWTH, 1 << 10: _GROWTH, 10 << 10: 20_000, 100 << 10: 4_000, 1 << 20: 500}[size]
        few = 20 if size == 1 << 20 else 0
        yield Workload(f"W8-size-{name}", f"growth: payloads of {name}", "drain", tasks, few, size=size)
    yield Workload("W8-tasks", "growth: cost of a task from 10^4 to 10^7 of them", "powers", 10_000_000, 1_000)


def _scale() -> Iterator[Workload]:
    for workers in WORKERS:
        yield Workload(
            f"W9-{workers}",
            f"scale-out: sleep 10 ms, {workers} workers of 16 slots",
            "scale",
            24_000 * workers,
            1_500 if workers == 2 else 0,
            cost=partial(same, 10),
            slots=16,
            workers=workers,
        )


WORKLOADS: tuple[Workload, ...] = (
    Workload("W1", "no-op tasks", "drain", 1_000_000, 5_000),
    Workload("W2-64", "sleep 10 ms, 64 slots", "drain", 30_000, 1_000, cost=partial(same, 10), servers="slots"),
    Workload(
        "W2-256", "sleep 10 ms, 256 slots", "drain", 100_000, 0, cost=partial(same, 10), slots=256, servers="slots"
    ),
    Workload(
        "W3", "2 ms of CPU, 2 processes", "drain", 5_000, 200, body="burn", cost=partial(same, 2), servers="processes"
    ),
    Workload(
        "W4", "1 % sleep 1 s, the others 5 ms; 64 slots", "drain", 20_000, 0, cost=_one_percent_slow, servers="slots"
    ),
    Workload("W5", "latency at 200 tasks a second", "paced", 4_000, 100, body="timed", full=False),
    Workload(
        "W6",
        "threads, coroutines and a child process in one worker, each at its pace",
        "mixed",
        len(MIX) * 1_000,
        len(MIX) * 20,
        cost=_mixed_cost,
        processes=1,
        named=_mixed_name,
    ),
    Workload("W7", "no-op tasks, one of ten fails once", "drain", 200_000, 500, body="flaky"),
    *_growth(),
    *_scale(),
    Workload("W10", "idle, 256 partitions", "idle", 1, 1, body="timed", partitions=256),
    Workload(
        "W11",
        "two workers of 16 slots, sleep 10 ms; then one leaves and another joins every 10 s",
        "rebalance",
        200_000,
        1_500,
        cost=partial(same, 10),
        slots=16,
        workers=2,
    ),
    Workload("W12", "publish: throughput, and latency of one at a time", "publish", 200_000, 1_000, full=False),
    Workload("W13", "delayed tasks that are due at one moment", "delays", 30_000, 300, body="timed", full=False),
    Workload("W1-kill", "kill -9 when half of W1 is done, one task slow", "kill", 3_000_000, 5_000, cost=one_slow),
    Workload("W2-kill", "kill -9 when half of W2 is done", "kill", 30_000, 1_000, cost=partial(same, 10)),
    Workload("START", "`kworker --help`", "told", 20, 1, full=False),
    Workload("COST", "what options cost: no-op tasks", "drain", 500_000, 0),
    Workload("COST-log", "what a line is that each task logs", "drain", 100_000, 0, body="logged"),
    Workload("PIECES", "what features cost, each alone in one process", "told", 200_000, 1_000, full=False),
    Workload(
        "MEM-bomb",
        "memory: batches that inflate to 1 MiB a task",
        "bomb",
        1_080,
        8,
        partitions=1,
        size=1 << 20,
        full=False,
    ),
    Workload(
        "MEM-slope", "memory over 20 minutes at 2,000 tasks a second", "slope", 2_400_000, 500, full=False, once=True
    ),
)


def chosen(names: list[str]) -> Iterator[Workload]:
    """Those with these names, all if there are none; `W8-size` is every one of them, `W2` every W2."""
    for workload in WORKLOADS:
        if not names or any(f"{workload.name}-".startswith(f"{name}-") for name in names):
            yield workload
