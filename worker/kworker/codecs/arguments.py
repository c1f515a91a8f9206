"""A task's arguments: one payload, checked against the function's signature.

Promises: `bind` gives what the function is called with, or raises DecodeError: `undecodable` for bytes that cannot be
read, `invalid` for what was read but does not fit. Nothing is coerced (no "1" for an int) but what JSON cannot write:
dates, UUIDs, bytes and decimals come as strings. Nothing a message holds is imported, executed or looked up by name.

What a payload means (WIRE.md):
- a JSON object is the keyword arguments; unknown fields are refused unless the function has `**kwargs`;
- any other JSON value is the single argument of a function that has one parameter;
- no payload, an empty one, or `null` where no parameter takes None, is no arguments;
- `application/octet-stream` is the single argument of a function that has one parameter that takes `bytes`;
- Avro (avro.py) means what the same JSON would: a record, or a map, is the keyword arguments. Its logical types come as
  what they are, and NaN and infinity, which Avro has, are numbers;
- an event in structured mode (cloudevents.py) means what its data means.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from enum import Enum
from types import UnionType
from typing import Annotated, Any, NoReturn, Union

import msgspec
from msgspec.structs import astuple

from kworker.codecs import cloudevents
from kworker.codecs.avro import AVRO, BARE, AvroPayloads, Schemas
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
_EVENT = "application/cloudevents"
_WHITESPACE = b" \t\r\n"
_OPENING, _ARRAY = b"{["
_UNCHANGING = (type(None), bool, int, float, str, bytes, Enum)


class Signature:
    """The signature of one task's function, compiled once at load.

    schemas: where the schemas of Avro payloads with Confluent framing come from; None: such payloads are not read.
    Raises PluginError, naming task and parameter, when no message could fill the signature, or its Avro schema.
    """

    def __init__(self, spec: TaskSpec, limits: Limits | None = None, schemas: Schemas | None = None) -> None:
        parameters = read(spec)
        self.wants_context = parameters.wants_context
        """Whether the function is to be called with `ctx=`."""
        self.extra = parameters.extra.name if parameters.extra else None
        """The name of its `**kwargs`, or None."""
        self.struct = _struct(spec, parameters)
        """The JSON object that holds the arguments, as a msgspec.Struct."""
        self._limits = limits or Limits()
        self._decode = msgspec.json.Decoder(self.struct).decode
        self._positional = parameters.positional
        self._by_name = tuple(parameter.name for parameter in parameters.named[parameters.positional :])
        self._single = _Single(parameters) if len(parameters.named) == 1 and not parameters.extra else None
        self._extra = _Extra(parameters, parameters.extra) if parameters.extra else None
        self._in_place = not self._by_name and not self._extra
        self._avro = AvroPayloads(spec, self._limits, schemas)
        may_be_avro = schemas is not None or self._avro.reader is not None
        self._readers: dict[str, Callable[[bytes, str], Arguments]] = {
            "": self._read_unmarked if may_be_avro else self._read_json,
            JSON: self._read_json,
            AVRO: self._read_avro,
            BARE: self._read_bare_avro,
            cloudevents.JSON_EVENT: self._read_json_event,
            cloudevents.AVRO_EVENT: self._read_avro_event,
        }
        """How a payload of each content type, from a topic, is read: the seam for further codecs."""
        if self._single and self._single.takes_bytes:
            self._readers[BYTES] = self._read_bytes
        self._check_fields(spec, parameters)

    def bind(self, task: Task) -> Arguments:
        """The arguments for one run of `task`. Raises DecodeError, or Unavailable when a schema is to be waited for."""
        value = task.value
        if not value:
            return self._nothing()
        reader = self._readers.get(task.content_type)
        return (reader or self._reader(task.content_type))(value, task.topic)

    def _check_fields(self, spec: TaskSpec, parameters: Parameters) -> None:
        """Refuse an Avro schema of the task's whose every payload would be refused."""
        fields = self._avro.reader.fields if self._avro.reader else None
        if fields is None:
            return
        named = {parameter.name: parameter for parameter in parameters.named}
        wrong = [f"its field {name} is no parameter" for name in fields if name not in named and not parameters.extra]
        for name, parameter in named.items():
            if parameter.default is NO_DEFAULT and name not in fields:
                wrong.append(f"it has no field for the parameter {name}")
        if wrong:
            raise PluginError(f'task "{spec.name}": its schema does not fit the function: {"; ".join(wrong)}')

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the payload as a JSON object."""
        return msgspec.json.schema(self.struct, schema_hook=schema_of_object)

    def _read_json(self, value: bytes, topic: str) -> Arguments:
        # The usual message, one small flat object, is known to be within the limits after two looks for one byte.
        if value[0] != _OPENING or len(value) > self._limits.small or _ARRAY in value or _OPENING in value[1:]:
            check(value, self._limits)
            if value[0] != _OPENING and value.lstrip(_WHITESPACE)[:1] != b"{":
                return self._read_single(value)
        if not self._in_place:
            return self._read_object(value)
        try:
            return astuple(self._decode(value)), {}
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise refusal(error, value) from None

    def _read_object(self, value: bytes) -> Arguments:
        try:
            arguments = astuple(self._decode(value))
            extra = self._extra.read(value) if self._extra else {}
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise refusal(error, value) from None
        return self._in_order(arguments, extra)

    def _in_order(self, arguments: tuple[object, ...], extra: dict[str, object]) -> Arguments:
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

    def _read_unmarked(self, value: bytes, topic: str) -> Arguments:
        return self._read_avro(value, topic) if self._avro.announced(value) else self._read_json(value, topic)

    def _read_avro(self, value: bytes, topic: str) -> Arguments:
        return self._convert(self._avro.read(value, topic))

    def _read_bare_avro(self, value: bytes, topic: str) -> Arguments:
        return self._convert(self._avro.read_bare(value))

    def _read_json_event(self, value: bytes, topic: str) -> Arguments:
        return self._read_content(cloudevents.from_json(value, self._limits), topic)

    def _read_avro_event(self, value: bytes, topic: str) -> Arguments:
        return self._read_content(cloudevents.from_avro(value, self._limits), topic)

    def _read_content(self, content: cloudevents.Content, topic: str) -> Arguments:
        """The data of an event; an event in an event is not looked for."""
        if not content.data:
            return self._nothing()
        kind = content.kind.partition(";")[0].strip().lower()
        if kind.startswith(_EVENT):
            _refuse(kind)
        return self._reader(kind)(content.data, topic)

    def _convert(self, payload: object) -> Arguments:
        """What a payload that is no text any more comes to, by the rules of JSON."""
        try:
            if isinstance(payload, dict):
                arguments = astuple(msgspec.convert(payload, self.struct))
                return self._in_order(arguments, self._extra.convert(payload) if self._extra else {})
            if payload is None and not (self._single and self._single.takes_null):
                return self._nothing()
            if self._single:
                return self._one(msgspec.convert(payload, self._single.hint))
        except msgspec.ValidationError as error:
            raise refusal(error, b"") from None
        raise DecodeError(Reason.INVALID, "schema", "Expected a record with the arguments by name")

    def _read_bytes(self, value: bytes, topic: str) -> Arguments:
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

    def _reader(self, content_type: str) -> Callable[[bytes, str], Arguments]:
        """The reader for a content type not written in the usual way; raises DecodeError when there is none."""
        kind = content_type.partition(";")[0].strip().lower()
        reader = self._readers.get(kind)
        if reader is None and kind.endswith("+json") and not kind.startswith(_EVENT):
            reader = self._read_json
        return reader or _refuse(kind)


class _Single:
    """The one parameter of a function that has one: it may be the whole payload."""

    def __init__(self, parameters: Parameters) -> None:
        hint = parameters.named[0].hint
        self.hint = hint
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
        self._hint = extra.hint

    def read(self, value: bytes) -> dict[str, object]:
        """Those of a JSON object."""
        return self._others(self._fields(value), self._decode)

    def convert(self, payload: dict[str, object]) -> dict[str, object]:
        """Those of a record that was read already."""
        return self._others(payload, lambda item: msgspec.convert(item, self._hint))

    def _others(self, fields: Mapping[str, Any], read: Callable[[Any], object]) -> dict[str, object]:
        extra: dict[str, object] = {}
        for name, item in fields.items():
            if name in self._reserved:
                raise msgspec.ValidationError(f"Object contains unknown field `{name}`")
            if name not in self._named:
                try:
                    extra[name] = read(item)
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
    else:
        why = f"content type {kind!r} is not read: use {JSON} or {AVRO}"
    raise DecodeError(Reason.UNDECODABLE, "content_type", one_line(why))
