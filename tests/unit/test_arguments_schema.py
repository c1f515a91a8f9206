"""The Avro schema made of a signature: what each type becomes, and why some have none."""

from __future__ import annotations

import enum
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import fastavro
import msgspec
import pytest

from kworker import TaskSpec, task
from kworker.codecs.arguments import Signature
from kworker.codecs.arguments_schema import avro_schema, derived
from kworker.codecs.avro import AVRO
from kworker.testing import MemorySchemas, MemoryWorker


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Path(enum.Enum):
    HERE = "./here"


class Level(enum.IntEnum):
    LOW = 1


class Address(msgspec.Struct, rename={"zip_code": "zip"}):
    zip_code: str
    colour: Colour = Colour.RED


@dataclass
class Line:
    text: str
    marks: list[str] = field(default_factory=list)


class Point(TypedDict):
    x: float


class Partial(TypedDict):
    x: NotRequired[float]


class Pair(NamedTuple):
    a: int


class Row(msgspec.Struct, array_like=True):
    a: int


class Tree(msgspec.Struct):
    children: list[Tree]


class Square(msgspec.Struct, tag="square"):
    side: int


class Circle(msgspec.Struct, tag="circle"):
    radius: int


Thing = TypeVar("Thing")


class Box(msgspec.Struct, Generic[Thing]):
    thing: Thing


class Odd(msgspec.Struct, rename={"a": "a-b"}):
    a: int


def micros(name: str, type: str = "long") -> dict[str, str]:
    return {"type": type, "logicalType": name}


def schema_of(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    spec = TaskSpec("zoo.feed-me", function, **{"executor": "thread", **options})
    return derived(Signature(spec), spec)


def taking(hint: Any, *default: Any) -> Callable[..., Any]:
    def take(value: Any) -> None: ...

    take.__annotations__["value"] = hint
    take.__defaults__ = default or None
    return take


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        (None, "null"),
        (bool, "boolean"),
        (int, "long"),
        (float, "double"),
        (str, "string"),
        (Annotated[str, msgspec.Meta(max_length=3)], "string"),
        (bytes, "bytes"),
        (datetime, micros("timestamp-micros")),
        (Annotated[datetime, msgspec.Meta(tz=False)], micros("local-timestamp-micros")),
        (date, micros("date", "int")),
        (time, micros("time-micros")),
        (UUID, micros("uuid", "string")),
        (list[int], {"type": "array", "items": "long"}),
        (set[str], {"type": "array", "items": "string"}),
        (tuple[int, ...], {"type": "array", "items": "long"}),
        (dict[str, list[int]], {"type": "map", "values": {"type": "array", "items": "long"}}),
        (int | None, ["null", "long"]),
        (str | int | bool | None, ["boolean", "null", "long", "string"]),
        (Colour, {"type": "enum", "name": "zoo.Colour", "symbols": ["red", "blue"]}),
        (Path, "string"),
        (Level, "long"),
        (Literal["a", "b"], {"type": "enum", "name": "zoo.Value", "symbols": ["a", "b"]}),
        (Literal["a-b"], "string"),
        (Literal[1, 2], "long"),
        (Literal["a", 1, None], ["null", {"type": "enum", "name": "zoo.Value", "symbols": ["a"]}, "long"]),
        (Point, {"type": "record", "name": "zoo.Point", "fields": [{"name": "x", "type": "double"}]}),
    ],
)
def test_a_type_becomes(hint: Any, kind: Any) -> None:
    found = schema_of(taking(hint))
    assert (found["type"], found["name"]) == ("record", "zoo.feed_me")
    (only,) = found["fields"]
    if isinstance(kind, list):
        assert sorted(map(str, only["type"])) == sorted(map(str, kind))
    else:
        assert only["type"] == kind


@pytest.mark.parametrize(
    ("hint", "why"),
    [
        (Any, "value: it may be anything: annotate it with a type"),
        (object, "value: it may be anything: annotate it with a type"),
        (list, "value[]: it may be anything"),
        (dict, "value: the keys of an Avro map are text"),
        (dict[int, str], "value: the keys of an Avro map are text"),
        (dict[str, Any], "value[]: it may be anything"),
        (Decimal, "value: a Decimal tells no precision"),
        (timedelta, "value: Avro has no duration"),
        (tuple[int, str], "value: a tuple of parts"),
        (Pair, "value: a named tuple"),
        (Row, "value: Row is an array of several types"),
        (Partial, "value.x: a record of Avro has all its fields"),
        (Odd, "value.a-b: it is no name in Avro"),
        (Annotated[time, msgspec.Meta(tz=True)], "value: Time has none"),
        (int | datetime, "value: two of its types are one in Avro"),
        (Tree, "a type contains itself, which is read in process slots only"),
    ],
)
def test_a_type_that_has_no_schema_says_why(hint: Any, why: str) -> None:
    spec = TaskSpec("t", taking(hint), "thread")
    found = avro_schema(Signature(spec), spec)
    assert (found.definition, found.origin) == (None, None)
    assert str(found.missing).startswith(why)


def test_named_types_are_defined_once() -> None:
    def move(home: Address, work: Address | None, line: Line, colour: Colour = Colour.BLUE) -> None: ...

    colour = {"type": "enum", "name": "zoo.Colour", "symbols": ["red", "blue"]}
    assert schema_of(move)["fields"] == [
        {
            "name": "home",
            "type": {
                "type": "record",
                "name": "zoo.Address",
                "fields": [{"name": "zip", "type": "string"}, {"name": "colour", "type": colour, "default": "red"}],
            },
        },
        {"name": "work", "type": ["null", "zoo.Address"]},
        {
            "name": "line",
            "type": {
                "type": "record",
                "name": "zoo.Line",
                "fields": [
                    {"name": "text", "type": "string"},
                    {"name": "marks", "type": {"type": "array", "items": "string"}, "default": []},
                ],
            },
        },
        {"name": "colour", "type": "zoo.Colour", "default": "blue"},
    ]


def test_two_types_of_one_name_are_told_apart() -> None:
    first, second = (msgspec.defstruct("Same", [("a", kind)]) for kind in (int, str))

    def pack(a: Any, b: Any, c: Box[int], d: Box[str]) -> None: ...

    pack.__annotations__.update(a=first, b=second)
    names = [each["type"]["name"] for each in schema_of(pack)["fields"]]
    assert names == ["zoo.Same", "zoo.Same_2", "zoo.Box", "zoo.Box_2"]


@pytest.mark.parametrize(
    ("hint", "default", "kind", "written"),
    [
        (int | None, None, ["null", "long"], None),
        (int | None, 5, ["long", "null"], 5),
        (float, 1, "double", 1.0),
        (bool, True, "boolean", True),
        (bytes, b"\xff", "bytes", "\xff"),
        (list[int], [], {"type": "array", "items": "long"}, []),
        (dict[str, int], {}, {"type": "map", "values": "long"}, {}),
    ],
)
def test_a_default_is_the_schemas(hint: Any, default: Any, kind: Any, written: Any) -> None:
    (only,) = schema_of(taking(hint, default))["fields"]
    assert only == {"name": "value", "type": kind, "default": written}


@pytest.mark.parametrize(
    ("hint", "default"), [(int, None), (date, date(2024, 1, 1)), (list[int], [1]), (int, 2**70), (float, float("nan"))]
)
def test_a_default_that_avro_cannot_hold_is_always_written(hint: Any, default: Any) -> None:
    (only,) = schema_of(taking(hint, default))["fields"]
    assert "default" not in only


def test_further_fields_have_no_schema() -> None:
    def more_of(a: int, **more: int) -> None: ...

    with pytest.raises(ValueError, match=r"\*\*more takes fields that no schema can name"):
        schema_of(more_of)


def test_what_contains_itself_is_for_process_slots() -> None:
    found = schema_of(taking(Tree), executor="process")
    assert found["fields"][0]["type"]["fields"][0]["type"] == {"type": "array", "items": "zoo.Tree"}


def test_a_declared_schema_counts() -> None:
    spec = TaskSpec("t", taking(int), "thread", schema=["long", "int"])
    assert avro_schema(Signature(spec), spec) == ("int", "declared", None)


def test_tagged_structs_are_told_apart_by_their_tag() -> None:
    taken: list[Square | Circle] = []

    @task("draw")
    def draw(shape: Square | Circle) -> None:
        taken.append(shape)

    spec: TaskSpec = draw.__kworker_task__  # type: ignore[attr-defined]  # as @task marks it
    schema, schemas = derived(Signature(spec), spec), MemorySchemas()
    id = schemas.register("tasks-value", schema)
    with MemoryWorker(draw, schemas=schemas) as worker:
        for shape in ({"type": "circle", "radius": 1}, {"type": "square", "side": 2}):
            worker.publish("draw", {"shape": shape}, schema=schema, schema_id=id)
        worker.run()
        assert worker.dead_letters == []
    assert taken == [Circle(1), Square(2)]


def test_a_writer_may_leave_out_what_has_a_default() -> None:
    taken: list[object] = []

    @task("t")
    def note(a: int, b: int | None = 5, c: bytes = b"\xff", d: Colour = Colour.BLUE, e: list[int] = []) -> None:  # noqa: B006 - a default like any other
        taken.append((a, b, c, d, e))

    spec: TaskSpec = note.__kworker_task__  # type: ignore[attr-defined]  # as @task marks it
    schema, schemas = derived(Signature(spec), spec), MemorySchemas()
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), {"a": 1, "c": b"x"})
    id = schemas.register("tasks-value", schema)
    with MemoryWorker(note, schemas=schemas) as worker:
        worker.publish("t", b"\0" + id.to_bytes(4, "big") + stream.getvalue(), headers={"content-type": AVRO})
        worker.run()
        assert worker.dead_letters == []
    assert taken == [(1, 5, b"x", Colour.BLUE, [])]
