"""sentry-arroyo: batches in order to threads, or to child processes."""

from __future__ import annotations

import signal
import sys
from typing import Any

from benchmarks.environment import Environment
from benchmarks.peer import Peer
from benchmarks.place import Place

ENVIRONMENT = Environment("arroyo", ("sentry-arroyo", "confluent-kafka"))
MOST = 100_000
PENDING = 1000  # tasks that wait for a thread
BATCH, TIMEOUT = 1000, 0.1  # tasks to a child process at once, and seconds to wait for so many


def _peer(name: str, settings: str, workloads: set[str]) -> Peer:
    return Peer(
        name=f"arroyo {name}",
        workloads=frozenset(workloads),
        command=ENVIRONMENT.module(__name__, name),
        versions=ENVIRONMENT.versions,
        settings=f"{settings}; json.loads; commits every second; {MOST:,} tasks at most",
        most=MOST,
    )


PEERS = (
    _peer("threads", f"RunTaskInThreads, slots, {PENDING} pending", {"W1", "W2-64", "W2-256", "W4"}),
    _peer("processes", f"RunTaskWithMultiprocessing, batches of {BATCH} or {TIMEOUT} s", {"W1", "W3"}),
)


def run_message(message: Any) -> None:
    """A task."""
    from benchmarks.bodies import run

    run(message.payload.value)


def main(executor: str) -> None:
    """The worker."""
    from arroyo.backends.kafka import KafkaConsumer
    from arroyo.backends.kafka.configuration import build_kafka_consumer_configuration
    from arroyo.commit import ONCE_PER_SECOND
    from arroyo.processing import StreamProcessor
    from arroyo.processing.strategies import CommitOffsets, RunTaskInThreads, RunTaskWithMultiprocessing
    from arroyo.processing.strategies.abstract import ProcessingStrategyFactory
    from arroyo.processing.strategies.run_task_with_multiprocessing import MultiprocessingPool
    from arroyo.types import Topic

    place = Place.given()
    pool = MultiprocessingPool(place.processes) if executor == "processes" else None

    class Factory(ProcessingStrategyFactory):  # type: ignore[misc]  # its base is not known to this environment
        def create_with_partitions(self, commit: Any, partitions: Any) -> Any:
            if pool is None:
                return RunTaskInThreads(run_message, place.slots, PENDING, CommitOffsets(commit))
            return RunTaskWithMultiprocessing(run_message, CommitOffsets(commit), BATCH, TIMEOUT, pool)

        def shutdown(self) -> None:
            if pool is not None:
                pool.close()

    # It assigns whole assignments, which the cooperative protocol of kworker's settings refuses.
    given = {name: value for name, value in place.consumer.items() if name != "partition.assignment.strategy"}
    settings = build_kafka_consumer_configuration(
        {}, place.group, bootstrap_servers=[place.bootstrap], override_params=given, enable_auto_commit=False
    )
    processor = StreamProcessor(KafkaConsumer(settings), Topic(place.topic), Factory(), ONCE_PER_SECOND)
    signal.signal(signal.SIGTERM, lambda number, frame: processor.signal_shutdown())
    processor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
