"""The bodies as tasks of kworker's process executor; a plugin of its own, so that a worker has no other executor."""

from __future__ import annotations

import time

from benchmarks import bodies

from kworker import task


@task("bench.sleep.process", executor="process")
def sleep(n: int, ms: float, pad: str) -> None:
    """See bodies.sleep."""
    bodies.sleep(n, ms, pad)


@task("bench.burn.process", executor="process")
def burn(n: int, ms: float, pad: str) -> None:
    """See bodies.burn; it says when it was done."""
    bodies.burn(n, ms, pad)
    bodies.EFFECT.note(n, time.monotonic_ns())
