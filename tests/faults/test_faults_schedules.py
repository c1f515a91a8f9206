"""Schedules while their owners die, clocks are set and others write: each time is published once, none early."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from confluent_kafka import Producer

from faults.test_faults_delayed import seeded
from kit import Kafka, create_topic, read_all, wait_for
from kit.delays import Delays, held_by
from kworker.config import Config
from kworker.core.delayed import Answer
from kworker.core.scheduled import BARRIER, key_of, record
from kworker.health import Liveness
from kworker.kafka.cancelling import cancel
from kworker.metrics import Metrics
from kworker.schedules.misfire import Policy
from kworker.schedules.schedule import Schedule, Standing
from kworker.schedules.trigger import Every
from kworker.task import Headers, Publication
from kworker.timekeeper.timekeeper import Timekeeper

HOUR = 3600.0


class Run(NamedTuple):
    """A task that a schedule published: when it was due, and written by the owner's real clock; seconds."""

    name: str
    id: str
    due: float
    written: float


class Ticking:
    """A delay log with one partition, and a topic for what schedules publish."""

    def __init__(self, delays: Delays) -> None:
        self.delays = delays
        self.topic = f"{delays.namespace}-ticks"
        create_topic(delays.bootstrap, self.topic)
        self.producer = Producer({"bootstrap.servers": delays.bootstrap, "acks": "all", "linger.ms": 0})

    def schedule(self, name: str = "tick", **given: object) -> Schedule:
        """Every second, all times that passed, unless given."""
        made: dict[str, object] = {"trigger": Every(1.0), "misfire": Policy.ALL, "most": 1000, **given}
        return Schedule(name=name, task="delays.none", topic=self.topic, **made)  # type: ignore[arg-type]  # see given

    def add(self, *schedules: Schedule, now: float | None = None) -> float:
        """Write them, as somebody does whose clock shows `now`; returns what it showed."""
        now = time.time() if now is None else now
        for schedule in schedules:
            self.write(record(Standing.begin(schedule, now), self.delays.log))
        assert self.producer.flush(30) == 0
        return now

    def write(self, one: Publication) -> None:
        """Write a record to the delay log."""
        self.producer.produce(one.topic, one.value, one.key, headers=list(one.headers))

    def cancel(self, *ids: bytes) -> list[Answer | None]:
        """Ask the owner to cancel these."""
        settings = {"bootstrap.servers": self.delays.bootstrap}
        return cancel(self.delays.log, ids, 30, producer=self.producer, settings=settings)

    def runs(self) -> list[Run]:
        """What was published so far, in order."""
        found = []
        for message in read_all(self.delays.bootstrap, self.topic):
            headers: dict[str, bytes | None] = dict(cast(Headers, message.headers() or []))
            id = (headers["ce_id"] or b"").decode()
            name, _, due = id.partition("@")
            found.append(Run(name, id, _seconds(due), message.timestamp()[1] / 1000))
        return found

    def wait_published(self, due: float, timeout: float = 60.0) -> list[Run]:
        """Until the run that is due then, or a later one, was published; returns all."""
        found: list[Run] = []

        def published() -> bool:
            found[:] = self.runs()
            return any(run.due >= due for run in found)

        wait_for(published, timeout, "the schedule publishes")
        return found

    def wait_served(self, seconds: float) -> None:
        """Until the owner handed over a task that was due in so many seconds: it serves the partition until then."""
        id = f"beside-{uuid.uuid4().hex}"
        self.delays.publish([(id, time.time() + seconds)])
        wait_for(lambda: any(one.id == id for one in self.delays.handed), 60, "the partition is served")


def _seconds(due: str) -> float:
    return datetime.fromisoformat(due).timestamp()


@pytest.fixture
def ticking(kafka: Kafka, tmp_path: Path) -> Iterator[Ticking]:
    with Delays(tmp_path, kafka.bootstrap, partitions=1) as delays:
        yield Ticking(delays)


def each_once(runs: Sequence[Run], start: float, seconds: int) -> None:
    """Every second after `start` was published once, none early."""
    first = int(start) + 1
    counts = Counter(run.due for run in runs)
    assert {due: count for due, count in counts.items() if count > 1} == {}
    assert [due for due in range(first, first + seconds) if due not in counts] == []
    assert [run for run in runs if run.written < run.due] == []


def kill_owners(ticking: Ticking, seconds: int, kills: int) -> None:
    """A schedule every second, whose owner is killed so often on the way."""
    delays, chance = ticking.delays, seeded()
    workers = [delays.worker() for _ in range(2)]
    delays.wait_held(*workers)
    start = ticking.add(ticking.schedule())
    for number in range(kills):
        ticking.wait_published(start + 2 + seconds * number / (kills + 1))
        wait_for(partial(_into, chance.random()), 5, "a part of a second")
        (owner,) = [worker for worker in workers if held_by(worker)]
        owner.kill9()
        workers.remove(owner)
        workers.append(delays.worker())
        delays.wait_held(*workers)
    each_once(ticking.wait_published(start + seconds, seconds + 60), start, seconds)


def _into(part: float) -> bool:
    return time.time() % 1.0 >= part * 0.9


@pytest.mark.timeout(120)
def test_fault_38_a_schedule_every_second_whose_owner_is_killed_publishes_each_once(ticking: Ticking) -> None:
    kill_owners(ticking, 12, 1)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_schedule_every_second_for_a_minute_through_two_kills(ticking: Ticking) -> None:
    kill_owners(ticking, 60, 2)


@contextmanager
def keeping(ticking: Ticking, wall: Callable[[], float]) -> Iterator[None]:
    """A timekeeper in this process, whose wall clock is set as it likes."""
    config = Config(bootstrap=ticking.delays.bootstrap, namespace=ticking.delays.namespace, group="clock")
    metrics, fatal = Metrics([], []), list[str]()
    keeper = Timekeeper(config, metrics, Liveness(), fatal.append, wall=wall)
    keeper.start()
    try:
        wait_for(lambda: metrics.snapshot()["kworker_delay_partitions"] == {(): [1.0]}, 30, "it is taken over")
        yield
    finally:
        assert keeper.stop(20)
    assert fatal == []


@pytest.mark.timeout(120)
def test_fault_36_a_clock_that_is_set_by_an_hour_follows_the_policy_and_makes_nothing_early(ticking: Ticking) -> None:
    step = 0.0
    counts = {Policy.ONCE: 1, Policy.ALL: 10, Policy.SKIP: 21}
    with keeping(ticking, lambda: time.time() + step):
        start = ticking.add(
            *(ticking.schedule(policy, trigger=Every(3.0), misfire=policy, most=10) for policy in counts)
        )
        before = ticking.wait_published(start + 3)
        last = max(run.due for run in before)
        step = HOUR
        after = ticking.wait_published(start + HOUR - 10)
        wait_for(lambda: {run.name for run in ticking.runs() if run.due > start + HOUR - 10} == set(counts), 10, "all")
        step = 0.0
        ticking.wait_served(4)
        after = [run for run in ticking.runs() if run.due > last]
    assert Counter(run.name for run in before if run.due == last) == dict.fromkeys(counts, 1)
    assert min(run.written for run in after) >= last + 3  # what it waited for when the clock was set was not early
    times = sorted({run.due for run in after})
    found = {policy: [run.due for run in after if run.name == policy] for policy in counts}
    later = len(found[Policy.ONCE]) - 1  # times that came before the clock was set back
    for policy, count in counts.items():
        assert found[policy] == times[-len(found[policy]) :]
        # As many as are due in the grace depends on where in its three seconds the clock was.
        assert abs(len(found[policy]) - count - later) <= (policy is Policy.SKIP)
    assert len({run.id for run in before + after}) == len({*before, *after})


@pytest.mark.timeout(120)
def test_a_removal_and_a_pause_that_race_with_firing_end_cleanly(ticking: Ticking) -> None:
    """All are due in the same moment, and each is asked about some milliseconds before or after it."""
    chance, delays = seeded(), ticking.delays
    delays.wait_held(delays.worker())
    removed, paused = [f"rm-{n}" for n in range(6)], [f"pause-{n}" for n in range(6)]
    start = ticking.add(*(ticking.schedule(name) for name in (*removed, *paused)))
    ticking.wait_published(start + 1)
    at = int(time.time()) + 2

    def end(name: str, seconds: float) -> tuple[str, list[Answer | None], int]:
        wait_for(lambda: time.time() >= at + seconds, 10, "its moment")
        if name in removed:
            answers = ticking.cancel(key_of(name))
        else:
            now = time.time()
            ticking.write(record(Standing.begin(ticking.schedule(name, paused=True), now), delays.log))
            assert ticking.producer.flush(30) == 0
            answers = ticking.cancel(BARRIER.encode())
        return name, answers, sum(run.name == name for run in ticking.runs())

    with ThreadPoolExecutor(12) as pool:
        ends = [pool.submit(end, name, chance.uniform(-0.05, 0.1)) for name in (*removed, *paused)]
        told = [future.result() for future in ends]
    ticking.wait_served(3)
    runs = Counter(run.id for run in ticking.runs())
    assert set(runs.values()) == {1}
    counts = Counter(run.name for run in ticking.runs())
    for name, answers, count in told:
        assert answers == [Answer.CANCELLED if name in removed else Answer.UNKNOWN]
        assert counts[name] == count >= 1
    assert ticking.cancel(*map(key_of, (*removed, *paused))) == [
        *[Answer.CANCELLED] * 6,  # it was, some seconds ago
        *[Answer.CANCELLED] * 6,  # a paused one stands until now
    ]


@pytest.mark.timeout(120)
def test_two_who_apply_a_schedule_at_once_again_and_again_double_nothing(ticking: Ticking) -> None:
    """The clock of one is three seconds behind, that of the other a part of a second ahead."""
    delays = ticking.delays
    delays.wait_held(delays.worker())
    start = ticking.add(ticking.schedule())
    over = threading.Event()

    def apply(skew: float) -> int:
        times = 0
        while not over.is_set():
            ticking.add(ticking.schedule(payload=str(times % 3)), now=time.time() + skew)
            times += 1
            over.wait(0.03)
        return times

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(apply, skew) for skew in (-3.0, 0.4)]
        try:
            ticking.wait_published(start + 5)
        finally:
            over.set()
        assert min(future.result() for future in both) > 20
    each_once(ticking.wait_published(time.time() + 1), start, 6)
