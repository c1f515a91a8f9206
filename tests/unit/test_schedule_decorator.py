"""`@schedule`: marks a task wherever it stands, changes nothing else, and what a worker makes of it."""

from __future__ import annotations

from types import ModuleType

import pytest

from kworker import Plugin, Reject, schedule, task
from kworker.codecs.arguments import Signature
from kworker.config import Config
from kworker.plugin import MARK, TaskSpec
from kworker.registry import LoadedTask, PluginInfo, Registry, _members, _NotAPlugin
from kworker.schedules.schedule import Schedule
from kworker.schedules.trigger import Cron, Every
from kworker.scheduling import Wanted, wanted
from kworker.testing import MemoryWorker, result_of, run_task


@schedule(cron="0 3 * * *", tz="Europe/Berlin", payload={"days": 1}, misfire="skip")
@task("report.build")
def above(days: int) -> int:
    return days * 2


@task("feed.poll")
@schedule(every="30s", name="poll", topic="feeds")
@schedule(every=60, name="poll-slowly", key="k", jitter="5s", most=3)
async def below() -> None:
    raise Reject("no")


class Shop(Plugin):
    @schedule(every="1h")
    @task("shop.tidy")
    def tidy(self) -> str:
        return type(self).__name__


def spec_of(function: object) -> TaskSpec:
    spec = getattr(function, MARK)
    assert isinstance(spec, TaskSpec)
    return spec


def info(*specs: TaskSpec, unavailable: str | None = None, name: str = "plugin") -> PluginInfo:
    loaded = tuple(LoadedTask(spec, name, name, "1", Signature(spec), unavailable) for spec in specs)
    return PluginInfo(name, name, "1", loaded)


def want(*plugins: PluginInfo, **given: object) -> Wanted:
    return wanted(Config(group="g", **given), plugins)  # type: ignore[arg-type]  # what a test gives is what it tests


def test_above_and_below_and_more_than_one() -> None:
    assert [(one.name, one.plan.trigger) for one in spec_of(above).schedules] == [
        ("", Cron("0 3 * * *", "Europe/Berlin"))
    ]
    assert [(one.name, one.plan.trigger) for one in spec_of(below).schedules] == [
        ("poll", Every(30.0)),
        ("poll-slowly", Every(60.0)),
    ]
    assert spec_of(above).function is above


def test_the_function_is_as_it_was_in_tests() -> None:
    assert above(2) == 4
    assert result_of(run_task(above, {"days": 2})) == 4
    assert result_of(run_task(Shop, task="shop.tidy")) == "Shop"
    worker = MemoryWorker(above)
    worker.publish("report.build", {"days": 1})
    worker.run()
    assert worker.succeeded == 1


def test_what_is_wrong_is_told_where_it_stands() -> None:
    with pytest.raises(ValueError, match=r"^@schedule: cron: .*Bad minute.*; tz: 'Mars' is not a time zone"):
        schedule(cron="99 * * * *", tz="Mars")
    with pytest.raises(ValueError, match=r"^@schedule: say when it is due"):
        schedule()
    with pytest.raises(ValueError, match=r"^@schedule: 'a b' is no name"):
        schedule(every=1, name="a b")


def test_a_worker_wants_them_for_its_topic_and_its_group() -> None:
    found = want(info(spec_of(above), spec_of(below), *Shop().tasks()), topics=("^logs", "orders", "tasks"))
    assert found.faults == []
    told = [(one.name, one.task, one.topic, one.source, one.payload, one.key) for one in found.schedules]
    assert told == [
        ("report.build", "report.build", "orders", "plugin:g", '{"days":1}', None),
        ("poll", "feed.poll", "feeds", "plugin:g", None, None),
        ("poll-slowly", "feed.poll", "orders", "plugin:g", None, "k"),
        ("shop.tidy", "shop.tidy", "orders", "plugin:g", None, None),
    ]


def test_a_table_of_the_file_counts_over_a_plugin() -> None:
    of_file = Schedule(name="poll", task="feed.poll", trigger=Every(5.0))
    found = want(info(spec_of(below)), schedules=(of_file,))
    assert {one.name: (one.source, one.trigger) for one in found.schedules} == {
        "poll": ("file:g", Every(5.0)),
        "poll-slowly": ("plugin:g", Every(60.0)),
    }


def test_that_of_a_task_that_does_not_run_here_is_neither_written_nor_removed() -> None:
    found = want(info(spec_of(below), unavailable="it needs settings"))
    assert (found.schedules, found.kept, found.of_plugins) == ([], {"poll", "poll-slowly"}, True)


def test_names_that_cannot_be_and_topics_that_are_not_there_are_faults() -> None:
    @schedule(every=1)
    @schedule(every=2)
    @task("twice")
    def twice() -> None: ...

    @schedule(every=1)
    @task("mit Leerzeichen")
    def spaced() -> None: ...

    found = want(info(spec_of(twice), spec_of(spaced)))
    assert [one.name for one in found.schedules] == ["twice"]
    (same, name) = found.faults
    assert same.startswith(
        'plugin "plugin" (plugin 1): @schedule of "twice": schedule twice: another one has this name'
    )
    assert "a name has 1 to 100 of the characters" in name
    (no_topic,) = want(info(spec_of(above)), topics=("^logs",)).faults
    assert "name its topic: the worker reads none by name" in no_topic


def test_a_schedule_without_a_task_is_a_fault_of_the_plugin() -> None:
    module = ModuleType("lone")

    @schedule(every=1)
    def lone() -> None: ...

    module.lone = lone  # type: ignore[attr-defined]  # a module of a plugin, made here
    module.above = above  # type: ignore[attr-defined]
    with pytest.raises(_NotAPlugin, match=r"@schedule and without @task"):
        list(_members(module))


def test_a_registry_keeps_them() -> None:
    registry = Registry.from_specs([spec_of(below)], Signature)
    assert len(registry.tasks["feed.poll"].spec.schedules) == 2
