"""Must hold: every format makes the round trip from a foreign producer, and its bytes are kept in dead letters.

Real producers, a real Kafka, a real worker process. Each message comes in two variants: one is done, and the task tells
what it got; the other is read just as well, then refused by the task, and its dead letter is the record byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as cloudevents
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Message
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

import kit
from kit import Kafka, MakeTopic, NewRecord, create_topic, foreign_producer, produce, read_all, wait_for
from kit.registry import Registry
from kit.worker_process import WorkerProcess
from kworker.client import Client
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.avro_write import write

PLUGIN = Path(kit.__file__).parent / "foreign_plugin"
SALE = (PLUGIN / "sale.avsc").read_text()
KEY = b"k\0\xff"
ODD = (("twice", b"1"), ("twice", b"2"), ("nothing", None), ("empty", b""), ("bytes", b"\0\xff\r\n"))
"""Headers that are easily lost: a name twice, no value, an empty one, and bytes that are no text."""

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
TAGS = ["a", "Zoë 😀"]
DONE, REFUSED = 1, -1


class Scene:
    """One topic, its worker, and what its tasks got."""

    def __init__(self, folder: Path, bootstrap: str, topic: str) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self.stack = ExitStack()
        self._folder = folder
        self._calls = folder / "calls"

    def seen(self) -> dict[int, dict[str, Any]]:
        """What each task got, by its offset. AssertionError when one ran twice."""
        text = self._calls.read_text() if self._calls.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        assert {line["attempt"] for line in lines} <= {1}
        found = {line["offset"]: line for line in lines}
        assert len(found) == len(lines)
        return found

    def run(self, count: int, *arguments: str) -> list[Any]:
        """Let a worker read the `count` records of the topic; returns what their tasks got, in order."""
        given = ["--group", self.topic, "--topic", self.topic, "--bootstrap", self.bootstrap, "--plugin", "foreign"]
        env = {"FOREIGN_CALLS": str(self._calls)}
        worker = WorkerProcess(self._folder / "worker", *given, *arguments, env=env, site=[PLUGIN])
        self.stack.callback(worker.close)

        def committed() -> int:
            assert worker.exit_code is None, worker.logged()[-3000:]
            return sum(partition["committed"] or 0 for partition in worker.status()["assignment"])

        wait_for(lambda: committed() == count, 60, f"{count} records are committed")
        return [seen["seen"] for _, seen in sorted(self.seen().items())]

    def letters(self) -> list[Message]:
        """The dead letters, each compared byte for byte with the record it was made of; in the order of those."""
        originals = {record.offset(): record for record in read_all(self.bootstrap, self.topic)}
        found = {}
        for letter in read_all(self.bootstrap, f"{self.topic}.dlq"):
            headers: Any = letter.headers()
            topic, partition, offset = dict(headers)["kworker-origin"].decode().rsplit("/", 2)
            assert (topic, partition) == (self.topic, "0")
            record = originals[int(offset)]
            kept: Any = record.headers() or []
            assert (letter.key(), letter.value()) == (record.key(), record.value())
            assert headers[: len(kept)] == kept
            assert all(name.startswith("kworker-") for name, _ in headers[len(kept) :])
            found[int(offset)] = letter
        assert found.keys() <= originals.keys()
        return [found[offset] for offset in sorted(found)]


@pytest.fixture
def scene(kafka: Kafka, topic: MakeTopic, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, kafka.bootstrap, topic())
    with made.stack:
        yield made


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


def refusals(letters: list[Message]) -> set[bytes]:
    """Why these were set aside."""
    found: list[Any] = [letter.headers() for letter in letters]
    return {dict(headers)["kworker-reason"] for headers in found}


def sale(n: int) -> dict[str, Any]:
    """The arguments of a task, as Python has them."""
    return {"n": n, "when": WHEN, "price": Decimal("12.50"), "tags": TAGS}


def as_json(n: int) -> dict[str, Any]:
    """The same as JSON writes them."""
    return {"n": n, "when": "2026-01-02T03:04:05.678Z", "price": "12.50", "tags": TAGS}


def got(n: int) -> list[Any]:
    """What the task tells that it got."""
    return [n, "12.50", WHEN.isoformat(), TAGS]


def test_plain_producers(scene: Scene) -> None:
    """JSON by a name in either header, bytes as they are, and CloudEvents in binary mode written by hand."""
    event = {
        "ce_specversion": b"1.0",
        "ce_id": b"\xe2\x82\xac 1",
        "ce_source": b"/shop",
        "ce_type": b"sale",
        "ce_time": b"2026-01-02T03:04:05Z",
        "ce_traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "content-type": b"application/json; charset=utf-8",
    }
    raw = (("task", b"raw"), ("content-type", b"application/octet-stream"))
    records = []
    for n in (DONE, REFUSED):
        text = json.dumps(as_json(n), ensure_ascii=False).encode()
        records += [
            NewRecord(text, KEY, (("ce_type", b"sale"), *ODD)),
            NewRecord(b" \n" + json.dumps(as_json(n), indent=3).encode(), b"", (*ODD, ("task", b"sale"))),
            NewRecord(text, None, (*event.items(), *ODD)),
            NewRecord((b"" if n == DONE else b"!") + bytes(range(256)) * 3, KEY, (*raw, *ODD)),
        ]
    produce(scene.bootstrap, scene.topic, records)
    seen = scene.run(8)
    data = bytes(range(256)) * 3
    assert seen == [*[got(DONE)] * 3, data.hex(), *[got(REFUSED)] * 3, (b"!" + data).hex()]
    told = scene.seen()
    assert [told[offset]["key"] for offset in range(4)] == [KEY.hex(), "", None, KEY.hex()]
    assert [told[offset]["id"] for offset in (0, 2)] == [f"{scene.topic}/0/0", "€ 1"]
    letters = scene.letters()
    assert [(letter.key(), letter.value()) for letter in letters] == [(one.key, one.value) for one in records[4:]]
    for letter, record in zip(letters, records[4:], strict=True):
        assert tuple(letter.headers() or [])[: len(record.headers)] == record.headers
    assert refusals(letters) == {b"rejected"}


@pytest.mark.parametrize("where", ["mock://", "http://"])
def test_the_avro_serializer_of_confluent(scene: Scene, registry: Registry, where: str) -> None:
    """With its own registry in memory, whose schemas the worker's registry is given under the same ids; and over HTTP.

    An older version of the schema, the task's own, and the one that is the newest of the subject.
    """
    client = SchemaRegistryClient.new_client({"url": registry.url if where == "http://" else "mock://foreign"})
    older = json.loads(SALE)
    older["fields"] = [field for field in older["fields"] if field["name"] != "when"]
    to_value = SerializationContext(scene.topic, MessageField.VALUE)
    serializers = [AvroSerializer(client, json.dumps(older)), AvroSerializer(client, SALE)]
    values = [serialize(sale(n), to_value) for n in (DONE, REFUSED) for serialize in serializers]
    latest = AvroSerializer(client, conf={"auto.register.schemas": False, "use.latest.version": True})
    values.append(latest(sale(REFUSED), to_value))
    ids = [int.from_bytes(value[1:5], "big") for value in values]
    assert ids == [ids[0], ids[1], ids[0], ids[1], ids[1]], "two schemas"
    if where == "mock://":
        for id in ids[:2]:
            text = client.get_schema(id).schema_str
            assert registry.register(f"{scene.topic}-value", text) == id
    records = [NewRecord(value, KEY, (("ce_type", b"sale"), *ODD)) for value in values]
    produce(scene.bootstrap, scene.topic, records)
    seen = scene.run(5, "--schema-registry", registry.url)
    old_done, old_refused = ([n, "12.50", None, TAGS] for n in (DONE, REFUSED))
    assert seen == [old_done, got(DONE), old_refused, got(REFUSED), got(REFUSED)]
    letters = scene.letters()
    assert [letter.value() for letter in letters] == values[2:]
    assert refusals(letters) == {b"rejected"}


def event(data: Any, **attributes: Any) -> CloudEvent:
    """One of the cloudevents package; its id tells nothing."""
    return CloudEvent({"type": "sale", "source": "/shop", **attributes}, data)


def test_the_cloudevents_package_writes(scene: Scene) -> None:
    """Both modes, with data in JSON and in Avro, of which every second is refused."""
    schema = AvroSchema(json.loads(SALE))
    modes: list[Callable[[CloudEvent], cloudevents.KafkaMessage]] = [
        cloudevents.to_structured_event,
        cloudevents.to_binary_event,
    ]
    records: list[NewRecord] = []
    for n in (DONE, REFUSED):
        for mode in modes:
            for data, kind in ((as_json(n), "application/json"), (write(schema, sale(n)), "application/avro")):
                made = mode(event(data, datacontenttype=kind, id=f"{len(records)}", partitionkey="p", subject="é"))
                key = made.key.encode() if isinstance(made.key, str) else made.key
                records.append(NewRecord(made.value, key, (*made.headers.items(), *ODD)))
    produce(scene.bootstrap, scene.topic, records)
    seen = scene.run(len(records))
    assert seen == [*[got(DONE)] * 4, *[got(REFUSED)] * 4]
    assert [told["id"] for _, told in sorted(scene.seen().items())] == [str(n) for n in range(8)]
    letters = scene.letters()
    assert [letter.value() for letter in letters] == [record.value for record in records[4:]]
    assert refusals(letters) == {b"rejected"}


def test_the_cloudevents_package_reads(scene: Scene) -> None:
    """What a client publishes, what a task publishes, what it returns, and the dead letter of an event."""
    replies = f"{scene.topic}-replies"
    create_topic(scene.bootstrap, replies, 1)
    asked = {"ce_replyto": replies, "ce_source": "/till"}
    with Client(scene.bootstrap, topic=scene.topic) as client:
        client.publish("sale", as_json(DONE) | {"tags": ["publish"]}, id="first", key="k", headers=asked)
        client.publish("sale", as_json(REFUSED), id="refused")
    scene.run(3, "--reply-topic", replies)
    first, refused, again = read(scene, scene.topic)
    (answer,) = read(scene, replies)
    (letter,) = read(scene, f"{scene.topic}.dlq")
    assert (first.get_id(), first.get_type(), first.get_source()) == ("first", "sale", "/till")
    assert first.get_data() == as_json(DONE) | {"tags": ["publish"]}
    assert (again.get_id(), again.get_type(), again.get_source()) == ("first/again", "sale", "kworker")
    assert again.get_data() == {"n": 2, "price": "12.50"}
    assert (answer.get_id(), answer.get_type(), answer.get_data()) == ("first/result", "sale.result", {"sold": 1})
    assert answer.get_extension("causationid") == "first"
    assert refused.get_data() == as_json(REFUSED)
    assert letter.get_attributes() == refused.get_attributes(), "a dead letter is the event that it was"
    assert letter.get_data() == refused.get_data()
    assert len(scene.letters()) == 1


def read(scene: Scene, topic: str) -> list[Any]:
    """The records of a topic as the package reads them: events, checked by it."""
    found = []
    for message in read_all(scene.bootstrap, topic):
        given: Any = message.headers()
        headers = {name: value for name, value in given if value is not None}
        found.append(
            cloudevents.from_kafka_event(cloudevents.KafkaMessage(headers, message.key(), message.value() or b""))
        )
    return found


@pytest.mark.timeout(300)  # its jars may have to be fetched
def test_a_producer_in_java(scene: Scene, registry: Registry, tmp_path: Path) -> None:
    """kafka-clients, Avro's own encoders and the CloudEvents library of Java: what it wrote is read and kept."""
    classes = tmp_path / "classes"
    classes.mkdir()
    schemas = [str(PLUGIN / "sale.avsc"), str(PLUGIN / "event.avsc")]
    lines = foreign_producer.run(classes, scene.bootstrap, scene.topic, registry.url, *schemas)
    formats = [
        "json",
        "single-object",
        "confluent",
        "binary event",
        "event with JSON",
        "event with Avro",
        "event in Avro",
    ]
    assert [line.split("\t") for line in lines] == [[name, "0", f"{at}"] for at, name in enumerate(formats * 2)]
    written = read_all(scene.bootstrap, scene.topic)
    assert (written[1].value() or b"")[:2] == b"\xc3\x01", "single-object encoding"
    assert (written[2].value() or b"")[:5] == b"\0\0\0\0\x01", "Confluent framing"
    assert tuple(written[0].headers() or [])[1:] == ODD
    kinds: list[Any] = [message.headers() for message in written[4:7]]
    json_event = b"application/cloudevents+json"
    assert [dict(headers)["content-type"].partition(b";")[0] for headers in kinds] == [
        json_event,
        json_event,
        b"application/cloudevents+avro",
    ]
    seen = scene.run(14, "--schema-registry", registry.url)
    assert seen == [*[got(DONE)] * 7, *[got(REFUSED)] * 7]
    told = scene.seen()
    assert {told[offset]["key"] for offset in told} == {KEY.hex()}
    assert [told[offset]["id"] for offset in range(3, 7)] == ["java/1"] * 4
    letters = scene.letters()
    assert len(letters) == 7
    assert refusals(letters) == {b"rejected"}
