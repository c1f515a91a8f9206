"""Topics full of tasks: published before a peer starts, all acknowledged; each run reads one in a group of its own."""

from __future__ import annotations

import uuid

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in its stub's exports

from benchmarks.workload import KEYS, Workload
from kit.records import create_topic
from kit.waiting import wait_for

TIMEOUT = 120.0

LARGEST = 2 << 20  # bytes of a record

PRODUCER: dict[str, str | int | float | bool] = {
    "acks": "all",
    "linger.ms": 5,
    "queue.buffering.max.messages": 500_000,
    "message.max.bytes": LARGEST,
}


def create(bootstrap: str, workload: Workload) -> str:
    """A new topic for a workload, empty, all its partitions at work; returns its name."""
    name = f"bench-{workload.name.lower()}-{uuid.uuid4().hex[:8]}"
    create_topic(bootstrap, name, workload.partitions, {"max.message.bytes": f"{LARGEST}"})

    def answers() -> bool:
        try:
            return len(_ends(bootstrap, name, workload.partitions)) == workload.partitions
        except KafkaException:  # a leader that does not know yet that it is one
            return False

    wait_for(answers, TIMEOUT, f"the partitions of {name}")
    return name


def fill(bootstrap: str, topic: str, workload: Workload, tasks: int) -> None:
    """Publish tasks 0 to `tasks`. AssertionError if the topic does not hold them all afterwards."""
    producer = Producer(PRODUCER | {"bootstrap.servers": bootstrap})
    for n in range(tasks):
        send(producer, topic, workload, n)
    assert producer.flush(TIMEOUT) == 0, f"{topic}: not everything was acknowledged within {TIMEOUT:g} s"
    held = count(bootstrap, topic, workload.partitions)
    assert held == tasks, f"{topic} holds {held} of {tasks} tasks"


def send(producer: Producer, topic: str, workload: Workload, n: int) -> None:
    """Hand task `n` to a producer: round the partitions, its key always in the same one."""
    headers: list[tuple[str, str | bytes | None]] = [("task", workload.named(n))] if workload.named else []
    while True:
        try:
            producer.produce(topic, workload.payload(n), f"{n % KEYS}", n % workload.partitions, headers=headers)
            return
        except BufferError:
            producer.poll(0.1)


def count(bootstrap: str, topic: str, partitions: int) -> int:
    """Records that the topic holds; nothing here is ever deleted from one, and none of it is in a transaction."""
    return sum(_ends(bootstrap, topic, partitions).values())


def members(bootstrap: str, group: str) -> int:
    """Members of a group that all have partitions; 0 while it is between two generations."""
    client = _admin(bootstrap)
    found = client.describe_consumer_groups([group], request_timeout=TIMEOUT)[group].result(TIMEOUT)
    assigned = [len(member.assignment.topic_partitions) for member in found.members]
    return len(assigned) if assigned and all(assigned) and found.state == ConsumerGroupState.STABLE else 0


def lag(bootstrap: str, group: str, topic: str, partitions: int) -> int:
    """Records behind what the group has committed."""
    ends, client = _ends(bootstrap, topic, partitions), _admin(bootstrap)
    asked = [ConsumerGroupTopicPartitions(group)]
    answer = client.list_consumer_group_offsets(asked, request_timeout=TIMEOUT)[group].result(TIMEOUT)
    done = {place.partition: max(0, place.offset) for place in answer.topic_partitions}  # below 0: nothing committed
    return sum(end - done.get(partition, 0) for partition, end in ends.items())


def delete(bootstrap: str, topic: str) -> None:
    """Delete a topic."""
    client = _admin(bootstrap)
    client.delete_topics([topic])[topic].result(TIMEOUT)


def _ends(bootstrap: str, topic: str, partitions: int) -> dict[int, int]:
    """The end of each partition, asked for in one go: lag is asked for often, of up to 256 partitions."""
    client = _admin(bootstrap)
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # its stub forgets the return type
    asked = {TopicPartition(topic, partition): latest for partition in range(partitions)}
    found = client.list_offsets(asked, request_timeout=TIMEOUT)
    return {place.partition: answer.result(TIMEOUT).offset for place, answer in found.items()}


def _admin(bootstrap: str) -> AdminClient:
    """A client to be kept until its answers are there: none comes when it is gone."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
