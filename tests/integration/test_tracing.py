"""Spans of real workers on a real Kafka, as a collector receives them: one trace from the publisher to each attempt."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kit import Kafka, NewRecord, create_topic, produce, read_all, wait_for
from kit.worker_process import WorkerProcess

PLUGIN = Path(__file__).parents[1] / "kit" / "traced"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Receives spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        collector = self

        class Receive(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receive)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, request: Any) -> None:
        for group in request.resource_spans:
            self.resources.append(attributes(group.resource))
            for scope in group.scope_spans:
                self.spans += scope.spans

    def of(self, task: str) -> list[Any]:
        return [span for span in self.spans if attributes(span).get("kworker.task") == task]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def attributes(holder: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in holder.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def start(kafka: Kafka, folder: Path, topic: str, **env: str) -> WorkerProcess:
    """A worker that traces what it reads of this topic."""
    place = ("--bootstrap", kafka.bootstrap, "--group", topic, "--topic", topic, "--plugin", "traced")
    return WorkerProcess(folder, *place, "--tracing", "true", env=env, site=[PLUGIN])


def test_a_trace_goes_from_the_publisher_through_every_executor(
    kafka: Kafka, collector: Collector, tmp_path: Path
) -> None:
    topic = f"traced-{uuid.uuid4().hex[:12]}"
    create_topic(kafka.bootstrap, topic)
    parent = ("traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    produce(
        kafka.bootstrap,
        topic,
        [
            NewRecord(b'{"n": 1}', b"key", (("ce_type", b"traced.thread"), ("ce_id", b"first"), parent)),
            NewRecord(b'{"n": -1}', None, (("ce_type", b"traced.process"), parent)),
            NewRecord(b'{"n": 2}', None, (("ce_type", b"traced.process"), ("traceparent", b"\xff not one"))),
            NewRecord(None, None, (("ce_type", b"traced.exit"),)),
        ],
    )
    url = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    worker = start(kafka, tmp_path / "worker", topic, **url)
    try:
        wait_for(lambda: len(collector.of("traced.coroutine")) == 1, 30, "the span of what a task published")
        wait_for(lambda: len(collector.of("traced.process")) == 2, 30, "the spans of child processes")
        wait_for(lambda: len(collector.of("traced.exit")) == 1, 30, "the span of a task that exits")
        worker.terminate()
        assert worker.wait() == 0
    finally:
        worker.close()
    assert collector.resources[0]["service.name"] == "kworker"
    (first,) = collector.of("traced.thread")
    assert first.name == f"process {topic}"
    assert first.kind == 5  # CONSUMER
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, SPAN)
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in first.links] == [(TRACE, SPAN)]
    assert attributes(first) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "messaging.kafka.message.key": "key",
        "messaging.consumer.group.name": topic,
        "messaging.message.id": "first",
        "messaging.message.body.size": 8,
        "kworker.task": "traced.thread",
        "kworker.attempt": 1,
    }
    (published,) = collector.of("traced.coroutine")
    assert published.trace_id.hex() == TRACE
    assert published.parent_span_id == first.span_id
    (inside,) = [span for span in collector.spans if span.name == "inside 1"]
    assert inside.parent_span_id == published.span_id
    rejected, other = sorted(
        collector.of("traced.process"), key=lambda span: attributes(span)["messaging.kafka.offset"]
    )
    assert rejected.trace_id.hex() == TRACE
    assert attributes(rejected)["error.type"] == "Reject"
    assert rejected.status.code == 2
    assert other.trace_id.hex() != TRACE
    assert not other.links
    assert other.status.code == 0
    (exit_,) = collector.of("traced.exit")
    assert attributes(exit_)["error.type"] == "SystemExit"


def test_a_client_begins_the_trace_and_goes_on_in_the_one_it_is_called_in(
    kafka: Kafka, collector: Collector, tmp_path: Path
) -> None:
    topic = f"traced-{uuid.uuid4().hex[:12]}"
    create_topic(kafka.bootstrap, topic)
    program = f"""
from opentelemetry import trace
from kworker import Client
with Client({kafka.bootstrap!r}, topic={topic!r}, tracing=True) as client:
    client.publish("traced.coroutine", {{"n": 1}}, id="alone")
    with trace.get_tracer("shop").start_as_current_span("order"):
        client.publish("traced.coroutine", {{"n": 2}}, id="within")
trace.get_tracer_provider().force_flush()
"""
    env = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "shop"}
    subprocess.run([sys.executable, "-c", program], env=env, check=True, timeout=60)
    sent = {attributes(span)["messaging.message.id"]: span for span in collector.spans if span.name == f"send {topic}"}
    (order,) = [span for span in collector.spans if span.name == "order"]
    assert sent["alone"].parent_span_id == b""
    assert (sent["within"].trace_id, sent["within"].parent_span_id) == (order.trace_id, order.span_id)
    assert {span.kind for span in sent.values()} == {4}  # PRODUCER
    assert attributes(sent["alone"])["messaging.destination.partition.id"] == "0"
    headers = [dict(message.headers() or []) for message in read_all(kafka.bootstrap, topic)]
    carried = [repr(one["traceparent"]).split("-")[1:3] for one in headers]
    assert carried == [[sent[id].trace_id.hex(), sent[id].span_id.hex()] for id in ("alone", "within")]


def test_without_a_collector_everything_runs(kafka: Kafka, tmp_path: Path) -> None:
    topic = f"traced-{uuid.uuid4().hex[:12]}"
    create_topic(kafka.bootstrap, topic)
    produce(
        kafka.bootstrap,
        topic,
        [NewRecord(b'{"n": %d}' % n, None, (("ce_type", b"traced.coroutine"),)) for n in range(9)],
    )
    worker = start(kafka, tmp_path / "worker", topic, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    try:
        wait_for(lambda: 'succeeded_total{task="traced.coroutine"} 9.0' in worker.metrics(), 30, "nine tasks")
        worker.terminate()
        assert worker.wait() == 0
    finally:
        worker.close()
