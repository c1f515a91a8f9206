"""Dead-letter topics: made as their source needs them, or reported with the command that makes them; never raised."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export it
    AdminClient,
    ConfigResource,
)

from kit import Kafka, MakeTopic, NewRecord, produce, read_all, wait_for
from kworker.kafka.embedded import PARTITIONS, EmbeddedBroker
from kworker.kafka.topics import HEADER_ROOM, RETENTION_MS, TopicInfo, Topics


def config_of(bootstrap: str, topic: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    client = AdminClient({"bootstrap.servers": bootstrap})  # its answers end with it
    found = client.describe_configs([resource])[resource].result(30)
    return {name: entry.value for name, entry in found.items()}


@pytest.fixture
def topics(kafka: Kafka) -> Topics:
    return Topics({"bootstrap.servers": kafka.bootstrap})


def made(topics: Topics, name: str) -> TopicInfo:
    """A topic that was created: the broker tells of it a moment after it answered."""
    wait_for(lambda: topics.describe([name])[name] != TopicInfo(), 30, f"the broker to know {name}")
    return topics.describe([name])[name]


def test_describe_tells_partitions_and_what_is_missing_and_creates_nothing(topics: Topics, topic: MakeTopic) -> None:
    name = topic(3)
    for _ in range(2):
        found = topics.describe([name, name + ".missing", "not a topic!"])
        assert found[name] == TopicInfo(3)
        assert found[name + ".missing"] == TopicInfo(0)
        assert "nvalid topic" in found["not a topic!"].error


def test_a_missing_dead_letter_topic_is_made_like_its_source(kafka: Kafka, topics: Topics, topic: MakeTopic) -> None:
    name = topic(3, {"max.message.bytes": "300000", "cleanup.policy": "compact"})
    assert topics.ensure_dead_letters({name: name + ".dlq"}, create=True) == []
    assert made(topics, name + ".dlq") == TopicInfo(3)
    config = config_of(kafka.bootstrap, name + ".dlq")
    assert config["max.message.bytes"] == str(300_000 + HEADER_ROOM)
    assert (config["cleanup.policy"], config["retention.ms"]) == ("delete", str(RETENTION_MS))
    assert topics.ensure_dead_letters({name: name + ".dlq"}, create=True) == []


def test_the_largest_record_fits_with_its_error_headers(kafka: Kafka, topics: Topics, topic: MakeTopic) -> None:
    name = topic(1, {"max.message.bytes": "20000"})
    value = b"x" * 19_800
    produce(kafka.bootstrap, name, [value])
    assert topics.ensure_dead_letters({name: name + ".dlq"}, create=True) == []
    produce(kafka.bootstrap, name + ".dlq", [NewRecord(value, headers=(("kworker-error-stack", b"s" * 60_000),))])
    assert read_all(kafka.bootstrap, name + ".dlq")[0].value() == value


def test_sources_that_share_a_dead_letter_topic_get_one_that_fits_all(
    kafka: Kafka, topics: Topics, topic: MakeTopic
) -> None:
    small, large = topic(2, {"max.message.bytes": "10000"}), topic(5, {"max.message.bytes": "20000"})
    shared = small + ".shared"
    assert topics.ensure_dead_letters({small: shared, large: shared}, create=True) == []
    assert made(topics, shared).partitions == 5
    assert config_of(kafka.bootstrap, shared)["max.message.bytes"] == str(20_000 + HEADER_ROOM)


def test_one_that_exists_is_left_as_it_is(kafka: Kafka, topics: Topics, topic: MakeTopic) -> None:
    source, target = topic(4), topic(1, {"max.message.bytes": "1234", "retention.ms": "99000"})
    assert topics.ensure_dead_letters({source: target}, create=True) == []
    config = config_of(kafka.bootstrap, target)
    assert (config["max.message.bytes"], config["retention.ms"]) == ("1234", "99000")
    assert made(topics, target).partitions == 1


def test_without_leave_to_create_the_exact_command_is_given(kafka: Kafka, topics: Topics, topic: MakeTopic) -> None:
    name = topic(3, {"max.message.bytes": "300000"})
    (fault,) = topics.ensure_dead_letters({name: name + ".dlq"}, create=False)
    assert fault.topic == name + ".dlq"
    assert str(fault).startswith(f"dead-letter topic '{name}.dlq' is missing; create it with: kafka-topics.sh ")
    words = shlex.split(fault.command)
    assert words[:3] == ["kafka-topics.sh", "--bootstrap-server", kafka.bootstrap]
    options = list(zip(words[4::2], words[5::2], strict=True))
    assert words[3] == "--create"
    assert options == [
        ("--topic", name + ".dlq"),
        ("--partitions", "3"),
        ("--config", "cleanup.policy=delete"),
        ("--config", f"retention.ms={RETENTION_MS}"),
        ("--config", f"max.message.bytes={300_000 + HEADER_ROOM}"),
    ]
    assert topics.describe([name + ".dlq"])[name + ".dlq"].partitions == 0


def test_a_missing_source_is_said(topics: Topics) -> None:
    (fault,) = topics.ensure_dead_letters({"no-such-source-here": "no-such-source-here.dlq"}, create=True)
    assert "'no-such-source-here' cannot be read: it does not exist" in str(fault)


def test_what_the_broker_refuses_is_a_fault_and_the_others_are_made(topics: Topics, topic: MakeTopic) -> None:
    name = topic(2)
    pairs = {name: "not a topic!", "no-such-source-here": "no-such-source-here.dlq"} | {topic(1): name + ".dlq"}
    faults = topics.ensure_dead_letters(pairs, create=True)
    assert sorted(fault.topic for fault in faults) == ["no-such-source-here.dlq", "not a topic!"]
    assert made(topics, name + ".dlq").partitions == 1


def test_two_workers_that_create_at_once_both_succeed(kafka: Kafka, topic: MakeTopic, monkeypatch: Any) -> None:
    name = topic(2)
    late = Topics({"bootstrap.servers": kafka.bootstrap})
    asked = late.describe([name, name + ".dlq"])
    assert Topics({"bootstrap.servers": kafka.bootstrap}).ensure_dead_letters({name: name + ".dlq"}, create=True) == []
    monkeypatch.setattr(late, "describe", lambda names, budget: asked)
    assert late.ensure_dead_letters({name: name + ".dlq"}, create=True) == []


def test_a_broker_that_is_away_is_a_fault_within_the_budget() -> None:
    away = Topics({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
    assert all(info.error for info in away.describe(["a", "b"], 0.5).values())
    faults = away.ensure_dead_letters({"a": "a.dlq", "b": "b.dlq"}, create=True, budget=0.5)
    assert [fault.topic for fault in faults] == ["a.dlq", "b.dlq"]
    assert all("ransport" in fault.what or "imed out" in fault.what for fault in faults)


def test_on_the_embedded_broker_a_metadata_request_makes_it() -> None:
    with EmbeddedBroker() as broker:
        produce(broker.bootstrap, "tasks", [b"1"])
        topics = Topics({"bootstrap.servers": broker.bootstrap})
        assert topics.describe(["tasks.dlq"])["tasks.dlq"].partitions == 0
        (fault,) = topics.ensure_dead_letters({"tasks": "tasks.dlq"}, create=False)
        assert f"--partitions {PARTITIONS}" in fault.command
        assert topics.ensure_dead_letters({"tasks": "tasks.dlq"}, create=True) == []
        assert topics.describe(["tasks.dlq"])["tasks.dlq"].partitions == PARTITIONS


def test_a_broker_with_authentication_needs_its_client_properties_in_the_command(
    kafka: Kafka, topic: MakeTopic
) -> None:
    name = topic()
    topics = Topics({"bootstrap.servers": kafka.bootstrap})
    topics._settings["security.protocol"] = "SASL_SSL"
    (fault,) = topics.ensure_dead_letters({name: name + ".dlq"}, create=False)
    assert "--command-config client.properties" in fault.command
