"""What the tests share: a real Kafka to start and hurt, records to write and read back, facts to wait for."""

from kit.broker import Broker, Kafka
from kit.distribution import BrokerError
from kit.records import MakeTopic, NewRecord, committed, create_topic, end_offsets, produce, read_all
from kit.waiting import wait_for

__all__ = [
    "Broker",
    "BrokerError",
    "Kafka",
    "MakeTopic",
    "NewRecord",
    "committed",
    "create_topic",
    "end_offsets",
    "produce",
    "read_all",
    "wait_for",
]
