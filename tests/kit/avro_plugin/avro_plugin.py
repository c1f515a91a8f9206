"""Tasks that are published as Avro and as events: each call is one line of JSON in the file that AVRO_CALLS names."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from kworker import Context, task

_CALLS = os.open(os.environ["AVRO_CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_SCHEMAS = [json.loads((Path(__file__).parent / name).read_text()) for name in ("first.avsc", "order.avsc")]


def note(name: str, ctx: Context, seen: object) -> None:
    """One line, written at once."""
    line = {"task": name, "attempt": ctx.attempt, "offset": ctx.offset, "seen": seen}
    os.write(_CALLS, json.dumps(line).encode() + b"\n")


@task("order", schema=_SCHEMAS, timeout="1s", max_attempts=1)
def order(n: int, when: datetime | None = None, *, ctx: Context) -> None:
    note("order", ctx, [n, when and when.isoformat()])


@task("anything", max_attempts=1)
def anything(x: Any, *, ctx: Context) -> None:
    note("anything", ctx, x)
