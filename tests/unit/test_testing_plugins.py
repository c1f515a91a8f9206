"""kworker.testing beyond one worker: Avro by a registry in memory, what was sent, plugins, contexts and fixtures."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest

from kit.avro_zoo import field, record
from kworker import Context, Plugin, task
from kworker.task import Postponed, Refused
from kworker.testing import START, MemorySchemas, MemoryWorker, context, opened, result_of, run_task
from kworker.testing_fixtures import MakeWorker, RunTask

SUM = record("Sum", field("a", "int"), field("b", "int", default=1))


@task("add", reply_to="sums")
def add(a: int, b: int = 1) -> int:
    return a + b


@task("split")
def split(text: str, *, ctx: Context) -> int:
    """Sends each word."""
    for word in text.split():
        ctx.publish("word", {"word": word}, key=word, topic="words")
    ctx.publish("raw", b"\xff")
    return len(text)


class ShopSettings(msgspec.Struct):
    name: str
    open: list[str] = []


class Shop(Plugin):
    Settings = ShopSettings
    log: list[str]

    def setup(self, settings: ShopSettings) -> None:
        self.settings = settings
        settings.open.append("open")

    def teardown(self) -> None:
        self.settings.open.append("closed")

    @task("shop.sell")
    def sell(self, what: str) -> str:
        return f"{self.settings.name}: {what}"

    @task("shop.buy")
    def buy(self) -> None: ...


def test_avro_of_a_registry() -> None:
    schemas = MemorySchemas()
    id = schemas.register("tasks-value", SUM)
    worker = MemoryWorker(add, schemas=schemas)
    worker.publish("add", {"a": 2, "b": 3}, schema=SUM, schema_id=id)
    worker.run()
    assert result_of(worker.attempts[0].outcome) == 5
    assert schemas.register("other-value", SUM) == id


@pytest.mark.parametrize(
    ("subject", "schema", "id", "error"),
    [
        ("other-value", SUM, 1, "schema_subject"),
        ("tasks-value", SUM, 2, "schema_unknown"),
        ("tasks-value", SUM, 0, "schema_unknown"),
        ("tasks-value", {"type": "no such type"}, 1, "schema_unusable"),
    ],
)
def test_what_a_registry_does_not_have_is_refused(subject: str, schema: dict[str, object], id: int, error: str) -> None:
    schemas = MemorySchemas()
    schemas.register(subject, schema)
    outcome = run_task(add, {"a": 1}, schemas=schemas, schema=SUM, schema_id=id)
    assert isinstance(outcome, Refused)
    assert outcome.error.type == error


def test_subjects_may_be_named_by_the_record() -> None:
    schemas = MemorySchemas("record")
    id = schemas.register("Sum", SUM)
    assert result_of(run_task(add, {"a": 1}, schemas=schemas, schema=SUM, schema_id=id)) == 2


def test_a_schema_may_refer_to_others() -> None:
    total = record("Total", field("sum", "Sum"))

    @task("total")
    def count(sum: dict[str, int]) -> int:
        return sum["a"] + sum["b"]

    schemas = MemorySchemas()
    id = schemas.register("tasks-value", total, [SUM])
    inlined = record("Total", field("sum", SUM))
    assert result_of(run_task(count, {"sum": {"a": 1}}, schemas=schemas, schema=inlined, schema_id=id)) == 2


def test_tasks_wait_for_a_registry_that_is_away_and_no_attempt_is_counted() -> None:
    schemas = MemorySchemas()
    id = schemas.register("tasks-value", SUM)
    schemas.away = True
    worker = MemoryWorker(add, schemas=schemas)
    worker.publish("add", {"a": 2}, schema=SUM, schema_id=id)
    worker.advance("10s")
    assert {type(attempt.outcome) for attempt in worker.attempts} == {Postponed}
    assert (worker.committed, worker.succeeded) == (0, 0)
    schemas.away = False
    worker.advance("10s")
    assert (worker.attempts[-1].number, worker.succeeded, worker.committed) == (1, 1, 1)


def test_what_was_sent_is_read() -> None:
    worker = MemoryWorker(split, add)
    worker.publish("split", {"text": "ab c"}, id="s")
    worker.publish("add", {"a": 2}, id="q", key="k")
    worker.run()
    assert [(each.task, each.payload, each.topic, each.key, each.id) for each in worker.messages] == [
        ("word", {"word": "ab"}, "words", b"ab", "s/1"),
        ("word", {"word": "c"}, "words", b"c", "s/2"),
        ("raw", b"\xff", "tasks", None, "s/3"),
    ]
    (reply,) = worker.replies
    assert (reply.task, reply.payload, reply.topic, reply.key, reply.answers) == ("add.result", 3, "sums", b"k", "q")
    assert reply.headers["ce_causationid"] == b"q"


def test_plugins_are_torn_down() -> None:
    told: list[str] = []
    with MemoryWorker(Shop, settings={"Shop": {"name": "A", "open": told}}) as worker:
        worker.publish("shop.sell", {"what": "x"})
        worker.run()
        assert result_of(worker.attempts[0].outcome) == "A: x"
        assert isinstance(worker, MemoryWorker)
    plugin = Shop()
    with opened(plugin, name="B") as shop:
        assert shop is plugin
        assert (shop.sell("y"), shop.settings.open) == ("B: y", ["open"])
    assert plugin.settings.open == ["open", "closed"]


def test_what_was_set_up_is_torn_down_when_another_cannot_be() -> None:
    shop = Shop()
    with pytest.raises(TypeError, match="neither marked"):
        MemoryWorker(shop, print, settings={"Shop": {"name": "A"}})
    assert shop.settings.open == ["open", "closed"]


def test_one_task_of_a_plugin() -> None:
    sold = run_task(Shop, {"what": "x"}, task="shop.sell", settings={"name": "A"})
    assert result_of(sold) == "A: x"
    with pytest.raises(TypeError, match=r"which task\? shop\.sell, shop\.buy"):
        run_task(Shop, settings={"name": "A"})
    with pytest.raises(AssertionError, match="was not run: unroutable"):
        run_task(Shop, task="shop.steal", settings={"name": "A"})


def test_a_context_to_call_a_task_with() -> None:
    ctx = context("split", id="7", attempt=2, seconds=60, key=b"k", headers={"a": b"b"}, offset=3)
    assert split("one two", ctx=ctx) == 7
    assert [dict(each.headers)["ce_id"] for each in ctx.publications] == [b"7/1", b"7/2", b"7/3"]
    assert (ctx.name, ctx.id, ctx.attempt, ctx.key, ctx.headers) == ("split", "7", 2, b"k", {"a": b"b"})
    assert (ctx.topic, ctx.offset, ctx.published_at) == ("tasks", 3, START)
    assert ctx.deadline is not None
    assert 0 < ctx.deadline - time.monotonic() <= 60
    assert context(id=None).id == "tasks/0/0"
    assert context().remaining() is None


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A plugin that is torn down with the worker, whose fixture comes after it and goes before."""
    plugin = Shop()
    yield plugin
    assert plugin.settings.open == ["open", "closed"]


def test_the_fixtures(shop: Shop, memory_worker: MakeWorker, run_task: RunTask) -> None:
    assert result_of(run_task(add, {"a": 1})) == 2
    worker = memory_worker(shop, settings={"Shop": {"name": "A"}})
    worker.publish("shop.sell", {"what": "x"})
    worker.run()
    assert worker.succeeded == 1
    assert shop.settings.open == ["open"]


def test_only_the_fixtures_need_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import kworker.testing, kworker.cli.plugins, kworker.cli.new"
    subprocess.run([sys.executable, "-c", code], check=True)
