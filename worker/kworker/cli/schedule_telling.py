"""Schedules as people and machines read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo

import msgspec

from kworker.schedules.moment import rfc3339
from kworker.schedules.schedule import Schedule, Standing
from kworker.schedules.trigger import Cron, Every, Once, Trigger
from kworker.terminal import columns, printable

_WIDEST = 60
_NEXT = 5
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def table(rows: Sequence[tuple[Standing, str | None]]) -> list[str]:
    """A line for each schedule with the outcome of its last run, below a head."""
    head = ("NAME", "WHEN", "TASK", "TO", "NEXT", "LAST", "OUTCOME")
    return columns([head, *(_row(standing, outcome) for standing, outcome in rows)])


def when(trigger: Trigger) -> str:
    """A trigger in a few words."""
    if isinstance(trigger, Cron):
        return f"{trigger.expression} {trigger.tz}"
    return f"at {rfc3339(trigger.at)}" if isinstance(trigger, Once) else f"every {_interval(trigger.interval)}"


def following(standing: Standing) -> str:
    """When it is due next, by the clock of its time zone."""
    if standing.next is not None:
        return rfc3339(standing.next, _zone(standing.schedule))
    return "paused" if standing.schedule.paused else "over"


def as_json(standing: Standing, outcome: str | None) -> dict[str, object]:
    """All there is to tell of it; times in UTC, RFC 3339."""
    schedule = standing.schedule
    trigger = schedule.trigger
    kind: dict[str, object] = {"every": trigger.interval} if isinstance(trigger, Every) else {}
    if isinstance(trigger, Cron):
        kind = {"cron": trigger.expression, "tz": trigger.tz}
    elif isinstance(trigger, Once):
        kind = {"at": rfc3339(trigger.at)}
    coming = [] if standing.next is None else [standing.next, *islice(trigger.after(standing.next), _NEXT - 1)]
    return {
        "name": schedule.name,
        **kind,
        "task": schedule.task,
        "payload": None if schedule.payload is None else msgspec.Raw(schedule.payload.encode()),
        "topic": schedule.topic,
        "key": schedule.key,
        "jitter": schedule.jitter,
        "misfire": schedule.misfire,
        "most": schedule.most,
        "paused": schedule.paused,
        "source": schedule.source,
        "next": [rfc3339(at) for at in coming],
        "last": None if standing.ran is None else rfc3339(standing.ran),
        "last_id": None if standing.ran is None else schedule.occurrence(standing.ran),
        "outcome": outcome,
        "runs": standing.runs,
    }


def _row(standing: Standing, outcome: str | None) -> tuple[str, ...]:
    schedule = standing.schedule
    return (
        schedule.name,
        when(schedule.trigger),
        printable(schedule.task)[:_WIDEST],
        schedule.topic,
        following(standing),
        "-" if standing.ran is None else rfc3339(standing.ran, _zone(schedule)),
        printable(outcome or "-"),
    )


def _zone(schedule: Schedule) -> tzinfo:
    return ZoneInfo(schedule.trigger.tz) if isinstance(schedule.trigger, Cron) else UTC


def _interval(seconds: float) -> str:
    unit, size = next(((unit, size) for unit, size in _UNITS if seconds % size == 0), ("s", 1))
    return f"{seconds / size:g}{unit}"
