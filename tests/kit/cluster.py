"""Three real Kafka nodes that replicate everything: stopped, killed and frozen one by one, each a Broker of its own.

Defaults: three replicas of each partition, also of committed offsets, of which two must be in sync for a write.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import ElectionType, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from kit.broker import Broker
from kit.records import TIMEOUT
from kit.waiting import wait_for

_REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    "replica.lag.time.max.ms": "3000",  # a frozen follower is out of sync then
}


class Cluster:
    """Nodes 1 to 3, each a broker, the first `controllers` of them controllers, too.

    With three controllers any one node may go. With one, node 1 must stay, but the cluster survives both others.
    """

    def __init__(self, *, controllers: int = 3, server_properties: Mapping[str, str] | None = None) -> None:
        self.nodes = {number: Broker(_REPLICATED | dict(server_properties or {})) for number in (1, 2, 3)}
        self.bootstrap = ",".join(node.bootstrap for node in self.nodes.values())
        voters = [f"{n}@127.0.0.1:{self.nodes[n].controller_port}" for n in range(1, controllers + 1)]
        for number, node in self.nodes.items():
            node.cluster_id = self.nodes[1].cluster_id
            del node.properties["controller.quorum.bootstrap.servers"]
            node.properties |= {"node.id": f"{number}", "controller.quorum.voters": ",".join(voters)}
            if number > controllers:
                node.properties |= {"process.roles": "broker", "listeners": f"PLAINTEXT://{node.bootstrap}"}

    def __enter__(self) -> Self:
        try:
            for node in self.nodes.values():
                node.launch()
            for node in self.nodes.values():
                node.wait_until_up()
            self.wait_whole()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill them all, and delete their data."""
        for node in self.nodes.values():
            node.close()

    def wait_whole(self) -> None:
        """Wait until every node is known and every partition has all its replicas in sync."""
        client = self.admin()

        def whole() -> bool:
            found = client.list_topics(timeout=TIMEOUT)
            partitions = [p for topic in found.topics.values() for p in topic.partitions.values()]
            return len(found.brokers) == 3 and all(len(p.isrs) == len(p.replicas) for p in partitions)

        wait_for(whole, TIMEOUT, "all nodes, and all replicas in sync")

    def admin(self) -> AdminClient:
        """A new admin client."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200})

    def leader(self, topic: str, partition: int) -> int:
        """The number of the node that leads a partition; -1 while none does."""
        return self.admin().list_topics(topic, timeout=TIMEOUT).topics[topic].partitions[partition].leader

    def coordinator(self, group: str) -> int:
        """The number of the node that coordinates a group, which must exist; waits for one that is loading it."""
        client = self.admin()  # no answer comes when it is gone

        def found() -> int:
            answer = client.describe_consumer_groups([group], request_timeout=TIMEOUT)[group]
            try:
                number: int = answer.result(TIMEOUT).coordinator.id
            except KafkaException:
                return 0
            return number

        return wait_for(found, TIMEOUT, f"the coordinator of {group}")

    def elect_preferred(self, topic: str) -> None:
        """Let each partition of a topic be led by the first of its replicas again."""
        client = self.admin()
        numbers = client.list_topics(topic, timeout=TIMEOUT).topics[topic].partitions
        places = [TopicPartition(topic, number) for number in numbers]
        client.elect_leaders(ElectionType.PREFERRED, places).result(TIMEOUT)
