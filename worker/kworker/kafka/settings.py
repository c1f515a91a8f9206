"""What each Kafka client is configured with: our defaults, the user's properties over them, and what is refused.

Refused is what would break a promise (commits that are not ours, writes that can be lost), with the reason. The
numbers are measured or follow from a limit of the broker; each says from which.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from kworker.config import Config
from kworker.task import DEAD_LETTER_SUFFIX

CONSUMER: Mapping[str, str] = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "enable.partition.eof": "true",  # the end behind a trailing transaction marker is committed: lag reaches 0
    "auto.offset.reset": "error",  # the worker decides where to start and counts what was lost
    "isolation.level": "read_committed",
    "allow.auto.create.topics": "false",
    "topic.metadata.refresh.interval.ms": "10000",  # new partitions and topics are seen within 10 s, not 5 minutes
    "reconnect.backoff.max.ms": "2000",  # work goes on within 10 s of the broker's return: the default waits up to 15
    "fetch.queue.backoff.ms": "10",  # the default of 1000 starves a fast consumer: 2.5 times the throughput
    "queued.min.messages": "20000",  # a partition; the default of 100000 costs 30 MB more and is not faster
    "queued.max.messages.kbytes": "32768",
}
"""Defaults of the consumer."""

CLASSIC: Mapping[str, str] = {
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": "6000",  # the broker's default minimum: a killed worker's partitions move within 8 s
    "heartbeat.interval.ms": "1000",  # a rebalance, in which no commit gets through, is noticed within it
}
"""Defaults of the consumer that exist in the classic group protocol only; KIP-848 has them at the broker."""

PRODUCER: Mapping[str, str] = {
    "enable.idempotence": "true",
    # Behind a first request that a broker refuses, because it does not know a new partition yet, it takes a second one
    # (KAFKA-15591); librdkafka concludes that the first was written as well, and reports it so. Those records are lost.
    "max.in.flight": "1",
    "acks": "all",
    "linger.ms": "5",
    # As in Java clients. A topic's max.message.bytes is a limit of batches: in larger ones records that fit would be
    # refused together as too large, and dead letters be cut that need not.
    "batch.size": "16384",
    "compression.type": "lz4",  # a dead letter of a record that was compressed below the broker's limit fits again
    "partitioner": "murmur2_random",  # a key has the partition that Java clients give it
    "message.max.bytes": "100000000",  # the topic's own limit counts, not the client's
    "message.timeout.ms": "30000",
    "topic.metadata.propagation.max.ms": "5000",  # a dead-letter topic that is missing is told then, not after 30 s
    "queue.buffering.max.kbytes": "131072",  # holds one message of the largest size, and bounds memory
    "reconnect.backoff.max.ms": "2000",
}
"""Defaults of the producer."""

_CONSUMER_ONLY = frozenset(
    """
    auto.commit.enable auto.commit.interval.ms auto.offset.reset check.crcs
    consume.callback.max.messages coordinator.query.interval.ms enable.auto.commit enable.auto.offset.store
    enable.partition.eof fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes fetch.min.bytes
    fetch.queue.backoff.ms fetch.wait.max.ms group.id group.instance.id group.protocol group.protocol.type
    group.remote.assignor heartbeat.interval.ms isolation.level max.partition.fetch.bytes max.poll.interval.ms
    max.poll.records offset.store.method offset.store.path offset.store.sync.interval.ms
    partition.assignment.strategy queued.max.messages.kbytes queued.min.messages session.timeout.ms
    share.acknowledgement.mode
    """.split()  # noqa: SIM905 - a list literal would take thirty lines to say the same
)
_PRODUCER_ONLY = frozenset(
    """
    acks batch.num.messages batch.size compression.codec compression.level compression.type
    delivery.report.only.error delivery.timeout.ms enable.gapless.guarantee enable.idempotence linger.ms
    message.send.max.retries message.timeout.ms partitioner produce.offset.report
    queue.buffering.backpressure.threshold queue.buffering.max.kbytes queue.buffering.max.messages
    queue.buffering.max.ms queuing.strategy request.required.acks request.timeout.ms retries
    sticky.partitioning.linger.ms transaction.timeout.ms transactional.id
    """.split()  # noqa: SIM905 - a list literal would take thirty lines to say the same
)

_OWN_COMMITS = "kworker commits an offset when its task is done: leave it out"
_OWN_START = "kworker decides where a partition starts: use --from earliest or --from latest"
_DURABLE = "a dead letter must be on every in-sync replica before its record is done: leave it out"
_ORDERED = "with it a write could be lost, doubled or out of order: leave it out"
_OWN_CALLBACKS = "it names code, not a value: leave it out"

_TRUE = ("true", "t", "1")
_FALSE = ("false", "f", "0")
_FIXED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "enable.auto.commit": (_FALSE, _OWN_COMMITS),
    "auto.commit.enable": (_FALSE, _OWN_COMMITS),
    "auto.commit.interval.ms": ((), "kworker commits by itself: use --commit-interval"),
    "enable.auto.offset.store": (_FALSE, _OWN_COMMITS),
    "offset.store.method": (("broker",), _OWN_COMMITS),
    "offset.store.path": ((), _OWN_COMMITS),
    "auto.offset.reset": ((), _OWN_START),
    "enable.partition.eof": (_TRUE, "without it a transaction marker at the end is lag for ever: leave it out"),
    "isolation.level": (("read_committed",), "tasks of aborted transactions would run: leave it out"),
    "partition.assignment.strategy": (
        ("cooperative-sticky",),
        "only cooperative-sticky hands partitions over while the others go on: leave it out",
    ),
    "group.id": ((), "use --group"),
    "bootstrap.servers": ((), "use --bootstrap"),
    "metadata.broker.list": ((), "use --bootstrap"),
    "transactional.id": ((), "kworker acknowledges write by write, not in transactions: leave it out"),
    "enable.idempotence": (_TRUE, _ORDERED),
    "enable.gapless.guarantee": (_FALSE, "one failed write would end the worker: leave it out"),
    "acks": (("all", "-1"), _DURABLE),
    "request.required.acks": (("all", "-1"), _DURABLE),
    "delivery.report.only.error": (_FALSE, "an offset is done when its write was reported: leave it out"),
    "plugin.library.paths": ((), "it loads code into the worker: leave it out"),
    "internal.termination.signal": ((), "it sends signals to the worker: leave it out"),
    "log.queue": ((), "logs go through kworker: use --log-level"),
    "enabled_events": ((), _OWN_CALLBACKS),
}
"""Property -> (the values that are all right, why others are not)."""

_CODE = re.compile(
    r"[a-z_.]+_cb|on_commit|on_delivery|logger|opaque|default[._]topic[._]conf(ig)?|ssl_(ca|certificate|key)"
    r"|ssl_engine_callback_data"
)
_MOCK = re.compile(r"test\.mock\..*")


def consumer_settings(config: Config) -> dict[str, Any]:
    """The settings of the worker's consumer."""
    classic = config.kafka.get("group.protocol", "classic").lower() == "classic"
    return {
        **_common(config),
        **CONSUMER,
        **(CLASSIC if classic else {}),
        **_without(config.kafka, _PRODUCER_ONLY),
        **_not_matched(config),
        "group.id": config.group,
    }


def producer_settings(config: Config) -> dict[str, Any]:
    """The settings of the worker's producer: idempotent, every write acknowledged by all in-sync replicas."""
    return {**_common(config), **PRODUCER, **_without(config.kafka, _CONSUMER_ONLY)}


def admin_settings(config: Config) -> dict[str, Any]:
    """The settings of an admin client: only what all clients share."""
    return {**_common(config), **_without(config.kafka, _CONSUMER_ONLY | _PRODUCER_ONLY)}


def unsafe(kafka: Mapping[str, str]) -> dict[str, str]:
    """Properties that would break a promise: property -> why, and what to do instead."""
    found = {}
    for name, value in kafka.items():
        allowed, why = _FIXED.get(name, (None, ""))
        if allowed is not None and value.strip().lower() not in allowed:
            found[name] = f"{value} is refused: {why}" if allowed else f"it is refused: {why}"
        elif _MOCK.fullmatch(name):
            found[name] = "it is refused: it replaces the broker with an imitation; use kworker dev"
        elif _CODE.fullmatch(name):
            found[name] = f"it is refused: {_OWN_CALLBACKS}"
        elif name in ("max.in.flight", "max.in.flight.requests.per.connection") and _number(value, 1) > 1:
            found[name] = f"{value} is refused: the first records of a new partition could be lost: leave it out"
        elif name in ("retries", "message.send.max.retries") and _number(value, 1) < 1:
            found[name] = f"{value} is refused: {_ORDERED}"
    return found


def faults(kafka: Mapping[str, str]) -> dict[str, str]:
    """Everything wrong with these properties: what is unsafe, and what librdkafka does not take.

    Clients are made and closed for it, in about 10 ms; without an address they connect to nothing. Property -> why;
    the key '' holds what is wrong with several together.
    """
    found = unsafe(kafka)
    for name, value in kafka.items():
        if name not in found and (why := _refusal({name: value}, single=True)):
            found[name] = why
    rest = {name: value for name, value in kafka.items() if name not in found}
    if why := _refusal(rest, single=False):
        found[""] = why
    return found


def _refusal(kafka: Mapping[str, str], *, single: bool) -> str | None:
    """Why librdkafka does not take them; for a single one only what is wrong by itself, without the others."""
    from confluent_kafka import Consumer, KafkaException, Producer

    config = Config(group="check", kafka=kafka)
    silent = logging.getLogger("kworker.silent")  # librdkafka would write to stderr what is reported here
    silent.disabled = True
    try:
        for make, settings in ((Producer, producer_settings(config)), (Consumer, consumer_settings(config))):
            del settings["bootstrap.servers"]
            client = make({**settings, "logger": silent})
            if isinstance(client, Consumer):
                client.close()
    except (KafkaException, TypeError, ValueError) as error:
        why = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        if why.startswith("Failed to create"):
            return None if single else why.partition(": ")[2]
        if why.startswith("No such configuration property"):
            return "librdkafka has no such property: look it up in librdkafka's CONFIGURATION.md"
        return "librdkafka does not take this value: look the property up in librdkafka's CONFIGURATION.md"
    return None


def _common(config: Config) -> dict[str, str]:
    return {"bootstrap.servers": config.bootstrap, "client.id": "-".join(filter(None, ["kworker", config.group]))}


def _without(kafka: Mapping[str, str], others: frozenset[str]) -> dict[str, str]:
    return {name: value for name, value in kafka.items() if name not in others}


def _not_matched(config: Config) -> dict[str, str]:
    """What a regular expression never means; librdkafka takes these topics for not existing."""
    if not any(topic.startswith("^") for topic in config.topics):
        return {}
    names = [*_own_topics(config), *(t.dead_letter + "$" for t in config.topic_settings.values() if t.dead_letter)]
    patterns = [
        "^__",
        DEAD_LETTER_SUFFIX.replace(".", r"\.") + "$",
        *("^" + name.replace(".", r"\.") for name in names),
    ]
    return {"topic.blacklist": ",".join(filter(None, [*patterns, config.kafka.get("topic.blacklist")]))}


def _own_topics(config: Config) -> list[str]:
    """What names of kworker's topics begin with, but for the group's retry topic: POSIX expressions have no `not`."""
    prefix, rest = config.namespace + ".", f"retry.{config.group}"
    others = [f"{prefix}{rest[:length]}([^{rest[length]}]|$)" for length in range(len(rest))]
    return [*others, f"{prefix}{rest}[^/]"]


def _number(value: str, default: int) -> int:
    return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value.strip()) else default
