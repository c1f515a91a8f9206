"""Tasks that misbehave in every way a plugin can, and tasks that are fed what no publisher should send.

Each call of a task that got its arguments is one line in the file that FAULTS_CALLS names: task, attempt, detail.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from tenacity import wait_none

from kworker import Context, Reject, task

_CALLS = os.open(os.environ["FAULTS_CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(name: str, attempt: int, detail: object) -> None:
    """One line, written at once."""
    os.write(_CALLS, f"{name}\t{attempt}\t{detail!r}\n".encode("utf-8", "backslashreplace"))


@task("greet")
def greet(name: str, count: int = 1, *, ctx: Context) -> None:
    note("greet", ctx.attempt, (ctx.id, name[:1000], count))


@task("take.anything")
def take_anything(payload: Any, *, ctx: Context) -> None:
    note("take.anything", ctx.attempt, (ctx.id, type(payload).__name__))


@task("take.exact")
def take_exact(
    at: datetime | None = None,
    amount: Decimal | None = None,
    wait: timedelta | None = None,
    id: UUID | None = None,
    ratio: float = 0.0,
    *,
    ctx: Context,
) -> None:
    note("take.exact", ctx.attempt, ctx.id)


@task("context")
def context(*, ctx: Context) -> None:
    note("context", ctx.attempt, (ctx.id, ctx.headers.get("kworker-attempt")))


@task("published")
def published(*, ctx: Context) -> None:
    note("published", ctx.attempt, (ctx.id, ctx.published_at))


@task("context.rejected")
def context_rejected(*, ctx: Context) -> None:
    note("context.rejected", ctx.attempt, ctx.id)
    raise Reject("never")


class Odd(BaseException):
    """Not an Exception."""


class Picky(Exception):
    """Two arguments: pickle could not make it again."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(left)
        self.right = right


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def _group() -> BaseException:
    return ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])])


RAISED: dict[str, Any] = {
    "exception": lambda: ValueError("wrong"),
    "group": _group,
    "huge": lambda: ValueError("x" * 5_000_000),
    "mute": Mute,
    "surrogate": lambda: ValueError("\ud800\x1b[31m\r\nforged"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "odd": lambda: Odd("odd"),
    "cancelled": asyncio.CancelledError,
    "cancelled.future": concurrent.futures.CancelledError,
    "stop": StopIteration,
    "memory": MemoryError,
    "picky": lambda: Picky("left", "right"),
    "recursion": RecursionError,
}


@task("raise", max_attempts=2, wait=wait_none())
def raise_(what: str, *, ctx: Context) -> None:
    note("raise", ctx.attempt, what)
    if what == "sys.exit":
        sys.exit("ended by the plugin")
    raise RAISED[what]()


@task("return.odd")
def return_odd(*, ctx: Context) -> object:
    note("return.odd", ctx.attempt, ctx.id)
    return threading.Lock()


@task("hang", timeout="300ms", max_attempts=1)
def hang(how: str, *, ctx: Context) -> None:
    note("hang", ctx.attempt, how)
    if how == "sleep":
        time.sleep(1e6)
    if how == "loop":
        while True:
            time.sleep(0.01)
    while not ctx.cancelled:
        time.sleep(0.01)
    raise TimeoutError("told to end")


ENDS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(66),
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(1),
}


@task("die")
def die(how: str, marker: str, *, ctx: Context) -> None:
    """Ends the whole process the first time; what is at `marker` tells of it."""
    note("die", ctx.attempt, how)
    path = Path(marker)
    if path.exists():
        raise Reject("it died before")
    path.touch()
    ENDS[how]()


@task("kill")
def kill(how: str, seconds: float = 0.0, *, ctx: Context) -> None:
    """Ends the whole process after so many seconds, each time."""
    note("kill", ctx.attempt, how)
    time.sleep(seconds)
    ENDS[how]()


@task("meet")
def meet(mine: str, all: list[str], *, ctx: Context) -> None:
    """Ends when all of them run at once."""
    Path(mine).touch()
    while not all_there(all):
        time.sleep(0.01)


def all_there(paths: list[str]) -> bool:
    return all(Path(path).exists() for path in paths)


@task("big.failure", max_attempts=1)
def big_failure(payload: bytes) -> None:
    raise ValueError(random.Random(1).randbytes(100_000).hex())  # it cannot be compressed away


@task("work", max_attempts=2, wait=wait_none())
def work(id: str, seconds: float = 0.0, until: str = "", fail: int = 0, *, ctx: Context) -> None:
    """Takes `seconds`, or until the file `until` is there ({pid}: this process); the first `fail` attempts fail."""
    note("start", ctx.attempt, id)
    if seconds:
        time.sleep(seconds)
    gate = Path(until.format(pid=os.getpid()))
    while until and not gate.exists():
        time.sleep(0.01)
    if ctx.attempt <= fail:
        raise ValueError("as it was told")
    note("end", ctx.attempt, id)
