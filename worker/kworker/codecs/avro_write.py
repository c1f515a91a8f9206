"""Payloads written as Avro: what a publisher sends to a task that reads it.

Promises: what is written can be read: it is checked against the schema before, and walked over like a received payload
after. Text stands for what JSON has no type for (times, dates, UUIDs, decimals, bytes as base64), as in a JSON payload.
"""

from __future__ import annotations

import base64
import io
import reprlib
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import fastavro
import msgspec
from fastavro.validation import ValidationError

from kworker.codecs.avro import SINGLE_OBJECT
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.json import one_line
from kworker.errors import DecodeError

_NATIVE = (bytes, bytearray, datetime, date, time, Decimal, UUID)
_FROM_TEXT: dict[str, type] = {
    "date": date,
    "time-millis": time,
    "time-micros": time,
    "timestamp-millis": datetime,
    "timestamp-micros": datetime,
    "local-timestamp-millis": datetime,
    "local-timestamp-micros": datetime,
    "uuid": UUID,
    "decimal": Decimal,
}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "null": type(None),
    "boolean": bool,
    "int": int,
    "long": int,
    "float": (float, int),
    "double": (float, int),
    "string": str,
    "bytes": bytes,
    "fixed": bytes,
    "array": list,
    "map": dict,
    "record": dict,
    "error": dict,
}


def write(schema: AvroSchema, payload: object, *, schema_id: int | None = None) -> bytes:
    """`payload` as Avro: single-object encoding, or Confluent framing with the id that a registry gave the schema.

    payload: what msgspec can take apart (dicts, structs, dataclasses ...), or a msgspec.Raw of JSON text. Raises
    ValueError, saying what does not fit.
    """
    if schema_id is not None and not 0 <= schema_id < 2**32:
        raise ValueError(f"{schema_id} is not the id of a schema in a registry")
    head = SINGLE_OBJECT + schema.fingerprint if schema_id is None else b"\0" + schema_id.to_bytes(4, "big")
    stream = io.BytesIO()
    stream.write(head)
    try:
        builtins = msgspec.json.decode(payload) if isinstance(payload, msgspec.Raw) else payload
        value = _fitted(msgspec.to_builtins(builtins, builtin_types=_NATIVE), schema.parsed, schema)
        fastavro.validate(value, schema.parsed, strict=True)
        fastavro.schemaless_writer(stream, schema.parsed, value)
        result = stream.getvalue()
        schema.check(result, len(head))
    except DecodeError as error:
        raise ValueError(f"the payload does not fit the Avro schema: {error}") from error
    except ValidationError as error:
        raise ValueError(f"the payload does not fit the Avro schema: {_misfit(error)}") from error
    except Exception as error:  # fastavro and the types of a payload raise what they like
        raise ValueError(f"the payload does not fit the Avro schema: {one_line(str(error))}") from error
    return result


def _fitted(value: Any, schema: Any, root: AvroSchema) -> Any:
    """`value` with text turned into what the schema means by it; what does not fit stays, for fastavro to refuse."""
    schema = root.named.get(schema, schema) if isinstance(schema, str) else schema
    if isinstance(schema, list):
        return _branch(value, schema, root)
    kind = schema if isinstance(schema, str) else schema["type"]
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    if isinstance(value, dict) and kind in ("record", "error"):
        fields = {field["name"]: field for field in schema["fields"]}
        default = {name: field["default"] for name, field in fields.items() if "default" in field}
        for why, names in (
            ("no value for", fields.keys() - default.keys() - value.keys()),
            ("no field", value.keys() - fields.keys()),
        ):
            if names:
                raise ValueError(f"{schema['name']} has {why} {', '.join(sorted(names))}")
        return default | {n: _in_field(n, v, fields[n]["type"], root) for n, v in value.items()}
    if isinstance(value, dict) and kind == "map":
        return {name: _fitted(item, schema["values"], root) for name, item in value.items()}
    if isinstance(value, list) and kind == "array":
        return [_fitted(item, schema["items"], root) for item in value]
    if logical == "decimal" and isinstance(value, str | int | float | Decimal):
        return _decimal(value)
    if logical in _FROM_TEXT and isinstance(value, str):
        return msgspec.convert(value, _FROM_TEXT[logical])
    if kind in ("bytes", "fixed") and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return value


def _in_field(name: str, value: Any, schema: Any, root: AvroSchema) -> Any:
    try:
        return _fitted(value, schema, root)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _decimal(value: str | float | Decimal) -> Decimal:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise ValueError(f"{reprlib.repr(value)} is no decimal number")
    return number


def _branch(value: Any, branches: list[Any], root: AvroSchema) -> Any:
    """`value` as the first branch of a union that takes its like."""
    for branch in branches:
        try:
            fitted = _fitted(value, branch, root)
        except ValueError:
            continue
        schema = root.named.get(branch, branch) if isinstance(branch, str) else branch
        if _is_like(fitted, schema):
            return fitted
    return value


def _is_like(value: Any, schema: Any) -> bool:
    kind = schema if isinstance(schema, str) else schema["type"]
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    if kind == "enum":
        return value in schema["symbols"]
    if kind in ("record", "error") and isinstance(value, dict):
        return value.keys() == {field["name"] for field in schema["fields"]}
    types = _FROM_TEXT.get(str(logical)) or _TYPES[kind]
    return isinstance(value, types) and isinstance(value, bool) == (kind == "boolean")


def _misfit(error: ValidationError) -> str:
    """What does not fit, where, and what would, on one line; of a union all that it takes."""
    last = error.errors[-1]  # the deepest
    wanted = " or ".join(_named(found.schema) for found in error.errors if found.field == last.field)
    return one_line(f"{last.field or 'it'} is {reprlib.repr(last.datum)}, not {wanted}")


def _named(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    if schema["type"] == "enum":
        return f"one of {', '.join(schema['symbols'])}"
    return str(schema.get("name") or schema.get("logicalType") or schema["type"])
