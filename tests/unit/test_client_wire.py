"""What a client puts into a record, and what it refuses before anything is sent: no Kafka here."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker import AsyncClient, Client, ConfigError
from kworker.core.publication import message
from kworker.core.wire import decode
from kworker.task import Publication, Task

NOW = 1_764_000_000.125


def publication(task: str = "thumbnail", payload: object = None, **more: Any) -> Publication:
    arguments: dict[str, Any] = {"topic": "tasks", "id": "i1", "now": NOW}
    return message(task, payload, **arguments | more)


def headers(of: Publication) -> dict[str, bytes | None]:
    found = dict(of.headers)
    assert len(found) == len(of.headers), "a header twice"
    return found


class Sent:
    """A publication as the record that a worker would read."""

    def __init__(self, publication: Publication) -> None:
        self.publication = publication

    def topic(self) -> str:
        return self.publication.topic

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 7

    def key(self) -> bytes | None:
        return self.publication.key

    def value(self) -> bytes | None:
        return self.publication.value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self.publication.headers

    def timestamp(self) -> tuple[int, int]:
        return (1, int(NOW * 1000))


class Point(msgspec.Struct):
    x: int
    when: datetime


@dataclass
class Pair:
    left: uuid.UUID


def test_a_message_is_a_cloudevent_in_binary_mode() -> None:
    record = publication(payload={"path": "a.jpg"}, key="kä")
    assert (record.topic, record.key, record.value) == ("tasks", "kä".encode(), b'{"path":"a.jpg"}')
    assert headers(record) == {
        "ce_type": b"thumbnail",
        "ce_id": b"i1",
        "ce_source": b"kworker",
        "ce_specversion": b"1.0",
        "ce_time": b"2025-11-24T16:00:00.125Z",
        "content-type": b"application/json",
    }


def test_no_payload_is_a_null_value_without_a_content_type() -> None:
    record = publication()
    assert record.value is None
    assert record.key is None
    assert "content-type" not in headers(record)


@pytest.mark.parametrize("payload", [b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff")])
def test_bytes_travel_as_they_are(payload: object) -> None:
    record = publication(payload=payload)
    assert record.value == b"\x00\xff"
    assert headers(record)["content-type"] == b"application/octet-stream"


def test_bytes_may_bring_their_own_content_type() -> None:
    record = publication(payload=b"\xc3\x01", headers={"content-type": "application/avro"})
    assert headers(record)["content-type"] == b"application/avro"


def test_structs_dataclasses_times_and_uuids_become_json() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    assert publication(payload=Point(1, when)).value == b'{"x":1,"when":"2026-01-02T00:00:00Z"}'
    assert publication(payload=Pair(uuid.UUID(int=1))).value == b'{"left":"00000000-0000-0000-0000-000000000001"}'


def test_raw_json_is_not_written_anew() -> None:
    record = publication(payload=msgspec.Raw(b'{ "a" : null }'))
    assert record.value == b'{ "a" : null }'
    assert headers(record)["content-type"] == b"application/json"


def test_headers_of_the_user_travel_and_may_replace_the_source() -> None:
    found = headers(publication(headers={"traceparent": "00-1", "ce_source": "/shop", "raw": b"\xff"}))
    assert (found["traceparent"], found["ce_source"], found["raw"]) == (b"00-1", b"/shop", b"\xff")


@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        ({"task": ""}, ValueError, "task name"),
        ({"task": "_hidden"}, ValueError, "task name"),
        ({"task": "a\nb"}, ValueError, "task name"),
        ({"task": "x" * 201}, ValueError, "task name"),
        ({"id": ""}, ValueError, "id is empty"),
        ({"payload": object()}, TypeError, "cannot publish 'thumbnail'.*object"),
        ({"payload": {(1, 2): 3}}, TypeError, "JSON"),
        ({"payload": "\ud800"}, ValueError, "JSON"),
        ({"payload": float("nan")}, ValueError, "NaN"),
        ({"payload": {"a": [None, (1.0, float("inf"))]}}, ValueError, "NaN"),
        ({"headers": {"ce_type": "other"}}, ValueError, "give it as task="),
        ({"headers": {"task": "other"}}, ValueError, "give it as task="),
        ({"headers": {"ce_id": "other"}}, ValueError, "give it as id="),
        ({"headers": {"ce_specversion": "2"}}, ValueError, "sets the header"),
        ({"headers": {"kworker-attempt": "1"}}, ValueError, "reserved"),
        ({"headers": {"": "1"}}, ValueError, "called ''"),
        ({"headers": {"n": 1}}, TypeError, "header 'n' is int"),
        ({"headers": {3: "1"}}, ValueError, "3 is not the name of a header"),
        ({"headers": {"a\0b": "1"}}, ValueError, "not the name of a header"),
        ({"headers": {"\udc80": "1"}}, ValueError, "not the name of a header"),
        ({"topic": 3}, ValueError, "3 is not the name of a topic"),
        ({"topic": "a\0b"}, ValueError, "not the name of a topic"),
        ({"topic": "\udc80"}, ValueError, "not the name of a topic"),
        ({"payload": {}, "headers": {"content-type": "application/avro"}}, ValueError, "only a payload given as bytes"),
        ({"key": 1}, TypeError, "the key is int"),
    ],
)
def test_what_cannot_be_published_is_refused(more: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        publication(**more)


def test_a_payload_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="JSON"):
        publication(payload=endless)


def test_null_is_not_mistaken_for_nan() -> None:
    assert publication(payload={"a": None, "b": "null", "c": 1.5}).value == b'{"a":null,"b":"null","c":1.5}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(payload=JSON, id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_a_worker_reads_back_what_was_published(payload: object, id: str) -> None:
    task = decode(Sent(publication(payload=payload, id=id, key=b"k")), {"thumbnail"}, None)
    assert isinstance(task, Task)
    assert (task.name, task.id, task.key) == ("thumbnail", id, b"k")
    if payload is None:
        assert task.value is None
    else:
        assert task.content_type == "application/json"
        assert json.loads(task.value or b"") == payload


@pytest.mark.parametrize(
    ("kafka", "text"),
    [
        ({"acks": "1"}, r"acks: 1 is refused: .*in-sync"),
        ({"request.required.acks": "0"}, "in-sync"),
        ({"enable.idempotence": "false"}, "idempotence: false is refused"),
        ({"transactional.id": "t"}, "transactional.id"),
        ({"delivery.report.only.error": "true"}, "delivery.report.only.error"),
        ({"bootstrap.servers": "other:1"}, "bootstrap.servers: it is refused"),
        ({"message.timeout.ms": "1"}, "give it as timeout"),
        ({"no.such.property": "1"}, "no.such.property"),
        ({"compression.codec": "nope"}, "compression"),
        ({"retries": "0"}, "retries"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_unsafe_and_unknown_properties_are_refused(
    kind: type[Client] | type[AsyncClient], kafka: dict[str, str], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        kind("127.0.0.1:1", kafka=kafka)


def test_every_unsafe_property_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        Client("127.0.0.1:1", kafka={"acks": "0", "transactional.id": "t"})
    assert len(refused.value.faults) == 2


def test_a_password_is_in_no_error() -> None:
    with pytest.raises(ConfigError) as refused:
        Client("127.0.0.1:1", kafka={"sasl.password": "geheim", "sasl.mechanism": "NONE", "acks": "0"})
    assert "geheim" not in str(refused.value)


def test_safe_values_of_guarded_properties_are_taken() -> None:
    Client("127.0.0.1:1", kafka={"acks": "all", "enable.idempotence": "true", "linger.ms": "5"}).close()
    Client("127.0.0.1:1", kafka={"request.required.acks": "-1"}).close()


def test_an_empty_bootstrap_is_refused() -> None:
    with pytest.raises(ConfigError, match="bootstrap: it is empty"):
        Client("")


def test_a_closed_client_says_so() -> None:
    client = Client("127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.publish("thumbnail")


def test_a_client_refuses_to_work_after_a_fork() -> None:
    client = Client("127.0.0.1:1")
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        said = b"nothing"
        try:
            client.publish("thumbnail")
        except RuntimeError as error:
            said = str(error).encode()
        finally:
            client.close()  # returns at once: nothing of the client works here
            os.write(writing, said)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert b"fork" in pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    client.close()
