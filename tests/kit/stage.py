"""A stage for workers: one Kafka, one folder, any number of real worker processes, and what their tasks noted."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from kit.records import NewRecord, all_done, committed, create_topic, produce, progress
from kit.waiting import wait_for
from kit.worker_process import WorkerProcess

PLUGIN = Path(__file__).parent / "probe"

DEADLINE = 40.0
"""Seconds after which a fact about workers that did not come is a failure: above two session timeouts."""


class Noted(NamedTuple):
    """What a task of probe_plugin noted: began, cancelled or ran."""

    event: str
    n: int
    pid: int
    attempt: int
    topic: str
    partition: int
    offset: int


class Stage:
    """See the module. `group`: of the workers started here, unless they are given another."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        self.folder = folder
        self.bootstrap = bootstrap
        self.group = f"group-{uuid.uuid4().hex[:12]}"
        self._stack = ExitStack()
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.let_go()
        self._stack.close()

    def topic(self, partitions: int = 1, name: str = "", config: dict[str, str] | None = None) -> str:
        """A new topic, and its name."""
        name = name or f"topic-{uuid.uuid4().hex[:12]}"
        create_topic(self.bootstrap, name, partitions, config)
        return name

    def renew(self, topic: str, *workers: WorkerProcess) -> None:
        """Delete a topic and make another one of its name."""
        client = AdminClient({"bootstrap.servers": self.bootstrap})  # no answer comes when it is gone
        client.delete_topics([topic])[topic].result(10)

        def made() -> bool:  # the broker takes its time to forget the old one
            try:
                self.topic(name=topic)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
                return False
            return True

        self.wait(made, "the topic made anew", *workers)

    def start(
        self,
        *arguments: str,
        topics: Iterable[str] = (),
        kafka: Mapping[str, str] | None = None,
        site: Sequence[Path] = (PLUGIN,),
    ) -> WorkerProcess:
        """Launch a worker with the probe plugin. kafka: its properties; a group or an address given count."""
        given = list(arguments)
        for option, value in (("--group", self.group), ("--bootstrap", self.bootstrap), ("--plugin", "probe")):
            if option not in given:
                given += [option, value]
        for topic in topics:
            given += ["--topic", topic]
        for name, value in (kafka or {}).items():
            given += ["-X", f"{name}={value}"]
        self._number += 1
        folder = self.folder / f"worker-{self._number}"
        worker = WorkerProcess(folder, *given, env={"PROBE_FOLDER": str(self.folder)}, site=site)
        self._stack.callback(worker.close)
        return worker

    def publish(self, topic: str, task: str, numbers: Iterable[int], partition: int = -1) -> None:
        """One record of `probe.<task>` for each number, acknowledged."""
        headers = (("ce_type", f"probe.{task}".encode()),)
        produce(self.bootstrap, topic, [NewRecord(b'{"n": %d}' % n, None, headers, partition) for n in numbers])

    def let_go(self, *numbers: int) -> None:
        """Let these waiting tasks end; without any, all."""
        for name in map(str, numbers) if numbers else ["all"]:
            (self.folder / f"{name}.end").touch()

    def noted(self) -> list[Noted]:
        """Everything, in order."""
        events = self.folder / "events"
        return [Noted(**json.loads(line)) for line in events.read_text().splitlines()] if events.exists() else []

    def numbers(self, event: str) -> Counter[int]:
        """How often each number noted `event`."""
        return Counter(noted.n for noted in self.noted() if noted.event == event)

    def wait_noted(self, event: str, numbers: Iterable[int], *workers: WorkerProcess) -> None:
        """Wait until each of these noted `event`; the logs of `workers` are shown when they do not."""
        wanted = set(numbers)
        self.wait(lambda: wanted <= set(self.numbers(event)), f"{event} of {shown(wanted)}", *workers)

    def wait(self, fact: Callable[[], object], what: str, *workers: WorkerProcess, timeout: float = DEADLINE) -> None:
        """Wait for a fact while these workers live."""

        def holds() -> object:
            for worker in workers:
                assert worker.exit_code is None, f"a worker ended with {worker.exit_code}: {worker.logged()[-4000:]}"
            return fact()

        try:
            wait_for(holds, timeout, what)
        except AssertionError as error:
            logs = "\n".join(worker.logged()[-4000:] for worker in workers)
            raise AssertionError(f"{error}\nnoted: {self.noted()[-20:]}\n{logs}") from None

    def committed(self, topic: str) -> dict[int, tuple[int, str]]:
        """What the group has committed, as the broker tells it."""
        return committed(self.bootstrap, self.group, topic)

    def progress(self, topic: str) -> dict[int, tuple[int, list[int]]]:
        """The committed offsets, with those above that the metadata says are finished: start, end, start, end ..."""
        return progress(self.bootstrap, self.group, topic)

    def finished(self, topic: str, partition: int = 0) -> list[int]:
        """The offsets above the committed one that its metadata says are finished: start, end, start, end ..."""
        return self.progress(topic).get(partition, (0, []))[1]

    def wait_all_committed(self, topic: str, *workers: WorkerProcess) -> None:
        """Wait until the group's offsets are at the end of every partition, with nothing left above them."""
        self.wait(
            lambda: all_done(self.bootstrap, self.group, topic), f"all of {topic} to be done and committed", *workers
        )


def owned(worker: WorkerProcess) -> set[tuple[str, int]]:
    """The partitions that are assigned to it."""
    return {(given["topic"], given["partition"]) for given in worker.status()["assignment"]}


def metric(worker: WorkerProcess, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels; 0 when there is none."""
    total = 0.0
    for series, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", worker.metrics(), re.M):
        found = dict(re.findall(r'(\w+)="([^"]*)"', series))
        if labels.items() <= found.items():
            total += float(value)
    return total


def shown(numbers: Iterable[int]) -> str:
    """Some of many numbers."""
    listed = sorted(numbers)
    return f"{len(listed)} numbers from {listed[0]} to {listed[-1]}" if len(listed) > 5 else str(listed)
