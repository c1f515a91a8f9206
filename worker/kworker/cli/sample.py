"""Arguments that a task takes, made up from the types of its parameters: for a command that can be run as it is shown.

Pure. Only what is required is given; what no type tells (a pattern, a rule in the function) may still refuse it.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import msgspec.inspect as seen

_SAME: dict[type[seen.Type], Any] = {
    seen.BoolType: True,
    seen.DateTimeType: "2030-01-31T09:00:00Z",
    seen.DateType: "2030-01-31",
    seen.TimeType: "09:00:00Z",
    seen.TimeDeltaType: "PT10S",
    seen.UUIDType: "00000000-0000-4000-8000-000000000000",
    seen.DecimalType: "1",
    seen.BytesType: "",
    seen.ByteArrayType: "",
    seen.MemoryViewType: "",
}
"""What stands for a value in JSON; anything that is not told here or below is null."""

_DEEPEST = 16
"""Levels that are made up; what needs itself for ever has no sample."""


def sample(parameters: type) -> Any:
    """What fits a struct of parameters, as JSON has it; a text says which it is for."""
    return _value(seen.type_info(parameters), "", _DEEPEST)


def _value(kind: seen.Type, name: str, left: int) -> Any:
    if not left:
        return None
    match kind:
        case seen.Metadata():
            return _value(kind.type, name, left)
        case seen.StrType():
            return _text(kind, name)
        case seen.IntType() | seen.FloatType():
            return _number(kind)
        case seen.EnumType():
            first: Enum = next(iter(kind.cls))
            return first.value
        case seen.LiteralType():
            return kind.values[0]
        case seen.UnionType():
            within = left < _DEEPEST - 3  # of itself, it may be: it has to end
            return None if within and kind.includes_none else _value(kind.types[0], name, left - 1)
        case seen.StructType() | seen.DataclassType() | seen.TypedDictType():
            given = {f.encode_name: _value(f.type, f.encode_name, left - 1) for f in kind.fields if f.required}
            return {**_tag(kind), **given}
        case seen.NamedTupleType():
            return [_value(field.type, field.name, left - 1) for field in kind.fields if field.required]
        case seen.TupleType():
            return [_value(item, name, left - 1) for item in kind.item_types]
        case seen.ListType() | seen.SetType() | seen.FrozenSetType() | seen.VarTupleType():
            return [_value(kind.item_type, name, left - 1)] * (kind.min_length or 0)
        case seen.DictType():
            return {}
    return _SAME.get(type(kind))


def _tag(kind: seen.Type) -> dict[str, Any]:
    if isinstance(kind, seen.StructType) and kind.tag_field is not None:
        return {kind.tag_field: kind.tag}
    return {}


def _number(kind: seen.IntType | seen.FloatType) -> float:
    step = kind.multiple_of or 1
    least = math.floor(kind.gt / step + 1) * step if kind.gt is not None else step if kind.ge is None else kind.ge
    most = math.ceil(kind.lt / step - 1) * step if kind.lt is not None else math.inf if kind.le is None else kind.le
    return min(math.ceil(least / step) * step, most)


def _text(kind: seen.StrType, name: str) -> str:
    text = "https://example.com/" if "url" in name.lower() else name or "text"
    return text.ljust(kind.min_length or 0, "x")[: kind.max_length]
