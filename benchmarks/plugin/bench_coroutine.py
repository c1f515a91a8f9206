"""The bodies as tasks of kworker's coroutine executor; a plugin of its own, so that a worker has no other executor."""

from __future__ import annotations

from benchmarks import bodies

from kworker import task


@task("bench.sleep.coroutine")
async def sleep(n: int, ms: float, pad: str) -> None:
    """See bodies.sleep_coroutine."""
    await bodies.sleep_coroutine(n, ms, pad)
