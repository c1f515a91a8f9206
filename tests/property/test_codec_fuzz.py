"""Whatever bytes a message holds, binding gives arguments or a DecodeError (FAULTS.md, bad input 2)."""

from __future__ import annotations

import datetime
import enum
import json
import random
import uuid
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kworker import TaskSpec
from kworker.codecs.arguments import Signature
from kworker.errors import DecodeError
from kworker.task import Reason, Task

CASES = 20_000


class Colour(enum.Enum):
    RED = "red"


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


def plain(n: int, name: str = "x", *, flag: bool = False) -> None: ...
def typed(
    when: datetime.datetime | None = None,
    wait: datetime.timedelta | None = None,
    day: datetime.date | None = None,
    at: datetime.time | None = None,
    id: uuid.UUID | None = None,
    price: Decimal | None = None,
    colour: Colour | None = None,
    data: bytes | None = None,
    ratio: float = 0.0,
    tree: Tree | None = None,
    raw: msgspec.Raw = msgspec.Raw(b"null"),  # noqa: B008  # immutable
) -> None: ...
def anything(x: Any) -> None: ...
def extra(n: int = 0, **rest: int | str | list[int]) -> None: ...
def binary(data: bytes) -> None: ...


SIGNATURES = [Signature(TaskSpec("t", function, "thread")) for function in (plain, typed, anything, extra, binary)]
SEEDS = [
    {"n": 1, "name": "abc", "flag": True},
    {"when": "2026-12-01T09:00:00+01:00", "wait": "PT5M", "day": "2024-02-29", "at": "23:59:60"},
    {"id": str(uuid.UUID(int=7)), "price": "1.25", "colour": "red", "data": "aGk=", "ratio": 1e308},
    {"tree": {"name": "a", "children": [{"name": "b"}]}, "raw": {"any": [1, None, "é😀\ud83d"]}},
    {"x": [[[]], {"a": {}}, -0.0, 18446744073709551616, 'a\\"b']},
    {"a": 1, "b": "2", "c": [3]},
    [1, 2, 3],
    "aGk=",
    None,
    12345678901234567890123,
]
CONTENT_TYPES = ["", "application/json", "application/octet-stream", "a+json", "application/avro", "\x00;é"]
PIECES = [
    b"NaN", b"-Infinity", b"1e999", b"1" * 5000, b"[" * 70, b"{" * 70, b'"', b"\\", b"\\u", b"\\ud800", b"\xff",
    b"\xef\xbb\xbf", b"\x00", b"}", b"]", b",", b":", b"null", b"-", b"E", b".", b'"P9999999999D"', b'"0000-00-00"',
    b'"9999-12-31T23:59:60-23:59"', b"1e99999999999999999999",
]  # fmt: skip


def mutated(chance: random.Random) -> bytes:
    """A seed, or noise, with a few bytes or pieces cut out, doubled, changed or put in."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(60))
    value = bytearray(json.dumps(chance.choice(SEEDS), ensure_ascii=chance.random() < 0.5).encode("utf-8", "replace"))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(value) + 1)
        until = min(len(value), at + chance.randrange(6))
        kind = chance.randrange(4)
        if kind == 0:
            del value[at:until]
        elif kind == 1:
            value[at:at] = value[at:until] * 2
        elif kind == 2 and at < len(value):
            value[at] = chance.randrange(256)
        else:
            value[at:at] = chance.choice(PIECES)
    return bytes(value)


def bind(signature: Signature, value: bytes, content_type: str) -> str:
    """'bound', or the code of the refusal; anything else that is raised fails the test."""
    refusal: DecodeError | None = None
    try:
        positional, named = signature.bind(Task("t", "tasks", 0, 0, None, value, [], 0, content_type=content_type))
    except DecodeError as error:
        refusal = error
    if refusal is None:
        assert isinstance(positional, tuple)
        assert isinstance(named, dict)
        return "bound"
    assert refusal.reason in (Reason.UNDECODABLE, Reason.INVALID)
    assert len(str(refusal)) <= 600
    assert str(refusal).isprintable()
    return refusal.code


def test_mutated_payloads_are_bound_or_refused() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    seen: Counter[str] = Counter()
    for _ in range(CASES):
        value, content_type = mutated(chance), chance.choice(CONTENT_TYPES)
        for signature in SIGNATURES:
            seen[bind(signature, value, content_type)] += 1
    print(dict(seen))
    assert seen["bound"] > CASES / 20
    assert set(seen) >= {"bound", "schema", "syntax", "encoding", "number", "too_deep", "content_type", "empty"}


TEXT = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_json_value_arrives_as_it_was(value: object) -> None:
    signature = SIGNATURES[2]
    task = Task("t", "tasks", 0, 0, None, json.dumps({"x": value}).encode(), [], 0)
    assert signature.bind(task) == ((value,), {})
