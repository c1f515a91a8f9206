"""taskiq on aiokafka; its messages are read from the same topic, by a formatter that makes tasks of them."""

from __future__ import annotations

from typing import Any

from benchmarks.environment import Environment
from benchmarks.peer import Peer
from benchmarks.place import Place

ENVIRONMENT = Environment("taskiq", ("taskiq", "taskiq-aio-kafka", "aiokafka"))
MOST = 50_000


def _command(place: Place) -> list[str]:
    by_processes = ["--use-process-pool", "--max-process-pool-processes", f"{place.processes}"]
    return [
        *(ENVIRONMENT.program("taskiq"), "worker", f"{__name__}:made", "--workers", "1", "--log-level", "WARNING"),
        *("--max-async-tasks", f"{place.slots}", "--no-parse"),
        *(by_processes if place.body == "burn" else ()),
    ]


PEERS = (
    Peer(
        name="taskiq-aio-kafka",
        workloads=frozenset({"W1", "W2-64", "W3", "W4", "W5"}),
        command=_command,
        versions=ENVIRONMENT.versions,
        settings="1 worker, --max-async-tasks: slots, coroutines (W3: --use-process-pool); the broker has no "
        f"acknowledgement of a task: aiokafka commits what was fetched, every second; {MOST:,} tasks at most",
        most=MOST,
    ),
)


def made() -> Any:
    """The broker, for its command line."""
    from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
    from taskiq import TaskiqMessage
    from taskiq.abc.formatter import TaskiqFormatter
    from taskiq_aio_kafka import AioKafkaBroker

    from benchmarks.bodies import awaited, run

    place = Place.given()
    numbers = iter(range(1 << 62))

    class Records(TaskiqFormatter):  # type: ignore[misc]  # its base is not known to this environment
        def dumps(self, message: Any) -> Any:
            raise AssertionError("nothing is published here")

        def loads(self, message: bytes) -> Any:
            return TaskiqMessage(task_id=f"{next(numbers)}", task_name="task", labels={}, args=[message], kwargs={})

    broker = AioKafkaBroker(place.bootstrap, place.topic).with_formatter(Records())
    broker.configure_consumer(
        group_id=place.group,
        auto_offset_reset="earliest",
        auto_commit_interval_ms=1000,
        partition_assignment_strategy=(RoundRobinPartitionAssignor,),  # its default is kafka-python's: it never joins
    )
    broker.register_task(run if place.body in {"burn", "timed"} else awaited, "task")
    return broker
