"""The bodies as tasks of kworker's thread executor; a plugin of its own, so that a worker has no other executor."""

from __future__ import annotations

from benchmarks import bodies

from kworker import task


@task("bench.sleep.thread")
def sleep(n: int, ms: float, pad: str) -> None:
    """See bodies.sleep."""
    bodies.sleep(n, ms, pad)


@task("bench.timed.thread")
def timed(n: int, ms: float, pad: str) -> None:
    """See bodies.timed."""
    bodies.timed(n, ms, pad)
