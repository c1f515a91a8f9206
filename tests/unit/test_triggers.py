"""Triggers and what becomes of times that passed: against going through all of them, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice, pairwise, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker.schedules.misfire import GRACE, Policy, due
from kworker.schedules.trigger import Cron, Every, Once, Trigger

YEAR = 366 * 86_400.0
TRIGGERS: list[Trigger] = [
    Cron("* * * * *"),
    Cron("*/7 3-9 * * MON-FRI", "America/New_York"),
    Cron("0 3 * * *", "Europe/Berlin"),
    Cron("0 0 29 2 *", "Asia/Tokyo"),
    Every(1.0, 1_700_000_000.25),
    Every(5400.0),
    Once(1_750_000_000.0),
]
NOW = 1_700_000_000.0


@given(st.sampled_from(TRIGGERS), st.floats(NOW, NOW + 3 * YEAR))
def test_what_comes_after_does_not_depend_on_where_one_looks_from(trigger: Trigger, when: float) -> None:
    later = list(islice(trigger.after(when), 5))
    assert later == sorted(set(later))
    assert all(at > when for at in later)
    for at, following in pairwise(later):
        assert next(trigger.after(at)) == following
        assert next(trigger.after((at + following) / 2)) == following


def test_in_an_overlap_a_fixed_time_that_was_due_is_not_due_again() -> None:
    second_half = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # in Berlin it is 2:10 again
    following = next(Cron("30 2 * * *", "Europe/Berlin").after(second_half.timestamp()))
    assert datetime.fromtimestamp(following, UTC) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@given(
    st.sampled_from(TRIGGERS),
    st.floats(NOW, NOW + 2 * YEAR),
    st.sampled_from([0.5, 30.0, 700.0, 5_000.0, 90_000.0]),
    st.sampled_from(list(Policy)),
    st.integers(1, 20),
)
def test_times_that_passed(trigger: Trigger, last: float, late: float, policy: Policy, most: int) -> None:
    now = last + late
    passed = list(takewhile(lambda at: at <= now, trigger.after(last)))
    found = due(trigger, last, now, policy, most)
    if policy is Policy.ONCE:
        assert found.now == passed[-1:]
    elif policy is Policy.ALL:
        assert found.now == passed[-most:]
    else:
        assert found.now == [at for at in passed if now - at <= GRACE]
    assert found.next == next(trigger.after(now), None)


def test_a_clock_that_went_back_is_due_once() -> None:
    trigger = Every(60.0)
    first = due(trigger, NOW, NOW + 120, Policy.ALL)
    assert len(first.now) == 2
    assert due(trigger, first.now[-1], NOW, Policy.ALL).now == []
    assert due(trigger, first.now[-1], NOW, Policy.ALL).next == first.next


def test_decades_without_a_look_cost_little() -> None:
    found = due(Every(1.0), 0.0, NOW, Policy.ALL, 3)
    assert found.now == [NOW - 2, NOW - 1, NOW]


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("* * * * * *", "write five fields"),
        ("@reboot", "write five fields"),
        ("", "write five fields"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("60 * * * *", "Bad minute"),
        ("* * * * X", "Bad day-of-week"),
        ("*/0 * * * *", "Bad minute"),
        (",".join(["0"] * 1_000_000) + " * * * *", "at most 100 characters"),
        ("\N{ARABIC-INDIC DIGIT ONE} * * * *", "Bad minute"),
    ],
)
def test_bad_input_24_cron_that_cannot_be_meant_is_refused(expression: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        Cron(expression)
    assert len(str(refused.value)) < 200


def test_what_is_only_due_where_the_clock_skips_is_never_due() -> None:
    with pytest.raises(ValueError, match="it is never due"):
        Cron("* 0 * 4 5L", "Africa/Cairo")  # in the hour after midnight of the one night in which there is none
    assert next(Cron("* 0 * 4 5L", "Asia/Amman").after(1.7e9), None) is not None


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "Europe", "", "Nowhere/City", "x" * 5000, "U\0TC"])
def test_a_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone"):
        Cron("* * * * *", name)


@pytest.mark.parametrize("interval", [0.0, -1.0, 0.5, float("nan"), float("inf")])
def test_an_interval_below_a_second_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="every: "):
        Every(interval)


@pytest.mark.parametrize("at", [-1.0, float("nan"), float("inf"), 1e18])
def test_a_moment_that_is_no_date_is_refused(at: float) -> None:
    with pytest.raises(ValueError, match="at: "):
        Once(at)
