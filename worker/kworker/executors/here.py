"""One attempt in the calling thread, without a slot or a time limit: for tests in memory and `kworker replay`.

It ends as in a worker, but for Ctrl-C, which is meant for who runs it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

from kworker.executors.base import Given, Publish, Runnable, call, outcome_of, publication, succeeded
from kworker.task import Outcome


def attempt(
    given: Given, runnable: Runnable, publish: Publish = publication, clock: Callable[[], float] = time.time
) -> tuple[Outcome, BaseException | None]:
    """The outcome of one attempt, and what it raised; a coroutine runs in an event loop of its own.

    clock: seconds since the epoch, for the task's `ce_deadline` and the time of its result. Raises KeyboardInterrupt.
    """
    try:
        returned, context = call(given, runnable, None, publish, lambda context: None, clock)
        if inspect.iscoroutine(returned):
            returned = asyncio.run(returned)
        return succeeded(given.task, runnable.spec, returned, context, clock), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # as in a worker: whatever a plugin raises is an outcome
        return outcome_of(error), error
