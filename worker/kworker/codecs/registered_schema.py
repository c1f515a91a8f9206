"""What a schema registry has said of one id, and whether a payload of a topic may be read by it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from kworker.codecs.avro_scan import refuse
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.json import one_line

Naming = Literal["topic", "record", "topic-record"]
"""How subjects are named: `<topic>-value`, the record's full name, or `<topic>-<full name>`."""


class Registered(NamedTuple):
    """A registered schema. `fault`: why it cannot be used, when there is no schema."""

    schema: AvroSchema | None
    fault: str
    subjects: frozenset[str]

    def is_foreign(self, topic: str, naming: Naming) -> bool:
        """Whether it does not belong to the topic's subject."""
        name = self.schema.name if self.schema else ""
        subject = f"{topic}-value" if naming == "topic" else name if naming == "record" else f"{topic}-{name}"
        return subject not in self.subjects

    def usable(self, id: int, topic: str, naming: Naming) -> AvroSchema:
        """The schema, to read a payload of `topic` by. Raises DecodeError when it is of other topics, or of no use."""
        if self.is_foreign(topic, naming):
            subjects = ", ".join(sorted(self.subjects)[:5]) or "none"
            refuse("schema_subject", one_line(f"schema {id} is not of the topic's subject; it is of: {subjects}"))
        if self.schema is None:
            refuse("schema_unusable", one_line(f"schema {id} of the registry cannot be used: {self.fault}"))
        return self.schema


def unknown(id: int) -> str:
    """What is said of an id that the registry does not have (code `schema_unknown`)."""
    return f"Avro: the schema registry has no schema {id}"
