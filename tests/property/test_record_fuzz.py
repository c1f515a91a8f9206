"""Must hold: whatever a record is, it is bound or refused; nothing crashes and memory does not grow.

Random and mutated records over all codecs and headers (FAULTS.md, bad input 2): 100,000 through the real decode and
bind steps, in this process; what a real worker makes of them is in test_fuzzed_worker.py.
"""

from __future__ import annotations

import gc
import os
import random
from collections import Counter

import psutil
import pytest

from kit.fuzzed_records import OTHERS, REGISTERED, SPECS, FuzzedRecords
from kit.memory import MemoryRecord
from kit.records import NewRecord
from kworker.codecs.arguments import Signature
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.registered_schema import Registered
from kworker.core.wire import bare, decode
from kworker.errors import DecodeError
from kworker.task import Reason

GROWTH = 50 << 20
WARM = 1000
OFTEN = {
    "bound", "header", "no_task", "unknown_task", "deadline", "envelope", "schema", "syntax", "encoding",
    "content_type", "empty", "schema_unknown", "truncated", "trailing",
}  # fmt: skip
SELDOM = {
    "header_name", "headers_too_large", "number", "too_deep", "schema_subject", "schema_recursive", "schema_mismatch",
    "length", "index", "too_many_items",
}  # fmt: skip


class _Registry:
    """The schemas of FuzzedRecords by id, as a registry that answers at once."""

    def __init__(self) -> None:
        given = [(definition, "tasks-value") for definition in REGISTERED] + [(each, "other-value") for each in OTHERS]
        self._known = [Registered(AvroSchema(definition), "", frozenset([of])) for definition, of in given]

    def schema(self, id: int, topic: str) -> AvroSchema:
        """The schema of an id that is known."""
        if not 1 <= id <= len(self._known):
            raise DecodeError(Reason.UNDECODABLE, "schema_unknown", f"there is no schema {id}")
        return self._known[id - 1].usable(id, topic, "topic")


def bind(signatures: dict[str, Signature], new: NewRecord, offset: int, chance: random.Random) -> str:
    """'bound', or the code of the refusal; whatever else is raised fails the test."""
    headers = list(new.headers)
    spoiled = chance.random() < 0.002
    record = MemoryRecord(offset, headers or None, new.key, new.value, in_topic="tasks", spoiled=spoiled)
    found = decode(record, signatures.keys(), chance.choice((None, None, "fuzz.plain")))
    refusal = found if isinstance(found, DecodeError) else None
    task = bare(record, found) if isinstance(found, DecodeError) else found
    if refusal is None:
        try:
            positional, named = signatures[task.name].bind(task)
            assert isinstance(positional, tuple)
            assert isinstance(named, dict)
        except DecodeError as error:
            refusal = error
    assert (task.key, task.value, task.offset) == (new.key, new.value, offset)
    assert task.headers == ([] if spoiled else headers), "what a dead letter is made of"
    if refusal is None:
        return "bound"
    assert refusal.reason in (Reason.UNDECODABLE, Reason.INVALID, Reason.UNROUTABLE)
    assert len(str(refusal)) <= 600
    assert str(refusal).isprintable() or refusal.code == "unknown_task", repr(str(refusal))
    return refusal.code


LONG = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("count", "codes"), [(3_000, OFTEN), pytest.param(100_000, OFTEN | SELDOM, marks=LONG)], ids=["smoke", "all"]
)
def test_every_record_is_bound_or_refused(count: int, codes: set[str]) -> None:
    seed = int(os.environ.get("KWORKER_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"KWORKER_TEST_SEED={seed}")
    chance = random.Random(seed)
    records = FuzzedRecords(chance)
    signatures = {name: Signature(spec, None, _Registry()) for name, spec in SPECS.items()}
    process = psutil.Process()
    seen: Counter[str] = Counter()
    base = most = 0
    for offset in range(count):
        seen[bind(signatures, records.record(), offset, chance)] += 1
        if offset == WARM:
            gc.collect()
            base = process.memory_info().rss
        elif offset % 500 == 0:
            most = max(most, process.memory_info().rss)
    print(f"{dict(seen.most_common())}; {base >> 20} MiB, {most >> 20} MiB at most")
    assert sum(seen.values()) == count
    assert set(seen) >= codes
    assert seen["bound"] > count / 4
    assert most <= base + GROWTH
