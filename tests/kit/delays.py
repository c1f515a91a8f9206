"""Delayed tasks on a real Kafka: a delay log and a target topic of their own, tasks published into it, and a reader
that notes when each was handed over."""

from __future__ import annotations

import math
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from kit.records import create_topic
from kit.stage import Stage
from kit.waiting import wait_for
from kit.worker_process import WorkerProcess
from kworker.core.delayed import delay, log_of
from kworker.kafka.delaylog import WANTED
from kworker.task import Headers, Publication


class Handed(NamedTuple):
    """A task in its target topic: when it was due, written, and read by a reader; in ms since the epoch."""

    id: str
    due: int
    written: int
    read: float


class Delays:
    """See the module. namespace: of the workers that `worker` starts."""

    def __init__(self, folder: Path, bootstrap: str, partitions: int = 4) -> None:
        self.bootstrap = bootstrap
        self.namespace = f"delays-{uuid.uuid4().hex[:10]}"
        self.log = log_of(self.namespace)
        self.target = f"{self.namespace}-tasks"
        self.partitions = partitions
        self.handed: list[Handed] = []
        self.published: dict[str, int] = {}
        """Id -> due, in ms since the epoch."""
        self.stage = Stage(folder, bootstrap)
        create_topic(bootstrap, self.target, 4)
        create_topic(bootstrap, self.log, partitions, WANTED)
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, name="delays-reader", daemon=True)

    def __enter__(self) -> Self:
        self.stage.__enter__()
        self.idle = self.stage.topic()
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self.stage.__exit__(kind, error, tb)
        self._reader.join(10)

    def worker(self, *arguments: str) -> WorkerProcess:
        """Start a worker that has nothing to do but to keep time."""
        return self.stage.start("--namespace", self.namespace, *arguments, topics=[self.idle])

    def publish(self, tasks: Iterable[tuple[str, float]]) -> None:
        """Publish tasks: (id, when it is due in seconds since the epoch), all acknowledged."""
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "acks": "all", "linger.ms": 5, "partitioner": "murmur2_random"}
        )
        for id, due in tasks:
            record = self.record(id, due)
            self.published[id] = math.ceil(round(due * 1000, 3))
            while True:
                try:
                    producer.produce(record.topic, record.value, record.key, headers=list(record.headers))
                except BufferError:
                    producer.poll(0.1)
                else:
                    break
            producer.poll(0)
        assert producer.flush(60) == 0

    def record(self, id: str, due: float) -> Publication:
        """The record by which a task of this id waits."""
        headers: Headers = [("task", b"delays.none"), ("ce_id", id.encode())]
        headers.append(("due", b"%d" % math.ceil(round(due * 1000, 3))))
        return delay(Publication(self.target, b"key-" + id.encode(), b"{}", headers), id, due, self.log)

    def _read(self) -> None:
        with Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"{self.namespace}-reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
                "fetch.queue.backoff.ms": 10,
            }
        ) as consumer:
            consumer.assign([TopicPartition(self.target, number, OFFSET_BEGINNING) for number in range(4)])
            while not self._over.is_set():
                first = consumer.poll(0.1)
                now = time.time() * 1000
                for message in [] if first is None else [first, *consumer.consume(1000, 0)]:
                    if message.error() is None:
                        headers: dict[str, bytes | None] = dict(cast(Headers, message.headers() or []))
                        id, due = (headers["ce_id"] or b"").decode(), int(headers["due"] or b"")
                        self.handed.append(Handed(id, due, message.timestamp()[1], now))

    # -- facts --------------------------------------------------------------------------------------------------

    def wait_held(self, *workers: WorkerProcess, timeout: float = 40.0) -> None:
        """Until these workers hold all partitions between them."""

        def held() -> bool:
            return sum(held_by(worker) for worker in workers) == self.partitions

        wait_for(held, timeout, "all partitions of the delay log are held")

    def wait_handed(self, count: int, timeout: float) -> None:
        """Until so many tasks were handed over."""
        wait_for(lambda: len(self.handed) >= count, timeout, f"{count} tasks are handed over")

    def check(self) -> None:
        """Each task that was published was handed over once, and none early."""
        counts = Counter(one.id for one in self.handed)
        assert [id for id, count in counts.items() if count > 1] == []
        assert self.published.keys() - counts.keys() == set()
        assert [one for one in self.handed if one.written < one.due or one.read < one.due] == []

    def lateness(self, outside: Iterable[tuple[float, float]] = ()) -> list[float]:
        """Seconds from due to read, sorted; without what was due in one of these spans (seconds since the epoch)."""
        spans = list(outside)
        return sorted(
            (one.read - one.due) / 1000
            for one in self.handed
            if not any(start <= one.due / 1000 <= end for start, end in spans)
        )


def held_by(worker: WorkerProcess) -> int:
    """How many partitions of the delay log a worker holds, taken over."""
    (line,) = [line for line in worker.metrics().splitlines() if line.startswith("kworker_delay_partitions ")]
    return int(float(line.split()[1]))


def random_dues(chance: random.Random, count: int, start: float, within: float) -> list[tuple[str, float]]:
    """So many tasks, due at random within these seconds after `start`."""
    return [(f"task-{number}", start + chance.uniform(0, within)) for number in range(count)]
