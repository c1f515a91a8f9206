"""The ledger of a fault: what was published, what ran, what is committed; and what must hold between them."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from faults.bad_records import new
from faults.worker import Calls
from kit import NewRecord, committed, produce
from kworker.core.metadata import decode

PARTITIONS = 4


def ids(count: int, name: str = "task") -> list[str]:
    """So many ids."""
    return [f"{name} {number}" for number in range(count)]


def work(id: str, *, key: bytes | None = None, **more: Any) -> NewRecord:
    """A record of the task `work`; `more`: its other arguments."""
    return new("work", json.dumps({"id": id, **more}).encode(), key=key)


class Tasks:
    """The tasks `work` of one topic and of the group of the same name, each known by its id."""

    def __init__(self, bootstrap: str, topic: str, calls: Calls) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self.places: dict[str, tuple[int, int]] = {}
        self._calls = calls
        self._may_run_again: Counter[str] = Counter()

    def publish(self, ids: Iterable[str], **more: Any) -> None:
        """Publish a task for each id, spread over the partitions; all acknowledged."""
        new_ids = list(ids)
        records = [work(id, **more)._replace(partition=n % PARTITIONS) for n, id in enumerate(new_ids)]
        self.places.update(zip(new_ids, produce(self.bootstrap, self.topic, records), strict=True))

    def started(self) -> Counter[str]:
        """How often each began."""
        return self._calls.counted("start")

    def ended(self) -> Counter[str]:
        """How often each succeeded."""
        return self._calls.counted("end")

    def all_ended(self) -> bool:
        """Whether each succeeded at least once."""
        return self.ended().keys() >= self.places.keys()

    def remembered(self) -> set[str]:
        """Those that the group's commits hold as done, by offset or by metadata."""
        found = committed(self.bootstrap, self.topic, self.topic)
        return {id for id, (partition, offset) in self.places.items() if _holds(found.get(partition), offset)}

    def after_a_kill(self) -> None:
        """Every worker is dead: what began and is not remembered may run once more; nothing else may."""
        remembered = self.remembered()
        assert remembered <= self.ended().keys(), "committed, and not done"
        self.may_run_again(self.started().keys() - remembered)

    def may_run_again(self, ids: Iterable[str]) -> None:
        """These were under way, or done and not committed, when a fault came: each may run once more."""
        self._may_run_again += Counter(ids)

    def check(self) -> None:
        """Nothing was lost, and nothing ran more often than it had to."""
        assert self.ended().keys() == self.places.keys()
        too_often = self.started() - Counter(self.places.keys()) - self._may_run_again
        assert not too_often, f"ran more often than needed: {too_often}"

    def total(self) -> int:
        """The offsets to commit in all."""
        return len(self.places)


def _holds(place: tuple[int, str] | None, offset: int) -> bool:
    if place is None:
        return False
    finished = decode(place[1], place[0])
    assert finished is not None, "metadata that cannot be read"
    return offset < place[0] or offset in finished


class Watch:
    """Looks at the group's committed offsets while it is open: they never fall, nor pass what is not done."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._faults: list[str] = []
        self._highest: dict[int, int] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.looks = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._closed.set()
        self._thread.join(20)
        if error is None:
            assert self.looks, "the commits were never seen"
            assert not self._faults, self._faults[:5]

    def _run(self) -> None:
        tasks = self._tasks
        asked = [TopicPartition(tasks.topic, partition) for partition in range(PARTITIONS)]
        settings: dict[str, str | int | float | bool] = {"bootstrap.servers": tasks.bootstrap, "group.id": tasks.topic}
        with Consumer({**settings, "log_level": 0, "reconnect.backoff.max.ms": 500}) as consumer:
            while not self._closed.wait(0.1):
                try:
                    found = consumer.committed(asked, timeout=5)
                except KafkaException:  # the broker is gone, or its coordinator is not back: that is another fact
                    continue
                self._look({place.partition: place.offset for place in found if place.offset >= 0})

    def _look(self, offsets: dict[int, int]) -> None:
        self.looks += 1
        ended = self._tasks.ended()  # after the commits: what they hold must be in it
        for id, (partition, offset) in self._tasks.places.copy().items():
            if offset < offsets.get(partition, 0) and id not in ended:
                self._faults.append(f"{id} at {partition}/{offset} is not done, and {offsets[partition]} is committed")
        for partition, offset in offsets.items():
            if offset < self._highest.get(partition, 0):
                self._faults.append(f"partition {partition} fell from {self._highest[partition]} to {offset}")
            self._highest[partition] = offset
