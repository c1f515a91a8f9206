"""The goals: the rows of the plan for speed, each computed from the results of one run as a ratio, and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.plan import GAPS, PARTITIONS, POWERS
from benchmarks.store import Results

RAW, POLL, HAND = "raw consume loop", "raw poll loop", "hand-written pool"
THREADS, KEY, COROUTINES, PROCESSES = (
    "kworker threads",
    "kworker threads, key order",
    "kworker coroutines",
    "kworker processes",
)
PARALLEL, PARALLEL_KEY = "Parallel Consumer", "Parallel Consumer, key"

Value = Callable[[Results], float | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is measured, and what it must be: at least (`low`) or at most (`high`)."""

    workload: str
    what: str
    value: Value
    low: float | None = None
    high: float | None = None

    @property
    def wanted(self) -> str:
        """The bound as a reader sees it."""
        return f">= {self.low:g}" if self.low is not None else f"<= {self.high:g}"

    def verdict(self, results: Results) -> str:
        """`met`, `missed`, or `not measured`."""
        found = self.value(results)
        if found is None:
            return "not measured"
        within = (self.low is None or found >= self.low) and (self.high is None or found <= self.high)
        return "met" if within else "missed"


def figure(workload: str, peer: str, name: str) -> Value:
    """A figure as it is."""
    return lambda results: results.median(workload, peer, name)


def ratio(workload: str, peer: str, other: str, name: str = "rate") -> Value:
    """A figure of one peer against that of another in the same workload."""

    def value(results: Results) -> float | None:
        mine, theirs = results.median(workload, peer, name), results.median(workload, other, name)
        return None if mine is None or not theirs else mine / theirs

    return value


def flat(costs: Sequence[float | None]) -> float | None:
    """By how much, as a part, the cost that is farthest from that of the middle is away from it."""
    found = [cost for cost in costs if cost]
    if not found or len(found) < len(costs):
        return None
    middle = found[len(found) // 2]
    return max(abs(cost / middle - 1) for cost in found)


def over(workloads: Sequence[str]) -> Value:
    """How flat the cost of a task is over these workloads."""
    return lambda results: flat([results.median(workload, THREADS, "cpu_us") for workload in workloads])


def powers(results: Results) -> float | None:
    """How flat it is over the powers of ten of one long run."""
    return flat([results.median("W8-tasks", THREADS, f"cpu_us_1e{power}") for power in POWERS])


def _slots() -> Iterator[Goal]:
    for workload in ("W2-64", "W2-256"):
        for peer, name in ((THREADS, "threads"), (COROUTINES, "coroutines")):
            yield Goal(workload, f"{name}: part of ideal", figure(workload, peer, "of_ideal"), low=0.985)
            yield Goal(workload, f"{name}: CPU us a task", figure(workload, peer, "cpu_us"), high=45)


GOALS: tuple[Goal, ...] = (
    Goal("W1", "threads by the raw consume loop", ratio("W1", THREADS, RAW), low=1.0),
    Goal("W1", "threads by the hand-written pool", ratio("W1", THREADS, HAND), low=4.5),
    Goal("W1", "threads by the Parallel Consumer", ratio("W1", THREADS, PARALLEL), low=3.5),
    Goal("W1", "memory (PSS) by the Parallel Consumer's", ratio("W1", THREADS, PARALLEL, "pss"), high=0.2),
    Goal("W1", "key order by the raw consume loop", ratio("W1", KEY, RAW), low=0.7),
    Goal("W1", "key order by the Parallel Consumer's", ratio("W1", KEY, PARALLEL_KEY), low=4.5),
    Goal("W1", "coroutines by the raw consume loop", ratio("W1", COROUTINES, RAW), low=0.5),
    Goal("W1", "processes by the raw consume loop", ratio("W1", PROCESSES, RAW), low=1.2),
    *_slots(),
    Goal("W3", "two processes: part of ideal", figure("W3", PROCESSES, "of_ideal"), low=0.97),
    Goal("W4", "unordered: part of what the slots allow", figure("W4", THREADS, "of_ideal"), low=0.99),
    Goal("W4", "key order: part of what the slots allow", figure("W4", KEY, "of_ideal"), low=0.99),
    Goal("W5", "p50 by the raw poll loop's", ratio("W5", THREADS, POLL, "p50"), high=1.2),
    Goal("W5", "p99 by the raw poll loop's", ratio("W5", THREADS, POLL, "p99"), high=1.5),
    Goal("START", "`kworker --help`, s", figure("START", "kworker --help", "help"), high=0.3),
    Goal("W10", "first task after launch, s", figure("W10", THREADS, "first_task"), high=1.5),
    Goal("W10", "idle RSS of the main process, MiB", figure("W10", THREADS, "main_rss"), high=45),
    Goal("W1", "RSS, MiB", figure("W1", THREADS, "rss"), high=120),
    Goal("W1-kill", "tasks lost", figure("W1-kill", THREADS, "missing"), high=0),
    Goal("W1-kill", "run again, % of those done", figure("W1-kill", THREADS, "again"), high=2),
    Goal("W2-kill", "tasks lost", figure("W2-kill", THREADS, "missing"), high=0),
    Goal("W8", "1 to 256 partitions: cost, off the middle", over([f"W8-partitions-{n}" for n in PARTITIONS]), high=0.1),
    Goal("W8", "0 to 50,000 above stuck ones: cost, off the middle", over([f"W8-gap-{n}" for n in GAPS]), high=0.1),
    Goal("W8", "10^4 to 10^7 tasks: cost, off the middle", powers, high=0.1),
    Goal("W10", "idle with 256 partitions, % of a core", figure("W10", THREADS, "idle_cpu"), high=0.5),
)
