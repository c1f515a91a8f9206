"""What a configuration's schedules change in those that stand, and what the tables of kworker.toml mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from kworker.config import Config
from kworker.core.applying import Applied, apply, replaced
from kworker.errors import ConfigError
from kworker.schedules.schedule import Schedule, Standing
from kworker.schedules.trigger import Cron, Every, Once

NOW = 1_790_000_000.0
FILE, PLUGIN = "file:g", "plugin:g"


def schedule(name: str = "a", source: str = FILE, **given: object) -> Schedule:
    made: dict[str, object] = {"task": "report.build", "trigger": Every(60.0)}
    return Schedule(name=name, source=source, **{**made, **given})  # type: ignore[arg-type]  # what a test gives is what it tests


def change(wanted: list[Schedule], standing: list[Standing], own: set[str], keep: set[str] | None = None) -> Applied:
    return apply(wanted, {one.schedule.name: one for one in standing}, own, NOW, keep or set())


def stood(made: Schedule, **given: object) -> Standing:
    return replace(Standing.begin(made, NOW - 600), **given)


def test_what_is_new_begins_and_what_is_over_does_not() -> None:
    done = change([schedule("a"), schedule("b", trigger=Once(NOW - 1))], [], {FILE})
    assert done == Applied([Standing.begin(schedule("a"), NOW)], [], {})


def test_what_stands_is_not_written_again_paused_or_not() -> None:
    standing = [stood(schedule("a"), runs=9), stood(schedule("b", paused=True))]
    assert change([schedule("a"), schedule("b")], standing, {FILE}) == Applied([], [], {})


def test_what_changed_is_replaced_and_goes_on_where_it_was() -> None:
    before = stood(schedule("a"), next=NOW - 30, ran=NOW - 90, runs=9)
    other = schedule("a", payload="[1]")
    (written,) = change([other], [before], {FILE}).written
    assert written == replace(before, schedule=other)  # the time that passed is still to be decided
    (written,) = change([schedule("a", trigger=Every(7.0))], [before], {FILE}).written
    assert (written.ran, written.runs) == (NOW - 90, 9)
    assert written.next == next(Every(7.0).after(NOW))


def test_a_change_leaves_it_paused() -> None:
    (written,) = change([schedule("a", trigger=Every(7.0))], [stood(schedule("a", paused=True))], {FILE}).written
    assert written.schedule.paused
    assert written.next is None


def test_what_left_is_removed_if_it_came_from_there() -> None:
    standing = [
        stood(schedule(name, source)) for name, source in [("a", FILE), ("b", PLUGIN), ("c", ""), ("d", "file:h")]
    ]
    assert change([], standing, {FILE}).removed == ["a"]
    assert change([], standing, {FILE, PLUGIN}).removed == ["a", "b"]
    assert change([], standing, {FILE, PLUGIN}, keep={"b"}).removed == ["a"]
    assert change([], standing, set()).removed == []


def test_what_belongs_to_another_source_is_left_alone() -> None:
    standing = [stood(schedule("a", "file:h")), stood(schedule("b", ""))]
    wanted = [schedule("a"), schedule("b"), schedule("c")]
    done = change(wanted, standing, {FILE})
    assert done.foreign == {"a": "file:h", "b": ""}
    assert [one.schedule.name for one in done.written] == ["c"]


def test_a_schedule_may_move_from_a_plugin_to_the_file_of_its_group() -> None:
    (written,) = change([schedule("a", FILE)], [stood(schedule("a", PLUGIN))], {FILE, PLUGIN}).written
    assert written.schedule.source == FILE


def test_a_run_is_not_due_again_by_a_clock_that_is_behind() -> None:
    before = Standing(schedule=schedule(), last=NOW + 59, next=NOW + 100, ran=NOW + 40)
    for paused in (True, False):
        after = replaced(replace(before.schedule, paused=paused, trigger=Every(10.0)), before, NOW)
        assert after.last == NOW + 59
        assert after.next is None or after.next > NOW + 59


# -- the tables of kworker.toml -----------------------------------------------------------------------------------


def load(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "kworker.toml"
    file.write_text(f'group = "g"\n{text}')
    return Config.load({}, {}, file)


def test_a_file_that_says_nothing_of_schedules_is_not_an_empty_one(tmp_path: Path) -> None:
    assert load(tmp_path, "").schedules is None
    assert load(tmp_path, "[schedules]").schedules == ()


def test_tables_become_schedules(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
topic = ["^logs", "orders", "tasks"]
[schedules.nightly]
cron = "0 3 * * *"
tz = "Europe/Berlin"
task = "report.build"
payload = { days = 1, since = 2026-01-01T00:00:00Z, words = ["ä", 1.5, true] }
[schedules."poll.it"]
every = "30s"
task = "feed.poll"
topic = "feeds"
key = "k"
jitter = "5s"
misfire = "all"
most = 3
[schedules.launch]
at = 2027-01-31T09:00:00+01:00
task = "mail.launch"
payload = "now"
""",
    )
    assert config.schedules is not None
    nightly, poll, launch = config.schedules
    assert (nightly.trigger, nightly.topic) == (Cron("0 3 * * *", "Europe/Berlin"), "orders")
    assert nightly.payload == '{"days":1,"since":"2026-01-01T00:00:00Z","words":["ä",1.5,true]}'
    assert (poll.name, poll.trigger, poll.key, poll.misfire, poll.most) == ("poll.it", Every(30.0), "k", "all", 3)
    assert (launch.trigger, launch.payload) == (Once(1_801_382_400.0), '"now"')
    assert config.redacted()["schedules"] == ["nightly", "poll.it", "launch"]  # a payload may hold a secret


def test_every_fault_of_the_tables_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(
            tmp_path,
            """
topic = "^all"
[schedules]
odd = 1
[schedules.a]
cron = "0 3 * * * *"
tz = "Nowhere"
payload = nan
croon = "x"
at = 2027-01-31
""",
        )
    place = f"{tmp_path / 'kworker.toml'}: [schedules."
    told = [fault.removeprefix(place) for fault in raised.value.faults]
    assert told[0] == "odd]: it is not a table: write its keys below a line [schedules.odd]"
    assert [fault.partition(":")[0] for fault in told[1:]] == [
        "a] croon",
        "a]",
        "a]",
        "a] cron",
        "a] at",
        "a] tz",
        "a] payload",
        "a] task",
    ]
    assert "is cron meant?" in told[1]
    assert "name its topic" in told[2]


def test_schedules_that_are_no_table_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"schedules: it is not a table"):
        load(tmp_path, "schedules = 1")
