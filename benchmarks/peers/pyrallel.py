"""pyrallel-consumer: Confluent's idea in Python, as coroutines or in child processes."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from benchmarks.environment import Environment
from benchmarks.peer import Peer
from benchmarks.place import Place

ENVIRONMENT = Environment("pyrallel", ("pyrallel-consumer", "confluent-kafka"), least=(3, 12))
MOST = 50_000


def _peer(name: str, mode: str, order: str, workloads: set[str]) -> Peer:
    return Peer(
        name=f"pyrallel-consumer {name}",
        workloads=frozenset(workloads),
        command=ENVIRONMENT.module(__name__, mode, order),
        versions=ENVIRONMENT.versions,
        settings=f"mode {mode}, ordering {order}, max_in_flight: slots, no dead letters; json.loads; "
        f"{MOST:,} tasks at most",
        most=MOST,
    )


PEERS = (
    _peer("async", "async", "unordered", {"W1", "W2-64", "W2-256", "W4"}),
    _peer("async, key", "async", "key_hash", {"W1", "W4"}),
    _peer("processes", "process", "unordered", {"W1", "W3"}),
)


def run_item(item: Any) -> None:
    """A task, in a child process."""
    from benchmarks.bodies import run

    run(item.payload)


async def await_item(item: Any) -> None:
    """A task, as a coroutine."""
    from benchmarks.bodies import awaited

    await awaited(item.payload)


async def main(mode: str, order: str) -> None:
    """The worker."""
    from pyrallel_consumer import PyrallelConsumer
    from pyrallel_consumer.config import ExecutionConfig, KafkaConfig, ParallelConsumerConfig, ProcessConfig

    place = Place.given()
    execution = ExecutionConfig(
        mode=mode, max_in_flight=place.slots, process_config=ProcessConfig(process_count=place.processes)
    )
    config = KafkaConfig(
        BOOTSTRAP_SERVERS=[place.bootstrap],
        CONSUMER_GROUP=place.group,
        dlq_enabled=False,
        parallel_consumer=ParallelConsumerConfig(ordering_mode=order, execution=execution),
    )
    consumer = PyrallelConsumer(config, await_item if mode == "async" else run_item, topic=place.topic)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await consumer.start()
    await stopped.wait()
    await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
