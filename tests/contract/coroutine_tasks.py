"""The twins of contract_tasks for an event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

from contract.contract_tasks import PAUSE, _began, _ended
from kworker import Context, Reject


async def note(folder: str, name: str) -> str:
    """Ends at once."""
    with Path(folder, "order").open("a") as file:
        file.write(f"{name}\n")
    return name


async def hold(folder: str, name: str) -> str:
    """Does not end when it is asked to: it swallows its cancellation."""
    _began(folder, name)
    while not _ended(folder, name):
        try:
            await asyncio.sleep(PAUSE)
        except asyncio.CancelledError:
            continue
    return name


async def heed(folder: str, name: str, *, ctx: Context) -> str:
    """Ends as soon as it is asked to: it returns."""
    _began(folder, name)
    try:
        while not _ended(folder, name):
            await asyncio.sleep(PAUSE)
    except asyncio.CancelledError:
        assert ctx.cancelled
        Path(folder, f"{name}.cancelled").touch()
    return name


async def give_up(folder: str, name: str) -> str:
    """Ends as soon as it is asked to: it lets its cancellation through."""
    _began(folder, name)
    while not _ended(folder, name):
        await asyncio.sleep(PAUSE)
    return name


async def refuse(folder: str, name: str) -> None:
    """Can never succeed."""
    raise Reject(name)


async def leave(folder: str, name: str) -> None:
    """Asks the interpreter to end."""
    await asyncio.sleep(0)
    raise SystemExit(3)


async def interrupt(folder: str, name: str) -> None:
    """As if somebody had pressed Ctrl-C."""
    raise KeyboardInterrupt


ALL = (note, hold, heed, give_up, refuse, leave, interrupt)
