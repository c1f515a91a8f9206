"""Reading schedules from the records of the delay log: what counts, what a renewal and a tombstone mean."""

from __future__ import annotations

from typing import cast

from confluent_kafka import Message
from msgspec.structs import replace

from kit.memory import MemoryRecord
from kworker.core.delayed import Answer as Answered
from kworker.core.delayed import Outcome, answer, delay, request, tombstone
from kworker.core.scheduled import BARRIER, key_of, record
from kworker.kafka.standings import Standings, Stood
from kworker.schedules.schedule import Schedule, Standing
from kworker.schedules.trigger import Every
from kworker.task import Publication

LOG = "kworker.delayed"


def standing(number: int, name: str = "a") -> Standing:
    made = Schedule(name=name, task="t", trigger=Every(60.0))
    return replace(Standing.begin(made, 0.0), runs=number)


def read(*records: tuple[Publication, int], start: int = 0, into: Standings | None = None) -> Standings:
    """Records and their partitions, in the order of the log."""
    standings = into or Standings()
    for offset, (one, partition) in enumerate(records, start):
        made = MemoryRecord(offset, list(one.headers), one.key, one.value, partition, one.topic)
        standings.take(cast(Message, made))
    return standings


def test_the_last_record_counts_and_tasks_are_passed_over() -> None:
    task = delay(Publication("tasks", b"k", b"{}", []), "a", 1.0, LOG)
    found = read(
        (record(standing(1), LOG), 2), (task, 2), (record(standing(2), LOG), 2), (record(standing(3, "b"), LOG), 0)
    )
    assert found.by_name == {"a": Stood(standing(2), 2, 2), "b": Stood(standing(3, "b"), 0, 3)}


def test_a_renewal_does_not_replace_what_was_written_after_what_it_means() -> None:
    """But what was written goes on where the renewal says the schedule got to."""
    paused = Standing.begin(replace(standing(0).schedule, paused=True), 30.0)
    first, second = record(standing(1), LOG), record(paused, LOG)
    fired = replace(standing(5), last=60.0, next=120.0, ran=60.0)
    renewal = record(fired, LOG, 0)
    assert read((first, 0), (renewal, 0)).by_name["a"].standing == fired
    merged = read((first, 0), (second, 0), (renewal, 0)).by_name["a"]
    assert merged.standing == paused.over(fired)
    assert (merged.standing.runs, merged.standing.next, merged.offset) == (5, None, 1)
    assert read((first, 0), (renewal, 0), (second, 0)).by_name["a"].standing == paused.over(fired)


def test_a_tombstone_ends_what_it_means() -> None:
    ended = tombstone(key_of("a"), 0, Outcome.CANCELLED, LOG)
    assert read((record(standing(1), LOG), 0), (ended, 0)).by_name == {}
    again = read((record(standing(1), LOG), 0), (record(standing(2), LOG), 0), (ended, 0))
    assert again.by_name["a"].standing == standing(2)
    plain = Publication(LOG, key_of("a"), None, [])
    assert read((record(standing(1), LOG), 0), (plain, 0)).by_name == {}


def test_what_is_broken_is_no_schedule() -> None:
    broken = Publication(LOG, key_of("a"), b"{", [])
    assert read((broken, 0)).by_name == {}
    assert read((record(standing(1), LOG), 0), (broken, 0)).by_name == {}
    spoiled = MemoryRecord(0, None, key_of("a"), standing(1).encode(), spoiled=True)
    standings = Standings()
    standings.take(cast(Message, spoiled))
    assert standings.by_name == {}


def test_what_only_newer_workers_can_read_stands_beside() -> None:
    value = standing(1).encode().replace(b'"name"', b'"color":1,"name"')
    newer = Publication(LOG, key_of("a"), value, [])
    renewal = record(standing(5), LOG, 0)
    for found in (
        read((newer, 3)),
        read((record(standing(1), LOG), 3), (newer, 3)),
        read((record(standing(1), LOG), 3), (newer, 3), (renewal, 3)),
        read((newer, 3), (tombstone(key_of("a"), -1, Outcome.CANCELLED, LOG), 2)),
    ):
        assert (found.by_name, list(found.newer), found.newer["a"][0]) == ({}, ["a"], 3)
    assert read((newer, 3), (Publication(LOG, key_of("a"), None, []), 3)).newer == {}
    assert read((newer, 3), (record(standing(2), LOG), 3)).newer == {}


def test_requests_to_remove_that_nobody_answered() -> None:
    asked = request(key_of("a"), "x", LOG)
    other = request(key_of("b"), "y", LOG)
    done = answer(other.key or b"", Answered.CANCELLED, LOG)
    found = read((asked, 0), (asked, 1), (other, 1), (done, 1), (request(b"some-task", "z", LOG), 0))
    found = read((request(BARRIER.encode(), "w", LOG), 0), start=9, into=found)
    assert {name: places for name, places in found.requests.items() if name and places} == {
        "a": [(0, b"cancel/x"), (1, b"cancel/x")]
    }
