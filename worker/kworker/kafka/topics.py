"""The topics kworker reads about and makes: what is there, and a dead-letter topic for each source.

Every call is bounded by a budget and answers with values: what could not be done is a `TopicFault` with the command
that does it. A dead-letter topic has its source's partitions, the broker's default replication, room for the error
headers (WIRE.md "Sizes"), and keeps dead letters for 30 days, never compacted: a broker's default of a few hours, or
of compaction, would lose them silently. Whoever wants it otherwise creates the topic first: one that exists is left
as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AdminClient,
    ConfigResource,
    NewTopic,
)
from msgspec import Struct

from kworker.kafka.commands import create_command

HEADER_ROOM = 64 * 1024
"""Bytes that a dead-letter topic takes beyond its source's max.message.bytes."""

RETENTION_MS = 30 * 86_400_000
"""How long a dead-letter topic made by kworker keeps its records."""

BUDGET = 10.0
"""Seconds that one call of `Topics` may take, whatever the broker does."""

_LARGEST = (1 << 20) + 12  # max.message.bytes of a topic that says nothing of it
_MOCK = "mockCluster"  # how librdkafka's mock cluster (kafka/embedded.py) names itself; its admin calls time out
_ABSENT = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_UNREACHABLE = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)


class TopicInfo(Struct, frozen=True):
    """What the broker says of a topic: `partitions` is 0 when there is none; `error` says why nothing is known."""

    partitions: int = 0
    error: str = ""


class TopicFault(Struct, frozen=True):
    """A topic that is not as it must be: what is wrong, and the command that puts it right (or '')."""

    topic: str
    what: str
    command: str = ""

    def __str__(self) -> str:
        return f"{self.what}; create it with: {self.command}" if self.command else self.what


class Topics:
    """Asks for and creates topics through an admin client of its own. `settings`: its librdkafka properties.
    `replication`: of what it creates; -1 is the broker's default."""

    def __init__(self, settings: Mapping[str, Any], replication: int = -1) -> None:
        self._replication = replication
        # What a client has to say of its connections is part of the faults; on standard error it would break the logs.
        self._settings = {"log_level": "2", **settings}
        self._client = AdminClient(self._settings | {"allow.auto.create.topics": False})
        self._mock = False

    def describe(self, names: Iterable[str], budget: float = BUDGET) -> dict[str, TopicInfo]:
        """What is known of each topic. Asking creates none. `budget`: seconds for all of them."""
        deadline = time.monotonic() + budget
        found: dict[str, TopicInfo] = {}
        unreachable = ""
        for name in names:
            if unreachable:
                found[name] = TopicInfo(error=unreachable)
                continue
            try:
                metadata = self._client.list_topics(name, timeout=_left(deadline))
            except KafkaException as failure:
                cause: KafkaError = failure.args[0]
                found[name] = TopicInfo(error=cause.str())
                if cause.code() in _UNREACHABLE:
                    unreachable = cause.str()
            else:
                self._mock = str(metadata.cluster_id).startswith(_MOCK)
                topic = metadata.topics[name]
                error = topic.error
                found[name] = TopicInfo(
                    len(topic.partitions), "" if error is None or error.code() in _ABSENT else error.str()
                )
        return found

    @property
    def imitated(self) -> bool:
        """Whether the broker that was asked last is the embedded one."""
        return self._mock

    def identities(self, names: Iterable[str], budget: float = BUDGET) -> dict[str, str]:
        """The id that the broker gave each topic when it was created; without those it says nothing of."""
        wanted = [] if self._mock else list(names)
        if not wanted:
            return {}
        deadline = time.monotonic() + budget
        ids: dict[str, str] = {}
        for name, answer in self._client.describe_topics(TopicCollection(wanted), request_timeout=budget).items():
            with suppress(KafkaException, TimeoutError):  # one that is away may come back as another: it is asked again
                ids[name] = str(answer.result(_left(deadline)).topic_id)
        return ids

    def ensure(
        self, names: Iterable[str], partitions: int, *, create: bool, budget: float = BUDGET
    ) -> list[TopicFault]:
        """See that these topics for tasks exist; returns what is missing, as `ensure_dead_letters` does."""
        deadline = time.monotonic() + budget
        faults, plans = [], []
        for name, about in self.describe(names, budget).items():
            if about.error:
                faults.append(TopicFault(name, f"topic {name!r}: {about.error}"))
            elif not about.partitions:
                plans.append(self._plan(name, partitions, {"cleanup.policy": "delete"}))
        return faults + self._carry_out(plans, deadline, create=create, kind="topic")

    def ensure_dead_letters(
        self, pairs: Mapping[str, str], *, create: bool, budget: float = BUDGET, absent: int = 0
    ) -> list[TopicFault]:
        """See that each dead-letter topic of `pairs` (source -> dead-letter topic) exists; returns what is missing.

        create: make those that are missing; without it they are only reported. absent: partitions of a source that does
        not exist yet; 0 is a fault. Raises nothing.
        """
        deadline = time.monotonic() + budget
        known = self.describe(dict.fromkeys([*pairs.values(), *pairs]), budget)
        faults: list[TopicFault] = []
        wanted: dict[str, list[str]] = {}
        for source, target in pairs.items():
            if error := known[target].error:
                faults.append(TopicFault(target, f"dead-letter topic {target!r}: {error}"))
            elif not known[target].partitions:
                wanted.setdefault(target, []).append(source)
        sizes = self._sizes([source for sources in wanted.values() for source in sources], deadline)
        plans: list[NewTopic] = []
        for target, sources in wanted.items():
            missing = absent if not any(known[source].error for source in sources) else 0
            partitions = max(known[source].partitions for source in sources) or missing
            if partitions:
                room = [sizes.get(source, 0 if known[source].partitions else _LARGEST) for source in sources]
                plans.append(self._plan(target, partitions, _of_dead_letters(max(room))))
            else:
                why = known[sources[0]].error or "it does not exist"
                what = f"dead-letter topic {target!r} is missing, and its source {sources[0]!r} cannot be read: {why}"
                faults.append(TopicFault(target, what))
        return faults + self._carry_out(plans, deadline, create=create, kind="dead-letter topic")

    def _plan(self, name: str, partitions: int, config: dict[str, str]) -> NewTopic:
        return NewTopic(name, num_partitions=partitions, replication_factor=self._replication, config=config)

    def _carry_out(self, plans: list[NewTopic], deadline: float, *, create: bool, kind: str) -> list[TopicFault]:
        """Make what is planned, or only say that it is missing."""
        if not create:
            failed = dict.fromkeys((plan.topic for plan in plans), "is missing")
        else:
            failed = self._touch(plans, deadline) if self._mock else self._create(plans, deadline)
        return [
            self._fault(plan, f"{kind} {plan.topic!r} {failed[plan.topic]}") for plan in plans if plan.topic in failed
        ]

    def _sizes(self, sources: list[str], deadline: float) -> dict[str, int]:
        """max.message.bytes of each source; those that may not be asked are left to the broker's default."""
        if self._mock or not sources:
            return {}
        resources = [ConfigResource(ConfigResource.Type.TOPIC, source) for source in sources]
        sizes: dict[str, int] = {}
        for resource, answer in self._client.describe_configs(resources, request_timeout=_left(deadline)).items():
            with suppress(KafkaException, TimeoutError, KeyError):
                sizes[resource.name] = int(answer.result(_left(deadline))["max.message.bytes"].value)
        return sizes

    def _create(self, plans: list[NewTopic], deadline: float) -> dict[str, str]:
        """What could not be made, and why."""
        if not plans:
            return {}
        failed: dict[str, str] = {}
        left = _left(deadline)
        answers = self._client.create_topics(plans, request_timeout=left, operation_timeout=left)
        for name, answer in answers.items():
            try:
                answer.result(_left(deadline))
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker was faster
                    failed[name] = f"could not be created: {error.args[0].str()}"
            except TimeoutError:
                failed[name] = "could not be created: no answer in time"
        return failed

    def _touch(self, plans: list[NewTopic], deadline: float) -> dict[str, str]:
        """On the mock cluster a metadata request is what creates a topic."""
        client = AdminClient(self._settings | {"allow.auto.create.topics": True})
        failed = {}
        for plan in plans:
            try:
                error = client.list_topics(plan.topic, timeout=_left(deadline)).topics[plan.topic].error
            except KafkaException as failure:
                error = failure.args[0]
            if error is not None:
                failed[plan.topic] = f"could not be created: {error.str()}"
        return failed

    def _fault(self, plan: NewTopic, what: str) -> TopicFault:
        bootstrap = str(self._settings.get("bootstrap.servers", ""))
        return TopicFault(plan.topic, what, create_command(bootstrap, self._settings, plan))


def _of_dead_letters(room: int) -> dict[str, str]:
    """The settings of a dead-letter topic. room: bytes that its sources take; 0: nothing is known of that."""
    config = {"cleanup.policy": "delete", "retention.ms": str(RETENTION_MS)}
    if room:
        config["max.message.bytes"] = str(min(room + HEADER_ROOM, 2**31 - 1))
    return config


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())
