"""FAULTS.md "Bad input" 11 to 14, Avro: one worker is fed all of it, in threads, coroutines and a child process.

Each gets one dead letter, byte for byte with the code of its row; no plugin sees it, no process dies, memory holds. The
bombs alone, with their times, are in tests/property/test_avro_fuzz.py.
"""

from __future__ import annotations

import json
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Message

from faults.letters import headers_of, last
from faults.worker import wait_committed
from kit import Kafka, NewRecord, create_topic, produce, read_all
from kit.avro_zoo import array, field, record
from kit.fuzzed_records import FLAT, PLUGIN, TREE
from kit.registry import Registry
from kit.stage import metric
from kit.worker_process import WorkerProcess
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.avro_write import write

GROWTH = 50 << 20
LINKED = record("Linked", field("value", "int"), field("next", ["null", "Linked"]))
SUBJECT = [FLAT[1], array("null"), "bytes", "string", array(record("E")), LINKED]
"""The topic's schemas in the registry; their ids are 1, 2, 3 ..."""

FLAT_ID, NULLS_ID, BYTES_ID, STRING_ID, EMPTY_RECORDS_ID, LINKED_ID, FOREIGN_ID = range(1, 8)


def long(number: int) -> bytes:
    """A number as Avro writes it."""
    number, data = (number << 1) ^ (number >> 63), bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def framed(id: int, body: bytes, magic: int = 0) -> bytes:
    """Confluent framing."""
    return bytes([magic]) + id.to_bytes(4, "big") + body


@dataclass(frozen=True)
class Bad:
    """A record of one row, and the code of its dead letter, whose reason is `undecodable`."""

    row: int
    name: str
    value: bytes
    code: str
    task: str = "fuzz.extra"
    avro: bool = False

    @property
    def record(self) -> NewRecord:
        kind = (("content-type", b"application/avro"),) if self.avro else ()
        return NewRecord(self.value, b"k\0\xff", (("ce_type", self.task.encode()), *kind), 0)


GOOD = write(AvroSchema(FLAT[1]), {"n": 1, "s": "abc"})
BODY = GOOD[10:]
DEEP = (long(1) + b"\x02a") * 10_000  # a tree of 10,000 levels, of one child each
LEAF = AvroSchema(TREE).fingerprint
BAD = [
    Bad(11, "a magic byte of 1", framed(FLAT_ID, BODY, 1), "schema_unknown", "fuzz.flat", avro=True),
    Bad(11, "a magic byte of 1, unmarked", framed(FLAT_ID, BODY, 1), "syntax"),
    Bad(11, "an unknown id", framed(99, BODY), "schema_unknown"),
    Bad(11, "the greatest id", framed(2**32 - 1, BODY), "schema_unknown"),
    Bad(11, "an id of another subject", framed(FOREIGN_ID, BODY), "schema_subject"),
    Bad(11, "an id cut short", b"\0\0\0", "truncated"),
    Bad(11, "an unknown fingerprint", b"\xc3\x01" + b"\x07" * 8 + BODY, "schema_unknown", "fuzz.flat"),
    Bad(11, "a second marker of 2", b"\xc3\x02" + GOOD[2:], "schema_unknown", "fuzz.flat", avro=True),
    Bad(12, "a byte too many", GOOD + b"\0", "trailing", "fuzz.flat"),
    Bad(12, "a byte too few", GOOD[:-1], "truncated", "fuzz.flat"),
    Bad(12, "nothing behind the frame", framed(FLAT_ID, b""), "truncated"),
    Bad(12, "a negative length", framed(STRING_ID, long(-5) + b"abcde"), "length", "fuzz.anything"),
    Bad(12, "bytes of 2^40", framed(BYTES_ID, long(2**40) + b"x"), "truncated", "fuzz.anything"),
    Bad(12, "bytes of 2^63 - 1", framed(BYTES_ID, long(2**63 - 1)), "truncated", "fuzz.anything"),
    Bad(12, "a number without an end", framed(FLAT_ID, b"\xff" * 100_000), "number"),
    Bad(13, "2^31 nulls", framed(NULLS_ID, long(2**31) + b"\0"), "too_many_items", "fuzz.anything"),
    Bad(13, "2^31 nulls in a thread", framed(NULLS_ID, long(2**31) + b"\0"), "too_many_items"),
    Bad(13, "2^31 nulls in blocks", framed(NULLS_ID, long(2**17) * 2**14 + b"\0"), "too_many_items"),
    Bad(13, "a negative count", framed(NULLS_ID, long(-(2**62)) + b"\0\0"), "too_many_items"),
    Bad(13, "2^40 empty records", framed(EMPTY_RECORDS_ID, long(2**40) + b"\0"), "too_many_items", "fuzz.anything"),
    Bad(14, "10,000 levels", b"\xc3\x01" + LEAF + b"\x02a" + DEEP + b"\0" * 10_001, "too_deep", "fuzz.tree"),
    Bad(14, "10,000 levels without an end", b"\xc3\x01" + LEAF + b"\x02a" + DEEP, "too_deep", "fuzz.tree"),
    Bad(14, "a recursive schema in a thread", framed(LINKED_ID, b"\x02\0"), "schema_recursive"),
    Bad(14, "a recursive schema in a coroutine", framed(LINKED_ID, b"\x02\0"), "schema_recursive", "fuzz.anything"),
    Bad(
        14,
        "10,000 levels by the registry",
        framed(LINKED_ID, b"\x02\x02" * 10_000 + b"\x02\0"),
        "too_deep",
        "fuzz.tree",
    ),
]


@dataclass
class Seen:
    """What became of them."""

    letters: dict[int, Message]
    done: list[int]
    grown: int
    children: float


@pytest.fixture(scope="module")
def seen(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One run of one worker, with a good record behind the bad ones for each executor."""
    folder, name = tmp_path_factory.mktemp("avro"), f"bad-avro-{uuid.uuid4().hex[:8]}"
    create_topic(kafka.bootstrap, name)
    good = [
        Bad(0, "flat", GOOD, "", "fuzz.flat"),
        Bad(0, "null", framed(NULLS_ID, long(3) + b"\0"), "", "fuzz.anything"),
        Bad(0, "tree", b"\xc3\x01" + LEAF + b"\x02a\0", "", "fuzz.tree"),
    ]
    with Registry() as registry:
        for schema in SUBJECT:
            registry.register(f"{name}-value", json.dumps(schema))
        assert registry.register("other-value", record("Foreign", field("n", "long"))) == FOREIGN_ID
        given = ["--group", name, "--topic", name, "--bootstrap", kafka.bootstrap, "--plugin", "fuzz"]
        given += ["--schema-registry", registry.url, "--processes", "1"]
        worker = WorkerProcess(folder / "worker", *given, env={"FUZZ_DONE": str(folder / "done")}, site=[PLUGIN])
        try:
            worker.wait_ready()
            resident = worker.resident()
            produce(kafka.bootstrap, name, [bad.record for bad in [*BAD, *good]])
            wait_committed(worker, len(BAD) + len(good), 60)
            grown = worker.resident("VmHWM") - resident
            children = metric(worker, "kworker_children_started_total")
        finally:
            worker.close()
    letters = {
        int(last(letter, "kworker-origin").rpartition("/")[2]): letter
        for letter in read_all(kafka.bootstrap, f"{name}.dlq")
    }
    done = sorted(offset for _, offset in struct.iter_unpack("<ii", Path(folder, "done").read_bytes()))
    return Seen(letters, done, grown, children)


def rows(row: int) -> list[tuple[int, Bad]]:
    """The records of one row, by offset."""
    return [(offset, bad) for offset, bad in enumerate(BAD) if bad.row == row]


def check(seen: Seen, row: int) -> None:
    """Each has its dead letter, byte for byte."""
    for offset, bad in rows(row):
        letter = seen.letters[offset]
        assert (bad.name, last(letter, "kworker-reason"), last(letter, "kworker-error-type")) == (
            bad.name,
            "undecodable",
            bad.code,
        ), last(letter, "kworker-error-message")
        assert (letter.key(), letter.value()) == (bad.record.key, bad.value)
        assert headers_of(letter)[: len(bad.record.headers)] == list(bad.record.headers)


def test_bad_input_11_a_wrong_magic_byte_an_unknown_id_and_one_of_another_subject(seen: Seen) -> None:
    check(seen, 11)


def test_bad_input_12_trailing_and_missing_bytes_and_lengths_that_cannot_be(seen: Seen) -> None:
    check(seen, 12)


def test_bad_input_13_arrays_of_billions_of_nothing(seen: Seen) -> None:
    check(seen, 13)
    assert seen.grown <= GROWTH


def test_bad_input_14_recursion_ends_no_process(seen: Seen) -> None:
    check(seen, 14)
    assert seen.children == 1, "no child was replaced"


def test_bad_input_11_to_14_no_plugin_was_called_and_what_follows_is_done(seen: Seen) -> None:
    assert sorted(seen.letters) == list(range(len(BAD)))
    assert seen.done == [len(BAD), len(BAD) + 1, len(BAD) + 2]
