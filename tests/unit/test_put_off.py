"""A task whose payload cannot be read yet is put off: no attempt is counted, nothing of the plugin has run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

from kit.attempts import entry_of
from kit.avro_zoo import field, record
from kworker import TaskSpec
from kworker.codecs.arguments import Signature
from kworker.codecs.avro_schema import AvroSchema
from kworker.core import actions as do
from kworker.core import events as on
from kworker.core.engine import Engine
from kworker.core.retry import RetryPolicy
from kworker.core.route import Route
from kworker.core.settings import EngineSettings
from kworker.errors import Unavailable
from kworker.executors.base import execute
from kworker.task import ErrorInfo, Failed, Outcome, Postponed, Success, TopicPartition
from kworker.testing import MemoryRecord

PLACE = TopicPartition("tasks", 0)


class Waiting:
    """Schemas that are not there for a while."""

    def __init__(self, times: int) -> None:
        self.times = times

    def schema(self, id: int, topic: str) -> AvroSchema:
        if self.times:
            self.times -= 1
            raise Unavailable("not yet", 2.5)
        return AvroSchema(record("R", field("n", "int")))


def run(function: Any, schemas: Any, value: bytes | None) -> Outcome:
    spec = TaskSpec("t", function, "thread")
    runnable = SimpleNamespace(spec=spec, signature=Signature(spec, schemas=schemas))
    return execute(entry_of("t", value), runnable, None, lambda *_, **__: None, lambda _: None)  # type: ignore[arg-type]  # nothing is published


def test_a_schema_that_is_not_there_puts_the_task_off() -> None:
    calls: list[int] = []
    schemas = Waiting(1)
    framed = b"\0\0\0\0\1\x0a"

    def count(n: int) -> None:
        calls.append(n)

    assert run(count, schemas, framed) == Postponed(ErrorInfo("unavailable", "not yet"), 2.5)
    assert calls == []
    assert run(count, schemas, framed) == Success()
    assert calls == [5]


def test_a_plugin_that_raises_the_same_has_failed() -> None:
    def raising() -> NoReturn:
        raise Unavailable("mine", 1.0)

    outcome = run(raising, None, None)
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "Unavailable"


def test_it_waits_as_often_as_it_takes_and_counts_no_attempt() -> None:
    route = Route("t", "thread", RetryPolicy(max_attempts=1))
    engine = Engine(EngineSettings("g", "w", {"thread": 1}), {"t": route}, lambda: 0.0)
    engine.handle(on.Assigned([on.Assignment(PLACE, 0, 0)]), 0.0)
    headers: Any = [("ce_type", b"t")]
    started = engine.handle(on.Polled([MemoryRecord(PLACE, 0, None, None, headers)], 0.0, 0), 0.0)
    now = 0.0
    for _ in range(20):
        (start,) = [action for action in started if isinstance(action, do.Start)]
        (entry,) = start.entries
        assert entry.attempt == 1
        report = (entry, entry.run, Postponed(ErrorInfo("unavailable", ""), 30.0), now, now)
        assert engine.handle(on.Finished([report], now), now) == []
        assert engine.next_due <= now + 30.0
        now += 30.0
        started = engine.handle(on.Tick(), now)
    assert (route.postponed, route.retried, route.failed, route.dead_lettered) == (20, 0, {}, {})
