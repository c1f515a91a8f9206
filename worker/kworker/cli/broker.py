"""The part of `kworker check` that asks the broker. It reads, within a time limit a question, and changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import ConsumerGroupState, ConsumerGroupType, KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AclOperation,
    AdminClient,
    ConfigResource,
    ConsumerGroupDescription,
    TopicDescription,
)

from kworker.cli.delay_check import delay_log, retries
from kworker.cli.finding import Finding, fail, ok, warn
from kworker.config import Config
from kworker.core.delayed import log_of, retry_topic
from kworker.kafka.commands import command
from kworker.kafka.settings import admin_settings, consumer_settings, producer_settings
from kworker.kafka.topics import HEADER_ROOM, Topics

TIMEOUT = 5.0
"""Seconds that a question to the broker may take."""

_MOCK = "mockCluster"  # how librdkafka's mock cluster names itself
_COORDINATOR_STARTS = (  # as on a broker that has just started
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)


def examine(config: Config) -> Iterator[Finding]:
    """Everything about the broker, its topics, what is allowed there, and the group."""
    silent = logging.getLogger("kworker.check")
    silent.disabled = True  # what librdkafka would log is part of the finding
    complaints: list[str] = []
    settings = {
        **admin_settings(config),
        "logger": silent,
        "error_cb": lambda error: complaints.append(error.str()),
    }
    try:
        client = AdminClient(settings)
    except KafkaException:
        yield warn("broker: not asked, because of the faults above")  # they name the property
        return
    try:
        cluster = client.list_topics(timeout=TIMEOUT)
    except KafkaException as error:
        client.poll(0)  # serves error_cb
        why = next(iter(complaints), error.args[0].str())
        yield fail(
            f"broker {config.bootstrap}: no answer within {TIMEOUT:g} s ({why}): check --bootstrap and its security"
        )
        return
    yield ok(f"broker {config.bootstrap}: {len(cluster.brokers)} in cluster {cluster.cluster_id}")
    if str(cluster.cluster_id).startswith(_MOCK):
        yield warn("broker: it is the embedded one, which keeps nothing: topics, permissions and group are not checked")
        return
    yield from _Examination(config, client, settings, sorted(cluster.topics), min(cluster.brokers)).findings()


class _Examination:
    """What the broker answered, for the checks that need it."""

    def __init__(
        self, config: Config, client: AdminClient, settings: Mapping[str, Any], existing: list[str], broker: int
    ) -> None:
        self.config = config
        self.existing = existing
        self._client = client
        self._settings = settings
        self._broker = broker
        wanted = config.named_topics
        self.sources = list(dict.fromkeys([*wanted, *(topic for topic in existing if config.takes(topic))]))
        self.topics: dict[str, TopicDescription | KafkaError] = {}
        self.configs: dict[str, dict[str, str]] = {}

    def findings(self) -> Iterator[Finding]:
        """All of them."""
        names = list(dict.fromkeys([*self.sources, *map(self.config.dead_letter, self.sources)]))
        if names:
            self.topics = _answers(
                self._client.describe_topics(
                    TopicCollection(names), include_authorized_operations=True, request_timeout=TIMEOUT
                )
            )
        described = [name for name, topic in self.topics.items() if not isinstance(topic, KafkaError)]
        self.configs = self._read_configs(described)
        for pattern in self.config.topics:
            if pattern.startswith("^") and not any(map(self._only(pattern).takes, self.existing)):
                yield warn(f"topic {pattern}: it matches no topic yet")
        for source in self.sources:
            yield from self._source(source)
        yield from self._missing_dead_letters()
        yield from delay_log(self.config, self.existing)
        yield from retries(self.config, self.existing)
        yield from self._may_delay()
        if self.config.group:
            yield from self._group()
        yield from self._broker_limits()

    def _only(self, pattern: str) -> Config:
        from dataclasses import replace

        return replace(self.config, topics=(pattern,))

    def _source(self, source: str) -> Iterator[Finding]:
        topic = self.topics[source]
        if isinstance(topic, KafkaError):
            if topic.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                command = self._command("kafka-topics.sh", "--create", "--topic", source, "--partitions", "8")
                yield warn(f"topic {source}: it does not exist, so there is nothing to read: create it with: {command}")
            else:
                yield fail(f"topic {source}: {topic.str()}: allow Read and Describe: {self._allow('Read', source)}")
            return
        if not _may(topic.authorized_operations, AclOperation.READ):
            yield fail(f"topic {source}: reading it is not allowed: {self._allow('Read', source)}")
        else:
            yield ok(f"topic {source}: {len(topic.partitions)} partitions")
        if "compact" in self.configs.get(source, {}).get("cleanup.policy", ""):
            yield warn(
                f"topic {source}: it is compacted, so a task that waits is lost when its key comes again: "
                "set cleanup.policy=delete"
            )
        yield from self._dead_letter(source, self.config.dead_letter(source))

    def _dead_letter(self, source: str, target: str) -> Iterator[Finding]:
        topic = self.topics[target]
        if isinstance(topic, KafkaError):
            if topic.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:  # the missing are told together
                yield fail(f"topic {target}: {topic.str()}: allow Write and Describe: {self._allow('Write', target)}")
            return
        settings = self.configs.get(target, {})
        if not _may(topic.authorized_operations, AclOperation.WRITE):
            yield fail(f"topic {target}: writing dead letters is not allowed: {self._allow('Write', target)}")
        else:
            yield ok(f"topic {target}: takes the dead letters of {source}")
        if "compact" in settings.get("cleanup.policy", ""):
            yield warn(f"topic {target}: it is compacted, which loses dead letters: set cleanup.policy=delete")
        replicas = min((len(partition.replicas) for partition in topic.partitions), default=0)
        if int(settings.get("min.insync.replicas", 1)) > replicas:
            yield fail(
                f"topic {target}: min.insync.replicas is more than its {replicas} replicas, so nothing can be written: "
                "lower it or add replicas"
            )
        yield from self._sizes(source, target)

    def _sizes(self, source: str, target: str) -> Iterator[Finding]:
        largest = int(self.configs.get(source, {}).get("max.message.bytes", 0))
        room = int(self.configs.get(target, {}).get("max.message.bytes", 1 << 31))
        if room < largest + HEADER_ROOM:
            command = self._command(
                *("kafka-configs.sh", "--alter", "--topic", target),
                *("--add-config", f"max.message.bytes={largest + HEADER_ROOM}"),
            )
            yield warn(f"topic {target}: the largest records of {source} do not fit with why they failed: {command}")
        client = int(producer_settings(self.config)["message.max.bytes"], 0)
        if client < largest + HEADER_ROOM:
            yield warn(f"message.max.bytes: {client} is too little for the largest records of {source}: leave it out")

    def _missing_dead_letters(self) -> Iterator[Finding]:
        missing = {
            source: target
            for source in self.sources
            if not isinstance(self.topics[source], KafkaError)
            and isinstance(answer := self.topics[target := self.config.dead_letter(source)], KafkaError)
            and answer.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
        }
        if not missing:
            return
        allowed = self._may_create()
        for fault in Topics(self._settings).ensure_dead_letters(missing, create=False):
            if self.config.create_topics and allowed:
                yield ok(f"topic {fault.topic}: does not exist yet; the worker creates it")
            elif self.config.create_topics:
                yield warn(f"{fault} (creating topics is not allowed for the whole cluster)")
            else:
                yield fail(f"{fault} (create_topics is off)")

    def _may_delay(self) -> Iterator[Finding]:
        """Whether the topics that long retries wait in, and come back by, may be written and read."""
        config = self.config
        log, back = log_of(config.namespace), retry_topic(config.namespace, config.group)
        needed = {log: ("Write", AclOperation.WRITE), back: ("Read", AclOperation.READ)}
        there = [name for name in needed if name in self.existing and config.group and config.delays_retries]
        if not there:
            return
        described = self._client.describe_topics(
            TopicCollection(there), include_authorized_operations=True, request_timeout=TIMEOUT
        )
        for name, topic in _answers(described).items():
            operation, needs = needed[name]
            if isinstance(topic, KafkaError) or not _may(topic.authorized_operations, needs):
                why = topic.str() if isinstance(topic, KafkaError) else f"{operation} is not allowed"
                so = "long retries wait in memory" if name == log else "retries that come back do not run"
                yield (warn if name == log else fail)(f"topic {name}: {why}, so {so}: {self._allow(operation, name)}")

    def _may_create(self) -> bool:
        future = self._client.describe_cluster(include_authorized_operations=True, request_timeout=TIMEOUT)
        cluster = _answers({"": future})[""]
        return not isinstance(cluster, KafkaError) and _may(cluster.authorized_operations, AclOperation.CREATE)

    def _group(self) -> Iterator[Finding]:
        name = self.config.group
        group: ConsumerGroupDescription | KafkaError = _answers(
            self._client.describe_consumer_groups([name], include_authorized_operations=True, request_timeout=TIMEOUT)
        )[name]
        allow = self._command(
            *("kafka-acls.sh", "--add", "--allow-principal", "User:NAME", "--operation", "Read", "--group", name)
        )
        if isinstance(group, KafkaError):
            if group.code() == KafkaError.GROUP_ID_NOT_FOUND:
                yield ok(f"group {name}: new")
            elif group.code() in _COORDINATOR_STARTS:
                yield warn(f"group {name}: its coordinator is not ready yet ({group.name()}): check again in a moment")
            else:
                yield fail(f"group {name}: {group.str()}: allow it: {allow}")
            return
        if not _may(group.authorized_operations, AclOperation.READ):
            yield fail(f"group {name}: joining it is not allowed: {allow}")
        if not group.members:
            new = group.state == ConsumerGroupState.DEAD
            yield ok(f"group {name}: {'new' if new else 'no members now'}")
            return
        wanted = consumer_settings(self.config)
        if group.type == ConsumerGroupType.CLASSIC and group.partition_assignor not in ("", "cooperative-sticky"):
            yield fail(
                f"group {name}: its members share by {group.partition_assignor}, so a worker cannot join: "
                "stop them first, or use a group of its own"
            )
            return
        protocol = "classic" if group.type == ConsumerGroupType.CLASSIC else "consumer"
        if protocol != wanted.get("group.protocol", "classic"):
            yield warn(f"group {name}: its members use group.protocol={protocol}: set the same, or migrate one by one")
        yield ok(f"group {name}: {len(group.members)} members")

    def _broker_limits(self) -> Iterator[Finding]:
        resource = ConfigResource(ConfigResource.Type.BROKER, str(self._broker))
        answer = _answers(self._client.describe_configs([resource], request_timeout=TIMEOUT))[resource]
        if isinstance(answer, KafkaError):
            yield warn(f"broker: its settings cannot be read ({answer.str()}), so its limits are not checked")
            return
        settings = {name: entry.value for name, entry in answer.items()}
        wanted = consumer_settings(self.config)
        if "session.timeout.ms" in wanted:
            session = int(wanted["session.timeout.ms"], 0)
            least = int(settings.get("group.min.session.timeout.ms") or 0)
            most = int(settings.get("group.max.session.timeout.ms") or session)
            if not least <= session <= most:
                yield fail(
                    f"session.timeout.ms: {session} is refused by the broker, which takes {least} to {most}: "
                    f"-X session.timeout.ms={max(least, min(session, most))}"
                )
        protocols = settings.get("group.coordinator.rebalance.protocols") or "consumer"
        if wanted.get("group.protocol") == "consumer" and "consumer" not in protocols:
            yield fail(f"group.protocol: consumer is off at the broker, which has {protocols}: use classic")

    def _read_configs(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        if not resources:
            return {}
        answers = _answers(self._client.describe_configs(resources, request_timeout=TIMEOUT))
        return {
            resource.name: {name: entry.value for name, entry in answer.items()}
            for resource, answer in answers.items()
            if not isinstance(answer, KafkaError)
        }

    def _allow(self, operation: str, topic: str) -> str:
        return self._command(
            *("kafka-acls.sh", "--add", "--allow-principal", "User:NAME", "--operation", operation, "--topic", topic)
        )

    def _command(self, tool: str, *words: str) -> str:
        return command(self.config.bootstrap, self.config.kafka, tool, *words)


def _answers(futures: Mapping[Any, Future[Any]]) -> dict[Any, Any]:
    """What each future brings, or the KafkaError that it failed with."""
    answers: dict[Any, Any] = {}
    for name, future in futures.items():
        try:
            answers[name] = future.result(TIMEOUT + 1)
        except KafkaException as error:
            answers[name] = error.args[0]
        except TimeoutError:
            answers[name] = KafkaError(KafkaError._TIMED_OUT)
    return answers


def _may(operations: Sequence[object] | None, operation: AclOperation) -> bool:
    """Whether it is allowed; a broker that does not say is believed to allow it."""
    return operations is None or operation in operations or AclOperation.ALL in operations
