"""The bodies as tasks of kworker's thread executor; a plugin of its own, so that a worker has no other executor."""

from __future__ import annotations

from benchmarks import bodies

from kworker import Context, task


@task("bench.sleep.thread")
def sleep(n: int, ms: float, pad: str) -> None:
    """See bodies.sleep."""
    bodies.sleep(n, ms, pad)


@task("bench.timed.thread")
def timed(n: int, ms: float, pad: str) -> None:
    """See bodies.timed."""
    bodies.timed(n, ms, pad)


@task("bench.noted.thread")
def noted(n: int, ms: float, pad: str) -> None:
    """See bodies.noted."""
    bodies.noted(n, ms, pad)


@task("bench.flaky.thread")
def flaky(n: int, ms: float, pad: str) -> None:
    """See bodies.flaky."""
    bodies.flaky(n, ms, pad)


@task("bench.stuck.thread")
def stuck(n: int, ms: float, pad: str) -> None:
    """See bodies.stuck."""
    bodies.stuck(n, ms, pad)


@task("bench.logged.thread")
def logged(n: int, ms: float, pad: str, *, ctx: Context) -> None:
    """bodies.sleep with a line of its log."""
    ctx.log.info("done")
    bodies.sleep(n, ms, pad)
