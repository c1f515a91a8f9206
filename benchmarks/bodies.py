"""What the tasks do, for every peer in Python; ParallelConsumer.java has the same in Java.

A payload is JSON of 200 bytes: {"n": number of the task, "ms": what it costs, "pad": "..."}. kworker decodes it itself
and calls a body; the others are given bytes and call `run`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from benchmarks.effect import Effect
from benchmarks.place import Place
from benchmarks.plan import STUCK

PLACE = Place.given()
EFFECT = Effect(PLACE.effect)
MARKS = EFFECT.marks


def sleep(n: int, ms: float, pad: str) -> None:
    """Waits `ms`, as for a network; 0 is a task that does nothing."""
    if ms:
        time.sleep(ms / 1000)
    MARKS[n] += 1


def burn(n: int, ms: float, pad: str) -> None:
    """Takes `ms` of this thread's processor time, however long it waits for a processor."""
    until = time.thread_time() + ms / 1000
    while time.thread_time() < until:
        pass
    MARKS[n] += 1


def timed(n: int, ms: float, pad: str) -> None:
    """Says when it was done."""
    EFFECT.note(n, time.monotonic_ns())
    MARKS[n] += 1


def noted(n: int, ms: float, pad: str) -> None:
    """`sleep` that says when it was done."""
    time.sleep(ms / 1000)
    timed(n, ms, pad)


def flaky(n: int, ms: float, pad: str) -> None:
    """One of ten fails the first time."""
    if n % 10 == 0 and not EFFECT.moment(n):
        EFFECT.note(n, time.monotonic_ns())
        raise ConnectionError("the first time, as every tenth")
    MARKS[n] += 1


def stuck(n: int, ms: float, pad: str) -> None:
    """The first of so many in its partition as `ms` says, over all partitions: it waits until the last of them ran."""
    if ms:
        last = min(n + int(ms) - STUCK, EFFECT.tasks - STUCK + n % STUCK)
        while not MARKS[last]:
            time.sleep(0.005)
    MARKS[n] += 1


BODIES: dict[str, Callable[..., None]] = {
    "sleep": sleep,
    "burn": burn,
    "timed": timed,
    "noted": noted,
    "flaky": flaky,
    "stuck": stuck,
    "logged": sleep,
}
_body = BODIES[PLACE.body]


def run(value: bytes) -> None:
    """The task of this workload, from the value of its record."""
    _body(**json.loads(value))


async def awaited(value: bytes) -> None:
    """The same as a coroutine, which waits without a thread; for bodies that only wait."""
    task = json.loads(value)
    if task["ms"]:
        await asyncio.sleep(task["ms"] / 1000)
    _body(task["n"], 0, task["pad"])
