"""A schema registry in memory, for tasks whose messages are Avro in Confluent's framing."""

from __future__ import annotations

from collections.abc import Iterable

from kworker.codecs.avro_schema import AvroSchema, Definition
from kworker.codecs.registered_schema import Naming, Registered, unknown
from kworker.errors import DecodeError, Unavailable
from kworker.task import Reason


class MemorySchemas:
    """The schemas of a `MemoryWorker(..., schemas=)`, judged as those of a real registry are.

    naming: which subject a schema must belong to: `<topic>-value` (topic), the record's full name (record), or
    `<topic>-<full name>` (topic-record).
    """

    def __init__(self, naming: Naming = "topic") -> None:
        self._naming = naming
        self._registered: list[tuple[Definition, Registered]] = []
        self.away = False
        """Set it, and the registry does not answer: tasks that need a schema wait, and no attempt is counted."""

    def register(self, subject: str, schema: Definition, references: Iterable[Definition] = ()) -> int:
        """The id of `schema`, which belongs to `subject` as well from now on.

        schema: as `json.loads` gives it. references: definitions of named types that it uses. One that is no Avro
        schema is taken as a registry might take it, and refused to whoever reads by it.
        """
        for number, (definition, known) in enumerate(self._registered):
            if definition == schema:
                shared = known._replace(subjects=known.subjects | {subject})
                self._registered[number] = (definition, shared)
                return number + 1
        self._registered.append((schema, _compiled(schema, list(references), subject)))
        return len(self._registered)

    def schema(self, id: int, topic: str) -> AvroSchema:
        """The schema `id`, to read a payload of `topic` by. Raises DecodeError, or Unavailable while it is away."""
        if self.away:
            raise Unavailable("the schema registry is away", 1.0)
        if not 1 <= id <= len(self._registered):
            raise DecodeError(Reason.UNDECODABLE, "schema_unknown", unknown(id))
        return self._registered[id - 1][1].usable(id, topic, self._naming)


def _compiled(schema: Definition, references: list[Definition], subject: str) -> Registered:
    try:
        return Registered(AvroSchema(schema, None, references), "", frozenset({subject}))
    except ValueError as error:
        return Registered(None, str(error), frozenset({subject}))
