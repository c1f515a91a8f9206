"""What a schedule that is due becomes: the records of its runs, and how it stands then. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from kworker.core.scheduled import occurrence, record
from kworker.schedules.schedule import Standing
from kworker.task import Publication
from kworker.timekeeper.entry import Entry
from kworker.timekeeper.roster import MOST_AT_ONCE

MOST_BYTES = 4 << 20
"""Bytes of one batch, unless one run has more."""


class Firing(Struct, frozen=True):
    """runs: the records to publish, in order. renewal: the record that takes the place of the entry, for the next time.
    lateness: seconds, a run. missed: whether times that had passed are left out, by the misfire policy."""

    entry: Entry
    runs: list[Publication]
    renewal: Publication
    lateness: list[float]
    missed: bool


def fire(due: Iterable[tuple[Entry, Standing]], wall: int, log: str) -> list[Firing]:
    """As many of these as go into one transaction, at least one. wall: the clock, in ms since the epoch. log: the delay
    log. A schedule of which not all fits is due again at once."""
    found: list[Firing] = []
    records = size = 0
    for entry, standing in due:
        schedule = standing.schedule
        each = len(schedule.payload or "") + len(entry.content)
        room = min(MOST_AT_ONCE - records, (MOST_BYTES - size) // each)
        if found and room < 1:
            break
        waited = standing.next if standing.next is not None else wall / 1000
        now = max(wall / 1000, schedule.fires_at(waited))  # due by whole milliseconds: no float says otherwise
        times, following = standing.fire(now, max(1, room))
        runs = [occurrence(schedule, at) for at in times]
        lateness = [max(0.0, now - schedule.fires_at(at)) for at in times]
        renewal = record(following, log, entry.offset)
        found.append(Firing(entry, runs, renewal, lateness, not times or times[0] > waited))
        records += len(runs) + 1
        size += each * (len(runs) + 1)
    return found
