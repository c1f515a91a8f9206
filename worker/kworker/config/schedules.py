"""The tables `[schedules.NAME]` of kworker.toml."""

from __future__ import annotations

import time
from collections.abc import Collection
from difflib import get_close_matches

from kworker.schedules.given import KEYS, Faults, read
from kworker.schedules.schedule import Schedule


def schedules(
    table: object, topics: Collection[str], file: str, faults: list[str], now: float | None = None
) -> tuple[Schedule, ...] | None:
    """The schedules of the file; None when it has no such table, so that none are the file's affair.

    topics: that the worker reads; the first that is no regular expression is where a schedule's tasks go that names no
    topic. now: seconds since the epoch.
    """
    if table is None:
        return None
    if not isinstance(table, dict):
        faults.append(f"{file}: schedules: it is not a table: name each: [schedules.name]")
        return None
    found = []
    topic = next((topic for topic in topics if not topic.startswith("^")), None)
    for name, given in table.items():
        place = f"{file}: [schedules.{name}]"
        if not isinstance(given, dict):
            faults.append(f"{place}: it is not a table: write its keys below a line [schedules.{name}]")
            continue
        for key in given.keys() - set(KEYS):
            close = get_close_matches(key, KEYS, 1, 0.6)
            hint = f"is {close[0]} meant?" if close else f"there are: {', '.join(KEYS)}"
            faults.append(f"{place} {key}: there is no such key: {hint}")
        if topic is None and "topic" not in given:
            faults.append(f"{place}: name its topic: the worker reads none by name")
        try:
            found.append(read(name, {"topic": topic, **given}, now=time.time() if now is None else now))
        except Faults as error:
            faults += [f"{place}{f' {key}' if key else ''}: {why}" for key, why in error.faults]
    return tuple(found)
