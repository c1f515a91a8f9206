"""When something is due: a cron expression in a time zone, an interval, or one moment.

Cron is cronsim's reading of it (Debian's rules), with five fields; seconds come by an interval. In a change of the
clocks (see cron(8) of Debian):

- A time that is fixed (neither minute nor hour starts with `*`) and falls into the gap is due once, right after the
  gap; in the overlap it is due once, the first time the clock shows it.
- With `*` in the minute or the hour the clock counts as it shows: nothing in the gap, twice in the overlap.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from msgspec import Struct

LONGEST = 100
"""Characters of a cron expression."""

SHORTEST_INTERVAL = 1.0
"""Seconds."""

DAY = 86400
"""Seconds."""

LONGEST_WAIT = 50 * 366 * DAY
"""Seconds without a time that is due, after which there is none; cronsim looks as far."""

LAST = datetime(9000, 1, 1, tzinfo=UTC).timestamp()
"""Times are before it; seconds since the epoch."""


class Cron(Struct, frozen=True, tag="cron", forbid_unknown_fields=True):
    """`expression`: minute hour day-of-month month day-of-week. `tz`: a name of the IANA database.

    Raises ValueError for what cannot be read, or is never due within 50 years.
    """

    expression: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        text = self.expression
        shown = f"{text[:40]!r}"
        if len(text) > LONGEST:
            raise ValueError(f"cron {shown}: an expression has at most {LONGEST} characters")
        if len(text.split()) != 5:
            raise ValueError(f"cron {shown}: write five fields: minute hour day-of-month month day-of-week")
        try:
            zone = ZoneInfo(self.tz)
        except (OSError, ValueError, KeyError):  # a name may also be a path, a folder, or too long
            raise ValueError(f"{self.tz[:40]!r} is not a time zone: write one like Europe/Berlin") from None
        try:
            CronSim(text, datetime(2024, 1, 1, tzinfo=zone))
        except (CronSimError, ValueError) as error:
            raise ValueError(f"cron {shown}: {error}") from None
        if next(self.after(datetime(2024, 1, 1, tzinfo=zone).timestamp()), None) is None:
            raise ValueError(f"cron {shown}: it is never due")

    def after(self, when: float) -> Iterator[float]:
        """Every time it is due after `when`, in order; seconds since the epoch."""
        zone = ZoneInfo(self.tz)
        minute, hour, *_ = self.expression.split()
        if minute.startswith("*") or hour.startswith("*"):
            yield from self._as_shown(max(when, 0.0), zone)
            return
        last = max(when, 0.0)
        for due in CronSim(self.expression, datetime.fromtimestamp(last, zone)):
            at = due.timestamp()
            # cronsim starts an overlap from its first half; what was due there is not due again in the second.
            if at > last:
                last = at
                yield at

    def _as_shown(self, last: float, zone: ZoneInfo) -> Iterator[float]:
        """Period by period between two changes of the clock.

        cronsim goes by whole hours and misses what is shown where a change is within one: at 02:45 (Pacific/Chatham),
        by half an hour (Australia/Lord_Howe), at 00:01 (Antarctica/Casey).
        """
        offset, end = _offset(last, zone), last + LONGEST_WAIT
        while last < end:
            for due in CronSim(self.expression, datetime.fromtimestamp(last + offset, UTC).replace(tzinfo=None)):
                at = due.replace(tzinfo=UTC).timestamp() - offset
                change = _change(last, at, offset, zone)
                if change is not None:
                    last, offset = change - 1, _offset(change, zone)  # the first moment of the period may be due
                    break
                yield at
                last, end = at, at + LONGEST_WAIT
            else:
                return  # cronsim has looked as far


def _offset(at: float, zone: ZoneInfo) -> float:
    """Seconds that the clock is before UTC."""
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    return offset.total_seconds() if offset is not None else 0.0


def _change(start: float, end: float, offset: float, zone: ZoneInfo) -> float | None:
    """The first second after `start`, up to and with `end`, at which the clock has another offset than this one."""
    while start < end:
        until = min(start + DAY, end)
        if _offset(until, zone) != offset:
            seconds = range(int(start) + 1, int(until) + 1)
            return float(seconds[bisect_left(seconds, True, key=lambda at: _offset(at, zone) != offset)])
        start = until
    return None


class Every(Struct, frozen=True, tag="every", forbid_unknown_fields=True):
    """Each `interval` seconds, counted from `start` (seconds since the epoch). Raises ValueError below a second, and
    for a start that is no date."""

    interval: float
    start: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.interval) and self.interval >= SHORTEST_INTERVAL):
            raise ValueError(f"every: {self.interval!r} is less than {SHORTEST_INTERVAL:g} second")
        if not 0 <= self.start < LAST:
            raise ValueError(f"every: its start {self.start!r} is not a time from 1970 on")

    def after(self, when: float) -> Iterator[float]:
        """Every time it is due after `when`, in order; seconds since the epoch."""
        number = max(0, math.floor((when - self.start) / self.interval))
        while (at := self.start + number * self.interval) < LAST:
            if at > when:
                yield at
            number += 1


class Once(Struct, frozen=True, tag="once", forbid_unknown_fields=True):
    """At one moment, in seconds since the epoch. Raises ValueError for one that is no date."""

    at: float

    def __post_init__(self) -> None:
        if not 0 <= self.at < LAST:
            raise ValueError(f"at: {self.at!r} is not a time from 1970 on")

    def after(self, when: float) -> Iterator[float]:
        """That moment, if it is after `when`."""
        if self.at > when:
            yield self.at


Trigger = Cron | Every | Once
