"""Tasks that note their runs in the file LEDGER: a line when a run starts and one when it ends, each written at once.

kit/ledger.py reads them. The clock is the system's monotonic one, which all processes of a machine share.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

from tenacity import wait_fixed

from kworker import Context, Reject, task

MOST_ATTEMPTS = 3

_FILE = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_PID = os.getpid()
_runs = itertools.count()


def _note(*line: object) -> None:
    os.write(_FILE, json.dumps([*line, _PID, time.monotonic_ns()]).encode() + b"\n")


@task("ledger.work", max_attempts=MOST_ATTEMPTS, wait=wait_fixed(0.1))
def work(
    id: str,
    seq: int = 0,
    ms: float = 0,
    fail: int = 0,
    dead: bool = False,
    until: str = "",
    publish: str = "",
    *,
    ctx: Context,
) -> None:
    """Takes `ms`, or until there is a file `until`. fail: its first attempts that raise; dead: it refuses its task.

    publish: a topic to which its id goes.
    """
    run = next(_runs)
    _note("start", run, id, ctx.attempt, (ctx.key or b"").decode(), seq)
    while until and not Path(until).exists():
        time.sleep(0.01)
    if ms:
        time.sleep(ms / 1000)
    if publish:
        ctx.publish("ledger.published", id.encode(), topic=publish)
    failed = ctx.attempt <= fail
    over = dead or ctx.attempt == MOST_ATTEMPTS
    _note("end", run, ("dead" if over else "failed") if dead or failed else "done")
    if dead:
        raise Reject("the test wants a dead letter")
    if failed:
        raise RuntimeError(f"the test wants attempt {ctx.attempt} to fail")


@task("ledger.small")
def small(n: int) -> None:
    """Does and notes nothing."""


@task("ledger.busy")
def busy(n: int) -> None:
    """Has the interpreter for a tenth of a millisecond or so; notes nothing."""
    sum(range(5_000))


@task("ledger.large")
def large(data: bytes) -> None:
    """Takes long enough for the next ones to be fetched meanwhile, as many as may be in memory; notes nothing."""
    time.sleep(0.05)
