"""What the Kafka clients are configured with, checked with librdkafka itself; no broker is needed."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from kworker.config import Config, TopicSettings
from kworker.kafka import settings
from kworker.kafka.settings import admin_settings, consumer_settings, faults, producer_settings, unsafe


def make(client: Callable[..., Any], conf: dict[str, Any]) -> str:
    """What librdkafka says when it makes a client of these settings; it connects to nothing."""
    stream = io.StringIO()
    log = logging.Logger("kafka", logging.DEBUG)
    log.addHandler(logging.StreamHandler(stream))
    made = client({**{n: v for n, v in conf.items() if n != "bootstrap.servers"}, "logger": log})
    made.poll(0)
    if isinstance(made, Consumer):
        made.close()
    return "\n".join(line for line in stream.getvalue().splitlines() if "No `bootstrap.servers`" not in line)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_the_defaults_are_taken_without_a_warning(protocol: str) -> None:
    config = Config(group="g", kafka={"group.protocol": protocol} if protocol == "consumer" else {})
    assert make(Consumer, consumer_settings(config)) == ""
    assert make(Producer, producer_settings(config)) == ""
    assert make(AdminClient, admin_settings(config)) == ""
    assert ("session.timeout.ms" in consumer_settings(config)) == (protocol == "classic")
    assert faults(config.kafka) == {}


def test_each_client_gets_only_its_own_properties() -> None:
    kafka = {"linger.ms": "1", "fetch.min.bytes": "2", "client.rack": "r", "compression.codec": "zstd", "retries": "9"}
    config = Config(group="g", kafka=kafka)
    assert make(Consumer, consumer_settings(config)) == ""
    assert make(Producer, producer_settings(config)) == ""
    assert make(AdminClient, admin_settings(config)) == ""
    assert "linger.ms" not in consumer_settings(config)
    assert "fetch.min.bytes" not in producer_settings(config)
    assert admin_settings(config) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "client.id": "kworker-g",
        "client.rack": "r",
    }


VALUES = (
    "10000", "10", "1", "true", "all", "range", "classic", "consumer", "random", "fifo", "lz4", "none", "earliest",
    "file", "read_committed",
)  # fmt: skip
NEWER = {"share.acknowledgement.mode", "max.poll.records"}  # than some versions of librdkafka that kworker takes


@pytest.mark.parametrize(
    ("names", "other", "word"),
    [
        (settings._CONSUMER_ONLY, Producer, "is a consumer property"),
        (settings._PRODUCER_ONLY, Consumer, "is a producer property"),
    ],
)
def test_the_properties_of_one_client_are_those_that_the_other_warns_of(
    names: frozenset[str], other: Callable[..., Any], word: str
) -> None:
    group = {"group.id": "g"} if other is Consumer else {}
    unconfirmed = set()
    for name in names:
        for value in VALUES:
            with suppress(KafkaException):  # no value of this property
                if word in make(other, {**group, name: value}):
                    break
        else:
            unconfirmed.add(name)
    assert unconfirmed <= {"group.id", *NEWER}


def test_what_the_user_sets_counts_over_our_defaults() -> None:
    config = Config(group="g", bootstrap="h:1", kafka={"session.timeout.ms": "45000", "compression.type": "none"})
    assert consumer_settings(config)["session.timeout.ms"] == "45000"
    assert producer_settings(config)["compression.type"] == "none"
    assert (consumer_settings(config)["group.id"], consumer_settings(config)["bootstrap.servers"]) == ("g", "h:1")


def test_the_promises_stand_on_these() -> None:
    consumer, producer = consumer_settings(Config(group="g")), producer_settings(Config(group="g"))
    assert consumer["enable.auto.commit"] == consumer["enable.auto.offset.store"] == "false"
    assert consumer["auto.offset.reset"] == "error"
    assert consumer["partition.assignment.strategy"] == "cooperative-sticky"
    assert (producer["enable.idempotence"], producer["acks"]) == ("true", "all")
    assert int(producer["message.max.bytes"]) <= int(producer["queue.buffering.max.kbytes"]) * 1024


UNSAFE = {
    "enable.auto.commit": "true",
    "auto.commit.enable": "1",
    "auto.commit.interval.ms": "1000",
    "enable.auto.offset.store": "TRUE",
    "auto.offset.reset": "latest",
    "enable.partition.eof": "false",
    "isolation.level": "read_uncommitted",
    "partition.assignment.strategy": "range",
    "group.id": "other",
    "bootstrap.servers": "h:1",
    "metadata.broker.list": "h:1",
    "transactional.id": "x",
    "enable.idempotence": "false",
    "enable.gapless.guarantee": "true",
    "acks": "1",
    "request.required.acks": "0",
    "max.in.flight": "2",
    "max.in.flight.requests.per.connection": "1000000",
    "retries": "0",
    "message.send.max.retries": "0",
    "delivery.report.only.error": "true",
    "test.mock.num.brokers": "3",
    "plugin.library.paths": "evil.so",
    "error_cb": "x",
    "rebalance_cb": "x",
    "on_commit": "x",
    "on_delivery": "x",
    "logger": "x",
    "default.topic.config": "x",
    "offset.store.method": "file",
    "internal.termination.signal": "9",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_would_break_a_promise_is_refused_with_a_reason(name: str) -> None:
    why = unsafe({name: UNSAFE[name]})[name]
    assert "is refused: " in why
    assert "\n" not in why
    assert list(faults({name: UNSAFE[name]})) == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.auto.commit", "false"),
        ("acks", "all"),
        ("acks", "-1"),
        ("enable.idempotence", "true"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("isolation.level", "read_committed"),
        ("max.in.flight", "1"),
        ("retries", "10"),
        ("group.instance.id", "worker-1"),
        ("group.protocol", "consumer"),
        ("security.protocol", "sasl_ssl"),
        ("statistics.interval.ms", "1000"),
        ("debug", "cgrp"),
    ],
)
def test_what_breaks_no_promise_is_taken(name: str, value: str) -> None:
    assert unsafe({name: value}) == {}


def test_every_fault_of_the_properties_is_found_before_anything_connects() -> None:
    kafka = {
        "nope": "1",
        "linger.ms": "abc",
        "compression.type": "zip",
        "acks": "1",
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "u",
    }
    found = faults(kafka)
    assert list(found) == ["acks", "nope", "linger.ms", "compression.type", ""]
    assert "no such property" in found["nope"]
    assert "does not take this value" in found["linger.ms"]
    assert "sasl.password must be set" in found[""]
    assert faults({**dict(list(kafka.items())[4:]), "sasl.password": "hunter2"}) == {}


def test_properties_of_the_classic_protocol_do_not_go_with_the_other() -> None:
    found = faults({"group.protocol": "consumer", "session.timeout.ms": "7000"})
    assert list(found) == [""]
    assert "session.timeout.ms" in found[""]


def test_a_fault_never_shows_the_value_of_a_property_that_may_be_secret() -> None:
    found = faults({"sasl.pasword": "hunter2", "ssl.key.pem": "hunter2", "security.protocol": "ssl"})
    assert "sasl.pasword" in found
    assert "hunter2" not in "".join(found.values())


def test_a_regular_expression_leaves_out_what_is_not_for_it() -> None:
    config = Config(
        group="g",
        topics=("^.*",),
        topic_settings={"a": TopicSettings(dead_letter="a.dead")},
        kafka={"topic.blacklist": "^x"},
    )
    left_out = consumer_settings(config)["topic.blacklist"].split(",")
    assert left_out[:2] + left_out[-2:] == ["^__", r"\.dlq$", r"^a\.dead$", "^x"]
    for topic in ("kworker.delayed", "kworker.", "kworker.retry.", "kworker.retry.g2", "kworker.retry.f", "a.dead"):
        assert any(re.search(pattern, topic) for pattern in left_out), topic
    for topic in ("kworker.retry.g", "kworkers", "kworker", "a"):
        assert not any(re.search(pattern, topic) for pattern in left_out), topic
    assert make(Consumer, consumer_settings(config)) == ""
    assert "topic.blacklist" not in consumer_settings(Config(group="g"))
