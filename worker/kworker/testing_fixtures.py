"""The fixtures that kworker brings to pytest, by the entry point `pytest11`: nothing else imports this module.

memory_worker: makes `kworker.testing.MemoryWorker`s, whose plugins are torn down after the test.
run_task: `kworker.testing.run_task`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from kworker.task import Outcome
    from kworker.testing import MemoryWorker

# pytest imports this in every project that has kworker installed: the engine is imported by the tests that use it.


class MakeWorker(Protocol):
    """The type of the fixture `memory_worker`."""

    def __call__(self, *plugins: object, **options: Any) -> MemoryWorker:
        """See `kworker.testing.MemoryWorker`."""


class RunTask(Protocol):
    """The type of the fixture `run_task`."""

    def __call__(self, plugin: object, payload: object = None, **options: Any) -> Outcome:
        """See `kworker.testing.run_task`."""


@pytest.fixture
def memory_worker() -> Iterator[MakeWorker]:
    """Makes workers in memory: `memory_worker(plugin, settings=..., schemas=...)`."""
    from kworker.testing import MemoryWorker

    with ExitStack() as stack:
        yield lambda *plugins, **options: stack.enter_context(MemoryWorker(*plugins, **options))


@pytest.fixture
def run_task() -> RunTask:
    """Runs one task once and returns its outcome: `run_task(function, {"argument": 1})`."""
    from kworker.testing import run_task

    return run_task
