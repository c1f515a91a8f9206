"""A trial: a topic of ledger tasks, workers that come and go, faults; and at its end everything that must hold.

Its tasks are those of ledger_plugin; its workers are of one group; the one topic's commits are watched all the time.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException

from kit.commits import CommitWatch, Sample
from kit.ledger import Ledger
from kit.records import NewRecord, create_topic, end_offsets, produce, read_all
from kit.waiting import wait_for
from kit.worker_process import WorkerProcess

PLUGIN = Path(__file__).parent / "ledger_plugin"

DEADLINE = 60.0
"""Seconds after which a fact that did not come is a failure."""


@dataclass(frozen=True, slots=True)
class Work:
    """One task `ledger.work` to publish; see ledger_plugin for what its arguments do."""

    id: str
    key: str = ""
    partition: int = -1
    seq: int = 0
    ms: float = 0
    fail: int = 0
    dead: bool = False
    until: str = ""
    publish: str = ""

    def record(self) -> NewRecord:
        """The record that is published for it."""
        arguments = {"id": self.id, "seq": self.seq, "ms": self.ms, "fail": self.fail, "dead": self.dead}
        value = json.dumps(arguments | {"until": self.until, "publish": self.publish}).encode()
        return NewRecord(value, self.key.encode() or None, (("task", b"ledger.work"),), self.partition)


class Trial:
    """See the module."""

    def __init__(
        self, folder: Path, bootstrap: str, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.bootstrap = bootstrap
        self.topic = self.group = f"trial-{uuid.uuid4().hex[:12]}"
        self.ledger = Ledger(folder / "ledger")
        self.workers: list[WorkerProcess] = []
        self.killed: dict[int, int] = {}
        """When each killed worker was, by its pid."""
        self.exposed: list[set[str]] = []
        """What may run once more, for each fault."""
        create_topic(bootstrap, self.topic, partitions, config)
        self.commits = CommitWatch(bootstrap, self.group, self.topic, partitions)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.commits)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            for worker in self.workers:
                print(f"-- the log of {worker.pid}, exit code {worker.exit_code}\n{worker.logged()[-4000:]}")
            self._keep_evidence()
        self._stack.close()

    def _keep_evidence(self) -> None:
        """Write where each task is and every change of the commits to the folder: the ledger and the logs lie there."""
        (self.folder / "places").write_text(json.dumps(self.ledger.places))
        seen: dict[int, object] = {}
        with (self.folder / "commits").open("w") as file:
            for sample in self.commits.samples:
                shown = {each: (at, above.bounds) for each, (at, above) in sample.committed.items()}
                changed = {each: held for each, held in shown.items() if seen.get(each) != held}
                if changed:
                    file.write(json.dumps([sample.before, sample.after, changed]) + "\n")
                seen = dict(shown)

    # -- what happens -------------------------------------------------------------------------------------------

    def publish(self, work: Iterable[Work]) -> None:
        """Publish these, all acknowledged."""
        given = list(work)
        places = produce(self.bootstrap, self.topic, [one.record() for one in given])
        self.ledger.places.update(zip((one.id for one in given), places, strict=True))

    def start(self, *arguments: str, output: int | None = None, under: Sequence[str] = ()) -> WorkerProcess:
        """Start a worker of the trial's group. output, under: see WorkerProcess."""
        place = ("--group", self.group, "--topic", self.topic, "--bootstrap", self.bootstrap, "--plugin", "ledger")
        folder = self.folder / f"worker-{len(self.workers)}"
        env = {"LEDGER": str(self.ledger.path)}
        worker = WorkerProcess(folder, *place, *arguments, env=env, site=[PLUGIN], output=output, under=under)
        self.workers.append(worker)
        self._stack.callback(worker.close)
        return worker

    def kill(self, worker: WorkerProcess) -> set[str]:
        """kill -9; returns what was in flight or uncommitted then."""
        worker.kill9()
        self.killed[worker.pid] = time.monotonic_ns()
        # Order: the ledger is whole now; a commit that was on its way may still land, which exposes less, not more.
        self.ledger.read()
        return self.expose(self.commits.now(), worker)

    def expose(self, sample: Sample, *workers: WorkerProcess) -> set[str]:
        """A fault of these workers: what they have started, and `sample` does not hold, may run once more."""
        self.ledger.read()
        self.exposed.append(self.ledger.exposed(sample, {worker.pid for worker in workers}))
        return self.exposed[-1]

    # -- facts to wait for --------------------------------------------------------------------------------------

    @property
    def living(self) -> list[WorkerProcess]:
        """The workers that run."""
        return [worker for worker in self.workers if worker.exit_code is None]

    def wait(self, fact: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
        """Wait for a fact; a worker that ends of its own meanwhile is a failure."""
        watched = self.living

        def holds() -> object:
            for worker in watched:
                assert worker.exit_code is None, f"worker {worker.pid} ended with {worker.exit_code}"
            self.ledger.read()
            return fact()

        wait_for(holds, timeout, what)

    def wait_over(self, count: int, timeout: float = DEADLINE) -> None:
        """Wait until so many tasks have succeeded or failed for good."""
        self.wait(lambda: len(self.ledger.over) >= count, f"{count} tasks over", timeout)

    def wait_held(self, count: int, timeout: float = DEADLINE) -> Sample:
        """Wait until so many offsets are committed as finished; returns what shows it."""
        self.wait(lambda: self.commits.last.held >= count, f"{count} offsets committed as finished", timeout)
        return self.commits.last

    def lag(self) -> dict[int, int]:
        """Partition -> what lies between its committed offset and its end, for those where that is not 0."""
        sample, ends = self.commits.now(), end_offsets(self.bootstrap, self.topic)
        lags = {partition: end - sample.committed.get(partition, (0,))[0] for partition, end in ends.items()}
        return {partition: lag for partition, lag in lags.items() if lag}

    def _no_lag(self) -> bool:
        try:
            return not self.lag()
        except KafkaException:  # a broker that has just come back does not know its partitions yet
            return False

    def dead(self) -> set[str]:
        """The ids of the tasks that have a dead letter."""
        return {json.loads(letter.value() or b"{}")["id"] for letter in read_all(self.bootstrap, f"{self.topic}.dlq")}

    def finish(self, timeout: float = DEADLINE) -> None:
        """Wait until the lag is 0, and check L, D and C; O is for the tests of keys."""
        self.wait(self._no_lag, "a lag of 0", timeout)
        self.ledger.read()
        exposed, again = [len(once) for once in self.exposed], self.ledger.repeats().total()
        print(f"{len(self.ledger.places)} tasks, {len(self.ledger.runs)} runs, {again} repeats; exposed: {exposed}")
        lost, unexpected = self.ledger.lost(self.dead()), self.ledger.unexpected(self.exposed)
        assert not lost, f"L: {len(lost)} tasks are lost: {shown(lost)}"
        assert not unexpected, f"D: {len(unexpected)} tasks ran again without a cause: {self.story(unexpected)}"
        bad = self.ledger.bad_commits(self.commits.samples)
        assert not bad, f"C: {len(bad)} bad commits: {bad[:10]}"

    def story(self, ids: Iterable[str]) -> str:
        """Every run of a few of these, and the commits of their partitions as they changed."""
        told = []
        for id in sorted(ids)[:3]:
            place = self.ledger.places[id]
            changes = [f"{place} holds {id!r}:"]
            for sample in self.commits.samples:
                shown = f"{sample.committed.get(place[0], (None,))[0]} {sample.holds(*place)}"
                if not changes[-1].endswith(shown):
                    changes.append(f"{sample.after}: {shown}")
            told += [*changes, *(repr(run) for run in self.ledger.runs if run.id == id)]
        return "\n".join([*told, f"killed: {self.killed}, pids: {[worker.pid for worker in self.workers]}"])


def shown(ids: Collection[str]) -> str:
    """Some of many ids."""
    return ", ".join(sorted(ids)[:10])
