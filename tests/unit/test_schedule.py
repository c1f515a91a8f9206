"""A schedule's state: what it publishes, when it waits for what, and that it survives being written down."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kworker.schedules.misfire import Policy
from kworker.schedules.schedule import Schedule, Standing
from kworker.schedules.trigger import LAST, Cron, Every, Once

NOW = 1_700_000_000.0
triggers = st.sampled_from([Cron("*/3 * * * *"), Every(60.0), Every(7.0, NOW - 3), Once(NOW + 200)])


def schedule(**given: object) -> Schedule:
    made: dict[str, object] = {"name": "nightly", "task": "report.build", "trigger": Every(60.0)}
    return Schedule(**{**made, **given})  # type: ignore[arg-type]  # what a test gives is what it tests


@given(
    triggers, st.sampled_from([0.0, 2.0, 90.0]), st.lists(st.floats(0.1, 400.0), min_size=1, max_size=30), st.integers()
)
def test_whoever_looks_when_each_time_is_published_once_in_order_and_never_early(
    trigger: Cron | Every | Once, jitter: float, waits: list[float], seed: int
) -> None:
    standing = Standing.begin(schedule(trigger=trigger, jitter=jitter, misfire=Policy.ALL, most=1000), NOW)
    now, published = NOW, []
    for wait in waits:
        now += wait
        if random.Random(seed).random() < 0.3:  # another owner reads it
            standing = Standing.decode(standing.encode())
        due, standing = standing.fire(now)
        assert all(standing.schedule.fires_at(at) <= now for at in due)
        published += due
    assert published == sorted(set(published))
    ripe = [at for at in expected(trigger, now) if at + jitter <= now]
    assert published[: len(ripe)] == ripe
    assert standing.runs == len(published)
    assert standing.next is None or standing.next not in published


def expected(trigger: Cron | Every | Once, until: float) -> list[float]:
    found = []
    for at in trigger.after(NOW):
        if at > until:
            break
        found.append(at)
    return found


def test_a_run_is_named_by_its_schedule_and_the_time_it_was_due() -> None:
    assert schedule().occurrence(NOW) == "nightly@2023-11-14T22:13:20Z"
    assert schedule().occurrence(NOW + 0.25) == "nightly@2023-11-14T22:13:20.250000Z"


def test_one_that_is_paused_waits_for_nothing() -> None:
    standing = Standing.begin(schedule(paused=True), NOW)
    assert standing.next is None
    assert standing.fire(NOW + 10_000) == ([], standing)


def test_one_that_was_away_runs_what_its_policy_says() -> None:
    away = NOW + 600
    counts = {}
    for policy in Policy:
        due, standing = Standing.begin(schedule(misfire=policy, most=3), NOW).fire(away)
        counts[policy] = len(due)
        assert standing.next is not None
        assert standing.next > away
    assert counts == {Policy.ONCE: 1, Policy.ALL: 3, Policy.SKIP: 1}


def test_jitter_is_the_same_for_everybody_and_differs_from_run_to_run() -> None:
    one = schedule(jitter=100.0)
    shares = {one.fires_at(at) - at for at in (NOW, NOW + 60, NOW + 120)}
    assert len(shares) == 3
    assert all(0 <= share < 100 for share in shares)
    assert one.fires_at(NOW) == schedule(jitter=100.0).fires_at(NOW)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"schedule":{"name":"a b","task":"x","trigger":{"type":"every","interval":1}},"last":0,"next":null}',
        b'{"schedule":{"name":"a","task":"x","trigger":{"type":"every","interval":0}},"last":0,"next":null}',
        b'{"schedule":{"name":"a","task":"x","trigger":{"type":"cron","expression":"@reboot"}},"last":0,"next":null}',
        b'{"schedule":{"name":"a","task":"x","trigger":{"type":"exec","interval":1}},"last":0,"next":null}',
        b" " * (1 << 21),
    ],
)
def test_what_is_not_a_schedule_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Standing.decode(data)


@pytest.mark.parametrize(
    "given", [{"name": ""}, {"name": "a/b"}, {"name": "x" * 101}, {"most": 0}, {"most": 1001}, {"jitter": -1.0}]
)
def test_what_cannot_be_meant_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="schedule"):
        schedule(**given)


def test_a_record_at_the_end_of_what_can_be_counted_raises_nothing() -> None:
    full = structs.replace(Standing.begin(schedule(), NOW), runs=2**53 - 1)
    due, standing = full.fire(NOW + 100)
    assert due
    assert standing.runs == full.runs
    old = Standing(schedule=schedule(trigger=Cron("*/3 * * * *")), last=LAST - 1, next=None)
    assert Standing.begin(schedule(), NOW).over(old).next is None
