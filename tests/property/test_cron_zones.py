"""Cron in thirty time zones, over the changes of their clocks in ten years, against a calculation of its own.

The calculation goes through every minute of the days round a change and asks what the clock shows; it knows nothing of
how cronsim goes on from one time to the next.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import pytest

from kworker.schedules.trigger import Cron

SEED = int(os.environ.get("KWORKER_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
ODD = [
    "Australia/Lord_Howe",  # half an hour
    "America/Havana",  # the overlap reaches over midnight
    "America/Asuncion",  # gaps at midnight
    "Asia/Beirut",
    "Africa/Casablanca",  # twice more a year, for Ramadan
    "Antarctica/Troll",  # two hours
    "Europe/Dublin",  # winter time is the one that is saved
    "Pacific/Apia",
    "America/Nuuk",
    "Asia/Kathmandu",
    "Pacific/Chatham",  # at 02:45
    "Antarctica/Casey",  # three hours at 00:01
    "Asia/Pyongyang",  # half an hour at 23:30
]
EXPRESSIONS = [
    "30 2 * * *",
    "0 0 * * *",
    "15 0,1,2,3,23 * * *",
    "0,30 2 * * *",
    "0 * * * *",
    "*/20 * * * *",
    "*/15 1-3 * * *",
    "*/5 3 * * *",
    "40 * * * *",
    "45 1-3/2 * * 0",
    "0 12 1 * *",
    "7 2 8-14 3,10,11 SUN",
]
FIRST, LAST = date(2017, 1, 1), date(2027, 1, 1)


def zones() -> list[str]:
    others = sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/"))
    return [*ODD, *random.Random(SEED).sample([name for name in others if name not in ODD], 30 - len(ODD))]


def changes(zone: ZoneInfo) -> Iterator[datetime]:
    """The hours in which the clock changes."""
    day = datetime(FIRST.year, 1, 1, tzinfo=UTC)
    while day.year < LAST.year:
        if day.astimezone(zone).utcoffset() != (day + timedelta(days=1)).astimezone(zone).utcoffset():
            yield day
        day += timedelta(days=1)


def matches(expression: str, local: datetime) -> bool:
    """Whether what the clock shows is meant."""
    minute, hour, day, month, weekday = expression.split()
    by_day = shown(day, local.day, 31), shown(weekday, local.isoweekday() % 7, 7)
    either = any(by_day) if "*" not in day[0] + weekday[0] else all(by_day)
    return shown(minute, local.minute, 59) and shown(hour, local.hour, 23) and shown(month, local.month, 12) and either


@cache
def shown(field: str, value: int, most: int) -> bool:
    for part in field.replace("SUN", "0").split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        low = 0 if first == "*" else int(first)
        high = most if first == "*" else int(last or (most if step else low))
        if low <= value <= high and (value - low) % int(step or 1) == 0:
            return True
    return False


def expected(expression: str, clock: list[tuple[float, datetime]]) -> list[float]:
    """Every time that is due. clock: each minute, and what the clock shows then."""
    minute, hour, *_ = expression.split()
    if minute.startswith("*") or hour.startswith("*"):
        return [at for at, local in clock if matches(expression, local)]
    due: set[float] = set()
    times = iter(clock)
    at, local = next(times)
    wanted = local
    while True:
        while local < wanted:  # an overlap shows again what was shown; behind a gap the first minute counts for it
            at, local = next(times, (0.0, wanted))
            if not at:
                return sorted(due)
        if matches(expression, wanted):
            due.add(at)
        wanted += timedelta(minutes=1)


@pytest.mark.parametrize("name", zones())
def test_every_change_of_the_clock_is_as_the_rule_says(name: str) -> None:
    print(f"KWORKER_TEST_SEED={SEED}")
    zone = ZoneInfo(name)
    assert name not in ODD or name == "Asia/Kathmandu" or any(changes(zone))
    for change in changes(zone):
        start, end = change - timedelta(hours=26), change + timedelta(hours=50)
        minutes = [start + timedelta(minutes=n) for n in range(1, 76 * 60)]
        clock = [(at.timestamp(), at.astimezone(zone).replace(tzinfo=None)) for at in minutes]
        for expression in EXPRESSIONS:
            found = []
            for at in Cron(expression, name).after(start.timestamp()):
                if at >= end.timestamp():
                    break
                found.append(at)
            assert found == expected(expression, clock), (name, expression, change)
