"""One Avro schema, compiled once: what fastavro reads by, and the walk that makes its payloads harmless.

Promises: a schema that cannot be used is refused here, with ValueError, and not by the payload that meets it; what
`read` returns was walked over first (avro_scan.py), and anything wrong with the bytes is a DecodeError. Logical types
become Python's: datetime, date, time, Decimal, UUID. Defaults of the reader's fields come as values of their types.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import fastavro
from fastavro.read import LOGICAL_READERS, SchemaResolutionError
from fastavro.schema import SchemaParseException, UnknownType, fingerprint, to_parsing_canonical_form

from kworker.codecs import avro_scan as walk
from kworker.codecs.avro_scan import Node, refuse
from kworker.codecs.json import one_line
from kworker.codecs.limits import Limits
from kworker.errors import DecodeError
from kworker.task import Reason

Definition = str | Mapping[str, Any] | Sequence[Any]
"""A schema as JSON holds it: a type's name, an object, or a union's list."""

LONGEST_DECIMAL = 4300
"""Digits of a decimal, as of a number in JSON."""

_INT = (-(2**31), 2**31 - 1, "int (32 bits)")
_LONG = (-(2**63), 2**63 - 1, "long (64 bits)")
_DAY = 86_400_000_000
_FIRST = (datetime(1, 1, 1) - datetime(1970, 1, 1)).days * _DAY  # microseconds
_LAST = (datetime(9999, 12, 31) - datetime(1970, 1, 1)).days * _DAY + _DAY - 1
_TIMESTAMP = "time of the years 1 to 9999"
_RANGES: dict[tuple[str, str], tuple[int, int, str]] = {
    ("int", "date"): (date.min.toordinal() - 719163, date.max.toordinal() - 719163, "date of the years 1 to 9999"),
    ("int", "time-millis"): (0, _DAY // 1000 - 1, "time of day"),
    ("long", "time-micros"): (0, _DAY - 1, "time of day"),
    ("long", "timestamp-millis"): (_FIRST // 1000, _LAST // 1000, _TIMESTAMP),
    ("long", "timestamp-micros"): (_FIRST, _LAST, _TIMESTAMP),
    ("long", "local-timestamp-millis"): (_FIRST // 1000, _LAST // 1000, _TIMESTAMP),
    ("long", "local-timestamp-micros"): (_FIRST, _LAST, _TIMESTAMP),
}
_PRIMITIVES: dict[str, Callable[[], Node]] = {
    "null": lambda: walk.Fixed(0),
    "boolean": walk.Boolean,
    "int": lambda: walk.Number(*_INT),
    "long": lambda: walk.Number(*_LONG),
    "float": lambda: walk.Fixed(4),
    "double": lambda: walk.Fixed(8),
    "bytes": walk.Text,
    "string": walk.Text,
}
_UNUSABLE = (SchemaParseException, UnknownType, KeyError, TypeError, ValueError, AttributeError, RecursionError)


class AvroSchema:
    """One schema, and the schemas of the named types it refers to.

    definition: as `json.loads` gives it. references: definitions of named types that it uses, each after those that
    it uses itself. Raises ValueError for what is no Avro schema, or nests deeper than payloads may.
    """

    def __init__(
        self, definition: Definition, limits: Limits | None = None, references: Sequence[Definition] = ()
    ) -> None:
        self._limits = limits or Limits()
        self.named: dict[str, Any] = {}
        """The named types in it, by full name, as fastavro has parsed them."""
        named = self.named
        try:
            for reference in references:
                fastavro.parse_schema(_plain(reference), named)
            self.parsed: Any = fastavro.parse_schema(_plain(definition), named)
            compiled = _Compilation(named, self._limits)
            self.root = compiled.node(self.parsed)
            self.recursive: bool = compiled.recursive
            """Whether a type contains itself."""
            self.fingerprint = bytes.fromhex(fingerprint(to_parsing_canonical_form(self.parsed), "CRC-64-AVRO"))
            """CRC-64-AVRO of its canonical form, as single-object encoding writes it: 8 bytes, little-endian."""
            self._shared = _native_defaults(self.parsed, named)
        except _UNUSABLE as error:
            raise ValueError(_why(error)) from error
        if self.root.height > self._limits.max_depth:
            raise ValueError(f"it nests more than {self._limits.max_depth} deep")

    @property
    def name(self) -> str:
        """The full name of the record (enum, fixed) that it describes, or ''."""
        return str(self.parsed.get("name", "")) if isinstance(self.parsed, dict) else ""

    @property
    def fields(self) -> tuple[str, ...] | None:
        """The names of its fields, or None when it is no record."""
        if isinstance(self.parsed, dict) and self.parsed["type"] in ("record", "error"):
            return tuple(field["name"] for field in self.parsed["fields"])
        return None

    def check(self, value: bytes, start: int = 0) -> None:
        """Raise DecodeError unless `value`, from `start`, is one value of this schema, within the limits."""
        walk.scan(self.root, value, start, self._limits)

    def read(self, value: bytes, start: int = 0, reader: AvroSchema | None = None) -> Any:
        """The value that `value` holds from `start`, resolved to the `reader`'s schema when there is one.

        Raises DecodeError: `undecodable` for bytes that cannot be read by this schema, `invalid` (`schema_mismatch`)
        when what was read does not fit the reader's.
        """
        self.check(value, start)
        stream = io.BytesIO(value)
        stream.seek(start)
        try:
            result = fastavro.schemaless_reader(stream, self.parsed, reader.parsed if reader else None)
        except SchemaResolutionError as error:
            why = one_line(f"Avro: it does not fit the task's schema: {error}")
            raise DecodeError(Reason.INVALID, "schema_mismatch", why) from None
        except UnicodeDecodeError:
            refuse("encoding", "a string that is not UTF-8")
        except Exception as error:  # whatever a logical type makes of the bytes (a string that is no UUID)
            refuse("value", one_line(f"{type(error).__name__}: {error}"))
        # A default of the reader's is one object for all messages: who changes its list would change it for all.
        return copy.deepcopy(result) if reader is not None and reader._shared else result


class _Compilation:
    """Turns a parsed schema into nodes, each named type once."""

    def __init__(self, named: Mapping[str, Any], limits: Limits) -> None:
        self.recursive = False
        self._named = named
        self._limits = limits
        self._nodes: dict[str, Node] = {}
        self._open: set[str] = set()
        self._depth = 0

    def node(self, schema: Any) -> Node:
        """The node of one type. Raises ValueError, KeyError or TypeError for what is none."""
        if self._depth > 4 * self._limits.max_depth:
            raise ValueError("it nests too deep")
        self._depth += 1
        try:
            return self._node(schema)
        finally:
            self._depth -= 1

    def _node(self, schema: Any) -> Node:
        if isinstance(schema, list):
            if not schema or any(isinstance(branch, list) for branch in schema):
                raise ValueError("a union has types, and no union among them")
            return walk.Union([self.node(branch) for branch in schema])
        if isinstance(schema, str):
            return _PRIMITIVES[schema]() if schema in _PRIMITIVES else self._reference(schema)
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._record(schema)
        if kind in ("enum", "fixed"):
            node = self._enum(schema) if kind == "enum" else self._fixed(schema)
            self._nodes[schema["name"]] = node
            return node
        if kind in ("array", "map"):
            return walk.Blocks(self.node(schema["items" if kind == "array" else "values"]), keys=kind == "map")
        logical = schema.get("logicalType")
        if (kind, logical) in _RANGES:
            return walk.Number(*_RANGES[kind, logical])
        if kind == "bytes" and logical == "decimal":
            return walk.Decimal(_precision(schema), None)
        return self.node(kind)

    def _reference(self, name: str) -> Node:
        if name in self._open:
            self.recursive = True
        elif name not in self._nodes:
            return self.node(self._named[name])
        return self._nodes[name]

    def _record(self, schema: dict[str, Any]) -> Node:
        name, fields = schema["name"], schema["fields"]
        if len({field["name"] for field in fields}) != len(fields):
            raise ValueError(f"{name} has two fields of one name")
        record = self._nodes[name] = walk.Record()
        self._open.add(name)
        record.complete([self.node(field["type"]) for field in fields])
        self._open.discard(name)
        return record

    def _enum(self, schema: dict[str, Any]) -> Node:
        symbols = schema["symbols"]
        if not symbols or len(set(symbols)) != len(symbols):
            raise ValueError(f"{schema['name']}: an enum has symbols, each once")
        return walk.Choice(len(symbols))

    def _fixed(self, schema: dict[str, Any]) -> Node:
        size = schema["size"]
        if not isinstance(size, int) or not 0 <= size <= self._limits.max_bytes:
            raise ValueError(f"{schema['name']}: its size is not from 0 to {self._limits.max_bytes} bytes")
        return walk.Decimal(_precision(schema), size) if schema.get("logicalType") == "decimal" else walk.Fixed(size)


def _precision(schema: dict[str, Any]) -> int:
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if not isinstance(precision, int) or not 1 <= precision <= LONGEST_DECIMAL or not 0 <= scale <= precision:
        raise ValueError(f"a decimal has a precision from 1 to {LONGEST_DECIMAL}, and a scale up to it")
    return precision


def _native_defaults(parsed: Any, named: Mapping[str, Any]) -> bool:
    """Give the defaults of fields the types that values have; returns whether one of them can be changed.

    fastavro puts a default into a record as the schema's JSON has it: text for bytes, a number for a timestamp.
    """
    native: list[tuple[dict[str, Any], Any]] = []
    waiting, seen = [parsed, *named.values()], set()
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, list):
            waiting += schema
        elif isinstance(schema, dict) and id(schema) not in seen:
            seen.add(id(schema))
            waiting += [schema[key] for key in ("items", "values") if key in schema]
            for field in schema.get("fields", ()):
                waiting.append(field["type"])
                if "default" in field and id(field) not in seen:
                    seen.add(id(field))
                    native.append((field, _native(field["default"], field["type"], named)))
    for field, default in native:  # last: a record's default may use those of its fields, as JSON has them
        field["default"] = default
    return any(isinstance(default, list | dict) for _, default in native)


def _native(default: Any, schema: Any, named: Mapping[str, Any]) -> Any:
    """A default, as JSON has it, as a value of its type."""
    if isinstance(schema, list):  # the first branch by the specification; newer versions allow the one that fits
        schema = next((branch for branch in schema if (branch == "null") is (default is None)), schema[0])
    schema = named.get(schema, schema) if isinstance(schema, str) else schema
    kind = schema if isinstance(schema, str) else schema["type"]
    if kind in ("bytes", "fixed"):
        default = default.encode("latin-1")
    elif kind in ("float", "double"):
        default = float(default)
    elif kind == "array":
        default = [_native(item, schema["items"], named) for item in default]
    elif kind == "map":
        default = {key: _native(item, schema["values"], named) for key, item in default.items()}
    elif kind in ("record", "error"):
        default = {
            field["name"]: _native(default.get(field["name"], field.get("default")), field["type"], named)
            for field in schema["fields"]
        }
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    convert = LOGICAL_READERS.get(f"{kind}-{logical}") if logical else None
    return convert(default, schema, None) if convert else default


def _plain(definition: Definition) -> Any:
    """A copy that fastavro may mark as its own: the plugin's stays as it was written."""
    return copy.deepcopy(definition)


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it nests too deep"
    if isinstance(error, KeyError):
        return f"{error} is missing or unknown"
    if isinstance(error, TypeError | AttributeError):
        return f"a part of it is of the wrong type ({error})"
    if isinstance(error, UnknownType):
        return f"it has no type {error}"
    return one_line(str(error))
