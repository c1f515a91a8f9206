"""The decide step: what becomes of a task after an attempt that did not succeed.

Waits and limits are tenacity strategies (the library the user named), used as pure functions of a RetryCallState
that is built here; tenacity's own retry loop, which would hold a slot and costs 10 us a call, is not used.
"""

from __future__ import annotations

from msgspec import Struct
from tenacity import RetryCallState, Retrying
from tenacity.stop import stop_base
from tenacity.wait import wait_base, wait_exponential

from kworker.duration import MAXIMUM
from kworker.task import Crashed, ErrorInfo, Failed, Outcome, Postponed, Reason, Refused, Success, TimedOut

DEFAULT_WAIT = wait_exponential(multiplier=1, max=300)
"""1 s, doubling up to 5 minutes."""

_RETRYING = Retrying()  # RetryCallState wants one; strategies do not look at it


class Again(Struct, frozen=True):
    """Try again after `wait` seconds. `counts`: 1, or 0 when what ended was no attempt."""

    wait: float
    error: ErrorInfo
    counts: int = 1


class Dead(Struct, frozen=True):
    """Set it aside."""

    reason: Reason
    error: ErrorInfo


class RetryPolicy(Struct, frozen=True):
    """How often, and after which waits, a task is tried again; finite by default.

    `wait` replaces the default back-off with jitter; `stop` adds to the limit of `max_attempts`.
    """

    max_attempts: int = 8
    wait: wait_base | None = None
    stop: stop_base | None = None

    def decide(self, outcome: Outcome, attempt: int, age: float, jitter: float) -> Again | Dead:
        """Decide after attempt number `attempt` ended in anything but success.

        age: seconds since the task was first seen. jitter: a number in [0, 1), drawn by the caller; it takes up to
        a quarter off the default wait, so that what failed together does not come back together.
        """
        if isinstance(outcome, Refused):
            return Dead(outcome.reason, outcome.error)
        if isinstance(outcome, Postponed):
            return Again(outcome.after, outcome.error, counts=0)
        assert not isinstance(outcome, Success)
        error = outcome.error
        state = RetryCallState(retry_object=_RETRYING, fn=None, args=(), kwargs={})
        state.attempt_number, state.start_time, state.outcome_timestamp = attempt, 0.0, max(0.0, age)
        try:
            if attempt >= self.max_attempts or (self.stop is not None and self.stop(state)):
                return Dead(_LAST_REASON[type(outcome)], error)
            if isinstance(outcome, Failed) and outcome.after is not None:
                return Again(outcome.after, error)
            if self.wait is not None:
                return Again(min(MAXIMUM, max(0.0, float(self.wait(state)))), error)
        except BaseException as broken:  # a plugin's own strategy; its fault must not end the worker
            why = f"{error.message} (and the task's retry strategy failed: {type(broken).__name__})"
            error = ErrorInfo(error.type, why, error.stack)
        return Again(DEFAULT_WAIT(state) * (1 - jitter / 4), error)


_LAST_REASON = {Failed: Reason.EXHAUSTED, TimedOut: Reason.TIMED_OUT, Crashed: Reason.CRASHED}
