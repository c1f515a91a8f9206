"""Results as lines of JSON in a file: one run, made in as many parts as one likes, and read again for the document.

A part begins with a line that says how it was made; a line for each measurement follows, written when it is made. A
workload that a later part measured again counts as that part found it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.plan import WORKLOADS
from benchmarks.series import Row
from benchmarks.trial import Measurement


@dataclass(slots=True)
class Part:
    """at: when it began, UTC. machine: lines that describe it. peers: name -> (versions, settings).

    away: name -> why it did not run. smoke: few tasks, so nothing was measured.
    """

    command: str
    at: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M}")
    machine: Sequence[str] = ()
    peers: dict[str, tuple[str, str]] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)
    smoke: bool = False


class Store:
    """Adds to the file at `path`; its folder is made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def begin(self, part: Part) -> None:
        """A part begins."""
        self._add({"part": asdict(part)})

    def add(self, measurement: Measurement) -> None:
        """One of the part that was begun last."""
        self._add(asdict(measurement))

    def _add(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True, slots=True)
class Results:
    """All that one file holds; rows in the order of the plan."""

    parts: tuple[Part, ...]
    rows: tuple[Row, ...]

    def row(self, workload: str, peer: str) -> Row | None:
        """That of a peer in a workload, if it was measured."""
        return next((row for row in self.rows if (row.workload.name, row.peer) == (workload, peer)), None)

    def median(self, workload: str, peer: str, figure: str) -> float | None:
        """The median of a figure; None if it was not measured, or in an invalid run."""
        row = self.row(workload, peer)
        return row.median(figure) if row and not row.faults else None

    @property
    def peers(self) -> dict[str, tuple[str, str]]:
        """Versions and settings by name, of all that ran."""
        return {name: about for part in self.parts for name, about in part.peers.items()}

    @property
    def away(self) -> dict[str, str]:
        """Why a peer did not run in any part."""
        return {name: why for part in self.parts for name, why in part.away.items() if name not in self.peers}


def read(path: Path) -> Results:
    """What a file holds. Raises ValueError for one that has no part."""
    parts: list[Part] = []
    found: dict[tuple[str, str], list[Measurement]] = {}
    fresh: set[tuple[str, str]] = set()
    for line in path.read_text("utf-8").splitlines():
        told = json.loads(line)
        if "part" in told:
            parts.append(Part(**told["part"]))
            fresh = set()
            continue
        measurement = Measurement(**told)
        place = (measurement.workload, measurement.peer)
        if place not in fresh:
            found[place] = []
            fresh.add(place)
        found[place].append(measurement)
    if not parts:
        raise ValueError(f"{path} holds no results")
    return Results(tuple(parts), tuple(_rows(found)))


def _rows(found: dict[tuple[str, str], list[Measurement]]) -> Iterable[Row]:
    for workload in WORKLOADS:
        for (name, peer), measured in found.items():
            if name == workload.name:
                yield Row(peer, workload, tuple(measured))
