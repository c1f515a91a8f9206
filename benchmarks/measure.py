"""One measurement: a peer, a workload, a topic; what came of it, and what was wrong with it.

Whatever is measured, the account at the end is the same: every task must have run, and all must be committed.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from benchmarks import delays, fleet, kinds, memory, publishing, told, topics
from benchmarks.effect import Effect
from benchmarks.peer import Peer
from benchmarks.place import Place
from benchmarks.run import Failed, Run
from benchmarks.trial import Measurement, Trial
from benchmarks.workload import Kind, Workload
from kworker.kafka.settings import CLASSIC, CONSUMER


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
        """A topic full of a workload's tasks, for all of its runs; or an empty one."""
        name = topics.create(self.bootstrap, workload)
        try:
            if workload.full:
                topics.fill(self.bootstrap, name, workload, self.tasks(workload))
            yield name
        finally:
            topics.delete(self.bootstrap, name)

    @contextmanager
    def topics(self, workload: Workload) -> Iterator[Callable[[], AbstractContextManager[str]]]:
        """What gives each run of a workload its topic: the same one, unless it is filled while it is measured."""
        if not workload.full:
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
            measure, accounts = KINDS[workload.kind]
            trial = Trial(
                workload=workload,
                tasks=tasks,
                bootstrap=self.bootstrap,
                topic=topic,
                place=place,
                effect=effect,
                few=self.few,
                start=lambda: Run(peer, place, effect, worker),
                figures=found.figures,
            )
            with (
                peer.queue(place, map(workload.payload, range(tasks))) if peer.queue else nullcontext() as trial.waiting
            ):
                try:
                    measure(trial)
                except Failed as fault:
                    found.faults.append(str(fault))
                accounts(trial, found)
            effect.close()
        return found


def account(trial: Trial, found: Measurement) -> None:
    """What no peer may get wrong; taken after its end."""
    done, runs = trial.effect.done(), trial.effect.runs()
    lag = trial.lag()
    found.figures |= {"missing": trial.tasks - done, "repeated": runs - done, "lag": lag}
    if done < trial.tasks:
        found.faults.append(f"{trial.tasks - done} of {trial.tasks} tasks never ran")
    if lag:
        found.faults.append(f"{lag} records not committed at its end")


KINDS: dict[Kind, tuple[Callable[[Trial], None], Callable[[Trial, Measurement], None]]] = {
    "drain": (kinds.drain, account),
    "paced": (kinds.paced, account),
    "idle": (kinds.idle, account),
    "kill": (kinds.kill, account),
    "mixed": (kinds.mixed, account),
    "powers": (kinds.powers, account),
    "scale": (fleet.scale, account),
    "rebalance": (fleet.rebalance, account),
    "publish": (told.told, publishing.account),
    "delays": (delays.delays, account),
    "bomb": (memory.bomb, account),
    "slope": (memory.slope, account),
    "told": (told.told, told.account),
}
"""By the kind of a workload: what measures it, and what then accounts for its tasks."""
