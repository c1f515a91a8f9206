"""Tasks that are published as Avro and as events: each call is one line of JSON in the file that AVRO_CALLS names."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any

from kworker import Context, task

_CALLS = os.open(os.environ["AVRO_CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

FIRST = {"type": "record", "name": "shop.Order", "fields": [{"name": "n", "type": "int"}]}
ORDER = {
    "type": "record",
    "name": "shop.Order",
    "fields": [
        {"name": "n", "type": "long"},
        {"name": "when", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": None},
    ],
}


def note(name: str, ctx: Context, **seen: Any) -> None:
    """One line, written at once."""
    line = {"task": name, "attempt": ctx.attempt, "offset": ctx.offset, **seen}
    os.write(_CALLS, json.dumps(line).encode() + b"\n")


@task("order", schema=[FIRST, ORDER], timeout="1s", max_attempts=1)
def order(n: int, when: datetime | None = None, *, ctx: Context) -> None:
    note("order", ctx, n=n, when=when and when.isoformat())


@task("order.async", schema=ORDER, max_attempts=1)
async def order_async(n: int, when: datetime | None = None, *, ctx: Context) -> None:
    note("order.async", ctx, n=n, when=when and when.isoformat())


@task("anything", max_attempts=1)
def anything(x: Any, *, ctx: Context) -> None:
    note("anything", ctx, x=x)
