"""A task's arguments: one payload, checked against the function's signature.

Promises: `bind` gives what the function is called with, or raises DecodeError: `undecodable` for bytes that cannot be
read, `invalid` for what was read but does not fit. Nothing is coerced (no "1" for an int) but what JSON cannot write:
dates, UUIDs, bytes and decimals come as strings. Nothing a message holds is imported, executed or looked up by name.

What a payload means (WIRE.md):
- a JSON object is the keyword arguments; unknown fields are refused unless the function has `**kwargs`;
- any other JSON value is the single argument of a function that has one parameter;
- no payload, an empty one, or `null` where no parameter takes None, is no arguments;
- `application/octet-stream` is the single argument of a function that has one parameter that takes `bytes`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from enum import Enum
from types import UnionType
from typing import Annotated, Any, NoReturn, Union

import msgspec
from msgspec.structs import astuple

from kworker.codecs.json import check, one_line, refusal
from kworker.codecs.limits import Limits
from kworker.codecs.parameters import NO_DEFAULT, Parameter, Parameters, read, schema_of_object
from kworker.errors import DecodeError, PluginError
from kworker.plugin import TaskSpec
from kworker.task import Reason, Task

Arguments = tuple[tuple[object, ...], dict[str, object]]
"""Positional and keyword arguments, without the context. The dict is new each time: the caller may add to it."""

JSON = "application/json"
BYTES = "application/octet-stream"
_NOT_READ = {
    "application/avro": "Avro",
    "application/cloudevents+avro": "CloudEvents in structured mode",
    "application/cloudevents+json": "CloudEvents in structured mode",
}
_WHITESPACE = b" \t\r\n"
_OPENING = ord("{")
_UNCHANGING = (type(None), bool, int, float, str, bytes, Enum)


class Signature:
    """The signature of one task's function, compiled once at load.

    Raises PluginError, naming task and parameter, when no message could fill the signature.
    """

    def __init__(self, spec: TaskSpec, limits: Limits | None = None) -> None:
        parameters = read(spec)
        self.wants_context = parameters.wants_context
        """Whether the function is to be called with `ctx=`."""
        self._limits = limits or Limits()
        self._struct = _struct(spec, parameters)
        self._decode = msgspec.json.Decoder(self._struct).decode
        self._positional = parameters.positional
        self._by_name = tuple(parameter.name for parameter in parameters.named[parameters.positional :])
        self._single = _Single(parameters) if len(parameters.named) == 1 and not parameters.extra else None
        self._extra = _Extra(parameters, parameters.extra) if parameters.extra else None
        self._readers: dict[str, Callable[[bytes], Arguments]] = {"": self._read_json, JSON: self._read_json}
        """How a payload of each content type is read: the seam for further codecs."""
        if self._single and self._single.takes_bytes:
            self._readers[BYTES] = self._read_bytes

    def bind(self, task: Task) -> Arguments:
        """The arguments for one run of `task`. Raises DecodeError."""
        value = task.value
        if not value:
            return self._nothing()
        reader = self._readers.get(task.content_type)
        return reader(value) if reader else self._reader(task.content_type)(value)

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the payload as a JSON object."""
        return msgspec.json.schema(self._struct, schema_hook=schema_of_object)

    def _read_json(self, value: bytes) -> Arguments:
        check(value, self._limits)
        if value[0] != _OPENING and value.lstrip(_WHITESPACE)[:1] != b"{":
            return self._read_single(value)
        return self._read_object(value)

    def _read_object(self, value: bytes) -> Arguments:
        try:
            arguments = astuple(self._decode(value))
            extra = self._extra.read(value) if self._extra else {}
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise refusal(error, value) from None
        if not self._by_name:
            return arguments, extra
        by_name = zip(self._by_name, arguments[self._positional :], strict=True)
        return arguments[: self._positional], {**extra, **dict(by_name)}

    def _read_single(self, value: bytes) -> Arguments:
        is_null = value.strip(_WHITESPACE) == b"null"
        if is_null and not (self._single and self._single.takes_null):
            return self._nothing()
        try:
            if self._single:
                return self._one(self._single.decode(value))
            msgspec.json.decode(value, type=msgspec.Raw)  # syntax first: what cannot be read is not "invalid"
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise refusal(error, value) from None
        raise DecodeError(Reason.INVALID, "schema", "Expected a JSON object with the arguments by name")

    def _read_bytes(self, value: bytes) -> Arguments:
        if len(value) > self._limits.max_bytes:
            check(value, self._limits)
        return self._one(value)

    def _one(self, argument: object) -> Arguments:
        return ((), {self._by_name[0]: argument}) if self._by_name else ((argument,), {})

    def _nothing(self) -> Arguments:
        try:
            return self._read_object(b"{}")
        except DecodeError as error:
            raise DecodeError(error.reason, "empty", f"There is no payload: {error}") from None

    def _reader(self, content_type: str) -> Callable[[bytes], Arguments]:
        """The reader for a content type not written in the usual way; raises DecodeError when there is none."""
        kind = content_type.partition(";")[0].strip().lower()
        reader = self._readers.get(kind)
        if reader is None and kind.endswith("+json") and kind not in _NOT_READ:
            reader = self._read_json
        return reader or _refuse(kind)


class _Single:
    """The one parameter of a function that has one: it may be the whole payload."""

    def __init__(self, parameters: Parameters) -> None:
        hint = parameters.named[0].hint
        self.decode = msgspec.json.Decoder(hint).decode
        self.takes_bytes = _takes_bytes(hint)
        try:
            self.decode(b"null")
            self.takes_null = True
        except msgspec.ValidationError:
            self.takes_null = False


def _takes_bytes(hint: Any) -> bool:
    """Whether `hint` is bytes, or a union or annotation of it."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (Union, UnionType, Annotated) else ()
    return hint is bytes or any(_takes_bytes(part) for part in parts)


class _Extra:
    """The fields that go into `**kwargs`: those that no parameter has."""

    def __init__(self, parameters: Parameters, extra: Parameter) -> None:
        self._named = {parameter.name for parameter in parameters.named}
        self._reserved = parameters.reserved
        self._fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        self._decode = msgspec.json.Decoder(extra.hint).decode

    def read(self, value: bytes) -> dict[str, object]:
        extra: dict[str, object] = {}
        for name, raw in self._fields(value).items():
            if name in self._reserved:
                raise msgspec.ValidationError(f"Object contains unknown field `{name}`")
            if name not in self._named:
                try:
                    extra[name] = self._decode(raw)
                except msgspec.ValidationError as error:
                    raise msgspec.ValidationError(f"{error} - in `$.{name}`") from None
        return extra


def _struct(spec: TaskSpec, parameters: Parameters) -> type[msgspec.Struct]:
    """The JSON object that holds the arguments, as a msgspec.Struct."""
    try:
        return msgspec.defstruct(
            spec.function.__name__,
            [_field(parameter) for parameter in parameters.named],
            forbid_unknown_fields=parameters.extra is None,
            kw_only=True,  # by name, a parameter with a default may stand before one without
            gc=False,  # it lives for one call
        )
    except Exception as error:  # what msgspec says of field names it cannot take
        raise PluginError(f'task "{spec.name}": its parameters cannot be read from JSON: {error}') from error


def _field(parameter: Parameter) -> tuple[str, Any, Any] | tuple[str, Any]:
    default = parameter.default
    if default is NO_DEFAULT:
        return parameter.name, parameter.hint
    if isinstance(default, _UNCHANGING):
        return parameter.name, parameter.hint, msgspec.field(default=default)
    # As in Python, one object for all calls: msgspec would copy it, or refuse it.
    return parameter.name, parameter.hint, msgspec.field(default_factory=lambda: default)


def _refuse(kind: str) -> NoReturn:
    if kind == BYTES:
        why = f"the task takes JSON: only a task with one parameter annotated bytes takes {BYTES}"
    elif kind in _NOT_READ:
        why = f"{_NOT_READ[kind]} ({kind}) is not read by this version of kworker: publish JSON"
    else:
        why = f"content type {kind!r} is not read: use {JSON}"
    raise DecodeError(Reason.UNDECODABLE, "content_type", one_line(why))
