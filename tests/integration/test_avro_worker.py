"""Avro and CloudEvents from foreign producers, through a real Kafka and a real worker."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as cloudevents
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

import kit
from kit import Kafka, MakeTopic, NewRecord, produce, read_all, wait_for
from kit.registry import Registry
from kit.worker_process import WorkerProcess
from kworker.client import Client, Message
from kworker.codecs.avro_schema import AvroSchema
from kworker.codecs.avro_write import write

PLUGIN = Path(kit.__file__).parent / "avro_plugin"
ORDER = json.loads((PLUGIN / "order.avsc").read_text())
FIRST = json.loads((PLUGIN / "first.avsc").read_text())
AVRO = ("content-type", b"application/avro")
TYPE = ("ce_type", b"order")


class Calls:
    """What the tasks of avro_plugin noted: offset -> what they saw; AssertionError when one ran twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def seen(self) -> dict[int, Any]:
        text = self.path.read_text() if self.path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        found = {line["offset"]: line["seen"] for line in lines}
        assert len(found) == len(lines)
        assert {line["attempt"] for line in lines} <= {1}
        return found


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


@pytest.fixture
def start_worker(kafka: Kafka, tmp_path: Path, calls: Calls) -> Iterator[StartWorker]:
    """Starts a worker of one topic, whose group has its name; it is killed at the end."""
    with ExitStack() as stack:

        def start(topic: str, *arguments: str) -> WorkerProcess:
            given = ["--group", topic, "--topic", topic, "--bootstrap", kafka.bootstrap, "--plugin", "avro", *arguments]
            worker = WorkerProcess(tmp_path / "worker", *given, env={"AVRO_CALLS": str(calls.path)}, site=[PLUGIN])
            stack.callback(worker.close)
            return worker

        yield start


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


def committed(worker: WorkerProcess) -> int:
    assert worker.exit_code is None, worker.logged()[-3000:]
    return sum(partition["committed"] or 0 for partition in worker.status()["assignment"])


def wait_committed(worker: WorkerProcess, count: int) -> None:
    wait_for(lambda: committed(worker) == count, 60, f"{count} records are committed")


def letters(kafka: Kafka, topic: str) -> dict[int, tuple[bytes | None, dict[str, bytes | None]]]:
    """The dead letters: offset of the record -> value and headers."""
    found = {}
    for letter in read_all(kafka.bootstrap, f"{topic}.dlq"):
        given: Any = letter.headers() or []
        headers = dict(given)
        found[int((headers["kworker-origin"] or b"").rpartition(b"/")[2])] = (letter.value(), headers)
    return found


def test_avro_from_everybody(
    kafka: Kafka, topic: MakeTopic, registry: Registry, start_worker: StartWorker, calls: Calls
) -> None:
    """Confluent's serializer, plain bytes, kworker's own client and command, and what must be set aside."""
    name = topic()
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    serialize = AvroSerializer(SchemaRegistryClient({"url": registry.url}), json.dumps(ORDER))
    framed = serialize({"n": 0, "when": when}, SerializationContext(name, MessageField.VALUE))
    assert framed[0] == 0, "Confluent framing"
    foreign = registry.register("payments-value", FIRST)
    own = write(AvroSchema(ORDER), {"n": 1, "when": when})
    bad = [
        NewRecord(b"\0" + foreign.to_bytes(4, "big") + b"\x02", b"k", (TYPE,)),  # of another subject
        NewRecord(b"\0\0\0\xff\xff\x02", None, (TYPE, AVRO)),  # of no subject
        NewRecord(framed + b"\0", b"", (TYPE,)),  # a byte too many
        NewRecord(own[:-1], b"k", (TYPE, AVRO)),  # a byte too few
        NewRecord(b"\xc3\x01" + b"\x07" * 8 + b"\x02", None, (TYPE, ("x", None), ("x", b"\xff"), AVRO)),
    ]
    good = [
        NewRecord(framed, None, (TYPE,)),
        NewRecord(own, None, (TYPE, AVRO)),
        NewRecord(write(AvroSchema(FIRST), {"n": 2}), None, (TYPE, AVRO)),  # by an older version
        NewRecord(b'{"n": 3}', None, (TYPE,)),
    ]
    produce(kafka.bootstrap, name, [*bad, *good])
    with Client(kafka.bootstrap, topic=name) as client:
        client.publish("order", {"n": 4, "when": when}, schema=ORDER)
        id = registry.register(f"{name}-value", ORDER)
        client.publish_many([Message("order", {"n": 5}, schema=AvroSchema(ORDER), schema_id=id)])
    worker = start_worker(name, "--schema-registry", registry.url)
    wait_committed(worker, len(bad) + len(good) + 2)
    at = when.isoformat()
    assert calls.seen() == {5: [0, at], 6: [1, at], 7: [2, None], 8: [3, None], 9: [4, at], 10: [5, None]}
    found = letters(kafka, name)
    codes = [b"schema_subject", b"schema_unknown", b"trailing", b"truncated", b"schema_unknown"]
    assert [found[offset][1]["kworker-error-type"] for offset in range(len(bad))] == codes
    originals = read_all(kafka.bootstrap, f"{name}.dlq")
    by_value = {letter.value(): letter for letter in originals}
    for record in bad:
        letter = by_value[record.value]
        assert letter.key() == record.key
        assert tuple(letter.headers() or [])[: len(record.headers)] == record.headers


def test_a_registry_that_is_down_delays_tasks_and_loses_none(
    kafka: Kafka, topic: MakeTopic, registry: Registry, start_worker: StartWorker, calls: Calls
) -> None:
    """One that refuses, then one that does not answer: with one attempt and a second for each task, no dead letter."""
    name = topic()
    first = registry.register(f"{name}-value", FIRST)
    last = registry.register(f"{name}-value", ORDER)
    records = [NewRecord(b"\0" + first.to_bytes(4, "big") + bytes([2 * n]), None, (TYPE,)) for n in range(20)]
    registry.stop()
    produce(kafka.bootstrap, name, [*records, NewRecord(b'{"n": 50}', None, (TYPE,))])
    worker = start_worker(name, "--schema-registry", registry.url)
    wait_for(lambda: calls.seen() == {20: [50, None]}, 60, "what needs no registry to be done")
    wait_for(lambda: postponed(worker) >= 40, 60, "every task to be put off at least once more")
    assert committed(worker) == 0
    registry.start()
    wait_committed(worker, 21)
    registry.open.clear()
    before = postponed(worker)
    produce(kafka.bootstrap, name, [NewRecord(b"\0" + last.to_bytes(4, "big") + b"\x02\0", None, (TYPE,))] * 5)
    wait_for(lambda: postponed(worker) >= before + 5, 60, "tasks to be put off by a registry that does not answer")
    registry.open.set()
    wait_committed(worker, 26)
    assert calls.seen() == {
        **{n: [n, None] for n in range(20)},
        20: [50, None],
        **{21 + n: [1, None] for n in range(5)},
    }
    assert read_all(kafka.bootstrap, f"{name}.dlq") == []
    assert set(re.findall(r"^kworker_tasks_dead_lettered_total\{.*\} (\S+)$", worker.metrics(), re.M)) == {"0.0"}
    assert "slot lost" not in worker.logged()


def postponed(worker: WorkerProcess) -> int:
    return int(worker.status()["tasks"]["order"]["postponed"])


def test_events_in_structured_mode(kafka: Kafka, topic: MakeTopic, start_worker: StartWorker, calls: Calls) -> None:
    name = topic()

    def event(data: Any, **attributes: Any) -> NewRecord:
        given = CloudEvent({"type": "order", "source": "/shop", **attributes}, data)
        made = cloudevents.to_structured_event(given)
        key = made.key.encode() if isinstance(made.key, str) else made.key
        return NewRecord(made.value, key, tuple(made.headers.items()))

    avro = write(AvroSchema(ORDER), {"n": 2})
    good = [
        event({"n": 0}),
        event({"n": 1}, partitionkey="k", datacontenttype="application/json"),
        event(avro, datacontenttype="application/avro"),
        event([1, {"a": "é"}], type="anything"),
    ]
    batch = NewRecord(
        b"[" + (good[0].value or b"") + b"]", b"k", (("content-type", b"application/cloudevents-batch+json"),)
    )
    bad = [event({"n": 5}, type="nobody"), event({"m": 5}), batch]
    produce(kafka.bootstrap, name, [*good, *bad])
    worker = start_worker(name)
    wait_committed(worker, len(good) + len(bad))
    assert calls.seen() == {0: [0, None], 1: [1, None], 2: [2, None], 3: [1, {"a": "é"}]}
    found = letters(kafka, name)
    assert {
        offset: (value, headers["kworker-reason"], headers["kworker-error-type"])
        for offset, (value, headers) in found.items()
    } == {
        4: (bad[0].value, b"unroutable", b"unknown_task"),
        5: (bad[1].value, b"invalid", b"schema"),
        6: (batch.value, b"undecodable", b"content_type"),
    }
    assert b"a batch is several events in one record" in (found[6][1]["kworker-error-message"] or b"")


def publish(kafka: Kafka, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kworker", "publish", "--bootstrap", kafka.bootstrap, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_publishes_avro(kafka: Kafka, topic: MakeTopic, tmp_path: Path) -> None:
    name = topic()
    schema = str(PLUGIN / "order.avsc")
    to = ["--topic", name, "--avro-schema", schema]
    assert publish(kafka, "order", '{"n": 1, "when": "2026-01-02T00:00:00Z"}', *to).stdout == f"{name}/0/0\n"
    assert publish(kafka, "order", *to, "--schema-id", "7", "--file", "-", stdin='{"n": 2}\n{"n": 3}\n').returncode == 0
    first, second, third = read_all(kafka.bootstrap, name)
    assert dict(first.headers() or [])["content-type"] == b"application/avro"
    compiled = AvroSchema(ORDER)
    assert compiled.read(first.value() or b"", 10) == {"n": 1, "when": datetime(2026, 1, 2, tzinfo=UTC)}
    assert (second.value(), third.value()) == (b"\0\0\0\0\x07\x04\0", b"\0\0\0\0\x07\x06\0")
    wrong = publish(kafka, "order", *to, "--file", "-", stdin='{"n": 4}\n{"n": "x"}\n')
    assert wrong.returncode == 2
    assert "-, line 2: cannot publish 'order': the payload does not fit the Avro schema" in wrong.stderr
    (tmp_path / "bad.avsc").write_text('{"type": "record"}')
    for arguments, text in [
        (["{}", "--topic", name, "--avro-schema", str(tmp_path / "bad.avsc")], "holds no Avro schema that can be used"),
        (["{}", "--topic", name, "--avro-schema", str(tmp_path / "none")], "cannot read"),
        (["{}", "--topic", name, "--schema-id", "5"], "give it as --avro-schema"),
        (["{}", *to, "--raw"], "leave one out"),
        (["{}", *to], "shop.Order has no value for n"),
    ]:
        refused = publish(kafka, "order", *arguments)
        assert (refused.returncode, text in refused.stderr.replace("\n", " ")) == (2, True), refused.stderr
    assert len(read_all(kafka.bootstrap, name)) == 4


def test_check_asks_the_registry(kafka: Kafka, registry: Registry) -> None:
    def check(url: str) -> str:
        command = [sys.executable, "-m", "kworker", "check", "--bootstrap", kafka.bootstrap, "--schema-registry", url]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout

    assert "ok    schema registry: it answers" in check(registry.url)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert f"FAIL  the schema registry does not answer (127.0.0.1:{port}: " in check(f"http://me:pw@127.0.0.1:{port}")
