"""The end of a worker: the last commit, out of the group, what is to be written, what is to be torn down.

Promises: each step has a part of one deadline, and what hangs is left behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence

from kworker.core.actions import CommitItem
from kworker.executors.base import Executor
from kworker.kafka.consumer import Intake
from kworker.kafka.producer import ForwardProducer
from kworker.registry import Registry

log = logging.getLogger("kworker")

_STEP = 1.0  # seconds for the producer, and for the executors
_LEAST = 0.1


def leave(
    intake: Intake,
    commit: Sequence[CommitItem],
    producer: ForwardProducer,
    executors: Collection[Executor],
    registry: Registry,
    within: float,
) -> None:
    """Do it all within so many seconds. commit: what is to be committed before the group is left."""
    deadline = time.monotonic() + within

    def left(most: float = within) -> float:
        return max(_LEAST, min(most, deadline - time.monotonic()))

    if not intake.close(commit, within):
        log.warning("the group could not be left in time; it will notice by the session timeout")
    if open_writes := producer.stop(left(_STEP)):
        log.warning(
            "records were not acknowledged before the end; their offsets are open", extra={"records": open_writes}
        )
    end_executors(executors, left(_STEP))
    teardown = threading.Thread(target=registry.teardown, name="kworker-teardown", daemon=True)
    teardown.start()
    teardown.join(left())
    if teardown.is_alive():
        log.warning("a plugin's teardown did not end in time")


def end_executors(executors: Collection[Executor], within: float) -> None:
    """End what runs tasks."""
    for executor in executors:
        executor.stop()
    deadline = time.monotonic() + within
    for executor in executors:
        executor.close(max(0.0, deadline - time.monotonic()))
