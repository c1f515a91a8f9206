"""The embedded broker takes, keeps for a while and gives back what any client sends, and ends when it is told to."""

from __future__ import annotations

import socket

from confluent_kafka import Consumer, TopicPartition

from kit import read_all, wait_for
from kworker import Client
from kworker.client import Message
from kworker.kafka.embedded import PARTITIONS, EmbeddedBroker


def listens(bootstrap: str) -> bool:
    host, port = bootstrap.rsplit(":", 1)
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex((host, int(port))) == 0


def test_records_come_back_as_they_were_published() -> None:
    with EmbeddedBroker() as broker, Client(broker.bootstrap) as client:
        published = client.publish_many(Message("t", n, headers={"h": "v"}) for n in range(1_000))
        found = {(m.partition(), m.offset()): m for m in read_all(broker.bootstrap, "tasks")}
        assert len(found) == 1_000
        for n, place in enumerate(published):
            record = found[place.partition, place.offset]
            assert record.value() == b"%d" % n
            assert ("h", b"v") in (record.headers() or [])


def test_a_group_commits_offsets_with_metadata() -> None:
    with EmbeddedBroker() as broker, Client(broker.bootstrap) as client:
        place = client.publish("t")
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g", "enable.auto.commit": False})
        commit = TopicPartition("tasks", place.partition, 1, metadata="über")
        consumer.commit(offsets=[commit], asynchronous=False)
        (found,) = consumer.committed([TopicPartition("tasks", place.partition)], timeout=10)
        consumer.close()
        assert (found.offset, found.metadata) == (1, "über")


def test_topics_have_the_documented_number_of_partitions() -> None:
    with EmbeddedBroker() as broker, Client(broker.bootstrap) as client:
        client.publish("t")
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g"})
        assert len(consumer.list_topics("tasks", timeout=10).topics["tasks"].partitions) == PARTITIONS
        consumer.close()


def test_it_listens_until_it_is_closed() -> None:
    broker = EmbeddedBroker()
    assert listens(broker.bootstrap)
    broker.close()
    broker.close()
    wait_for(lambda: not listens(broker.bootstrap), 10, "the embedded broker to stop listening")


def test_two_do_not_know_each_other() -> None:
    with EmbeddedBroker() as one, EmbeddedBroker() as two, Client(one.bootstrap) as client:
        assert one.bootstrap != two.bootstrap
        client.publish("t")
        consumer = Consumer({"bootstrap.servers": two.bootstrap, "group.id": "g"})
        assert not consumer.list_topics(timeout=10).topics
        consumer.close()
