"""Tasks of all three executors that note their runs in the file LEDGER, as ledger_plugin's do, and misbehave to a plan.

A run is of the worker, wherever it runs: in a child process it notes the worker's id as well. Its end is noted before
what the plan says happens, since a task that ends its process can note nothing afterwards.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

from tenacity import wait_fixed

from kworker import Context, Reject, task

MOST_ATTEMPTS = 4
TIMEOUT = 2.0

_FILE = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_OUT = os.environ["WEATHER_OUT"]
_runs = itertools.count()
_wait = wait_fixed(0.1)


def _worker() -> int:
    """The worker's process id: that of the ancestor which the test has started, or this process itself."""
    test, found = int(os.environ["WEATHER_TEST"]), os.getpid()
    while (above := int(Path(f"/proc/{found}/stat").read_text().rpartition(")")[2].split()[1])) != test:
        if above <= 1:
            raise RuntimeError("the worker of this process has ended")
        found = above
    return found


_PID = _worker()


def _note(*line: object) -> None:
    os.write(_FILE, json.dumps([*line, _PID, time.monotonic_ns()]).encode() + b"\n")


class _Run:
    """One attempt. plan: what it does, and in how many attempts: `fail:1`, `hang:9`, `crash:1`; dead, publish, ''."""

    def __init__(self, id: str, seq: int, plan: str, ctx: Context) -> None:
        self.id = id
        self.ctx = ctx
        self.what, _, times = plan.partition(":")
        self.spoiled = self.what == "dead" or ctx.attempt <= int(times or 0)
        self._number = f"{os.getpid()}.{next(_runs)}"
        _note("start", self._number, id, ctx.attempt, (ctx.key or b"").decode(), seq)

    def end(self) -> dict[str, str]:
        """Its result, or what it raises; `hang` and `crash` are the executor's to show."""
        over = self.what == "dead" or self.ctx.attempt == MOST_ATTEMPTS
        _note("end", self._number, "done" if not self.spoiled else "dead" if over else "failed")
        if self.spoiled and self.what == "dead":
            raise Reject("the weather wants a dead letter")
        if self.spoiled and self.what == "fail":
            raise RuntimeError(f"the weather wants attempt {self.ctx.attempt} to fail")
        if self.what == "publish":
            self.ctx.publish("weather.out", {"id": self.id}, topic=_OUT)
        return {"id": self.id}

    @property
    def hangs(self) -> bool:
        """Whether this attempt must not end in time."""
        return self.spoiled and self.what == "hang"


@task("weather.thread", max_attempts=MOST_ATTEMPTS, wait=_wait, timeout=TIMEOUT)
def thread(id: str, seq: int = 0, ms: float = 0, plan: str = "", *, ctx: Context) -> dict[str, str]:
    """In a thread. Every second one that hangs stays deaf for a while, which loses its slot."""
    run = _Run(id, seq, plan, ctx)
    time.sleep(ms / 1000)
    result = run.end()
    if run.hangs:
        while not ctx.cancelled:
            time.sleep(0.01)
        time.sleep(random.choice((0, 3)))
        raise TimeoutError("the weather wants this task to hang")
    return result


@task("weather.coroutine", max_attempts=MOST_ATTEMPTS, wait=_wait, timeout=TIMEOUT)
async def coroutine(id: str, seq: int = 0, ms: float = 0, plan: str = "", *, ctx: Context) -> dict[str, str]:
    """In the event loop, which it blocks now and then."""
    run = _Run(id, seq, plan, ctx)
    if random.random() < 0.01:
        time.sleep(0.2)
    await asyncio.sleep(ms / 1000)
    result = run.end()
    if run.hangs:
        await asyncio.sleep(600)
    return result


@task("weather.process", executor="process", max_attempts=MOST_ATTEMPTS, wait=_wait, timeout=TIMEOUT)
def process(id: str, seq: int = 0, ms: float = 0, plan: str = "", *, ctx: Context) -> dict[str, str]:
    """In a child, which it ends in every way there is."""
    run = _Run(id, seq, plan, ctx)
    time.sleep(ms / 1000)
    result = run.end()
    if run.hangs:
        time.sleep(600)
    if run.spoiled and run.what == "crash":
        match random.randrange(3):
            case 0:
                os._exit(7)
            case 1:
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                ctypes.string_at(1)
    return result
