"""What must hold when the weather is over, and the table that tells how it was."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from confluent_kafka import Message

from kit.ledger import Run
from kit.records import read_all
from kit.trial import shown
from kit.vitals import Vitals
from kit.weather import Weather

QUIET = 60.0
"""Seconds within which idle workers hold what they did at first: hung threads end by themselves meanwhile."""

MORE_RESIDENT = 40 << 20
MORE_DESCRIPTORS = 8
"""Connections to a broker that came back, and the test's own to the admin port."""

MORE_THREADS = 4


@dataclass(frozen=True, slots=True)
class Report:
    """One round. base, last: what a worker held when it was idle at first, and the most of any at the end."""

    order: str
    tasks: int
    runs: int
    repeats: int
    exposed: int
    dead: int
    samples: int
    workers: int
    faults: Counter[str]
    base: Vitals
    last: list[Vitals]

    def __str__(self) -> str:
        what = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        lines = [
            f"order {self.order}: {self.tasks} tasks, {self.runs} runs, {self.dead} dead letters",
            f"  {self.repeats} repeats, {self.exposed} allowed; {self.workers} workers, {self.samples} samples",
            f"  faults: {what}",
            f"  idle at first: {self.base}",
            *(f"  idle at last:  {vitals}" for vitals in self.last),
        ]
        return "\n".join(lines)


def finished(weather: Weather, base: Vitals) -> Report:
    """Wait for the end of a round and check it: L, D, C, O by key, what was published, and what workers hold."""
    weather.finish(180.0)
    dead = weather.dead()
    assert dead >= weather.never(), f"succeeded against all plans: {shown(weather.never() - dead)}"
    assert dead <= weather.never(), f"dead letters of good tasks: {shown(dead - weather.never())}"
    if weather.order == "key":
        found = disorder(weather)
        assert not found, f"O: {len(found)} pairs out of order:\n" + "\n".join(found[:5])
    asked = {id for id, chore in weather.chores.items() if chore.plan == "publish"}
    once_a_success(weather, asked, read_all(weather.bootstrap, weather.out))
    asked = {id for id, chore in weather.chores.items() if chore.reply_to}
    once_a_success(weather, asked, read_all(weather.bootstrap, weather.replies))
    weather.wait(lambda: all(_calm(vitals, base) for vitals in weather.vitals()), f"the vitals of {base} again", QUIET)
    return Report(
        weather.order,
        len(weather.chores),
        len(weather.ledger.runs),
        weather.ledger.repeats().total(),
        sum(map(len, weather.exposed)),
        len(dead),
        len(weather.commits.samples),
        len(weather.workers),
        weather.faults,
        base,
        weather.vitals(),
    )


def _calm(vitals: Vitals, base: Vitals) -> bool:
    return (
        vitals.resident <= base.resident + MORE_RESIDENT
        and vitals.descriptors <= base.descriptors + MORE_DESCRIPTORS
        and vitals.threads <= base.threads + MORE_THREADS
        and vitals.processes <= base.processes
    )


def once_a_success(weather: Weather, asked: set[str], messages: Iterable[Message]) -> None:
    """Whatever succeeded and was to publish something did, and not more often than it succeeded."""
    successes = Counter(run.id for run in weather.ledger.runs if run.outcome == "done" and run.id in asked)
    published = Counter(json.loads(message.value() or b"{}")["id"] for message in messages)
    assert published.keys() == successes.keys(), (
        f"published by none: {shown(published.keys() - successes.keys())}; "
        f"not published: {shown(successes.keys() - published.keys())}"
    )
    too_often = published - successes
    assert not too_often, f"published more often than done: {too_often}"


def disorder(weather: Weather) -> list[str]:
    """O: of one key, tasks begin in the order of their places, one at a time.

    A key goes back only to what a fault had exposed and was run before. What a worker runs while it does not know that
    it has lost its partitions is left out: nobody could have told it.
    """
    exposed = set().union(*weather.exposed)
    by_key: defaultdict[str, list[Run]] = defaultdict(list)
    for run in sorted(weather.ledger.runs, key=lambda run: run.start):
        if not _is_late(weather, run):
            by_key[run.key].append(run)
    found = []
    for runs in by_key.values():
        ran: set[str] = set()
        for before, run in pairwise(runs):
            ran.add(before.id)
            if _end(weather, before, run) > run.start:
                found.append(f"at once: {before} {run}")
            if run.seq < before.seq and not (run.id in exposed and run.id in ran):
                found.append(f"back: {before} {run}")
            if run.seq == before.seq and before.outcome == "done" and run.id not in exposed:
                found.append(f"again: {before} {run}")
    return found


def _end(weather: Weather, run: Run, after: Run) -> int:
    """When a run ended; one that noted no end did so with its worker, or with its child, when it is tried again."""
    if run.end is not None:
        return run.end
    retried = (run.pid, run.id, run.attempt) == (after.pid, after.id, after.attempt - 1)
    return after.start if retried else weather.killed.get(run.pid, after.start + 1)


def _is_late(weather: Weather, run: Run) -> bool:
    return any(
        run.pid == pid and run.start < until and (run.end is None or run.end > since)
        for pid, since, until in weather.zombies
    )
