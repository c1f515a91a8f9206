"""Waiting for a fact with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PAUSE = 0.02


def wait_for(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Ask `predicate` until its answer is true, and return that answer.

    Raises AssertionError, naming `what` and the last answer, when `timeout` seconds have passed.
    What `predicate` raises is raised.
    """
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {answer!r}")
        time.sleep(PAUSE)
    return answer
