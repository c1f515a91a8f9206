"""What waits in the delay log, followed: the same as if it were read anew, for the price of what changed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AdminClient,
    NewPartitions,
)

from kit import Kafka, wait_for
from kit.records import NewRecord, produce
from kit.stage import Stage
from kworker.core.delayed import Outcome, delay, tombstone
from kworker.core.scheduled import record
from kworker.kafka.backlogs import Backlogs
from kworker.kafka.delaylog import WANTED
from kworker.schedules.schedule import Schedule, Standing
from kworker.schedules.trigger import Every
from kworker.task import Publication
from kworker.timekeeper import following
from kworker.timekeeper.cache import Cache
from kworker.timekeeper.following import Follower, Waiting

HOUR = 3600.0


class Silent(Consumer):
    """Is given nothing, as of a partition that is offline."""

    def consume(self, *args: Any, **kwargs: Any) -> list[Message]:
        return []


class Counting(Consumer):
    """Counts the records it is given."""

    count = 0

    def consume(self, *args: Any, **kwargs: Any) -> list[Message]:
        found = super().consume(*args, **kwargs)
        Counting.count += sum(message.error() is None for message in found)
        return found


@pytest.fixture
def stage(tmp_path: Path, kafka: Kafka) -> Iterator[Stage]:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        yield stage


@pytest.fixture
def log(stage: Stage) -> str:
    return f"{stage.group}.delayed"


@pytest.fixture
def follower(stage: Stage, log: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Follower]:
    monkeypatch.setattr(following, "Consumer", Counting)
    monkeypatch.setattr(Counting, "count", 0)
    settings = {"bootstrap.servers": stage.bootstrap}
    follower = Follower(log, settings, Backlogs(settings, {**settings, "group.id": "none"}).topic)
    yield follower
    follower.close()


def write(stage: Stage, log: str, *records: Publication, partition: int = 0) -> list[int]:
    """Returns their offsets."""
    new = [NewRecord(one.value, one.key, tuple(one.headers), partition) for one in records]
    return [offset for _, offset in produce(stage.bootstrap, log, new)]


def waiting(id: str, due: float, log: str, topic: str = "orders") -> Publication:
    return delay(Publication(topic, b"k", b"{}", []), id, due, log)


def test_what_waits_is_told_by_topic_and_only_what_is_new_is_read(stage: Stage, log: str, follower: Follower) -> None:
    assert follower.read() == []
    stage.topic(2, log, dict(WANTED))
    assert follower.read() == []
    now = time.time()
    first, *_ = write(stage, log, *(waiting(f"{n}", now - 10 - n, log) for n in range(100)))
    write(stage, log, waiting("late", now + HOUR, log), waiting("there", now + 60, log, "mail"), partition=1)
    (mail, orders) = follower.read()
    assert mail == Waiting("mail", 0, None, 1, _due(now + 60))
    assert orders == Waiting("orders", 100, _due(now - 109), 1, _due(now + HOUR))
    assert Counting.count == 102
    assert follower.read() == [mail, orders]
    assert Counting.count == 102
    write(
        stage,
        log,
        tombstone(b"0", first, Outcome.CANCELLED, log),
        waiting("1", now + HOUR, log),
        Publication(log, b"unreadable", b"", [("kworker-target", b"orders"), ("kworker-due", b"soon")]),
    )
    (mail, orders) = follower.read()
    assert (orders.due, orders.delayed) == (98, 2)
    assert Counting.count == 105


def test_how_waits_ended_is_not_kept_so_that_the_file_does_not_grow(
    stage: Stage, log: str, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Cache] = []

    def make(**given: bool) -> Cache:
        made.append(Cache(**given))  # type: ignore[arg-type]  # whatever the follower gives
        return made[-1]

    monkeypatch.setattr(following, "Cache", make)
    stage.topic(1, log, dict(WANTED))
    for id in ("loaded", "followed"):
        (offset,) = write(stage, log, waiting(id, 1.0, log))
        write(stage, log, tombstone(id.encode(), offset, Outcome.HANDED_OVER, log))
        assert follower.read() == []
    (cache,) = made
    assert [cache.outcome(id) for id in (b"loaded", b"followed")] == [None, None]


def test_a_schedule_counts_while_its_time_has_come(stage: Stage, log: str, follower: Follower) -> None:
    stage.topic(1, log, dict(WANTED))
    now = time.time()
    schedules = [Schedule(name=f"s{n}", task="t", trigger=Every(60.0 * (n + 1)), topic="orders") for n in range(2)]
    past, future = Standing.begin(schedules[0], now - 120), Standing.begin(schedules[1], now)
    write(stage, log, record(past, log), record(future, log))
    (orders,) = follower.read()
    assert (orders.due, orders.delayed) == (1, 1)
    assert orders.since == past.next
    assert orders.next == future.next


def test_partitions_that_are_added_are_followed_and_a_log_made_anew_is_read_anew(
    stage: Stage, log: str, follower: Follower
) -> None:
    stage.topic(1, log, dict(WANTED))
    write(stage, log, *(waiting(f"{n}", 1.0, log) for n in range(3)))
    assert [one.due for one in follower.read()] == [3]
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    admin.create_partitions([NewPartitions(log, 2)])[log].result(10)
    wait_for(lambda: _written(stage, log), 20, "the new partition takes records")
    assert [one.due for one in follower.read()] == [4]
    stage.renew(log)
    write(stage, log, *(waiting(f"{n}", 1.0, log) for n in range(5)))
    wait_for(lambda: _read(follower) == [5], 20, "the new log, and nothing of the old one")


def test_after_a_fault_it_goes_on(stage: Stage, log: str, follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.topic(1, log, dict(WANTED))
    write(stage, log, waiting("a", 1.0, log))

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(following, "replay", broken)
    with pytest.raises(OSError, match="disk full"):
        follower.read()
    monkeypatch.undo()
    assert [one.due for one in follower.read()] == [1]


@pytest.mark.timeout(25)  # the exporter's readings are too old after 30 s
def test_a_partition_of_which_nothing_comes_is_a_fault_soon(
    stage: Stage, log: str, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.topic(1, log, dict(WANTED))
    monkeypatch.setattr(following, "Consumer", Silent)
    with pytest.raises(KafkaException, match="_TIMED_OUT"):
        follower.read()


def _due(at: float) -> float:
    return math.ceil(round(at * 1000, 3)) / 1000  # whole milliseconds, and never before


def _written(stage: Stage, log: str) -> bool:
    try:
        write(stage, log, waiting("added", 1.0, log), partition=1)
    except AssertionError:
        return False
    return True


def _read(follower: Follower) -> list[int]:
    try:
        return [one.due for one in follower.read()]
    except KafkaException:  # the client learns only now that the topic is another
        return []
