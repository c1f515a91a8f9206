"""The Avro payloads of one task: which schema a payload was written by, and the value it holds.

Promises: a schema comes from the plugin or from the Schema Registry, never from a message; a payload is read by the
schema it names or not at all. What is read is resolved to the task's own schema, the last it declares.

| content type | bytes | schema it was written by |
|---|---|---|
| `application/avro` | C3 01, 8 bytes of fingerprint, value | the declared one that has this fingerprint |
| `application/avro`, or none | 00, 4 bytes of id, value | the registry's, when a registry is configured |
| `application/avro` | value | the one declared schema |
| `avro/binary` | value, whatever it begins with | the one declared schema |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from kworker.codecs.avro_scan import refuse
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.limits import Limits
from kworker.errors import PluginError
from kworker.plugin import TaskSpec

AVRO = "application/avro"
BARE = "avro/binary"
SINGLE_OBJECT = b"\xc3\x01"
_HEAD = 10  # bytes of marker and fingerprint
_FRAME = 5  # bytes of magic and id


class Schemas(Protocol):
    """Where the schema of an id comes from (schema_registry.py has the real one)."""

    def schema(self, id: int, topic: str) -> AvroSchema:
        """The schema `id`, which belongs to the topic's subject.

        Raises DecodeError when it does not, or is none; Unavailable when that cannot be found out now.
        """


class AvroPayloads:
    """The payloads of one task. Raises PluginError for a schema that no payload could be read by."""

    def __init__(self, spec: TaskSpec, limits: Limits, schemas: Schemas | None) -> None:
        self._declared = [_compiled(spec, number, limits) for number in range(len(definitions(spec)))]
        self._by_fingerprint = {schema.fingerprint: schema for schema in self._declared}
        if len(self._by_fingerprint) != len(self._declared):
            raise PluginError(
                f'task "{spec.name}": two of its schemas have the same fingerprint, as they differ in logical types '
                "or in what does not change the bytes: a message could not tell which, so leave the older one out"
            )
        self._schemas = schemas
        self._takes_recursive = spec.executor == "process"
        self.reader = self._declared[-1] if self._declared else None
        """The task's own schema, when it declares one."""

    def announced(self, value: bytes) -> bool:
        """Whether a payload without a content type is Avro: its first bytes say so."""
        return value[:2] == SINGLE_OBJECT or (value[0] == 0 and self._schemas is not None)

    def read(self, value: bytes, topic: str) -> Any:
        """The value of a payload from `topic`. Raises DecodeError, or Unavailable without a registry's answer."""
        if value[:2] == SINGLE_OBJECT:
            return self._single_object(value)
        if value[0] == 0 and self._schemas is not None:
            return self._framed(value, topic, self._schemas)
        return self.read_bare(value)

    def read_bare(self, value: bytes) -> Any:
        """The value of a payload without a frame, written by the one declared schema. Raises DecodeError."""
        if self.reader is None:
            refuse("schema_unknown", "the task declares no schema, and the payload names none of a schema registry")
        if len(self._declared) > 1:
            refuse("schema_unknown", "the task declares several schemas: publish single-object encoding")
        return self.reader.read(value)

    def _single_object(self, value: bytes) -> Any:
        writer = self._by_fingerprint.get(value[2:_HEAD])
        if writer is None:
            refuse(
                "schema_unknown",
                f"no schema of the task has the fingerprint {value[2:_HEAD].hex()}"
                + (f" (plain Avro that happens to begin with C3 01 is {BARE})" if self.reader else ""),
            )
        return self._resolved(writer, value, _HEAD)

    def _framed(self, value: bytes, topic: str, schemas: Schemas) -> Any:
        if len(value) < _FRAME:
            refuse("truncated", "the payload ends within the schema's id")
        writer = schemas.schema(int.from_bytes(value[1:_FRAME], "big"), topic)
        if writer.recursive and not self._takes_recursive:
            refuse("schema_recursive", "a schema that contains itself is read in process slots only")
        return self._resolved(writer, value, _FRAME)

    def _resolved(self, writer: AvroSchema, value: bytes, start: int) -> Any:
        return writer.read(value, start, None if writer is self.reader else self.reader)


def definitions(spec: TaskSpec) -> list[Any]:
    """The schemas that a task declares, its own last."""
    schema = spec.schema
    if schema is None:
        return []
    return [schema] if isinstance(schema, str | Mapping) else list(schema)


def _compiled(spec: TaskSpec, number: int, limits: Limits) -> AvroSchema:
    given = definitions(spec)
    which = "schema" if len(given) == 1 else f"schema number {number + 1}"
    try:
        schema = AvroSchema(given[number], limits)
    except ValueError as error:
        raise PluginError(f'task "{spec.name}": its {which} is no Avro schema that can be used: {error}') from error
    if schema.recursive and spec.executor != "process":
        raise PluginError(
            f'task "{spec.name}": its {which} contains itself, which only a process slot may read: '
            'declare executor="process", or flatten it'
        )
    return schema
