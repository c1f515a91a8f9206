"""Whatever bytes an Avro payload holds, reading it gives its value or a DecodeError, at a bounded cost.

FAULTS.md, bad input 2 and 12 to 15; the bombs are those of FACTS.md 15.
"""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from typing import Any

import fastavro
import pytest

from kit.avro_zoo import LINKED, ZOO, array, field, mapping, record, value_of
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.limits import Limits
from kworker.errors import DecodeError
from kworker.task import Reason

CASES = 20_000
SCHEMAS = [(definition, AvroSchema(definition)) for definition in ZOO]
CODES = {"truncated", "trailing", "length", "number", "index", "too_many_items", "encoding", "value"}


def encoded(schema: AvroSchema, value: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema.parsed, value)
    return stream.getvalue()


def seeded() -> random.Random:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def test_the_walk_lets_every_valid_value_pass_and_it_arrives() -> None:
    chance = seeded()
    for definition, schema in SCHEMAS:
        for _ in range(200):
            value = value_of(definition, chance)
            data = encoded(schema, value)
            before = fastavro.schemaless_reader(io.BytesIO(data), schema.parsed, None)
            assert repr(schema.read(data)) == repr(before)
            assert repr(schema.read(b"head" + data, 4)) == repr(before)


def test_of_a_valid_value_no_part_and_no_more_passes() -> None:
    chance = seeded()
    for definition, schema in SCHEMAS:
        data = encoded(schema, value_of(definition, chance))
        for cut in range(len(data)):
            with pytest.raises(DecodeError):
                schema.check(data[:cut])
        with pytest.raises(DecodeError, match="follow the value"):
            schema.check(data + b"\0")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data`, or noise, with a few bytes cut out, doubled, changed or put in."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(40))
    value = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(value) + 1)
        match chance.randrange(5):
            case 0:
                del value[at : at + chance.randrange(4)]
            case 1:
                value[at:at] = value[at : at + 4] * 2
            case 2 if at < len(value):
                value[at] = chance.randrange(256)
            case 3:
                value[at:at] = chance.choice((b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x01", b"\x80\x00", b"\x03\x02"))
            case _:
                value[at:at] = chance.randbytes(chance.randrange(4))
    return bytes(value)


def test_mutated_payloads_are_read_or_refused() -> None:
    chance = seeded()
    seen: Counter[str] = Counter()
    valid = [
        (schema, [encoded(schema, value_of(definition, chance)) for _ in range(40)]) for definition, schema in SCHEMAS
    ]
    for _ in range(CASES):
        schema, samples = chance.choice(valid)
        data = mutated(chance.choice(samples), chance)
        value, refusal = None, None
        try:
            value = schema.read(data)
        except DecodeError as error:
            refusal = error
        if refusal is None:
            seen["read"] += 1
            stream = io.BytesIO(data)
            assert repr(fastavro.schemaless_reader(stream, schema.parsed, None)) == repr(value)
            assert stream.tell() == len(data), "fastavro reads exactly what the walk let pass"
        else:
            assert refusal.reason is Reason.UNDECODABLE
            assert str(refusal).isprintable()
            assert len(str(refusal)) <= 600
            seen[refusal.code] += 1
    print(dict(seen))
    assert seen["read"] > CASES / 50
    assert set(seen) >= CODES | {"read"}
    assert set(seen) <= CODES | {"read", "too_deep"}


def long(number: int) -> bytes:
    """A number as Avro writes it."""
    number = (number << 1) ^ (number >> 63)
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


CHAIN = [record("C0", field("a", "null"), field("b", "null"))] + [
    record(f"C{n}", field("a", f"C{n - 1}"), field("b", f"C{n - 1}")) for n in range(1, 40)
]
BOMBS: list[tuple[str, Any, bytes, str]] = [
    ("array of 2^31 nulls", array("null"), long(2**31) + b"\0", "too_many_items"),
    ("array of 20 M nulls", array("null"), long(20_000_000) + b"\0", "too_many_items"),
    ("many blocks of nulls", array("null"), (long(150_000) * 10) + b"\0", "too_many_items"),
    ("negative count", array("null"), long(-(2**62)) + long(0) + b"\0", "too_many_items"),
    ("the least count", array("null"), long(-(2**63)) + long(0) + b"\0", "too_many_items"),
    ("array of empty records", array(record("E")), long(2**40) + b"\0", "too_many_items"),
    ("array of records of nulls", array(record("N", *(field(f"f{n}", "null") for n in range(99)))),
     long(100_000) + b"\0", "too_many_items"),
    ("array of nothing fixed", array({"type": "fixed", "name": "F", "size": 0}), long(2**31) + b"\0", "too_many_items"),
    ("records that double 40 times", record("Top", *(field(f"c{n}", each) for n, each in enumerate(CHAIN))), b"",
     "too_many_items"),
    ("map of a huge count", mapping("null"), long(2**31) + b"\0" * 20, "too_many_items"),
    ("bytes of 2^40", "bytes", long(2**40), "truncated"),
    ("string of a negative length", "string", long(-5), "length"),
    ("bytes of the greatest length", "bytes", long(2**63 - 1) + b"x", "truncated"),
    ("10,000 levels", LINKED, (long(1) + long(1)) * 10_000 + long(1) + long(0), "too_deep"),
    ("10,000 levels without an end", LINKED, (long(1) + long(1)) * 10_000, "too_deep"),
    ("arrays in arrays", record("A", field("a", array("A"))), long(1) * 100_000, "too_deep"),
    ("a number without an end", "long", b"\xff" * 1_000_000, "number"),
    ("more than a limit's bytes", "bytes", long(9 << 20) + b"x" * (9 << 20), "too_large"),
]  # fmt: skip


@pytest.mark.parametrize(("definition", "data", "code"), [bomb[1:] for bomb in BOMBS], ids=[bomb[0] for bomb in BOMBS])
def test_bombs_are_refused_before_anything_is_built(definition: Any, data: bytes, code: str) -> None:
    schema = AvroSchema(definition)
    tracemalloc.start()
    started = time.thread_time()
    with pytest.raises(DecodeError) as refused:
        schema.read(data)
    spent, peak = time.thread_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.code == code
    assert peak < 4 << 20
    assert spent < 1.0, "seconds of this thread: what FAULTS.md allows on a busy machine"


def test_what_is_in_the_limits_stays_in_memory() -> None:
    limits = Limits()
    schema = AvroSchema(array(record("P", field("a", ["null", "long"]), field("b", "string"))))
    data = long(limits.max_items // 4) + b"\x02\x04\x02x" * (limits.max_items // 4) + b"\0"
    tracemalloc.start()
    assert len(schema.read(data)) == limits.max_items // 4
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_fastavro_alone_would_end_the_process() -> None:
    """The reason for the walk: without it, this payload is a segmentation fault (or whatever ends it on this build)."""
    code = (
        "import io, fastavro\n"
        "schema = fastavro.parse_schema({'type': 'record', 'name': 'L', 'fields': ["
        "{'name': 'value', 'type': 'int'}, {'name': 'next', 'type': ['null', 'L']}]})\n"
        "fastavro.schemaless_reader(io.BytesIO(b'\\x02\\x02' * 1_000_000 + b'\\x02\\x00'), schema, None)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0
