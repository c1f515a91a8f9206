"""The retry policy: finite by default, tenacity's strategies by choice, and never an exception of a plugin's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import (
    RetryCallState,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_fixed,
    wait_incrementing,
)

from kworker.core.retry import Again, Dead, RetryPolicy
from kworker.errors import Retry
from kworker.task import Crashed, ErrorInfo, Failed, Outcome, Postponed, Reason, Refused, TimedOut

ERROR = ErrorInfo("ValueError", "item 7", "Traceback")
FAILED = Failed(ERROR)


def waits(policy: RetryPolicy, outcome: Outcome = FAILED, jitter: float = 0.0) -> list[float]:
    """The wait after each attempt, until it is dead."""
    found: list[float] = []
    while isinstance(decision := policy.decide(outcome, len(found) + 1, 0.0, jitter), Again):
        found.append(decision.wait)
    return found


def test_the_default_doubles_from_a_second_and_ends() -> None:
    assert waits(RetryPolicy()) == [1, 2, 4, 8, 16, 32, 64]
    assert waits(RetryPolicy(max_attempts=12))[-3:] == [256, 300, 300]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_at_most_a_quarter_off(attempt: int, jitter: float) -> None:
    policy = RetryPolicy(max_attempts=attempt + 1)
    whole, part = policy.decide(FAILED, attempt, 0.0, 0.0), policy.decide(FAILED, attempt, 0.0, jitter)
    assert isinstance(whole, Again)
    assert isinstance(part, Again)
    assert 0.75 * whole.wait <= part.wait <= whole.wait <= 300


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(FAILED, Reason.EXHAUSTED), (TimedOut(ERROR), Reason.TIMED_OUT), (Crashed(ERROR), Reason.CRASHED)],
)
def test_after_the_last_attempt_the_last_failure_is_the_reason(outcome: Outcome, reason: Reason) -> None:
    policy = RetryPolicy(max_attempts=2)
    assert isinstance(policy.decide(outcome, 1, 0.0, 0.0), Again)
    assert policy.decide(outcome, 2, 0.0, 0.0) == Dead(reason, ERROR)
    assert policy.decide(outcome, 3, 0.0, 0.0) == Dead(reason, ERROR)


@pytest.mark.parametrize("reason", [Reason.REJECTED, Reason.INVALID, Reason.UNDECODABLE, Reason.EXPIRED])
def test_what_is_refused_is_never_tried_again(reason: Reason) -> None:
    assert RetryPolicy().decide(Refused(reason, ERROR), 1, 0.0, 0.0) == Dead(reason, ERROR)


def test_what_could_not_be_run_is_tried_again_for_ever_and_counts_as_no_attempt() -> None:
    assert RetryPolicy(max_attempts=1).decide(Postponed(ERROR, 5.0), 99, 0.0, 0.9) == Again(5.0, ERROR, counts=0)


def test_a_task_may_say_when() -> None:
    policy = RetryPolicy(max_attempts=3, wait=wait_fixed(7))
    assert policy.decide(Failed(ERROR, 90.0), 1, 0.0, 0.9) == Again(90.0, ERROR)
    assert policy.decide(Failed(ERROR, 0.0), 1, 0.0, 0.9) == Again(0.0, ERROR)
    assert policy.decide(Failed(ERROR, 90.0), 3, 0.0, 0.9) == Dead(Reason.EXHAUSTED, ERROR), "the attempt counts"


@pytest.mark.parametrize("after", [math.nan, math.inf, -1, 10**18, "1e3", "year 287168", "", "-5s"])
def test_a_wait_that_cannot_be_meant_is_an_error_in_the_task(after: Any) -> None:
    with pytest.raises(ValueError, match=r"duration|between 0 and 10 years"):
        Retry(after=after)


def test_tenacitys_waits() -> None:
    assert waits(RetryPolicy(4, wait_fixed(7))) == [7, 7, 7]
    assert waits(RetryPolicy(4, wait_incrementing(start=1, increment=10))) == [1, 11, 21]
    assert waits(RetryPolicy(4, wait_exponential(multiplier=3, max=10)), TimedOut(ERROR)) == [3, 6, 10]
    assert waits(RetryPolicy(3, wait_fixed(7)), jitter=0.9) == [7, 7], "a wait that was chosen is not changed"


def test_tenacitys_stops_add_to_the_limit() -> None:
    assert len(waits(RetryPolicy(5, stop=stop_after_attempt(3)))) == 2
    assert len(waits(RetryPolicy(3, stop=stop_after_attempt(5)))) == 2
    policy = RetryPolicy(9, stop=stop_after_delay(60))
    assert isinstance(policy.decide(FAILED, 1, 59.9, 0.0), Again)
    assert policy.decide(FAILED, 1, 60.0, 0.0) == Dead(Reason.EXHAUSTED, ERROR)
    assert isinstance(policy.decide(FAILED, 1, -3600.0, 0.0), Again), "the clock was set back"


class Broken(wait_fixed):
    def __call__(self, retry_state: RetryCallState) -> float:
        raise KeyError("backoff")


@pytest.mark.parametrize("wait", [math.inf, 1e300])
def test_a_wait_is_never_for_ever(wait: float) -> None:
    decision = RetryPolicy(wait=wait_fixed(wait)).decide(FAILED, 1, 0.0, 0.0)
    assert isinstance(decision, Again)
    assert decision.wait <= 10 * 366 * 86_400


@pytest.mark.parametrize("wait", [-5.0, math.nan])
def test_a_wait_is_never_negative(wait: float) -> None:
    decision = RetryPolicy(wait=wait_fixed(wait)).decide(FAILED, 1, 0.0, 0.0)
    assert isinstance(decision, Again)
    assert decision.wait >= 0


def test_a_strategy_that_raises_costs_the_default_wait_and_is_named() -> None:
    decision = RetryPolicy(wait=Broken(0)).decide(FAILED, 3, 0.0, 0.0)
    assert isinstance(decision, Again)
    assert decision.wait == 4
    assert decision.error.message == "item 7 (and the task's retry strategy failed: KeyError)"
    assert decision.error.stack == ERROR.stack
