"""W12: what publishing takes: kworker's clients, and confluent-kafka alone with the same settings.

A program here publishes all tasks as fast as it can, then some one at a time, and tells what that took; outside it is
counted what the topic then holds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any

from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as Record

from benchmarks import told, topics
from benchmarks.effect import Effect
from benchmarks.peer import Peer, of_distributions
from benchmarks.place import Place
from benchmarks.trial import Measurement, Trial
from benchmarks.workload import KEYS, PAYLOAD
from kworker import AsyncClient, Client
from kworker.client import Message
from kworker.kafka.settings import PRODUCER

BATCH = 10_000  # messages of one publish_many
SINGLE = 100  # one of so many is published again, alone
TASK = "bench.sleep.thread"


def account(trial: Trial, found: Measurement) -> None:
    """All that it published must be in the topic, once."""
    wanted = trial.tasks + trial.tasks // SINGLE
    held = topics.count(trial.bootstrap, trial.topic, trial.workload.partitions)
    found.figures |= {"missing": max(0, wanted - held), "repeated": max(0, held - wanted)}
    if held != wanted:
        found.faults.append(f"the topic holds {held} of {wanted} messages")


# -- the programs ---------------------------------------------------------------------------------------------------


def _payload(n: int) -> dict[str, Any]:
    return {"n": n, "ms": 0, "pad": "x" * (PAYLOAD - 30)}


def _raw(place: Place, tasks: int) -> dict[str, float]:
    producer = Producer({**PRODUCER, "linger.ms": "0", "bootstrap.servers": place.bootstrap})  # as in kworker's clients
    failed: list[KafkaError] = []

    def report(error: KafkaError | None, record: Record) -> None:
        if error is not None:
            failed.append(error)

    def send(n: int) -> None:
        value = json.dumps(_payload(n), separators=(",", ":"))
        while True:
            try:
                producer.produce(place.topic, value, f"{n % KEYS}", headers=[("ce_type", TASK)], on_delivery=report)
                return
            except BufferError:
                producer.poll(0.1)

    def many() -> None:
        for n in range(tasks):
            send(n)
            producer.poll(0)
        assert producer.flush(topics.TIMEOUT) == 0, "not all was acknowledged"

    def one(n: int) -> None:
        send(n)
        assert producer.flush(topics.TIMEOUT) == 0, "it was not acknowledged"

    figures = _timed(many, tasks) | _latency(one, tasks)
    assert not failed, failed[0]
    return figures


def _messages(first: int, last: int) -> list[Message]:
    return [Message(TASK, _payload(n), key=f"{n % KEYS}") for n in range(first, last)]


def _client(place: Place, tasks: int) -> dict[str, float]:
    with Client(place.bootstrap, topic=place.topic) as client:

        def many() -> None:
            for first in range(0, tasks, BATCH):
                client.publish_many(_messages(first, min(first + BATCH, tasks)))

        def one(n: int) -> None:
            client.publish(TASK, _payload(n), key=f"{n % KEYS}")

        return _timed(many, tasks) | _latency(one, tasks)


def _async_client(place: Place, tasks: int) -> dict[str, float]:
    with asyncio.Runner() as runner:
        client = runner.run(_made(place))

        async def many() -> None:
            for first in range(0, tasks, BATCH):
                await client.publish_many(_messages(first, min(first + BATCH, tasks)))

        async def one(n: int) -> None:
            await client.publish(TASK, _payload(n), key=f"{n % KEYS}")

        figures = _timed(lambda: runner.run(many()), tasks) | _latency(lambda n: runner.run(one(n)), tasks)
        runner.run(client.close())
    return figures


async def _made(place: Place) -> AsyncClient:
    return AsyncClient(place.bootstrap, topic=place.topic)


def _timed(many: Callable[[], None], tasks: int) -> dict[str, float]:
    began, cpu = time.monotonic(), time.process_time()
    many()
    return {
        "rate": tasks / (time.monotonic() - began),
        "cpu_us": (time.process_time() - cpu) / tasks * 1e6,
    }


def _latency(one: Callable[[int], None], tasks: int) -> dict[str, float]:
    took = []
    for n in range(tasks // SINGLE):
        began = time.monotonic()
        one(n)
        took.append((time.monotonic() - began) * 1000)
    cuts = quantiles(took, n=100)
    return {"p50": cuts[49], "p99": cuts[98]}


_PROGRAMS = {"raw": _raw, "client": _client, "async": _async_client}


def _peer(name: str, program: str, settings: str) -> Peer:
    def command(place: Place) -> list[str]:
        return [sys.executable, "-m", "benchmarks.publishing", program]

    versions = of_distributions("confluent-kafka", *(["kworker-kafka"] if program != "raw" else []))
    return Peer(name, frozenset({"W12"}), command, versions, settings)


PEERS = (
    _peer(
        "raw produce",
        "raw",
        "json.dumps, produce(), poll(0); alone: flush() after each; as kworker's clients are set",
    ),
    _peer("kworker Client", "client", f"publish_many of {BATCH:,}; alone: publish()"),
    _peer("kworker AsyncClient", "async", f"publish_many of {BATCH:,}; alone: await publish()"),
)


if __name__ == "__main__":
    place = Place.given()
    told.tell(place, _PROGRAMS[sys.argv[1]](place, Effect(place.effect).tasks))
