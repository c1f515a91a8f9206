"""The topic of the delay log, and the clients' settings for it: made when it is missing, examined, put right.

It is compacted and nothing else: a task that waits for a year must be there after a year, and what has ended may go. So
`delete` in its cleanup policy loses tasks, and is refused. A tombstone must outlive the longest time that a worker goes
on with what it had read before (half of delete.retention.ms), and an entry the moment until its owner has seen that an
older tombstone came behind it (min.compaction.lag.ms).
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from kworker.config import Config
from kworker.core.delayed import log_of, retry_topic
from kworker.kafka.commands import command, create_command
from kworker.kafka.settings import admin_settings, consumer_settings, producer_settings
from kworker.kafka.topics import RETENTION_MS

HOUR_MS = 3_600_000
_SIZE = "max.message.bytes"
WANTED: Mapping[str, str] = {
    "cleanup.policy": "compact",
    "delete.retention.ms": str(24 * HOUR_MS),
    "min.compaction.lag.ms": str(HOUR_MS),
    "segment.ms": str(6 * HOUR_MS),
    _SIZE: str((1 << 20) + 12 + (64 << 10)),
}
"""What a delay log made by kworker is configured with; one that exists may have other numbers, within limits."""

_LEAST = {"delete.retention.ms": HOUR_MS, "min.compaction.lag.ms": 60_000}
_BUDGET, _CALL = 10.0, 5.0
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # the client's own lacks types
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_CONSUMER = {
    "enable.partition.eof": "true",
    "auto.offset.reset": "error",
    "queued.min.messages": "10000",
    "queued.max.messages.kbytes": "16384",
    "fetch.message.max.bytes": "1048576",
    "max.poll.interval.ms": "300000",
}


class LogPlace(NamedTuple):
    """Where a partition starts, where it truly ends, behind transactions that are still open, and the topic's id."""

    low: int
    end: int
    identity: str


def group_of(namespace: str) -> str:
    """The consumer group by which workers share the partitions of the delay log."""
    return f"{namespace}.timekeeper"


_OF_THE_WORKERS_GROUP = {
    "group.protocol",
    "group.protocol.type",
    "group.instance.id",
    "group.remote.assignor",
    "partition.assignment.strategy",
    "session.timeout.ms",
    "heartbeat.interval.ms",
}


def keeper_settings(config: Config) -> dict[str, Any]:
    """The settings of the Consumer that owns partitions of the delay log: a worker's, but for its queue and group.

    Workers of all groups are members of this one, so how theirs works, and what each is called there, is left out: in a
    group of the other protocol, or as one of two of a name, a member gets a fatal error.
    """
    kafka = {name: value for name, value in config.kafka.items() if name not in _OF_THE_WORKERS_GROUP}
    settings = consumer_settings(replace(config, kafka=kafka)) | _CONSUMER | {"group.id": group_of(config.namespace)}
    settings.pop("topic.blacklist", None)  # what the worker's regular expressions leave out is what this one reads
    return settings


def loader_settings(config: Config) -> dict[str, str]:
    """The settings of a Consumer that reads a partition from its start to its end, and is in no group."""
    own = {"group.id": f"{group_of(config.namespace)}.loader", "log_level": "2"}  # what fails is told by the call
    return {name: str(value) for name, value in keeper_settings(config).items()} | own


def writer_settings(config: Config) -> dict[str, Any]:
    """The settings of the producers that hand over."""
    return producer_settings(config)


class DelayLog:
    """The topic, through an admin client. Every call is bounded; raises KafkaException when the broker is away.
    `replication`: of what it creates; -1 is the broker's default."""

    def __init__(self, config: Config, replication: int = -1) -> None:
        self._replication = replication
        self.name = log_of(config.namespace)
        self.retries = retry_topic(config.namespace, config.group)
        """Where retries of the configured group come back."""
        self._config = config
        self._client = AdminClient({"log_level": "2", **admin_settings(config)})

    def exists(self) -> bool:
        """Whether there is such a topic."""
        found = self._client.list_topics(self.name, timeout=_BUDGET).topics[self.name]
        return found.error is None and bool(found.partitions)

    def ensure(self, partitions: int, *, create: bool) -> str:
        """See that it is there, or make it; returns why it is not, with the command that makes it, or ''."""
        if self.exists():
            return ""
        return self.create(partitions) if create else f"it is missing; make it with: {self.create_command(partitions)}"

    def create(self, partitions: int) -> str:
        """Make it, unless it is there; returns why it could not be made, with the command that does, or ''."""
        why = self._make(self._plan(partitions))
        if why:
            why = (
                f"the delay log {self.name!r} could not be made: {why}; make it with: {self.create_command(partitions)}"
            )
        return why

    def create_retries(self, partitions: int) -> str:
        """Make the topic where retries of the configured group come back, unless it is there; returns why it could not
        be made, with the command that does, or ''. It takes what the log takes; what nobody reads for 30 days goes."""
        why = self._make(self._retries_plan(partitions))
        if why:
            command = self.retries_command(partitions)
            why = f"the retry topic {self.retries!r} could not be made: {why}; make it with: {command}"
        return why

    def _make(self, plan: NewTopic) -> str:
        answer = self._client.create_topics([plan], operation_timeout=_BUDGET)[plan.topic]
        try:
            answer.result(_BUDGET)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                return str(error.args[0].str())
        except TimeoutError:
            return "no answer in time"
        return ""

    def _retries_plan(self, partitions: int) -> NewTopic:
        config = {"cleanup.policy": "delete", "retention.ms": str(RETENTION_MS), _SIZE: WANTED[_SIZE]}
        with suppress(KafkaException, TimeoutError, KeyError):  # the log's settings may not be read
            config[_SIZE] = self.settings()[_SIZE]
        return NewTopic(self.retries, num_partitions=partitions, replication_factor=self._replication, config=config)

    def _plan(self, partitions: int) -> NewTopic:
        return NewTopic(self.name, num_partitions=partitions, replication_factor=self._replication, config=dict(WANTED))

    def place(self, partition: int) -> LogPlace:
        """Where the log of a partition is now."""
        position = Position(self.name, partition)
        found = [
            self._client.list_offsets(
                {position: spec}, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=_CALL
            )[position]
            for spec in (_EARLIEST, _LATEST)
        ]
        topics = self._client.describe_topics(TopicCollection([self.name]), request_timeout=_CALL)
        low, end = (answer.result(_CALL).offset for answer in found)
        return LogPlace(low, end, str(topics[self.name].result(_CALL).topic_id))

    def settings(self) -> dict[str, str]:
        """How the topic is configured."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.name)
        answer: Future[Any] = self._client.describe_configs([resource], request_timeout=_BUDGET)[resource]
        return {name: entry.value for name, entry in answer.result(_BUDGET).items()}

    def repair(self, wrong: Mapping[str, str]) -> str:
        """Set these; returns why that did not work, or ''."""
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wrong.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.name, incremental_configs=entries)
        answer = self._client.incremental_alter_configs([resource], request_timeout=_BUDGET)[resource]
        try:
            answer.result(_BUDGET)
        except KafkaException as error:
            return f"{error.args[0].str()}; set it with: {self.repair_command(wrong)}"
        return ""

    def create_command(self, partitions: int) -> str:
        """The command that makes it."""
        return self._create_command(self._plan(partitions))

    def retries_command(self, partitions: int) -> str:
        """The command that makes the retry topic."""
        return self._create_command(self._retries_plan(partitions))

    def _create_command(self, plan: NewTopic) -> str:
        return create_command(self._config.bootstrap, self._config.kafka, plan)

    def repair_command(self, wrong: Mapping[str, str]) -> str:
        """The command that sets these."""
        # In brackets: a value may hold commas.
        listed = ",".join(f"{name}=[{value}]" if "," in value else f"{name}={value}" for name, value in wrong.items())
        words = ("--alter", "--topic", self.name, "--add-config", listed)
        return command(self._config.bootstrap, self._config.kafka, "kafka-configs.sh", *words)


def faults(settings: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with the topic's settings: name -> the value it should have. Pure."""
    wrong = {}
    policy = settings.get("cleanup.policy", "compact")
    if {word.strip() for word in policy.split(",")} != {"compact"}:
        wrong["cleanup.policy"] = "compact"
    for name, least in _LEAST.items():
        value = settings.get(name, WANTED[name])
        if int(value) < least:
            wrong[name] = WANTED[name]
    return wrong


def retention_of(settings: Mapping[str, str]) -> float:
    """Seconds for which a tombstone can be read at least."""
    return int(settings.get("delete.retention.ms", WANTED["delete.retention.ms"])) / 1000
