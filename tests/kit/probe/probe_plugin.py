"""Tasks that note what becomes of them, one JSON line for each event, in the file `events` of PROBE_FOLDER.

Those that wait do so until there is a file `<n>.end` or `all.end` in that folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

from tenacity import wait_fixed, wait_none

from kworker import Context, Retry, task

FOLDER = Path(os.environ["PROBE_FOLDER"])
_EVENTS = os.open(FOLDER / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _tell(event: str, n: int, ctx: Context) -> None:
    line = {"event": event, "n": n, "pid": os.getpid(), "attempt": ctx.attempt}
    line |= {"topic": ctx.topic, "partition": ctx.partition, "offset": ctx.offset}
    os.write(_EVENTS, json.dumps(line).encode() + b"\n")


def _let_go(n: int) -> bool:
    return (FOLDER / f"{n}.end").exists() or (FOLDER / "all.end").exists()


@task("probe.note")
def note(n: int, *, ctx: Context) -> None:
    """Ends at once."""
    _tell("ran", n, ctx)


@task("probe.hold")
def hold(n: int, *, ctx: Context) -> None:
    """Waits, and notes if it was asked to end, but waits on."""
    _tell("began", n, ctx)
    told = False
    while not _let_go(n):
        if ctx.cancelled and not told:
            told = True
            _tell("cancelled", n, ctx)
        time.sleep(0.01)
    _tell("ran", n, ctx)


@task("probe.hang", timeout="200ms", max_attempts=1, wait=wait_none())
def hang(n: int, *, ctx: Context) -> None:
    """Never ends by itself, and has little time."""
    _tell("began", n, ctx)
    while not _let_go(n):
        time.sleep(0.01)


@task("probe.hog")
def hog(n: int, *, ctx: Context) -> None:
    """Holds the GIL, in C, for longer than any test lasts."""
    _tell("began", n, ctx)
    re.fullmatch(r"(a|a)+b", "a" * 60)


@task("probe.orphan")
def orphan(n: int, *, ctx: Context) -> None:
    """Leaves a process behind, whose parent is gone, and waits for one of its own."""
    subprocess.run(["sh", "-c", "sh -c 'sleep 1' & exit"], check=True)
    own = subprocess.Popen(["sh", "-c", "exit 7"])
    while not _let_go(n):
        time.sleep(0.01)
    _tell(f"exit {own.wait()}", n, ctx)


@task("probe.again", max_attempts=4, wait=wait_fixed(1.5))
def again(n: int, *, ctx: Context) -> None:
    """Fails three times; an odd one always."""
    _tell("began", n, ctx)
    if n % 2 or ctx.attempt < 4:
        raise ValueError(f"probe {n}")
    _tell("ran", n, ctx)


@task("probe.slowly", max_attempts=3, wait=wait_fixed(8))
def slowly(n: int, *, ctx: Context) -> None:
    """Fails twice; an odd one always."""
    _tell("began", n, ctx)
    if n % 2 or ctx.attempt < 3:
        raise ValueError(f"probe {n}")
    _tell("ran", n, ctx)


@task("probe.later")
def later(n: int, *, ctx: Context) -> None:
    """Is tried again once, after n seconds."""
    _tell("began", n, ctx)
    if ctx.attempt == 1:
        raise Retry(after=n)
    _tell("ran", n, ctx)


@task("probe.fail", max_attempts=2, wait=wait_none())
def fail(n: int, *, ctx: Context) -> None:
    """Always fails."""
    _tell("began", n, ctx)
    raise ValueError(f"probe {n}")
