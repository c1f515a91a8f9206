"""Arguments made up from a task's signature: the task takes them."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from types import SimpleNamespace
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta

from kit.attempts import entry_of
from kworker import Context, TaskSpec
from kworker.cli.dev import _arguments
from kworker.codecs.arguments import Signature
from kworker.registry import LoadedTask


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Place:
    x: int
    y: float


class Node(msgspec.Struct):
    name: str
    next: Node | None


def nothing() -> None: ...
def only_optional(a: int = 1, *, b: str = "x") -> None: ...
def anything(x: Any, ctx: Context) -> None: ...
def words(url: str, path: str, flag: bool, data: bytes) -> None: ...
def times(at: datetime, day: date, id: UUID) -> None: ...
def choices(colour: Colour, size: Literal["s", "m"], either: int | str) -> None: ...
def parts(place: Place, places: list[Place], pair: tuple[int, str], table: dict[str, int]) -> None: ...
def tree(node: Node) -> None: ...
def limited(
    few: Annotated[int, Meta(ge=7)],
    less: Annotated[int, Meta(lt=-3)],
    even: Annotated[int, Meta(gt=4, multiple_of=2)],
    part: Annotated[float, Meta(ge=0, le=0.5)],
    long: Annotated[str, Meta(min_length=12)],
    short: Annotated[str, Meta(max_length=2)],
    some: Annotated[list[int], Meta(min_length=2)],
) -> None: ...


@pytest.mark.parametrize(
    "function",
    [nothing, only_optional, anything, words, times, choices, parts, tree, limited],
    ids=lambda f: f.__name__,
)
def test_the_task_takes_them(function: Callable[..., Any]) -> None:
    spec = TaskSpec("t", function, "thread")
    signature = Signature(spec)
    text = _arguments(cast(LoadedTask, SimpleNamespace(spec=spec, signature=signature)))
    signature.bind(entry_of("t", text.encode(), content_type="application/json").task)


def test_they_say_what_they_are() -> None:
    signature = Signature(TaskSpec("t", words, "thread"))
    text = _arguments(cast(LoadedTask, SimpleNamespace(signature=signature)))
    assert json.loads(text) == {"url": "https://example.com/", "path": "path", "flag": True, "data": ""}
