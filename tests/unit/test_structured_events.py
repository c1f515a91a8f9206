"""CloudEvents in structured mode: the envelope names the task, and its data are the arguments.

The cloudevents package is the oracle, in both directions: what it writes is read, and what a worker makes of it is what
the package makes of it.
"""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import fastavro
import pytest
from cloudevents.core.bindings import kafka as oracle
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from kit.avro_zoo import field, record
from kworker import Context, TaskSpec
from kworker.codecs import cloudevents
from kworker.codecs.arguments import Signature
from kworker.codecs.avro_schema import AvroSchema
from kworker.core import structured
from kworker.core.publication import message
from kworker.core.wire import decode
from kworker.errors import DecodeError
from kworker.task import Reason, Task, TopicPartition
from kworker.testing import MemoryRecord

JSON = "application/cloudevents+json"
AVRO = "application/cloudevents+avro"
SCHEMA = record("Greeting", field("name", "string"), field("n", "int"))


def greet(name: str, n: int = 1) -> None: ...
def raw(data: bytes) -> None: ...
def anything(x: Any) -> None: ...


FUNCTIONS: dict[str, Callable[..., Any]] = {"greet": greet, "raw": raw, "anything": anything}


def received(value: bytes | None, content_type: str = JSON, **headers: str) -> Task | DecodeError:
    """The loop's half: a record's envelope."""
    raw = [(name, text.encode()) for name, text in {"content-type": content_type, **headers}.items()]
    place = TopicPartition("tasks", 0)
    return decode(MemoryRecord(place, 7, b"k", value, list(raw)), FUNCTIONS, None)


def bound(task: Task | DecodeError) -> Any:
    """The slot's half: its arguments."""
    assert isinstance(task, Task), task
    function = FUNCTIONS[task.name]
    return Signature(TaskSpec("t", function, "thread", schema=SCHEMA if function is greet else None)).bind(task)[0]


def refused(task: Task | DecodeError) -> tuple[Reason, str]:
    if isinstance(task, Task):
        with pytest.raises(DecodeError) as caught:
            bound(task)
        task = caught.value
    assert str(task).isprintable()
    return task.reason, task.code


def envelope(**attributes: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": "greet", **attributes}).encode()


# -- the cloudevents package --------------------------------------------------------------------------------------


def event(data: Any, **attributes: Any) -> CloudEvent:
    return CloudEvent({"type": "greet", "source": "/shop", "id": "e-1", **attributes}, data)


@pytest.mark.parametrize(
    ("data", "attributes"),
    [
        ({"name": "Zoë", "n": 2}, {}),
        ({"name": "Zoë", "n": 2}, {"datacontenttype": "application/json"}),
        ({"name": "Zoë", "n": 2}, {"datacontenttype": "application/vnd.shop+json; charset=utf-8"}),
        (b'{"name": "Zo\xc3\xab", "n": 2}', {"datacontenttype": "application/json"}),
    ],
)
def test_what_the_package_writes_is_read(data: Any, attributes: dict[str, str]) -> None:
    written = oracle.to_structured_event(event(data, **attributes))
    task = received(written.value, written.headers["content-type"].decode())
    assert isinstance(task, Task)
    assert bound(task) == ("Zoë", 2)
    assert (task.name, task.id, task.value) == ("greet", "e-1", written.value)


def test_both_modes_of_the_package_mean_the_same() -> None:
    given = event({"name": "a", "n": 3}, time=datetime(2026, 1, 2, tzinfo=UTC), subject="s", myextension="x")
    binary = oracle.to_binary_event(given)
    place = TopicPartition("tasks", 0)
    first = decode(MemoryRecord(place, 0, None, binary.value, list(binary.headers.items())), {"greet"}, None)
    second = received(oracle.to_structured_event(given).value)
    assert isinstance(first, Task)
    assert isinstance(second, Task)
    assert bound(first) == bound(second) == ("a", 3)
    seen = Context(second, 1, None).headers
    assert {name: seen[name] for name in ("ce_id", "ce_type", "ce_source", "ce_time", "ce_subject")} == {
        name: binary.headers[name] for name in ("ce_id", "ce_type", "ce_source", "ce_time", "ce_subject")
    }
    assert second.headers == [("content-type", JSON.encode())], "the record's own headers are for its dead letter"


def test_what_kworker_publishes_is_read_by_the_package() -> None:
    published = message("greet", {"name": "a"}, topic="t", id="x", now=1.5)
    headers = {name: value or b"" for name, value in published.headers}
    read = oracle.from_kafka(oracle.KafkaMessage(headers, published.key, published.value or b""), JSONFormat())
    assert read.get_data() == {"name": "a"}
    assert (read.get_type(), read.get_id(), read.get_source()) == ("greet", "x", "kworker")
    assert read.get_time() == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)
    again = oracle.to_structured_event(read)
    assert bound(received(again.value)) == ("a", 1)


# -- the envelope -------------------------------------------------------------------------------------------------


def test_attributes_do_what_the_headers_of_binary_mode_do() -> None:
    value = envelope(
        id="42", deadline="2026-12-01T09:00:00Z", replyto="answers", traceparent="00-ab", data={"name": "a"}
    )
    task = received(value, "Application/CloudEvents+JSON; charset=UTF-8", ce_id="not this", ce_type="nor this")
    assert isinstance(task, Task)
    assert (task.name, task.id, task.reply_to) == ("greet", "42", "answers")
    assert task.deadline == datetime(2026, 12, 1, 9, tzinfo=UTC).timestamp()
    assert (task.key, task.offset) == (b"k", 7)
    assert task.size == 1 + len(value) + sum(len(name) + len(text or b"") for name, text in task.headers)
    assert Context(task, 1, None).headers["ce_traceparent"] == b"00-ab"
    assert bound(task) == ("a", 1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"data": {"name": "a"}}, ("a", 1)),
        ({"type": "anything", "data": [1, {"a": None}]}, ([1, {"a": None}],)),
        ({"type": "anything", "data": None}, (None,)),
        ({"data": None}, "empty"),
        ({}, "empty"),
        ({"type": "raw", "data_base64": "AAH/", "datacontenttype": "application/octet-stream"}, (b"\x00\x01\xff",)),
        ({"type": "raw", "data": "text", "datacontenttype": "application/octet-stream"}, (b"text",)),
        ({"data": "hi", "datacontenttype": "text/plain"}, "content_type"),
        ({"data": {"name": "a"}, "datacontenttype": "application/octet-stream"}, "envelope"),
        ({"data": {"name": "a"}, "data_base64": "AA=="}, "envelope"),
        ({"data_base64": "?"}, "envelope"),
        ({"data_base64": "e30=", "datacontenttype": JSON}, "content_type"),
        ({"data": "eA==", "datacontentencoding": "base64"}, "envelope"),
        ({"data": {"name": 5}}, "schema"),
        ({"data": {"name": "a", "x": 1}}, "schema"),
        ({"type": "nobody"}, "unknown_task"),
        ({"type": None}, "no_task"),
        ({"type": 5}, "envelope"),
        ({"id": ["1"]}, "envelope"),
        ({"specversion": "0.3"}, "envelope"),
        ({"deadline": "soon"}, "deadline"),
        ({"source": "x" * 300_000}, "headers_too_large"),
    ],
)
def test_what_an_envelope_comes_to(value: dict[str, Any], expected: Any) -> None:
    task = received(envelope(**value))
    if isinstance(expected, str):
        assert refused(task)[1] == expected
    else:
        assert bound(task) == expected


def test_extension_attributes_are_headers_of_the_context() -> None:
    given = {"tenant": "a\u00e9", "flag": True, "count": -7, "none": None, "tree": {"a": 1}, "no name": "x"}
    task = received(envelope(data={"name": "a", "inner": 1}, **given), tenant="of the record", other="y")
    assert isinstance(task, Task)
    found = Context(task, 1, None, message).headers
    shown = {name: found[name] for name in ("ce_tenant", "ce_flag", "ce_count", "tenant", "other")}
    assert shown == {
        "ce_tenant": "a\u00e9".encode(),
        "ce_flag": b"true",
        "ce_count": b"-7",
        "tenant": b"of the record",
        "other": b"y",
    }
    assert not {"ce_none", "ce_tree", "ce_no name", "ce_data", "ce_inner"} & found.keys()


def test_attributes_are_bounded_and_data_are_not_counted_among_them() -> None:
    many = {f"a{n}": "x" for n in range(300)}
    assert refused(received(envelope(data={"name": "a"}, **many)))[1] == "envelope"
    assert refused(received(envelope(data={"name": "a"}, **{f"a{n}": 1 for n in range(30_000)})))[1] == (
        "headers_too_large"
    )
    assert bound(received(envelope(type="anything", data=[many])))[0] == [many]
    assert len(bound(received(envelope(type="anything", data="x" * 500_000)))[0]) == 500_000


def test_avro_data_in_a_json_envelope() -> None:
    schema = AvroSchema(SCHEMA)
    data = b"\xc3\x01" + schema.fingerprint + b"\x02a\x06"
    value = envelope(data_base64=base64.b64encode(data).decode(), datacontenttype="application/avro")
    assert bound(received(value)) == ("a", 3)


@pytest.mark.parametrize(
    "value", [None, b"", b"[]", b"5", b"{", b"\xff", b'{"type": "\\ud800"}', b'{"type": "greet",}', b"[" * 100_000]
)
def test_what_is_no_envelope_is_refused(value: bytes | None) -> None:
    assert refused(received(value)) == (Reason.UNDECODABLE, "envelope")


def test_a_batch_is_refused_with_the_reason() -> None:
    task = received(b"[]", "application/cloudevents-batch+json")
    assert isinstance(task, DecodeError)
    assert task.reason is Reason.UNDECODABLE
    assert "a batch is several events in one record, and a record is one task" in str(task)
    assert refused(received(b"<x/>", "application/cloudevents+xml"))[1] == "content_type"


def test_the_limits_of_the_loop_and_of_the_slot() -> None:
    assert refused(received(envelope(data="x" * structured.MOST_BYTES)))[1] == "too_large"
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}
    assert refused(received(envelope(data=deep)))[1] == "too_deep"


# -- the Avro format ----------------------------------------------------------------------------------------------

EVENT = fastavro.parse_schema(cloudevents._EVENT)


def avro(attributes: Mapping[str, Any], data: Any) -> bytes:
    stream = io.BytesIO()
    defaults = {"specversion": "1.0", "type": "greet", "id": "1", "source": "/s"}
    fastavro.schemaless_writer(stream, EVENT, {"attribute": {**defaults, **attributes}, "data": data})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("attributes", "data", "expected"),
    [
        ({}, b'{"name": "a"}', ("a", 1)),
        ({"datacontenttype": "application/json", "retry": True, "n": -70, "none": None}, b'{"name": "a"}', ("a", 1)),
        ({"type": "raw", "datacontenttype": "application/octet-stream"}, b"\0\xff", (b"\0\xff",)),
        ({"type": "raw", "datacontenttype": "application/octet-stream"}, "text", (b"text",)),
        ({"type": "anything"}, "text", ("text",)),
        ({"type": "anything"}, True, (True,)),
        ({"type": "anything"}, 2.5, (2.5,)),
        ({}, None, "empty"),
        ({}, {"name": "a"}, "envelope"),
        ({"specversion": "0.3"}, b"{}", "envelope"),
        ({"type": "nobody"}, b"{}", "unknown_task"),
        ({f"a{n}": "x" for n in range(300)}, b"{}", "envelope"),
    ],
)
def test_an_envelope_in_avro(attributes: dict[str, Any], data: Any, expected: Any) -> None:
    task = received(avro(attributes, data), AVRO)
    if isinstance(expected, str):
        assert refused(task)[1] == expected
        return
    assert isinstance(task, Task)
    assert (task.id, task.attributes and task.attributes["ce_source"]) == ("1", b"/s")
    assert bound(task) == expected


def test_any_bytes_are_an_envelope_or_refused() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    samples = [
        (JSON, envelope(data={"name": "a"}, deadline="2026-12-01T09:00:00Z")),
        (JSON, envelope(data_base64="e30=", time="x")),
        (AVRO, avro({"flag": True, "n": 5}, b'{"name": "a"}')),
        (AVRO, avro({}, "text")),
    ]
    outcomes = set()
    for _ in range(5_000):
        content_type, sample = chance.choice(samples)
        value = bytearray(sample)
        for _ in range(chance.choice((1, 1, 2, 4))):
            at = chance.randrange(len(value))
            value[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        task = received(bytes(value), content_type)
        if isinstance(task, DecodeError):
            outcomes.add(task.code)
            continue
        try:
            bound(task)
            outcomes.add("bound")
        except DecodeError as error:
            outcomes.add(error.code)
    print(outcomes)
    assert {"bound", "envelope", "unknown_task"} <= outcomes
