"""Schemas of every kind, and a random value of any of them: what the tests of the Avro codec feed on."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID


def field(name: str, type: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type, **more}


def record(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def logical(type: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": type, "logicalType": name, **more}


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def mapping(values: Any) -> dict[str, Any]:
    return {"type": "map", "values": values}


TREE = record("zoo.Tree", field("name", "string"), field("children", array("zoo.Tree")))
LINKED = record("Linked", field("value", "int"), field("next", ["null", "Linked"]))
LOGICAL = record(
    "Logical",
    field("date", logical("int", "date")),
    field("at", logical("int", "time-millis")),
    field("at_micros", logical("long", "time-micros")),
    field("when", logical("long", "timestamp-millis")),
    field("when_micros", logical("long", "timestamp-micros")),
    field("local", logical("long", "local-timestamp-micros")),
    field("id", logical("string", "uuid")),
    field("price", logical("bytes", "decimal", precision=9, scale=2)),
    field("fixed_price", {"type": "fixed", "name": "Price", "size": 6, "logicalType": "decimal", "precision": 12}),
)
ZOO: list[Any] = [
    "null",
    "boolean",
    "int",
    "long",
    "float",
    "double",
    "bytes",
    "string",
    {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN", "BLUE"]},
    {"type": "fixed", "name": "Hash", "size": 5},
    array("null"),
    array("int"),
    array("double"),
    array(array("string")),
    mapping("long"),
    mapping(array("bytes")),
    ["null", "string", "long", array("int")],
    record("Empty"),
    record("Flat", field("n", "int"), field("s", "string"), field("b", ["null", "bytes"], default=None)),
    record("Solid", field("x", "double"), field("y", "float"), field("nothing", "null")),
    array(record("Point", field("x", "double"), field("y", "double"))),
    record("Reused", field("a", record("Inner", field("h", "float"))), field("b", "Inner"), field("c", array("Inner"))),
    LOGICAL,
    TREE,
    LINKED,
]


def value_of(schema: Any, chance: random.Random, names: dict[str, Any] | None = None, depth: int = 0) -> Any:
    """A random value of `schema`."""
    names = {} if names is None else names
    if isinstance(schema, list):
        return value_of(schema[0] if depth > 4 else chance.choice(schema), chance, names, depth + 1)
    if isinstance(schema, str):
        return _primitive(schema, chance) if schema not in names else value_of(names[schema], chance, names, depth)
    kind = schema["type"]
    if "name" in schema:
        names[schema["name"]] = schema
    if "logicalType" in schema:
        return _logical(schema, chance)
    if kind == "record":
        return {each["name"]: value_of(each["type"], chance, names, depth + 1) for each in schema["fields"]}
    if kind == "enum":
        return chance.choice(schema["symbols"])
    if kind == "fixed":
        return chance.randbytes(schema["size"])
    count = 0 if depth > 4 else chance.choice((0, 1, 2, 5))
    if kind == "array":
        return [value_of(schema["items"], chance, names, depth + 1) for _ in range(count)]
    if kind == "map":
        return {_text(chance): value_of(schema["values"], chance, names, depth + 1) for _ in range(count)}
    return _primitive(kind, chance)


def _text(chance: random.Random) -> str:
    return "".join(chance.choice("abcé😀\0") for _ in range(chance.randrange(6)))


def _primitive(kind: str, chance: random.Random) -> Any:
    match kind:
        case "null":
            return None
        case "boolean":
            return chance.random() < 0.5
        case "int":
            return chance.choice((0, -1, 63, 64, 2**31 - 1, -(2**31), chance.randrange(-1000, 1000)))
        case "long":
            return chance.choice((0, 2**63 - 1, -(2**63), chance.randrange(-(2**40), 2**40)))
        case "float":
            return chance.choice((0.0, -0.5, 1.5, float("inf")))
        case "double":
            return chance.choice((0.0, 1e308, chance.random()))
        case "bytes":
            return chance.randbytes(chance.randrange(5))
    return _text(chance)


def _logical(schema: dict[str, Any], chance: random.Random) -> Any:
    seconds = timedelta(seconds=chance.randrange(10**9), milliseconds=chance.randrange(1000))
    match schema["logicalType"]:
        case "date":
            return chance.choice((date.min, date.max, date(2024, 2, 29)))
        case "time-millis" | "time-micros":
            return chance.choice((time(0), time(23, 59, 59, 999000), time(12, 30)))
        case "timestamp-millis" | "timestamp-micros":
            return datetime(1970, 1, 1, tzinfo=UTC) + seconds * chance.choice((1, -1))
        case "local-timestamp-micros":
            return datetime(1970, 1, 1) + seconds
        case "uuid":
            return UUID(int=chance.getrandbits(128))
    most = 10 ** schema["precision"] - 1
    return Decimal(chance.choice((0, most, -most, chance.randrange(-most, most)))).scaleb(-schema.get("scale", 0))
