"""What a `Record` is: one suite for the fake of the unit tests and for what a real broker gives."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Message
from confluent_kafka.admin import AdminClient

from faults.raw_headers import produce_raw
from kit import Kafka, NewRecord, create_topic, produce, read_all
from kit.memory import MemoryRecord
from kworker.core.wire import bare, decode
from kworker.errors import DecodeError
from kworker.task import Headers, Record, Task

CREATED = 1_700_000_000_123
PARTITIONS = 2


class RecordContract:
    """A test class inherits from it and gives `make`."""

    def make(self, new: NewRecord, *, appended: bool = False) -> Record:
        """The record that a consumer gets of `new`. appended: its topic stamps records when they arrive."""
        raise NotImplementedError

    def spoiled(self) -> Record:
        """A record with a header whose name is not UTF-8."""
        raise NotImplementedError

    def test_it_knows_its_place(self) -> None:
        first = self.make(NewRecord(b"a", partition=1))
        assert (first.partition(), first.offset() >= 0) == (1, True)
        assert type(first.topic()) is str
        assert type(first.offset()) is int

    @pytest.mark.parametrize("part", [None, b"", b"\0\xff not text", b"x" * 70_000])
    def test_key_and_value_come_as_they_were(self, part: bytes | None) -> None:
        assert self.make(NewRecord(part, b"key", partition=0)).value() == part
        assert self.make(NewRecord(b"value", part, partition=0)).key() == part

    def test_null_is_not_empty(self) -> None:
        record = self.make(NewRecord(None, None, partition=0))
        assert record.value() is None
        assert record.key() is None

    def test_without_headers(self) -> None:
        assert self.make(NewRecord(b"v", partition=0)).headers() is None

    @pytest.mark.parametrize(
        "headers",
        [
            [("a", b"1")],
            [("a", b"1"), ("b", b""), ("a", b"2"), ("a", b"1")],
            [("a", None), ("", b"no name"), ("ключ", "größe".encode())],
            [("a", b"\0\xff\r\n\x1b")],
            [(f"h{n}", b"%d" % n) for n in range(300)],
        ],
        ids=["one", "duplicates", "null and odd names", "odd bytes", "many"],
    )
    def test_headers_come_in_order_with_their_duplicates_and_nulls(self, headers: Headers) -> None:
        assert self.make(NewRecord(b"v", headers=tuple(headers), partition=0)).headers() == headers

    def test_a_header_name_that_is_not_utf_8_raises_and_is_not_asked_for_again(self) -> None:
        record = self.spoiled()
        found = decode(record, {"t"}, "t")
        assert isinstance(found, DecodeError)
        assert found.code == "header_name"
        carried = bare(record, found)
        assert (carried.value, carried.headers) == (record.value(), [])

    def test_when_it_was_created(self) -> None:
        record = self.make(NewRecord(b"v", partition=0, timestamp=CREATED))
        assert record.timestamp() == (TIMESTAMP_CREATE_TIME, CREATED)

    def test_when_it_was_appended(self) -> None:
        before = time.time() * 1000 - 1000
        kind, when = self.make(NewRecord(b"v", partition=0, timestamp=CREATED), appended=True).timestamp()
        assert kind == TIMESTAMP_LOG_APPEND_TIME
        assert before <= when <= time.time() * 1000 + 1000

    def test_the_core_reads_it(self) -> None:
        headers: Headers = [
            ("ce_type", b"no"),
            ("ce_id", b"7"),
            ("ce_type", b"t"),
            ("content-type", b"application/json"),
        ]
        record = self.make(NewRecord(b"{}", b"k", headers=tuple(headers), partition=1, timestamp=CREATED))
        task = decode(record, {"t"}, None)
        assert isinstance(task, Task)
        assert (task.name, task.given_id, task.content_type) == ("t", "7", "application/json")
        assert (task.topic, task.partition, task.offset) == (record.topic(), 1, record.offset())
        assert (task.key, task.value, task.headers, task.timestamp) == (b"k", b"{}", headers, CREATED)


class TestMemoryRecords(RecordContract):
    def make(self, new: NewRecord, *, appended: bool = False) -> Record:
        stamped = (
            (TIMESTAMP_LOG_APPEND_TIME, int(time.time() * 1000)) if appended else (TIMESTAMP_CREATE_TIME, new.timestamp)
        )
        headers = list(new.headers) or None
        return MemoryRecord(0, headers, new.key, new.value, new.partition, time=stamped)

    def spoiled(self) -> Record:
        return MemoryRecord(spoiled=True)


@pytest.fixture(scope="module")
def topics(kafka: Kafka) -> Iterator[dict[bool, str]]:
    """By whether it stamps records when they arrive."""
    names = {appended: f"records-{uuid.uuid4().hex}" for appended in (False, True)}
    for appended, name in names.items():
        kind = "LogAppendTime" if appended else "CreateTime"
        create_topic(kafka.bootstrap, name, PARTITIONS, {"message.timestamp.type": kind})
    yield names
    AdminClient({"bootstrap.servers": kafka.bootstrap}).delete_topics(list(names.values()))


class TestKafkaRecords(RecordContract):
    @pytest.fixture(autouse=True)
    def _broker(self, kafka: Kafka, topics: dict[bool, str]) -> None:
        self.bootstrap = kafka.bootstrap
        self.topics = topics

    def make(self, new: NewRecord, *, appended: bool = False) -> Record:
        ((partition, offset),) = produce(self.bootstrap, self.topics[appended], [new])
        return self.read(lambda m: (m.partition(), m.offset()) == (partition, offset), appended)

    def spoiled(self) -> Record:
        produce_raw(self.bootstrap, self.topics[False], b"v", b"spoiled", [(b"\xff\xfe", b"1")])
        return self.read(lambda m: m.key() == b"spoiled")

    def read(self, wanted: Callable[[Message], bool], appended: bool = False) -> Record:
        (message,) = filter(wanted, read_all(self.bootstrap, self.topics[appended]))
        return cast("Record", message)  # the client's stubs say Optional where a message without an error has a value
