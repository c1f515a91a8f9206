"""FAULTS.md "Faults" 17, 18, 19 and 26: the broker goes, freezes, comes back, or does not take dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from faults.bad_records import new
from faults.letters import headers_of, last
from faults.tasks import PARTITIONS, Tasks, Watch, ids
from faults.worker import Calls, StartWorker, wait_committed
from kit import Broker, Kafka, create_topic, end_offsets, produce, read_all, wait_for
from kit.stage import metric

RESUMED = 10.0
"""Seconds within which work goes on when the broker is back."""


@pytest.fixture(scope="module")
def harmed() -> Iterator[Broker]:
    """One broker for all tests that stop, kill or freeze it."""
    with Broker() as broker:
        yield broker


def _kill(broker: Broker) -> None:
    broker.kill()
    broker.start()


def _freeze(broker: Broker) -> None:
    broker.freeze()
    time.sleep(20.0)  # the length of the freeze is the scenario
    broker.thaw()


def test_fault_17_broker_restarted(harmed: Broker, start_worker: StartWorker, calls: Calls) -> None:
    _survived(harmed, "restarted", Broker.restart, start_worker, calls)


def test_fault_18_broker_killed(harmed: Broker, start_worker: StartWorker, calls: Calls) -> None:
    _survived(harmed, "killed", _kill, start_worker, calls)


def test_fault_19_broker_frozen(harmed: Broker, start_worker: StartWorker, calls: Calls) -> None:
    _survived(harmed, "frozen", _freeze, start_worker, calls)


def _survived(
    broker: Broker, topic: str, harm: Callable[[Broker], None], start_worker: StartWorker, calls: Calls
) -> None:
    """Nothing is lost, no worker ends, and work goes on within 10 s of the broker's return.

    No task runs twice, unless a session ended meanwhile: then what could not be committed runs again.
    """
    create_topic(broker.bootstrap, topic, PARTITIONS)
    tasks = Tasks(broker.bootstrap, topic, calls)
    tasks.publish(ids(2000), seconds=0.01)
    with Watch(tasks):
        workers = [start_worker(broker.bootstrap, topic, "--concurrency", "8") for _ in range(2)]
        wait_for(lambda: len(tasks.ended()) >= 200, 40, "some are done")
        remembered = tasks.remembered()
        harm(broker)
        uncommitted = tasks.started().keys() - remembered
        back = time.monotonic()
        tasks.publish(ids(100, "afterwards"))
        wait_for(lambda: any(id.startswith("afterwards") for id in tasks.started()), RESUMED, "work goes on")
        print(f"work went on after {time.monotonic() - back:.1f} s")
        wait_for(lambda: len(tasks.remembered()) == tasks.total(), 60, "everything is committed")
        wait_for(lambda: all(worker.ready() for worker in workers), 20, "both are ready")
    assert [worker.exit_code for worker in workers] == [None, None]
    if any(metric(worker, "kworker_rebalances_total", event="lost") for worker in workers):
        tasks.may_run_again(uncommitted)
    tasks.check()


def _set_limit(bootstrap: str, topic: str, most_bytes: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(most_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": bootstrap})
    for answer in client.incremental_alter_configs([resource]).values():
        answer.result(20)


@pytest.mark.parametrize("what", ["missing", "too small"])
def test_fault_26_dead_letters_are_not_taken(kafka: Kafka, tasks: Tasks, start_worker: StartWorker, what: str) -> None:
    """The partition pauses and says so, and its offset stays; the others go on, and so does it when it is mended."""
    poison = new("nobody", b"poison")._replace(partition=0)
    dead = f"{tasks.topic}.dlq"
    if what == "too small":
        create_topic(kafka.bootstrap, dead, 1, {"max.message.bytes": "1"})
    tasks.publish(ids(40, "before"))
    ((_, offset),) = produce(kafka.bootstrap, tasks.topic, [poison])
    with Watch(tasks):
        worker = start_worker(kafka.bootstrap, tasks.topic, "--create-topics", "false")
        paused = f"partition {tasks.topic}/0 is paused"
        wait_for(lambda: paused in worker.get("/readyz")[1], 40, "it is not ready, and says which partition waits")
        tasks.publish(ids(40, "behind"))
        others = {id for id, (partition, _) in tasks.places.items() if partition}
        wait_for(lambda: others <= tasks.remembered(), 20, "the other partitions go on")
        assert metric(worker, "kworker_paused_partitions") == 1
        assert metric(worker, "kworker_forward_failures_total", topic=tasks.topic) >= 1
        assert worker.get("/livez")[0] == 200
        behind = {id for id, (partition, at) in tasks.places.items() if partition == 0 and at > offset}
        assert not behind & tasks.started().keys()
        lag = end_offsets(kafka.bootstrap, tasks.topic)[0] - offset
        shown = {"topic": tasks.topic, "partition": "0"}
        wait_for(lambda: metric(worker, "kworker_consumer_lag", **shown) == lag, 20, "the lag counts what comes now")
        if what == "missing":
            create_topic(kafka.bootstrap, dead, 1)
        else:
            assert end_offsets(kafka.bootstrap, dead) == {0: 0}
            _set_limit(kafka.bootstrap, dead, 1_000_000)
        wait_committed(worker, tasks.total() + 1, 40)
        assert worker.ready()
        assert metric(worker, "kworker_paused_partitions") == 0
    tasks.check()
    (letter,) = read_all(kafka.bootstrap, dead)
    assert last(letter, "kworker-origin") == f"{tasks.topic}/0/{offset}"
    assert headers_of(letter)[: len(poison.headers)] == list(poison.headers)


def test_fault_26_a_worker_that_stops_while_a_dead_letter_waits_loses_nothing(
    kafka: Kafka, tasks: Tasks, start_worker: StartWorker, tmp_path: Path
) -> None:
    dead = f"{tasks.topic}.dlq"
    create_topic(kafka.bootstrap, dead, 1, {"max.message.bytes": "1"})
    ((_, offset),) = produce(kafka.bootstrap, tasks.topic, [new("nobody", b"poison")._replace(partition=0)])
    worker = start_worker(kafka.bootstrap, tasks.topic, "--drain-timeout", "1s")
    wait_for(lambda: "is paused" in worker.get("/readyz")[1], 40, "it waits")
    worker.terminate()
    assert worker.wait(20) in (0, 4)
    _set_limit(kafka.bootstrap, dead, 1_000_000)
    wait_committed(start_worker(kafka.bootstrap, tasks.topic), offset + 1)
    assert len(read_all(kafka.bootstrap, dead)) == 1
