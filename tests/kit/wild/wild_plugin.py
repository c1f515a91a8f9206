"""Tasks for every executor, good and bad: each notes that it began and that it ended in the file `events` of WILD."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import time
from pathlib import Path

from tenacity import wait_none

from kworker import Context, Plugin, task

FOLDER = Path(os.environ["WILD"])
_EVENTS = os.open(FOLDER / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _tell(event: str, n: int, ctx: Context) -> None:
    line = {"event": event, "task": ctx.name, "n": n, "pid": os.getpid(), "attempt": ctx.attempt}
    os.write(_EVENTS, json.dumps(line).encode() + b"\n")


def _let_go() -> bool:
    return (FOLDER / "end").exists()


@task("wild.thread")
def thread(n: int, *, ctx: Context) -> None:
    """In a thread."""
    _tell("ran", n, ctx)


@task("wild.coroutine")
async def coroutine(n: int, *, ctx: Context) -> None:
    """In the event loop."""
    await asyncio.sleep(0.001)
    _tell("ran", n, ctx)


@task("wild.await")
async def wait(n: int, *, ctx: Context) -> None:
    """In the event loop, until it is let go."""
    _tell("began", n, ctx)
    while not _let_go():
        await asyncio.sleep(0.01)
    _tell("ran", n, ctx)


class Wild(Plugin):
    """Those of child processes; `setup` fails there when a file `refuse` is in the folder."""

    def setup(self, settings: None) -> None:
        """Note that it was called."""
        with (FOLDER / "setups").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if (FOLDER / "refuse").exists():
            raise ValueError("there is no licence for this plugin")

    @task("wild.process", executor="process", wait=wait_none())
    def process(self, n: int, ctx: Context) -> None:
        """In a child."""
        _tell("ran", n, ctx)

    @task("wild.hold", executor="process")
    def hold(self, n: int, ctx: Context) -> None:
        """In a child, until it is let go."""
        _tell("began", n, ctx)
        while not _let_go():
            time.sleep(0.01)
        _tell("ran", n, ctx)

    @task("wild.crash", executor="process", max_attempts=2, wait=wait_none())
    def crash(self, n: int, ctx: Context) -> None:
        """Ends its process."""
        _tell("began", n, ctx)
        if n % 2:
            os._exit(n % 100)
        os.kill(os.getpid(), 11 if n % 4 else 9)
        time.sleep(60)

    @task("wild.hang", executor="process", timeout="250ms", max_attempts=2, wait=wait_none())
    def hang(self, n: int, ctx: Context) -> None:
        """Does not end; every fifth of them in C code, where no signal reaches Python."""
        _tell("began", n, ctx)
        if n % 5 == 0:
            lock = ctypes.create_string_buffer(128)
            for _ in range(2):  # the second time it waits for itself, and holds the GIL
                ctypes.PyDLL(None).pthread_mutex_lock(lock)
        time.sleep(600)

    @task("wild.fail", executor="process", max_attempts=2, wait=wait_none())
    def fail(self, n: int, ctx: Context) -> None:
        """Raises."""
        _tell("began", n, ctx)
        raise ValueError(f"number {n}")

    @task("wild.eat", executor="process", max_attempts=2, wait=wait_none())
    def eat(self, n: int, ctx: Context) -> None:
        """Takes all the memory there is."""
        _tell("began", n, ctx)
        held = []
        while True:
            held.append(bytearray(64 << 20))
