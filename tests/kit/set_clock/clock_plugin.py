"""Tasks that wait, and note by both clocks when that began and ended: a line in the file `events` of EVENTS each."""

from __future__ import annotations

import asyncio
import json
import os
import time

from tenacity import wait_fixed

from kworker import Context, task

DEADLINE = 3.0
WAIT = 3.0

_EVENTS = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _tell(event: str, ctx: Context) -> None:
    line = {"event": event, "task": ctx.name, "attempt": ctx.attempt, "at": time.monotonic(), "wall": time.time()}
    os.write(_EVENTS, json.dumps(line).encode() + b"\n")


@task("clock.note")
def note(*, ctx: Context) -> None:
    """Ends at once."""
    _tell("began", ctx)


@task("clock.again", max_attempts=2, wait=wait_fixed(WAIT))
def again(*, ctx: Context) -> None:
    """Fails once."""
    _tell("began", ctx)
    if ctx.attempt == 1:
        raise ValueError("once more")


@task("clock.thread", timeout=f"{DEADLINE:g}s", max_attempts=1)
def thread(*, ctx: Context) -> None:
    """Waits until its time is over."""
    _tell("began", ctx)
    while not ctx.cancelled:
        time.sleep(0.01)
    _tell("told", ctx)


@task("clock.coroutine", timeout=f"{DEADLINE:g}s", max_attempts=1)
async def coroutine(*, ctx: Context) -> None:
    """The same."""
    _tell("began", ctx)
    try:
        await asyncio.sleep(3600)
    finally:
        _tell("told", ctx)


@task("clock.process", executor="process", timeout=f"{DEADLINE:g}s", max_attempts=1)
def process(*, ctx: Context) -> None:
    """The same."""
    _tell("began", ctx)
    try:
        time.sleep(3600)
    finally:
        _tell("told", ctx)


@task("clock.hold")
def hold(*, ctx: Context) -> None:
    """Does not end."""
    _tell("began", ctx)
    time.sleep(3600)
