"""The Avro schema of a task's arguments: the one it declares, else one made of its signature.

Promises: a record written by a derived schema is what the function takes, as far as types go (limits such as a longest
text are checked by the worker all the same); where a part of the signature has no one Avro type, there is no schema but
the reason. Derived schemas are for publishers: to register at a schema registry, or to declare as `@task(schema=)`. A
worker never reads by one that it derived itself, as it would change with the function.

Null, bool, int (long), float (double), str, bytes, datetime and time (microseconds), date, UUID, lists and sets, dicts
by text, structs, dataclasses, typed dicts, enums and Literal, and unions of these have one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import msgspec.inspect as seen
from msgspec import NODEFAULT

from kworker.codecs.arguments import Signature
from kworker.codecs.avro import definitions
from kworker.codecs.avro_schema import AvroSchema
from kworker.plugin import TaskSpec

Record = seen.StructType | seen.DataclassType | seen.TypedDictType

_LONG = range(-(2**63), 2**63)
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_SAME: dict[type[seen.Type], Any] = {
    seen.NoneType: "null",
    seen.BoolType: "boolean",
    seen.IntType: "long",
    seen.FloatType: "double",
    seen.StrType: "string",
    seen.BytesType: "bytes",
    seen.ByteArrayType: "bytes",
    seen.MemoryViewType: "bytes",
    seen.DateType: {"type": "int", "logicalType": "date"},
    seen.UUIDType: {"type": "string", "logicalType": "uuid"},
}
_NONE: dict[type[seen.Type], str] = {
    seen.AnyType: "it may be anything: annotate it with a type",
    seen.CustomType: "it may be anything: annotate it with a type",
    seen.RawType: "it may be anything: annotate it with a type",
    seen.DecimalType: "a Decimal tells no precision and scale",
    seen.TimeDeltaType: "Avro has no duration that is read",
    seen.TupleType: "a tuple of parts is no array of one type: use a struct",
    seen.NamedTupleType: "a named tuple is an array of several types: use a struct",
}
_ABSENT = object()


class ArgumentsSchema(NamedTuple):
    """What `kworker plugins --schema` tells of Avro: the schema, whose it is, or why there is none."""

    definition: Any
    origin: str | None
    missing: str | None = None


def avro_schema(signature: Signature, spec: TaskSpec) -> ArgumentsSchema:
    """The Avro schema of the arguments, as JSON has it. origin: `declared` or `derived`, None when there is none."""
    declared = definitions(spec)
    if declared:
        return ArgumentsSchema(declared[-1], "declared")
    try:
        return ArgumentsSchema(derived(signature, spec), "derived")
    except ValueError as error:
        return ArgumentsSchema(None, None, str(error))


def derived(signature: Signature, spec: TaskSpec) -> dict[str, Any]:
    """An Avro record whose fields are the arguments. Raises ValueError, naming the parameter that has no Avro type."""
    if signature.extra is not None:
        raise ValueError(f"**{signature.extra} takes fields that no schema can name")
    arguments = seen.type_info(signature.struct)
    assert isinstance(arguments, seen.StructType)
    definition = _Derivation(spec.name, arguments).schema()
    compiled = AvroSchema(definition)
    if compiled.recursive and spec.executor != "process":
        raise ValueError("a type contains itself, which is read in process slots only")
    return definition


class _Derivation:
    """One schema in the making. Named types are defined where they are first met, then referred to."""

    def __init__(self, task: str, arguments: seen.StructType) -> None:
        self._arguments = arguments
        parts = [_word(part) for part in task.split(".")]
        self._namespace = ".".join(parts[:-1])
        self._names: dict[object, str] = {id(arguments): ".".join(parts)}
        self._enums: dict[str, list[str]] = {}

    def schema(self) -> dict[str, Any]:
        """The record of the arguments."""
        return self._record(self._arguments, self._names[id(self._arguments)], "")

    def _type(self, info: seen.Type, where: str) -> Any:
        """The Avro type of one type. where: the path to it, as a fault names it."""
        if isinstance(info, seen.Metadata):
            return self._type(info.type, where)
        if type(info) in _SAME:
            return _SAME[type(info)]
        if type(info) in _NONE:
            raise _no_type(where, _NONE[type(info)])
        if isinstance(info, seen.DateTimeType):
            return {"type": "long", "logicalType": f"{'local-' if info.tz is False else ''}timestamp-micros"}
        if isinstance(info, seen.TimeType) and info.tz is not True:
            return {"type": "long", "logicalType": "time-micros"}
        if isinstance(info, seen.CollectionType):
            return {"type": "array", "items": self._type(info.item_type, f"{where}[]")}
        if isinstance(info, seen.DictType):
            if not isinstance(info.key_type, seen.StrType):
                raise _no_type(where, "the keys of an Avro map are text (str)")
            return {"type": "map", "values": self._type(info.value_type, f"{where}[]")}
        if isinstance(info, seen.EnumType):
            return self._choice(info.cls, [member.value for member in info.cls], info.cls.__name__, where)
        if isinstance(info, seen.LiteralType):
            name = re.sub(r"\W", "", where.rpartition(".")[2]).title().replace("_", "")
            return self._choice(info.values, info.values, name, where)
        if isinstance(info, seen.UnionType):
            return self._union([self._type(kind, where) for kind in info.types], where)
        if isinstance(info, Record):
            name, is_new = self._name(id(info), info.cls.__name__)
            return self._record(info, name, where) if is_new else name
        raise _no_type(where, f"{type(info).__name__.removesuffix('Type')} has none")

    def _choice(self, key: object, values: Iterable[Any], name: str, where: str) -> Any:
        """An enum of texts that are names; else what the values are."""
        values = tuple(values)
        texts = [value for value in values if isinstance(value, str)]
        kinds: list[Any] = ["null"] if None in values else []
        if texts and all(_NAME.fullmatch(text) for text in texts):
            name, is_new = self._name(key, name)
            self._enums[name] = texts
            kinds.append({"type": "enum", "name": name, "symbols": texts} if is_new else name)
        elif texts:
            kinds.append("string")
        if any(isinstance(value, int) for value in values):
            kinds.append("long")
        return kinds[0] if len(kinds) == 1 else self._union(kinds, where)

    def _union(self, kinds: Iterable[Any], where: str) -> list[Any]:
        branches: list[Any] = []
        for kind in kinds:
            branches += kind if isinstance(kind, list) else [kind]
        # fastavro writes the first that will do: it takes True for a number, and a number for a date.
        branches.sort(key=lambda branch: (branch not in ("null", "boolean"), "logicalType" in branch))
        bases = [_base(branch) for branch in branches]
        if len(set(bases)) != len(bases):
            raise _no_type(where, "two of its types are one in Avro")
        return branches

    def _record(self, info: Record, name: str, where: str) -> dict[str, Any]:
        if isinstance(info, seen.StructType) and info.array_like:
            raise _no_type(where, f"{info.cls.__name__} is an array of several types: leave array_like out")
        return {"type": "record", "name": name, "fields": list(self._fields(info, name, where))}

    def _fields(self, info: Record, record: str, where: str) -> Iterator[dict[str, Any]]:
        if isinstance(info, seen.StructType) and info.tag_field is not None:
            if not _NAME.fullmatch(info.tag_field) or not _NAME.fullmatch(str(info.tag)):
                raise _no_type(where, f"the tag of {info.cls.__name__} is no name in Avro")
            yield {"name": info.tag_field, "type": {"type": "enum", "name": f"{record}_tag", "symbols": [info.tag]}}
        for field in info.fields:
            path = f"{where}.{field.encode_name}" if where else field.encode_name
            if not _NAME.fullmatch(field.encode_name):
                raise _no_type(path, "it is no name in Avro: letters of ASCII, digits and _")
            if not field.required and isinstance(info, seen.TypedDictType):
                raise _no_type(path, "a record of Avro has all its fields")
            kind, default = self._with_default(self._type(field.type, path), self._default_of(info, field))
            yield {"name": field.encode_name, "type": kind, **default}

    def _default_of(self, info: Record, field: seen.Field) -> object:
        """A field's default; what a factory of the plugin's would make is not asked for, unless it is an empty one."""
        if field.default_factory in (list, dict, set) or (info is self._arguments and callable(field.default_factory)):
            return field.default_factory()
        return _ABSENT if field.default is NODEFAULT else field.default

    def _with_default(self, kind: Any, value: object) -> tuple[Any, dict[str, Any]]:
        """The type, the branch of its default first, and the default; none where Avro's JSON cannot hold it."""
        branches = kind if isinstance(kind, list) else [kind]
        for branch in branches:
            default = _as_default(branch, value, self._enums)
            if default is not _ABSENT:
                others = [other for other in branches if other is not branch]
                return ([branch, *others] if others else branch), {"default": default}
        return kind, {}

    def _name(self, key: object, wanted: str) -> tuple[str, bool]:
        """The full name of the type that is one by its key, and whether it is new."""
        if key in self._names:
            return self._names[key], False
        base = f"{self._namespace}.{_word(wanted)}".lstrip(".")
        taken, name, number = set(self._names.values()), base, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        self._names[key] = name
        return name, True


def _as_default(kind: Any, value: object, enums: dict[str, list[str]]) -> Any:
    """The value as a default of this type, or _ABSENT when it is none of its values, or no plain one."""
    value = value.value if isinstance(value, Enum) else value
    symbols = enums.get(kind["name"] if isinstance(kind, dict) and "name" in kind else str(kind))
    if isinstance(kind, dict) and "logicalType" in kind:
        return _ABSENT
    match _base(kind), value:
        case ("null", None) | ("boolean", bool()):
            return value
        case ("long", int()) if not isinstance(value, bool) and value in _LONG:
            return value
        case ("double", int() | float()) if not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        case "string", str():
            return value
        case "bytes", bytes():
            return value.decode("latin-1")
        case _, str() if symbols is not None and value in symbols:
            return value
        case ("array", list() | tuple() | set() | frozenset()) if not value:
            return []
        case ("map", dict()) if not value:
            return {}
    return _ABSENT


def _base(kind: Any) -> str:
    """What tells two branches of a union apart: the type, of a named one its name."""
    return str(kind.get("name", kind["type"])) if isinstance(kind, dict) else str(kind)


def _word(text: str) -> str:
    """Text as a name of Avro."""
    word = re.sub(r"\W", "_", text, flags=re.ASCII)
    return word if _NAME.fullmatch(word) else f"_{word}"


def _no_type(where: str, why: str) -> ValueError:
    return ValueError(f"{where}: {why}")
