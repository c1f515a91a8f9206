"""Tasks that end in every way of which dashboards tell."""

from __future__ import annotations

import os
import time

from tenacity import wait_none

from kworker import Context, task


@task("shown.work", executor="process", max_attempts=2, wait=wait_none(), timeout="300ms")
def work(how: str) -> None:
    """In a child process: done, fail or hang."""
    if how == "fail":
        raise ValueError(how)
    if how == "hang":
        time.sleep(600)


@task("shown.hang", max_attempts=1, timeout="200ms")
def hang() -> None:
    """In a thread, that is given up."""
    time.sleep(600)


@task("shown.publish", max_attempts=1)
def publish(*, ctx: Context) -> None:
    """Publishes what no broker takes: more than its topic allows."""
    ctx.publish("shown.none", {"text": "x" * 100_000}, topic=os.environ["SHOWN_NARROW"])
