"""What publishers write as Avro: it is what the task reads, or it is refused before anything is sent."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from kit.avro_zoo import array, field, logical, mapping, record
from kworker.client import Message, as_avro
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.avro_write import write

ORDER = record(
    "shop.Order",
    field("id", logical("string", "uuid")),
    field("when", logical("long", "timestamp-micros")),
    field("day", ["null", logical("int", "date")], default=None),
    field("price", logical("bytes", "decimal", precision=8, scale=2)),
    field("raw", "bytes", default="\u00ff"),
    field("items", array(record("Item", field("name", "string"), field("n", "int", default=1))), default=[]),
    field("more", mapping(["null", "long", "double", "string", array("int"), "Item"]), default={}),
    field("colour", {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}, default="RED"),
    field("hash", ["null", {"type": "fixed", "name": "Hash", "size": 2}], default=None),
)
ID = UUID(int=7)
WHEN = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)


class Item(msgspec.Struct):
    name: str
    n: int = 1


@dataclasses.dataclass
class Order:
    id: UUID
    when: datetime
    price: Decimal
    items: list[Item]


def read(data: bytes, start: int = 10) -> dict[str, Any]:
    value: dict[str, Any] = AvroSchema(ORDER).read(data, start)
    return value


def test_python_values_and_their_text_are_written_alike() -> None:
    schema = AvroSchema(ORDER)
    objects = write(schema, Order(ID, WHEN, Decimal("12.5"), [Item("a"), Item("b", 2)]))
    text = msgspec.Raw(
        b'{"id": "00000000-0000-0000-0000-000000000007", "when": "2026-01-02T03:04:05.000006Z", "price": 12.5,'
        b' "items": [{"name": "a"}, {"name": "b", "n": 2}]}'
    )
    assert objects == write(schema, text)
    assert objects[:10] == b"\xc3\x01" + schema.fingerprint
    assert read(objects) == {
        "id": ID,
        "when": WHEN,
        "day": None,
        "price": Decimal("12.50"),
        "raw": b"\xff",
        "items": [{"name": "a", "n": 1}, {"name": "b", "n": 2}],
        "more": {},
        "colour": "RED",
        "hash": None,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"day": "2024-02-29"}, {"day": date(2024, 2, 29)}),
        ({"raw": "AAE="}, {"raw": b"\0\1"}),
        ({"raw": b"\0\1"}, {"raw": b"\0\1"}),
        ({"hash": "AAE="}, {"hash": b"\0\1"}),
        ({"price": "1.25"}, {"price": Decimal("1.25")}),
        ({"colour": "BLUE"}, {"colour": "BLUE"}),
        (
            {"more": {"a": None, "b": 1, "c": 1.5, "d": "x", "e": [1], "f": {"name": "i"}}},
            {"more": {"a": None, "b": 1, "c": 1.5, "d": "x", "e": [1], "f": {"name": "i", "n": 1}}},
        ),
    ],
)
def test_each_value_becomes_what_its_type_means(given: dict[str, Any], expected: dict[str, Any]) -> None:
    value = read(write(AvroSchema(ORDER), {"id": str(ID), "when": WHEN, "price": 1, **given}))
    assert {name: value[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"id": None}, "id"),
        ({"when": "yesterday"}, "RFC3339"),
        ({"price": "123456789.00"}, "decimal|precision"),
        ({"price": "1.234"}, "Scale"),
        ({"colour": "GREEN"}, "GREEN"),
        ({"items": [{}]}, "Item has no value for name"),
        ({"items": [{"name": "a", "x": 1}]}, "Item has no field x"),
        ({"unknown": 1}, "shop.Order has no field unknown"),
        ({"items": [{"name": "a", "n": 2**31}]}, "int"),
        ({"items": "a"}, "array"),
        ({"raw": "?"}, "base64|padding|alphabet"),
        ({"more": {"x": object()}}, "object"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=rf"the payload does not fit the Avro schema: .*({text})") as caught:
        write(AvroSchema(ORDER), {"id": ID, "when": WHEN, "price": 1, **given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"when": "yesterday"}, "when: Invalid RFC3339 encoded datetime"),
        ({"price": "NaN"}, "price: 'NaN' is no decimal number"),
        ({"price": Decimal("Infinity")}, "price: Decimal('Infinity') is no decimal number"),
        ({"price": "much"}, "price: 'much' is no decimal number"),
        ({"colour": "GREEN"}, "shop.Order.colour is 'GREEN', not one of RED, BLUE"),
        ({"items": [{"name": 5}]}, "shop.Item.name is 5, not string"),
        ({"items": [5]}, "shop.Order.items is 5, not shop.Item"),
        ({"raw": 5}, "shop.Order.raw is 5, not bytes"),
    ],
)
def test_a_refusal_says_where_and_what_in_one_sentence(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match="does not fit") as caught:
        write(AvroSchema(ORDER), {"id": ID, "when": WHEN, "price": 1, **given})
    assert str(caught.value) == f"the payload does not fit the Avro schema: {why}"


@pytest.mark.parametrize(("payload", "why"), [(None, "it is None, not shop.Order"), ([1], "it is [1], not shop.Order")])
def test_what_is_no_record_is_refused_in_one_sentence(payload: object, why: str) -> None:
    with pytest.raises(ValueError, match="does not fit") as caught:
        write(AvroSchema(ORDER), payload)
    assert str(caught.value) == f"the payload does not fit the Avro schema: {why}"


def test_of_a_union_all_types_are_named() -> None:
    with pytest.raises(ValueError, match=r"it is 'a', not null or decimal or boolean"):
        write(AvroSchema(["null", {"type": "bytes", "logicalType": "decimal", "precision": 3}, "boolean"]), "a")


def test_confluent_framing_has_the_id_of_the_registry() -> None:
    assert write(AvroSchema("long"), 5, schema_id=258) == b"\0\0\0\1\2\x0a"
    with pytest.raises(ValueError, match="not the id of a schema"):
        write(AvroSchema("long"), 5, schema_id=2**32)


def test_a_message_of_the_client_is_written_by_its_schema() -> None:
    sent = as_avro(Message("t", {"n": 1}, headers={"x": "y"}, schema=record("R", field("n", "int"))))
    assert isinstance(sent.payload, bytes)
    assert sent.payload[10:] == b"\x02"
    assert sent.headers == {"x": "y", "content-type": "application/avro"}
    for wrong, text in [
        (Message("t", {"n": "1"}, schema=record("R", field("n", "int"))), "does not fit"),
        (Message("t", 1, schema="nonsense"), "no type nonsense"),
        (Message("t", 1, schema_id=5), "give the schema as well"),
    ]:
        with pytest.raises(ValueError, match=f"cannot publish 't': .*{text}"):
            as_avro(wrong)
