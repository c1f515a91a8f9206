"""For plugin authors: run tasks in memory, through the real engine, with a clock that you move.

    from kworker.testing import MemoryWorker

    def test_a_flaky_page_is_tried_again() -> None:
        worker = MemoryWorker(fetch)                 # functions marked with @task, Plugin instances or modules
        worker.publish("fetch", {"url": "http://x"})
        worker.run()                                 # what can run now
        assert worker.attempts[-1].outcome.error.type == "Retry"
        worker.advance("30s")                        # what is due by then
        assert worker.succeeded == 1 and not worker.dead_letters

The engine, the decoding, the check of arguments, retries, back-off (without jitter) and dead letters are those of a
worker; only Kafka, the threads and the clock are replaced. Tasks run one after the other in the calling thread, async
ones by asyncio.run; deadlines are not enforced.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import msgspec
from msgspec import Struct

from kworker.codecs.arguments import Signature
from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.engine import Engine
from kworker.core.entry import Entry
from kworker.core.publication import message
from kworker.core.ready import Order
from kworker.core.settings import EngineSettings
from kworker.duration import seconds
from kworker.executors.base import execute
from kworker.plugin import MARK, Plugin, TaskSpec
from kworker.registry import Registry
from kworker.task import Headers, Outcome, Publication, Success, TopicPartition

START = 1_700_000_000.0
"""What the wall clock of a MemoryWorker shows at first, in seconds since the epoch."""

_SLOTS = 1


class MemoryRecord(Struct, frozen=True):
    """A record in memory: a `kworker.task.Record` like those that the Kafka client gives."""

    place: TopicPartition
    at: int
    raw_key: bytes | None
    raw_value: bytes | None
    raw_headers: Headers
    milliseconds: int = int(START * 1000)

    def topic(self) -> str:
        """The topic it was read from."""
        return self.place.topic

    def partition(self) -> int:
        """The partition it was read from."""
        return self.place.partition

    def offset(self) -> int:
        """Its offset."""
        return self.at

    def key(self) -> bytes | None:
        """The key's bytes, or None."""
        return self.raw_key

    def value(self) -> bytes | None:
        """The value's bytes, or None."""
        return self.raw_value

    def headers(self) -> Headers | None:
        """The headers, or None when there are none."""
        return self.raw_headers or None

    def timestamp(self) -> tuple[int, int]:
        """(1, milliseconds since the epoch): set when it was created."""
        return 1, self.milliseconds


class MemoryAttempt(Struct, frozen=True):
    """One attempt that was made. `at`: seconds after the worker was made."""

    task: str
    id: str
    number: int
    outcome: Outcome
    at: float


class DeadLetter(Struct, frozen=True):
    """A record that was set aside: why, and the record as it would be in the dead-letter topic."""

    reason: str
    error: str
    message: str
    record: Publication


class MemoryWorker:
    """A worker in memory. `plugins`: marked functions, Plugin instances or classes, or modules of them.

    settings: for plugins with `Settings`, by class name. order, reply_topics: as the options. Raises PluginError for a
    signature that cannot be used, and whatever a plugin's `setup` raises.
    """

    def __init__(
        self,
        *plugins: object,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        order: Order = "unordered",
        topic: str = "tasks",
        reply_topics: Collection[str] = (),
    ) -> None:
        self._topic = topic
        self._now = 0.0
        specs = list(_specs(plugins, settings or {}))
        self._registry = Registry.from_specs(specs, Signature)
        routes = {name: loaded.route() for name, loaded in self._registry.tasks.items()}
        engine_settings = EngineSettings(
            "test", "memory", dict.fromkeys(_kinds(specs), _SLOTS), order, reply_topics=reply_topics
        )
        self._engine = Engine(engine_settings, routes, lambda: 0.0)
        self._place = TopicPartition(topic, 0)
        self._log: list[MemoryRecord] = []
        self._queue: list[Entry] = []
        self.attempts: list[MemoryAttempt] = []
        """Every attempt, in the order it was made."""
        self.published: list[Publication] = []
        """What successful tasks published by `ctx.publish()`."""
        self.dead_letters: list[DeadLetter] = []
        """What was set aside."""
        self.committed = 0
        """The offset committed last: what lies below is done."""
        self._handle(on.Assigned([on.Assignment(self._place, 0, 0)]))

    def publish(
        self,
        task: str,
        payload: object = None,
        *,
        key: str | bytes | None = None,
        id: str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
    ) -> int:
        """Publish a message as `kworker.Client` does; returns its offset."""
        made = message(
            task,
            payload,
            topic=self._topic,
            key=key,
            id=id or f"test-{len(self._log)}",
            headers=headers,
            now=START + self._now,
        )
        return self.publish_raw(made.value, key=made.key, headers=made.headers)

    def publish_raw(self, value: bytes | None, *, key: bytes | None = None, headers: Headers = []) -> int:  # noqa: B006 - never changed
        """Publish a record byte for byte, as any Kafka client could; returns its offset."""
        milliseconds = int((START + self._now) * 1000)
        record = MemoryRecord(self._place, len(self._log), key, value, list(headers), milliseconds)
        self._log.append(record)
        self._handle(on.Polled([record], START + self._now))
        return record.at

    def run(self) -> None:
        """Run everything that can run now, without moving the clock."""
        while self._queue:
            entry = self._queue.pop(0)
            run = entry.run
            outcome = self._execute(entry)
            self.attempts.append(MemoryAttempt(entry.task.name, entry.task.id, entry.attempt, outcome, self._now))
            self._handle(on.Finished([(entry, run, outcome, self._now, self._now)], START + self._now))
        self._handle(on.Tick())

    def advance(self, duration: float | str) -> None:
        """Move the clock, and run on the way whatever falls due, at its time."""
        until = self._now + seconds(duration)
        self.run()
        while self._engine.next_due <= until:
            self._now = max(self._now, self._engine.next_due)
            self._handle(on.Tick())
            self.run()
        self._now = until
        self._handle(on.Tick())

    @property
    def succeeded(self) -> int:
        """How many tasks have succeeded."""
        return sum(route.succeeded for route in self._engine.routes.values())

    @property
    def waiting_retries(self) -> int:
        """How many tasks wait for their next attempt."""
        return self._engine.waiting_retries

    def _execute(self, entry: Entry) -> Outcome:
        loaded = self._registry.tasks[entry.task.name]
        if inspect.iscoroutinefunction(loaded.spec.function):
            loaded = replace(loaded, spec=replace(loaded.spec, function=_blocking(loaded.spec.function)))
        return execute(entry, loaded, None, self._publication, lambda context: None)

    def _publication(self, task: str, payload: object, **attributes: Any) -> Publication:
        return message(task, payload, **attributes, now=START + self._now)

    def _handle(self, event: on.Event) -> None:
        for action in self._engine.handle(event, self._now):
            if isinstance(action, do.Start):
                self._queue += action.entries
            elif isinstance(action, do.Send):
                for forward in action.forwards:
                    self._note(forward.publication, dead=forward.verdict is not None)
                self._handle(on.Forwarded([(forward, None) for forward in action.forwards]))
            elif isinstance(action, do.Commit):
                self.committed = action.items[0].offset
                self._handle(on.Committed([(item.topic_partition, item.epoch, None) for item in action.items]))

    def _note(self, publication: Publication, *, dead: bool) -> None:
        if not dead:
            self.published.append(publication)
            return
        found = {name: (value or b"").decode() for name, value in publication.headers if name.startswith("kworker-")}
        self.dead_letters.append(
            DeadLetter(
                found["kworker-reason"], found["kworker-error-type"], found["kworker-error-message"], publication
            )
        )


def run_task(function: Callable[..., Any], payload: object = None, **options: Any) -> Outcome:
    """Run one task once, arguments checked as a worker would, and return what came of it.

    options: `key`, `id` and `headers` of the message.
    """
    worker = MemoryWorker(function)
    worker.publish(getattr(function, MARK).name, payload, **options)
    worker.run()
    return worker.attempts[0].outcome


def result_of(outcome: Outcome) -> object:
    """What a successful task returned. Raises AssertionError, with the error, when it did not succeed."""
    assert isinstance(outcome, Success), f"the task did not succeed: {outcome}"
    return outcome.result


def _specs(plugins: tuple[object, ...], settings: Mapping[str, Mapping[str, object]]) -> Iterator[TaskSpec]:
    for plugin in plugins:
        if isinstance(plugin, type) and issubclass(plugin, Plugin):
            plugin = plugin()
        if isinstance(plugin, Plugin):
            wanted = type(plugin).Settings
            given = None if wanted is None else msgspec.convert(settings.get(type(plugin).__name__, {}), wanted)
            plugin.setup(given)
            yield from plugin.tasks()
        elif isinstance(plugin, ModuleType):
            marked = [member for member in vars(plugin).values() if isinstance(getattr(member, MARK, None), TaskSpec)]
            yield from (getattr(member, MARK) for member in marked)
        else:
            spec = getattr(plugin, MARK, None)
            if not isinstance(spec, TaskSpec):
                raise TypeError(f"{plugin!r} is neither marked with @task nor a Plugin")
            yield spec


def _kinds(specs: list[TaskSpec]) -> set[str]:
    return {spec.executor for spec in specs} or {"thread"}


def _blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: object, **keywords: object) -> object:
        return asyncio.run(function(*arguments, **keywords))

    return call
