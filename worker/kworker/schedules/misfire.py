"""What becomes of the times that passed while nobody could act on them.

once    the latest of them is run
all     the latest N are run, in order
skip    those that are late by more than the grace are not run
"""

from __future__ import annotations

from enum import StrEnum
from itertools import takewhile

from msgspec import Struct

from kworker.schedules.trigger import Trigger

GRACE = 60.0
"""Seconds by which a run may be late under `skip`."""

MOST = 1_000
"""How many passed times may be run at once."""

_WINDOWS = (3_600.0, 86_400.0, 32 * 86_400.0, 367 * 86_400.0)


class Policy(StrEnum):
    """See the module."""

    ONCE = "once"
    ALL = "all"
    SKIP = "skip"


class Due(Struct, frozen=True):
    """What to run now, in order; and when to look again: the next time, None when there is none any more."""

    now: list[float]
    next: float | None


def due(trigger: Trigger, last: float, now: float, policy: Policy, most: int = MOST) -> Due:
    """The times after `last` and up to `now` that are to be run, by the policy. All in seconds since the epoch.

    most: N of `all`. However long it was not looked at, and however often it was due meanwhile, little is counted: only
    the end of that time is gone through.
    """
    wanted = 1 if policy is Policy.ONCE else min(most, MOST)
    windows = (GRACE + 1,) if policy is Policy.SKIP else (*_WINDOWS, now - last)
    passed: list[float] = []
    for window in windows:
        since = max(last, now - window)
        passed = list(takewhile(lambda at: at <= now, trigger.after(since)))
        if len(passed) >= wanted or since == last:
            break
    passed = [at for at in passed if now - at <= GRACE] if policy is Policy.SKIP else passed[-wanted:]
    return Due(passed, next(trigger.after(max(last, now)), None))
