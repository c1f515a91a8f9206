"""Payloads to arguments: what WIRE.md says of the value, and FAULTS.md, bad input 1, 7, 10 and 15."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import pathlib
import uuid
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import msgspec
import pytest

from kworker import Context, Plugin, PluginError, TaskSpec, task
from kworker.codecs.arguments import Arguments, Signature
from kworker.codecs.limits import Limits
from kworker.errors import DecodeError
from kworker.plugin import MARK
from kworker.task import Reason, Task

if TYPE_CHECKING:
    from pathlib import PurePath as OnlyForTypeCheckers


class Size(msgspec.Struct):
    width: int
    height: int = 1


@dataclasses.dataclass
class Place:
    city: str


class Options(TypedDict, total=False):
    crop: bool


class Colour(enum.Enum):
    RED = "red"


def signature(function: Callable[..., Any], limits: Limits | None = None) -> Signature:
    return Signature(TaskSpec("t", function, "thread"), limits)


def message(value: bytes | None, content_type: str = "") -> Task:
    return Task("t", "tasks", 0, 0, None, value, [], 0, content_type=content_type)


def bind(function: Callable[..., Any], value: bytes | None, content_type: str = "") -> Arguments:
    return signature(function).bind(message(value, content_type))


def refused(function: Callable[..., Any], value: bytes | None, content_type: str = "") -> tuple[Reason, str, str]:
    with pytest.raises(DecodeError) as caught:
        bind(function, value, content_type)
    assert len(str(caught.value)) <= 600
    return caught.value.reason, caught.value.code, str(caught.value)


def two(n: int, name: str = "x") -> None: ...
def one(n: int) -> None: ...
def none() -> None: ...
def optional(n: int = 5) -> None: ...
def nullable(n: int | None) -> None: ...
def nullable_optional(n: int | None = 5) -> None: ...
def anything(x) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001  # what a plugin may look like
def raw(data: bytes) -> None: ...
def raw_by_name(*, data: bytes | None) -> None: ...
def several_bytes(data: list[bytes]) -> None: ...
def extra(n: int = 0, **rest: int) -> None: ...
def with_context(path: str, width: int = 320, *, ctx: Context) -> None: ...
def context_first(ctx: Context, path: str, width: int = 320) -> None: ...
def context_between(a: int, ctx: Context, b: int) -> None: ...
def keyword_only(a: int, /, b: int, *, c: int = 3, d: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (two, b'{"n":1}', ((1, "x"), {})),
        (two, b' \r\n\t{"name":"y","n":1} ', ((1, "y"), {})),
        (two, b'{"n":1,"n":2}', ((2, "x"), {})),
        (one, b"7", ((7,), {})),
        (one, b'{"n":7}', ((7,), {})),
        (anything, b"[1,{}]", (([1, {}],), {})),
        (anything, b"null", ((None,), {})),
        (none, b"{}", ((), {})),
        (none, b"null", ((), {})),
        (none, None, ((), {})),
        (none, b"", ((), {})),
        (optional, None, ((5,), {})),
        (optional, b"", ((5,), {})),
        (optional, b" null ", ((5,), {})),
        (nullable, b"null", ((None,), {})),
        (nullable_optional, b"null", ((None,), {})),
        (nullable_optional, None, ((5,), {})),
        (raw, b'"aGk="', ((b"hi",), {})),
        (extra, b'{"a":1,"n":2,"b":3}', ((2,), {"a": 1, "b": 3})),
        (extra, None, ((0,), {})),
        (extra, b'{"ctx":1,"self":2}', ((0,), {"ctx": 1, "self": 2})),
        (with_context, b'{"path":"a"}', (("a", 320), {})),
        (context_first, b'{"path":"a"}', ((), {"path": "a", "width": 320})),
        (context_between, b'{"a":1,"b":2}', ((1,), {"b": 2})),
        (keyword_only, b'{"a":1,"b":2,"d":4}', ((1, 2), {"c": 3, "d": 4})),
        (raw_by_name, b"null", ((), {"data": None})),
    ],
)
def test_binds(function: Callable[..., Any], value: bytes | None, expected: Arguments) -> None:
    assert bind(function, value) == expected


INVALID, UNDECODABLE = Reason.INVALID, Reason.UNDECODABLE


@pytest.mark.parametrize(
    ("function", "value", "reason", "code", "text"),
    [
        (two, b'{"n":"1"}', INVALID, "schema", "Expected `int`, got `str` - at `$.n`"),
        (two, b'{"n":1.0}', INVALID, "schema", "Expected `int`, got `float` - at `$.n`"),
        (two, b'{"n":true}', INVALID, "schema", "Expected `int`, got `bool` - at `$.n`"),
        (two, b'{"n":null}', INVALID, "schema", "Expected `int`, got `null` - at `$.n`"),
        (two, b'{"n":1,"__class__":2}', INVALID, "schema", "Object contains unknown field `__class__`"),
        (two, b'{"name":"x"}', INVALID, "schema", "Object missing required field `n`"),
        (two, b"[1]", INVALID, "schema", "Expected a JSON object with the arguments by name"),
        (two, b"1", INVALID, "schema", "Expected a JSON object with the arguments by name"),
        (none, b"1", INVALID, "schema", "Expected a JSON object with the arguments by name"),
        (none, b'{"a":1}', INVALID, "schema", "Object contains unknown field `a`"),
        (extra, b"1", INVALID, "schema", "Expected a JSON object with the arguments by name"),
        (two, None, INVALID, "empty", "There is no payload: Object missing required field `n`"),
        (two, b"", INVALID, "empty", "There is no payload: Object missing required field `n`"),
        (one, b"null", INVALID, "empty", "There is no payload: Object missing required field `n`"),
        (one, b'"7"', INVALID, "schema", "Expected `int`, got `str`"),
        (extra, b'{"a":"x"}', INVALID, "schema", "Expected `int`, got `str` - in `$.a`"),
        (with_context, b'{"path":"a","ctx":1}', INVALID, "schema", "Object contains unknown field `ctx`"),
        (two, b'{"n":1', UNDECODABLE, "syntax", "Input data was truncated"),
        (two, b"[1", UNDECODABLE, "syntax", "Input data was truncated"),
        (two, b"[NaN]", UNDECODABLE, "number", "NaN and Infinity are not JSON (byte 1)"),
        (two, b'{"n":1e999}', UNDECODABLE, "number", "Number out of range - at `$.n`"),
        (two, b'{"n":1,"name":"\xff"}', UNDECODABLE, "encoding", "not UTF-8 text"),
        (two, b"\x00\x00\x00\x00\x01", UNDECODABLE, "syntax", "JSON is malformed: invalid character (byte 0)"),
        (one, b"1" * 100_000, UNDECODABLE, "number", "a number of more than 4300 digits"),
        (one, b"[" * 100, UNDECODABLE, "too_deep", "objects and arrays more than 64 deep"),
    ],
)
def test_refuses(function: Callable[..., Any], value: bytes | None, reason: Reason, code: str, text: str) -> None:
    assert refused(function, value) == (reason, code, text)


@pytest.mark.parametrize(
    ("hint", "good", "expected", "bad"),
    [
        (Size, b'{"width":2}', Size(2), b'{"width":"2"}'),
        (Place, b'{"city":"Ulm"}', Place("Ulm"), b"{}"),
        (Options, b'{"crop":true}', {"crop": True}, b'{"crop":1}'),
        (Colour, b'"red"', Colour.RED, b'"blue"'),
        (
            datetime.datetime,
            b'"2026-12-01T09:00:00Z"',
            datetime.datetime(2026, 12, 1, 9, tzinfo=datetime.UTC),
            b'"2026-13-01T09:00:00Z"',
        ),
        (datetime.datetime, b'"0001-01-01T00:00:00"', datetime.datetime(1, 1, 1), b"9999999999999999999999"),
        (datetime.timedelta, b'"P1D"', datetime.timedelta(1), b'"P999999999999D"'),
        (uuid.UUID, b'"00000000-0000-0000-0000-000000000001"', uuid.UUID(int=1), b'"1"'),
        (Decimal, b"0.1", Decimal("0.1"), b"1e99999999999999999999"),
        (Annotated[int, msgspec.Meta(ge=1)], b"1", 1, b"0"),
        (int | list[str], b'["a"]', ["a"], b"[1]"),
        (float, b"1", 1.0, b'"1"'),
        (dict[str, object], b'{"a":[1]}', {"a": [1]}, b"[]"),
    ],
)
def test_types(hint: Any, good: bytes, expected: object, bad: bytes) -> None:
    def function(x: object) -> None: ...

    function.__annotations__["x"] = hint
    assert bind(function, b'{"x":' + good + b"}") == ((expected,), {})
    assert refused(function, b'{"x":' + bad + b"}")[0] is INVALID


def test_raw_keeps_the_bytes() -> None:
    def function(x: msgspec.Raw) -> None: ...

    (found,), _ = bind(function, b'{"x":{"a" : 1}}')
    assert bytes(found) == b'{"a" : 1}'  # type: ignore[call-overload]  # Raw is a buffer, which its stub does not say


def test_defaults_are_the_functions_own_objects() -> None:
    shared: list[int] = [1]
    mark = object()

    def function(x: list[int] = shared, y: object = mark, z: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013  # a plugin may be this sloppy

    (x, y, z), _ = bind(function, b"{}")
    assert x is shared
    assert y is mark
    assert z is None


def test_the_keyword_arguments_are_new_each_time() -> None:
    compiled = signature(with_context)
    compiled.bind(message(b'{"path":"a"}'))[1]["ctx"] = 1
    assert compiled.bind(message(b'{"path":"a"}'))[1] == {}


def test_the_context_is_asked_for_by_its_name() -> None:
    assert signature(with_context).wants_context
    assert signature(context_first).wants_context
    assert not signature(two).wants_context
    assert not signature(extra).wants_context


def test_extra_fields_may_not_take_the_place_of_what_python_passes() -> None:
    class Group(Plugin):
        @task("grouped")
        def grouped(self, n: int = 0, *, ctx: Context, **rest: object) -> None: ...

    bound = Group().tasks()[0].function
    assert bind(bound, b'{"n":1,"a":2}') == ((1,), {"a": 2})
    for name in ("self", "ctx"):
        assert refused(bound, b'{"%s":1}' % name.encode())[1:] == ("schema", f"Object contains unknown field `{name}`")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.example.order+json",
        " application/problem+json;x=y",
        "; charset=utf-8",
    ],
)
def test_content_types_that_are_json(content_type: str) -> None:
    assert bind(two, b'{"n":1}', content_type) == ((1, "x"), {})


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        (
            "application/cloudevents-batch+json",
            "content type 'application/cloudevents-batch+json' is not read: use application/json or application/avro",
        ),
        ("text/plain", "content type 'text/plain' is not read: use application/json or application/avro"),
        (
            "application/octet-stream",
            "the task takes JSON: only a task with one parameter annotated bytes takes application/octet-stream",
        ),
    ],
)
def test_content_types_that_are_not_read(content_type: str, text: str) -> None:
    assert refused(two, b'{"n":1}', content_type) == (UNDECODABLE, "content_type", text)


def test_a_long_content_type_is_cut() -> None:
    assert len(refused(two, b"{}", "\x1b" + "x" * 100_000)[2]) <= 500


def test_bytes_are_passed_as_they_came() -> None:
    value = b"\x00\xff{["
    assert bind(raw, value, "application/octet-stream") == ((value,), {})
    assert bind(raw, value, "application/octet-stream; x=y") == ((value,), {})
    assert bind(raw_by_name, value, "application/octet-stream") == ((), {"data": value})
    assert refused(several_bytes, value, "application/octet-stream")[1] == "content_type"
    assert refused(raw, b"", "application/octet-stream")[:2] == (INVALID, "empty")


def test_bytes_have_a_limit() -> None:
    compiled = signature(raw, Limits(max_bytes=10))
    assert compiled.bind(message(b"x" * 10, "application/octet-stream")) == ((b"x" * 10,), {})
    with pytest.raises(DecodeError) as caught:
        compiled.bind(message(b"x" * 11, "application/octet-stream"))
    assert caught.value.code == "too_large"


def star(*names: str) -> None: ...
def custom(where: pathlib.Path) -> None: ...
def union(where: pathlib.Path | int) -> None: ...
def deep_custom(where: dict[str, list[pathlib.Path]]) -> None: ...
def iterable(names: Iterable[str]) -> None: ...
def unresolved(where: OnlyForTypeCheckers) -> None: ...
def other_name(context: Context) -> None: ...
def context_by_position(ctx: Context, /) -> None: ...
def two_dicts(value: Size | dict[str, int]) -> None: ...
def custom_extra(**where: pathlib.Path) -> None: ...


@pytest.mark.parametrize(
    ("function", "parameter", "what_to_do"),
    [
        (star, "names", "take a list instead"),
        (custom, "where", "convert it in the task"),
        (union, "where", "convert it in the task"),
        (deep_custom, "where", "convert it in the task"),
        (iterable, "names", "convert it in the task"),
        (two_dicts, "value", "convert it in the task"),
        (custom_extra, "where", "convert it in the task"),
        (unresolved, "where", "not only under TYPE_CHECKING"),
        (other_name, "context", "rename the parameter"),
        (context_by_position, "ctx", "write it after the /"),
    ],
)
def test_signatures_no_message_can_fill(function: Callable[..., Any], parameter: str, what_to_do: str) -> None:
    with pytest.raises(PluginError) as caught:
        signature(function)
    text = str(caught.value)
    assert text.startswith(f'task "t", parameter "{parameter}": ')
    assert text.endswith(what_to_do)
    assert "\n" not in text


def test_names_for_type_checkers_only_do_no_harm_where_no_message_goes() -> None:
    def function(n: int, *, ctx: OnlyForTypeCheckers) -> OnlyForTypeCheckers: ...  # type: ignore[empty-body]

    assert bind(function, b"1") == ((1,), {})


def test_a_marked_function_is_compiled_as_it_stands() -> None:
    @task("resize")
    def resize(size: Size, keep: bool = True) -> None: ...

    compiled = Signature(getattr(resize, MARK))
    assert compiled.bind(message(b'{"size":{"width":3}}')) == ((Size(3), True), {})


def test_json_schema() -> None:
    def resize(size: Size, x: object, mode: Colour = Colour.RED, tags: list[str] = [], *, ctx: Context) -> None: ...  # noqa: B006  # as plugins do

    schema = signature(resize).json_schema()
    body = schema["$defs"]["resize"]
    assert schema["$ref"] == "#/$defs/resize"
    assert body["required"] == ["size", "x"]
    assert body["additionalProperties"] is False
    assert set(body["properties"]) == {"size", "x", "mode", "tags"}
    assert body["properties"]["mode"]["default"] == "red"
    assert "additionalProperties" not in signature(extra).json_schema()["$defs"]["extra"]
