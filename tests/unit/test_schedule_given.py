"""What users give for a schedule: all that can be meant is read, and every fault is told with its key."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

import msgspec
import pytest

from kworker.schedules.given import LONGEST_PAYLOAD, Faults, read
from kworker.schedules.misfire import Policy
from kworker.schedules.schedule import Schedule
from kworker.schedules.trigger import Cron, Every, Once

NOW = 1_790_000_000.0


def schedule(name: str = "nightly", **given: object) -> Schedule:
    return read(name, {"task": "report.build", **given}, now=NOW)


def wrong(name: str = "nightly", **given: object) -> dict[str, str]:
    with pytest.raises(Faults) as raised:
        read(name, {"task": "report.build", "every": 60, **given}, now=NOW)
    assert len(raised.value.faults) == len(dict(raised.value.faults))
    return dict(raised.value.faults)


def test_every_way_to_say_when() -> None:
    assert schedule(cron=" 0 3 * * * ", tz="Europe/Berlin").trigger == Cron("0 3 * * *", "Europe/Berlin")
    assert schedule(cron="0 3 * * *").trigger == Cron("0 3 * * *", "UTC")
    assert schedule(every="90s").trigger == schedule(every=90).trigger == schedule(every=90.0).trigger == Every(90.0)
    moment = datetime(2027, 1, 31, 8, tzinfo=UTC)
    for at in (moment, "2027-01-31T09:00:00+01:00", moment.timestamp()):
        assert schedule(at=at).trigger == Once(moment.timestamp())


def test_all_the_rest() -> None:
    made = schedule(
        every=1, payload={"b": [1, "ü"], "a": moment()}, topic="t", key=" k ", jitter="5s", misfire="SKIP", most=3
    )
    assert (made.payload, made.topic, made.key) == ('{"b":[1,"ü"],"a":"2027-01-31T08:00:00Z"}', "t", " k ")
    assert (made.jitter, made.misfire, made.most) == (5.0, Policy.SKIP, 3)
    assert schedule(every=1, payload=msgspec.Raw(b'{"a": 1}')).payload == '{"a": 1}'  # as it was written
    assert schedule(every=1, payload=None, topic=None).topic == "tasks"


def moment() -> datetime:
    return datetime(2027, 1, 31, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "key", "why"),
    [
        ({"name": "a b"}, "", "is no name"),
        ({"name": "x" * 101}, "", "is no name"),
        ({"every": None}, "", "say when"),
        ({"cron": "* * * * *"}, "", "cron and every are 2 ways"),
        ({"every": 0.5}, "every", "less than 1 second"),
        ({"every": "soon"}, "every", "not a duration"),
        ({"every": True}, "every", "not a duration"),
        ({"every": None, "cron": "99 * * * *"}, "cron", "Bad minute"),
        ({"every": None, "cron": "* * * *"}, "cron", "five fields"),
        ({"every": None, "cron": 5}, "cron", "not a text"),
        ({"every": None, "cron": "* * * * *", "tz": "Mars"}, "tz", "not a time zone"),
        ({"every": None, "cron": "* * * * *", "tz": "../../etc/passwd"}, "tz", "not a time zone"),
        ({"tz": "UTC"}, "tz", "which is not given"),
        ({"every": None, "at": "tomorrow"}, "at", "RFC 3339"),
        ({"every": None, "at": "2027-01-01T00:00:00"}, "at", "no offset"),
        ({"every": None, "at": date(2027, 1, 1)}, "at", "not a time with a date"),
        ({"every": None, "at": math.nan}, "at", "not a time"),
        ({"every": None, "at": "2060-01-01T00:00:00Z"}, "at", "next ten years"),
        ({"task": None}, "task", "not given"),
        ({"task": "_own"}, "task", "not a task name"),
        ({"task": "a\nb"}, "task", "not a task name"),
        ({"task": "\ud800"}, "task", "UTF-8"),
        ({"payload": math.nan}, "payload", "JSON"),
        ({"payload": {"a": [math.inf]}}, "payload", "JSON"),
        ({"payload": b"bytes"}, "payload", "not bytes"),
        ({"payload": object()}, "payload", "JSON"),
        ({"payload": "\udfff"}, "payload", "JSON"),
        ({"payload": msgspec.Raw(b"{")}, "payload", "JSON"),
        ({"payload": "x" * LONGEST_PAYLOAD}, "payload", "256 KiB"),
        ({"topic": "a b"}, "topic", "not a topic"),
        ({"topic": "__consumer_offsets"}, "topic", "not a topic"),
        ({"key": ""}, "key", "not a text"),
        ({"key": "k" * 1025}, "key", "1024 bytes"),
        ({"jitter": -1}, "jitter", "between"),
        ({"jitter": []}, "jitter", "not a duration"),
        ({"misfire": "later"}, "misfire", "none of once, all, skip"),
        ({"most": 0}, "most", "from 1 to 1000"),
        ({"most": True}, "most", "whole number"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(given: dict[str, object], key: str, why: str) -> None:
    faults = wrong(**given)  # type: ignore[arg-type]  # the name is among what is given
    assert list(faults) == [key]
    assert why in faults[key]


def test_all_faults_come_at_once() -> None:
    given = {"cron": "x", "tz": "y", "at": "z", "payload": math.nan, "misfire": "no", "most": "1", "jitter": "j"}
    with pytest.raises(Faults) as raised:
        read("?", given, now=NOW)
    keys = [key for key, _ in raised.value.faults]
    assert sorted(keys) == ["", "", "at", "cron", "jitter", "misfire", "most", "payload", "task", "tz"]
    assert str(raised.value).count("; ") == len(keys) - 1
