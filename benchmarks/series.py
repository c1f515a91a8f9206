"""Measurements of one workload: every peer in turn, again and again, so that noise of the machine hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from benchmarks.measure import Bench, Measurement
from benchmarks.peer import Peer
from benchmarks.workload import Workload


@dataclass(frozen=True, slots=True)
class Row:
    """One peer in one workload: all its measurements."""

    peer: Peer
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
    bench: Bench, workload: Workload, peers: Iterable[Peer], runs: int, say: Callable[[str], None]
) -> list[Row]:
    """Measure each peer `runs` times, interleaved; each round begins with another peer."""
    taking_part = [peer for peer in peers if workload.name in peer.workloads and bench.tasks(workload)]
    found: dict[str, list[Measurement]] = {peer.name: [] for peer in taking_part}

    if not taking_part:
        return []
    with bench.topics(workload) as topic_of_run:
        for number in range(runs):
            start = number % len(taking_part)
            for peer in taking_part[start:] + taking_part[:start]:
                with topic_of_run() as topic:
                    measurement = bench.measure(peer, workload, topic)
                found[peer.name].append(measurement)
                say(_told(measurement))
    return [Row(peer, workload, tuple(found[peer.name])) for peer in taking_part]


def _told(measurement: Measurement) -> str:
    figures = ", ".join(f"{name} {value:,.4g}" for name, value in measurement.figures.items())
    faults = "".join(f"; INVALID: {fault}" for fault in measurement.faults)
    return f"{measurement.workload}  {measurement.peer}: {figures}{faults}"
