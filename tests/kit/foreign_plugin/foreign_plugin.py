"""Tasks for foreign producers: each call is one line of JSON in the file that FOREIGN_CALLS names: what it got.

Each refuses what is marked so after it has noted it: a negative `n`, or bytes that begin with `!`.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from kworker import Context, Reject, task

_CALLS = os.open(os.environ["FOREIGN_CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_SALE = json.loads((Path(__file__).parent / "sale.avsc").read_text())


def note(ctx: Context, seen: object) -> None:
    """One line, written at once."""
    line = {"task": ctx.name, "offset": ctx.offset, "attempt": ctx.attempt, "id": ctx.id, "seen": seen}
    os.write(_CALLS, json.dumps(line | {"key": None if ctx.key is None else ctx.key.hex()}).encode() + b"\n")


@task("sale", schema=_SALE, max_attempts=1)
def sale(
    n: int, price: Decimal, when: datetime | None = None, tags: list[str] | None = None, *, ctx: Context
) -> dict[str, int]:
    """Its result goes to who asked for it."""
    note(ctx, [n, str(price), when and when.isoformat(), tags])
    if n < 0:
        raise Reject("no sale")
    if tags and "publish" in tags:
        ctx.publish("sale", {"n": 2 * n, "price": price}, key=ctx.key, id=f"{ctx.id}/again")
    return {"sold": n}


@task("raw", max_attempts=1)
def raw(data: bytes, *, ctx: Context) -> None:
    """Any bytes."""
    note(ctx, data.hex())
    if data.startswith(b"!"):
        raise Reject("no bytes")
