"""Deletes the oldest letters of a topic for good, by Kafka's DeleteRecords: a prefix of each partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from kworker.config import Config
from kworker.dlq.letters import TIMEOUT, Letters
from kworker.errors import ConfigError
from kworker.kafka.settings import admin_settings


class Prefix(NamedTuple):
    """The oldest letters of one partition: those from `start` on, below `end`."""

    start: int
    end: int


def prefixes(letters: Letters, before: int, *, unresolved: bool) -> dict[int, Prefix]:
    """What is older than `before` (ms since the epoch), by partition; without `unresolved` only as far as all of it is
    resolved. Raises ConfigError."""
    found = {}
    for partition, (start, end) in letters.ends_at(before).items():
        end = end if unresolved else min(end, letters.resolved[partition].base)
        if end > start:
            found[partition] = Prefix(start, end)
    return found


def delete(config: Config, topic: str, found: Mapping[int, Prefix]) -> None:
    """Delete them. Raises ConfigError when the broker does not."""
    client = AdminClient(admin_settings(config) | {"log_level": "2"})
    asked = [TopicPartition(topic, partition, prefix.end) for partition, prefix in found.items()]
    for place, answer in client.delete_records(asked, request_timeout=TIMEOUT, operation_timeout=TIMEOUT).items():
        try:
            answer.result(TIMEOUT + 1)
        except (KafkaException, TimeoutError) as error:
            why = error.args[0].str() if isinstance(error, KafkaException) else "it does not answer"
            raise ConfigError(
                [f"{topic}/{place.partition}: broker {config.bootstrap}: {why}: check that Delete is allowed"]
            ) from error
