"""FAULTS.md "Faults" 29 and 30: the log changes under a worker: made anew, cut short, or its offsets forgotten."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from kit import Kafka, wait_for
from kit.commits import CommitWatch
from kit.stage import Stage, metric
from kit.trial import Trial, Work

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@pytest.mark.parametrize("count", [30, 300], ids=["shorter than the old one", "longer"])
def test_fault_29_topic_recreated_under_a_running_worker(kafka: Kafka, tmp_path: Path, count: int) -> None:
    """Within 3 s, with a task of the old one still running: all of the new one is read, from its start, and nothing
    of the old one is committed there.
    """
    with Stage(tmp_path, kafka.bootstrap) as stage:
        topic = stage.topic()
        stage.publish(topic, "note", range(50))
        stage.publish(topic, "hold", [50])
        worker = stage.start(topics=[topic])
        stage.wait(lambda: stage.committed(topic).get(0, (0, ""))[0] == 50, "a commit of all but the last", worker)
        stage.wait_noted("began", [50], worker)
        began = time.monotonic()
        stage.renew(topic, worker)
        assert time.monotonic() - began < 3.0
        with CommitWatch(kafka.bootstrap, stage.group, topic, 1) as commits:
            stage.publish(topic, "note", range(100, 100 + count))
            stage.let_go(50)
            stage.wait_noted("ran", [50, *range(100, 100 + count)], worker)
            stage.wait_all_committed(topic, worker)
            commits.now()
            seen = [sample.committed[0][0] for sample in commits.samples if sample.committed]
        assert seen == sorted(seen)
        assert seen[-1] == count
        assert stage.numbers("ran") == dict.fromkeys([*range(51), *range(100, 100 + count)], 1)
        worker.terminate()
        assert worker.wait() == 0


def test_fault_30_retention_removes_unread_records_under_a_running_worker(kafka: Kafka, tmp_path: Path) -> None:
    """What is gone is counted, to the record, and told; all that was left is worked, once."""
    little = ("queued.min.messages=10", "fetch.message.max.bytes=1000", "queued.max.messages.kbytes=2")
    gate, count, cut = tmp_path / "gate", 3000, 2000
    with Trial(tmp_path, kafka.bootstrap) as trial:
        trial.publish([Work("head", until=str(gate)), *(Work(f"{n}") for n in range(1, count))])
        worker = trial.start(
            "--concurrency", "4", "--max-in-memory", "20", *(word for one in little for word in ("-X", one))
        )
        trial.wait(lambda: trial.ledger.runs, "the head to run")
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        for future in admin.delete_records([TopicPartition(trial.topic, 0, cut)]).values():
            future.result(10)
        gate.touch()
        trial.wait(lambda: f"{count - 1}" in trial.ledger.over, "the last task")
        gone = trial.ledger.lost(set())
        offsets = sorted(trial.ledger.places.pop(id)[1] for id in gone)
        print(f"lost: {offsets[0]} to {offsets[-1]}")
        assert offsets == list(range(offsets[0], cut))
        assert metric(worker, "kworker_offset_loss_total", topic=trial.topic) == len(gone)
        (line,) = (line for line in worker.logged().splitlines() if "does not have the next offset" in line)
        assert f"next={offsets[0]} lost={len(gone)} start={cut}" in line
        trial.finish()
        assert trial.living == [worker]


def test_fault_30_committed_offsets_expired(kafka: Kafka, tmp_path: Path) -> None:
    """A group whose offsets are forgotten while it is away starts at the earliest: all runs again, nothing is lost."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    with Stage(tmp_path, kafka.bootstrap) as stage:
        topic = stage.topic()
        stage.publish(topic, "note", range(100))
        worker = stage.start(topics=[topic])
        stage.wait_all_committed(topic, worker)
        worker.terminate()
        assert worker.wait() == 0
        wait_for(lambda: _forgotten(admin, stage.group), 30, "the offsets to be forgotten")
        assert stage.committed(topic) == {}
        stage.publish(topic, "note", range(100, 120))
        worker = stage.start(topics=[topic])
        stage.wait_noted("ran", range(100, 120), worker)
        stage.wait_all_committed(topic, worker)
        assert stage.numbers("ran") == dict.fromkeys(range(100), 2) | dict.fromkeys(range(100, 120), 1)


def _forgotten(admin: AdminClient, group: str) -> bool:
    """Expiry takes days: to delete the group leaves the same."""
    try:
        admin.delete_consumer_groups([group])[group].result(10)
    except KafkaException as error:  # its last member is still leaving
        if error.args[0].code() != KafkaError.NON_EMPTY_GROUP:
            raise
        return False
    return True
