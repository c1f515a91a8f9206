"""Weather: a trial under random faults, with tasks of all executors that misbehave; at its end, what must hold.

One round is one group on a broker of its own. Faults come one after the other, some in the middle of another, and after
each the group must make progress. What a fault allows to run once more is taken down at the fault (kit/ledger.py, D).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException

from kit.broker import Broker
from kit.commits import Sample
from kit.records import NewRecord, create_topic, produce
from kit.stage import metric
from kit.trial import Trial
from kit.vitals import Vitals, family, gone
from kit.waiting import wait_for
from kit.worker_process import WorkerProcess

PLUGIN = Path(__file__).parent / "weather_plugin"
PARTITIONS = 6
KEYS = 60
FEWEST_UNFINISHED, MOST_UNFINISHED = 300, 800
MOST_WORKERS = 4
SETTLED = 90.0
"""Seconds after which a group that has made no progress is stuck: several sessions, and a rebalance."""

GONE = 30.0
"""Seconds within which a worker is gone after SIGTERM: its drain, its close, and a busy machine."""

TROUBLE = 60.0
"""Seconds after the end of a fault within which partitions may be lost by it: some sessions."""

# What of a hundred tasks is planned to go wrong; the rest succeed at once.
_PLANS = {"fail:1": 5, "fail:9": 1, "dead": 1, "hang:1": 1, "hang:9": 0.05, "crash:1": 2, "crash:9": 0.3, "publish": 5}
_NEVER = {"fail:9", "dead", "hang:9", "crash:9"}
_EXECUTORS = ("thread", "coroutine", "process")


@dataclass(frozen=True, slots=True)
class Chore:
    """One task to publish; see weather_plugin for what its arguments do."""

    id: str
    key: str
    seq: int
    executor: str
    ms: float
    plan: str
    reply_to: str = ""

    def record(self) -> NewRecord:
        """The record that is published for it."""
        arguments = {"id": self.id, "seq": self.seq, "ms": self.ms, "plan": self.plan}
        headers: list[tuple[str, bytes | None]] = [("ce_type", f"weather.{self.executor}".encode())]
        if self.reply_to:
            headers.append(("ce_replyto", self.reply_to.encode()))
        return NewRecord(json.dumps(arguments).encode(), self.key.encode(), tuple(headers))


@dataclass(frozen=True, slots=True)
class Trouble:
    """A time in which workers may lose partitions, and what was committed before it."""

    sample: Sample
    since: int


class Weather(Trial):
    """See the module. order: of the workers; `chance` decides everything."""

    def __init__(self, folder: Path, broker: Broker, order: str, chance: random.Random) -> None:
        folder.mkdir()
        super().__init__(folder, broker.bootstrap, PARTITIONS)
        self.broker = broker
        self.order = order
        self.chance = chance
        self.chores: dict[str, Chore] = {}
        self.faults: Counter[str] = Counter()
        self.zombies: list[tuple[int, int, int]] = []
        """Who had lost its partitions without knowing it, and from when to when: pid, since, until."""
        self.out, self.replies = f"{self.topic}-out", f"{self.topic}-replies"
        for topic in (self.out, self.replies):
            create_topic(self.bootstrap, topic, 1)
        self._away = False
        self._troubles: list[Trouble] = []
        self._lost: Counter[int] = Counter()

    # -- work ---------------------------------------------------------------------------------------------------

    def top_up(self, most: int = MOST_UNFINISHED) -> None:
        """Publish until there is enough to do."""
        self.ledger.read()
        unfinished = len(self.ledger.places) - len(self.ledger.over)
        if unfinished >= min(most, FEWEST_UNFINISHED):
            return
        chores = [self._chore(len(self.chores) + n) for n in range(most - unfinished)]
        places = produce(self.bootstrap, self.topic, [chore.record() for chore in chores])
        self.chores |= {chore.id: chore for chore in chores}
        self.ledger.places.update(zip((chore.id for chore in chores), places, strict=True))

    def _chore(self, number: int) -> Chore:
        chance = self.chance
        executor = chance.choice(_EXECUTORS)
        what = chance.uniform(0, 100)
        plan = ""
        for name, share in _PLANS.items():
            if 0 <= what < share and (executor == "process" or not name.startswith("crash")):
                plan = name
            what -= share
        ms = chance.choice((0, 0, chance.uniform(0, 10), chance.uniform(0, 50)))
        if chance.random() < 0.005:
            ms = 500.0
        reply_to = self.replies if chance.random() < 0.05 else ""
        return Chore(f"{number}", f"k{chance.randrange(KEYS)}", number, executor, ms, plan, reply_to)

    def start(self, *arguments: str, output: int | None = None, under: Sequence[str] = ()) -> WorkerProcess:
        """Start a worker of the group."""
        given = ["--group", self.group, "--topic", self.topic, "--bootstrap", self.bootstrap, "--plugin", "weather"]
        given += ["--order", self.order, "--concurrency", "8", "--processes", "2", "--lost-slots", "10000"]
        given += ["--commit-interval", "300ms", "--drain-timeout", "10s", "--revoke-timeout", "5s"]
        given += ["--reply-topic", self.replies, *arguments]
        env = {"LEDGER": str(self.ledger.path), "WEATHER_OUT": self.out, "WEATHER_TEST": f"{os.getpid()}"}
        folder = self.folder / f"worker-{len(self.workers)}"
        worker = WorkerProcess(folder, *given, env=env, site=[PLUGIN], output=output, under=under)
        self.workers.append(worker)
        self._stack.callback(worker.close)
        return worker

    # -- the storm ----------------------------------------------------------------------------------------------

    def storm(self, seconds: float) -> None:
        """Faults at random for so long, then none and enough workers."""
        kinds: list[tuple[float, Callable[[], None]]] = [
            (4, self.kill_one),
            (3, self.stop_one),
            (2, self.join),
            (2, self.freeze_shortly),
            (2, self.freeze_long),
            (2, self.kill_a_child),
            (1, self.all_end),
            (1, self.broker_restarts),
            (1, self.broker_dies),
            (1, self.broker_freezes),
            (1, self.calm),
        ]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.top_up()
            fault = self.chance.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]
            self.faults[fault.__name__] += 1
            print(
                f"{until - time.monotonic():6.1f} s to go, {len(self.ledger.over)} over: {fault.__name__}", flush=True
            )
            fault()
            if not self.living:
                self.join()
            self.progress()

    def progress(self) -> None:
        """The group gets on, whatever it was."""
        self.ledger.read()
        wanted = min(len(self.ledger.places), len(self.ledger.over) + 30)
        self.wait(lambda: len(self.ledger.over) >= wanted, f"{wanted} tasks over: the group is stuck", SETTLED)
        for worker in self.living:
            self.note_losses(worker)

    def calm(self) -> None:
        """Nothing happens until all is done."""
        self.wait(lambda: len(self.ledger.over) == len(self.ledger.places), "all over: a task is stuck", SETTLED)

    # -- faults -------------------------------------------------------------------------------------------------

    def kill_one(self) -> None:
        """kill -9, and as a rule another instead."""
        self.kill(self.chance.choice(self.living))
        if self.chance.random() < 0.8:
            self.join()

    def stop_one(self) -> None:
        """SIGTERM, sometimes twice, and as a rule another instead."""
        self.stop([self.chance.choice(self.living)])
        if self.chance.random() < 0.7:
            self.join()

    def all_end(self) -> None:
        """Every worker is killed, or stops, at the same time."""
        if self.chance.random() < 0.5:
            for worker in self.living:
                self.kill(worker)
        else:
            self.stop(self.living)
        for _ in range(self.chance.choice((1, 3))):
            self.join()

    def join(self) -> None:
        """One more, unless there are many."""
        if len(self.living) < MOST_WORKERS:
            self.start()

    def freeze_shortly(self) -> None:
        """SIGSTOP for less than a session; what runs may be timed out by it."""
        worker = self.chance.choice(self.up())
        worker.freeze()
        time.sleep(self.chance.uniform(0.2, 2.0))  # the length of the freeze is the fault
        self.expose_open(worker)
        worker.thaw()

    def freeze_long(self) -> None:
        """SIGSTOP for more than a session: others take over, and what it runs when it wakes up is late."""
        worker = self.chance.choice(self.up())
        self.note_losses(worker)
        trouble = self.trouble()
        worker.freeze()
        time.sleep(self.chance.uniform(7.0, 11.0))  # the length of the freeze is the fault
        self.expose(trouble.sample, worker)
        worker.thaw()

    def kill_a_child(self) -> None:
        """kill -9 of one child process: the task that runs in it has crashed."""
        worker = self.chance.choice(self.up())
        children = [child["pid"] for child in worker.status()["children"] if child["pid"]]
        if children:
            os.kill(self.chance.choice(children), 9)
            self.expose_open(worker)

    def broker_restarts(self) -> None:
        """SIGTERM, and a while later it is back."""
        self._broker_goes(self.broker.stop, self.broker.start, self.chance.uniform(0, 3))

    def broker_dies(self) -> None:
        """kill -9, and a while later it is back."""
        self._broker_goes(self.broker.kill, self.broker.start, self.chance.uniform(0, 3))

    def broker_freezes(self) -> None:
        """SIGSTOP, for less or more than a session."""
        self._broker_goes(self.broker.freeze, self.broker.thaw, self.chance.choice((2.0, 5.0, 12.0)))

    def _broker_goes(self, go: Callable[[], None], back: Callable[[], object], seconds: float) -> None:
        """While it is away, something may happen to a worker as well."""
        for worker in self.living:
            self.note_losses(worker)
        self.trouble()
        go()
        self._away = True
        until = time.monotonic() + seconds
        if (what := self.chance.random()) < 0.2:
            self.kill(self.chance.choice(self.living))
        elif what < 0.4:
            self.stop([self.chance.choice(self.living)])
        elif what < 0.6:
            self.join()
        time.sleep(max(0.0, until - time.monotonic()))  # the length of its absence is the fault
        back()
        self.broker.wait_until_up()
        self._away = False
        self.trouble()  # its sessions end, if they do, from now on

    # -- what a fault allows ------------------------------------------------------------------------------------

    def sample(self) -> Sample:
        """What is committed now, or was when the broker answered last."""
        try:
            return self.commits.last if self._away else self.commits.now(5.0)
        except KafkaException:
            return self.commits.last

    def up(self) -> list[WorkerProcess]:
        """The workers that live and have come so far as to tell where their admin port is."""
        for worker in self.living:
            assert worker.url
        return self.living

    def kill(self, worker: WorkerProcess) -> set[str]:
        """kill -9; returns what was in flight or uncommitted then. Its children are gone soon."""
        if worker in self.up():
            self.note_losses(worker)
        children = family(worker)
        worker.kill9()
        wait_for(lambda: gone(children), 10.0, "the end of every child of a killed worker")
        self.killed[worker.pid] = time.monotonic_ns()
        return self.expose(self.sample(), worker)

    def stop(self, workers: list[WorkerProcess]) -> None:
        """SIGTERM: who ends with 0 has left nothing undone, who ends with 4 has."""
        self.up()
        for worker in workers:
            self.note_losses(worker)
        sample = self._troubles[0].sample if self._recent() else self.sample()
        children = [child for worker in workers for child in family(worker)]
        for worker in workers:
            worker.terminate()
            if self.chance.random() < 0.15:
                time.sleep(self.chance.uniform(0, 0.3))  # when the second signal comes is the fault
                worker.terminate()
        for worker in workers:
            code = worker.wait(GONE)
            assert code in (0, 4), f"worker {worker.pid} ended with {code}:\n{worker.logged()[-4000:]}"
            self.faults[f"exit code {code}"] += 1
            if code == 4:
                self.killed[worker.pid] = time.monotonic_ns()
                self.expose(sample, worker)
        wait_for(lambda: gone(children), 10.0, "the end of every child of a worker that stopped")

    def expose_open(self, worker: WorkerProcess) -> None:
        """What it runs at this moment may run once more: it is timed out, or its process has died."""
        self.ledger.read()
        soon = time.monotonic_ns() - 500_000_000
        runs = [run for run in self.ledger.runs if run.pid == worker.pid]
        self.exposed.append({run.id for run in runs if run.end is None or run.end > soon})

    def trouble(self) -> Trouble:
        """From now on for a while, partitions may be lost."""
        self._recent()
        self._troubles.append(Trouble(self.sample(), time.monotonic_ns()))
        return self._troubles[-1]

    def _recent(self) -> list[Trouble]:
        """The troubles that may still have effects."""
        now = time.monotonic_ns()
        self._troubles = [trouble for trouble in self._troubles if now - trouble.since < TROUBLE * 1e9]
        return self._troubles

    def note_losses(self, worker: WorkerProcess) -> None:
        """If it has lost partitions since it was asked last, what it ran and had not committed may run again."""
        try:
            lost = int(metric(worker, "kworker_rebalances_total", event="lost"))
        except OSError:  # it has just been stopped by another step of the same fault
            return
        for _ in range(lost - self._lost[worker.pid]):
            assert self._recent(), f"worker {worker.pid} lost partitions without a cause:\n{worker.logged()[-4000:]}"
            self.faults["lost partitions"] += 1
            self.expose(self._troubles[0].sample, worker)
            self.zombies.append((worker.pid, self._troubles[0].since, time.monotonic_ns()))
        self._lost[worker.pid] = lost

    # -- the end ------------------------------------------------------------------------------------------------

    def never(self) -> set[str]:
        """The tasks that are planned to become dead letters."""
        return {id for id, chore in self.chores.items() if chore.plan in _NEVER}

    def vitals(self) -> list[Vitals]:
        """Those of the living, when they have nothing to do."""
        return [Vitals.of(worker) for worker in self.up()]
