"""Avro payloads of a task: framings, resolution to its own schema, logical types, and what is refused at load."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import fastavro
import pytest

from kit.avro_zoo import LINKED, LOGICAL, TREE, array, field, logical, mapping, record
from kworker import TaskSpec, task
from kworker.codecs.arguments import Arguments, Signature
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.limits import Limits
from kworker.errors import DecodeError, PluginError
from kworker.plugin import MARK
from kworker.task import Reason, Task

AVRO = "application/avro"
OLD = record("shop.Order", field("n", "int"), field("gone", "string"))
NEW = record(
    "shop.Order",
    field("n", "long"),
    field("tags", array("string"), default=[]),
    field("note", ["null", "string"], default=None),
)


def order(n: int, tags: list[str], note: str | None = None) -> None: ...


def signature(function: Callable[..., Any], schema: Any = None, schemas: Any = None, **options: Any) -> Signature:
    return Signature(TaskSpec("t", function, options.pop("executor", "thread"), schema=schema), schemas=schemas)


def message(value: bytes, content_type: str = AVRO, topic: str = "orders") -> Task:
    return Task("t", topic, 0, 0, None, value, [], 0, content_type=content_type)


def avro(schema: Any, value: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), value)
    return stream.getvalue()


def single_object(schema: Any, value: Any) -> bytes:
    return b"\xc3\x01" + AvroSchema(schema).fingerprint + avro(schema, value)


def refused(signature: Signature, task: Task) -> tuple[Reason, str]:
    with pytest.raises(DecodeError) as caught:
        signature.bind(task)
    assert str(caught.value).isprintable()
    return caught.value.reason, caught.value.code


# -- framings -----------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_that_of_the_specification() -> None:
    assert AvroSchema("int").fingerprint == 0x7275D51A3F395C8F.to_bytes(8, "little")  # from Avro's own test data
    assert AvroSchema("null").fingerprint == 0x63DD24E7CC258F8A.to_bytes(8, "little")


@pytest.mark.parametrize("content_type", [AVRO, "", "Application/AVRO; charset=x"])
def test_single_object_encoding_is_read_by_the_declared_schema(content_type: str) -> None:
    value = {"n": 7, "tags": ["a"], "note": "x"}
    assert signature(order, NEW).bind(message(single_object(NEW, value), content_type)) == ((7, ["a"], "x"), {})


def test_older_versions_are_resolved_to_the_last_one() -> None:
    bound = signature(order, [OLD, NEW]).bind(message(single_object(OLD, {"n": 7, "gone": "x"})))
    assert bound == ((7, [], None), {})


def test_a_fingerprint_that_is_not_declared_is_never_read_by_another_schema() -> None:
    for content_type in (AVRO, ""):
        task = message(single_object(OLD, {"n": 7, "gone": "x"}), content_type)
        assert refused(signature(order, NEW), task) == (Reason.UNDECODABLE, "schema_unknown")


@pytest.mark.parametrize("content_type", [AVRO, "avro/binary"])
def test_a_bare_payload_is_read_by_the_one_declared_schema(content_type: str) -> None:
    bound = signature(order, NEW).bind(message(avro(NEW, {"n": 7, "tags": [], "note": None}), content_type))
    assert bound == ((7, [], None), {})


def test_a_bare_payload_needs_a_schema_and_only_one() -> None:
    bare = message(avro(NEW, {"n": 7, "tags": [], "note": None}))
    assert refused(signature(order), bare) == (Reason.UNDECODABLE, "schema_unknown")
    assert refused(signature(order, [OLD, NEW]), bare) == (Reason.UNDECODABLE, "schema_unknown")


def test_avro_binary_is_bare_whatever_it_begins_with() -> None:
    def one(n: int) -> None: ...

    schema = record("One", field("n", "long"))
    value = avro(schema, {"n": -98})
    assert value == b"\xc3\x01"
    assert refused(signature(one, schema), message(value)) == (Reason.UNDECODABLE, "schema_unknown")
    assert signature(one, schema).bind(message(value, "avro/binary")) == ((-98,), {})


def test_json_is_read_as_ever_by_a_task_with_a_schema() -> None:
    for content_type in ("", "application/json"):
        assert signature(order, NEW).bind(message(b'{"n":7,"tags":[]}', content_type)) == ((7, [], None), {})


# -- what it means ------------------------------------------------------------------------------------------------


def test_logical_types_arrive_as_what_they_are() -> None:
    def take(
        date: date,
        at: time,
        at_micros: time,
        when: datetime,
        when_micros: datetime,
        local: datetime,
        id: UUID,
        price: Decimal,
        fixed_price: Decimal,
    ) -> None: ...

    value = {
        "date": date(2024, 2, 29),
        "at": time(23, 59, 59, 999000),
        "at_micros": time(0, 0, 0, 1),
        "when": datetime(9999, 12, 31, 23, 59, 59, 999000, UTC),
        "when_micros": datetime(1, 1, 1, tzinfo=UTC),
        "local": datetime(2026, 1, 2, 3, 4, 5, 6),
        "id": UUID(int=5),
        "price": Decimal("-1234567.89"),
        "fixed_price": Decimal(999_999_999_999),
    }
    positional, named = signature(take, LOGICAL).bind(message(single_object(LOGICAL, value)))
    assert (positional, named) == (tuple(value.values()), {})


def nothing(x: Any) -> None: ...


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (record("R", field("x", mapping("long"))), {"x": {"a": 1}}, {"a": 1}),
        (record("R", field("x", ["null", "bytes"])), {"x": b"\xff"}, b"\xff"),
        (record("R", field("x", "double")), {"x": float("inf")}, float("inf")),
        (record("R", field("x", {"type": "enum", "name": "E", "symbols": ["A", "B"]})), {"x": "B"}, "B"),
        (record("R", field("x", {"type": "fixed", "name": "F", "size": 2})), {"x": b"ab"}, b"ab"),
        (mapping("long"), {"x": 5}, 5),
        ("string", "alone", "alone"),
        (array("long"), [1, 2], [1, 2]),
        (["null", "long"], None, None),
    ],
)
def test_a_record_is_the_arguments_and_anything_else_the_single_one(schema: Any, value: Any, expected: Any) -> None:
    declared = [schema] if isinstance(schema, list) else schema  # a list is several schemas, also with one in it
    assert signature(nothing, declared).bind(message(avro(schema, value), "avro/binary")) == ((expected,), {})


def test_extra_fields_go_where_keyword_arguments_do() -> None:
    def take(n: int, /, **rest: int) -> None: ...

    schema = record("R", field("n", "int"), field("a", "int"))
    assert signature(take, schema).bind(message(single_object(schema, {"n": 1, "a": 2}))) == ((1,), {"a": 2})


def test_types_are_checked_as_strictly_as_those_of_json() -> None:
    def take(n: str) -> None: ...

    schema = record("R", field("n", "int"))
    assert refused(signature(take, schema), message(single_object(schema, {"n": 1}))) == (Reason.INVALID, "schema")


def test_what_does_not_fit_the_own_schema_is_invalid() -> None:
    def take(e: str) -> None: ...

    def enum(*symbols: str) -> Any:
        return record("R", field("e", {"type": "enum", "name": "E", "symbols": list(symbols)}))

    task = message(single_object(enum("A", "B"), {"e": "B"}))
    assert refused(signature(take, [enum("A", "B"), enum("A")]), task) == (Reason.INVALID, "schema_mismatch")


@pytest.mark.parametrize(
    ("schema", "value", "code"),
    [
        (logical("bytes", "decimal", precision=4, scale=2), b"\x04\x27\x10", "number"),  # 100.00 needs five digits
        (logical("bytes", "decimal", precision=4, scale=2), b"\x10" + b"\x7f" * 8, "number"),
        (logical("long", "timestamp-millis"), b"\xff" * 9 + b"\x01", "number"),
        (logical("long", "timestamp-micros"), avro("long", 2**62), "number"),
        (logical("int", "date"), avro("int", 2**31 - 1), "number"),
        (logical("int", "time-millis"), avro("int", 86_400_000), "number"),
        (logical("int", "time-millis"), avro("int", -1), "number"),
        (logical("long", "time-micros"), avro("long", 86_400_000_000), "number"),
        (logical("string", "uuid"), avro("string", "none"), "value"),
        ("int", avro("long", 2**31), "number"),
        ("boolean", b"\x02", "value"),
        ("string", b"\x02\xff", "encoding"),
    ],
)
def test_values_beyond_their_type_are_refused_and_never_rounded(schema: Any, value: bytes, code: str) -> None:
    wrapped = record("R", field("x", schema))
    assert refused(signature(nothing, wrapped), message(value)) == (Reason.UNDECODABLE, code)


def test_defaults_of_the_own_schema_have_their_types_and_are_nobody_elses() -> None:
    def take(n: int, raw: Any, when: Any, tags: Any, inner: Any, price: Any) -> None: ...

    writer = record("R", field("n", "int"))
    reader = record(
        "R",
        field("n", "int"),
        field("raw", "bytes", default="\u00ff"),
        field("when", logical("long", "timestamp-millis"), default=1000),
        field("tags", array("string"), default=["a"]),
        field("inner", record("I", field("b", "bytes", default="\u0001")), default={}),
        field("price", ["null", logical("bytes", "decimal", precision=4, scale=1)], default=None),
    )
    bind = signature(take, [writer, reader]).bind
    task = message(single_object(writer, {"n": 1}))
    first: Any = bind(task)[0]
    _, raw, when, tags, inner, price = first
    assert (raw, when, tags) == (b"\xff", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), ["a"])
    assert (inner, price) == ({"b": b"\x01"}, None)
    tags.append("changed by the task")
    inner.clear()
    assert bind(task)[0][3:5] == (["a"], {"b": b"\x01"})


# -- at load ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "record", "fields": []}, "name"),
        ({"type": "array"}, "'items' is missing"),
        (record("R", field("x", "nothing")), "it has no type nothing"),
        ({"type": "array", "items": 5}, "wrong type"),
        (record("R", field("x", "int"), field("x", "int")), "two fields of one name"),
        (record("R", field("x", {"type": "enum", "name": "E", "symbols": []})), "symbols"),
        (record("R", field("x", {"type": "fixed", "name": "F", "size": -1})), "size"),
        (record("R", field("x", {"type": "fixed", "name": "F", "size": 1 << 40})), "size"),
        (record("R", field("x", [])), "union"),
        (record("R", field("x", [["null"]])), "union"),
        (record("R", field("x", logical("bytes", "decimal"))), "precision"),
        (record("R", field("x", logical("bytes", "decimal", precision=10**9))), "precision"),
        (record("R", field("x", "int", default="five")), "[Dd]efault"),
        ([OLD, "nonsense"], "schema number 2 .* no type nonsense"),
        (TREE, 'contains itself, .* executor="process"'),
        ([NEW, LINKED], "schema number 2 contains itself"),
        ([NEW, {**NEW, "doc": "the same bytes"}], "same fingerprint"),
        (record("R", field("y", "int")), "its field y is no parameter; it has no field for the parameter x"),
    ],
)
def test_a_schema_that_cannot_be_used_is_told_at_load(schema: Any, text: str) -> None:
    with pytest.raises(PluginError, match=text) as caught:
        signature(nothing, schema)
    assert str(caught.value).startswith('task "t": ')
    assert "\n" not in str(caught.value)


def test_nesting_is_bounded_at_load() -> None:
    deep: Any = "int"
    for _ in range(Limits().max_depth + 1):
        deep = array(deep)
    with pytest.raises(PluginError, match="nests more than 64 deep"):
        signature(nothing, record("R", field("x", deep)))
    with pytest.raises(PluginError, match="deep"):
        signature(nothing, record("R", field("x", _nested(20_000))))


def _nested(depth: int) -> Any:
    schema: Any = "int"
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def test_schemas_that_contain_themselves_are_read_in_process_slots() -> None:
    def take(name: str, children: Any) -> None: ...

    value = {"name": "a", "children": [{"name": "b", "children": []}]}
    bound = signature(take, TREE, executor="process").bind(message(single_object(TREE, value)))
    assert bound == (("a", [{"name": "b", "children": []}]), {})


def test_the_decorator_takes_one_schema_or_several() -> None:
    @task("t", schema=[OLD, NEW])
    def taking(n: int, tags: list[str], note: str | None = None) -> None: ...

    spec = getattr(taking, MARK)
    bound: Arguments = Signature(spec).bind(message(single_object(OLD, {"n": 1, "gone": ""})))
    assert bound == ((1, [], None), {})
    assert "doc" not in NEW, "the plugin's own schema stays as it was written"
    assert "__fastavro_parsed" not in NEW
