"""The ledger of FAULTS.md: what was published, every run of it, every commit that was seen; and what must hold of them.

L  every acknowledged task succeeded, or has a dead letter.
D  nothing runs again but what was in flight or uncommitted at a fault, and that once a fault.
O  of one key, tasks start in the order of their `seq`, one at a time.
C  a committed offset never falls, never passes an unfinished task, and no finished one above it is forgotten.

The clock is time.monotonic_ns() everywhere: Linux has one for all processes.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from kit.commits import Sample

Place = tuple[int, int]
"""(partition, offset)."""


@dataclass(slots=True)
class Run:
    """One attempt. `end` is None, and `outcome` empty, while it runs and for ever when it was cut short.

    outcome: done, failed (it will be tried again) or dead (a dead letter is due).
    """

    id: str
    attempt: int
    key: str
    seq: int
    pid: int
    start: int
    end: int | None = None
    outcome: str = ""


class Ledger:
    """Reads what the tasks of ledger_plugin append to the file at `path`; one thread may use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, Place] = {}
        """Where each acknowledged task is, by its id."""
        self.runs: list[Run] = []
        """All runs in the order of their starts, as of the last `read`."""
        self.done: dict[str, int] = {}
        """When a task succeeded first."""
        self.over: dict[str, int] = {}
        """When a task succeeded or failed for good first: before that, no commit may call it finished."""
        self._open: dict[tuple[int, int], Run] = {}
        self._read = 0
        path.touch()

    def read(self) -> None:
        """Take in what was appended since the last time."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        for line in new.splitlines():
            self._take(*json.loads(line))

    def _take(self, event: str, number: int, *fields: Any) -> None:
        *given, pid, at = fields
        if event == "start":
            id, attempt, key, seq = given
            run = self._open[pid, number] = Run(id, attempt, key, seq, pid, at)
            self.runs.append(run)
            return
        run = self._open.pop((pid, number))
        run.end, (run.outcome,) = at, given
        if run.outcome == "done":
            self.done.setdefault(run.id, at)
        if run.outcome != "failed":
            self.over.setdefault(run.id, at)

    def repeats(self) -> Counter[str]:
        """How often each task ran although an earlier run of it had ended it, or was not known to have ended.

        What follows a failure is its retry, also when it waited in a worker that stopped: it counts from 1 then.
        """
        last: dict[str, Run] = {}
        again: Counter[str] = Counter()
        for run in sorted(self.runs, key=lambda run: run.start):
            before = last.get(run.id)
            again[run.id] += before is not None and before.outcome != "failed"
            last[run.id] = run
        return +again

    def exposed(self, sample: Sample, pids: Collection[int]) -> set[str]:
        """What these processes started and `sample` does not hold as finished: it may run once more."""
        return {run.id for run in self.runs if run.pid in pids and not sample.holds(*self.places[run.id])}

    # -- what must hold -----------------------------------------------------------------------------------------

    def lost(self, dead: Set[str]) -> set[str]:
        """L: tasks without a success and without a dead letter. dead: the ids of the dead letters."""
        return self.places.keys() - self.done.keys() - dead

    def unexpected(self, exposed: Iterable[Set[str]]) -> Counter[str]:
        """D: repeats, less those that faults explain. exposed: what was, at each fault."""
        return self.repeats() - Counter(id for once in exposed for id in once)

    def disorder(self, killed: Mapping[int, int]) -> list[str]:
        """O: pairs of runs of one key that are out of order, or at the same time. killed: pid -> when it was.

        A key goes back only to what its killed worker had not committed.
        """
        found = []
        by_key: defaultdict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            by_key[run.key].append(run)
        for runs in by_key.values():
            runs.sort(key=lambda run: run.start)
            for before, after in pairwise(runs):
                end = killed.get(before.pid, after.start + 1) if before.end is None else before.end
                if end > after.start:
                    found.append(f"at once: {before} {after}")
                elif after.seq < before.seq and before.pid not in killed:
                    found.append(f"back: {before} {after}")
                elif after.seq == before.seq and before.outcome == "done" and before.pid not in killed:
                    found.append(f"again: {before} {after}")
        return found

    def bad_commits(self, samples: Iterable[Sample]) -> list[str]:
        """C: every sample that shows less than one before it, or something finished that was not."""
        found = []
        ids: defaultdict[int, dict[int, str]] = defaultdict(dict)
        for id, (partition, offset) in self.places.items():
            ids[partition][offset] = id
        committed: defaultdict[int, int] = defaultdict(int)
        held: defaultdict[int, set[int]] = defaultdict(set)  # known to be finished, at or above the committed offset
        for sample in samples:
            for partition, (offset, above) in sample.committed.items():
                before = committed[partition]
                if offset < before:
                    found.append(f"fell: partition {partition} from {before} to {offset}")
                    continue
                if forgotten := [o for o in held[partition] if not sample.holds(partition, o)]:
                    found.append(f"forgot: partition {partition} {sorted(forgotten)[:5]} of {len(forgotten)}")
                bounds = [before, offset, *above.bounds]
                shown = {o for low, high in zip(bounds[::2], bounds[1::2], strict=True) for o in range(low, high)}
                for number in shown - held[partition]:
                    task = ids[partition].get(number)  # None: no record, but a marker, an aborted record or a gap
                    if task is not None and self.over.get(task, sample.after) >= sample.after:
                        found.append(f"passed: partition {partition} offset {number} ({task}) before it was over")
                committed[partition], held[partition] = offset, {o for o in shown if o >= offset}
        return found
