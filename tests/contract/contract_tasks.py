"""The tasks of the executor contract. They tell and ask through files, so that they can run in any process.

Each is called with the folder of its test and a name of its own: it leaves `<name>.began`, and those that wait do so
until there is a file `<name>.end` or `all.end`.
"""

from __future__ import annotations

import time
from pathlib import Path

from kworker import Context, Reject

PAUSE = 0.005


def _began(folder: str, name: str) -> None:
    Path(folder, f"{name}.began").touch()


def _ended(folder: str, name: str) -> bool:
    return Path(folder, f"{name}.end").exists() or Path(folder, "all.end").exists()


def note(folder: str, name: str) -> str:
    """Ends at once."""
    with Path(folder, "order").open("a") as file:
        file.write(f"{name}\n")
    return name


def hold(folder: str, name: str) -> str:
    """Does not know that it may be asked to end."""
    _began(folder, name)
    while not _ended(folder, name):
        time.sleep(PAUSE)
    return name


def heed(folder: str, name: str, *, ctx: Context) -> str:
    """Ends as soon as it is asked to: it returns."""
    _began(folder, name)
    while not (ctx.cancelled or _ended(folder, name)):
        time.sleep(PAUSE)
    if ctx.cancelled:
        Path(folder, f"{name}.cancelled").touch()
    return name


def give_up(folder: str, name: str, *, ctx: Context) -> str:
    """Ends as soon as it is asked to: it raises."""
    heed(folder, name, ctx=ctx)
    raise RuntimeError(f"{name} was asked to end")


def refuse(folder: str, name: str) -> None:
    """Can never succeed."""
    raise Reject(name)


def leave(folder: str, name: str) -> None:
    """Asks the interpreter to end."""
    raise SystemExit(3)


def interrupt(folder: str, name: str) -> None:
    """As if somebody had pressed Ctrl-C."""
    raise KeyboardInterrupt


ALL = (note, hold, heed, give_up, refuse, leave, interrupt)
