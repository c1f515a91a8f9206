"""A task for each codec and kind of signature. All succeed with whatever fits them, and note the place of its record.

That is 8 bytes, partition and offset, in the file that FUZZ_DONE names: written at once, whatever process they run in.
"""

from __future__ import annotations

import os
import struct
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from kworker import Context, task

_DONE = os.open(os.environ.get("FUZZ_DONE", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(ctx: Context) -> None:
    """It was run."""
    os.write(_DONE, struct.pack("<ii", ctx.partition, ctx.offset))


class Colour(Enum):
    """A closed set."""

    RED = "red"


class Tree(msgspec.Struct):
    """It contains itself."""

    name: str
    children: list[Tree] = []


def _record(type_name: str, /, **fields: Any) -> dict[str, Any]:
    listed = [
        {"name": name, "type": kind} | ({"default": None} if isinstance(kind, list) else {})
        for name, kind in fields.items()
    ]
    return {"type": "record", "name": type_name, "fields": listed}


def _logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


_PRICE = {"type": "fixed", "name": "Price", "size": 6, "logicalType": "decimal", "precision": 12, "scale": 2}
LOGICAL = _record(
    "Logical",
    day=_logical("int", "date"),
    at=_logical("long", "time-micros"),
    when=_logical("long", "timestamp-millis"),
    id=_logical("string", "uuid"),
    price=_logical("bytes", "decimal", precision=9, scale=2),
    fixed=["null", _PRICE],
)
FLAT = [
    _record("Flat", n="int", s="string"),
    _record("Flat", n="long", s="string", more=["null", {"type": "map", "values": "bytes"}]),
]
TREE = _record("Leaf", name="string", children={"type": "array", "items": "Leaf"})


@task("fuzz.plain", max_attempts=1)
def plain(n: int, name: str = "x", *, flag: bool = False, ctx: Context) -> None:
    note(ctx)


@task("fuzz.typed", max_attempts=1)
def typed(
    when: datetime | None = None,
    wait: timedelta | None = None,
    day: date | None = None,
    at: time | None = None,
    id: UUID | None = None,
    price: Decimal | None = None,
    colour: Colour | None = None,
    data: bytes | None = None,
    ratio: float = 0.0,
    tree: Tree | None = None,
    raw: msgspec.Raw = msgspec.Raw(b"null"),  # noqa: B008  # immutable
    *,
    ctx: Context,
) -> None:
    note(ctx)


@task("fuzz.anything", max_attempts=1)
async def anything(x: Any, *, ctx: Context) -> None:
    note(ctx)


@task("fuzz.extra", max_attempts=1)
def extra(n: int = 0, *, ctx: Context, **rest: int | str | list[int]) -> None:
    note(ctx)


@task("fuzz.binary", executor="process", max_attempts=1)
def binary(data: bytes, *, ctx: Context) -> None:
    note(ctx)


@task("fuzz.logical", schema=LOGICAL, max_attempts=1)
def logical(
    day: date, at: time, when: datetime, id: UUID, price: Decimal, fixed: Decimal | None = None, *, ctx: Context
) -> None:
    note(ctx)


@task("fuzz.flat", schema=FLAT, max_attempts=1)
def flat(n: int, s: str = "", more: dict[str, bytes] | None = None, *, ctx: Context) -> None:
    note(ctx)


@task("fuzz.tree", schema=TREE, executor="process", max_attempts=1)
def tree(name: str, children: list[Tree] = [], *, ctx: Context) -> None:  # noqa: B006  # it is not changed
    note(ctx)
