"""What features of the worker cost, each alone in one process: microseconds of processor time for a task.

It calls the same functions as the worker does. What an option turns off is measured in COST instead, in a whole worker.
Medians of ROUNDS. Pairs tell a difference: with and without the feature, in turn, so that noise hits both alike.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from statistics import median

import msgspec

from benchmarks import told
from benchmarks.effect import Effect
from benchmarks.peer import Peer, of_distributions
from benchmarks.place import Place
from benchmarks.workload import KEYS, Workload
from kworker import Context
from kworker.codecs.arguments import Signature
from kworker.core.entry import Entry
from kworker.core.metadata import Intervals, encode
from kworker.core.partition import Partition
from kworker.core.ready import Order, ReadyQueue
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.core.wire import decode_all
from kworker.executors.base import execute
from kworker.metrics import Metrics
from kworker.plugin import TaskSpec
from kworker.registry import LoadedTask
from kworker.task import Headers, Publication, Record, Task, TopicPartition

ROUNDS = 7
RUN = 64  # tasks of one batch, as slots report them
COMMIT = 1.0  # seconds between commits
PLACE = TopicPartition("tasks", 0)
NAME = "bench.sleep.thread"


def _plain(n: int, ms: float, pad: str) -> None: ...


def _with_context(n: int, ms: float, pad: str, *, ctx: Context) -> None: ...


def _untyped(n, ms, pad): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - without types nothing is checked


def _loaded(function: Callable[..., object]) -> LoadedTask:
    spec = TaskSpec(NAME, function, "thread")
    return LoadedTask(spec, "bench", "bench", "0", Signature(spec))


class Pieces:
    """Measures over `count` tasks."""

    def __init__(self, count: int) -> None:
        payload = Workload("", "", "told", 0, 0).payload
        self._values = [payload(n) for n in range(count)]
        self._keys = [b"%d" % (n % KEYS) for n in range(count)]
        self._numbers = random.Random(1)
        self.figures: dict[str, float] = {}
        """By what was measured, us a task."""

    def all(self) -> dict[str, float]:
        """Every piece."""
        self._arguments()
        self._calls()
        self._metrics()
        self._orders()
        self._headers()
        self._metadata()
        return self.figures

    def _tasks(self, deadline: float | None = None) -> list[Task]:
        return [
            Task(NAME, *PLACE, n, key, value, [], 1_764_000_000_000, len(value), deadline=deadline)
            for n, (key, value) in enumerate(zip(self._keys, self._values, strict=True))
        ]

    def _arguments(self) -> None:
        tasks = self._tasks()
        typed, untyped = Signature(_loaded(_plain).spec).bind, Signature(_loaded(_untyped).spec).bind
        self._time(
            {
                "json.loads, for comparison": lambda: [json.loads(task.value or b"") for task in tasks],
                "msgspec without types, for comparison": lambda: [_decode(task.value or b"") for task in tasks],
                "payload to arguments, not checked": lambda: [untyped(task) for task in tasks],
                "payload to arguments, checked (validation)": lambda: [typed(task) for task in tasks],
            }
        )

    def _calls(self) -> None:
        """The steps of an attempt in its slot."""
        partition = _partition()
        route = Route(NAME, "thread", RetryPolicy())
        plain, with_context = _loaded(_plain), _loaded(_with_context)

        def called(loaded: LoadedTask, deadline: float | None) -> Callable[[], object]:
            entries = [Entry(task, partition, route, 0.0) for task in self._tasks(deadline)]
            until = time.monotonic() + 300
            return lambda: [execute(entry, loaded, until, _publish, _started) for entry in entries]

        self._time(
            {
                "an attempt": called(plain, None),
                "an attempt that takes ctx": called(with_context, None),
                "an attempt with a ce_deadline": called(plain, time.time() + 3600),
            }
        )

    def _metrics(self) -> None:
        """What instruments.py does for a batch of reports."""
        metrics = Metrics([NAME], [PLACE.topic])
        duration = metrics.histogram("kworker_task_duration_seconds", NAME).observe_many
        wait = metrics.histogram("kworker_task_wait_seconds", NAME).observe_many
        seconds = [self._numbers.random() / 100 for _ in self._values]
        batches = [seconds[start : start + RUN] for start in range(0, len(seconds), RUN)]

        def both() -> None:
            for batch in batches:
                duration(batch)
                wait(batch)

        self._time({"metrics: two histograms": both})

    def _orders(self) -> None:
        """A record from its arrival to the release of its lane; no others wait in it."""

        def passed(order: Order) -> Callable[[], object]:
            tasks, route = self._tasks(), Route(NAME, "thread", RetryPolicy())

            def run() -> None:
                partition, queue = _partition(), ReadyQueue(order, ["thread"])
                for start in range(0, len(tasks), RUN):
                    queue.arrive_all([Entry(task, partition, route, 0.0) for task in tasks[start : start + RUN]])
                    while taken := queue.take("thread", RUN):
                        queue.release_lanes(taken)

            return run

        self._time(
            {
                "queue, unordered": passed("unordered"),
                "queue, key order": passed("key"),
                "queue, partition order": passed("partition"),
            }
        )

    def _headers(self) -> None:
        bare: Headers = []
        full: Headers = [("ce_type", NAME.encode()), ("ce_id", b"1"), ("content-type", b"application/json")]

        def read(headers: Headers) -> Callable[[], object]:
            records: list[Record] = [
                _Record(key, value, headers) for key, value in zip(self._keys, self._values, strict=True)
            ]
            offsets = list(range(len(records)))
            return lambda: list(decode_all(records, offsets, PLACE, {NAME}, NAME))

        self._time({"a record without headers": read(bare), "a record with ce_type, ce_id, content-type": read(full)})

    def _metadata(self) -> None:
        """One commit a second of one partition in which every second offset above a stuck one is finished."""
        for gap in (500, 5_000, 39_000):
            partition = _partition()
            partition.tracker.open_all(list(range(gap)))
            partition.tracker.finish_all(list(range(1, gap, 2)))
            once = self._once(lambda partition=partition: encode(0, partition.finished_bounds()))  # type: ignore[misc]
            self.figures[f"commit metadata, {gap:,} above a stuck one, us a commit"] = once

    # -- measuring ------------------------------------------------------------------------------------------------

    def _time(self, pieces: dict[str, Callable[[], object]]) -> None:
        found: dict[str, list[float]] = {name: [] for name in pieces}
        for _ in range(ROUNDS):
            for name, piece in pieces.items():
                found[name].append(self._spent(piece) / len(self._values) * 1e6)
        self.figures |= {name: median(values) for name, values in found.items()}

    def _once(self, piece: Callable[[], object]) -> float:
        return median(self._spent(piece) for _ in range(ROUNDS)) * 1e6

    def _spent(self, piece: Callable[[], object]) -> float:
        began = time.process_time()
        piece()
        return time.process_time() - began


_decode = msgspec.json.Decoder().decode


class _Record:
    """A record that was fetched, as confluent-kafka has it."""

    def __init__(self, key: bytes, value: bytes, headers: Headers) -> None:
        self._key, self._value, self._headers = key, value, headers

    def topic(self) -> str:
        return PLACE.topic

    def partition(self) -> int:
        return PLACE.partition

    def offset(self) -> int:
        return 0

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes:
        return self._value

    def headers(self) -> Headers:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_764_000_000_000


def _partition() -> Partition:
    return Partition(PLACE, 1, 0, Intervals(), None, "tasks.dlq")


def _publish(*_: object, **__: object) -> Publication:
    raise AssertionError("no task here publishes")


def _started(context: Context) -> None: ...


PEERS = (
    Peer(
        "pieces",
        frozenset({"PIECES"}),
        lambda place: [sys.executable, "-m", "benchmarks.pieces"],
        of_distributions("kworker-kafka", "msgspec"),
        f"medians of {ROUNDS} rounds in one process, processor time",
    ),
)


if __name__ == "__main__":
    here = Place.given()
    told.tell(here, Pieces(Effect(here.effect).tasks).all())
