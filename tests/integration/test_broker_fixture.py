"""The tests' own Kafka does what the fault tests rely on: it keeps, freezes, comes back, and dies with its starter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from kit import (
    Broker,
    BrokerError,
    Kafka,
    MakeTopic,
    NewRecord,
    committed,
    create_topic,
    end_offsets,
    produce,
    read_all,
    wait_for,
)
from kit.distribution import java


def answers(broker: Broker) -> bool:
    """Whether a new client gets metadata within a second."""
    try:
        return bool(AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0}).list_topics(timeout=1).brokers)
    except KafkaException:
        return False


def test_records_come_back_as_they_were_written(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic(partitions=3)
    headers = (("task", b"a"), ("task", b"\xff"), ("none", None))
    written = [NewRecord(b"%d" % n, b"k", headers, n % 3, 1_700_000_000_000) for n in range(7)] + [
        NewRecord(None, b"", partition=0)
    ]
    places = produce(kafka.bootstrap, name, written)
    assert places == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (0, 3)]
    read = {(m.partition(), m.offset()): m for m in read_all(kafka.bootstrap, name)}
    assert sorted(read) == sorted(places)
    for place, record in zip(places, written, strict=True):
        message = read[place]
        assert (message.value(), message.key(), tuple(message.headers() or ())) == record[:3]
    assert read[0, 0].timestamp()[1] == 1_700_000_000_000
    assert end_offsets(kafka.bootstrap, name) == {0: 4, 1: 2, 2: 2}


def test_commits_and_their_metadata_are_seen_without_joining_the_group(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic(partitions=2)
    assert committed(kafka.bootstrap, f"g-{name}", name) == {}
    with Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"g-{name}"}) as consumer:
        consumer.commit(offsets=[TopicPartition(name, 1, 5, "\u4e00 finished")], asynchronous=False)
    assert committed(kafka.bootstrap, f"g-{name}", name) == {1: (5, "\u4e00 finished")}


def test_aborted_records_are_read_only_when_asked_for(kafka: Kafka, topic: MakeTopic) -> None:
    name = topic()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": name})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(name, b"aborted")
    producer.flush(30)
    producer.abort_transaction(30)
    produce(kafka.bootstrap, name, [b"kept"])
    assert [m.value() for m in read_all(kafka.bootstrap, name)] == [b"kept"]
    uncommitted = read_all(kafka.bootstrap, name, isolation="read_uncommitted")
    assert [(m.offset(), m.value()) for m in uncommitted] == [(0, b"aborted"), (2, b"kept")]
    assert end_offsets(kafka.bootstrap, name) == {0: 3}


def test_own_broker_freezes_dies_and_comes_back_with_its_records(own_broker: Broker) -> None:
    create_topic(own_broker.bootstrap, "kept")
    produce(own_broker.bootstrap, "kept", [b"1"])
    own_broker.freeze()
    assert not answers(own_broker)
    assert own_broker.running
    own_broker.thaw()
    wait_for(lambda: answers(own_broker), 30, "the thawed broker's answer")
    own_broker.restart()
    produce(own_broker.bootstrap, "kept", [b"2"])
    own_broker.kill()
    assert not own_broker.running
    assert not answers(own_broker)
    own_broker.start()
    assert [m.value() for m in read_all(own_broker.bootstrap, "kept")] == [b"1", b"2"]


def test_broker_dies_with_the_process_that_started_it() -> None:
    script = (
        "import time; from kit import Broker; b = Broker().start(); print(b.pid, b.folder, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert starter.stdout is not None
    pid, folder = starter.stdout.readline().split()
    broker = psutil.Process(int(pid))
    try:
        assert Path(folder, "server.properties").exists()
        starter.kill()
        starter.wait(10)
        broker.wait(10)
    finally:
        starter.kill()
        with starter.stdout:
            starter.wait(10)
        shutil.rmtree(folder)
    assert not broker.is_running()


def test_failing_start_says_what_kafka_logged() -> None:
    with pytest.raises(BrokerError, match=r"no\.such\.listener"), Broker({"listeners": "no.such.listener"}):
        pass


def test_missing_java_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BrokerError, match=r"Java 17\+.*apt-get install openjdk.*KWORKER_TEST_BOOTSTRAP"):
        java()
