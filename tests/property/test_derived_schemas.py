"""Schemas made of random signatures: what plain fastavro writes by one, a worker takes as just that."""

from __future__ import annotations

import enum
import io
import os
import random
from collections.abc import Callable
from dataclasses import make_dataclass
from datetime import date, datetime
from typing import Any, Literal, Union
from uuid import UUID

import fastavro
import msgspec
import pytest

from kit.avro_zoo import value_of
from kworker import TaskSpec
from kworker.codecs.arguments import Signature
from kworker.codecs.arguments_schema import derived
from kworker.codecs.avro_schema import AvroSchema
from kworker.testing import MemorySchemas, MemoryWorker

SEED = int(os.environ.get("KWORKER_TEST_SEED") or random.randrange(2**32))
SIGNATURES = 60
VALUES = 4


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


PLAIN: list[Any] = [bool, int, float, str, bytes, datetime, date, UUID, Colour, Literal["a", "b_1"], None]
KINDS = ("plain", "plain", "list", "dict", "union", "struct", "data")
UNIONS: list[Any] = [(bool, int, str), (float, bytes), (bool, datetime), (date, int), (Colour, bool)]


class Signatures:
    """Random functions; every value of a parameter's Avro type is one that the parameter takes."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._count = 0

    def hint(self, depth: int = 0) -> Any:
        """A random type."""
        kind = "plain" if depth > 3 else self._chance.choice(KINDS)
        if kind == "list":
            return list[self.hint(depth + 1)]  # type: ignore[misc]  # made at run time
        if kind == "dict":
            return dict[str, self.hint(depth + 1)]  # type: ignore[misc]  # made at run time
        if kind == "union":
            return Union[(*self._chance.choice(UNIONS), *self._chance.choice(((), (None,))))]
        if kind == "plain":
            return self._chance.choice(PLAIN)
        self._count += 1
        name = f"Part{self._count}"
        fields = [(f"f{number}", self.hint(depth + 1)) for number in range(self._chance.randrange(4))]
        make: Callable[..., Any] = msgspec.defstruct if kind == "struct" else make_dataclass
        return make(name, fields)

    def function(self, called: list[dict[str, Any]]) -> Callable[..., None]:
        """A function of a few parameters that notes what it is called with."""

        def task(*, a: Any, b: Any = None, c: Any = 5) -> None:
            called.append({"a": a, "b": b, "c": c})

        task.__annotations__ = {"a": self.hint(), "b": self.hint(), "c": self._chance.choice((int, float, int | None))}
        return task


def written(schema: Any, value: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, value)
    return stream.getvalue()


@pytest.mark.parametrize("way", ["registered", "declared"])
def test_what_is_written_by_a_derived_schema_is_taken(way: str) -> None:
    print(f"KWORKER_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    signatures = Signatures(chance)
    for number in range(SIGNATURES):
        called: list[dict[str, Any]] = []
        function = signatures.function(called)
        spec = TaskSpec(f"zoo.task-{number}", function, "thread")
        schema = derived(Signature(spec), spec)
        compiled, parsed = AvroSchema(schema), fastavro.parse_schema(schema)
        schemas = MemorySchemas()
        if way == "declared":
            spec = TaskSpec(spec.name, function, "thread", schema=schema)
            head = b"\xc3\x01" + compiled.fingerprint
        else:
            head = b"\0" + schemas.register("tasks-value", schema).to_bytes(4, "big")
        function.__kworker_task__ = spec  # type: ignore[attr-defined]  # as @task does
        values = [value_of(schema, chance, dict(compiled.named)) for _ in range(VALUES)]
        with MemoryWorker(function, schemas=schemas) as worker:
            for value in values:
                worker.publish(spec.name, head + written(parsed, value), headers={"content-type": "application/avro"})
            worker.run()
            assert [letter.message for letter in worker.dead_letters] == [], schema
            assert worker.succeeded == VALUES
        # What the function got is what was written: in builtins they are the same again.
        assert [msgspec.to_builtins(found) for found in called] == [msgspec.to_builtins(value) for value in values]
