"""What brokers keep of commit metadata: probed once by writing and reading back, and told when it is less than all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as Position

from kit import Broker, Kafka, MakeTopic, committed
from kit.stage import Stage
from kworker.core.metadata import LIMIT, Alphabet, decode, encode
from kworker.kafka.embedded import EmbeddedBroker
from kworker.kafka.positions import Positions

WARNING = "does not keep commit metadata"


# -- a whole worker -----------------------------------------------------------------------------------------------


STATIC = {"group.instance.id": "first"}  # so that the second worker need not wait for the session of the first
DYNAMIC: dict[str, str] = {}  # the mock cluster has no static members, and no session shorter than 3 s


def finish_behind_a_stuck_head(stage: Stage, topic: str, *, restored: bool, kafka: dict[str, str] = STATIC) -> str:
    """Ten tasks finish behind one that does not, kill -9, start again; returns what the first worker logged.

    restored: the ten are remembered. Otherwise they run again, which is at-least-once without metadata.
    """
    worker = stage.start(topics=[topic], kafka=kafka)
    stage.publish(topic, "hold", [0], 0)
    stage.publish(topic, "note", range(1, 11), 0)
    stage.wait_noted("ran", range(1, 11), worker)
    if restored:
        done = [1, 11]
        stage.wait(lambda: stage.finished(topic) == done, "the finished offsets in the metadata", worker)
    else:
        stage.wait(lambda: stage.committed(topic).get(0) == (0, ""), "a commit without metadata", worker)
    worker.kill9()
    again = stage.start(topics=[topic], kafka=kafka)
    stage.wait(lambda: stage.numbers("began")[0] == 2, "the second run of the first task", again)
    stage.let_go()
    stage.publish(topic, "note", [11], 0)
    stage.wait_all_committed(topic, again)
    assert stage.numbers("ran") == dict.fromkeys([0, 11], 1) | dict.fromkeys(range(1, 11), 1 if restored else 2)
    return worker.logged()


def test_kafka_keeps_all_of_it(kafka: Kafka, tmp_path: Path) -> None:
    with Stage(tmp_path, kafka.bootstrap) as stage:
        topic = stage.topic()
        assert WARNING not in finish_behind_a_stuck_head(stage, topic, restored=True)


def test_the_embedded_broker_keeps_all_of_it(tmp_path: Path) -> None:
    with EmbeddedBroker() as broker, Stage(tmp_path, broker.bootstrap) as stage:
        broker.create("tasks")
        assert WARNING not in finish_behind_a_stuck_head(stage, "tasks", restored=True, kafka=DYNAMIC)


def test_a_broker_with_a_small_limit_is_told_and_worked_without(small: Broker, tmp_path: Path) -> None:
    with Stage(tmp_path, small.bootstrap) as stage:
        topic = stage.topic()
        log = finish_behind_a_stuck_head(stage, topic, restored=False)
        (line,) = (line for line in log.splitlines() if WARNING in line)
        assert " warning " in line


# -- what is probed -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Iterator[Broker]:
    """A broker that takes 1000 characters of metadata."""
    with Broker({"offset.metadata.max.bytes": "1000"}) as broker:
        yield broker


@pytest.mark.parametrize("character", ["a", "中", "\U0001f600"], ids=["ASCII", "three bytes", "a surrogate pair"])
def test_kafka_counts_utf_16_units_and_not_bytes(small: Broker, character: str, tmp_path: Path) -> None:
    """FACTS: why text of 15 bits a character is worth its while, and why one limit fits both alphabets."""
    with Stage(tmp_path, small.bootstrap) as stage:
        topic = stage.topic()
    most = 999 // (len(character.encode("utf-16-le")) // 2)
    with Consumer({"bootstrap.servers": small.bootstrap, "group.id": "counting"}) as consumer:
        consumer.commit(offsets=[Position(topic, 0, 1, character * most)], asynchronous=False)
        with pytest.raises(KafkaException) as caught:
            consumer.commit(offsets=[Position(topic, 0, 2, character * (most + 1))], asynchronous=False)
    assert caught.value.args[0].code() == KafkaError.OFFSET_METADATA_TOO_LARGE
    assert committed(small.bootstrap, "counting", topic) == {0: (1, character * most)}


def probe(consumer: Any, topic: str, start_from: str = "earliest") -> list[Alphabet | None]:
    """What the probe tells of the broker behind this consumer, when partition 0 is assigned twice."""
    told: list[Alphabet | None] = []
    positions = Positions(start_from, told.append)
    for _ in range(2):
        positions.resolve(cast("Consumer", consumer), [Position(topic, 0)])
    return told


def test_the_probe_leaves_what_it_found_as_it_was(kafka: Kafka, topic: MakeTopic) -> None:
    name, group = topic(), f"probe-{topic()}"
    metadata, complete = encode(5, [7, 9, 12, 30])
    assert complete
    settings = {"bootstrap.servers": kafka.bootstrap, "group.id": group}
    with Consumer(settings) as consumer:
        consumer.commit(offsets=[Position(name, 0, 5, metadata)], asynchronous=False)
        assert probe(consumer, name) == [Alphabet.WIDE]
        kept = committed(kafka.bootstrap, group, name)[0]
        assert kept[0] == 5
        assert len(kept[1]) < 30, "what was written to probe is not left behind"
        assert decode(kept[1], 5) == decode(metadata, 5)


def test_the_probe_of_a_new_group_commits_where_it_starts(kafka: Kafka, topic: MakeTopic) -> None:
    name, group = topic(), f"probe-{topic()}"
    with Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group}) as consumer:
        assert probe(consumer, name, "latest") == [Alphabet.WIDE]
    offset, metadata = committed(kafka.bootstrap, group, name)[0]
    assert offset == 0
    assert not decode(metadata, 0)


class OtherBroker:
    """A group coordinator that is not Apache Kafka's: a consumer's commit and committed, as far as the probe asks.

    limit: bytes of metadata it takes. keep: of what it took, the characters it keeps. down: every commit fails.
    """

    def __init__(self, limit: int = 100_000, keep: int = 100_000, down: bool = False) -> None:
        self.limit, self.keep, self.down = limit, keep, down
        self.stored = Position("tasks", 0, 3, "")

    def commit(self, offsets: list[Position], asynchronous: bool) -> list[Position]:
        (given,) = offsets
        if self.down:
            raise KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE))
        metadata = given.metadata or ""
        if len(metadata.encode()) > self.limit:
            raise KafkaException(KafkaError(KafkaError.OFFSET_METADATA_TOO_LARGE))
        self.stored = Position("tasks", 0, given.offset, metadata[: self.keep])
        return [given]

    def committed(self, partitions: list[Position], timeout: float) -> list[Position]:
        return [self.stored]

    def get_watermark_offsets(self, partition: Position, timeout: float) -> tuple[int, int]:
        return 0, 10


@pytest.mark.parametrize(
    ("broker", "told"),
    [
        (OtherBroker(), Alphabet.WIDE),
        (OtherBroker(limit=4096), Alphabet.ASCII),
        (OtherBroker(limit=LIMIT), Alphabet.ASCII),
        (OtherBroker(limit=LIMIT - 10), None),
        (OtherBroker(keep=0), None),
        (OtherBroker(keep=LIMIT - 10), None),
    ],
    ids=["keeps all", "counts bytes", "counts bytes, just enough", "takes too little", "drops it", "cuts it"],
)
def test_what_a_broker_keeps_decides_how_it_is_written(
    broker: OtherBroker, told: Alphabet | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert probe(broker, "tasks") == [told]
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == (told is None)
    assert all(WARNING in warning for warning in warnings)
    assert broker.stored.offset == 3


def test_a_probe_that_had_no_answer_is_made_at_the_next_assignment() -> None:
    broker = OtherBroker(down=True)
    assert probe(broker, "tasks") == []
    told: list[Alphabet | None] = []
    positions = Positions("earliest", told.append)
    positions.resolve(cast("Consumer", broker), [Position("tasks", 0)])
    broker.down = False
    positions.resolve(cast("Consumer", broker), [Position("tasks", 0)])
    assert told == [Alphabet.WIDE]
