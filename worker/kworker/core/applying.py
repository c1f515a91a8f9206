"""What a configuration's schedules change in those that stand: what is written, what is removed, what is left alone.

Promises: what stands as it is wanted is not written again, so that one that was paused by hand stays so, and none loses
its place; only what came from the same configuration is replaced or removed. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from kworker.schedules.schedule import Schedule, Standing


class Applied(Struct, frozen=True):
    """What is to be done. removed: names. foreign: names that are wanted, and belong to another source: name -> that
    source, '' for one that was added by hand."""

    written: list[Standing]
    removed: list[str]
    foreign: dict[str, str]


def apply(
    wanted: Iterable[Schedule],
    standing: Mapping[str, Standing],
    own: Collection[str],
    now: float,
    keep: Collection[str],
) -> Applied:
    """What makes these stand. own: sources whose schedules are removed when they are not wanted. keep: names of
    schedules that are not removed. now: seconds since the epoch."""
    written: list[Standing] = []
    foreign: dict[str, str] = {}
    names = set(keep)
    for schedule in wanted:
        names.add(schedule.name)
        found = standing.get(schedule.name)
        if found is not None and found.schedule.source not in {*own, schedule.source}:
            foreign[schedule.name] = found.schedule.source
        elif (change := changed(schedule, found, now)) is not None:
            written.append(change)
    removed = sorted(name for name, found in standing.items() if found.schedule.source in own and name not in names)
    return Applied(written, removed, foreign)


def changed(schedule: Schedule, found: Standing | None, now: float) -> Standing | None:
    """How a schedule that is wanted is to stand; None when it does already, or is over before it began."""
    if found is None:
        begun = Standing.begin(schedule, now)
        return begun if begun.next is not None else None
    wanted = replace(schedule, paused=found.schedule.paused)
    return None if wanted == found.schedule else replaced(wanted, found, now)


def replaced(schedule: Schedule, found: Standing, now: float) -> Standing:
    """How a schedule stands that takes the place of `found`: what ran is not due again, whatever the clock shows."""
    return Standing.begin(schedule, now).over(found)
