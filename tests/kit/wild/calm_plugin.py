"""One task, in a thread: a worker that loads this plugin alone needs no child."""

from __future__ import annotations

from kworker import task


@task("calm.nothing")
def nothing(n: int) -> None:
    """Ends at once."""
