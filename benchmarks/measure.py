"""One measurement: a peer, a workload, a topic; what came of it, and what was wrong with it.

Whatever is measured, the account at the end is the same: every task must have run, and all must be committed.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from confluent_kafka import Producer

from benchmarks import topics
from benchmarks.effect import Effect
from benchmarks.peer import Peer
from benchmarks.place import Place
from benchmarks.run import Failed, Run
from benchmarks.workload import Workload
from kit.waiting import wait_for
from kworker.kafka.settings import CLASSIC, CONSUMER

MIB = 1 << 20
WARM = 0.1  # part of the tasks, the first ones, that do not count: start, join and warm-up are no throughput
COMMITTED = 15.0  # seconds for the last commit before a peer is stopped; commits are a second apart
RATE = 200  # tasks a second, paced
SETTLED = 3.0  # seconds after its first task before an idle peer is measured: what its start left is over then
IDLE, IDLE_FEW = 20.0, 0.5  # seconds


@dataclass(slots=True)
class Measurement:
    """figures: by name; table.COLUMNS has their units. faults: why it is invalid; empty if it is not."""

    peer: str
    workload: str
    figures: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Trial:
    """What one measurement needs. start: starts the peer, a second time after a kill."""

    workload: Workload
    tasks: int
    bootstrap: str
    topic: str
    group: str
    effect: Effect
    few: bool
    start: Callable[[], Run]
    figures: dict[str, float]

    def lag(self) -> int:
        """Records that are not committed."""
        return topics.lag(self.bootstrap, self.group, self.topic, self.workload.partitions)

    def committed(self) -> None:
        """Wait until all is committed; the account tells if it is not in time."""
        try:
            wait_for(lambda: self.lag() == 0, COMMITTED, "the last commit")
        except AssertionError as error:
            raise Failed(str(error)) from None


class Bench:
    """Measures on one broker. few: the small numbers of the smoke run."""

    def __init__(self, bootstrap: str, *, few: bool = False) -> None:
        self.bootstrap = bootstrap
        self.few = few

    def tasks(self, workload: Workload) -> int:
        """How many tasks of it are published."""
        return workload.few if self.few else workload.tasks

    @contextmanager
    def topic(self, workload: Workload) -> Iterator[str]:
        """A topic full of a workload's tasks, for all of its runs; that of a paced one is empty, and for one run."""
        name = topics.create(self.bootstrap, workload)
        try:
            if workload.kind != "paced":
                topics.fill(self.bootstrap, name, workload, self.tasks(workload))
            yield name
        finally:
            topics.delete(self.bootstrap, name)

    @contextmanager
    def topics(self, workload: Workload) -> Iterator[Callable[[], AbstractContextManager[str]]]:
        """What gives each run of a workload its topic: the same one, unless it is paced."""
        if workload.kind == "paced":
            yield lambda: self.topic(workload)
        else:
            with self.topic(workload) as name:
                yield lambda: nullcontext(name)

    def measure(self, peer: Peer, workload: Workload, topic: str, worker: Path | None = None) -> Measurement:
        """Run it once. worker: see Run."""
        found = Measurement(peer.name, workload.name)
        with tempfile.TemporaryDirectory(prefix="kworker-bench-") as name:
            folder, tasks = Path(name), self.tasks(workload)
            effect = Effect.create(folder / "effect", tasks)
            group = f"bench-{uuid.uuid4().hex[:12]}"
            place = Place(
                bootstrap=self.bootstrap,
                topic=topic,
                group=group,
                folder=folder,
                effect=effect.path,
                body=workload.body,
                slots=workload.slots,
                processes=workload.processes,
                consumer=dict(CONSUMER) | dict(CLASSIC),
            )
            trial = Trial(
                workload=workload,
                tasks=tasks,
                bootstrap=self.bootstrap,
                topic=topic,
                group=group,
                effect=effect,
                few=self.few,
                start=lambda: Run(peer, place, effect, worker),
                figures=found.figures,
            )
            try:
                KINDS[workload.kind](trial)
            except Failed as fault:
                found.faults.append(str(fault))
            _account(trial, found)
            effect.close()
        return found


def _account(trial: Trial, found: Measurement) -> None:
    """What no peer may get wrong; taken after its end."""
    done, runs = trial.effect.done(), trial.effect.runs()
    lag = trial.lag()
    found.figures |= {"missing": trial.tasks - done, "repeated": runs - done, "lag": lag}
    if done < trial.tasks:
        found.faults.append(f"{trial.tasks - done} of {trial.tasks} tasks never ran")
    if lag:
        found.faults.append(f"{lag} records not committed at its end")


# -- the kinds of workload --------------------------------------------------------------------------------------


def _drain(trial: Trial) -> None:
    """How fast it empties a full topic, and what that takes."""
    first = max(1, int(trial.tasks * WARM))
    with trial.start() as run:
        begin, end = run.until(first), run.until(trial.tasks)
        run.look()
        trial.committed()
        run.stop()
    took, count = end.at - begin.at, trial.tasks - begin.done
    trial.figures |= {"pss": run.peak.proportional / MIB, "rss": run.peak.resident / MIB}
    if count == 0:  # done between two looks: with so few there is no rate, and the table says "-"
        return
    trial.figures |= {"rate": count / took, "cpu_us": (end.cpu - begin.cpu) / count * 1e6}
    if (ideal := trial.workload.ideal(trial.tasks, begin.done)) is not None:
        trial.figures["of_ideal"] = ideal / took


def _paced(trial: Trial) -> None:
    """Milliseconds from the call of produce() to the end of the task, at a steady rate; the first ones do not count."""
    producer = Producer({"bootstrap.servers": trial.bootstrap, "acks": "all", "linger.ms": 0})
    published: list[int] = []

    def publish() -> None:
        published.append(time.monotonic_ns())
        topics.send(producer, trial.topic, trial.workload, len(published) - 1)

    with trial.start() as run:
        publish()
        run.until(1)
        begin = time.monotonic()
        cpu = run.tree.cpu()
        while len(published) < trial.tasks:
            due = begin + len(published) / RATE
            producer.poll(max(0.0, due - time.monotonic()))
            if time.monotonic() >= due:
                publish()
        assert producer.flush(topics.TIMEOUT) == 0, "the last tasks were not acknowledged"
        end = run.until(trial.tasks)
        run.look()
        trial.committed()
        run.stop()
    latencies = [(trial.effect.moment(n) - published[n]) / 1e6 for n in range(int(trial.tasks * WARM), trial.tasks)]
    cuts = quantiles(latencies, n=100)
    trial.figures |= {
        "p50": cuts[49],
        "p99": cuts[98],
        "cpu_us": (end.cpu - cpu) / trial.tasks * 1e6,
        "pss": run.peak.proportional / MIB,
        "rss": run.peak.resident / MIB,
    }


def _idle(trial: Trial) -> None:
    """What it takes to start and do its first task, and then to do nothing."""
    window = IDLE_FEW if trial.few else IDLE
    with trial.start() as run:
        run.until(1)
        trial.figures["first_task"] = trial.effect.moment(0) / 1e9 - run.started
        trial.committed()
        time.sleep(0 if trial.few else SETTLED)
        cpu, begin = run.tree.cpu(), time.monotonic()
        time.sleep(window)
        trial.figures["idle_cpu"] = (run.tree.cpu() - cpu) / (time.monotonic() - begin) * 100
        held = run.look()  # once, after the window: looking costs the peer something
        run.stop()
    trial.figures |= {"pss": held.proportional / MIB, "rss": held.resident / MIB}


def _kill(trial: Trial) -> None:
    """kill -9 to all its processes when half is done; what a second one runs again, as % of what was done then."""
    with trial.start() as run:
        run.until(trial.tasks // 2)
        run.kill()
    done = trial.effect.done()
    with trial.start() as run:
        run.until(trial.tasks)
        trial.committed()
        run.stop()
    trial.figures |= {"done_at_kill": done, "again": (trial.effect.runs() - trial.tasks) / done * 100}


KINDS: dict[str, Callable[[Trial], None]] = {"drain": _drain, "paced": _paced, "idle": _idle, "kill": _kill}
