"""A worker in memory: the real engine, decoding and execution, with a log, a clock and acknowledgements of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

from kworker.codecs.arguments import Signature
from kworker.codecs.avro import AVRO, Schemas
from kworker.codecs.avro_schema import AvroSchema, Definition
from kworker.codecs.avro_write import write
from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.engine import Engine
from kworker.core.entry import Entry
from kworker.core.publication import message
from kworker.core.ready import Order
from kworker.core.settings import EngineSettings
from kworker.duration import seconds
from kworker.executors.here import attempt
from kworker.plugin import TaskSpec
from kworker.registry import Registry
from kworker.task import Headers, Outcome, Publication, Success, TopicPartition
from kworker.testing.plugins import only_task, publication, specs
from kworker.testing.records import START, DeadLetter, MemoryAttempt, MemoryMessage, MemoryRecord

_SLOTS = 1


class MemoryWorker:
    """A worker in memory. `plugins`: marked functions, Plugin instances or classes, or modules of them.

    settings: for plugins with `Settings`, by class name. order, reply_topics: as the options. schemas: a MemorySchemas,
    for Avro in Confluent's framing. Use it as a context manager, or call `close`, to have plugins torn down. Raises
    PluginError for a signature that cannot be used, and whatever a plugin's `setup` raises.
    """

    def __init__(
        self,
        *plugins: object,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        order: Order = "unordered",
        topic: str = "tasks",
        reply_topics: Collection[str] = (),
        schemas: Schemas | None = None,
    ) -> None:
        self._topic = topic
        self._now = 0.0
        with ExitStack() as stack:
            self._specs = specs(plugins, settings or {}, stack)
            self._registry = Registry.from_specs(self._specs, partial(Signature, schemas=schemas))
            self._plugins = stack.pop_all()
        routes = {name: loaded.route() for name, loaded in self._registry.tasks.items()}
        engine_settings = EngineSettings(
            "test", "memory", dict.fromkeys(_kinds(self._specs), _SLOTS), order, reply_topics=reply_topics
        )
        self._engine = Engine(engine_settings, routes, lambda: 0.0)
        self._place = TopicPartition(topic, 0)
        self._log: list[MemoryRecord] = []
        self._queue: list[Entry] = []
        self.attempts: list[MemoryAttempt] = []
        """Every attempt, in the order it was made."""
        self.published: list[Publication] = []
        """What successful tasks published, and the results that were asked for: the records as they would be sent."""
        self.dead_letters: list[DeadLetter] = []
        """What was set aside."""
        self.committed = 0
        """The offset committed last: what lies below is done. Commits are a second apart by the clock."""
        self._handle(on.Assigned([on.Assignment(self._place, 0, 0)]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Tear the plugins down, the last first."""
        self._plugins.close()

    def publish(
        self,
        task: str,
        payload: object = None,
        *,
        key: str | bytes | None = None,
        id: str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        schema: Definition | AvroSchema | None = None,
        schema_id: int | None = None,
    ) -> int:
        """Publish a message as `kworker.Client` does; returns its offset.

        schema: write the payload as Avro by it, in single-object encoding, or in Confluent framing with `schema_id`.
        """
        if schema is None and schema_id is not None:
            raise ValueError("schema_id is the id of a schema: give the schema as well")
        if schema is not None:
            compiled = schema if isinstance(schema, AvroSchema) else AvroSchema(schema)
            payload = write(compiled, payload, schema_id=schema_id)
            headers = {**(headers or {}), "content-type": AVRO}
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

    @property
    def messages(self) -> list[MemoryMessage]:
        """What successful tasks published by `ctx.publish()`, read."""
        return [message for message in map(MemoryMessage.read, self.published) if message.answers is None]

    @property
    def replies(self) -> list[MemoryMessage]:
        """The results that went to a reply topic, read: `answers` is the id of the task, `payload` what it returned."""
        return [message for message in map(MemoryMessage.read, self.published) if message.answers is not None]

    @property
    def only_task(self) -> str:
        """The name of its task, where it has one. Raises TypeError when it has several."""
        return only_task(self._specs)

    def _execute(self, entry: Entry) -> Outcome:
        now = START + self._now
        outcome, _ = attempt(
            entry, self._registry.tasks[entry.task.name], partial(publication, now=now), clock=lambda: now
        )
        return outcome

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

    def _note(self, record: Publication, *, dead: bool) -> None:
        if dead:
            self.dead_letters.append(DeadLetter.read(record))
        else:
            self.published.append(record)


def run_task(
    plugin: object,
    payload: object = None,
    *,
    task: str | None = None,
    settings: Mapping[str, Any] | None = None,
    schemas: Schemas | None = None,
    **message: Any,
) -> Outcome:
    """Run one task once, arguments checked as a worker would, and return what came of it.

    plugin: a marked function, a Plugin class or instance, or a module. task: which, where it has several. settings: the
    Plugin's own. message: `key`, `id`, `headers`, `schema` and `schema_id` of the message.
    """
    name = plugin.__name__ if isinstance(plugin, type) else type(plugin).__name__
    with MemoryWorker(plugin, settings={name: settings or {}}, schemas=schemas) as worker:
        worker.publish(task or worker.only_task, payload, **message)
        worker.run()
        if not worker.attempts:  # it did not come as far as a slot: a record that is none
            letter = worker.dead_letters[0]
            raise AssertionError(f"the task was not run: {letter.reason}: {letter.message}")
        return worker.attempts[0].outcome


def result_of(outcome: Outcome) -> object:
    """What a successful task returned. Raises AssertionError, with the error, when it did not succeed."""
    assert isinstance(outcome, Success), f"the task did not succeed: {outcome}"
    return outcome.result


def _kinds(specs: list[TaskSpec]) -> set[str]:
    return {spec.executor for spec in specs} or {"thread"}
