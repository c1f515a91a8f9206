"""Measurements of one workload: every peer in turn, again and again, so that noise of the machine hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.measure import Bench
from benchmarks.peer import Peer
from benchmarks.trial import Measurement
from benchmarks.workload import Workload


@dataclass(frozen=True, slots=True)
class Row:
    """One peer, by its name, in one workload: all its measurements."""

    peer: str
    workload: Workload
    measured: tuple[Measurement, ...]

    @property
    def faults(self) -> list[str]:
        """Why it is invalid: one bad run of several is enough."""
        return [fault for one in self.measured for fault in one.faults]

    def values(self, figure: str) -> list[float]:
        """What was measured of it, in each run that got so far."""
        return [one.figures[figure] for one in self.measured if figure in one.figures]

    def median(self, figure: str) -> float | None:
        """The median of a figure; None if it was not measured."""
        values = self.values(figure)
        return median(values) if values else None

    def worst(self, figure: str) -> float | None:
        """The largest of a figure: for what must be 0."""
        return max(self.values(figure), default=None)


def measured(
    bench: Bench, workload: Workload, peers: Iterable[Peer], runs: int, tell: Callable[[Measurement], None]
) -> list[Row]:
    """Measure each peer `runs` times, interleaved; each round begins with another peer."""
    taking_part = [peer for peer in peers if workload.name in peer.workloads and bench.tasks(workload)]
    found: dict[str, list[Measurement]] = {peer.name: [] for peer in taking_part}

    if not taking_part:
        return []
    sized = {tasks: replace(workload, tasks=tasks) for tasks in {peer.tasks(workload.tasks) for peer in taking_part}}
    with ExitStack() as stack:
        topics = {tasks: stack.enter_context(bench.topics(given)) for tasks, given in sized.items()}
        for number in range(1 if workload.once else runs):
            start = number % len(taking_part)
            for peer in taking_part[start:] + taking_part[:start]:
                tasks = peer.tasks(workload.tasks)
                with topics[tasks]() as topic:
                    measurement = bench.measure(peer, sized[tasks], topic)
                found[peer.name].append(measurement)
                tell(measurement)
    return [Row(peer.name, workload, tuple(found[peer.name])) for peer in taking_part]


def described(measurement: Measurement) -> str:
    """One measurement as a line."""
    figures = ", ".join(f"{name} {value:,.4g}" for name, value in measurement.figures.items())
    faults = "".join(f"; INVALID: {fault}" for fault in measurement.faults)
    return f"{measurement.workload}  {measurement.peer}: {figures}{faults}"
