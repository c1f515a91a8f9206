"""Tasks that somebody waits for: what they return, and how they fail."""

from __future__ import annotations

import time
from pathlib import Path

from tenacity import wait_none

from kworker import Context, Reject, task


@task("answers.double")
def double(n: int) -> dict[str, int]:
    """A JSON object."""
    return {"n": n, "double": 2 * n}


@task("answers.echo")
def echo(text: str, *, ctx: Context) -> list[str]:
    """Text, and the key of the record."""
    return [text, (ctx.key or b"").decode()]


@task("answers.raw")
def raw() -> bytes:
    """Bytes that are no text."""
    return b"\x00\xff{"


@task("answers.nothing")
def nothing() -> None:
    """No value at all."""


@task("answers.held")
def held(file: str) -> str:
    """Waits until there is this file."""
    while not Path(file).exists():
        time.sleep(0.01)
    return "let go"


@task("answers.deep")
def deep(levels: int) -> object:
    """Arrays in arrays."""
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@task("answers.refuse")
def refuse(why: str) -> None:
    """Can never succeed."""
    raise Reject(why)


@task("answers.fail", max_attempts=2, wait=wait_none())
def fail() -> None:
    """Fails each time."""
    raise ValueError("not today")
